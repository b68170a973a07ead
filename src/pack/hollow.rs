//! The storage of a rehearsal: a temporary file without a name that has the image's layout, but not its data.
//!
//! Invariant: nobody can make an image of it. The file has no name, is given to nobody, and holds no stored bytes of
//! superchunks. Only headers, clear lists, tables, roots and heads are written, each at the offset it would have. Made
//! by a rehearsal, which reads back what `meta` says about it.

use crate::chunk::unlinked_file;
use crate::storage::{HeadBytes, HeadIndex, Operation, Space, Storage, StorageError, head_block};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Number of parts of an append that precede the stored bytes of a frame: its header and its clear list.
const BEFORE_STORED: usize = 2;

/// A storage for a trial image without data: it counts the stored bytes of superchunks, but does not write them.
#[derive(Debug)]
pub(super) struct HollowStorage {
    file: File,
    len: AtomicU64,
    appending: Mutex<()>,
    /// Whether the stored bytes of frames are written.
    keeps: AtomicBool,
}

impl HollowStorage {
    /// Makes an empty storage in the directory `dir`. It leaves out the stored bytes of appended frames.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let (len, appending) = (AtomicU64::new(0), Mutex::new(()));
        Ok(HollowStorage { file: unlinked_file(dir)?, len, appending, keeps: AtomicBool::new(false) })
    }

    /// Writes the stored bytes of frames that are appended from now on. Called before tables and roots are appended.
    pub(super) fn keep_from_here(&self) {
        self.keeps.store(true, Ordering::Release);
    }
}

fn failed(operation: Operation, offset: Option<u64>) -> impl FnOnce(io::Error) -> StorageError {
    move |source| StorageError::Io { operation, offset, path: None, source }
}

impl Storage for HollowStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let (wanted, len) = (buf.len() as u64, self.len.load(Ordering::Acquire));
        if offset.checked_add(wanted).is_none_or(|end| end > len) {
            return Err(StorageError::Short { offset, wanted, got: len.saturating_sub(offset), path: None });
        }
        self.file.read_exact_at(buf, offset).map_err(failed(Operation::Read, Some(offset)))
    }

    fn len(&self) -> Result<u64, StorageError> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        let _one_at_a_time = self.appending.lock();
        let offset = self.len.load(Ordering::Acquire);
        let written = if self.keeps.load(Ordering::Acquire) { parts.len() } else { BEFORE_STORED };
        let mut at = offset;
        for (number, part) in parts.iter().enumerate() {
            if number < written {
                self.file.write_all_at(part, at).map_err(failed(Operation::Append, Some(at)))?;
            }
            at = at.saturating_add(part.len() as u64);
        }
        // The part left out at the end reads as zeros.
        self.file.set_len(at).map_err(failed(Operation::Append, Some(at)))?;
        self.len.store(at, Ordering::Release);
        Ok(offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn truncate(&self, wanted: u64) -> Result<(), StorageError> {
        let _no_append_meanwhile = self.appending.lock();
        let len = self.len.load(Ordering::Acquire);
        if wanted > len {
            return Err(StorageError::Longer { wanted, len, path: None });
        }
        self.file.set_len(wanted).map_err(failed(Operation::Truncate, Some(wanted)))?;
        self.len.store(wanted, Ordering::Release);
        Ok(())
    }

    fn punch(&self, _offset: u64, _len: u64) -> Result<(), StorageError> {
        Err(failed(Operation::Punch, None)(io::ErrorKind::Unsupported.into()))
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<(), StorageError> {
        Err(failed(Operation::Allocate, None)(io::ErrorKind::Unsupported.into()))
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
        if self.read_head(slot)? != *expected {
            return Err(StorageError::HeadChanged { slot, path: None });
        }
        let offset = slot.offset();
        self.file.write_all_at(&head_block(new), offset).map_err(failed(Operation::ReplaceHead, Some(offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn stored_bytes_take_no_space_until_they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let storage = HollowStorage::new(dir.path()).unwrap();
        let stored = vec![9; 8 << 20];
        assert_eq!(storage.append(&[b"head", b"list", &stored]).unwrap(), 0);
        storage.keep_from_here();
        assert_eq!(storage.append(&[b"more", b"", b"kept"]).unwrap(), 8 + (8 << 20));
        assert_eq!(storage.len().unwrap(), 16 + (8 << 20));
        let mut bytes = [0; 9];
        storage.read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"headlist\0");
        storage.read_at(7 + (8 << 20), &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0morekept");
        assert!(matches!(storage.read_at(8 + (8 << 20), &mut bytes), Err(StorageError::Short { got: 8, .. })));
        let meta = storage.file.metadata().unwrap();
        assert!(meta.blocks() * 512 < 1 << 20 && meta.nlink() == 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
