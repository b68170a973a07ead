//! The end of writing. Either the image alone is complete, and the thaw log is removed; or something is only in the
//! log, and it stays.
//!
//! The image itself says whether the log may be removed: the roots of both slots must contain everything that was
//! committed, and have no range in the log. Then both slots are made clean, durably, before the first segment is
//! removed. Called by `live`, after the last commit and checkpoint.

use super::start::StartError;
use crate::meta::{Heads, Image, ImageOptions};
use crate::storage::{LogHome, Storage};
use crate::thaw::ThawLog;
use std::sync::Arc;

/// The state in which the end of writing left the image and its thaw log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// Nothing was ever written to the image.
    Untouched,
    /// The image is complete, and the thaw log is gone.
    Removed,
    /// The image is complete and its head slots are clean, but the thaw log could not be removed. The next writer
    /// removes it.
    Left {
        /// Path of the thaw log.
        place: String,
        /// Why the log could not be removed.
        why: String,
    },
    /// Some bytes or changes are only in the thaw log.
    Kept {
        /// Bytes of the thaw log.
        bytes: u64,
        /// Path of the thaw log.
        place: String,
    },
}

/// Ends the writing of the image in `storage`, which is synced up to the offset `image_end`. `time` is for a last
/// commit.
///
/// # Errors
/// Fails if the image cannot be read, or a slot or the log could not be written. Nothing that was committed is lost.
pub fn finish(
    mut log: ThawLog,
    mut heads: Heads,
    home: &dyn LogHome,
    storage: &Arc<dyn Storage>,
    image_end: u64,
    time: (i64, u32),
) -> Result<Finished, StartError> {
    if !log.is_stopped() && !heads.is_stopped() && is_complete(&log, &heads, storage)? {
        heads.publish(|head| {
            head.clean = true;
            head.thaw_log_id = 0;
        })?;
        let removed = log.remove().map_err(StartError::of_log).and_then(|()| Ok(home.remove()?));
        return Ok(match removed {
            Ok(()) => Finished::Removed,
            Err(error) => Finished::Left { place: home.describe(), why: error.to_string() },
        });
    }
    if log.has_unrecorded_commit() || log.has_unsynced() && !log.is_stopped() {
        // With this record the next writer need not write the durable part again. Nothing is lost if the record is
        // missing.
        let _ = log
            .commit(Vec::new(), image_end, time)
            .inspect_err(|error| tracing::warn!(%error, "cannot record the last commit in the thaw log"));
    }
    Ok(Finished::Kept { bytes: log.bytes().map_err(StartError::of_log)?, place: home.describe() })
}

/// Returns whether the roots of both slots contain everything that was committed, and no ranges in a thaw log.
fn is_complete(log: &ThawLog, heads: &Heads, storage: &Arc<dyn Storage>) -> Result<bool, StartError> {
    let newest = heads.newest();
    if heads.slots().any(|head| (head.root, head.root_hash) != (newest.root, newest.root_hash)) {
        return Ok(false);
    }
    let image = Image::open(Arc::clone(storage), ImageOptions::default())?;
    if image.head() != newest {
        return Ok(false);
    }
    let root = image.root();
    // If no transaction came into a log, there is nothing that a root would have to contain.
    let contains = root.thaw_log_id == log.log_id() && root.thaw_transaction >= log.last_change();
    if log.last_change() > 0 && !contains {
        return Ok(false);
    }
    Ok(!image.has_thawed() || image.thawed_count()?.in_log.ranges == 0)
}
