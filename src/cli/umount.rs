//! `floe umount DIR`: has everything frozen, gives the mount up, and returns when its daemon has ended.
//!
//! This process asks the mount nothing, since it may hang or answer with errors: what is mounted says /proc/self/mountinfo, and
//! the daemon is found by the mark that it carries. The freeze is asked for by another process, which is killed if the mount does
//! not answer.

use super::open::shown;
use super::progress::{Progress, Step};
use super::sentence::told;
use super::{Context, Exit, output, signals, tell};
use crate::fuse::mark::{Daemon, Outcome};
use crate::fuse::{self, Unmount};
use anyhow::{Context as _, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::Value;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Time that the daemon may take to end once it is unmounted, before people are told that it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time after which a mount that does not answer is unmounted without a freeze before.
const ANSWER: Duration = Duration::from_secs(10);
/// Time between two checks whether the user wants this command to end.
const LOOK: Duration = Duration::from_millis(200);
/// Time that a process that was killed may take to end.
const KILLED: Duration = Duration::from_secs(2);

const HELP: &str = "\
Everything that was written is frozen first, however long that takes: afterwards the image alone is complete, and its thaw \
log is gone. Returns when the daemon has ended. With --no-freeze, and where umount(8) unmounts or the daemon is told to end, \
the daemon freezes for a minute at most; what it has not frozen by then stays in the thaw log, which is kept and named: \
image and log belong together until 'floe freeze IMAGE'. A mount that does not answer is unmounted all the same, and so is one \
whose daemon has died.

Exit status: 0 done, 1 failed: it is in use, or not everything is safe, 2 wrong usage, 130 interrupted.
";

/// `floe umount`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The directory an image is mounted on
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Do not freeze first: what the daemon does not freeze in a minute stays in the thaw log
    #[arg(long)]
    pub no_freeze: bool,
}

#[derive(Serialize)]
struct Summary {
    mount: output::Name,
}

/// Runs `floe umount`: unmounts, and waits for the daemon.
///
/// # Errors
/// Fails if no image is mounted there, it is in use, or the daemon does not end.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let named = shown(&args.dir);
    let dir = fuse::absolute(&args.dir).with_context(|| format!("cannot unmount {named}"))?;
    let Some(mount) = fuse::mounted_on(&dir)? else {
        bail!("cannot unmount {named}: nothing is mounted there");
    };
    // Looked for before: afterwards its number could be another's.
    let daemon =
        Daemon::of(&mount).with_context(|| format!("cannot unmount {named}: its daemon cannot be looked for"))?;
    let Some(daemon) = daemon else {
        if !mount.is_floe() {
            bail!("cannot unmount {named}: no floe image is mounted there");
        }
        fuse::unmount(&dir, Unmount::Detach)?;
        tell::note(format_args!("the daemon of {named} had died; what was left of its mount is taken away"));
        return Ok(Exit::Done);
    };
    signals::watch();
    if !args.no_freeze && !mount.is_read_only {
        freeze_first(&dir, &named, context)?;
    }
    fuse::unmount(&dir, Unmount::IfUnused)?;
    wait_for(&daemon, &named)?;
    match daemon.outcome() {
        Some(Outcome::Done(text)) => {
            if !text.is_empty() {
                tell::note(&text);
            }
            if context.json {
                let summary = Summary { mount: output::Name::new(dir.as_os_str().as_bytes()) };
                output::line(&mut io::stdout(), "summary", &summary)?;
            }
            Ok(Exit::Done)
        }
        Some(Outcome::Failed(why)) => bail!("{named} is unmounted, but not everything that was written is safe: {why}"),
        None => bail!(
            "{named} is unmounted, but its daemon (process {}) died: what it had not committed is lost; the next mount \
             recovers the rest",
            daemon.pid()
        ),
    }
}

/// Waits until the daemon has ended.
fn wait_for(daemon: &Daemon, named: &str) -> anyhow::Result<()> {
    let (pid, mut told_at) = (daemon.pid(), Instant::now());
    while !daemon.wait(LOOK).context("cannot wait for the daemon")? {
        if signals::interrupted() {
            let what = "is unmounted, and its daemon goes on with what is not yet durable";
            return Err(told(Exit::Interrupted, format!("interrupted: {named} {what} (process {pid})")));
        }
        if told_at.elapsed() < PATIENCE {
            continue;
        }
        told_at = Instant::now();
        if !daemon.is_ending() {
            bail!(
                "{named} is unmounted, but its daemon (process {pid}) has not ended within {} s \
                 (is it mounted elsewhere too, in a container or by 'mount --bind'?)",
                PATIENCE.as_secs()
            );
        }
        tell::note(format_args!(
            "the daemon of {named} (process {pid}) still freezes what was written, or makes it durable"
        ));
    }
    Ok(())
}

/// Freezes everything before unmounting. A failure is printed and does not prevent unmounting: the daemon freezes for a
/// while before it ends.
fn freeze_first(dir: &Path, named: &str, context: &Context) -> anyhow::Result<()> {
    let without = |why: &str| tell::warning(format!("{named} is unmounted without a freeze before: {why}"));
    let mut command = Command::new("/proc/self/exe");
    command.args(["freeze", "--json", "--before-unmounting", "--"]).arg(dir);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            without(&error.to_string());
            return Ok(());
        }
    };
    let progress = Progress::new(context, false, "freezing");
    let watched = child.stdout.take().map_or(Ok(End::Itself), |out| watch(out, &progress));
    progress.finish();
    match watched.context("cannot watch the freeze")? {
        End::Itself => {}
        End::Interrupted => {
            kill(&mut child);
            let what = "is still mounted, and goes on freezing";
            return Err(told(
                Exit::Interrupted,
                format!("interrupted: {named} {what} ('floe freeze --status' shows it)"),
            ));
        }
        End::Silent => {
            kill(&mut child);
            without(&format!("it has not answered for {} s", ANSWER.as_secs()));
            return Ok(());
        }
    }
    let mut said = Vec::new();
    if let Some(mut err) = child.stderr.take() {
        err.read_to_end(&mut said).context("cannot watch the freeze")?;
    }
    let status = child.wait().context("cannot watch the freeze")?;
    match status.code() {
        Some(code) if [Exit::Done, Exit::Findings].iter().any(|exit| exit.code() == code as u8) => {}
        // Whoever interrupts at a terminal interrupts both.
        Some(code) if code as u8 == Exit::Interrupted.code() => {
            return Err(told(
                Exit::Interrupted,
                format!("interrupted: {named} is still mounted, and goes on freezing"),
            ));
        }
        _ => without(&why(&said).unwrap_or_else(|| status.to_string())),
    }
    Ok(())
}

/// Returns why a command failed, by what it printed with `--json`.
fn why(said: &[u8]) -> Option<String> {
    let mut lines = said.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let error = lines.rfind(|line| line["message_type"] == "exit_error")?;
    error["message"].as_str().map(str::to_owned)
}

/// Why `umount` stopped watching a freeze.
enum End {
    /// The freeze has ended.
    Itself,
    /// The user wants this process to end.
    Interrupted,
    /// The mount did not answer.
    Silent,
}

/// Shows the progress of the freeze, by the lines that the other process writes.
fn watch(mut out: ChildStdout, progress: &Progress) -> io::Result<End> {
    let (begun, mut has_answered) = (Instant::now(), false);
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    loop {
        let ready = match poll(&mut [PollFd::new(&out.as_fd(), PollFlags::IN)], Some(&look)) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => false,
            Err(errno) => return Err(errno.into()),
        };
        if signals::interrupted() {
            return Ok(End::Interrupted);
        }
        if !ready {
            if !has_answered && begun.elapsed() >= ANSWER {
                return Ok(End::Silent);
            }
            continue;
        }
        let len = out.read(&mut piece)?;
        if len == 0 {
            return Ok(End::Itself);
        }
        has_answered = true;
        for &byte in piece.get(..len).unwrap_or_default() {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            if let Some(step) = step(&line) {
                progress.step(step);
            }
            line.clear();
        }
    }
}

fn step(line: &[u8]) -> Option<Step> {
    let status: Value = serde_json::from_slice(line).ok()?;
    if status["message_type"] != "status" {
        return None;
    }
    let number = |name: &str| status[name].as_u64();
    Some(Step {
        files: number("files_done")?,
        bytes: number("bytes_done")?,
        total: number("total_bytes")?,
        stored: None,
    })
}

/// Ends a process that may be asking a mount that hangs. A process that the kernel does not end is left alone.
fn kill(child: &mut Child) {
    let begun = Instant::now();
    if child.kill().is_ok() {
        while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < KILLED {
            std::thread::sleep(LOOK / 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_freeze_are_steps_and_its_last_words_are_why_it_failed() {
        let status = br#"{"message_type":"status","percent_done":0.5,"bytes_done":2,"total_bytes":4,"files_done":1}"#;
        assert_eq!(step(status), Some(Step { files: 1, bytes: 2, total: 4, stored: None }));
        assert_eq!(step(br#"{"message_type":"summary","files_done":1}"#), None);
        assert_eq!(step(b"no JSON"), None);
        let said = b"{\"message_type\":\"exit_error\",\"code\":1,\"message\":\"no space\"}\nmore\n";
        assert_eq!(why(said).as_deref(), Some("no space"));
        assert_eq!(why(b"killed"), None);
    }
}
