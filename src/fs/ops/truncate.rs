//! Changes the size of a file.

use super::thaw::{self, Append};
use super::unlink::{STEP_ROWS, thawed_rows};
use super::{body, shares};
use crate::format::block::{Key, KeyRef};
use crate::format::ids::InodeId;
use crate::format::rows::{ContentRef, FileType, InodeRow};
use crate::format::schema::{self, Table};
use crate::fs::FsError;
use crate::fs::draft::{Draft, Standing};
use crate::meta::View;

/// Largest size of a file in bytes.
pub(super) const SIZE: u64 = i64::MAX as u64;

/// Fails if the inode is not a regular file: nothing else has bytes.
pub(super) fn regular(row: &InodeRow) -> Result<(), FsError> {
    match row.file_type {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(FsError::IsDirectory),
        _ => Err(FsError::NotRegular),
    }
}

/// Sets the size in the row. The caller takes care of the bytes.
pub(super) fn set_size(draft: &mut Draft, row: &mut InodeRow, standing: Standing, size: u64) {
    if standing == Standing::Named {
        // Both are below 2^63.
        draft.count(0, (size as i64).saturating_sub(row.size as i64));
    }
    row.size = size;
}

/// Makes a regular file `size` bytes long. Bytes that are cut off never come back: when a file grows, the new bytes
/// read as zeros.
pub(super) fn resize(
    draft: &mut Draft,
    inode: InodeId,
    row: &mut InodeRow,
    standing: Standing,
    size: u64,
    append: Append<'_>,
) -> Result<(), FsError> {
    if size > SIZE {
        return Err(FsError::TooLarge);
    }
    if size <= row.size {
        draft.removes();
    }
    if size < row.size {
        draft.unthaw_after(inode, size)?;
        body::shorten(draft, row, size)?;
    } else if size > row.size {
        let tiny = thaw::tiny_bytes(draft, row)?;
        if tiny.is_empty() {
            body::loosen(draft, row)?;
        } else {
            let pieces = append(&tiny)?;
            thaw::tiny(draft, inode, row, &pieces, 0, tiny.len() as u64)?;
        }
    }
    set_size(draft, row, standing, size);
    Ok(())
}

/// Returns the size to which a single operation may cut a file that is to be `size` bytes long. It is larger than
/// `size` if too many rows would be deleted.
// Case 27.
pub(super) fn step(draft: &mut Draft, inode: InodeId, row: &InodeRow, size: u64) -> Result<u64, FsError> {
    let mut to = size;
    if size >= row.size {
        return Ok(to);
    }
    if thawed_rows(draft, inode, size)? > STEP_ROWS {
        to = back(draft.view(), &schema::THAWED, inode.0)?;
    }
    if let ContentRef::Content(id) = row.content
        && !shares::is_shared(draft, body::content_share(id))?
        && body::rows_from(draft.view(), id, size, STEP_ROWS)? > STEP_ROWS
    {
        to = to.max(back(draft.view(), &schema::CONTENTS, id.0)?);
    }
    Ok(to)
}

/// Returns the offset at which the first of the last [`STEP_ROWS`] rows with this `a` begins.
pub(super) fn back(view: &View, table: &'static Table, a: u64) -> Result<u64, FsError> {
    let (mut at, mut upto) = (0, u64::MAX);
    for _ in 0..STEP_ROWS {
        match view.floor_within(table, KeyRef::new(a, upto))? {
            Some(row) if row.key().a == a => at = row.key().b,
            _ => return Ok(0),
        }
        match at.checked_sub(1) {
            Some(before) => upto = before,
            None => return Ok(0),
        }
    }
    Ok(at)
}

/// Returns the offset in `[from, to)` of the first row that is one too many to be deleted by a single operation; `to`
/// if there is none.
pub(super) fn upto(view: &View, table: &'static Table, a: u64, from: u64, to: u64) -> Result<u64, FsError> {
    let mut cursor = view.cursor_within(table, KeyRef::new(a, from), Key::new(a, to))?;
    let mut rows = 0;
    while let Some(begin) = cursor.row().map(|row| row.key()).filter(|key| key.a == a && key.b < to).map(|key| key.b) {
        rows += 1;
        if rows > STEP_ROWS {
            return Ok(begin);
        }
        cursor.advance(view)?;
    }
    Ok(to)
}
