//! Open directories: where each reader is in its listing.
//!
//! A handle pins nothing of the directory; it remembers names [17]. If two readers use one handle, one waits for the
//! other. Called by `writing`.

use crate::fs::DirHandle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// The open directories of a mount, by the number that the kernel gets as handle.
#[derive(Default)]
pub(super) struct DirHandles {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    handles: HashMap<u64, Arc<Mutex<DirHandle>>>,
    last: u64,
}

impl DirHandles {
    /// Adds a handle. Returns its number.
    pub(super) fn open(&self, handle: DirHandle) -> u64 {
        let mut open = self.open.lock();
        // A number is never reused: 2^64 of them last longer than any mount.
        open.last += 1;
        let number = open.last;
        open.handles.insert(number, Arc::new(Mutex::new(handle)));
        number
    }

    /// Returns the handle with this number, if there is one.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Mutex<DirHandle>>> {
        self.open.lock().handles.get(&number).cloned()
    }

    /// Closes a handle.
    pub(super) fn close(&self, number: u64) {
        self.open.lock().handles.remove(&number);
    }
}
