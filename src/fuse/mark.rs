//! Finds a daemon, waits for it, and reads its last message.
//!
//! A daemon has a [`Mark`] that names its mount. So `umount` finds the right process without asking the mount, and the
//! daemon reports through the mark how it ended. Called by `cli`.

use super::mountpoint::Own;
use super::mounts::{FileSystem, Mount, mounts};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, MemfdFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest message, in bytes, that is read from a daemon.
const MESSAGE_LEN: u64 = 64 << 10;

/// Waits until the process ends, at most for `time`. Returns whether it has ended.
pub(super) fn wait_for_end(process: &OwnedFd, time: Option<Duration>) -> io::Result<bool> {
    let timeout = time.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Identifies a daemon as long as it lives: a file in memory whose name says which mount the daemon serves. Whoever may
/// unmount the mount may see it in /proc. The daemon writes its last message into this file; whoever waits for the
/// daemon has the file open.
pub struct Mark {
    file: File,
}

/// How a daemon ended, with a message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was written is durable.
    Done(String),
    /// Something is lost, or may be, for this reason.
    Failed(String),
}

/// Returns the mount point of the mount that the process `pid` serves, if this process sees that mount.
///
/// # Errors
/// Fails if /proc is not mounted, or there are no descriptors to read it.
pub fn mount_served_by(pid: i32) -> io::Result<Option<PathBuf>> {
    let Some(daemon) = Daemon::with_pid(pid)? else { return Ok(None) };
    let mount = mounts()?.into_iter().find(|mount| mount.file_system() == daemon.served);
    Ok(mount.map(|mount| mount.point))
}

impl Mark {
    /// Marks this process as serving that mount.
    ///
    /// # Errors
    /// Fails if the kernel has no memory for the mark.
    pub fn set(own: &Own) -> io::Result<Self> {
        Ok(Mark { file: rustix::fs::memfd_create(mark(own.file_system()), MemfdFlags::CLOEXEC)?.into() })
    }

    /// Tells those who wait for the daemon that the mount is no longer served, and that the daemon is ending.
    pub fn ending(&self) {
        self.write(ENDING);
    }

    /// Reports how the daemon ends to those who wait for it. Called once, just before it ends.
    pub fn say(&self, outcome: &Outcome) {
        let (first, text) = match outcome {
            Outcome::Done(text) => (b'+', text),
            Outcome::Failed(text) => (b'-', text),
        };
        let bytes: Vec<u8> = std::iter::once(first).chain(text.bytes()).collect();
        self.write(&bytes);
    }

    fn write(&self, bytes: &[u8]) {
        if let Err(error) = self.file.write_all_at(bytes, 0) {
            tracing::warn!(%error, "cannot report how this daemon ends");
        }
    }
}

/// Permission bit of a link in /proc/PID/fd that says that its descriptor is writable.
const OWNER_WRITES: u32 = 0o200;

/// The text in the mark of a daemon that no longer serves its mount.
const ENDING: &[u8] = b".";

/// The first part of a mark's name; the file system follows.
const MARK: &str = "floe-mount ";

fn mark(FileSystem { device: (major, minor), sum }: FileSystem) -> String {
    format!("{MARK}{major}:{minor} {sum:016x}")
}

/// Returns the file system named by a mark. `link` is the mark's name as /proc shows it; `None` if it is not of a mark.
fn marked(link: &OsStr) -> Option<FileSystem> {
    let name = link.to_str()?.strip_prefix("/memfd:")?.strip_suffix(" (deleted)")?;
    let (device, sum) = name.strip_prefix(MARK)?.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(FileSystem { device, sum: u64::from_str_radix(sum, 16).ok()? })
}

/// Returns the opened mark of the process `pid`, if it names a `wanted` file system, and the file system that it names;
/// `None` if the process has ended, or if this process may not look at it.
fn mark_of(pid: i32, wanted: &dyn Fn(FileSystem) -> bool) -> io::Result<Option<(FileSystem, File)>> {
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if is_shortage(&error) => return Err(error),
        Err(_) => return Ok(None),
        Ok(entries) => entries,
    };
    let marked_on = |path: &Path| std::fs::read_link(path).ok().and_then(|link| marked(link.as_os_str()));
    for entry in entries.flatten() {
        let Some(served) = marked_on(&entry.path()).filter(|served| wanted(*served)) else { continue };
        // Whoever waits for a daemon has its mark open, too, but only for reading. /proc shows that in the link's
        // permissions.
        if !entry.path().symlink_metadata().is_ok_and(|link| link.permissions().mode() & OWNER_WRITES != 0) {
            continue;
        }
        // By now the descriptor may be open on something else. Opening must never block.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(entry.path(), flags, Mode::empty()) {
            Err(error) if is_shortage(&error.into()) => return Err(error.into()),
            Err(_) => continue,
            Ok(file) => File::from(file),
        };
        if marked_on(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))) == Some(served) {
            return Ok(Some((served, file)));
        }
    }
    Ok(None)
}

/// Returns whether the process or the system has no descriptors left.
fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A daemon that serves a mount, or did, and that can be awaited.
pub struct Daemon {
    pid: i32,
    process: OwnedFd,
    served: FileSystem,
    mark: File,
}

impl Daemon {
    /// Returns the process that serves a mount, if it lives and this process can see it.
    ///
    /// The kernel reuses the number of a file system once it is unmounted. So a daemon that is still ending may have
    /// the same mark as another mount of the same image. If there are several, the one counts that still serves; and of
    /// those, the one that was marked last.
    ///
    /// # Errors
    /// Fails if /proc is not mounted, or there are no descriptors to read it. Nothing is known then.
    pub fn of(mount: &Mount) -> io::Result<Option<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            found.extend(Self::serving(pid, &|served| served == mount.file_system())?);
        }
        Ok(found.into_iter().max_by_key(|daemon| (!daemon.is_ending(), daemon.marked_at())))
    }

    /// Returns when the mark was made, in seconds and nanoseconds; 0 if the kernel does not tell.
    fn marked_at(&self) -> (i64, u32) {
        let times = rustix::fs::statx(&self.mark, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME);
        times.map_or((0, 0), |times| (times.stx_btime.tv_sec, times.stx_btime.tv_nsec))
    }

    /// Returns the process with this number, if it is a daemon that serves a mount and this process can see it.
    ///
    /// # Errors
    /// Fails if there are no descriptors to look at it. Nothing is known then.
    pub fn with_pid(pid: i32) -> io::Result<Option<Self>> {
        Self::serving(pid, &|_| true)
    }

    fn serving(pid: i32, wanted: &dyn Fn(FileSystem) -> bool) -> io::Result<Option<Self>> {
        if mark_of(pid, wanted)?.is_none() {
            return Ok(None);
        }
        let process = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(process)) => process,
            Some(Err(error)) if is_shortage(&error.into()) => return Err(error.into()),
            // The process has just ended.
            Some(Err(_)) | None => return Ok(None),
        };
        // Look again: the process may have ended meanwhile, and another one may have its number.
        Ok(mark_of(pid, wanted)?.map(|(served, mark)| Daemon { pid, process, served, mark }))
    }

    /// Returns whether the daemon no longer serves, or this process does not see its mount anywhere: the mount is being
    /// unmounted, or is in another namespace.
    ///
    /// A later mount of the same image that got the same number belongs to another daemon.
    ///
    /// # Errors
    /// Fails if /proc is not mounted, or there are no descriptors to read it.
    pub fn is_unmounting(&self) -> io::Result<bool> {
        if self.is_ending() {
            return Ok(true);
        }
        let mount = mounts()?.into_iter().find(|mount| mount.file_system() == self.served);
        let daemon = mount.map(|mount| Daemon::of(&mount)).transpose()?;
        Ok(daemon.is_none_or(|daemon| daemon.is_some_and(|daemon| daemon.pid != self.pid)))
    }

    /// Returns whether the daemon no longer serves and is ending.
    pub fn is_ending(&self) -> bool {
        self.said().is_ok_and(|said| !said.is_empty())
    }

    fn said(&self) -> io::Result<Vec<u8>> {
        let mut said = Vec::new();
        let mut at = 0;
        let mut piece = [0; 4096];
        while at < MESSAGE_LEN {
            match self.mark.read_at(&mut piece, at)? {
                0 => break,
                len => {
                    said.extend_from_slice(piece.get(..len).unwrap_or_default());
                    at += len as u64;
                }
            }
        }
        Ok(said)
    }

    /// Returns the daemon's last message; `None` if there is none yet, or it was killed.
    pub fn outcome(&self) -> Option<Outcome> {
        let said = self.said().ok()?;
        let text = |rest: &[u8]| String::from_utf8_lossy(rest).into_owned();
        match said.split_first()? {
            (b'+', rest) => Some(Outcome::Done(text(rest))),
            (b'-', rest) => Some(Outcome::Failed(text(rest))),
            _ => None,
        }
    }

    /// Returns the daemon's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the daemon ends, at most for `time`. Returns whether it has ended.
    ///
    /// # Errors
    /// Fails if the kernel refuses to wait.
    pub fn wait(&self, time: Duration) -> io::Result<bool> {
        wait_for_end(&self.process, Some(time))
    }
}

#[cfg(test)]
mod tests {
    use super::super::mounts::Device;
    use super::*;
    use std::process::Command;

    fn mount(device: Device) -> Mount {
        let (point, fs_type, source) = Default::default();
        Mount { id: 1, parent: 0, device, point, fs_type, source, is_read_only: false }
    }

    fn marked_for(mount: &Mount) -> Mark {
        Mark { file: rustix::fs::memfd_create(mark(mount.file_system()), MemfdFlags::CLOEXEC).unwrap().into() }
    }

    fn marked_as(device: Device) -> Mark {
        marked_for(&mount(device))
    }

    #[test]
    fn a_process_is_found_by_its_mark_and_no_longer_than_it_has_it() {
        // No file system has such a number.
        let device = (u32::MAX, u32::MAX);
        assert!(Daemon::of(&mount(device)).unwrap().is_none());
        let mark = marked_as(device);
        let me = Daemon::of(&mount(device)).unwrap().unwrap();
        assert_eq!(me.pid(), std::process::id() as i32);
        assert!(me.is_unmounting().unwrap());
        assert!(!me.wait(Duration::ZERO).unwrap());
        assert!(Daemon::of(&mount((u32::MAX, u32::MAX - 1))).unwrap().is_none());
        let another = Mount { source: "another".into(), ..mount(device) };
        assert!(Daemon::of(&another).unwrap().is_none(), "the number alone says nothing");
        drop(mark);
        // (This process still has it open for reading, like anybody who waits for the daemon.)
        assert!(Daemon::of(&mount(device)).unwrap().is_none());
    }

    #[test]
    fn how_a_daemon_ends_is_told_to_those_who_wait() {
        let device = (u32::MAX, u32::MAX - 2);
        let mark = marked_as(device);
        let me = || Daemon::of(&mount(device)).unwrap().unwrap();
        let waiting = me();
        assert_eq!((waiting.outcome(), waiting.is_ending()), (None, false));
        mark.ending();
        assert_eq!((waiting.outcome(), waiting.is_ending()), (None, true));
        let outcome = Outcome::Done("kept".into());
        mark.say(&outcome);
        assert_eq!(waiting.outcome(), Some(outcome));
        mark.say(&Outcome::Failed("lost".into()));
        let waiting = me();
        drop(mark);
        assert_eq!(waiting.outcome(), Some(Outcome::Failed("lost".into())), "the daemon has gone by now");
    }

    /// A process that has a mark and lives until its standard input ends.
    fn daemon(device: Device) -> (std::process::Child, Mark) {
        daemon_for(&mount(device))
    }

    fn daemon_for(mount: &Mount) -> (std::process::Child, Mark) {
        let mark = marked_for(mount);
        let output = mark.file.try_clone().unwrap();
        let child = Command::new("cat").stdin(std::process::Stdio::piped()).stdout(output).spawn().unwrap();
        // From here on, only the child has it open for writing.
        let file = File::open(format!("/proc/self/fd/{}", mark.file.as_raw_fd())).unwrap();
        (child, Mark { file })
    }

    #[test]
    fn of_two_daemons_with_one_number_the_one_that_serves_counts_and_of_those_the_last() {
        let device = (u32::MAX, u32::MAX - 3);
        let found = || Daemon::of(&mount(device)).unwrap().map(|daemon| daemon.pid());
        let write = |mark: &Mark, text: &[u8]| {
            let path = format!("/proc/self/fd/{}", mark.file.as_raw_fd());
            File::options().write(true).open(path).unwrap().write_all_at(text, 0).unwrap();
        };
        let (mut first, first_mark) = daemon(device);
        assert_eq!(found(), Some(first.id() as i32));
        let (mut second, second_mark) = daemon(device);
        assert_eq!(found(), Some(second.id() as i32), "the first may hang");
        write(&second_mark, ENDING);
        assert_eq!(found(), Some(first.id() as i32));
        write(&first_mark, ENDING);
        assert_eq!(found(), Some(second.id() as i32), "both are on their way to the end");
        for child in [&mut first, &mut second] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert_eq!(found(), None);
    }

    #[test]
    fn a_daemon_is_unmounting_though_its_number_is_another_mounts_by_now() {
        // The root is certainly mounted, and no daemon of floe serves it.
        let root = mounts().unwrap().into_iter().find(|mount| mount.point == Path::new("/")).unwrap();
        let daemon_of = |mount: &Mount| Daemon::of(mount).unwrap().unwrap();
        let before = Mount { source: "before".into(), ..root.clone() };
        let mark = marked_for(&before);
        assert!(daemon_of(&before).is_unmounting().unwrap());
        drop(mark);
        let mark = marked_for(&root);
        let me = daemon_of(&root);
        assert!(!me.is_unmounting().unwrap());
        // The same source was mounted again, and got the same number.
        let (mut other, _other_mark) = daemon_for(&root);
        assert_eq!(daemon_of(&root).pid(), other.id() as i32);
        assert!(me.is_unmounting().unwrap());
        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(!me.is_unmounting().unwrap());
        mark.ending();
        assert!(me.is_unmounting().unwrap());
    }

    #[test]
    fn marks_are_told_from_other_files_in_memory() {
        let marked = |text: &str| marked(OsStr::new(text));
        let served = FileSystem { device: (0, 45), sum: 0xf10e };
        assert_eq!(marked(&format!("/memfd:{} (deleted)", mark(served))), Some(served));
        for other in
            ["floe-mount 0:45 1", "floe-mount 0 1 (deleted)", "floe-mount 0:45 (deleted)", "x 0:45 1 (deleted)"]
        {
            assert_eq!(marked(&format!("/memfd:{other}")), None, "{other}");
        }
        assert_eq!(marked("/dev/null"), None);
    }

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let daemon = Daemon { pid, process, served: mount((0, 0)).file_system(), mark: tempfile::tempfile().unwrap() };
        drop(child.stdin.take());
        assert!(daemon.wait(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
    }
}
