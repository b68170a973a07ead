//! `user.floe.gc`, which asks for gc, and the lines about gc in `user.floe.state` of the root. Called by `writing` and
//! `state`.

use super::guard::Failure;
use crate::format::ids::InodeId;
use crate::fs::{FsError, GcStatus, Live};
use fuser::Errno;
use std::fmt::Write;

/// Name of the xattr of the mount's root that is set to [`GC_NOW`] to free dead space. The caller then finds its
/// ticket, or a later one, as `gc_ticket` in the state. The work is done when `gc_done` has reached it.
pub const GC_XATTR: &[u8] = b"user.floe.gc";
/// Value of [`GC_XATTR`] that asks for gc.
pub const GC_NOW: &[u8] = b"now";

/// Asks for gc on behalf of the user `uid`. `value` must be [`GC_NOW`].
pub(super) fn ask_for_gc(live: &Live, inode: InodeId, uid: u32, value: &[u8]) -> Result<(), Failure> {
    if inode != InodeId::ROOT {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if value != GC_NOW {
        return Err(Errno::EINVAL.into());
    }
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::EPERM.into());
    }
    if live.latched().is_some() {
        return Err(FsError::ReadOnly.into());
    }
    live.request_gc();
    Ok(())
}

/// Adds the lines about gc to the text of `user.floe.state`.
pub(super) fn lines(text: &mut String, status: &GcStatus) {
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} {value}");
    };
    line("gc_running", &u64::from(status.running).to_string());
    line("gc_ticket", &status.ticket.to_string());
    line("gc_done", &status.ticket_done.to_string());
    line("gc_readers", &u64::from(status.has_readers).to_string());
    line("gc_error", &status.error.as_deref().map_or("-".into(), |error| error.replace('\n', " ")));
    let Some(last) = &status.last else { return };
    for (name, value) in [
        ("gc_superchunks", last.superchunks),
        ("gc_frames", last.frames),
        ("gc_freed_bytes", last.freed_bytes),
        ("gc_left_bytes", last.left_bytes),
    ] {
        line(name, &value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::gc::GcReport;

    #[test]
    fn each_number_has_a_line() {
        let last = GcReport { superchunks: 1, frames: 2, freed_bytes: 3, left_bytes: 4 };
        let error = Some("two\nlines".to_owned());
        let status = GcStatus { running: true, ticket: 6, ticket_done: 5, has_readers: true, last: Some(last), error };
        let mut text = String::new();
        lines(&mut text, &status);
        assert_eq!(
            text,
            "gc_running 1\ngc_ticket 6\ngc_done 5\ngc_readers 1\ngc_error two lines\ngc_superchunks 1\ngc_frames 2\n\
             gc_freed_bytes 3\ngc_left_bytes 4\n"
        );
    }
}
