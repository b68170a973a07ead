//! A gate at which syncs of a thaw log wait until they are let through.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

#[derive(Default)]
struct State {
    closed: bool,
    waiting: usize,
}

/// Lets syncs through, or not.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    pub fn close(&self) {
        self.0.0.lock().closed = true;
    }

    pub fn open(&self) {
        self.0.0.lock().closed = false;
        self.0.1.notify_all();
    }

    /// Waits until a sync is waiting at the gate.
    pub fn wait_for_sync(&self) {
        let mut state = self.0.0.lock();
        while state.waiting == 0 {
            self.0.1.wait(&mut state);
        }
    }

    /// Every sync calls this first.
    pub fn pass(&self) {
        let mut state = self.0.0.lock();
        state.waiting += 1;
        self.0.1.notify_all();
        while state.closed {
            self.0.1.wait(&mut state);
        }
        state.waiting -= 1;
    }
}
