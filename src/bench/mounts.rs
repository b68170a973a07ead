//! A mount for one reading pass. It is always unmounted at the end.
//!
//! The program that serves a mount is a child of this process and stays in the foreground, so that its end can be
//! waited for. It is told to end when this process dies. Invariants: a dropped [`Mounted`] is unmounted, if necessary
//! lazily and by aborting its connection to the kernel, and its daemon is reaped. Mounts are read-only. Called by
//! `settings` and `peers`.

use super::command::{CommandError, Limits, last_lines, not_started, program_of, run, start};
use crate::fuse::{Mount, Unmount, abort, mounts, topmost, unmount};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Interval at which `Limits::stop` is called while waiting for a mount.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Time within which a mount must appear; otherwise its daemon hangs.
const APPEARS_WITHIN: Duration = Duration::from_secs(60);
/// Time in which a daemon must end after unmounting; after that it is told to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Time in which a daemon must end after it is told to, or killed.
const HEEDS_WITHIN: Duration = Duration::from_secs(3);
/// Most bytes that are read of a daemon's output.
const MAX_SAID: u64 = 64 << 10;

/// A read-only mount. Dropping it unmounts it.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    daemon: Option<Daemon>,
}

impl Mounted {
    /// Starts a daemon that mounts on `point` and stays in the foreground; returns when it is mounted.
    ///
    /// # Errors
    /// Fails if the program is missing, ended without mounting, or `limits` ended the waiting.
    pub fn serve(command: &mut Command, point: &Path, limits: &Limits<'_>) -> Result<Mounted, CommandError> {
        let program = program_of(command);
        let failed = |source| CommandError::Start { program: program.clone(), source };
        let daemon = Daemon::start(command).map_err(|error| not_started(&program, error))?;
        // From here on, dropping `mounted` ends the daemon.
        let mut mounted = Mounted { point: point.to_owned(), daemon: Some(daemon) };
        let began = Instant::now();
        let limit = limits.time.unwrap_or(APPEARS_WITHIN).min(APPEARS_WITHIN);
        let changes = File::open("/proc/self/mountinfo").map_err(failed)?;
        while !is_mounted(point).map_err(failed)? {
            let Some(daemon) = &mut mounted.daemon else { break };
            if (limits.stop)() {
                return Err(CommandError::Interrupted);
            }
            if began.elapsed() >= limit {
                return Err(CommandError::OverLimit { seconds: began.elapsed().as_secs_f64() });
            }
            if daemon.has_ended(Duration::ZERO).map_err(failed)? {
                let message = daemon.said();
                let status = daemon.child.wait().map_err(failed)?;
                mounted.daemon = None;
                return Err(CommandError::Failed { program: program.clone(), status, message });
            }
            // In mountinfo, POLLPRI signals a change of the mounts.
            let time = timespec(ASK_EVERY);
            let mut both = [PollFd::new(&changes, PollFlags::PRI), PollFd::new(&daemon.ended, PollFlags::IN)];
            match poll(&mut both, Some(&time)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(mounted)
    }

    /// Mounts an image through a loop device by the kernel.
    ///
    /// # Errors
    /// Fails if mount(8) is missing or fails: the kernel does not support `fs_type`, or no loop device is available.
    pub fn kernel(fs_type: &str, image: &Path, point: &Path, limits: &Limits<'_>) -> Result<Mounted, CommandError> {
        let mut command = Command::new("mount");
        command.args(["-t", fs_type, "-o", "loop,ro"]).arg(image).arg(point);
        // Make this first: a mount that appears while the command is being killed is unmounted, too.
        let mounted = Mounted { point: point.to_owned(), daemon: None };
        run(&mut command, limits)?;
        Ok(mounted)
    }

    /// Returns the mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts, and waits for the daemon.
    ///
    /// # Errors
    /// Fails if the mount could only be unmounted lazily, or its daemon failed or had to be killed.
    pub fn end(mut self) -> Result<(), CommandError> {
        self.end_once()
    }

    fn end_once(&mut self) -> Result<(), CommandError> {
        let was_mounted = is_mounted(&self.point).unwrap_or(true);
        let unmounted = take_away(&self.point);
        let ended = self.daemon.take().map_or(Ok(()), |daemon| daemon.end(was_mounted));
        // A daemon that was told to end before it had mounted may have mounted meanwhile.
        let unmounted = unmounted.and_then(|()| take_away(&self.point));
        unmounted.map_err(|source| CommandError::Start { program: "umount".to_owned(), source })?;
        ended
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end_once() {
            tracing::warn!(point = %self.point.display(), %error, "a mount did not end as it should");
        }
    }
}

/// Unmounts everything on `point`. If it is in use, aborts its connection and unmounts lazily.
fn take_away(point: &Path) -> io::Result<()> {
    let mut lazily = None;
    while let Some(mount) = mount_on(point)? {
        let Err(error) = unmount(point, Unmount::IfUnused) else { continue };
        abort(&mount);
        unmount(point, Unmount::Detach).map_err(io::Error::other)?;
        lazily = Some(io::Error::other(error));
    }
    lazily.map_or(Ok(()), Err)
}

/// Aborts the connections of all FUSE mounts below `directory`: every waiting and every later request fails.
pub fn abort_below(directory: &Path) {
    for mount in below(directory).unwrap_or_default() {
        abort(&mount);
    }
}

/// Unmounts everything below `directory`, the deepest first.
///
/// # Errors
/// Fails if a mount remains.
pub fn take_away_below(directory: &Path) -> io::Result<()> {
    let mut points: Vec<PathBuf> = below(directory)?.into_iter().map(|mount| mount.point).collect();
    points.sort();
    points.dedup();
    for point in points.iter().rev() {
        // A lazy unmount is good enough here: the mount is gone.
        let _ = take_away(point);
    }
    match below(directory)?.first() {
        Some(left) => Err(io::Error::other(format!("'{}' cannot be unmounted", left.point.display()))),
        None => Ok(()),
    }
}

fn below(directory: &Path) -> io::Result<Vec<Mount>> {
    Ok(mounts()?.into_iter().filter(|mount| mount.point.starts_with(directory)).collect())
}

fn mount_on(point: &Path) -> io::Result<Option<Mount>> {
    Ok(topmost(&mounts()?, point).cloned())
}

fn is_mounted(point: &Path) -> io::Result<bool> {
    Ok(mount_on(point)?.is_some())
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() }
}

/// A process that serves a mount. Its output goes to memory, so it never blocks on us.
#[derive(Debug)]
struct Daemon {
    program: String,
    child: Child,
    ended: OwnedFd,
    said: File,
}

impl Daemon {
    fn start(command: &mut Command) -> io::Result<Daemon> {
        let said = File::from(rustix::fs::memfd_create("floe-bench", MemfdFlags::CLOEXEC)?);
        command.stdout(Stdio::null()).stderr(said.try_clone()?);
        let mut child = start(command, Signal::TERM)?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(ended) => Ok(Daemon { program: program_of(command), child, ended, said }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    fn has_ended(&self, within: Duration) -> io::Result<bool> {
        let until = Instant::now() + within;
        loop {
            let left = timespec(until.saturating_duration_since(Instant::now()));
            match poll(&mut [PollFd::new(&self.ended, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn said(&mut self) -> String {
        let mut text = Vec::new();
        let from = self.said.metadata().map_or(0, |meta| meta.len()).saturating_sub(MAX_SAID);
        let read = self.said.seek(io::SeekFrom::Start(from)).and_then(|_| self.said.read_to_end(&mut text));
        match read {
            Ok(_) => last_lines(&text),
            Err(error) => error.to_string(),
        }
    }

    /// Waits for the daemon's end, which comes by itself after unmounting.
    fn end(mut self, was_mounted: bool) -> Result<(), CommandError> {
        let group = Pid::from_child(&self.child);
        let mut told = false;
        for signal in [None, Some(Signal::TERM), Some(Signal::KILL)].into_iter().skip(usize::from(!was_mounted)) {
            let within = if signal.is_none() { ENDS_WITHIN } else { HEEDS_WITHIN };
            if let Some(signal) = signal {
                told = true;
                // It may be ending at this moment.
                let _ = kill_process_group(group, signal);
            }
            if self.has_ended(within).unwrap_or(false) {
                break;
            }
        }
        let failed = |source| CommandError::Start { program: self.program.clone(), source };
        let status = match self.child.try_wait().map_err(failed)? {
            Some(status) if status.success() || told => status,
            Some(status) => {
                let message = self.said();
                return Err(CommandError::Failed { program: self.program, status, message });
            }
            None => return Err(failed(io::Error::other("it does not end, not even when killed"))),
        };
        if told && was_mounted {
            let message = "it was unmounted and did not end by itself".to_owned();
            return Err(CommandError::Failed { program: self.program, status, message });
        }
        Ok(())
    }
}
