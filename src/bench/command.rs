//! Runs one program to its end and measures it: duration, processor time, memory, output.
//!
//! The program leads a process group of its own, so that a terminal's Ctrl-C reaches only this process. When the time
//! limit is over or the caller asks to stop, the whole group is killed. The program also dies with this process.
//! Invariants: when [`run`] returns, the program is reaped, and after a kill no process of its group writes any more.
//! Standard input is empty; standard output and standard error are read here. Called by everything in this room that
//! runs a program.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Most bytes of standard output that are kept; more is read and dropped.
const MAX_OUTPUT: usize = 16 << 20;
/// Number of bytes kept of the end of standard error.
const MAX_MESSAGE: usize = 4 << 10;
/// Number of lines of standard error that are shown.
const MESSAGE_LINES: usize = 4;
/// Interval at which `Limits::stop` is called.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Time within which a killed process group closes its outputs; otherwise another process holds them.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// Result of a program that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// Wall-clock seconds, from before the program's start until its end.
    pub seconds: f64,
    /// Processor seconds in user and kernel mode, including waited-for descendants.
    pub cpu_seconds: f64,
    /// Peak resident bytes of the program or of a waited-for descendant.
    pub peak_memory: u64,
    /// Exit status of the program: 0, or another accepted one.
    pub status: i32,
    /// Standard output of the program, at most 16 MiB of it.
    pub output: Vec<u8>,
    /// The last lines of standard error, safe to show.
    pub message: String,
}

/// Why a program gave no result.
#[derive(Debug, Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("{program} is not installed (install it)")]
    Missing {
        /// Name of the program.
        program: String,
    },
    /// The program did not start, or waiting for its end failed.
    #[error("cannot run {program}")]
    Start {
        /// Name of the program.
        program: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The program took longer than allowed and was killed.
    #[error("the program was stopped: it ran longer than its limit of {seconds:.0} seconds")]
    OverLimit {
        /// Number of seconds that the program ran.
        seconds: f64,
    },
    /// The caller asked to stop, and the program was killed.
    #[error("the program was stopped: the benchmark was interrupted")]
    Interrupted,
    /// The program ended with a failure.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// Name of the program.
        program: String,
        /// Status with which the program ended.
        status: ExitStatus,
        /// The last lines of standard error, safe to show.
        message: String,
    },
}

/// A callback that receives lines.
type Watch<'a> = &'a mut dyn FnMut(&[u8]);

/// Conditions under which a program is killed.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Longest time that the program may run.
    pub time: Option<Duration>,
    /// Returns whether to kill the program. Called ten times a second.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Runs a program to its end; its exit status must be 0.
///
/// # Errors
/// Fails if the program is missing, failed, was killed because of `limits`, or ended with another exit status.
pub fn run(command: &mut Command, limits: &Limits<'_>) -> Result<Ran, CommandError> {
    run_accepting(command, limits, &[0])
}

/// Runs a program to its end; its exit status must be one of `accepted`.
///
/// # Errors
/// Fails if the program is missing, failed, was killed because of `limits`, or ended with another exit status.
pub fn run_accepting(command: &mut Command, limits: &Limits<'_>, accepted: &[i32]) -> Result<Ran, CommandError> {
    run_with(command.stdout(Stdio::piped()), limits, accepted, None)
}

/// Runs a program as [`run_accepting`] does, but discards standard output: for programs that write gigabytes to it.
///
/// # Errors
/// Fails as [`run_accepting`] does.
pub fn run_discarding(command: &mut Command, limits: &Limits<'_>, accepted: &[i32]) -> Result<Ran, CommandError> {
    run_with(command.stdout(Stdio::null()), limits, accepted, None)
}

/// Runs a program as [`run_accepting`] does, but passes each line of standard output to `watch` when it is written, and
/// keeps none.
///
/// # Errors
/// Fails as [`run_accepting`] does.
pub fn run_watched(
    command: &mut Command,
    limits: &Limits<'_>,
    accepted: &[i32],
    watch: &mut dyn FnMut(&[u8]),
) -> Result<Ran, CommandError> {
    run_with(command.stdout(Stdio::piped()), limits, accepted, Some(watch))
}

fn run_with(
    command: &mut Command,
    limits: &Limits<'_>,
    accepted: &[i32],
    watch: Option<Watch<'_>>,
) -> Result<Ran, CommandError> {
    let program = program_of(command);
    let began = Instant::now();
    let child = start(command.stderr(Stdio::piped()), Signal::KILL).map_err(|error| not_started(&program, error))?;
    let start_error = |source| CommandError::Start { program: program.clone(), source };
    let mut running = Running::new(child, began).map_err(start_error)?;
    let killed = running.wait(limits, watch);
    let reaped = running.reap().map_err(start_error)?;
    let seconds = began.elapsed().as_secs_f64();
    match killed.map_err(start_error)? {
        Some(Killed::OverLimit) => return Err(CommandError::OverLimit { seconds }),
        Some(Killed::Interrupted) => return Err(CommandError::Interrupted),
        None => {}
    }
    let message = running.message();
    match reaped.status.code().filter(|code| accepted.contains(code)) {
        None => Err(CommandError::Failed { program, status: reaped.status, message }),
        Some(status) => Ok(Ran {
            seconds,
            cpu_seconds: reaped.cpu_seconds,
            peak_memory: reaped.peak_memory,
            status,
            output: std::mem::take(&mut running.output.kept),
            message,
        }),
    }
}

/// Returns the name of a command's program, for messages.
pub(super) fn program_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Makes the error for a program that did not start.
pub(super) fn not_started(program: &str, source: io::Error) -> CommandError {
    let program = program.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => CommandError::Missing { program },
        _ => CommandError::Start { program, source },
    }
}

/// Starts a program in a process group of its own, without input. It receives the signal `at_our_end` when this thread
/// ends.
pub(super) fn start(command: &mut Command, at_our_end: Signal) -> io::Result<Child> {
    give_back();
    let parent = rustix::process::getpid();
    let die_with_parent = move || {
        rustix::process::set_parent_process_death_signal(Some(at_our_end))?;
        // The parent may have died before that.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    };
    command.stdin(Stdio::null()).process_group(0);
    // SAFETY: between fork and exec this makes two system calls. It neither allocates nor takes a lock: both errors are
    // plain numbers.
    unsafe { command.pre_exec(die_with_parent) };
    command.spawn()
}

/// Returns freed memory to the kernel. The kernel counts the memory that this process has resident when it starts a
/// program as that program's.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and returns whole free pages to the kernel; memory in use does not
    // change.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Why a program was killed.
#[derive(Clone, Copy)]
enum Killed {
    OverLimit,
    Interrupted,
}

/// A process that is not reaped yet. Dropping it kills and reaps it.
struct Running {
    process: Pid,
    ended: rustix::fd::OwnedFd,
    output: Stream,
    errors: Stream,
    began: Instant,
    reaped: bool,
}

struct Reaped {
    status: ExitStatus,
    cpu_seconds: f64,
    peak_memory: u64,
}

impl Running {
    fn new(mut child: Child, began: Instant) -> io::Result<Self> {
        let process = Pid::from_child(&child);
        let made = || {
            let ended = pidfd_open(process, PidfdFlags::empty())?;
            let output = Stream::new(child.stdout.take(), Keep::First(MAX_OUTPUT))?;
            let errors = Stream::new(child.stderr.take(), Keep::Last(MAX_MESSAGE))?;
            Ok(Running { process, ended, output, errors, began, reaped: false })
        };
        let made: io::Result<Self> = { made }();
        if made.is_err() {
            // If it cannot be killed, nothing else can be done.
            let _ = kill_process_group(process, Signal::KILL);
            let _ = child.wait();
        }
        made
    }

    /// Reads the program's output until it has ended, or kills it.
    fn wait(&mut self, limits: &Limits<'_>, mut watch: Option<Watch<'_>>) -> io::Result<Option<Killed>> {
        loop {
            let killed = if (limits.stop)() {
                Some(Killed::Interrupted)
            } else if limits.time.is_some_and(|time| self.began.elapsed() >= time) {
                Some(Killed::OverLimit)
            } else {
                None
            };
            if killed.is_some() {
                self.kill()?;
                return Ok(killed);
            }
            let left = limits.time.map_or(ASK_EVERY, |time| time.saturating_sub(self.began.elapsed()).min(ASK_EVERY));
            let ended = self.poll(left, true)?;
            if ended {
                // Its last output may still be in the pipes.
                self.output.drain()?;
                self.errors.drain()?;
            }
            if let Some(watch) = &mut watch {
                self.output.take_lines(watch);
            }
            if ended {
                return Ok(None);
            }
        }
    }

    /// Kills the process group and waits until its outputs are closed, which is after its last write.
    fn kill(&mut self) -> io::Result<()> {
        // The group may have ended already.
        let _ = kill_process_group(self.process, Signal::KILL);
        let until = Instant::now() + KILLED_WITHIN;
        while self.output.is_open() || self.errors.is_open() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.poll(left, false)?;
        }
        Ok(())
    }

    /// Waits up to `time` for output, and if asked for the program's end; returns whether it has ended.
    fn poll(&mut self, time: Duration, for_its_end: bool) -> io::Result<bool> {
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        let open = [&self.output, &self.errors].into_iter().filter_map(|stream| stream.pipe.as_ref());
        let mut all: Vec<PollFd<'_>> = open.map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
        if for_its_end {
            all.push(PollFd::new(&self.ended, PollFlags::IN));
        }
        match poll(&mut all, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = for_its_end && all.pop().is_some_and(|ended| !ended.revents().is_empty());
        self.output.drain()?;
        self.errors.drain()?;
        Ok(ended)
    }

    fn reap(&mut self) -> io::Result<Reaped> {
        let (mut status, number) = (0, self.process.as_raw_nonzero().get());
        // SAFETY: all-zero bytes are a valid rusage, which is numbers only.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: both pointers are to local variables that are written during the call only.
            if unsafe { libc::wait4(number, &mut status, 0, &mut usage) } == number {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.reaped = true;
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok(Reaped {
            status: ExitStatus::from_raw(status),
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            peak_memory: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
        })
    }

    fn message(&self) -> String {
        last_lines(&self.errors.kept)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            // Nobody is left who could be told of a failure.
            let _ = kill_process_group(self.process, Signal::KILL);
            let _ = self.reap();
        }
    }
}

/// The part of an output stream that is kept.
#[derive(Clone, Copy)]
enum Keep {
    First(usize),
    Last(usize),
}

/// A pipe that a program writes to.
struct Stream {
    /// The pipe; `None` after all writers have closed it.
    pipe: Option<Box<dyn Pipe>>,
    keep: Keep,
    kept: Vec<u8>,
}

trait Pipe: Read + std::os::fd::AsFd + Send {}
impl<P: Read + std::os::fd::AsFd + Send> Pipe for P {}

impl Stream {
    fn new<P: Pipe + 'static>(pipe: Option<P>, keep: Keep) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            let flags = rustix::fs::fcntl_getfl(pipe)?;
            rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?;
        }
        Ok(Stream { pipe: pipe.map(|pipe| Box::new(pipe) as Box<dyn Pipe>), keep, kept: Vec::new() })
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Reads what is available.
    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(len) => self.keep(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Passes on the complete lines.
    fn take_lines(&mut self, take: &mut dyn FnMut(&[u8])) {
        let complete = self.kept.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        self.kept[..complete].split_inclusive(|&byte| byte == b'\n').for_each(|line| take(line.trim_ascii_end()));
        self.kept.drain(..complete);
    }

    fn keep(&mut self, bytes: &[u8]) {
        match self.keep {
            Keep::First(limit) => self.kept.extend(&bytes[..bytes.len().min(limit - self.kept.len())]),
            Keep::Last(limit) => {
                self.kept.extend(bytes);
                self.kept.drain(..self.kept.len().saturating_sub(limit));
            }
        }
    }
}

/// Returns the last lines of a program's output, as one line without control characters.
pub(super) fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.replace('\t', " ");
    let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(MESSAGE_LINES)..];
    let shown = last.join("; ").replace(char::is_control, "\u{fffd}");
    if shown.is_empty() { "it gave no reason".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const NEVER: Limits<'static> = Limits { time: None, stop: &|| false };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Whether a killed process has ended: its files are closed slightly earlier.
    fn ends(pid: &str) -> bool {
        let Ok(process) = pidfd_open(Pid::from_raw(pid.parse().unwrap()).unwrap(), PidfdFlags::empty()) else {
            return true;
        };
        let minute = Timespec { tv_sec: 60, tv_nsec: 0 };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&minute)).unwrap() > 0
    }

    #[test]
    fn what_a_program_says_and_takes_is_measured() {
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; printf out; echo err >&2";
        let ran = run(&mut shell(script), &NEVER).unwrap();
        assert_eq!((ran.output.as_slice(), ran.message.as_str(), ran.status), (&b"out"[..], "err", 0));
        assert!(ran.cpu_seconds > 0.0 && ran.cpu_seconds <= ran.seconds * 2.0 + 0.1, "{ran:?}");
        assert!(ran.peak_memory > 100 << 10, "{ran:?}");
    }

    #[test]
    fn processor_time_of_descendants_counts() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let ran = run(&mut shell(&format!("sh -c '{busy}' | cat; true")), &NEVER).unwrap();
        assert!(ran.cpu_seconds > 0.02, "{ran:?}");
    }

    #[test]
    fn a_program_that_says_a_lot_neither_blocks_nor_fills_the_memory() {
        let ran = run(&mut shell("head -c 40000000 /dev/zero; head -c 1000000 /dev/zero >&2; echo end >&2"), &NEVER);
        let ran = ran.unwrap();
        assert_eq!(ran.output.len(), MAX_OUTPUT);
        assert!(ran.message.ends_with("end") && ran.message.len() <= 4 * MAX_MESSAGE, "{}", ran.message.len());
    }

    #[test]
    fn a_missing_program_is_told_from_one_that_fails() {
        let error = run(&mut Command::new("no-such-program-of-floe"), &NEVER).unwrap_err();
        assert!(matches!(&error, CommandError::Missing { program } if program == "no-such-program-of-floe"), "{error}");
        let error = run(&mut shell("seq 9 >&2; printf '\\033[31m' >&2; exit 7"), &NEVER).unwrap_err();
        let CommandError::Failed { status, message, .. } = error else { panic!("{error}") };
        assert_eq!((status.code(), message.as_str()), (Some(7), "7; 8; 9; \u{fffd}[31m"));
    }

    #[test]
    fn an_exit_status_that_is_accepted_is_no_failure() {
        let ran = run_accepting(&mut shell("echo half >&2; exit 3"), &NEVER, &[0, 3]).unwrap();
        assert_eq!((ran.status, ran.message.as_str()), (3, "half"));
    }

    #[test]
    fn past_the_limit_the_whole_group_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 600 & echo $$ $! >'{}'; wait", pids.display());
        // The program is stopped only when both processes exist.
        let stop = || std::fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n'));
        let limits = Limits { time: None, stop: &stop };
        let began = Instant::now();
        let error = run(&mut shell(&script), &limits).unwrap_err();
        assert!(matches!(error, CommandError::Interrupted), "{error}");
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            assert!(ends(pid), "{pid} lives");
        }
        let limits = Limits { time: Some(Duration::from_millis(50)), stop: &|| false };
        let error = run(&mut shell("sleep 600"), &limits).unwrap_err();
        assert!(matches!(error, CommandError::OverLimit { seconds } if seconds >= 0.05), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_process_in_the_background_that_holds_the_outputs_is_not_waited_for() {
        let asked = AtomicBool::new(false);
        let stop = || {
            asked.store(true, Ordering::Relaxed);
            false
        };
        let ran = run(&mut shell("sleep 20 & echo $!"), &Limits { time: Some(Duration::from_secs(15)), stop: &stop });
        let pid = String::from_utf8(ran.unwrap().output).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        assert!(asked.into_inner());
    }

    #[test]
    fn lines_are_seen_as_they_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let seen = directory.path().join("seen");
        // It ends only after its first line was seen.
        let script = format!("echo one; while [ ! -e '{}' ]; do :; done; echo two; printf end", seen.display());
        let mut lines = Vec::new();
        let limits = Limits { time: Some(Duration::from_secs(60)), ..NEVER };
        let ran = run_watched(&mut shell(&script), &limits, &[0], &mut |line| {
            lines.push(line.to_vec());
            std::fs::write(&seen, "").unwrap();
        });
        assert_eq!(ran.unwrap().output, b"end", "what was seen is not kept");
        assert_eq!(lines, [b"one", b"two"]);
    }

    #[test]
    fn a_program_reads_nothing_from_us() {
        assert_eq!(run(&mut shell("cat"), &NEVER).unwrap().output, b"");
    }
}
