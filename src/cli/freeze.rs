//! `floe freeze DIR|IMAGE`: what is in the thaw log goes into the image, and the image alone is complete.
//!
//! A mount is asked to do it and watched (`freeze_mount`); an image that is not mounted is opened as a mount would open it
//! (here). What was done is told alike.

use super::args::Resources;
use super::ending::Ended;
use super::freeze_report::{Done, tell_survey};
use super::open::shown;
use super::opening::{How, Writer, Writing};
use super::progress::{Progress, Step};
use super::sentence::{exit_of, told};
use super::size::Human;
use super::{Context, Exit, descriptors, freeze_listing, freeze_mount, freeze_status, signals};
use crate::format::ids::InodeId;
use crate::fs::{Finished, FreezeHow, FreezeProgress};
use crate::fuse::MountOptions;
use crate::fuse::mark::{Outcome, mount_served_by};
use crate::storage::{LockError, Owner};
use anyhow::Context as _;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HELP: &str = "\
A writable mount freezes by itself: what is closed is cut, deduplicated and compressed into the image in the background. \
This command does it now, open files too, and ends in a checkpoint: afterwards the image alone is complete. \
Users of the mount do not wait meanwhile. If this command is interrupted, the mount goes on freezing.

DIR is any directory of the mount. Only root and the user who mounted the image may ask for this. \
IMAGE is an image that is not mounted: it is recovered if it was not closed, everything is frozen, and its thaw log is removed. If there is nothing to do, nothing \
is written: it may be run from cron.

Examples:
  floe freeze /mnt              freeze everything that was written to a mount
  floe freeze --status /mnt     what is not frozen yet, and how far the freezer is
  floe freeze photos.floe       after a crash, or where the thaw log was kept at unmounting
  floe freeze --deep /mnt       once in a while: store files that were changed as 'pack' would

Exit status: 0 done, 1 failed: nothing that was written is lost by that, 2 wrong usage, 3 done, but some files cannot be \
frozen because their bytes cannot be read, 10 no such image, 11 another process writes the image, 130 interrupted.
";

/// `floe freeze`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// A directory of a mount, or an image that is not mounted
    #[arg(value_name = "DIR|IMAGE")]
    target: PathBuf,
    /// Cut files that were changed into subchunks again, pack again what was packed fast while writers were faster, and
    /// store equal files once, as 'pack' would
    #[arg(long)]
    deep: bool,
    /// Only show what is thawed in a mount, how far its freezer is, and how old the checkpoint is
    #[arg(long, conflicts_with_all = ["deep", "dry_run"])]
    status: bool,
    /// Freeze nothing; show how much would be frozen
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Only what a mount would freeze at its end: 'floe umount' asks for it
    #[arg(long, hide = true)]
    before_unmounting: bool,
    #[command(flatten)]
    resources: Resources,
}

/// Runs `floe freeze`: freezes what was written, or shows the progress. What was written is not lost by an error.
///
/// # Errors
/// Fails if there is no such mount or image, somebody else writes it, or the freeze failed.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let named = shown(&args.target).into_owned();
    let found = args.target.metadata();
    let is_directory = match &found {
        Ok(found) => found.is_dir(),
        // Of a mount whose daemon has died nothing else can be found out.
        Err(error) => error.raw_os_error() == Some(libc::ENOTCONN),
    };
    if args.status {
        if !is_directory {
            found.with_context(|| format!("cannot show the state of '{named}'"))?;
            let why = "--status is for a directory of a mount; of an image that is not mounted, see 'floe info'";
            return Err(told(Exit::Usage, format!("'{named}': {why}")));
        }
        return freeze_status::run(&args.target, &named, context.json);
    }
    let cannot = || format!("cannot freeze '{named}'");
    if is_directory {
        let asked = freeze_mount::Asked {
            dir: &args.target,
            deep: args.deep,
            dry_run: args.dry_run,
            before_unmounting: args.before_unmounting,
        };
        return freeze_mount::run(&asked, context).with_context(cannot);
    }
    image(&args, context).with_context(cannot)
}

/// Freezes an image that is not mounted.
fn image(args: &Args, context: &Context) -> anyhow::Result<Exit> {
    descriptors::raise();
    let options = MountOptions::default();
    let how = How::default();
    let opened = Writing::open(&args.target, &options, how)?.map_err(|why| explained(&args.target, why))?;
    let Writer { path, live, lock, reader } = opened.begin(&options)?;
    live.set_compressors(args.resources.jobs());
    let found = live.freezer_status();
    if args.dry_run {
        tell_survey(&found, context.json)?;
        return Ok(Exit::Done);
    }
    signals::watch();
    let progress = Progress::new(context, true, "freezing");
    let files = |done: u64| if done >= found.queue_bytes { found.queue_files } else { 0 };
    let observer = |now: FreezeProgress| {
        let FreezeProgress { done_bytes: bytes, total_bytes: total, stored_bytes } = now;
        progress.step(Step { files: files(bytes), bytes, total, stored: Some(stored_bytes) });
    };
    let names = RefCell::new(if context.verbose > 0 { freeze_listing::names(&live)? } else { HashMap::new() });
    let list = |inode: InodeId| _ = names.borrow_mut().remove(&inode).map(|name| progress.list(&name));
    let how = FreezeHow { deep: args.deep, stop: &signals::interrupted, frozen: &list, ..FreezeHow::everything() };
    let frozen = live.freeze_now(&how, &observer);
    // Whatever came of it: what was frozen is to be in the image, and what was recovered too.
    let taken = if frozen.is_ok() { live.take_over_log() } else { Ok(()) };
    let ended = Ended::of(&live, &path, Duration::ZERO);
    drop((lock, reader));
    progress.finish();
    let report = frozen?;
    if signals::interrupted() && report.left_bytes > 0 {
        let left = Human(report.left_bytes);
        return Err(told(Exit::Interrupted, format!("interrupted: {left} stay in the thaw log, safe, for next time")));
    }
    let outcome = ended.outcome();
    let finished = ended.result?;
    taken?;
    let is_complete = !matches!(finished, Finished::Kept { .. });
    let done = Done { report, is_complete, elapsed: progress.elapsed() };
    done.tell(&progress)?;
    match (&finished, outcome) {
        (Finished::Untouched, _) => progress.say("nothing was written: the image is complete, and has no thaw log"),
        (Finished::Removed, _) => progress.say("the image is complete, and its thaw log is gone"),
        (_, Outcome::Done(text) | Outcome::Failed(text)) => progress.say(&text),
    }
    Ok(done.exit())
}

/// Adds a hint to the error that an image is written through a mount: the hint says how to freeze it through that
/// mount.
fn explained(path: &Path, why: anyhow::Error) -> anyhow::Error {
    let Some(LockError::Held { host: Some(host), pid: Some(pid), .. }) = why.downcast_ref() else { return why };
    let pid = i32::try_from(*pid).ok().filter(|_| *host == Owner::current().host);
    match pid.map(mount_served_by) {
        Some(Ok(Some(point))) => {
            let (exit, point) = (exit_of(&why), shown(&point).into_owned());
            told(exit, format!("{why} (it is mounted on {point}: 'floe freeze {point}')"))
        }
        _ => {
            tracing::debug!(path = %shown(path), "no mount of the writer is seen here");
            why
        }
    }
}
