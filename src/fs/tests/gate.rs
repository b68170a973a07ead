//! A thaw log whose syncs wait until they are let through.

use crate::storage::{Folder, HeadBytes, HeadIndex, Space, Storage, StorageError};
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

    /// Returns when a sync waits at the gate.
    pub fn wait_for_sync(&self) {
        let mut state = self.0.0.lock();
        while state.waiting == 0 {
            self.0.1.wait(&mut state);
        }
    }

    fn pass(&self) {
        let mut state = self.0.0.lock();
        state.waiting += 1;
        self.0.1.notify_all();
        while state.closed {
            self.0.1.wait(&mut state);
        }
        state.waiting -= 1;
    }
}

/// A folder whose segments' syncs pass a gate.
pub struct GatedFolder {
    pub inner: Arc<dyn Folder>,
    pub gate: Gate,
}

impl GatedFolder {
    fn gated(&self, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(Gated { inner, gate: self.gate.clone() })
    }
}

impl Folder for GatedFolder {
    fn list(&self) -> Result<Vec<u64>, StorageError> {
        self.inner.list()
    }

    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(self.gated(self.inner.open(number)?))
    }

    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(self.gated(self.inner.create(number)?))
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        self.inner.remove(number)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }
}

struct Gated {
    inner: Arc<dyn Storage>,
    gate: Gate,
}

impl Storage for Gated {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.inner.read_at(offset, buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.inner.len()
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        self.inner.append(parts)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.gate.pass();
        self.inner.sync()
    }

    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        self.inner.truncate(len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.allocate(offset, len)
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.start_writeback(offset, len)
    }

    fn space(&self) -> Result<Space, StorageError> {
        self.inner.space()
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        self.inner.read_head(slot)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        self.inner.replace_head(slot, expected, new)
    }
}
