//! Asking a mount for gc, and watching it.
//!
//! The mount's daemon frees, whether anybody watches or not: who asked has a ticket, and looks until it is done. Called by `gc`.

use super::mount_state::{MountState, mount_of_directory};
use super::open::shown;
use super::sentence::told;
use super::{Exit, signals, tell};
use crate::fs::gc::GcReport;
use crate::fuse::{GC_NOW, GC_XATTR};
use anyhow::anyhow;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::path::Path;
use std::time::Duration;

/// First and longest time between two looks at the mount's state.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Time between two attempts while others read the image.
const AGAIN: Duration = Duration::from_secs(1);

/// Frees the space of dead bytes in the image that is mounted at or above `dir`; waits for readers of the image unless
/// `no_wait`.
///
/// # Errors
/// Fails if it is no writable mount of floe, is another user's, or nothing could be freed.
pub fn free(dir: &Path, no_wait: bool) -> anyhow::Result<GcReport> {
    let mount = mount_of_directory(dir)?;
    let point = &mount.point;
    signals::watch();
    let mut is_told = false;
    let mut freed = GcReport::default();
    loop {
        ask(point)?;
        let state = watched(point)?;
        let report = report(&state);
        freed.superchunks = freed.superchunks.saturating_add(report.superchunks);
        let Some(why) = state.text("gc_error") else {
            return Ok(GcReport { superchunks: freed.superchunks, ..report });
        };
        if state.number("gc_readers") == 0 {
            return Err(anyhow!("{why}"));
        }
        if no_wait {
            return Err(told(Exit::Locked, why));
        }
        if !is_told {
            tell::note(format_args!("waiting until nobody else reads the image of '{}'", shown(point)));
            is_told = true;
        }
        std::thread::sleep(AGAIN);
        interrupted()?;
    }
}

fn ask(point: &Path) -> anyhow::Result<()> {
    match rustix::fs::setxattr(point, GC_XATTR, GC_NOW, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::ROFS) => Err(anyhow!("it is mounted read-only: unmount it, and free space in the image")),
        Err(Errno::PERM | Errno::ACCESS) => Err(anyhow!("only who mounted it, and root, may ask for it")),
        Err(errno) => Err(anyhow!(std::io::Error::from(errno)).context("the mount cannot be asked")),
    }
}

/// Reads the mount's state until it has done what was asked for.
fn watched(point: &Path) -> anyhow::Result<MountState> {
    let gone = || anyhow!("it was unmounted meanwhile: what is dead is freed the next time");
    // Everybody gets a ticket of his own; what a later one asks for is done no earlier than what this one does.
    let ticket = MountState::of(point)?.ok_or_else(gone)?.number("gc_ticket");
    let mut pause = LOOK;
    loop {
        let state = MountState::of(point)?.ok_or_else(gone)?;
        if state.number("gc_done") >= ticket {
            return Ok(state);
        }
        if let Some(why) = state.text("failed") {
            return Err(anyhow!("the mount changes nothing more since an error: {why}"));
        }
        interrupted()?;
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_MAX);
    }
}

fn interrupted() -> anyhow::Result<()> {
    if signals::interrupted() {
        return Err(told(Exit::Interrupted, "interrupted: what the mount has begun it goes on with"));
    }
    Ok(())
}

fn report(state: &MountState) -> GcReport {
    GcReport {
        superchunks: state.number("gc_superchunks"),
        frames: state.number("gc_frames"),
        freed_bytes: state.number("gc_freed_bytes"),
        left_bytes: state.number("gc_left_bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_is_taken_from_the_state() {
        let state = MountState::parse("gc_done 12\ngc_freed_bytes 7\n");
        assert_eq!(report(&state), GcReport { freed_bytes: 7, ..GcReport::default() });
    }
}
