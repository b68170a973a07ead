//! The reader's lock of a writable mount, which becomes gc's while space is freed, and a reader's again. Called by `serve`.

use crate::fs::KeepOut;
use crate::fs::gc::NoReaders;
use crate::storage::{GcLock, LockError, ReaderLock};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// The reader's lock of a mount that reads what it writes; `None` while gc has it, or if it was lost.
pub type Shared = Arc<Mutex<Option<ReaderLock>>>;

/// Returns the function with which gc of the mount keeps other readers out.
pub fn keep_out(reader: &Shared) -> KeepOut {
    let reader = Arc::clone(reader);
    Arc::new(move || only_reader(&reader))
}

/// The lock of gc, which becomes the reader's lock when it is dropped.
struct OnlyReader {
    lock: Option<GcLock>,
    reader: Shared,
}

fn only_reader(reader: &Shared) -> Result<NoReaders, LockError> {
    let mut own = reader.lock();
    let Some(lock) = own.take() else {
        return Err(LockError::Io(io::Error::other("the mount has no lock of a reader")));
    };
    match lock.into_gc() {
        Ok(lock) => Ok(Box::new(OnlyReader { lock: Some(lock), reader: Arc::clone(reader) })),
        Err((lock, error)) => {
            *own = Some(lock);
            Err(error)
        }
    }
}

impl Drop for OnlyReader {
    fn drop(&mut self) {
        let reader = self.lock.take().map(GcLock::into_reader).transpose();
        // Who frees has the writer's lock, too, which the mount has. So nothing is freed that it reads, whatever happens here.
        *self.reader.lock() = reader.unwrap_or_else(|error| {
            tracing::error!(%error, "the mount has lost its lock of a reader");
            None
        });
    }
}
