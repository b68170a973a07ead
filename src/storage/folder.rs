//! The folder a thaw log lives in: numbered segments, each a [`Storage`] of its own.
//!
//! A name made or removed is durable only after [`Folder::sync`], as in a directory; bytes only after the segment's own
//! sync. [`DirectoryFolder`] is the real one.

use super::file::{Access, FileStorage, io_error};
use super::{Operation, Storage, StorageError};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segments by number.
pub trait Folder: Send + Sync {
    /// The numbers there are, ascending.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn list(&self) -> Result<Vec<u64>, StorageError>;

    /// Opens a segment.
    ///
    /// # Errors
    /// If there is none of that number, or it is no file.
    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError>;

    /// Makes an empty segment.
    ///
    /// # Errors
    /// If there is one of that number, or it cannot be made.
    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError>;

    /// Removes a segment. Who has it open may go on reading it.
    ///
    /// # Errors
    /// If there is none of that number, or it cannot be removed.
    fn remove(&self, number: u64) -> Result<(), StorageError>;

    /// Returns when all names are durable as they are now.
    ///
    /// # Errors
    /// If that is not known.
    fn sync(&self) -> Result<(), StorageError>;
}

impl<F: Folder + ?Sized> Folder for Arc<F> {
    fn list(&self) -> Result<Vec<u64>, StorageError> {
        (**self).list()
    }

    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        (**self).open(number)
    }

    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        (**self).create(number)
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        (**self).remove(number)
    }

    fn sync(&self) -> Result<(), StorageError> {
        (**self).sync()
    }
}

/// The name of a segment's file: its number in 16 lower-case hexadecimal digits.
pub fn segment_name(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that a file's name stands for, if it is a segment's.
fn segment_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A directory. Files in it that are no segments are left alone.
#[derive(Debug)]
pub struct DirectoryFolder {
    directory: OwnedFd,
    path: PathBuf,
}

impl DirectoryFolder {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// If it is none or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(Operation::Open, path, e.into()))?;
        Ok(DirectoryFolder { directory, path: path.to_owned() })
    }

    /// Makes the directory, for its owner alone, and opens it; one that is there is opened as it is. The name is durable
    /// once the directory around it is synced, which is done here.
    ///
    /// # Errors
    /// If it cannot be made or opened.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) => {
                let parent = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let synced = File::open(parent).and_then(|parent| parent.sync_all());
                synced.map_err(|source| failed(Operation::SyncFolder, parent, source))?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(failed(Operation::Create, path, errno.into())),
        }
        Self::open(path)
    }

    /// The directory's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn segment(&self, number: u64, operation: Operation, flags: OFlags) -> Result<Arc<dyn Storage>, StorageError> {
        let name = segment_name(number);
        let path = self.path.join(&name);
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(operation, &path, errno.into()))?;
        Ok(Arc::new(FileStorage::from_file(File::from(file), path, Access::ReadWrite)?))
    }
}

pub(super) fn failed(operation: Operation, path: &Path, source: io::Error) -> StorageError {
    io_error(operation, None, path, source)
}

impl Folder for DirectoryFolder {
    fn list(&self) -> Result<Vec<u64>, StorageError> {
        let listed = || -> io::Result<Vec<u64>> {
            let mut numbers = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.directory)? {
                numbers.extend(entry?.file_name().to_str().ok().and_then(segment_number));
            }
            numbers.sort_unstable();
            Ok(numbers)
        };
        listed().map_err(|source| failed(Operation::List, &self.path, source))
    }

    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        self.segment(number, Operation::Open, OFlags::empty())
    }

    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        self.segment(number, Operation::Create, OFlags::CREATE | OFlags::EXCL)
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        let name = segment_name(number);
        rustix::fs::unlinkat(&self.directory, &name, rustix::fs::AtFlags::empty())
            .map_err(|errno| failed(Operation::Remove, &self.path.join(&name), errno.into()))
    }

    fn sync(&self) -> Result<(), StorageError> {
        rustix::fs::fsync(&self.directory).map_err(|errno| failed(Operation::SyncFolder, &self.path, errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::MemoryFolder;

    fn behaves(folder: &dyn Folder) {
        assert_eq!(folder.list().unwrap(), [0u64; 0]);
        let ten = folder.create(10).unwrap();
        folder.create(2).unwrap();
        assert!(folder.create(2).is_err(), "a segment is made once");
        assert_eq!(folder.list().unwrap(), [2, 10]);
        assert_eq!(ten.append(&[b"by", b"tes"]).unwrap(), 0);
        ten.sync().unwrap();
        folder.sync().unwrap();
        let mut bytes = [0; 5];
        folder.open(10).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"bytes");
        folder.remove(10).unwrap();
        assert!(folder.remove(10).is_err());
        assert!(folder.open(10).is_err());
        ten.read_at(0, &mut bytes).unwrap();
        assert_eq!(folder.list().unwrap(), [2]);
    }

    #[test]
    fn memory_and_directory_behave_alike() {
        behaves(&MemoryFolder::new());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.floe.thaw");
        behaves(&DirectoryFolder::create(&path).unwrap());
        assert_eq!(DirectoryFolder::create(&path).unwrap().list().unwrap(), [2], "one that is there stays as it is");
    }

    #[test]
    fn files_that_are_no_segments_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["README", "000000000000001G", "00000000000000AB", "1", "00000000000000000"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::write(dir.path().join("00000000000000ab"), "x").unwrap();
        assert_eq!(DirectoryFolder::open(dir.path()).unwrap().list().unwrap(), [0xab]);
    }

    #[test]
    fn a_link_is_not_taken_for_a_segment() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), "x").unwrap();
        std::os::unix::fs::symlink("target", dir.path().join(segment_name(0))).unwrap();
        assert!(DirectoryFolder::open(dir.path()).unwrap().open(0).is_err());
    }
}
