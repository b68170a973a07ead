//! What others ask of gc in a filesystem that is being written, and what it reports. Called by `live`, which owns it,
//! and `reclaim`.

use super::gc::{GcReport, NoReaders};
use crate::storage::LockError;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};

/// Keeps readers of other processes out of the image, or fails if there are some. This process may read on.
pub type KeepOut = Arc<dyn Fn() -> Result<NoReaders, LockError> + Send + Sync>;

/// Percentage of the bytes of all superchunks and table groups. gc begins by itself when those without live subchunks
/// take at least this part, and at least [`LEAST`] bytes.
const PERCENT: u64 = 25;
/// Least number of dead bytes for which gc begins by itself.
const LEAST: u64 = 64 << 20;

/// Requests to gc's thread, and the state that it reports.
pub(super) struct GcControl {
    pub(super) asked: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) running: AtomicBool,
    pub(super) shown: Mutex<Shown>,
    pub(super) keep_out: Mutex<Option<KeepOut>>,
    pub(super) percent: AtomicU64,
    pub(super) least: AtomicU64,
    /// Whether rows were deleted, or superchunks were packed again, whose old frames are not punched yet.
    pub(super) is_behind: AtomicBool,
    /// Reference counts of snapshots from before the rows were deleted: these snapshots may still read what the rows
    /// named.
    pub(super) old: Mutex<Vec<Weak<()>>>,
}

impl Default for GcControl {
    fn default() -> Self {
        GcControl {
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            running: AtomicBool::new(false),
            shown: Mutex::default(),
            keep_out: Mutex::new(None),
            percent: AtomicU64::new(PERCENT),
            least: AtomicU64::new(LEAST),
            is_behind: AtomicBool::new(false),
            old: Mutex::default(),
        }
    }
}

/// What is reported of the last gc.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) last: Option<GcReport>,
    pub(super) error: Option<String>,
    pub(super) has_readers: bool,
}

/// The state of gc.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcStatus {
    /// Whether gc is running.
    pub running: bool,
    /// Ticket (number) of the last request.
    pub ticket: u64,
    /// Requests up to this ticket are done, or have failed.
    pub ticket_done: u64,
    /// Report of the last gc.
    pub last: Option<GcReport>,
    /// Whether the last gc could not free anything because others read the image.
    pub has_readers: bool,
    /// Why the last gc did not do everything, if it did not.
    pub error: Option<String>,
}
