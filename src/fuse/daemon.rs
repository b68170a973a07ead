//! The process that serves a mount: it goes into the background, and ends when it is told to.
//!
//! [`fork`] comes before the first thread. `mark` finds the process and waits for it. Called by `cli`.

use super::mark::wait_for_end;
use super::mountpoint::{Own, Unmount, clear_dead};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::ForkResult;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::process::{PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest message, in bytes, that the process which starts a daemon reads from it.
const MESSAGE_LEN: u64 = 64 << 10;

/// Message of the daemon when it serves. Any other message says why it does not.
const READY: &[u8] = b"+";

/// Time for which those who still use the mount may continue after the daemon is told to end.
const GRACE: Duration = Duration::from_secs(2);

/// Which of the two processes this is after the fork.
pub enum Side {
    /// The original process: it waits for the daemon.
    Starter(Starting),
    /// The daemon, in a session of its own.
    Daemon(Announcer),
}

/// A daemon that has not yet reported whether it serves.
pub struct Starting {
    report: File,
}

/// The daemon's means to report whether it serves. Dropped without a report, it means failure.
pub struct Announcer {
    report: File,
}

/// File descriptors that this process inherited, except standard input, output and error. They belong to the caller. A
/// daemon that kept them would hold the caller's locks, and whoever reads a pipe to its end would wait for ever.
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Lists the descriptors that are open now. Call this before the process opens any of its own.
    ///
    /// # Errors
    /// Fails if /proc is not mounted.
    pub fn now() -> io::Result<Self> {
        Ok(Inherited(descriptors()?))
    }

    fn close(self) {
        self.0.into_iter().for_each(close);
    }
}

/// Returns the descriptors from 3 on that are open now.
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
    // SAFETY: the callers pass inherited descriptors, which nothing in this process owns, and each of them only once.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
}

/// Forks. The daemon has only the calling thread, so this comes before any other thread is started. The daemon closes
/// the inherited descriptors.
///
/// # Errors
/// Fails if no pipe or no process can be made.
pub fn fork(inherited: Inherited) -> io::Result<Side> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: the caller is the only thread, so no other thread can hold a lock that the child would wait for.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(Side::Starter(Starting { report: read.into() })),
        ForkResult::Child => {
            // Cannot fail: a newly forked process is not a group leader.
            rustix::process::setsid().ok();
            inherited.close();
            Ok(Side::Daemon(Announcer { report: write.into() }))
        }
    }
}

impl Starting {
    /// Waits until the daemon serves.
    ///
    /// # Errors
    /// Returns the reason why the daemon does not serve, as text.
    pub fn wait(self) -> Result<(), String> {
        let mut report = Vec::new();
        self.report.take(MESSAGE_LEN).read_to_end(&mut report).map_err(|error| error.to_string())?;
        match report.as_slice() {
            READY => Ok(()),
            [] => Err("the background process ended without a message".into()),
            message => Err(String::from_utf8_lossy(message).into_owned()),
        }
    }
}

impl Announcer {
    /// Gives up everything that belongs to the process that started the daemon (working directory, terminal), and
    /// reports success to it.
    ///
    /// # Errors
    /// Fails if /dev/null is missing, or the starter has ended.
    pub fn ready(mut self) -> io::Result<()> {
        rustix::process::chdir("/")?;
        leave_terminal()?;
        self.report.write_all(READY)
    }

    /// Reports to the process that started the daemon why there will be no mount.
    pub fn failed(mut self, message: &str) {
        // If the starter has ended, nobody reads the message.
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

/// Starts a process that removes the mount from `dir` if the daemon dies without unmounting (`auto_unmount`). Call it
/// before /dev/fuse is opened, since a copy of its descriptor would keep the mount alive, and before any thread is
/// started.
///
/// # Errors
/// Fails if no process can be made.
pub fn leave_watchman(dir: &Path) -> io::Result<()> {
    let daemon = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    // SAFETY: the caller is the only thread, so no other thread can hold a lock that the child would wait for.
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
    // The end of a process is reported after its descriptors are closed, so its mount is dead by then.
    wait_for_end(daemon, None)?;
    clear_dead(dir).map_err(io::Error::other)?;
    Ok(())
}

/// Closes all other descriptors: the image, and above all the pipe that tells the starter that the daemon has ended.
fn close_all_but(keep: &OwnedFd) -> io::Result<()> {
    // This process only waits and exits. It never uses or drops the owners of these descriptors.
    descriptors()?.into_iter().filter(|number| *number != keep.as_raw_fd()).for_each(close);
    Ok(())
}

/// Unmounts when the process is told to end: by SIGTERM, and by SIGINT and SIGHUP unless the process was started with
/// these ignored (by nohup, or by a shell in the background).
pub struct Termination {
    state: Arc<Mutex<State>>,
    ended: SyncSender<()>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// The mount of this process, once there is one.
    own: Option<Own>,
    /// What happens when the process is told to end.
    ending: Option<Ending>,
    /// Whether the process was told to end already.
    told: bool,
}

/// What happens when a mount is told to end.
pub struct Ending {
    /// Asks for a commit, without waiting; only for a writable mount.
    commit: Option<Box<dyn FnOnce() + Send>>,
    /// Ends the process if nothing else does.
    give_up: Box<dyn FnOnce() + Send>,
}

impl Ending {
    /// Makes the ending of a read-only mount: if it is still used after a while, the process exits.
    pub fn read_only() -> Self {
        Ending { commit: None, give_up: Box::new(|| std::process::exit(0)) }
    }

    /// Makes the ending of a writable mount. `commit` asks for a commit, without waiting. If the mount is still used
    /// after a while, its connection to the kernel is aborted, so that [`Mounted::serve`](super::Mounted::serve)
    /// returns and the mount ends properly. `give_up` is called only if that fails, too: it commits what there is, and
    /// ends the process.
    pub fn writable(commit: impl FnOnce() + Send + 'static, give_up: impl FnOnce() + Send + 'static) -> Self {
        Ending { commit: Some(Box::new(commit)), give_up: Box::new(give_up) }
    }
}

fn terminating() -> SigSet {
    let asked = [Signal::SIGINT, Signal::SIGHUP].into_iter().filter(|signal| !is_ignored(*signal as libc::c_int));
    std::iter::once(Signal::SIGTERM).chain(asked).collect()
}

/// Returns whether the process was started with this signal ignored, as nohup does.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no action is set; the present one is written to `action`, which outlives the call.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

impl Termination {
    /// Makes the signals unmount from now on, instead of ending the process. Call it before any other thread is
    /// started: later threads inherit that these signals are blocked.
    ///
    /// # Errors
    /// Fails if a thread cannot be started.
    pub fn watch() -> io::Result<Self> {
        terminating().thread_block()?;
        let (ended, has_ended) = sync_channel(1);
        let state = Arc::new(Mutex::new(State::default()));
        let of_thread = state.clone();
        let body = move || on_signal(&of_thread, &has_ended);
        let thread = std::thread::Builder::new().name("signals".into()).spawn(body)?;
        Ok(Termination { state, ended, thread })
    }

    /// Sets the mount that a signal takes away, and what happens then.
    pub fn of(&self, own: Own, ending: Ending) {
        let mut state = self.state.lock();
        state.own = Some(own);
        state.ending = Some(ending);
        let told = state.told;
        drop(state);
        if told {
            take_away(own);
        }
    }

    /// Joins the thread when the mount is no longer served. The signals have no effect any more.
    pub fn finish(self) {
        // The message tells the thread to end, and the signal wakes it. The channel has one slot and gets one message:
        // neither call can fail.
        self.ended.send(()).ok();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).ok();
        self.thread.join().ok();
    }
}

fn on_signal(state: &Mutex<State>, has_ended: &Receiver<()>) {
    // Fails only if the set is not valid.
    terminating().wait().ok();
    if has_ended.try_recv().is_ok() {
        return;
    }
    let mut state_now = state.lock();
    state_now.told = true;
    let own = state_now.own;
    let commit = state_now.ending.as_mut().and_then(|ending| ending.commit.take());
    drop(state_now);
    let is_writable = commit.is_some();
    if let Some(commit) = commit {
        commit();
    }
    if let Some(own) = own {
        take_away(own);
    }
    let still_used = || has_ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout);
    if !still_used() {
        return;
    }
    if let Some(own) = own.filter(|_| is_writable) {
        match own.abort() {
            Ok(()) if !still_used() => return,
            Ok(()) => tracing::error!("the connection to the kernel was aborted, and is still served"),
            Err(error) => tracing::error!(%error, "the connection to the kernel cannot be aborted"),
        }
    }
    let ending = state.lock().ending.take().unwrap_or_else(Ending::read_only);
    (ending.give_up)();
}

fn take_away(own: Own) {
    if let Err(error) = own.unmount(Unmount::Detach) {
        tracing::error!(%error, "cannot unmount after a signal to end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_listed_without_the_one_that_lists_them() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let found = descriptors().unwrap();
        assert!(found.contains(&read.as_raw_fd()) && found.contains(&write.as_raw_fd()));
        assert!(found.iter().all(|number| *number > 2));
    }
}
