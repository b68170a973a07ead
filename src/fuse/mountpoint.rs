//! Mount points: checks them, clears dead mounts, and unmounts.
//!
//! A dead mount is one whose daemon has ended: every access fails with ENOTCONN until somebody unmounts it. Unmounting
//! sends no request to the mount. [`prepare`] may, since whoever mounts there uses the directory anyway.

use super::error::MountError;
use super::mounts::{Device, FileSystem, Mount, mounts, topmost};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Most symlinks that the path of a mount point may go through, as in Linux.
const SYMLINK_HOPS: usize = 40;

/// What unmounting does if somebody still uses the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Unmounting fails.
    IfUnused,
    /// Unmounting takes the mount out of the tree; open files stay readable until they are closed.
    Detach,
}

/// Returns `dir` without links and dots. `dir` itself is not accessed, as it may be a dead mount.
///
/// # Errors
/// Returns the error of the system for the directories above.
pub fn absolute(dir: &Path) -> io::Result<PathBuf> {
    let mut dir = dir.to_path_buf();
    for _ in 0..SYMLINK_HOPS {
        // Paths such as "a/.." and "/" have no last name; they are not dead mounts either.
        let Some(name) = dir.file_name() else { return dir.canonicalize() };
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.canonicalize()?,
            _ => Path::new(".").canonicalize()?,
        };
        let path = parent.join(name);
        // The kernel knows by itself that a mount's root is not a link; stat would send a request to the mount.
        match rustix::fs::readlink(&path, Vec::new()) {
            Ok(target) => dir = parent.join(OsStr::from_bytes(target.to_bytes())),
            Err(_) => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}

/// Returns the topmost mount on `point`, if something is mounted there. Sends no request to a mount.
///
/// # Errors
/// Fails if /proc is not mounted.
pub fn mounted_on(point: &Path) -> Result<Option<Mount>, MountError> {
    let all = mounts().map_err(|error| MountError::Mounts { error })?;
    Ok(topmost(&all, point).cloned())
}

/// Removes dead mounts of floe from `point`. Returns whether there were any.
///
/// # Errors
/// Fails if one could not be removed.
pub fn clear_dead(point: &Path) -> Result<bool, MountError> {
    let mut any = false;
    while let Some(mount) = mounted_on(point)?.filter(Mount::is_floe) {
        // statfs always reaches the daemon; attributes might come from a cache.
        if !matches!(rustix::fs::statfs(point), Err(Errno::NOTCONN)) {
            break;
        }
        unmount(&mount.point, Unmount::Detach)?;
        any = true;
    }
    Ok(any)
}

/// A directory that is ready to be mounted on.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Absolute path of the directory.
    pub point: PathBuf,
    /// Path of the image that is mounted there already. The new mount will hide it.
    pub hides: Option<OsString>,
}

/// Prepares the directory `dir` for mounting `image`, and removes dead mounts of floe from it.
///
/// # Errors
/// Fails if it is not a directory, or the mount would hide the image or its thaw log.
pub fn prepare(dir: &Path, image: &Path) -> Result<Prepared, MountError> {
    let unusable = |error| MountError::Unusable { dir: dir.to_path_buf(), error };
    let point = absolute(dir).map_err(unusable)?;
    clear_dead(&point)?;
    if !point.metadata().map_err(unusable)?.is_dir() {
        return Err(MountError::NotDirectory { dir: point });
    }
    let image = image.canonicalize().map_err(|error| MountError::Unusable { dir: image.to_path_buf(), error })?;
    refuse_overlap(&point, &image)?;
    let hides = mounted_on(&point)?.filter(Mount::is_floe).map(|mount| mount.source);
    Ok(Prepared { point, hides })
}

/// Refuses a mount on the image's directory, or on one above it, because it would hide the image, its lock and its thaw
/// log from all other commands. A mount on a directory *in* the image's directory, beside the image, hides nothing, and
/// is usual (`floe mount a.floe mnt`). In there, only the thaw log's directory belongs to the image.
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

/// A mount of this process, as the kernel identifies it. Other mounts may cover it, or take its place once it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    id: u64,
    file_system: FileSystem,
}

impl Own {
    /// Returns the topmost mount on `point`. Call this immediately after mounting there.
    ///
    /// # Errors
    /// Fails if nothing is mounted there.
    pub(super) fn on(point: &Path) -> Result<Self, MountError> {
        let gone = || MountError::Unusable { dir: point.to_path_buf(), error: Errno::NOENT.into() };
        let mount = mounted_on(point)?.ok_or_else(gone)?;
        Ok(Own { id: mount.id, file_system: mount.file_system() })
    }

    /// Returns which file system is mounted: its device number, and a hash of its type and source.
    pub(super) fn file_system(&self) -> FileSystem {
        self.file_system
    }

    /// Unmounts the mount, wherever it is mounted by now. Does nothing if it is gone. Never touches somebody else's
    /// mount.
    ///
    /// # Errors
    /// Fails if another mount covers it, so that only that one could be unmounted; or if the kernel or fusermount3
    /// refuses.
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        let all = mounts().map_err(|error| MountError::Mounts { error })?;
        let Some(own) = all.iter().find(|mount| (mount.id, mount.file_system()) == (self.id, self.file_system)) else {
            return Ok(());
        };
        if topmost(&all, &own.point) != Some(own) {
            return Err(MountError::Covered { dir: own.point.clone() });
        }
        unmount(&own.point, how)
    }

    /// Aborts the connection to the kernel: all waiting and later requests fail, and so the event loops end. Use it
    /// when the users of the mount do not end. It also works for a detached mount.
    ///
    /// # Errors
    /// Fails if the file system of FUSE connections is not mounted, or is not writable for us.
    pub fn abort(&self) -> io::Result<()> {
        abort_connection(self.file_system.device)
    }
}

/// Aborts the connection of the FUSE mount `mount`, if it is still mounted. Does nothing for a mount that is not of
/// FUSE, or if this process may not abort it.
pub fn abort(mount: &Mount) {
    let is_fuse = mount.fs_type.to_str().is_some_and(|name| name == "fuse" || name.starts_with("fuse."));
    if !is_fuse || mount.device.0 != 0 {
        return;
    }
    // Once a mount is gone, the kernel gives its number to the next one, which may be anybody's. The descriptor keeps
    // the mount, and thus its number. Neither opening it nor reading what the kernel knows sends a request.
    let Ok(root) = open(&mount.point, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let Ok(kept) = statx(&root, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::empty()) else {
        return;
    };
    if (kept.stx_dev_major, kept.stx_dev_minor) == mount.device {
        // Only root may do this, and only if fusectl is mounted. Unmounting goes on in either case.
        let _ = abort_connection(mount.device);
    }
}

/// Aborts a connection. The kernel names a connection by the minor number of its file system; the major number is 0.
fn abort_connection(device: Device) -> io::Result<()> {
    std::fs::write(format!("/sys/fs/fuse/connections/{}/abort", device.1), b"1")
}

/// Unmounts the topmost mount on `point` (absolute); through fusermount3 if only root may unmount. Sends no request to
/// a mount.
///
/// # Errors
/// Returns the error of the kernel or of fusermount3.
pub fn unmount(point: &Path, how: Unmount) -> Result<(), MountError> {
    let flags = match how {
        Unmount::IfUnused => UnmountFlags::NOFOLLOW,
        Unmount::Detach => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    let refused = |error| MountError::Unmount { dir: point.to_path_buf(), error };
    match rustix::mount::unmount(point, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(point, how).map_err(refused),
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
        let point = folder.path().canonicalize().unwrap().join("mnt");
        assert_eq!(prepare("mnt/").unwrap(), Prepared { point, hides: None });
    }

    #[test]
    fn a_link_to_a_mount_point_leads_to_it_and_a_loop_of_links_to_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(path("mnt")).unwrap();
        std::os::unix::fs::symlink("mnt", path("relative")).unwrap();
        std::os::unix::fs::symlink(path("relative"), path("twice")).unwrap();
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        for name in ["mnt", "mnt/", "mnt/.", "relative", "twice", "mnt/../mnt"] {
            assert_eq!(absolute(&path(name)).unwrap(), path("mnt"), "{name}");
        }
        assert_eq!(absolute(&path("missing")).unwrap(), path("missing"));
        assert!(absolute(&path("loop")).is_err());
    }

    #[test]
    fn unmounting_what_is_not_mounted_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let error = unmount(folder.path(), Unmount::IfUnused).unwrap_err();
        assert!(matches!(error, MountError::Unmount { .. }));
        assert!(!clear_dead(folder.path()).unwrap());
    }
}
