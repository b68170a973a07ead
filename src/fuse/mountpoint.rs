//! Mount points: which will do, which are dead, and how one is given up.
//!
//! A dead mount is one whose daemon is gone: every look at it ends in ENOTCONN until somebody unmounts it. Unmounting asks
//! the mount nothing; [`prepare`] may, since whoever mounts there will use the directory anyway.

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

/// As many symlinks a mount point's name may go through, as in Linux.
const SYMLINK_HOPS: usize = 40;

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
/// What the system says of the directories above.
pub fn absolute(dir: &Path) -> io::Result<PathBuf> {
    let mut dir = dir.to_path_buf();
    for _ in 0..SYMLINK_HOPS {
        // Of "a/.." and "/" no name can be taken; they are no dead mounts' names either.
        let Some(name) = dir.file_name() else { return dir.canonicalize() };
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.canonicalize()?,
            _ => Path::new(".").canonicalize()?,
        };
        let path = parent.join(name);
        // Of a mount's root the kernel knows by itself that it is no link; stat would ask the mount.
        match rustix::fs::readlink(&path, Vec::new()) {
            Ok(target) => dir = parent.join(OsStr::from_bytes(target.to_bytes())),
            Err(_) => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}

/// The topmost mount on `point`, if something is mounted there. No mount is asked.
///
/// # Errors
/// /proc is not mounted.
pub fn mounted_on(point: &Path) -> Result<Option<Mount>, MountError> {
    let all = mounts().map_err(|error| MountError::Mounts { error })?;
    Ok(topmost(&all, point).cloned())
}

/// Takes dead mounts of floe off `point`; whether there were any.
///
/// # Errors
/// One could not be taken off.
pub fn clear_dead(point: &Path) -> Result<bool, MountError> {
    let mut any = false;
    while let Some(mount) = mounted_on(point)?.filter(Mount::is_floe) {
        // statfs always goes to the daemon, where attributes might come out of a cache.
        if !matches!(rustix::fs::statfs(point), Err(Errno::NOTCONN)) {
            break;
        }
        unmount(&mount.point, Unmount::Detach)?;
        any = true;
    }
    Ok(any)
}

/// A directory to mount on.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its absolute path.
    pub point: PathBuf,
    /// The image that is mounted there already, which a further mount hides.
    pub hides: Option<OsString>,
}

/// The directory `dir` to mount `image` on, once dead mounts of floe are cleared from it.
///
/// # Errors
/// It is no directory, or mounting there would hide the image or its thaw log.
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

/// A mount of this process, by what the kernel calls it: others may be mounted over it, or in its place once it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    id: u64,
    file_system: FileSystem,
}

impl Own {
    /// The topmost mount on `point`. To be asked at once after mounting there.
    ///
    /// # Errors
    /// Nothing is mounted there.
    pub(super) fn on(point: &Path) -> Result<Self, MountError> {
        let gone = || MountError::Unusable { dir: point.to_path_buf(), error: Errno::NOENT.into() };
        let mount = mounted_on(point)?.ok_or_else(gone)?;
        Ok(Own { id: mount.id, file_system: mount.file_system() })
    }

    /// Its file system.
    pub(super) fn file_system(&self) -> FileSystem {
        self.file_system
    }

    /// Unmounts it, wherever it is mounted by now; does nothing if it is gone. Never touches a mount of somebody else.
    ///
    /// # Errors
    /// Another mount covers it, so that only that one could be unmounted; or the kernel or fusermount3 refuses.
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

    /// Ends the connection to the kernel: all requests that wait, and all later ones, fail, and so its event loops end. To be
    /// used when those who use the mount do not end; works for a mount that is detached.
    ///
    /// # Errors
    /// The file system of FUSE connections is not mounted, or is not ours to write.
    pub fn abort(&self) -> io::Result<()> {
        abort_connection(self.file_system.device)
    }
}

/// Ends the connection of a FUSE mount, if it still is mounted there; of others, and where this is not allowed, nothing.
pub fn abort(mount: &Mount) {
    let is_fuse = mount.fs_type.to_str().is_some_and(|name| name == "fuse" || name.starts_with("fuse."));
    if !is_fuse || mount.device.0 != 0 {
        return;
    }
    // Once a mount is gone, the kernel gives its number to the next one, which may be anybody's. The descriptor keeps the mount,
    // and so its number. Neither opening nor asking for what the kernel knows sends a request.
    let Ok(root) = open(&mount.point, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let Ok(kept) = statx(&root, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::empty()) else {
        return;
    };
    if (kept.stx_dev_major, kept.stx_dev_minor) == mount.device {
        // Only root may, and only where fusectl is mounted; unmounting goes on either way.
        let _ = abort_connection(mount.device);
    }
}

/// The kernel names a connection by the number of its file system, whose major part is 0.
fn abort_connection(device: Device) -> io::Result<()> {
    std::fs::write(format!("/sys/fs/fuse/connections/{}/abort", device.1), b"1")
}

/// Unmounts the topmost mount on `point` (absolute), through fusermount3 where only root may. No mount is asked.
///
/// # Errors
/// The kernel's or fusermount3's refusal.
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
