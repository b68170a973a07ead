//! Removes names, and inodes that have lost their last name.

use super::{body, names, sets};
use crate::format::block::{Key, KeyRef};
use crate::format::ids::InodeId;
use crate::format::rows::{ContentRef, FileType, InodeRow};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::{Draft, Standing};
use crate::fs::live::Live;

/// Most rows that a single operation deletes. More rows take several operations.
// Case 27.
pub(in crate::fs) const STEP_ROWS: usize = 4096;

/// Removes a name that is not a directory's.
pub(in crate::fs) fn unlink(draft: &mut Draft, parent: InodeId, name: &[u8]) -> Result<(), FsError> {
    names::check(name)?;
    draft.removes();
    names::directory(draft, parent)?;
    let entry = draft.lookup(parent, name)?.ok_or(FsError::NotFound)?;
    if entry.file_type == FileType::Directory {
        return Err(FsError::IsDirectory);
    }
    draft.delete_dirent(parent, name);
    names::directory_changed(draft, parent, 0)?;
    drop_name(draft, entry.inode)
}

/// Removes an empty directory.
pub(in crate::fs) fn rmdir(draft: &mut Draft, parent: InodeId, name: &[u8]) -> Result<(), FsError> {
    names::check(name)?;
    draft.removes();
    names::directory(draft, parent)?;
    let entry = draft.lookup(parent, name)?.ok_or(FsError::NotFound)?;
    if entry.file_type != FileType::Directory {
        return Err(FsError::NotDirectory);
    }
    let row = empty_directory(draft, entry.inode)?;
    draft.delete_dirent(parent, name);
    names::directory_changed(draft, parent, -1)?;
    drop_directory(draft, entry.inode, row)
}

/// Returns the row of a directory that is empty. If another operation adds a name to it, this one is evaluated again,
/// because the row is recorded as read.
pub(super) fn empty_directory(draft: &mut Draft, inode: InodeId) -> Result<InodeRow, FsError> {
    let row = names::directory(draft, inode)?;
    if draft.view().dirents(inode, None)?.peek()?.is_some() {
        return Err(FsError::NotEmpty);
    }
    Ok(row)
}

/// Removes one name from an inode that is not a directory.
pub(super) fn drop_name(draft: &mut Draft, inode: InodeId) -> Result<(), FsError> {
    let mut row = draft.inode(inode)?;
    row.ctime = draft.now();
    if row.links > 1 {
        row.links -= 1;
        draft.put_inode(inode, &row);
        return Ok(());
    }
    nameless(draft, inode, row)
}

/// Removes the name of an empty directory.
pub(super) fn drop_directory(draft: &mut Draft, inode: InodeId, mut row: InodeRow) -> Result<(), FsError> {
    names::changed(&mut row, draft.now());
    nameless(draft, inode, row)
}

/// Handles an inode that lost its last name. The inode is deleted at once, or it becomes an orphan: if somebody has it
/// open, or if it has too many rows to delete at once.
fn nameless(draft: &mut Draft, inode: InodeId, mut row: InodeRow) -> Result<(), FsError> {
    let bytes = if row.file_type == FileType::Regular { row.size } else { 0 };
    // Sizes are below 2^63.
    draft.count(-1, 0i64.saturating_sub_unsigned(bytes));
    //= format-spec.md#8.6
    //# In the same step the row moves from `inodes` to this table, with its number and all its columns (8.1); `links`
    //# is 0.
    draft.delete_inode(inode, Standing::Named);
    if draft.is_open(inode) || is_large(draft, inode, &row)? {
        row.links = 0;
        draft.put_any(inode, &row, Standing::Orphan);
        return Ok(());
    }
    dispose(draft, inode, &mut row)
}

/// Deletes everything that the row names and nobody else uses. The caller deletes the row itself.
pub(super) fn dispose(draft: &mut Draft, inode: InodeId, row: &mut InodeRow) -> Result<(), FsError> {
    if row.file_type == FileType::Regular {
        draft.unthaw_after(inode, 0)?;
    }
    body::release(draft, row)?;
    sets::release(draft, row)
}

/// Returns whether the inode has more rows than a single operation may delete.
fn is_large(draft: &mut Draft, inode: InodeId, row: &InodeRow) -> Result<bool, FsError> {
    if row.file_type != FileType::Regular {
        return Ok(false);
    }
    let mut rows = thawed_rows(draft, inode, 0)?;
    if let ContentRef::Content(id) = row.content
        && rows <= STEP_ROWS
        && !super::shares::is_shared(draft, body::content_share(id))?
    {
        rows += body::rows_from(draft.view(), id, 0, STEP_ROWS)?;
    }
    Ok(rows > STEP_ROWS)
}

/// Returns the number of thawed ranges that begin at or after `from`, at most one more than a single operation may
/// delete.
pub(super) fn thawed_rows(draft: &Draft, inode: InodeId, from: u64) -> Result<usize, FsError> {
    let view = draft.view();
    if !view.has_thawed() {
        return Ok(0);
    }
    let mut cursor =
        view.cursor_within(&schema::THAWED, KeyRef::new(inode.0, from), Key::new(inode.0.saturating_add(1), 0))?;
    let mut rows = 0;
    while rows <= STEP_ROWS && cursor.row().is_some_and(|row| row.key().a == inode.0) {
        rows += 1;
        cursor.advance(view)?;
    }
    Ok(rows)
}

impl Live {
    /// Removes a name that is not a directory's. An open file keeps its bytes until it is closed.
    ///
    /// # Errors
    /// Fails with `NotFound`, `IsDirectory`, `NotDirectory`, `NameTooLong` or `ReadOnly`, or with `Io` if tables cannot
    /// be read.
    pub fn unlink(&self, parent: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.transact(|draft| unlink(draft, parent, name))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Fails with `NotFound`, `NotDirectory`, `NotEmpty`, `NameTooLong` or `ReadOnly`, or with `Io` if tables cannot be
    /// read.
    pub fn rmdir(&self, parent: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.transact(|draft| rmdir(draft, parent, name))
    }
}
