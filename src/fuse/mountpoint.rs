//! Mount points: which will do, which are dead, and how one is given up.
//!
//! A dead mount is one whose daemon is gone: every look at it ends in ENOTCONN until somebody unmounts it.

use super::error::MountError;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How an unmount treats those who still use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// It fails while anybody does.
    IfUnused,
    /// It takes the mount out of the tree; what is open stays readable until it is closed.
    Detach,
}

/// `dir` without links or dots, without a look at `dir` itself, which may be dead.
///
/// # Errors
/// What the system says of the folders above.
pub fn absolute(dir: &Path) -> io::Result<PathBuf> {
    // Of "a/.." and "/" no name can be taken; they are no dead mounts' names either.
    let Some(name) = dir.file_name() else { return dir.canonicalize() };
    if dir.is_symlink() {
        return dir.canonicalize();
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(parent.canonicalize()?.join(name))
}

/// Whether `dir` is a mount whose daemon is gone.
pub fn is_dead(dir: &Path) -> bool {
    // statfs always goes to the daemon, where attributes might come out of a cache.
    matches!(rustix::fs::statfs(dir), Err(Errno::NOTCONN))
}

/// Takes a dead mount off `dir`; whether there was one.
///
/// # Errors
/// It could not be taken off.
pub fn clear_dead(dir: &Path) -> Result<bool, MountError> {
    let mut any = false;
    while is_dead(dir) {
        unmount(dir, Unmount::Detach)?;
        any = true;
    }
    Ok(any)
}

/// The path to mount `image` on, `dir` made absolute, once a dead mount is cleared from it.
///
/// # Errors
/// It is no directory, or mounting there would hide the image or its thaw log.
pub fn prepare(dir: &Path, image: &Path) -> Result<PathBuf, MountError> {
    let unusable = |error| MountError::Unusable { dir: dir.to_path_buf(), error };
    let point = absolute(dir).map_err(unusable)?;
    clear_dead(&point)?;
    if !point.metadata().map_err(unusable)?.is_dir() {
        return Err(MountError::NotDirectory { dir: point });
    }
    let image = image.canonicalize().map_err(|error| MountError::Unusable { dir: image.to_path_buf(), error })?;
    refuse_overlap(&point, &image)?;
    Ok(point)
}

/// Mounted on the image's folder or above, a mount would hide the image, its lock and its thaw log from every other command.
/// A directory *in* the image's folder, beside the image, hides nothing and is where people mount (`floe mount a.floe mnt`);
/// of what lies inside only the thaw log's folder is the image's own.
fn refuse_overlap(point: &Path, image: &Path) -> Result<(), MountError> {
    if image.starts_with(point) {
        return Err(MountError::HidesImage { dir: point.to_path_buf(), image: image.to_path_buf() });
    }
    let mut thaw = OsString::from(image);
    thaw.push(".thaw");
    if point.starts_with(thaw) {
        return Err(MountError::InThawLog { dir: point.to_path_buf() });
    }
    Ok(())
}

/// Unmounts `dir`, through fusermount3 where only root may.
///
/// # Errors
/// The kernel's or fusermount3's refusal.
pub fn unmount(dir: &Path, how: Unmount) -> Result<(), MountError> {
    let flags = match how {
        Unmount::IfUnused => UnmountFlags::NOFOLLOW,
        Unmount::Detach => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    let refused = |error| MountError::Unmount { dir: dir.to_path_buf(), error };
    match rustix::mount::unmount(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(dir, how).map_err(refused),
        Err(errno) => Err(refused(errno.into())),
    }
}

fn fusermount(dir: &Path, how: Unmount) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how == Unmount::Detach {
        command.arg("-z");
    }
    let output = command.arg("--").arg(dir).stdin(Stdio::null()).output().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("only root may unmount without fusermount3, and that does not run: {error}"),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(point: &str) -> Option<MountError> {
        refuse_overlap(Path::new(point), Path::new("/data/images/a.floe")).err()
    }

    #[test]
    fn a_mount_that_would_hide_its_image_is_refused() {
        for point in ["/", "/data", "/data/images"] {
            assert!(matches!(refusal(point), Some(MountError::HidesImage { .. })), "{point}");
        }
    }

    #[test]
    fn a_mount_beside_the_image_is_fine() {
        for point in ["/mnt", "/data/images/mnt", "/data/image", "/data/images/a.floe.d"] {
            assert!(refusal(point).is_none(), "{point}");
        }
    }

    #[test]
    fn the_thaw_log_is_not_mounted_over() {
        for point in ["/data/images/a.floe.thaw", "/data/images/a.floe.thaw/x"] {
            assert!(matches!(refusal(point), Some(MountError::InThawLog { .. })), "{point}");
        }
    }

    #[test]
    fn a_mount_point_must_be_a_directory_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.floe");
        std::fs::write(&image, b"").unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        let prepare = |name: &str| prepare(&folder.path().join(name), &image);
        assert!(matches!(prepare("file"), Err(MountError::NotDirectory { .. })));
        assert!(matches!(prepare("missing"), Err(MountError::Unusable { .. })));
        assert!(matches!(prepare("mnt/.."), Err(MountError::HidesImage { .. })));
        assert_eq!(prepare("mnt/").unwrap(), folder.path().canonicalize().unwrap().join("mnt"));
    }

    #[test]
    fn unmounting_what_is_not_mounted_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = unmount(folder.path(), Unmount::IfUnused).unwrap_err();
        assert!(matches!(error, MountError::Unmount { .. }));
        assert!(!clear_dead(folder.path()).unwrap());
    }
}
