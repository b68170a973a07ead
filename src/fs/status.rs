//! What a writable filesystem reports about itself.

use super::live::Live;
use crate::thaw::ThawError;
use std::time::Duration;

/// The state of a writable filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LiveStatus {
    /// Bytes that changed rows take in memory.
    pub overlay_bytes: u64,
    /// Approximate bytes that the next commit will make durable.
    pub pending_bytes: u64,
    /// Bytes of files that are in the thaw log.
    pub thawed_bytes: u64,
    /// Bytes of the thaw log's segments.
    pub log_bytes: u64,
    /// Budget: bytes that the segments may take.
    pub budget: u64,
    /// Level of zstd of the last batch that was frozen; 19 for one in xz; `None` before the first.
    pub level: Option<i32>,
    /// Raw bytes a second that the freezer compresses; 0 if unknown.
    pub freeze_rate: u64,
    /// Number of the thaw log's segments.
    pub segments: u64,
    /// Number of inodes that are open.
    pub open_inodes: u64,
    /// Age of the oldest change that is not durable; `None` if all are.
    pub oldest_change: Option<Duration>,
    /// Time since the last checkpoint; `None` if this mount has made none.
    pub since_checkpoint: Option<Duration>,
    /// Why changes are refused, if they are.
    pub latch: Option<String>,
}

impl Live {
    /// Returns the present state.
    ///
    /// # Errors
    /// Fails if the length of the thaw log cannot be read.
    pub fn status(&self) -> Result<LiveStatus, ThawError> {
        let log = self.log.lock();
        let (log_bytes, segments) = match &log.log {
            Some(log) => (log.bytes()?, log.segment_count()),
            None => (0, 0),
        };
        drop(log);
        let speed = self.pressure.shown();
        let state = self.lock_state();
        Ok(LiveStatus {
            overlay_bytes: state.overlay_bytes() as u64,
            pending_bytes: state.pending_bytes(),
            thawed_bytes: state.frames.bytes(),
            log_bytes,
            budget: self.pressure.budget(),
            level: speed.level,
            freeze_rate: speed.rate,
            segments,
            open_inodes: state.open_inodes() as u64,
            oldest_change: state.oldest.map(|since| since.elapsed()),
            since_checkpoint: state.checkpointed.map(|since| since.elapsed()),
            latch: state.latch.as_ref().map(|latch| latch.0.to_string()),
        })
    }
}
