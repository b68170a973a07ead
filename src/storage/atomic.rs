//! Creates an image so that its name appears only when the image is complete (section 16).
//!
//! The image is written as `.NAME.floe-tmp` in its directory, with byte 0 locked. Then the file is synced and renamed,
//! and the directory is synced. Nobody sees the image before the rename. If the process dies, it leaves the file
//! without a lock, and the next process that writes the same name removes it. Called by `pack` and by all others that
//! make an image.

use super::lock::{ByteLock, LockError, Note, Owner, held};
use super::target::{AtomicError, Target, failed, names};
use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest file name on Linux, in bytes.
const NAME_MAX: usize = 255;
const SUFFIX: &[u8] = b".floe-tmp";
/// Number of times that another process may win the race for the temporary name before this one gives up.
const ATTEMPTS: usize = 16;

/// A file that gets its name when it is finished. If it is dropped before that, nothing remains.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    target: Target,
    temporary: OsString,
    renamed: bool,
    // Fields are dropped after `drop` has run: the temporary name goes before the note does, and the note before the lock.
    note: Option<Note>,
    _lock: Option<ByteLock>,
}

impl AtomicFile {
    /// Makes an empty file with mode 0600. [`AtomicFile::finish`] gives it the target's name. Until then `IMAGE.lock`
    /// names `writer`.
    ///
    /// # Errors
    /// Fails with [`LockError::Held`] if another process is doing the same.
    pub fn create(target: Target, writer: Option<&Owner>) -> Result<Self, AtomicError> {
        let temporary = temporary_name(&target.name);
        let path = target.folder_path.join(&temporary);
        for _ in 0..ATTEMPTS {
            if let Some((file, lock)) = create_locked(&target.folder, &temporary, &path)? {
                // The lock works without the note, too.
                let note = writer.and_then(|writer| Note::write(&target.path(), writer).ok());
                return Ok(AtomicFile { file, target, temporary, renamed: false, note, _lock: lock });
            }
            remove_leftover(&target, &temporary, &path)?;
        }
        Err(held(&target.path()).into())
    }

    /// Returns the file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the path of the file until it is finished.
    pub fn temporary_path(&self) -> PathBuf {
        self.target.folder_path.join(&self.temporary)
    }

    /// Returns the target whose name the file gets when it is finished.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns device and inode numbers of the file itself and, if it was written, of `IMAGE.lock`.
    ///
    /// # Errors
    /// Fails if the file's metadata cannot be read.
    pub fn own_inodes(&self) -> io::Result<Vec<(u64, u64)>> {
        let own = self.file.metadata()?;
        let note = self.note.as_ref().and_then(|note| note.path().symlink_metadata().ok());
        Ok(std::iter::once(own).chain(note).map(|file| (file.dev(), file.ino())).collect())
    }

    /// Sets the mode (permission bits, as for `chmod`), makes all of the file durable, and then gives it its name. If
    /// it replaces a file, it gets the owner, group and permission bits of that file, and `mode` is ignored. If it
    /// cannot get that owner and group, it gets only the permission bits for the owner.
    ///
    /// # Errors
    /// Fails with [`AtomicError::Exists`] if the name exists by now and must not be replaced. After any error the name
    /// is as it was, except after an error of the last step, which syncs the directory.
    pub fn finish(mut self, mode: u32) -> Result<(), AtomicError> {
        let path = self.temporary_path();
        let mode = match self.target.replaced_attributes() {
            None => mode,
            Some((owner, group, mode)) => match std::os::unix::fs::fchown(&self.file, Some(owner), Some(group)) {
                Ok(()) => mode,
                Err(_) => mode & 0o700,
            },
        };
        self.file.set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(failed("set the mode of", &path))?;
        self.file.sync_all().map_err(failed("sync", &path))?;
        self.target.hold()?;
        self.rename()?;
        self.renamed = true;
        rfs::fsync(&self.target.folder).map_err(failed("sync the directory", &self.target.folder_path))
    }

    fn rename(&self) -> Result<(), AtomicError> {
        let Target { folder, name, replace, .. } = &self.target;
        let from = &self.temporary;
        let renamed = if *replace {
            rfs::renameat(folder, from, folder, name)
        } else {
            match rfs::renameat_with(folder, from, folder, name, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.link_then_unlink(),
                other => other,
            }
        };
        match renamed {
            Err(Errno::EXIST) if !replace => Err(AtomicError::Exists(self.target.path())),
            other => other.map_err(failed("rename the new file to", &self.target.path())),
        }
    }

    /// Gives the file its name by link and unlink, on file systems without RENAME_NOREPLACE.
    fn link_then_unlink(&self) -> Result<(), Errno> {
        let Target { folder, name, .. } = &self.target;
        rfs::linkat(folder, &self.temporary, folder, name, AtFlags::empty())?;
        // The image has its name now. If the temporary name stays, a later writer removes it as a leftover.
        let _ = rfs::unlinkat(folder, &self.temporary, AtFlags::empty());
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.renamed {
            // There is nobody to report an error to; without its lock the file counts as a leftover.
            let _ = rfs::unlinkat(&self.target.folder, &self.temporary, AtFlags::empty());
        }
    }
}

/// A file, and its lock if the file system has locks.
type LockedFile = (File, Option<ByteLock>);

/// Creates and locks the temporary file. Returns `None` if the name exists, or if another process removed it before the
/// file was locked.
fn create_locked(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<LockedFile>, AtomicError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rfs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => File::from(fd),
        Err(Errno::EXIST) => return Ok(None),
        Err(e) => return Err(failed("create", path)(e)),
    };
    let lock = match ByteLock::writer(&file) {
        Ok(Some(lock)) => Some(lock),
        // Another process took it for a leftover after it was made and before it was locked.
        Ok(None) => return Ok(None),
        Err(LockError::Unsupported(_)) => None,
        Err(other) => {
            if names(folder, name, &file, path)? {
                // Report the error of the lock instead.
                let _ = rfs::unlinkat(folder, name, AtFlags::empty());
            }
            return Err(other.into());
        }
    };
    Ok(names(folder, name, &file, path)?.then_some((file, lock)))
}

/// Removes the file with the temporary name, if nobody has locked it.
fn remove_leftover(target: &Target, name: &OsStr, path: &Path) -> Result<(), AtomicError> {
    let folder = &target.folder;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rfs::openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed("open what was left by a crash", path)(e)),
    };
    if !file.metadata().map_err(failed("look at", path))?.is_file() {
        return Err(failed("write", path)(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let _lock = match ByteLock::writer(&file) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(held(&target.path()).into()),
        Err(LockError::Unsupported(_)) => {
            return Err(AtomicError::Unknown { image: target.path(), temporary: path.to_owned() });
        }
        Err(other) => return Err(other.into()),
    };
    // Only the holder of the lock removes the name, so nobody else does between this check and the removal.
    if names(folder, name, &file, path)? {
        match rfs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed("remove what was left by a crash", path)(e)),
        }
    }
    Ok(())
}

/// Returns the temporary name: `.NAME.floe-tmp`, or `.HASH.floe-tmp` if that would be too long.
fn temporary_name(name: &OsStr) -> OsString {
    let of = |middle: &[u8]| OsString::from_vec([b".", middle, SUFFIX].concat());
    if 1 + name.len() + SUFFIX.len() <= NAME_MAX {
        of(name.as_bytes())
    } else {
        of(blake3::hash(name.as_bytes()).to_hex().as_bytes().first_chunk::<32>().map_or(&[][..], |half| half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_rename_that_never_replaces_a_link_does_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let claim = || Target::claim(&target, false).unwrap();
        let (first, second) = (claim(), claim());
        let first = AtomicFile::create(first, None).unwrap();
        first.link_then_unlink().unwrap();
        assert!(target.exists() && !first.temporary_path().exists());
        let second = AtomicFile::create(second, None).unwrap();
        assert_eq!(second.link_then_unlink(), Err(Errno::EXIST));
        assert!(second.temporary_path().exists());
    }
}
