//! Where an image is to appear: the name that links lead to, and the file that is there already.
//!
//! Invariants: only a regular file is ever replaced, and only while nobody can become its writer: byte 0 of the file that will be
//! replaced is locked, shared, from the claim until the new image has its name. Called by `atomic`, and by who makes an image.

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

/// Links that are followed one after another, as many as Linux follows.
const LINKS: usize = 40;
/// How often the name may change its file between a look and a lock before we give up.
const ATTEMPTS: usize = 16;

/// Why an image did not appear under its name.
#[derive(Debug, Error)]
pub enum AtomicError {
    /// The target does not end in a name.
    #[error("cannot write '{}': it is not a name for a file", .0.display())]
    NoName(PathBuf),
    /// The target is something that must not be replaced.
    #[error("cannot write '{}': it is a {found}, and an image can replace only a regular file", path.display())]
    NotAFile {
        /// The target.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The target is a name for a directory.
    #[error("cannot write '{}': a name that ends like this is a directory's", .0.display())]
    DirectoryName(PathBuf),
    /// Another process is writing the same target, or the locks do not work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is an unfinished image, and the file system cannot tell whether somebody is writing it.
    #[error(
        "cannot write '{}': another process may be writing it ('{}' is there, and the file system has no locks)",
        image.display(), temporary.display()
    )]
    Unknown {
        /// The target.
        image: PathBuf,
        /// The unfinished image.
        temporary: PathBuf,
    },
    /// The target exists and was not to be replaced.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// Beside the target is a thaw log with bytes, which belong to the image that is or was there.
    #[error(
        "cannot write '{}': its thaw log '{}' holds {bytes} bytes that were written through a mount and may be nowhere else \
         ('floe freeze' brings them into the image; to give these bytes up, remove that directory first)",
        image.display(), log.display()
    )]
    ThawLog {
        /// The target.
        image: PathBuf,
        /// The log's directory.
        log: PathBuf,
        /// Bytes of its segments.
        bytes: u64,
    },
    /// It cannot be told whether there is a thaw log with bytes.
    #[error("cannot write '{}': whether its thaw log holds anything is not known: {source}", image.display())]
    ThawLogUnknown {
        /// The target.
        image: PathBuf,
        /// Why not.
        #[source]
        source: StorageError,
    },
    /// The operating system refused.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A file that is there already, and its lock where the file system has locks.
#[derive(Debug)]
struct Old {
    file: File,
    _lock: Option<ByteLock>,
}

/// A name that an image may have, and the file of that name.
#[derive(Debug)]
pub struct Target {
    pub(super) folder: OwnedFd,
    pub(super) folder_path: PathBuf,
    pub(super) name: OsString,
    pub(super) replace: bool,
    old: Option<Old>,
}

impl Target {
    /// Follows `path`, which may be a link, also to a name that does not exist yet. If a file is there and `replace` is true, nobody
    /// can become its writer while this lives.
    ///
    /// # Errors
    /// [`AtomicError::NotAFile`] and [`AtomicError::DirectoryName`] for whatever cannot be replaced by an image,
    /// [`AtomicError::Exists`] without `replace`, [`AtomicError::Lock`] if the file has a writer, [`AtomicError::ThawLog`] if
    /// what is in a thaw log of this name would be lost.
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
        // The links of /proc lead to files, not to names.
        if found.is_some() && found != target.replaced() && real != path {
            return Err(AtomicError::NotAFile { path: path.to_owned(), found: "link to a file that has no name" });
        }
        Ok(target)
    }

    /// The path of the image, with links followed.
    pub fn path(&self) -> PathBuf {
        self.folder_path.join(&self.name)
    }

    /// The thaw log of the image, which holds no bytes.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn thaw_log(&self) -> Result<Option<LogBeside>, AtomicError> {
        let image = self.path();
        LogBeside::find(&image).map_err(|source| AtomicError::ThawLogUnknown { image, source })
    }

    /// Device and inode of the file that will be replaced.
    pub fn replaced(&self) -> Option<FileId> {
        let metadata = self.old.as_ref()?.file.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    /// Makes sure that the file that has the name now, if any, is a regular file that nobody writes, and keeps it so; and that
    /// no bytes of a thaw log lose their image. Without a writer no log grows.
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
            // Opening a device can do something: it is looked at first, and once more when it is open.
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

/// The path with the links at its end followed; the last of them may lead to nothing.
///
/// # Errors
/// If a link cannot be read, or there are too many.
pub fn follow(path: &Path) -> Result<PathBuf, AtomicError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match rfs::readlink(&at, Vec::new()) {
            Ok(link) => {
                let link = PathBuf::from(OsStr::from_bytes(link.to_bytes()));
                at = at.parent().unwrap_or(Path::new("")).join(link);
            }
            // It is no link, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(at),
            Err(e) => return Err(failed("follow the link", path)(e)),
        }
    }
    Err(failed("follow the link", path)(Errno::LOOP))
}

/// Refuses what is no regular file, and says what it is.
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

/// Whether the name (still) means this file.
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
