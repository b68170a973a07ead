//! The time of the last read of an inode.

use crate::format::ids::InodeId;
use crate::format::rows::{InodeRow, Time};
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::live::Live;

/// Time in seconds after which a read updates the time of the last read in any case.
const DAY: i64 = 24 * 60 * 60;

/// Returns whether a read at `now` updates the time of the last read, by the rule of `relatime` (`relatime_need_update`
/// in Linux): if the last update was before the last change, or a day ago.
fn is_due(row: &InodeRow, now: Time) -> bool {
    row.atime <= row.mtime || row.atime <= row.ctime || now.secs.saturating_sub(row.atime.secs) >= DAY
}

/// Updates the time of the last read, if it is due. The inode's ctime stays, because this is not a change of the inode.
pub(in crate::fs) fn touch_atime(draft: &mut Draft, inode: InodeId, always: bool) -> Result<(), FsError> {
    let (mut row, standing) = draft.any_inode(inode)?;
    if always || is_due(&row, draft.now()) {
        row.atime = draft.now();
        draft.put_any(inode, &row, standing);
    }
    Ok(())
}

impl Live {
    /// Updates the time of the last read of an inode: `always`, or by the rule of `relatime`.
    ///
    /// # Errors
    /// Fails with `NotFound`, `NoSpace` or `ReadOnly`, or with `Io` if tables cannot be read.
    pub fn touch_atime(&self, inode: InodeId, always: bool) -> Result<(), FsError> {
        self.transact(|draft| touch_atime(draft, inode, always))
    }
}
