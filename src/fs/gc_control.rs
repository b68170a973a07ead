//! What others ask of gc in a filesystem that is written, and are told of it. Called by `live`, which has it, and `reclaim`.

use super::gc::{GcReport, NoReaders};
use crate::storage::LockError;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};

/// Keeps readers out of the image, or says that there are some. This process may read on.
pub type KeepOut = Arc<dyn Fn() -> Result<NoReaders, LockError> + Send + Sync>;

/// By itself: so many percent of the image's superchunks and table groups have to be dead.
const PERCENT: u64 = 25;
/// And so many bytes at least.
const LEAST: u64 = 64 << 20;

/// What others ask of gc and are told of it.
pub(super) struct GcControl {
    pub(super) asked: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) running: AtomicBool,
    pub(super) shown: Mutex<Shown>,
    pub(super) keep_out: Mutex<Option<KeepOut>>,
    pub(super) percent: AtomicU64,
    pub(super) least: AtomicU64,
    /// Rows were deleted, and the frames not punched yet.
    pub(super) is_behind: AtomicBool,
    /// Snapshots from before rows were deleted.
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

/// What is told of the last one.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) last: Option<GcReport>,
    pub(super) error: Option<String>,
    pub(super) has_readers: bool,
}

/// How gc is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcStatus {
    /// It is at work.
    pub running: bool,
    /// The last ticket that was given.
    pub ticket: u64,
    /// All up to this one are done, well or not.
    pub ticket_done: u64,
    /// What the last one freed.
    pub last: Option<GcReport>,
    /// Others read the image, so the last one could not free.
    pub has_readers: bool,
    /// Why the last one did not do all, if so.
    pub error: Option<String>,
}
