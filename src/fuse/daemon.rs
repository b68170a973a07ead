//! The process behind a mount: into the background, told to end, waited for.
//!
//! [`fork`] comes before the first thread. A daemon carries a [`Mark`] that names its mount, so that `umount` finds the right
//! process without a question to the mount.

use super::mountpoint::{Own, Unmount, clear_dead};
use super::mounts::{Device, Mount};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::ForkResult;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
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

/// Descriptors that this process was started with, besides standard input, output and error. They belong to the caller: a
/// daemon that kept them would hold the caller's locks, and keep whoever reads a pipe to its end waiting.
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Those that are open now. To be asked before this process opens any of its own.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn now() -> io::Result<Self> {
        Ok(Inherited(descriptors()?))
    }

    fn close(self) {
        self.0.into_iter().for_each(close);
    }
}

/// Descriptors from 3 on that are open now.
fn descriptors() -> io::Result<Vec<RawFd>> {
    const FIRST: RawFd = 3;
    let dir = rustix::fs::open("/proc/self/fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut dir = rustix::fs::Dir::new(dir)?;
    let mut found = Vec::new();
    for entry in dir.by_ref() {
        let number: Option<RawFd> = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok());
        found.extend(number.filter(|number| *number >= FIRST));
    }
    let itself = dir.fd()?.as_raw_fd();
    found.retain(|number| *number != itself);
    Ok(found)
}

fn close(number: RawFd) {
    // SAFETY: the callers give descriptors that were inherited, which nothing in this process owns, and each only once.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

/// Splits in two. Only the calling thread exists in the daemon, so this comes before any other is started. The daemon closes
/// what was inherited from the caller.
///
/// # Errors
/// There is no pipe or no process to be had.
pub fn fork(inherited: Inherited) -> io::Result<Side> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the caller is the only thread, so no lock is held by one that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(Side::Starter(Starting { report: read.into() })),
        ForkResult::Child => {
            // Cannot fail: a process just forked leads no group.
            rustix::process::setsid().ok();
            inherited.close();
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
    // This process only waits and exits: whatever owns these descriptors is never used or dropped in it.
    descriptors()?.into_iter().filter(|number| *number != keep.as_raw_fd()).for_each(close);
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

/// Unmounts when the process is told to end: by SIGTERM, and by SIGINT and SIGHUP unless whoever started it has it ignore them
/// (nohup, a shell that runs it in the background).
pub struct Termination {
    state: Arc<Mutex<State>>,
    ended: SyncSender<()>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// The mount, once there is one.
    own: Option<Own>,
    /// Whether such a signal came.
    told: bool,
}

fn terminating() -> SigSet {
    let asked = [Signal::SIGINT, Signal::SIGHUP].into_iter().filter(|signal| !is_ignored(*signal as libc::c_int));
    std::iter::once(Signal::SIGTERM).chain(asked).collect()
}

/// Whether who started the process has it ignore a signal, as nohup does.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no action is set; the present one is written to `action`, which outlives the call.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

impl Termination {
    /// From now on such a signal takes the mount out of the tree. If it is still used a while after, `give_up` is called,
    /// to end the process. Comes before any other thread, for they inherit that they do not take these signals.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn watch(give_up: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        terminating().thread_block()?;
        let (ended, has_ended) = sync_channel(1);
        let state = Arc::new(Mutex::new(State::default()));
        let of_thread = state.clone();
        let body = move || on_signal(&of_thread, &has_ended, give_up);
        let thread = std::thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(Termination { state, ended, thread })
    }

    /// This is the mount that a signal takes away.
    pub fn of(&self, own: Own) {
        let mut state = self.state.lock();
        state.own = Some(own);
        let told = state.told;
        drop(state);
        if told {
            take_away(own);
        }
    }

    /// The mount is served no more: joins the thread.
    pub fn finish(self) {
        // The thread is told, and then woken by such a signal as it waits for. One slot, sent once: neither can fail.
        self.ended.send(()).ok();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).ok();
        self.thread.join().ok();
    }
}

fn on_signal(state: &Mutex<State>, has_ended: &Receiver<()>, give_up: impl FnOnce()) {
    // Fails only for a set that is no set.
    terminating().wait().ok();
    if has_ended.try_recv().is_ok() {
        return;
    }
    let mut state = state.lock();
    state.told = true;
    let own = state.own;
    drop(state);
    if let Some(own) = own {
        take_away(own);
    }
    if has_ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
        give_up();
    }
}

fn take_away(own: Own) {
    if let Err(error) = own.unmount(Unmount::Detach) {
        tracing::error!(%error, "told to end");
    }
}

/// What a daemon carries as long as it lives, to be found by: a file in memory, without a byte in it, whose name says which
/// mount it serves. Those who may unmount the mount may see it in /proc.
pub struct Mark {
    _file: OwnedFd,
}

impl Mark {
    /// This process serves that mount from now on.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn set(own: &Own) -> io::Result<Self> {
        Ok(Mark { _file: rustix::fs::memfd_create(mark(own.device()), MemfdFlags::CLOEXEC)? })
    }
}

fn mark((major, minor): Device) -> String {
    format!("floe-mount {major}:{minor}")
}

/// Whether the process with this number has the mark. Of one that has ended, or that is not ours to look at, no.
fn has_mark(pid: i32, device: Device) -> io::Result<bool> {
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) if is_shortage(&error) => return Err(error),
        Err(_) => return Ok(false),
        Ok(entries) => entries,
    };
    let link = format!("/memfd:{} (deleted)", mark(device));
    Ok(entries.flatten().any(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str().as_bytes() == link.as_bytes())
    }))
}

/// Whether this process, or the system, has no descriptor left.
fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A daemon, to be waited for.
pub struct Daemon {
    pid: i32,
    process: OwnedFd,
}

impl Daemon {
    /// The process that serves a mount, if it lives and can be seen from here.
    ///
    /// # Errors
    /// /proc is not mounted, or there are no descriptors to look at it: then nothing is known.
    pub fn of(mount: &Mount) -> io::Result<Option<Self>> {
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if !has_mark(pid, mount.device)? {
                continue;
            }
            let process = match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
                Some(Ok(process)) => process,
                Some(Err(error)) if is_shortage(&error.into()) => return Err(error.into()),
                // It has just ended.
                Some(Err(_)) | None => continue,
            };
            // Asked again: the process may have ended in between, and its number be another's.
            if has_mark(pid, mount.device)? {
                return Ok(Some(Daemon { pid, process }));
            }
        }
        Ok(None)
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

    fn mount(device: Device) -> Mount {
        let (point, fs_type, source) = Default::default();
        Mount { id: 1, parent: 0, device, point, fs_type, source }
    }

    #[test]
    fn a_process_is_found_by_its_mark_and_no_longer_than_it_has_it() {
        // No file system has such a number.
        let device = (u32::MAX, u32::MAX);
        assert!(Daemon::of(&mount(device)).unwrap().is_none());
        let file = rustix::fs::memfd_create(mark(device), MemfdFlags::CLOEXEC).unwrap();
        let me = Daemon::of(&mount(device)).unwrap().unwrap();
        assert_eq!(me.pid(), std::process::id() as i32);
        assert!(!me.wait(Duration::ZERO).unwrap());
        assert!(Daemon::of(&mount((u32::MAX, u32::MAX - 1))).unwrap().is_none());
        drop(file);
        assert!(Daemon::of(&mount(device)).unwrap().is_none());
    }

    #[test]
    fn descriptors_are_listed_without_the_one_that_lists_them() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let found = descriptors().unwrap();
        assert!(found.contains(&read.as_raw_fd()) && found.contains(&write.as_raw_fd()));
        assert!(found.iter().all(|number| *number > 2));
    }

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let daemon = Daemon { pid, process };
        drop(child.stdin.take());
        assert!(daemon.wait(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
    }
}
