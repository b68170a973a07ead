//! A mount that is unmounted when its value is dropped; a failure there fails the test.

use super::guardian::{self, Guardian};
use super::run::{Run, floe_command, run};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// An image mounted on a directory. Dropping it runs `floe umount` and fails the test if that fails. After a time limit
/// its connection is aborted.
pub struct Mounted {
    dir: PathBuf,
    mounted: bool,
    guardian: Option<Guardian>,
}

impl Mounted {
    /// Mounts, read-only unless the options contain `rw`, and returns after it is mounted.
    #[track_caller]
    pub fn new(image: &Path, dir: &Path, options: &[&str]) -> Self {
        Self::as_asked(image, dir, &[&["-o", "ro"], options].concat())
    }

    /// The same without `ro`: writable if nothing prevents it.
    #[track_caller]
    pub fn as_asked(image: &Path, dir: &Path, options: &[&str]) -> Self {
        let guardian = Some(Guardian::over(dir, guardian::MOUNT));
        let mut command = floe_command(["mount"]);
        command.args(options).arg(image).arg(dir);
        run(command).exits(0);
        assert!(is_mounted(dir), "'floe mount' returned 0, but nothing is mounted at {}", dir.display());
        Mounted { dir: dir.to_owned(), mounted: true, guardian }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A path below the mount point.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Unmounts now.
    #[track_caller]
    pub fn unmount(mut self) {
        self.unmount_or_say().unwrap_or_else(|e| panic!("{e}"));
    }

    fn unmount_or_say(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.mounted) {
            return Ok(());
        }
        let done = unmounted_by(|| {
            let mut command = floe_command(["umount"]);
            command.arg(&self.dir);
            command
        });
        if done.code == Some(0) && !is_mounted(&self.dir) {
            return Ok(());
        }
        // Whatever went wrong, leave no dead mount for the next test.
        self.guardian = None;
        Err(format!("'floe umount {}' failed: {done:?}", self.dir.display()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(message) = self.unmount_or_say() {
            if std::thread::panicking() {
                eprintln!("{message}");
            } else {
                panic!("{message}");
            }
        }
    }
}

/// Runs a command that unmounts, and repeats it if the mount is in use. Each `floe umount` of another test lists this
/// process's open files, which keeps them in use slightly longer than they are open.
#[track_caller]
pub fn unmounted_by(command: impl Fn() -> Command) -> Run {
    let was_in_use = |run: &Run| run.code != Some(0) && ["is busy", "in use"].iter().any(|w| run.stderr.contains(w));
    let mut done = run(command());
    for _ in 0..100 {
        if !was_in_use(&done) {
            break;
        }
        done = run(command());
    }
    done
}

/// Processes that have the image open: the daemons of its mounts.
pub fn daemons(image: &Path) -> Vec<Pid> {
    let image = image.canonicalize().expect("the image is there");
    let has_it_open = |pid: i32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        Some(fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == image)))
    };
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| pid != std::process::id() as i32 && has_it_open(pid) == Some(true))
        .filter_map(Pid::from_raw)
        .collect()
}

/// Waits until a process that is not our child has ended.
#[track_caller]
pub fn wait_until_ended(pid: Pid) {
    if let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) {
        assert!(ends_within(&process, Duration::from_secs(300)), "process {pid:?} has not ended");
    }
}

/// Whether the process of a pidfd ends within `time`.
pub fn ends_within(process: &OwnedFd, time: Duration) -> bool {
    let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.expect("a pidfd can be polled") > 0,
        }
    }
}

/// The counters of a mount, by name.
pub fn counters(mount: &Path) -> HashMap<String, u64> {
    let mut text = [0; 4096];
    let len = rustix::fs::getxattr(mount, "user.floe.counters", &mut text).expect("a mount counts");
    let text = std::str::from_utf8(&text[..len]).expect("counters are text");
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(n, c)| (n.into(), c.parse().expect("a number")))
        .collect()
}

/// The line of /proc/self/mounts for a mount point, if there is one.
pub fn mount_line(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let escaped = dir.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    mounts.lines().find(|l| l.split(' ').nth(1) == Some(&escaped)).map(str::to_owned)
}

/// Whether something is mounted on the directory.
pub fn is_mounted(dir: &Path) -> bool {
    mount_line(dir).is_some()
}
