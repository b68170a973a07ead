//! The target of a new image: the name that links lead to, and the file that has this name already.
//!
//! Invariants: only a regular file is replaced, and only while nobody can become its writer. Byte 0 of the file to be
//! replaced is locked shared from the claim until the new image has its name. Called by `atomic`, and by all that make
//! an image.

use super::StorageError;
use super::beside::{FileId, LogBeside};
use super::lock::{ByteLock, LockError, held};
use rustix::fs::{self as rfs, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Most links that are followed one after another, as in Linux.
const LINKS: usize = 40;
/// Number of times that the name may change to another file between the check and the lock before this process gives
/// up.
const ATTEMPTS: usize = 16;

/// Why a new image did not get its name.
#[derive(Debug, Error)]
pub enum AtomicError {
    /// The path of the target does not end with a name.
    #[error("cannot write '{}': this is not a name for a file", .0.display())]
    NoName(PathBuf),
    /// The target exists and must not be replaced, because it is not a regular file.
    #[error("cannot write '{}': it is a {found}, and an image can replace only a regular file", path.display())]
    NotAFile {
        /// Path of the target.
        path: PathBuf,
        /// Kind of the file: for example a directory.
        found: &'static str,
    },
    /// The target's name can only be a directory's.
    #[error("cannot write '{}': a path that ends like this is the name of a directory, and an image is a file", .0.display())]
    DirectoryName(PathBuf),
    /// Another process is writing the same target, or the lock failed.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is an unfinished image, and without locks it is not known whether somebody is writing it.
    #[error(
        "cannot write '{}': another process may be writing it ('{}' is there, and the file system has no locks)",
        image.display(), temporary.display()
    )]
    Unknown {
        /// Path of the target.
        image: PathBuf,
        /// Path of the unfinished image.
        temporary: PathBuf,
    },
    /// The target exists, and the caller did not allow to replace it.
    #[error("cannot write '{}': a file of this name exists already", .0.display())]
    Exists(PathBuf),
    /// There is a thaw log with bytes beside the target. They belong to the image that has, or had, this name.
    #[error(
        "cannot write '{}': its thaw log '{}' holds {bytes} bytes that were written through a mount and may be nowhere else \
         ('floe freeze' brings them into the image; to give these bytes up, remove that directory first)",
        image.display(), log.display()
    )]
    ThawLog {
        /// Path of the target.
        image: PathBuf,
        /// Path of the log's directory.
        log: PathBuf,
        /// Bytes of the log's segments.
        bytes: u64,
    },
    /// It is not known whether there is a thaw log with bytes.
    #[error("cannot write '{}': it is not known whether its thaw log holds anything: {source}", image.display())]
    ThawLogUnknown {
        /// Path of the target.
        image: PathBuf,
        /// Why the thaw log cannot be read.
        #[source]
        source: StorageError,
    },
    /// The operating system reported an error.
    #[error("cannot {operation} '{}': {source}", path.display())]
    Io {
        /// Operation that failed.
        operation: &'static str,
        /// Path of the file on which the operation failed.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// A file that exists already, and its lock if the file system has locks.
#[derive(Debug)]
struct Old {
    file: File,
    _lock: Option<ByteLock>,
}

/// The path at which a new image is to appear, and the file that has this name now.
#[derive(Debug)]
pub struct Target {
    pub(super) folder: OwnedFd,
    pub(super) folder_path: PathBuf,
    pub(super) name: OsString,
    pub(super) replace: bool,
    old: Option<Old>,
}

impl Target {
    /// Follows `path`, which may be a link, also one to a name that does not exist yet. If the file exists and
    /// `replace` is true, nobody can become its writer while the returned value lives.
    ///
    /// # Errors
    /// Fails with [`AtomicError::NotAFile`] and [`AtomicError::DirectoryName`] if an image cannot replace the target;
    /// [`AtomicError::Exists`] without `replace`; [`AtomicError::Lock`] if the file has a writer;
    /// [`AtomicError::ThawLog`] if the bytes of a thaw log with this name would be lost.
    pub fn claim(path: &Path, replace: bool) -> Result<Self, AtomicError> {
        let bytes = path.as_os_str().as_bytes();
        let found = match rfs::stat(path) {
            Ok(stat) => {
                regular(&stat, path)?;
                Some((stat.st_dev, stat.st_ino))
            }
            Err(Errno::NOENT) => None,
            Err(e) => return Err(failed("look at", path)(e)),
        };
        if bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
            return Err(AtomicError::DirectoryName(path.to_owned()));
        }
        let real = follow(path)?;
        let name = real.file_name().ok_or_else(|| AtomicError::NoName(path.to_owned()))?.to_owned();
        let folder_path = match real.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder =
            rfs::open(&folder_path, flags, Mode::empty()).map_err(failed("open the directory", &folder_path))?;
        let mut target = Target { folder, folder_path, name, replace, old: None };
        target.hold()?;
        // A link in /proc leads to a file, not to a name.
        if found.is_some() && found != target.replaced() && real != path {
            return Err(AtomicError::NotAFile { path: path.to_owned(), found: "link to a file that has no name" });
        }
        Ok(target)
    }

    /// Returns the path of the image, with links followed.
    pub fn path(&self) -> PathBuf {
        self.folder_path.join(&self.name)
    }

    /// Returns the thaw log of the image. A claimed target has none that holds bytes.
    ///
    /// # Errors
    /// Fails if the log cannot be read.
    pub fn thaw_log(&self) -> Result<Option<LogBeside>, AtomicError> {
        let image = self.path();
        LogBeside::find(&image).map_err(|source| AtomicError::ThawLogUnknown { image, source })
    }

    /// Returns device and inode number of the directory that holds the image, if they can be found out.
    pub fn directory(&self) -> Option<FileId> {
        let stat = rfs::fstat(&self.folder).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// Returns device and inode number of the file that will be replaced, if there is one.
    pub fn replaced(&self) -> Option<FileId> {
        let metadata = self.old.as_ref()?.file.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    /// Returns owner, group and permission bits of the file that will be replaced, if there is one.
    pub(super) fn replaced_attributes(&self) -> Option<(u32, u32, u32)> {
        let metadata = self.old.as_ref()?.file.metadata().ok()?;
        Some((metadata.uid(), metadata.gid(), metadata.mode() & 0o777))
    }

    /// Makes sure that the file with this name, if there is one, is a regular file without a writer, and that none can
    /// become its writer. Makes sure that no thaw log that has bytes loses its image; without a writer, the log cannot
    /// get bytes later.
    //= format-spec.md#16
    //# A program must not replace an image whose byte 0 another process has locked.
    pub(super) fn hold(&mut self) -> Result<(), AtomicError> {
        self.hold_old()?;
        match self.thaw_log()? {
            Some(LogBeside { directory, bytes, .. }) if bytes > 0 => {
                Err(AtomicError::ThawLog { image: self.path(), log: directory, bytes })
            }
            _ => Ok(()),
        }
    }

    fn hold_old(&mut self) -> Result<(), AtomicError> {
        let path = self.path();
        for _ in 0..ATTEMPTS {
            if let Some(old) = &self.old
                && names(&self.folder, &self.name, &old.file, &path)?
            {
                return Ok(());
            }
            self.old = None;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            let stat = match rfs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(()),
                Err(e) => return Err(failed("look at", &path)(e)),
            };
            // Opening a device can have an effect, so its type is checked before it is opened, and again after.
            regular(&stat, &path)?;
            if !self.replace {
                return Err(AtomicError::Exists(path));
            }
            let file = match rfs::openat(&self.folder, &self.name, flags, Mode::empty()) {
                Ok(fd) => File::from(fd),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(failed("open the file that is there", &path)(e)),
            };
            regular(&rfs::fstat(&file).map_err(failed("look at", &path))?, &path)?;
            let lock = match ByteLock::no_writer(&file) {
                Ok(Some(lock)) => Some(lock),
                Ok(None) => return Err(held(&path).into()),
                Err(LockError::Unsupported(_)) => None,
                Err(other) => return Err(other.into()),
            };
            self.old = Some(Old { file, _lock: lock });
        }
        Err(AtomicError::Exists(path))
    }
}

/// Returns the path with links in its last component followed. The last link may lead to a name that does not exist.
///
/// # Errors
/// Fails if a link cannot be read, or there are too many.
pub fn follow(path: &Path) -> Result<PathBuf, AtomicError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match rfs::readlink(&at, Vec::new()) {
            Ok(link) => {
                let link = PathBuf::from(OsStr::from_bytes(link.to_bytes()));
                at = at.parent().unwrap_or(Path::new("")).join(link);
            }
            // It is not a link, or it does not exist.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(at),
            Err(e) => return Err(failed("follow the link", path)(e)),
        }
    }
    Err(failed("follow the link", path)(Errno::LOOP))
}

/// Returns an error that says what the file is, if it is not a regular file.
fn regular(stat: &rfs::Stat, path: &Path) -> Result<(), AtomicError> {
    let found = match rfs::FileType::from_raw_mode(stat.st_mode) {
        rfs::FileType::RegularFile => return Ok(()),
        rfs::FileType::Directory => "directory",
        rfs::FileType::BlockDevice => "block device",
        rfs::FileType::CharacterDevice => "character device",
        rfs::FileType::Fifo => "FIFO (named pipe)",
        rfs::FileType::Socket => "socket",
        rfs::FileType::Symlink => "symbolic link by now",
        rfs::FileType::Unknown => "file of an unknown kind",
    };
    Err(AtomicError::NotAFile { path: path.to_owned(), found })
}

/// Returns whether `name` in the directory `folder` is still the name of `file`.
pub(super) fn names(folder: &OwnedFd, name: &OsStr, file: &File, path: &Path) -> Result<bool, AtomicError> {
    let ours = file.metadata().map_err(failed("look at", path))?;
    match rfs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (ours.dev(), ours.ino())),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(failed("look at", path)(e)),
    }
}

pub(super) fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> AtomicError {
    let path = path.to_owned();
    move |source| AtomicError::Io { operation, path, source: source.into() }
}
