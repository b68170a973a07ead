//! Runs the real binary to its end, within a time limit.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

/// A command that has not ended after this time hangs. It is generous because two cores, a debug build and other tests
/// are slow.
const LIMIT_SECONDS: i64 = 300;

/// Environment variables that would change what floe does.
const ENVIRONMENT: &[&str] = &["FLOE_IMAGE", "FLOE_CACHE_DIR", "NO_COLOR", "SOURCE_DATE_EPOCH"];

/// The result of a run.
#[derive(Debug)]
pub struct Run {
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
    line: String,
}

impl Run {
    /// Expects this exit status, and shows the output if it differs.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit status of {}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
        self
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Expects each of `words` somewhere in standard error.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "'{word}' is not in what {} said:\n{}", self.line, self.stderr);
        }
        self
    }
}

/// floe with these arguments, without the environment of the user who runs the tests.
pub fn floe_command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floe"));
    command.args(args).stdin(Stdio::null());
    for name in ENVIRONMENT {
        command.env_remove(name);
    }
    command
}

/// The same command, started with signals treated as this option of env(1) says, whatever signals the tests' parent
/// ignores.
pub fn with_signals(inner: &Command, option: &str) -> Command {
    let mut command = Command::new("/usr/bin/env");
    command.arg(option).arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Runs a command until it ends. Output goes through files, so a daemon that keeps them open does not block this.
#[track_caller]
pub fn run(mut command: Command) -> Run {
    let line = format!("{command:?}");
    let mut stdout = tempfile::tempfile().expect("a temporary file");
    let mut stderr = tempfile::tempfile().expect("a temporary file");
    command.stdout(stdout.try_clone().expect("a descriptor")).stderr(stderr.try_clone().expect("a descriptor"));
    let mut child = spawn(&mut command).unwrap_or_else(|e| panic!("cannot run {line}: {e}"));
    drop(command);
    let status = wait(&mut child);
    let (stdout, stderr) = (contents(&mut stdout), String::from_utf8_lossy(&contents(&mut stderr)).into_owned());
    let Some(status) = status else {
        panic!("{line} has not ended after {LIMIT_SECONDS} s; it said\n{stderr}");
    };
    Run { code: status.code(), stdout, stderr, line }
}

/// Children are created one at a time.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Starts a command; every test that mounts must use this. Until a child executes its program it holds all open files
/// of this process. If another test creates a child meanwhile, a file in a mount would be in use after it was closed.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _one = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    // Returns when the child executes its program.
    command.spawn()
}

/// Starts a command and waits until it ends.
pub fn status(command: &mut Command) -> io::Result<ExitStatus> {
    spawn(command)?.wait()
}

fn contents(file: &mut File) -> Vec<u8> {
    let mut out = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut out)).expect("a temporary file can be read");
    out
}

/// Waits for a child; `None`, and the child killed, if the time limit passes.
pub fn wait(child: &mut Child) -> Option<ExitStatus> {
    let pid = Pid::from_child(child);
    let ended = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => {
            let limit = Timespec { tv_sec: LIMIT_SECONDS, tv_nsec: 0 };
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            loop {
                match poll(&mut fds, Some(&limit)) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other.expect("a pidfd can be polled") > 0,
                }
            }
        }
        Err(rustix::io::Errno::NOSYS) => true,
        Err(e) => panic!("cannot watch a child: {e}"),
    };
    if !ended {
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        return None;
    }
    Some(child.wait().expect("a child can be waited for"))
}
