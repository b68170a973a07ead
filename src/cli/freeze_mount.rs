//! Asking a mount to freeze, and watching it.
//!
//! The mount's daemon freezes, whether anybody watches or not: who asked has a ticket, and looks until it is done. Called by
//! `freeze`.

use super::freeze_listing::Thawed;
use super::freeze_report::{Done, nothing_to_freeze, refused, tell_survey};
use super::mount_state::{MountState, mount_of_directory};
use super::open::shown;
use super::progress::{Progress, Step};
use super::sentence::told;
use super::{Context, Exit, signals};
use crate::fs::FreezerStatus;
use crate::fuse::{FREEZE_ALL, FREEZE_DEEP, FREEZE_XATTR};
use anyhow::anyhow;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::path::Path;
use std::time::Duration;

/// First and longest time between two looks at the mount's state.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(200);

/// Options of the command line for freezing a mount.
pub struct Asked<'a> {
    /// A directory of the mount.
    pub dir: &'a Path,
    /// Whether files that were changed are cut into subchunks again, too.
    pub deep: bool,
    /// Whether only to report what there is to freeze.
    pub dry_run: bool,
    /// Whether to do nothing if nothing is thawed, or if the mount is not to freeze by itself (`freeze=off`).
    pub before_unmounting: bool,
}

/// Freezes a mount, and tells people what was done.
///
/// # Errors
/// Fails if it is no mount of floe, is another user's, or the freeze failed.
pub fn run(asked: &Asked<'_>, context: &Context) -> anyhow::Result<Exit> {
    let mount = mount_of_directory(asked.dir)?;
    let (point, named) = (&mount.point, shown(&mount.point).into_owned());
    let Some(before) = MountState::of(point)? else { return nothing_to_freeze(&named, context) };
    if let Some(why) = before.text("failed") {
        return Err(stopped(why));
    }
    if asked.dry_run {
        let (queue_bytes, queue_files) = (before.number("queue_bytes"), before.number("queue_files"));
        tell_survey(&FreezerStatus { queue_bytes, queue_files, ..FreezerStatus::default() }, context.json)?;
        return Ok(Exit::Done);
    }
    signals::watch();
    let progress = Progress::new(context, true, "freezing");
    // The first line of JSON comes as soon as the mount has answered.
    progress.step(Step { total: before.number("queue_bytes"), ..Step::default() });
    if asked.before_unmounting
        && (before.number("queue_bytes") == 0 || before.text("freezing").is_none_or(|when| when == "off"))
    {
        return Ok(Exit::Done);
    }
    let mut listing = if context.verbose > 0 { Some(Thawed::of(point)?) } else { None };
    let how = if asked.deep { FREEZE_DEEP } else { FREEZE_ALL };
    match rustix::fs::setxattr(point, FREEZE_XATTR, how, XattrFlags::empty()) {
        Ok(()) => {}
        Err(Errno::ROFS) => {
            let state = MountState::of(point)?;
            return Err(stopped(
                state.as_ref().and_then(|state| state.text("failed")).unwrap_or("it is read-only now"),
            ));
        }
        Err(errno) => return Err(refused(errno)),
    }
    let after = watched(point, &named, &before, &progress, &mut listing)?;
    progress.finish();
    // What was under way by itself when this was asked for counts, too.
    let report = before.all().until(&after.all());
    let done = Done { report, is_complete: report.left_bytes == 0, elapsed: progress.elapsed() };
    done.tell(&progress)?;
    if done.is_complete {
        progress.say("the image is complete as of this checkpoint");
    } else {
        progress.say("the image alone is not complete");
    }
    Ok(done.exit())
}

/// Reads the mount's state until it has done what was asked for.
fn watched(
    point: &Path,
    named: &str,
    before: &MountState,
    progress: &Progress,
    listing: &mut Option<Thawed>,
) -> anyhow::Result<MountState> {
    let gone = || anyhow!("it was unmounted meanwhile: its daemon freezes before it ends");
    // Everybody gets a ticket of his own; what a later one asks for is done no earlier than what this one does.
    let ticket = MountState::of(point)?.ok_or_else(gone)?.number("freezer_ticket");
    let queue = |state: &MountState| (state.number("queue_files"), state.number("queue_bytes"));
    let (files, total) = queue(before);
    let (mut best, mut pause) = (0, LOOK);
    loop {
        let state = MountState::of(point)?.ok_or_else(gone)?;
        let is_done = state.number("freezer_done") >= ticket;
        if let Some(thawed) = listing {
            thawed.tell(progress, is_done);
        }
        if is_done {
            return match state.text("freezer_error") {
                Some(why) => Err(anyhow!("{why} (what was written stays safe in the thaw log)")),
                None => Ok(state),
            };
        }
        if let Some(why) = state.text("failed") {
            return Err(stopped(why));
        }
        if signals::interrupted() {
            progress.finish();
            return Err(told(
                Exit::Interrupted,
                format!("interrupted: the mount goes on freezing ('floe freeze --status {named}' shows how far it is)"),
            ));
        }
        let (files_left, left) = queue(&state);
        // What others write meanwhile does not move the bar back.
        let cut = if state.number("freezer_running") > 0 { state.number("freezer_done_bytes").min(total) } else { 0 };
        best = total.saturating_sub(left).max(cut).max(best);
        let stored = state.maybe("freezer_stored_bytes").filter(|_| best > 0);
        progress.step(Step { files: files.saturating_sub(files_left), bytes: best, total, stored });
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_MAX);
    }
}

fn stopped(why: &str) -> anyhow::Error {
    anyhow!("the mount changes nothing more since an error: {why} (unmount it, and see what 'floe check IMAGE' finds)")
}
