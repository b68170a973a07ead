//! The process behind a mount: into the background, told to end, waited for.
//!
//! [`fork`] comes before the first thread. What the mount's root says of its process in [`super::DAEMON_XATTR`] is made and
//! read here, so that `umount` waits for the right one.

use super::mountpoint::{Unmount, clear_dead, unmount};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::ForkResult;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest message that a daemon's starter takes from it, in bytes.
const MESSAGE_LEN: u64 = 64 << 10;

/// What the daemon says when it serves; anything longer is why it does not.
const READY: &[u8] = b"+";

/// How long those who still use a mount may go on after the daemon was told to end.
const GRACE: Duration = Duration::from_secs(2);

/// Which of the two processes this is.
pub enum Side {
    /// The one that was started: it waits for the other.
    Starter(Starting),
    /// The daemon, in a session of its own.
    Daemon(Announcer),
}

/// A daemon that has not said yet whether it serves.
pub struct Starting {
    report: File,
}

/// The daemon's means of saying so. Dropped without a word, it means failure.
pub struct Announcer {
    report: File,
}

/// Splits in two. Only the calling thread exists in the daemon, so this comes before any other is started.
///
/// # Errors
/// There is no pipe or no process to be had.
pub fn fork() -> io::Result<Side> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the caller is the only thread, so no lock is held by one that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(Side::Starter(Starting { report: read.into() })),
        ForkResult::Child => {
            // Cannot fail: a process just forked leads no group.
            rustix::process::setsid().ok();
            Ok(Side::Daemon(Announcer { report: write.into() }))
        }
    }
}

impl Starting {
    /// Returns when the daemon serves.
    ///
    /// # Errors
    /// Why it does not, for people to read.
    pub fn wait(self) -> Result<(), String> {
        let mut report = Vec::new();
        self.report.take(MESSAGE_LEN).read_to_end(&mut report).map_err(|error| error.to_string())?;
        match report.as_slice() {
            READY => Ok(()),
            [] => Err("the process in the background ended without a word".into()),
            message => Err(String::from_utf8_lossy(message).into_owned()),
        }
    }
}

impl Announcer {
    /// Lets go of everything that belongs to the starter (working directory, terminal), and tells it that all is well.
    ///
    /// # Errors
    /// /dev/null is missing, or the starter has gone.
    pub fn ready(mut self) -> io::Result<()> {
        rustix::process::chdir("/")?;
        leave_terminal()?;
        self.report.write_all(READY)
    }

    /// Tells the starter why there will be no mount.
    pub fn failed(mut self, message: &str) {
        // If the starter is gone, nobody is left to tell.
        self.report.write_all(message.as_bytes()).ok();
    }
}

fn leave_terminal() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Leaves a process behind that takes the mount off `dir` if this one dies with it (`auto_unmount`). Comes before /dev/fuse
/// is opened, whose descriptor would keep the mount alive in there, and before any thread.
///
/// # Errors
/// There is no process to be had.
pub fn leave_watchman(dir: &Path) -> io::Result<()> {
    let daemon = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    // SAFETY: the caller is the only thread, so no lock is held by one that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            rustix::process::setsid().ok();
            let code = match watch(&daemon, dir) {
                Ok(()) => 0,
                Err(_) => 1,
            };
            std::process::exit(code)
        }
    }
}

fn watch(daemon: &OwnedFd, dir: &Path) -> io::Result<()> {
    rustix::process::chdir("/")?;
    leave_terminal()?;
    close_all_but(daemon)?;
    // A process's end is reported when its descriptors are closed, and so its mount is dead already.
    wait_for_end(daemon, None)?;
    clear_dead(dir).map_err(io::Error::other)?;
    Ok(())
}

/// Closes the image, and above all the pipe that tells the starter of the daemon's end.
fn close_all_but(keep: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    const FIRST: u32 = 3;
    let keep = keep.as_raw_fd() as u32;
    for (first, last) in [(FIRST, keep.saturating_sub(1)), (keep + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: this process only waits and exits; nothing in it uses a descriptor it has inherited, but `keep`.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Waits until the process ends; whether it has.
fn wait_for_end(process: &OwnedFd, time: Option<Duration>) -> io::Result<bool> {
    let timeout = time.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Unmounts when the process is told to end (SIGTERM, SIGINT, SIGHUP).
pub struct Termination {
    ended: SyncSender<()>,
    thread: JoinHandle<()>,
}

fn terminating() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

impl Termination {
    /// From now on such a signal takes the mount out of the tree. If it is still used a while after, `give_up` is called,
    /// to end the process. Comes before any other thread, for they inherit that they do not take these signals.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn watch(dir: PathBuf, give_up: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        terminating().thread_block()?;
        let (ended, has_ended) = sync_channel(1);
        let body = move || on_signal(&dir, &has_ended, give_up);
        let thread = std::thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(Termination { ended, thread })
    }

    /// The mount is served no more: joins the thread.
    pub fn finish(self) {
        // The thread is told, and then woken by such a signal as it waits for. One slot, sent once: neither can fail.
        self.ended.send(()).ok();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).ok();
        self.thread.join().ok();
    }
}

fn on_signal(dir: &Path, has_ended: &Receiver<()>, give_up: impl FnOnce()) {
    // Fails only for a set that is no set.
    terminating().wait().ok();
    if has_ended.try_recv().is_ok() {
        return;
    }
    if let Err(error) = unmount(dir, Unmount::Detach) {
        tracing::error!(%error, "told to end");
    }
    if has_ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
        give_up();
    }
}

/// What [`super::DAEMON_XATTR`] says of this process.
pub fn identity() -> String {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    format!("{pid} {}", start_of(pid).unwrap_or_default())
}

/// When a process started, in clock ticks since boot.
fn start_of(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(19).map(str::to_owned)
}

/// A daemon, to be waited for.
pub struct Daemon {
    pid: i32,
    process: OwnedFd,
}

impl Daemon {
    /// The process that `identity` names, if it can be seen from here and is still that one.
    pub fn find(identity: &str) -> Option<Self> {
        let (pid, start) = identity.split_once(' ')?;
        let pid: i32 = pid.parse().ok().filter(|pid| *pid > 0)?;
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        (start_of(pid)? == start).then_some(Daemon { pid, process })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until it ends, at most `time`; whether it has.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn wait(&self, time: Duration) -> io::Result<bool> {
        wait_for_end(&self.process, Some(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_found_by_what_it_says_of_itself() {
        let me = Daemon::find(&identity()).unwrap();
        assert_eq!(me.pid(), std::process::id() as i32);
        assert!(!me.wait(Duration::ZERO).unwrap());
    }

    #[test]
    fn another_process_with_the_same_number_is_not_taken_for_it() {
        let me = std::process::id();
        for identity in [format!("{me} 1"), format!("{me}"), "x 1".into(), "0 1".into(), "-1 1".into(), String::new()] {
            assert!(Daemon::find(&identity).is_none(), "{identity}");
        }
    }

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let daemon = Daemon::find(&format!("{pid} {}", start_of(pid).unwrap())).unwrap();
        drop(child.stdin.take());
        assert!(daemon.wait(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
    }
}
