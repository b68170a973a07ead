//! What a writable filesystem says of itself.

use super::live::Live;
use crate::thaw::ThawError;
use std::time::Duration;

/// How a writable filesystem is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LiveStatus {
    /// Bytes that changed rows take in memory.
    pub overlay_bytes: u64,
    /// About how many bytes the next commit makes durable.
    pub pending_bytes: u64,
    /// Bytes of files that are in the thaw log.
    pub thawed_bytes: u64,
    /// Bytes of the thaw log's segments.
    pub log_bytes: u64,
    /// Bytes that they may have.
    pub budget: u64,
    /// The level of zstd of the last batch that was frozen; `None` before the first.
    pub level: Option<i32>,
    /// Bytes a second that the freezer takes in; 0 if it is not known.
    pub freeze_rate: u64,
    /// How many they are.
    pub segments: u64,
    /// Inodes that are open.
    pub open_inodes: u64,
    /// Since when something is not durable; `None` if everything is.
    pub oldest_change: Option<Duration>,
    /// Since when the head has what it has; `None` if this mount has made no checkpoint.
    pub since_checkpoint: Option<Duration>,
    /// Why changes are refused, if they are.
    pub latch: Option<String>,
}

impl Live {
    /// How it is now.
    ///
    /// # Errors
    /// If the thaw log cannot tell its length.
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
