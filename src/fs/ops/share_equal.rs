//! Gives a file the content of another file that is equal to its own (`floe freeze --deep`).
//!
//! The operation itself compares them, on rows that it claims: if a file changes between the comparison and the step in
//! which it counts, the operation is evaluated again. One step may delete only a limited number of rows [27], so a
//! content with more rows stays alone. Later changes copy the content first, as for any shared content. Called by
//! `freezing/share`.

use super::unlink::STEP_ROWS;
use super::{body, copy};
use crate::format::ids::InodeId;
use crate::format::rows::ContentRef;
use crate::fs::draft::Draft;
use crate::fs::{FsError, equal};

/// A file, and the content that its row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct Holder {
    pub(in crate::fs) inode: InodeId,
    pub(in crate::fs) content: ContentRef,
}

/// Result of making two files share one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Sharing {
    /// Both files have one content now, or had it before.
    Shared,
    /// The file with the content that is to be shared (`target`) has another content now, or is deleted.
    TargetChanged,
    /// The file that is to share the content (`holder`) has changed, or the contents are not equal.
    Not,
}

/// Makes `holder` another user of `target`'s content. Readers see no change in either file.
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
    //# A content never ends after the size of an inode that names it.
    // Equal contents end at the same offset.
    if row.content != holder.content || !equal::is_equal(draft.view(), row.content, source.content, STEP_ROWS)? {
        return Ok(Sharing::Not);
    }
    body::release(draft, &mut row)?;
    copy::share(draft, &source, &mut row)?;
    draft.put_inode(holder.inode, &row);
    Ok(Sharing::Shared)
}
