//! `user.floe.state`: what a writable mount holds in memory and in the thaw log, a name and a number a line.
//!
//! Of the root, of the whole filesystem; of a regular file, of that file. It is answered and not listed, so no copy takes it
//! along. Called by `writing`.

use super::gc;
use super::guard::Failure;
use crate::format::ids::InodeId;
use crate::fs::{Fs, FsError, Live, LiveStatus, SeekTo};
use fuser::Errno;
use std::fmt::Write;
use std::time::Duration;

/// The attribute.
pub const STATE_XATTR: &[u8] = b"user.floe.state";

/// Ranges of a file that are looked at: one request may not take long.
const RANGES: usize = 1 << 16;

/// The value of `user.floe.state`; `None` if `name` is another attribute.
pub(super) fn state_text(live: &Live, fs: &Fs, inode: InodeId, name: &[u8]) -> Result<Option<String>, Failure> {
    if name != STATE_XATTR {
        return Ok(None);
    }
    if inode == InodeId::ROOT {
        let status = live.status().map_err(|error| Failure::Fs(error.into()))?;
        let mut text = whole(&status);
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
        ("segments", status.segments.to_string()),
        ("open_inodes", status.open_inodes.to_string()),
        ("uncommitted_age", seconds(status.oldest_change)),
        ("checkpoint_age", seconds(status.since_checkpoint)),
        ("failed", status.latch.clone().unwrap_or_else(|| "-".into())),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} {value}");
    }
    text
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

/// Bytes of a file that are no hole, and whether all of it was looked at.
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
            segments: 5,
            open_inodes: 6,
            oldest_change: Some(Duration::from_millis(5999)),
            since_checkpoint: None,
            latch: Some("no space".into()),
        };
        assert_eq!(
            whole(&status),
            "overlay_bytes 1\npending_bytes 2\nthawed_bytes 3\nlog_bytes 4\nsegments 5\nopen_inodes 6\n\
             uncommitted_age 5\ncheckpoint_age -\nfailed no space\n"
        );
    }
}
