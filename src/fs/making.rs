//! Whether a snapshot is being made: one at a time, and without gc. Called by `live`, which has it, `snapshots` and `reclaim`.

use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};

/// Snapshots in the making.
#[derive(Default)]
pub(super) struct Making {
    one: Mutex<()>,
    /// Set under the lock of freezes, which gc has from its first look to its last.
    is_making: AtomicBool,
}

impl Making {
    /// Waits until no other is being made.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.one.lock()
    }

    /// From now on, until what is given is dropped, one is being made. The caller has the lock of freezes.
    pub(super) fn begin(&self) -> Begun<'_> {
        self.is_making.store(true, Ordering::SeqCst);
        Begun(self)
    }

    /// To be asked under the lock of freezes.
    pub(super) fn is_making(&self) -> bool {
        self.is_making.load(Ordering::SeqCst)
    }
}

/// While it lives, a snapshot is being made.
pub(super) struct Begun<'a>(&'a Making);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.is_making.store(false, Ordering::SeqCst);
    }
}
