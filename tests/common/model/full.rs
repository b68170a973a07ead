//! Disks of limited size: image and segments take blocks from one pool, and an append that finds none is short. Blocks
//! allocated after a file's end belong to the file until it is truncated, as on ext4. Called by the test of full disks.

use floe::storage::testing::{MemoryFolder, MemoryStorage};
use floe::storage::{Folder, HeadBytes, HeadIndex, Operation, Space, Storage, StorageError};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;

const BLOCK: u64 = 4096;

/// Blocks of one disk.
#[derive(Debug)]
pub struct Pool {
    total: u64,
    used: Mutex<u64>,
}

impl Pool {
    /// A disk of `total` bytes.
    pub fn new(total: u64) -> Arc<Pool> {
        Arc::new(Pool { total: total / BLOCK, used: Mutex::new(0) })
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        (self.total - *self.used.lock()) * BLOCK
    }

    /// Takes as many of the blocks as there are.
    fn take(&self, blocks: u64) -> u64 {
        let mut used = self.used.lock();
        let got = blocks.min(self.total - *used);
        *used += got;
        got
    }

    fn give(&self, blocks: u64) {
        *self.used.lock() -= blocks;
    }

    fn space(&self) -> Space {
        Space { free: self.free(), total: self.total * BLOCK }
    }
}

/// A file on a disk.
pub struct Limited {
    inner: Arc<dyn Storage>,
    pool: Arc<Pool>,
    blocks: Mutex<u64>,
}

fn full(operation: Operation) -> StorageError {
    StorageError::Io { operation, offset: None, path: None, source: Errno::NOSPC.into() }
}

impl Limited {
    /// A file with these bytes; there must be space for it.
    pub fn new(bytes: Vec<u8>, pool: &Arc<Pool>) -> Arc<Limited> {
        let blocks = (bytes.len() as u64).div_ceil(BLOCK);
        assert_eq!(pool.take(blocks), blocks, "the disk is too small for what it begins with");
        let inner = Arc::new(MemoryStorage::from_bytes(bytes));
        Arc::new(Limited { inner, pool: Arc::clone(pool), blocks: Mutex::new(blocks) })
    }

    /// Allocates blocks up to `end`, or as many as there are; returns the new end.
    fn grow(&self, end: u64) -> u64 {
        let mut blocks = self.blocks.lock();
        *blocks += self.pool.take(end.div_ceil(BLOCK).saturating_sub(*blocks));
        *blocks * BLOCK
    }
}

impl Storage for Limited {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.inner.read_at(offset, buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.inner.len()
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        let begin = self.inner.len()?;
        let bytes = parts.concat();
        let room = self.grow(begin + bytes.len() as u64).saturating_sub(begin) as usize;
        if room < bytes.len() {
            self.inner.append(&[&bytes[..room]])?;
            return Err(full(Operation::Append));
        }
        self.inner.append(&[&bytes])
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }

    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        self.inner.truncate(len)?;
        let mut blocks = self.blocks.lock();
        let kept = len.div_ceil(BLOCK).min(*blocks);
        self.pool.give(*blocks - kept);
        *blocks = kept;
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        let before = *self.blocks.lock();
        if self.grow(offset + len) >= offset + len {
            return Ok(());
        }
        // All or nothing.
        let mut blocks = self.blocks.lock();
        self.pool.give(*blocks - before);
        *blocks = before;
        Err(full(Operation::Allocate))
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.start_writeback(offset, len)
    }

    fn space(&self) -> Result<Space, StorageError> {
        Ok(self.pool.space())
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        self.inner.read_head(slot)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        self.inner.replace_head(slot, expected, new)
    }
}

/// A directory of segments on a disk.
pub struct LimitedFolder {
    inner: MemoryFolder,
    pool: Arc<Pool>,
    files: Mutex<BTreeMap<u64, Arc<Limited>>>,
}

impl LimitedFolder {
    /// An empty one.
    pub fn new(pool: &Arc<Pool>) -> LimitedFolder {
        LimitedFolder { inner: MemoryFolder::new(), pool: Arc::clone(pool), files: Mutex::default() }
    }
}

impl Folder for LimitedFolder {
    fn list(&self) -> Result<Vec<u64>, StorageError> {
        self.inner.list()
    }

    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        match self.files.lock().get(&number) {
            Some(file) => Ok(file.clone()),
            None => self.inner.open(number),
        }
    }

    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        let inner = self.inner.create(number)?;
        let file = Arc::new(Limited { inner, pool: Arc::clone(&self.pool), blocks: Mutex::new(0) });
        self.files.lock().insert(number, file.clone());
        Ok(file)
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        self.inner.remove(number)?;
        if let Some(file) = self.files.lock().remove(&number) {
            let mut blocks = file.blocks.lock();
            self.pool.give(*blocks);
            *blocks = 0;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }
}
