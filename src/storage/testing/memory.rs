//! An image in memory.
//!
//! Behaves like [`FileStorage`](crate::storage::FileStorage), so a test of one is a test of the other. A sync does
//! nothing.

use crate::storage::{HeadBytes, HeadIndex, Space, Storage, StorageError, head_block};
use parking_lot::RwLock;

/// An image in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryStorage {
    /// Makes an empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a storage with the given bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        MemoryStorage { bytes: RwLock::new(bytes) }
    }

    /// Returns a copy of all bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.read().clone()
    }

    /// Damages one byte: flips every bit that is set in `mask`.
    ///
    /// # Errors
    /// Fails with [`StorageError::Short`] if there is no such byte.
    pub fn flip(&self, offset: u64, mask: u8) -> Result<(), StorageError> {
        let mut bytes = self.bytes.write();
        match usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at)) {
            Some(byte) => {
                *byte ^= mask;
                Ok(())
            }
            None => Err(StorageError::Short { offset, wanted: 1, got: 0, path: None }),
        }
    }
}

/// Returns the part of `[offset, offset + wanted)` that is before the end.
fn clip(bytes: &[u8], offset: u64, wanted: u64) -> std::ops::Range<usize> {
    let all = bytes.len() as u64;
    let start = offset.min(all);
    let end = offset.saturating_add(wanted).min(all);
    start as usize..end as usize
}

fn read_exact(bytes: &[u8], offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
    let found = &bytes[clip(bytes, offset, buf.len() as u64)];
    if found.len() != buf.len() {
        let (wanted, got) = (buf.len() as u64, found.len() as u64);
        return Err(StorageError::Short { offset, wanted, got, path: None });
    }
    buf.copy_from_slice(found);
    Ok(())
}

impl Storage for MemoryStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        read_exact(&self.bytes.read(), offset, buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        Ok(self.bytes.read().len() as u64)
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        let mut bytes = self.bytes.write();
        let offset = bytes.len() as u64;
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Ok(offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        let mut bytes = self.bytes.write();
        match usize::try_from(len) {
            Ok(keep) if keep <= bytes.len() => {
                bytes.truncate(keep);
                Ok(())
            }
            _ => Err(StorageError::Longer { wanted: len, len: bytes.len() as u64, path: None }),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        let mut bytes = self.bytes.write();
        let range = clip(&bytes, offset, len);
        bytes[range].fill(0);
        Ok(())
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<(), StorageError> {
        Ok(())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> Result<(), StorageError> {
        Ok(())
    }

    fn space(&self) -> Result<Space, StorageError> {
        Ok(Space { free: u64::MAX, total: u64::MAX })
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        let mut head = [0; size_of::<HeadBytes>()];
        self.read_at(slot.offset(), &mut head)?;
        Ok(head)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        let mut bytes = self.bytes.write();
        let mut found = [0; size_of::<HeadBytes>()];
        read_exact(&bytes, slot.offset(), &mut found)?;
        if found != *expected {
            return Err(StorageError::HeadChanged { slot, path: None });
        }
        let block = head_block(new);
        let range = clip(&bytes, slot.offset(), block.len() as u64);
        let len = range.len();
        bytes[range].copy_from_slice(&block[..len]);
        Ok(())
    }
}
