//! A writable mount and a plain directory side by side; tests do the same to both.

use super::compare::{What, assert_same_only};
use super::{Lab, Mounted, floe, floe_command, run};
use rustix::io::Errno;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What both have in common however long a step takes: times are compared only where a test sets them.
pub const ALIKE: What = What { mtime: false, holes: false, ..What::ALL };

/// The two. Dropping it unmounts.
pub struct Twin {
    // Dropped before the lab that contains it.
    mount: Option<Mounted>,
    plain: PathBuf,
    dir: PathBuf,
    image: PathBuf,
    options: String,
    _lab: Lab,
}

impl Twin {
    /// An empty image, mounted with `rw` and more options, and an empty directory.
    pub fn new(options: &str) -> Self {
        let lab = Lab::new();
        let image = lab.image("twin.floe");
        floe!("mkfs", &image).exits(0);
        let (plain, dir) = (lab.tree("plain"), lab.mount_point("m"));
        let options = format!("rw,suid,dev,{options}");
        let mut twin = Twin { mount: None, plain, dir, image, options, _lab: lab };
        twin.mount();
        twin.both(|dir| fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(|e| e.kind()));
        twin
    }

    /// Mounts the image again.
    pub fn mount(&mut self) {
        assert!(self.mount.is_none());
        self.mount = Some(Mounted::new(&self.image, &self.dir, &["-o", &self.options]));
    }

    /// Unmounts it.
    pub fn unmount(&mut self) {
        self.mount.take().expect("it is mounted").unmount();
    }

    /// The mount's daemon was killed, so there is nothing to unmount in order.
    pub fn forget_mount(&mut self) {
        std::mem::forget(self.mount.take());
    }

    /// Does the same in both; the results must be equal.
    #[track_caller]
    pub fn both<T: PartialEq + std::fmt::Debug>(&self, step: impl Fn(&Path) -> T) {
        self.value(step);
    }

    /// Like `both`. Returns the result.
    #[track_caller]
    pub fn value<T: PartialEq + std::fmt::Debug>(&self, step: impl Fn(&Path) -> T) -> T {
        let (plain, mounted) = (step(&self.plain), step(&self.dir));
        assert_eq!(plain, mounted, "on the left what the plain directory gave, on the right what the mount gave");
        mounted
    }

    /// Both are equal now.
    #[track_caller]
    pub fn check(&self) {
        assert_same_only(&self.plain, &self.dir, ALIKE);
    }

    /// Both are equal now, and also after the image was unmounted and mounted again.
    #[track_caller]
    pub fn check_and_remount(&mut self) {
        self.check();
        self.unmount();
        self.mount();
        self.check();
    }

    /// The plain directory.
    pub fn plain(&self) -> &Path {
        &self.plain
    }

    /// The mount point of the image.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image.
    pub fn image(&self) -> &Path {
        &self.image
    }
}

/// An error's number, so that results can be compared.
pub fn errno<T>(result: rustix::io::Result<T>) -> Result<T, i32> {
    result.map_err(Errno::raw_os_error)
}

/// Like [`errno`], for results of the standard library.
pub fn os<T>(result: std::io::Result<T>) -> Result<T, i32> {
    result.map_err(|error| error.raw_os_error().unwrap_or(0))
}

/// Runs `step` on a thread with another user's rights.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], step: impl FnOnce() -> T + Send) -> T {
    use rustix::process::{Gid, Uid};
    let run = || {
        let groups: Vec<_> = groups.iter().map(|&group| Gid::from_raw(group)).collect();
        rustix::thread::set_thread_groups(&groups).expect("root may set groups");
        rustix::thread::set_thread_gid(Gid::from_raw(gid)).expect("root may set its group");
        rustix::thread::set_thread_uid(Uid::from_raw(uid)).expect("root may set its user");
        step()
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("the step does not panic"))
}
