//! The bytes of an image: the [`Storage`] trait and its backends.
//!
//! All I/O on an image goes through this trait, so a test with a `testing::FaultyStorage` sees every write and can make
//! it fail. A storage knows nothing about frames. Appended bytes change in two ways only: `replace_head` overwrites a
//! head slot, and `punch` makes bytes zero. This module also has the locks that exclude a second writer, and the atomic
//! creation of an image. Called by `log`, and by all modules that open an image.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod atomic;
pub mod beside;
pub mod error;
pub mod file;
pub mod folder;
pub mod home;
pub mod lock;
pub mod pointer;
pub mod readers;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use atomic::AtomicFile;
pub use beside::{FileId, LogBeside};
pub use error::{Operation, StorageError};
pub use file::{Access, FileStorage};
pub use folder::{DirectoryFolder, Folder};
pub use home::{DirectoryHome, HomeOptions, LogHome};
pub use lock::{GcLock, Holder, LockError, Owner, ReaderLock, WriterLock, note_beside};
pub use pointer::{ThawPlace, write_pointer};
pub use readers::readers_here;
pub use target::{AtomicError, Target, follow};

use crate::format::head::RawHeadSlot;
use crate::format::limits;
use std::fmt;
use std::sync::Arc;

/// One of the two head slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadIndex {
    /// The slot at offset 0.
    A,
    /// The slot at offset 16384.
    B,
}

impl HeadIndex {
    /// Both slots, in the order of their offsets.
    pub const ALL: [HeadIndex; 2] = [HeadIndex::A, HeadIndex::B];

    /// Returns the offset of the slot, in bytes from the beginning of the image.
    pub const fn offset(self) -> u64 {
        match self {
            HeadIndex::A => 0,
            HeadIndex::B => limits::HEAD_SLOT_SPAN,
        }
    }

    /// Returns the other slot.
    pub const fn other(self) -> HeadIndex {
        match self {
            HeadIndex::A => HeadIndex::B,
            HeadIndex::B => HeadIndex::A,
        }
    }
}

impl fmt::Display for HeadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadIndex::A => "A",
            HeadIndex::B => "B",
        })
    }
}

/// Space of the file system that a storage is on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free space that this process may use, in bytes.
    pub free: u64,
    /// Size of the file system in bytes.
    pub total: u64,
}

/// The 512 bytes of a head slot.
pub type HeadBytes = [u8; RawHeadSlot::SIZE];

/// Returns the 4 KiB block that is written for a slot: the slot, then zeros. If a torn write destroys the whole block,
/// the next head makes the bytes after the slot zero again.
pub fn head_block(head: &HeadBytes) -> [u8; limits::SYNC_BLOCK as usize] {
    let mut block = [0; limits::SYNC_BLOCK as usize];
    if let Some((slot, _)) = block.split_first_chunk_mut() {
        *slot = *head;
    }
    block
}

/// The store of an image's bytes. Offsets are in bytes from the image's first byte.
///
/// Reads may run at the same time as any other operation. There is one writer at a time (see [`WriterLock`]); its
/// threads may append at the same time, and each append is contiguous.
pub trait Storage: Send + Sync {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// Fails with [`StorageError::Short`] if there are too few; the contents of `buf` are then undefined.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError>;

    /// Returns the length of the image in bytes.
    ///
    /// # Errors
    /// Fails if the backend cannot tell.
    fn len(&self) -> Result<u64, StorageError>;

    /// Returns whether there are no bytes.
    ///
    /// # Errors
    /// Fails as [`Storage::len`] does.
    fn is_empty(&self) -> Result<bool, StorageError> {
        Ok(self.len()? == 0)
    }

    /// Appends all `parts`, one after another, and returns the offset of the first byte.
    ///
    /// # Errors
    /// Fails if not all could be written. Some of the bytes may then have been written; the caller has to cut them off.
    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError>;

    /// Makes durable everything that was written before.
    ///
    /// # Errors
    /// Fails if it is not known whether all is durable. Do not try again: a second sync may succeed although bytes were
    /// lost.
    fn sync(&self) -> Result<(), StorageError>;

    /// Cuts off all bytes from `len` on.
    ///
    /// # Errors
    /// Fails with [`StorageError::Longer`] if there are fewer than `len`.
    fn truncate(&self, len: u64) -> Result<(), StorageError>;

    /// Makes the given range read as zero and frees its space if the backend can. The length does not change. Any part
    /// of the range after the end is ignored.
    ///
    /// # Errors
    /// Fails with kind `Unsupported` if the backend cannot punch holes.
    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError>;

    /// Reserves space for the given range, so that appends within it do not run out of space. Bytes and length do not
    /// change.
    ///
    /// # Errors
    /// Fails with kind `StorageFull` if there is not enough space, with `Unsupported` if the backend cannot reserve
    /// any.
    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError>;

    /// Starts to write the dirty bytes of the given range to the disk, and does not wait. It guarantees nothing: only
    /// [`Storage::sync`] makes bytes durable.
    ///
    /// # Errors
    /// Fails if the backend reports an error at once.
    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError>;

    /// Returns the space of the file system.
    ///
    /// # Errors
    /// Fails if the backend cannot tell.
    fn space(&self) -> Result<Space, StorageError>;

    /// Reads the bytes of a head slot.
    ///
    /// # Errors
    /// Fails as [`Storage::read_at`] does.
    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError>;

    /// Writes a head slot if it holds `expected`, and zeros after it up to the end of its 4 KiB block ([`head_block`]).
    /// Does not sync. The slot must exist: a new image begins with 32 KiB of zeros.
    ///
    /// # Errors
    /// Fails with [`StorageError::HeadChanged`] if it holds something else; nothing is written then.
    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError>;
}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        (**self).read_at(offset, buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        (**self).len()
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        (**self).append(parts)
    }

    fn sync(&self) -> Result<(), StorageError> {
        (**self).sync()
    }

    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        (**self).truncate(len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        (**self).punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        (**self).allocate(offset, len)
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        (**self).start_writeback(offset, len)
    }

    fn space(&self) -> Result<Space, StorageError> {
        (**self).space()
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        (**self).read_head(slot)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        (**self).replace_head(slot, expected, new)
    }
}

#[cfg(test)]
mod tests;
