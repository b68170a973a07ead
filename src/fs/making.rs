//! Whether a snapshot is being made: only one at a time, and not while gc runs. Called by `live`, which owns it,
//! `snapshots` and `reclaim`.

use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};

/// Records whether a snapshot is being made.
#[derive(Default)]
pub(super) struct Making {
    one: Mutex<()>,
    /// Whether a snapshot is being made. It is set under the lock of freezes, which gc holds from its first look-up to
    /// its last.
    is_making: AtomicBool,
}

impl Making {
    /// Waits until no other snapshot is being made.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.one.lock()
    }

    /// Begins the making of a snapshot, which lasts until the returned value is dropped. The caller holds the lock of
    /// freezes.
    pub(super) fn begin(&self) -> Begun<'_> {
        self.is_making.store(true, Ordering::SeqCst);
        Begun(self)
    }

    /// Returns whether a snapshot is being made. The caller holds the lock of freezes.
    pub(super) fn is_making(&self) -> bool {
        self.is_making.load(Ordering::SeqCst)
    }
}

/// A guard: a snapshot is being made as long as it exists.
pub(super) struct Begun<'a>(&'a Making);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.is_making.store(false, Ordering::SeqCst);
    }
}
