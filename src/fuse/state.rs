//! `user.floe.state`: what a writable mount has in memory and in the thaw log, and the state of its freezer, a name and
//! a number on each line. And `user.floe.freeze`, which asks for a freeze.
//!
//! The state of the root is that of the whole filesystem; the state of a regular file is that of the file. The
//! attribute is not listed, so copying a file does not copy it. Called by `writing`.

use super::gc;
use super::guard::Failure;
use crate::format::ids::InodeId;
use crate::fs::{FreezeReport, FreezerStatus, Freezing, Fs, FsError, Live, LiveStatus, SeekTo};
use fuser::Errno;
use std::fmt::{Display, Write};
use std::time::Duration;

/// Name of the xattr with the state of a writable mount, or of a file.
pub const STATE_XATTR: &[u8] = b"user.floe.state";

/// Name of the xattr of the mount's root that is set to [`FREEZE_ALL`] or [`FREEZE_DEEP`] to freeze everything. The
/// caller then finds its ticket, or a later one, as `freezer_ticket` in the state. The work is done when `freezer_done`
/// has reached it.
pub const FREEZE_XATTR: &[u8] = b"user.floe.freeze";
/// Value of [`FREEZE_XATTR`] that freezes everything, and makes a checkpoint.
pub const FREEZE_ALL: &[u8] = b"all";
/// Value of [`FREEZE_XATTR`] that does the same as [`FREEZE_ALL`], and also cuts contents again that were made by
/// changes.
pub const FREEZE_DEEP: &[u8] = b"deep";

/// Most ranges of a file that are looked at: one request must not take long.
const RANGES: usize = 1 << 16;

/// Returns the value of `user.floe.state`; `None` if `name` is another attribute.
pub(super) fn state_text(live: &Live, fs: &Fs, inode: InodeId, name: &[u8]) -> Result<Option<String>, Failure> {
    if name != STATE_XATTR {
        return Ok(None);
    }
    if inode == InodeId::ROOT {
        let status = live.status().map_err(|error| Failure::Fs(error.into()))?;
        let mut text = whole(&status);
        freezer(&mut text, &live.freezer_status());
        line(&mut text, "working_set_bytes", fs.working_set().bytes());
        gc::lines(&mut text, &live.gc_status());
        return Ok(Some(text));
    }
    match of_file(live, fs, inode) {
        Ok(text) => Ok(Some(text)),
        Err(FsError::IsDirectory | FsError::NotRegular) => Err(Errno::NO_XATTR.into()),
        Err(error) => Err(error.into()),
    }
}

fn whole(status: &LiveStatus) -> String {
    let mut text = String::new();
    let seconds = |age: Option<Duration>| age.map_or("-".into(), |age| age.as_secs().to_string());
    for (name, value) in [
        ("overlay_bytes", status.overlay_bytes.to_string()),
        ("pending_bytes", status.pending_bytes.to_string()),
        ("thawed_bytes", status.thawed_bytes.to_string()),
        ("log_bytes", status.log_bytes.to_string()),
        ("budget", status.budget.to_string()),
        ("level", status.level.map_or("-".into(), |level| level.to_string())),
        ("freeze_rate", status.freeze_rate.to_string()),
        ("segments", status.segments.to_string()),
        ("open_inodes", status.open_inodes.to_string()),
        ("uncommitted_age", seconds(status.oldest_change)),
        ("checkpoint_age", seconds(status.since_checkpoint)),
        ("failed", words(status.latch.as_deref())),
    ] {
        line(&mut text, name, value);
    }
    text
}

fn freezer(text: &mut String, status: &FreezerStatus) {
    for (name, value) in [
        ("freezer_running", u64::from(status.running)),
        ("freezer_ticket", status.ticket),
        ("freezer_done", status.ticket_done),
        ("freezer_total_bytes", status.progress.total_bytes),
        ("freezer_done_bytes", status.progress.done_bytes),
        ("freezer_stored_bytes", status.progress.stored_bytes),
        ("queue_bytes", status.queue_bytes),
        ("queue_files", status.queue_files),
        ("failed_files", status.failed_files),
        ("rate", status.rate),
    ] {
        line(text, name, value);
    }
    line(text, "level", status.level.map_or("-".into(), |level| level.to_string()));
    let freezing = match status.freezing {
        Freezing::Auto => "auto",
        Freezing::Off => "off",
        Freezing::Eager => "eager",
    };
    line(text, "freezing", freezing);
    line(text, "freezer_error", words(status.error.as_deref()));
    report(text, "all", &status.all);
    if let Some(last) = &status.last {
        report(text, "last", last);
    }
}

fn report(text: &mut String, of: &str, report: &FreezeReport) {
    for (name, value) in [
        ("files", report.files),
        ("bytes", report.bytes),
        ("frozen_bytes", report.frozen_bytes),
        ("new_bytes", report.new_bytes),
        ("stored_bytes", report.stored_bytes),
        ("shared_bytes", report.shared_bytes),
        ("superchunks", report.superchunks),
        ("repacked", report.repacked),
        ("repacked_saved_bytes", report.repacked_saved_bytes),
        ("dropped", report.dropped),
        ("failed", report.failed),
        ("left_bytes", report.left_bytes),
    ] {
        line(text, &format!("{of}_{name}"), value);
    }
}

fn line(text: &mut String, name: &str, value: impl Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{name} {value}");
}

/// Returns text as a single line.
fn words(text: Option<&str>) -> String {
    text.map_or("-".into(), |text| text.replace('\n', " "))
}

/// Asks the freezer for the kind of freeze that `value` names ([`FREEZE_ALL`] or [`FREEZE_DEEP`]), on behalf of the
/// user `uid`.
pub(super) fn ask_to_freeze(live: &Live, inode: InodeId, uid: u32, value: &[u8]) -> Result<(), Failure> {
    if inode != InodeId::ROOT {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let deep = match value {
        FREEZE_ALL => false,
        FREEZE_DEEP => true,
        _ => return Err(Errno::EINVAL.into()),
    };
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(Errno::EPERM.into());
    }
    if live.latched().is_some() {
        return Err(FsError::ReadOnly.into());
    }
    live.request_freeze(deep);
    Ok(())
}

fn of_file(live: &Live, fs: &Fs, inode: InodeId) -> Result<String, FsError> {
    let (data, all_data) = data_bytes(fs, inode)?;
    let snapshot = live.snapshot();
    let view = snapshot.view();
    let (mut thawed, mut lost, mut seen) = (0u64, 0u64, 0);
    let mut ranges = view.thawed(inode, 0)?;
    while let Some((_, row)) = ranges.next(view)? {
        let sum = if row.is_lost() { &mut lost } else { &mut thawed };
        *sum = sum.saturating_add(row.length);
        seen += 1;
        if seen == RANGES {
            break;
        }
    }
    let frozen = data.saturating_sub(thawed).saturating_sub(lost);
    let more = if all_data && seen < RANGES { "" } else { "more -\n" };
    Ok(format!("thawed_bytes {thawed}\nlost_bytes {lost}\nfrozen_bytes {frozen}\n{more}"))
}

/// Returns the bytes of a file that are not in holes, and whether all of the file was looked at.
fn data_bytes(fs: &Fs, inode: InodeId) -> Result<(u64, bool), FsError> {
    let (mut data, mut at) = (0u64, 0);
    for _ in 0..RANGES {
        let begin = match fs.seek(inode, at, SeekTo::Data) {
            Ok(begin) => begin,
            Err(FsError::NoData) => return Ok((data, true)),
            Err(error) => return Err(error),
        };
        at = fs.seek(inode, begin, SeekTo::Hole)?;
        data = data.saturating_add(at - begin);
    }
    Ok((data, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_the_whole_has_a_line_for_each_number() {
        let status = LiveStatus {
            overlay_bytes: 1,
            pending_bytes: 2,
            thawed_bytes: 3,
            log_bytes: 4,
            budget: 7,
            level: Some(8),
            freeze_rate: 9,
            segments: 5,
            open_inodes: 6,
            oldest_change: Some(Duration::from_millis(5999)),
            since_checkpoint: None,
            latch: Some("no space".into()),
        };
        assert_eq!(
            whole(&status),
            "overlay_bytes 1\npending_bytes 2\nthawed_bytes 3\nlog_bytes 4\nbudget 7\nlevel 8\nfreeze_rate 9\nsegments 5\nopen_inodes 6\n\
             uncommitted_age 5\ncheckpoint_age -\nfailed no space\n"
        );
    }

    #[test]
    fn the_freezer_has_a_line_for_each_number_and_an_error_is_one_line() {
        let last = FreezeReport { files: 1, bytes: 2, frozen_bytes: 3, left_bytes: 4, ..FreezeReport::default() };
        let status = FreezerStatus {
            running: true,
            ticket: 7,
            ticket_done: 6,
            last: Some(last),
            error: Some("no\nspace".into()),
            level: Some(3),
            ..FreezerStatus::default()
        };
        let mut text = String::new();
        freezer(&mut text, &status);
        for line in [
            "freezer_running 1",
            "freezer_ticket 7",
            "freezer_done 6",
            "queue_bytes 0",
            "level 3",
            "freezing auto",
            "freezer_error no space",
            "last_files 1",
            "last_left_bytes 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.lines().all(|line| line.split_once(' ').is_some()), "{text}");
    }
}
