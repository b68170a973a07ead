//! The time of the last read.

use crate::format::ids::InodeId;
use crate::format::rows::{InodeRow, Time};
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::live::Live;

/// A read is noted once a day at least, in seconds.
const DAY: i64 = 24 * 60 * 60;

/// Whether a read at `now` is noted, by the rule of `relatime` (`relatime_need_update` of Linux): if none was since the last
/// change, or for a day.
fn is_due(row: &InodeRow, now: Time) -> bool {
    row.atime <= row.mtime || row.atime <= row.ctime || now.secs.saturating_sub(row.atime.secs) >= DAY
}

/// Notes a read, if it is due. Not a change of the inode: its ctime stays.
pub(in crate::fs) fn touch_atime(draft: &mut Draft, inode: InodeId, always: bool) -> Result<(), FsError> {
    let (mut row, standing) = draft.any_inode(inode)?;
    if always || is_due(&row, draft.now()) {
        row.atime = draft.now();
        draft.put_any(inode, &row, standing);
    }
    Ok(())
}

impl Live {
    /// Notes that an inode was read now: `always`, or by the rule of `relatime`.
    ///
    /// # Errors
    /// `NotFound`, `NoSpace`, `ReadOnly`, or `Io` if tables cannot be read.
    pub fn touch_atime(&self, inode: InodeId, always: bool) -> Result<(), FsError> {
        self.transact(|draft| touch_atime(draft, inode, always))
    }
}
