//! Where the bytes of an image lie: the [`Storage`] trait and its backends.
//!
//! All I/O on an image passes this trait, so a test that hands in a `testing::FaultyStorage` sees, and can fail, every write.
//! A storage knows nothing of frames. Bytes once appended change in two ways only: `replace_head`, and `punch`, which
//! makes them zero. Beside it: the locks that keep writers apart and the way an image comes to its name whole.
//! Called by `log`, and by whoever opens an image.

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
    /// The one at 0.
    A,
    /// The one at 16 KiB.
    B,
}

impl HeadIndex {
    /// Both, in the order they lie.
    pub const ALL: [HeadIndex; 2] = [HeadIndex::A, HeadIndex::B];

    /// Where the slot begins, in bytes from the image's first.
    pub const fn offset(self) -> u64 {
        match self {
            HeadIndex::A => 0,
            HeadIndex::B => limits::HEAD_SLOT_SPAN,
        }
    }

    /// The other slot.
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

/// Space of the file system that a storage lies in, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What this process may still use.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// The 512 bytes of a head slot.
pub type HeadBytes = [u8; RawHeadSlot::SIZE];

/// The 4 KiB block that a slot is written in: after a torn write that cost the whole block, the bytes after the slot are
/// zero again with the next head.
pub fn head_block(head: &HeadBytes) -> [u8; limits::SYNC_BLOCK as usize] {
    let mut block = [0; limits::SYNC_BLOCK as usize];
    if let Some((slot, _)) = block.split_first_chunk_mut() {
        *slot = *head;
    }
    block
}

/// The bytes of an image. Offsets count from the image's first byte.
///
/// Reads may run beside anything. There is one writer at a time (see [`WriterLock`]); within it, appends are put one
/// behind another whoever calls.
pub trait Storage: Send + Sync {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`StorageError::Short`] if they end before; then what is in `buf` means nothing.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError>;

    /// Bytes there are.
    ///
    /// # Errors
    /// If the backend cannot tell.
    fn len(&self) -> Result<u64, StorageError>;

    /// Whether there are no bytes.
    ///
    /// # Errors
    /// As [`Storage::len`].
    fn is_empty(&self) -> Result<bool, StorageError> {
        Ok(self.len()? == 0)
    }

    /// Puts all `parts`, one behind another, at the end, and says at which offset the first byte lies.
    ///
    /// # Errors
    /// If not all could be written; some of the bytes may then be there, and it is the caller's to cut them off.
    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError>;

    /// Returns when everything written before is durable.
    ///
    /// # Errors
    /// If that is not known. It must not be tried again: a second try may succeed without the bytes being there.
    fn sync(&self) -> Result<(), StorageError>;

    /// Cuts off all bytes from `len` on.
    ///
    /// # Errors
    /// [`StorageError::Longer`] if there are fewer than `len`.
    fn truncate(&self, len: u64) -> Result<(), StorageError>;

    /// Makes the given range read as zero and gives its space back where the backend can; the length stays. What of
    /// the range lies behind the end is left alone.
    ///
    /// # Errors
    /// Kind `Unsupported` where the backend cannot.
    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError>;

    /// Reserves space for the given range, so that appends within it do not run out of space. Bytes and length stay as
    /// they are.
    ///
    /// # Errors
    /// Kind `StorageFull` if there is not enough space, `Unsupported` where the backend cannot reserve any.
    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError>;

    /// Begins to write what of the given range is not yet on the disk, and does not wait for it. Promises nothing: only
    /// [`Storage::sync`] makes bytes durable.
    ///
    /// # Errors
    /// If the backend says so at once.
    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError>;

    /// How much space there is for growing.
    ///
    /// # Errors
    /// If the backend cannot tell.
    fn space(&self) -> Result<Space, StorageError>;

    /// The bytes of a head slot.
    ///
    /// # Errors
    /// As [`Storage::read_at`].
    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError>;

    /// Writes a head slot, if it holds `expected`, and zeros after it to the end of its 4 KiB block ([`head_block`]). Does
    /// not sync. The slot must exist: a new image begins with 32 KiB of zeros.
    ///
    /// # Errors
    /// [`StorageError::HeadChanged`] if it holds something else; nothing is written then.
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
