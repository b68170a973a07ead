//! Whether a snapshot is being made: only one at a time, and not while gc runs. Called by `live`, which owns it,
//! `snapshots` and `reclaim`.

use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};

/// State of the making of snapshots.
#[derive(Default)]
pub(super) struct Making {
    one: Mutex<()>,
    /// Set under the lock of freezes, which gc holds from its first look-up to its last.
    is_making: AtomicBool,
}

impl Making {
    /// Waits until no other snapshot is being made.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.one.lock()
    }

    /// A snapshot is being made until the returned value is dropped. The caller holds the lock of freezes.
    pub(super) fn begin(&self) -> Begun<'_> {
        self.is_making.store(true, Ordering::SeqCst);
        Begun(self)
    }

    /// Ask this under the lock of freezes.
    pub(super) fn is_making(&self) -> bool {
        self.is_making.load(Ordering::SeqCst)
    }
}

/// A snapshot is being made as long as this exists.
pub(super) struct Begun<'a>(&'a Making);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.is_making.store(false, Ordering::SeqCst);
    }
}
