//! A file comes to have the content of another that is equal to its own (`floe freeze --deep`).
//!
//! Whether they are equal is found out in the operation itself, on rows that it claims: a file that changes between that and
//! the step in which it counts makes it begin anew. One step deletes no more rows than it may [27], so a content of more stays
//! alone. What is changed afterwards is copied first, as of any shared content.
//! Called by `freezing/share`.

use super::unlink::STEP_ROWS;
use super::{body, copy};
use crate::format::ids::InodeId;
use crate::format::rows::ContentRef;
use crate::fs::draft::Draft;
use crate::fs::{FsError, equal};

/// A file, and what its row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct Holder {
    pub(in crate::fs) inode: InodeId,
    pub(in crate::fs) content: ContentRef,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Sharing {
    /// Both have one content now, or had it before.
    Shared,
    /// The file that was to be joined has another content, or is gone.
    TargetChanged,
    /// The other has changed, or they are not equal.
    Not,
}

/// Makes `holder` another user of what `target` has. Nothing of either file that anybody reads changes.
pub(in crate::fs) fn share_equal(draft: &mut Draft, holder: Holder, target: Holder) -> Result<Sharing, FsError> {
    let source = match draft.inode(target.inode) {
        Err(FsError::NotFound) => return Ok(Sharing::TargetChanged),
        found => found?,
    };
    if source.content != target.content {
        return Ok(Sharing::TargetChanged);
    }
    let mut row = match draft.inode(holder.inode) {
        Err(FsError::NotFound) => return Ok(Sharing::Not),
        found => found?,
    };
    if row.content == target.content {
        return Ok(Sharing::Shared);
    }
    //= format-spec.md#8.3
    //# A content never ends after the size of an inode that has it.
    // Equal contents end at the same offset.
    if row.content != holder.content || !equal::is_equal(draft.view(), row.content, source.content, STEP_ROWS)? {
        return Ok(Sharing::Not);
    }
    body::release(draft, &mut row)?;
    copy::share(draft, &source, &mut row)?;
    draft.put_inode(holder.inode, &row);
    Ok(Sharing::Shared)
}
