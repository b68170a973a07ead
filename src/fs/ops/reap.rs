//! Deletes inodes without names, in steps.

use super::unlink::{STEP_ROWS, dispose};
use super::{body, shares, truncate};
use crate::format::block::{Key, KeyRef};
use crate::format::ids::InodeId;
use crate::format::rows::{ContentRef, InodeRow};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::{Draft, Standing};
use crate::fs::live::Live;

/// Deletes up to [`STEP_ROWS`] thawed ranges, and as many rows of the content, of an orphan that nobody has open. The
/// last call deletes the orphan's row. Returns true if nothing is left to do.
pub(in crate::fs) fn reap_step(draft: &mut Draft, inode: InodeId) -> Result<bool, FsError> {
    draft.removes();
    let (mut row, standing) = match draft.any_inode(inode) {
        Err(FsError::NotFound) => return Ok(true),
        found => found?,
    };
    if standing == Standing::Named || draft.is_open(inode) {
        return Ok(true);
    }
    let (thawed, content) = (reap_thawed(draft, inode)?, reap_content(draft, &mut row)?);
    if thawed && content {
        dispose(draft, inode, &mut row)?;
        draft.delete_inode(inode, Standing::Orphan);
        return Ok(true);
    }
    draft.put_any(inode, &row, Standing::Orphan);
    Ok(false)
}

/// Deletes as many thawed ranges of an orphan as a single operation may. Returns true, and deletes nothing, if so few
/// are left that they can be deleted with the orphan's row.
fn reap_thawed(draft: &mut Draft, inode: InodeId) -> Result<bool, FsError> {
    let view = draft.view().clone();
    if !view.has_thawed() {
        return Ok(true);
    }
    let mut cursor =
        view.cursor_within(&schema::THAWED, KeyRef::new(inode.0, 0), Key::new(inode.0.saturating_add(1), 0))?;
    for _ in 0..STEP_ROWS {
        if cursor.row().is_none_or(|row| row.key().a != inode.0) {
            return Ok(true);
        }
        cursor.advance(&view)?;
    }
    match cursor.row().map(|row| row.key()).filter(|key| key.a == inode.0).map(|key| key.b) {
        None => Ok(true),
        Some(next) => {
            draft.unthaw(inode, 0, next)?;
            Ok(false)
        }
    }
}

/// Deletes as many rows of an orphan's content as a single operation may, from the end: a content always begins at 0,
/// so the rest stays valid. Returns true, and deletes nothing, if so few are left that they can be deleted with the
/// orphan's row.
fn reap_content(draft: &mut Draft, row: &mut InodeRow) -> Result<bool, FsError> {
    let ContentRef::Content(id) = row.content else { return Ok(true) };
    if shares::is_shared(draft, body::content_share(id))?
        || body::rows_from(draft.view(), id, 0, STEP_ROWS)? <= STEP_ROWS
    {
        return Ok(true);
    }
    let to = truncate::back(draft.view(), &schema::CONTENTS, id.0)?;
    body::shorten(draft, row, to)?;
    Ok(false)
}

impl Live {
    /// Deletes an inode without a name, unless somebody has it open. It deletes a limited number of rows at a time, so
    /// that nobody waits long.
    ///
    /// # Errors
    /// Fails with `ReadOnly`, or with `Io` if tables cannot be read.
    pub(in crate::fs) fn reap(&self, inode: InodeId) -> Result<(), FsError> {
        while !self.transact(|draft| reap_step(draft, inode))? {}
        Ok(())
    }

    /// Deletes a limited number of rows of an orphan, as one step of [`Live::reap`]. For the thread that makes
    /// checkpoints.
    ///
    /// # Errors
    /// Fails as [`Live::reap`] does.
    pub(in crate::fs) fn reap_some(&self, inode: InodeId) -> Result<(), FsError> {
        self.transact_between_checkpoints(|draft| reap_step(draft, inode)).map(drop)
    }
}
