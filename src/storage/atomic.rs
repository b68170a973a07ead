//! How an image appears under its name only when it is complete (section 16).
//!
//! It is written as `.NAME.floe-tmp` in the folder of its name, with byte 0 locked; then synced, renamed, and the
//! folder synced. Until the rename nobody sees it; if the process dies, the file is left without a lock, and the next
//! one to write the same name removes it. Called by `pack` and by whatever else makes an image.

use super::lock::{ByteLock, LockError};
use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Longest name Linux file systems take, in bytes.
const NAME_MAX: usize = 255;
const SUFFIX: &[u8] = b".floe-tmp";
/// How often another process may win the race for the temporary name before we give up.
const ATTEMPTS: usize = 16;

/// Why an image did not appear under its name.
#[derive(Debug, Error)]
pub enum AtomicError {
    /// The target does not end in a name.
    #[error("{}: not a name for a file", .0.display())]
    NoName(PathBuf),
    /// Another process is writing the same target.
    #[error("{}: another process is writing it, or this file system has no locks and it was left by a crash: then remove it", .0.display())]
    Busy(PathBuf),
    /// The target exists and was not to be replaced.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
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

/// A file that will have its name when it is finished. Dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    folder: OwnedFd,
    folder_path: PathBuf,
    name: OsString,
    temporary: OsString,
    renamed: bool,
    // Fields are dropped after `drop` has run: the temporary name goes before the lock does.
    _lock: Option<ByteLock>,
}

impl AtomicFile {
    /// Makes an empty file, mode 0600, that [`AtomicFile::finish`] will call `target`.
    ///
    /// # Errors
    /// [`AtomicError::Busy`] if another process is doing the same.
    pub fn create(target: &Path) -> Result<Self, AtomicError> {
        let name = target.file_name().ok_or_else(|| AtomicError::NoName(target.to_owned()))?.to_owned();
        let folder_path = match target.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rfs::open(&folder_path, flags, Mode::empty()).map_err(failed("open the folder", &folder_path))?;
        let temporary = temporary_name(&name);
        let path = folder_path.join(&temporary);
        for _ in 0..ATTEMPTS {
            if let Some((file, lock)) = create_locked(&folder, &temporary, &path)? {
                let renamed = false;
                return Ok(AtomicFile { file, folder, folder_path, name, temporary, renamed, _lock: lock });
            }
            remove_leftover(&folder, &temporary, &path)?;
        }
        Err(AtomicError::Busy(path))
    }

    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it lies until it is finished.
    pub fn temporary_path(&self) -> PathBuf {
        self.folder_path.join(&self.temporary)
    }

    /// Gives the file its mode (permission bits, as `chmod` takes them) and, when all of it is durable, its name.
    ///
    /// # Errors
    /// [`AtomicError::Exists`] if the name is taken and not to be replaced. After any error but that of syncing the
    /// folder, which comes last, the name is as it was.
    pub fn finish(mut self, mode: u32, replace: bool) -> Result<(), AtomicError> {
        let path = self.temporary_path();
        self.file.set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(failed("set the mode", &path))?;
        self.file.sync_all().map_err(failed("sync", &path))?;
        self.rename(replace)?;
        self.renamed = true;
        rfs::fsync(&self.folder).map_err(failed("sync the folder", &self.folder_path))
    }

    fn rename(&self, replace: bool) -> Result<(), AtomicError> {
        let target = self.folder_path.join(&self.name);
        let (from, to) = (&self.temporary, &self.name);
        let renamed = if replace {
            rfs::renameat(&self.folder, from, &self.folder, to)
        } else {
            match rfs::renameat_with(&self.folder, from, &self.folder, to, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.link_then_unlink(),
                other => other,
            }
        };
        match renamed {
            Err(Errno::EXIST) if !replace => Err(AtomicError::Exists(target)),
            other => other.map_err(failed("rename to its name", &target)),
        }
    }

    /// For file systems that cannot rename without replacing.
    fn link_then_unlink(&self) -> Result<(), Errno> {
        rfs::linkat(&self.folder, &self.temporary, &self.folder, &self.name, AtFlags::empty())?;
        // The image has its name now; a temporary one that stays is removed as a leftover later.
        let _ = rfs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.renamed {
            // Nobody can be told; without its lock it counts as a leftover.
            let _ = rfs::unlinkat(&self.folder, &self.temporary, AtFlags::empty());
        }
    }
}

/// A file, and its lock where the file system has locks.
type LockedFile = (File, Option<ByteLock>);

/// `None` if the name is taken, or was taken from us before the file was locked.
fn create_locked(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<LockedFile>, AtomicError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rfs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => File::from(fd),
        Err(Errno::EXIST) => return Ok(None),
        Err(e) => return Err(failed("create", path)(e)),
    };
    let lock = match ByteLock::writer(&file) {
        Ok(Some(lock)) => Some(lock),
        // Between our making it and our locking it, another process took it for a leftover.
        Ok(None) => return Ok(None),
        Err(LockError::Unsupported(_)) => None,
        Err(LockError::Io(e)) => return Err(failed("lock", path)(e)),
        Err(other) => return Err(failed("lock", path)(io::Error::other(other))),
    };
    Ok(names(folder, name, &file, path)?.then_some((file, lock)))
}

/// Removes the file of that name, if nobody has it locked.
fn remove_leftover(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), AtomicError> {
    let busy = || AtomicError::Busy(path.to_owned());
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rfs::openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed("open what was left by a crash", path)(e)),
    };
    if !file.metadata().map_err(failed("look at", path))?.is_file() {
        return Err(busy());
    }
    let _lock = match ByteLock::writer(&file) {
        Ok(Some(lock)) => lock,
        Ok(None) | Err(LockError::Unsupported(_)) => return Err(busy()),
        Err(LockError::Io(e)) => return Err(failed("lock", path)(e)),
        Err(other) => return Err(failed("lock", path)(io::Error::other(other))),
    };
    // Only who holds the lock removes the name, so between this look and the removal nobody else does.
    if names(folder, name, &file, path)? {
        match rfs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("remove what was left by a crash", path)(e)),
        }
    }
    Ok(())
}

/// Whether the name (still) means this file.
fn names(folder: &OwnedFd, name: &OsStr, file: &File, path: &Path) -> Result<bool, AtomicError> {
    let ours = file.metadata().map_err(failed("look at", path))?;
    match rfs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (ours.dev(), ours.ino())),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(failed("look at", path)(e)),
    }
}

/// `.NAME.floe-tmp`, or `.HASH.floe-tmp` where that would be too long for a name.
fn temporary_name(name: &OsStr) -> OsString {
    let of = |middle: &[u8]| OsString::from_vec([b".", middle, SUFFIX].concat());
    if 1 + name.len() + SUFFIX.len() <= NAME_MAX {
        of(name.as_bytes())
    } else {
        of(&blake3::hash(name.as_bytes()).to_hex().as_bytes()[..32])
    }
}

fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> AtomicError {
    let path = path.to_owned();
    move |source| AtomicError::Io { operation, path, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_rename_that_never_replaces_a_link_does_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let first = AtomicFile::create(&target).unwrap();
        first.link_then_unlink().unwrap();
        assert!(target.exists() && !first.temporary_path().exists());
        let second = AtomicFile::create(&target).unwrap();
        assert_eq!(second.link_then_unlink(), Err(Errno::EXIST));
        assert!(second.temporary_path().exists());
    }
}
