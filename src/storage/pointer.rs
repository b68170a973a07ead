//! Where an image's thaw log is: the directory `IMAGE.thaw`, or the directory that a pointer file with this name names.
//!
//! A pointer is one absolute path and a newline. It is written atomically. A pointer never leads to another pointer.

use super::folder::{failed, sync_parent};
use super::{Operation, StorageError};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Most bytes of a pointer file: the longest path of the kernel (PATH_MAX counts a zero byte) and a newline.
const LONGEST: u64 = 4096;

/// Where the thaw log of an image is, as the name `IMAGE.thaw` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThawPlace {
    /// `IMAGE.thaw` does not exist.
    Nowhere,
    /// `IMAGE.thaw` is a directory, the log's own; [`DirectoryFolder::open`](super::DirectoryFolder::open) checks it.
    Directory(PathBuf),
    /// `IMAGE.thaw` is a file that names this path.
    Elsewhere(PathBuf),
}

impl ThawPlace {
    /// Returns the name of an image's thaw log: `IMAGE.thaw`.
    pub fn name(image: &Path) -> PathBuf {
        let mut name = image.as_os_str().to_owned();
        name.push(".thaw");
        PathBuf::from(name)
    }

    /// Finds out where the log is, from `path`, which is from [`ThawPlace::name`].
    ///
    /// # Errors
    /// Fails with `Refused` for a symlink or a special file, for a pointer that others can write to, and for one that
    /// does not hold exactly one absolute path and a newline; or if it cannot be read.
    pub fn find(path: &Path) -> Result<Self, StorageError> {
        let refused = |why| StorageError::Refused { path: path.to_owned(), why };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(ThawPlace::Nowhere),
            Err(Errno::LOOP) => return Err(refused("it is a symlink")),
            Err(errno) => return Err(failed(Operation::Open, path, errno.into())),
        };
        let found = rustix::fs::fstat(&file).map_err(|errno| failed(Operation::Open, path, errno.into()))?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => return Ok(ThawPlace::Directory(path.to_owned())),
            FileType::RegularFile => {}
            _ => return Err(refused("it is neither a directory nor a file")),
        }
        //= format-spec.md#11
        //# A program must refuse a pointer that belongs to another user, that others can write to, or that holds anything else.
        if found.st_uid != rustix::process::geteuid().as_raw() || found.st_mode & 0o022 != 0 {
            return Err(refused("others can write to it"));
        }
        let mut bytes = Vec::new();
        (&file).take(LONGEST + 1).read_to_end(&mut bytes).map_err(|source| failed(Operation::Read, path, source))?;
        let target = bytes.strip_suffix(b"\n").unwrap_or_default();
        if bytes.len() as u64 > LONGEST || !is_target(target) {
            return Err(refused("it does not hold one absolute path and a newline"));
        }
        Ok(ThawPlace::Elsewhere(PathBuf::from(OsStr::from_bytes(target))))
    }
}

fn is_target(path: &[u8]) -> bool {
    path.first() == Some(&b'/') && !path.contains(&b'\n') && !path.contains(&0)
}

/// Makes `path` (`IMAGE.thaw`) a pointer to `target`, durably. An existing pointer is replaced.
///
/// # Errors
/// Fails with `Refused` if `target` is not absolute or has a newline, or `path` is a directory; or if it cannot be
/// written.
pub fn write_pointer(path: &Path, target: &Path) -> Result<(), StorageError> {
    let refused = |why| StorageError::Refused { path: path.to_owned(), why };
    let bytes = target.as_os_str().as_bytes();
    if !is_target(bytes) || bytes.len() as u64 >= LONGEST {
        return Err(refused("its target is not an absolute path without a newline"));
    }
    if let ThawPlace::Directory(_) = ThawPlace::find(path).unwrap_or(ThawPlace::Nowhere) {
        return Err(refused("it is a directory"));
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let write = || {
        // A crash may have left a file with this name. Remove it; do not write into it.
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|source| failed(Operation::Create, &beside, source))?;
    std::fs::rename(&beside, path).map_err(|source| failed(Operation::Rename, path, source))?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pointer_names_its_target_and_can_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = ThawPlace::name(&dir.path().join("a.floe"));
        assert_eq!(path, dir.path().join("a.floe.thaw"));
        assert_eq!(ThawPlace::find(&path).unwrap(), ThawPlace::Nowhere);
        for target in ["/var/lib/a log", "/b"] {
            std::fs::write(dir.path().join("a.floe.thaw.new"), "left by a crash").unwrap();
            write_pointer(&path, Path::new(target)).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), [target.as_bytes(), b"\n"].concat());
            assert_eq!(ThawPlace::find(&path).unwrap(), ThawPlace::Elsewhere(PathBuf::from(target)));
        }
        for target in ["relative", "/with\nnewline", ""] {
            assert!(matches!(write_pointer(&path, Path::new(target)), Err(StorageError::Refused { .. })));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(ThawPlace::find(&path).unwrap(), ThawPlace::Directory(path.clone()));
        assert!(matches!(write_pointer(&path, Path::new("/b")), Err(StorageError::Refused { .. })));
    }

    //= format-spec.md#11
    //= type=test
    //# A program must refuse a pointer that belongs to another user, that others can write to, or that holds anything else.
    #[test]
    fn a_pointer_that_is_not_ours_or_not_one_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.floe.thaw");
        let refused = |what: &str| {
            let found = ThawPlace::find(&path);
            assert!(matches!(found, Err(StorageError::Refused { .. })), "{what}: {found:?}");
        };
        let long = [b"/".as_slice(), &[b'x'; 5000], b"\n"].concat();
        for bytes in [b"".as_slice(), b"\n", b"/b", b"b\n", b"/b\n\n", b"/b\n/c\n", b"/b\0\n", &long] {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            refused(&format!("{:?}", String::from_utf8_lossy(bytes)));
        }
        std::fs::write(&path, "/b\n").unwrap();
        for mode in [0o620, 0o602, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            refused("mode");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            refused("owner");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/b", &path).unwrap();
        refused("symlink");
    }
}
