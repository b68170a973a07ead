//! The directory of a thaw log: numbered segments, each a [`Storage`].
//!
//! As in any directory, a name that was made or removed is durable only after [`Folder::sync`], and bytes only after
//! the segment's own sync. [`DirectoryFolder`] is the one on disk. Called by `thaw` and `home`.

use super::file::{Access, FileStorage, io_error};
use super::{Operation, Storage, StorageError};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of segments of a thaw log, by number.
pub trait Folder: Send + Sync {
    /// Returns the numbers of all segments, ascending.
    ///
    /// # Errors
    /// Fails if the folder cannot be read.
    fn list(&self) -> Result<Vec<u64>, StorageError>;

    /// Opens a segment.
    ///
    /// # Errors
    /// Fails if there is no segment with that number, or it is not a file.
    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError>;

    /// Creates an empty segment.
    ///
    /// # Errors
    /// Fails if there is a segment with that number, or it cannot be created.
    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError>;

    /// Removes a segment. A reader that has it open can still read it.
    ///
    /// # Errors
    /// Fails if there is no segment with that number, or it cannot be removed.
    fn remove(&self, number: u64) -> Result<(), StorageError>;

    /// Makes all names in the folder durable as they are now.
    ///
    /// # Errors
    /// Fails if it is not known whether they are durable.
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

/// Returns the name of a segment's file: its number in 16 lower-case hexadecimal digits.
pub fn segment_name(number: u64) -> String {
    format!("{number:016x}")
}

/// Returns the number of the segment with this file name; `None` for another name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A folder in a directory that belongs to the user of this process and that nobody else can access. Files in it that
/// are not segments are ignored.
#[derive(Debug)]
pub struct DirectoryFolder {
    directory: OwnedFd,
    path: PathBuf,
    access: Access,
}

impl DirectoryFolder {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Fails with `Refused` if it is a symlink or not a directory, belongs to another user, or has another mode than
    /// 0700; or if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Self::open_as(path, Access::ReadWrite)
    }

    /// Opens the directory at `path`, with its segments for reading only.
    ///
    /// # Errors
    /// Fails as [`DirectoryFolder::open`] does.
    pub fn open_read_only(path: &Path) -> Result<Self, StorageError> {
        Self::open_as(path, Access::ReadOnly)
    }

    fn open_as(path: &Path, access: Access) -> Result<Self, StorageError> {
        let refused = |why| StorageError::Refused { path: path.to_owned(), why };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(plain(path), flags, Mode::empty()).map_err(|errno| match errno {
            Errno::LOOP | Errno::NOTDIR => refused("it is not a directory (a symlink is not followed)"),
            _ => failed(Operation::Open, path, errno.into()),
        })?;
        // Ask the open directory, not its name, so that the checked directory is the one in use.
        let found = rustix::fs::fstat(&directory).map_err(|errno| failed(Operation::Open, path, errno.into()))?;
        //= format-spec.md#11
        //# A program must refuse one that is a symlink, belongs to another user, or has another mode.
        if found.st_uid != rustix::process::geteuid().as_raw() {
            return Err(refused("it belongs to another user"));
        }
        if found.st_mode & 0o777 != 0o700 {
            return Err(refused("its mode is not 0700"));
        }
        Ok(DirectoryFolder { directory, path: path.to_owned(), access })
    }

    /// Opens the directory at `path`, and creates it with mode 0700 if there is none. Its name is durable when this
    /// returns, whoever created it.
    ///
    /// # Errors
    /// Fails as [`DirectoryFolder::open`] does, or if it cannot be created.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        match rustix::fs::mkdir(plain(path), Mode::RWXU) {
            // The process that created it may have been killed before the name was durable.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(Operation::Create, path, errno.into())),
        }
        let folder = Self::open(path)?;
        sync_parent(path)?;
        Ok(folder)
    }

    /// Renames the directory at `path` durably, so that a new log can take its place. The new name is the first of
    /// `PATH.aside-1`, `PATH.aside-2` … that does not exist. Returns the new path.
    ///
    /// # Errors
    /// Fails if it cannot be renamed, or it is not known whether the new name is durable.
    pub fn set_aside(path: &Path) -> Result<PathBuf, StorageError> {
        let path = plain(path);
        let mut n = 1u64;
        loop {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".aside-{n}"));
            let aside = PathBuf::from(name);
            match rustix::fs::renameat_with(CWD, path, CWD, &aside, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    sync_parent(path)?;
                    return Ok(aside);
                }
                Err(Errno::EXIST) => n = n.saturating_add(1),
                Err(errno) => return Err(failed(Operation::Rename, path, errno.into())),
            }
        }
    }

    /// Locks the directory for this writer as long as this value lives. On a file system without such locks, only the
    /// image is locked.
    ///
    /// # Errors
    /// Fails with `Refused` if another process has locked it.
    pub fn lock(&self) -> Result<(), StorageError> {
        match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                Err(StorageError::Refused { path: self.path.clone(), why: "another process writes to it" })
            }
            _ => Ok(()),
        }
    }

    /// Returns the directory's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn writable(&self, operation: Operation) -> Result<(), StorageError> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(StorageError::ReadOnly { operation, path: Some(self.path.clone()) }),
        }
    }

    fn segment(&self, number: u64, operation: Operation, flags: OFlags) -> Result<Arc<dyn Storage>, StorageError> {
        let name = segment_name(number);
        let path = self.path.join(&name);
        let mode = if self.access == Access::ReadOnly { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = flags | mode | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(operation, &path, errno.into()))?;
        Ok(Arc::new(FileStorage::from_file(File::from(file), path, self.access)?))
    }
}

/// Returns the path without slashes at its end: with one, the kernel would follow a symlink in spite of `O_NOFOLLOW`.
fn plain(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(bytes.len(), |last| last + 1);
    bytes.get(..end).map_or(path, |bytes| Path::new(OsStr::from_bytes(bytes)))
}

/// Makes the names in the parent directory of `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), StorageError> {
    let parent = match plain(path).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(|source| failed(Operation::SyncFolder, parent, source))
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
        self.writable(Operation::Create)?;
        self.segment(number, Operation::Create, OFlags::CREATE | OFlags::EXCL)
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        self.writable(Operation::Remove)?;
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
    use std::os::unix::fs::PermissionsExt;

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

    /// A directory for a log, in a temporary directory.
    fn private(dir: &Path, name: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn is_refused(path: &Path, words: &str) {
        for opened in [DirectoryFolder::open(path), DirectoryFolder::create(path)] {
            match opened {
                Err(StorageError::Refused { why, .. }) => assert!(why.contains(words), "{why}"),
                other => panic!("{}: {other:?}", path.display()),
            }
        }
    }

    //= format-spec.md#11
    //= type=test
    //# A program must refuse one that is a symlink, belongs to another user, or has another mode.
    #[test]
    fn a_folder_that_is_a_link_or_not_for_its_owner_alone_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = private(dir.path(), "target", 0o700);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        is_refused(&link, "symlink");
        is_refused(&dir.path().join("link/"), "symlink");
        std::fs::write(dir.path().join("file"), "x").unwrap();
        is_refused(&dir.path().join("file"), "not a directory");
        for mode in [0o755, 0o770, 0o701, 0o600] {
            is_refused(&private(dir.path(), &format!("{mode:o}"), mode), "mode");
        }
        let others = private(dir.path(), "others", 0o700);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&others, Some(12_345), None).unwrap();
            is_refused(&others, "another user");
        }
        DirectoryFolder::create(&target).unwrap();
    }

    #[test]
    fn a_folder_that_is_set_aside_makes_room_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.floe.thaw");
        for n in 1..3 {
            DirectoryFolder::create(&path).unwrap().create(n).unwrap();
            let aside = DirectoryFolder::set_aside(&path).unwrap();
            assert_eq!(aside, dir.path().join(format!("a.floe.thaw.aside-{n}")));
            assert_eq!(DirectoryFolder::open(&aside).unwrap().list().unwrap(), [n]);
            assert!(!path.exists());
        }
        assert!(DirectoryFolder::set_aside(&path).is_err());
    }

    #[test]
    fn files_that_are_no_segments_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = private(dir.path(), "log", 0o700);
        for name in ["README", "000000000000001G", "00000000000000AB", "1", "00000000000000000"] {
            std::fs::write(path.join(name), "x").unwrap();
        }
        std::fs::write(path.join("00000000000000ab"), "x").unwrap();
        assert_eq!(DirectoryFolder::open(&path).unwrap().list().unwrap(), [0xab]);
    }

    #[test]
    fn a_link_is_not_taken_for_a_segment() {
        let dir = tempfile::tempdir().unwrap();
        let path = private(dir.path(), "log", 0o700);
        std::fs::write(path.join("target"), "x").unwrap();
        std::os::unix::fs::symlink("target", path.join(segment_name(0))).unwrap();
        assert!(DirectoryFolder::open(&path).unwrap().open(0).is_err());
    }
}
