//! A storage that fails on purpose.
//!
//! For the tests of every layer above. A test wraps a storage, chooses which operation fails and how, and checks that
//! the error is reported, that nothing durable is lost, and that nothing is written after it. Every operation is
//! recorded in order, so a test can also assert that a sync came before a head was written.
//!
//! The usual loop: run once to get [`FaultyStorage::count`], then once for each N with `fail_nth(N, …)`.

use crate::storage::{Folder, HeadBytes, HeadIndex, Operation, Space, Storage, StorageError};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::sync::Arc;

/// How a storage operation of a test fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Input/output error (EIO).
    Eio,
    /// No space left (ENOSPC).
    Enospc,
}

/// An operation that was requested, whether it failed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The operation that was requested.
    pub operation: Operation,
    /// Offset in bytes; 0 for operations without one, and for `append`, whose offset only the inner storage knows.
    pub offset: u64,
    /// Number of bytes; 0 for operations without one.
    pub len: u64,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Kind of the operations that count; `None` for all.
    operation: Option<Operation>,
    /// Number of them that still succeed.
    left: u64,
    fault: Fault,
    /// Number of bytes of a failing append that reach the inner storage.
    written: usize,
    /// Whether all operations after the first failing one fail, too.
    lasting: bool,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    plans: Vec<Plan>,
    hooks: Vec<(Operation, Hook)>,
}

/// A function that is called before an operation.
type Hook = Arc<dyn Fn(Record) + Send + Sync>;

/// A storage for tests that passes operations on to another one and lets chosen ones fail.
pub struct FaultyStorage<S> {
    inner: S,
    state: Arc<Mutex<State>>,
}

impl<S: Storage> FaultyStorage<S> {
    /// Makes a storage that passes everything on until a failure is planned.
    pub fn new(inner: S) -> Self {
        FaultyStorage { inner, state: Arc::default() }
    }

    /// Lets the `n`-th operation from now fail, once; 0 is the next.
    pub fn fail_nth(&self, n: u64, fault: Fault) {
        self.plan(Plan { operation: None, left: n, fault, written: 0, lasting: false });
    }

    /// Lets the `n`-th operation of the given kind from now fail, once; 0 is the next.
    pub fn fail_nth_of(&self, operation: Operation, n: u64, fault: Fault) {
        self.plan(Plan { operation: Some(operation), left: n, fault, written: 0, lasting: false });
    }

    /// Lets the `n`-th append from now fail after `written` of its bytes are written, or all but one if it has fewer.
    pub fn fail_short(&self, n: u64, written: usize, fault: Fault) {
        self.plan(Plan { operation: Some(Operation::Append), left: n, fault, written, lasting: false });
    }

    /// Lets the `n`-th operation from now, and all that follow, fail: the device is gone.
    pub fn fail_from(&self, n: u64, fault: Fault) {
        self.plan(Plan { operation: None, left: n, fault, written: 0, lasting: true });
    }

    /// Lets the `n`-th operation of the given kind from now, and all of that kind that follow, fail.
    pub fn fail_from_of(&self, operation: Operation, n: u64, fault: Fault) {
        self.plan(Plan { operation: Some(operation), left: n, fault, written: 0, lasting: true });
    }

    /// Calls `hook` before each operation of this kind, without a lock: it may wait, and change the inner storage. When
    /// it returns, the operation is recorded, and it is decided whether it fails.
    pub fn before(&self, operation: Operation, hook: impl Fn(Record) + Send + Sync + 'static) {
        self.state.lock().hooks.push((operation, Arc::new(hook)));
    }

    /// Removes all planned failures.
    pub fn fail_no_more(&self) {
        self.state.lock().plans.clear();
    }

    /// Returns how many operations were requested.
    pub fn count(&self) -> u64 {
        self.state.lock().records.len() as u64
    }

    /// Returns all operations in the order in which they were requested.
    pub fn records(&self) -> Vec<Record> {
        self.state.lock().records.clone()
    }

    /// Returns the inner storage.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn plan(&self, plan: Plan) {
        self.state.lock().plans.push(plan);
    }

    fn pass(&self, operation: Operation, offset: u64, len: u64) -> Result<(), StorageError> {
        enter(&self.state, operation, offset, len).map_err(|(_, error)| error)
    }
}

/// Records the operation. If it fails, returns the error and how many bytes are written before it.
fn enter(state: &Mutex<State>, operation: Operation, offset: u64, len: u64) -> Result<(), (usize, StorageError)> {
    let record = Record { operation, offset, len };
    let mut hooks = state.lock().hooks.clone();
    hooks.retain(|(of, _)| *of == operation);
    hooks.into_iter().for_each(|(_, hook)| hook(record));
    let mut state = state.lock();
    state.records.push(record);
    let mut failing = None;
    state.plans.retain_mut(|plan| {
        if plan.operation.is_some_and(|only| only != operation) {
            return true;
        }
        if plan.left > 0 {
            plan.left -= 1;
            return true;
        }
        failing.get_or_insert(*plan);
        plan.lasting
    });
    match failing {
        None => Ok(()),
        Some(plan) => {
            let errno = match plan.fault {
                Fault::Eio => Errno::IO,
                Fault::Enospc => Errno::NOSPC,
            };
            let source = errno.into();
            Err((plan.written, StorageError::Io { operation, offset: Some(offset), path: None, source }))
        }
    }
}

/// Returns the first `n` bytes of `parts`.
fn first_bytes(parts: &[&[u8]], n: usize) -> Vec<u8> {
    parts.iter().copied().flatten().copied().take(n).collect()
}

impl<S: Storage> Storage for FaultyStorage<S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.pass(Operation::Read, offset, buf.len() as u64)?;
        self.inner.read_at(offset, buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.pass(Operation::Len, 0, 0)?;
        self.inner.len()
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        match enter(&self.state, Operation::Append, 0, len as u64) {
            Ok(()) => self.inner.append(parts),
            Err((written, error)) => {
                let some = first_bytes(parts, written.min(len.saturating_sub(1)));
                if !some.is_empty() {
                    self.inner.append(&[&some])?;
                }
                Err(error)
            }
        }
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.pass(Operation::Sync, 0, 0)?;
        self.inner.sync()
    }

    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        self.pass(Operation::Truncate, len, 0)?;
        self.inner.truncate(len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.pass(Operation::Punch, offset, len)?;
        self.inner.punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.pass(Operation::Allocate, offset, len)?;
        self.inner.allocate(offset, len)
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.pass(Operation::StartWriteback, offset, len)?;
        self.inner.start_writeback(offset, len)
    }

    fn space(&self) -> Result<Space, StorageError> {
        self.pass(Operation::Space, 0, 0)?;
        self.inner.space()
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        self.pass(Operation::ReadHead, slot.offset(), size_of::<HeadBytes>() as u64)?;
        self.inner.read_head(slot)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        self.pass(Operation::ReplaceHead, slot.offset(), new.len() as u64)?;
        self.inner.replace_head(slot, expected, new)
    }
}

/// Wraps a folder. Its operations, those of all its segments, and those of the storage that it was [made
/// from](FaultyStorage::folder) are counted together.
pub struct FaultyFolder<F> {
    inner: F,
    state: Arc<Mutex<State>>,
}

impl<S: Storage> FaultyStorage<S> {
    /// Wraps a folder whose operations are counted together with this storage's.
    pub fn folder<F: Folder>(&self, inner: F) -> FaultyFolder<F> {
        FaultyFolder { inner, state: Arc::clone(&self.state) }
    }
}

impl<F: Folder> FaultyFolder<F> {
    fn pass(&self, operation: Operation, number: u64) -> Result<(), StorageError> {
        enter(&self.state, operation, number, 0).map_err(|(_, error)| error)
    }

    fn segment(&self, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(FaultyStorage { inner, state: Arc::clone(&self.state) })
    }
}

impl<F: Folder> Folder for FaultyFolder<F> {
    fn list(&self) -> Result<Vec<u64>, StorageError> {
        self.pass(Operation::List, 0)?;
        self.inner.list()
    }

    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        self.pass(Operation::Open, number)?;
        Ok(self.segment(self.inner.open(number)?))
    }

    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        self.pass(Operation::Create, number)?;
        Ok(self.segment(self.inner.create(number)?))
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        self.pass(Operation::Remove, number)?;
        self.inner.remove(number)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.pass(Operation::SyncFolder, 0)?;
        self.inner.sync()
    }
}
