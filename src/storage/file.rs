//! An image in a local file or on a block device, or inside a larger file.
//!
//! It reads with `pread` and writes with `pwrite`, never through a memory map: if somebody shortens the file, the
//! result is an error and not a signal. Only a regular file in which the image begins at offset 0 can be written to.

use super::{HeadBytes, HeadIndex, Operation, Space, Storage, StorageError, head_block};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most parts of one `pwritev` on Linux (IOV_MAX).
const MAX_PARTS: usize = 1024;

/// The allowed operations of a [`FileStorage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only reading is allowed.
    ReadOnly,
    /// Reading, appending, replacing heads, punching and truncating are allowed.
    ReadWrite,
}

/// An image in a file.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    access: Access,
    base: u64,
    device: bool,
    /// Held during an append or a truncation, so that they do not overlap. No other lock is taken while it is held.
    appending: Mutex<()>,
}

impl FileStorage {
    /// Opens the file at `path`, which must exist.
    ///
    /// # Errors
    /// Fails with [`StorageError::NotAnImage`] if it is not a regular file; for reading, a block device is allowed,
    /// too.
    pub fn open(path: &Path, access: Access) -> Result<Self, StorageError> {
        let failed = |source| io_error(Operation::Open, None, path, source);
        // Without O_NONBLOCK, opening a pipe would wait for its other end. It has no effect on files.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let opened = OpenOptions::new().read(true).write(access == Access::ReadWrite).custom_flags(flags).open(path);
        match opened {
            Ok(file) => Self::from_file(file, path.to_owned(), access),
            Err(source) => {
                // The error of opening a directory or socket says less than the kind of the file.
                if let Ok(metadata) = std::fs::metadata(path) {
                    kind_of(path, &metadata, access)?;
                }
                Err(failed(source))
            }
        }
    }

    /// Opens, for reading, an image that begins `base` bytes into the file at `path`.
    ///
    /// # Errors
    /// Fails as [`FileStorage::open`] does, and with [`StorageError::Short`] if the file ends before `base`.
    pub fn open_within(path: &Path, base: u64) -> Result<Self, StorageError> {
        let whole = Self::open(path, Access::ReadOnly)?;
        let len = whole.len()?;
        if len < base {
            return Err(StorageError::Short { offset: base, wanted: 1, got: 0, path: Some(whole.path) });
        }
        Ok(FileStorage { base, ..whole })
    }

    /// Uses a file that is already open with the rights in `access`; `path` is for messages.
    ///
    /// # Errors
    /// Fails as [`FileStorage::open`] does.
    pub fn from_file(file: File, path: PathBuf, access: Access) -> Result<Self, StorageError> {
        let metadata = file.metadata().map_err(|source| io_error(Operation::Open, None, &path, source))?;
        let device = kind_of(&path, &metadata, access)?;
        Ok(FileStorage { file, path, access, base: 0, device, appending: Mutex::new(()) })
    }

    /// Returns the file, for locking it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the path by which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the offset in the file where the image begins, in bytes.
    pub fn base(&self) -> u64 {
        self.base
    }

    fn failed(&self, operation: Operation, offset: Option<u64>, source: io::Error) -> StorageError {
        io_error(operation, offset, &self.path, source)
    }

    fn writable(&self, operation: Operation) -> Result<(), StorageError> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(StorageError::ReadOnly { operation, path: Some(self.path.clone()) }),
        }
    }

    fn fill(&self, operation: Operation, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let wanted = buf.len() as u64;
        let mut got = 0;
        while got < buf.len() {
            let short = || StorageError::Short { offset, wanted, got: got as u64, path: Some(self.path.clone()) };
            // There are no bytes beyond the largest file offset.
            let at = self.base.checked_add(offset).and_then(|at| at.checked_add(got as u64));
            let at = at.filter(|&at| at <= i64::MAX as u64).ok_or_else(short)?;
            match self.file.read_at(buf.get_mut(got..).unwrap_or_default(), at) {
                Ok(0) => return Err(short()),
                Ok(n) => got += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(operation, Some(offset), e)),
            }
        }
        Ok(())
    }

    fn write_parts(&self, mut at: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            match rustix::io::pwritev(&self.file, left.get(..MAX_PARTS).unwrap_or(left), at) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut left, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.fill(Operation::Read, offset, buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        let failed = |source| self.failed(Operation::Len, None, source);
        let all = if self.device {
            // A device's metadata says 0. Nothing uses the file position that this moves.
            (&self.file).seek(SeekFrom::End(0)).map_err(failed)?
        } else {
            self.file.metadata().map_err(failed)?.len()
        };
        Ok(all.saturating_sub(self.base))
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        self.writable(Operation::Append)?;
        let _one_at_a_time = self.appending.lock();
        let offset = self.len()?;
        self.write_parts(offset, parts).map_err(|source| self.failed(Operation::Append, Some(offset), source))?;
        Ok(offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|source| self.failed(Operation::Sync, None, source))
    }

    fn truncate(&self, wanted: u64) -> Result<(), StorageError> {
        self.writable(Operation::Truncate)?;
        let _no_append_meanwhile = self.appending.lock();
        let len = self.len()?;
        if wanted > len {
            return Err(StorageError::Longer { wanted, len, path: Some(self.path.clone()) });
        }
        self.file.set_len(wanted).map_err(|source| self.failed(Operation::Truncate, Some(wanted), source))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.writable(Operation::Punch)?;
        // Ignore the part after the end: fallocate would refuse a range beyond the largest file.
        let len = len.min(self.len()?.saturating_sub(offset));
        if len == 0 {
            return Ok(()); // which fallocate would call invalid
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&self.file, flags, offset, len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed(Operation::Punch, Some(offset), e.into())),
            }
        }
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.writable(Operation::Allocate)?;
        if len == 0 {
            return Ok(()); // which fallocate would call invalid
        }
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed(Operation::Allocate, Some(offset), e.into())),
            }
        }
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        let range = i64::try_from(offset).and_then(|offset| Ok((offset, i64::try_from(len)?)));
        let invalid = |_| self.failed(Operation::StartWriteback, Some(offset), ErrorKind::InvalidInput.into());
        let (start, bytes) = range.map_err(invalid)?;
        // SAFETY: the descriptor is open as long as `self.file` is; the call takes numbers only.
        match unsafe { libc::sync_file_range(self.file.as_raw_fd(), start, bytes, libc::SYNC_FILE_RANGE_WRITE) } {
            0 => Ok(()),
            _ => Err(self.failed(Operation::StartWriteback, Some(offset), io::Error::last_os_error())),
        }
    }

    fn space(&self) -> Result<Space, StorageError> {
        let found = rustix::fs::fstatvfs(&self.file).map_err(|e| self.failed(Operation::Space, None, e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        let mut head = [0; size_of::<HeadBytes>()];
        self.fill(Operation::ReadHead, slot.offset(), &mut head)?;
        Ok(head)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        self.writable(Operation::ReplaceHead)?;
        if self.read_head(slot)? != *expected {
            return Err(StorageError::HeadChanged { slot, path: Some(self.path.clone()) });
        }
        self.file
            .write_all_at(&head_block(new), slot.offset())
            .map_err(|source| self.failed(Operation::ReplaceHead, Some(slot.offset()), source))
    }
}

/// Makes a [`StorageError`] from an error of the operating system.
pub(super) fn io_error(operation: Operation, offset: Option<u64>, path: &Path, source: io::Error) -> StorageError {
    StorageError::Io { operation, offset, path: Some(path.to_owned()), source }
}

/// Returns whether the file is a block device; an error if it cannot hold an image.
fn kind_of(path: &Path, metadata: &Metadata, access: Access) -> Result<bool, StorageError> {
    let kind: FileType = metadata.file_type();
    let found = match kind {
        k if k.is_file() => return Ok(false),
        k if k.is_block_device() && access == Access::ReadOnly => return Ok(true),
        k if k.is_block_device() => "block device, which cannot grow: open it for reading",
        k if k.is_dir() => "directory",
        k if k.is_fifo() => "pipe",
        k if k.is_socket() => "socket",
        k if k.is_char_device() => "character device",
        _ => "file of an unknown kind",
    };
    Err(StorageError::NotAnImage { path: path.to_owned(), found })
}
