//! Writes bytes to files.

use super::thaw::{self, Append, Source};
use super::truncate::SIZE;
use super::{body, names, privileges, truncate};
use crate::format::ids::InodeId;
use crate::format::rows::ContentRef;
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::live::Live;

/// Most bytes that are written by a single operation: more than any kernel sends in one request.
const STEP: usize = 8 << 20;

/// Appends `len` bytes by `append`, and makes them the bytes of `inode` from `offset` on.
pub(in crate::fs) fn write(
    draft: &mut Draft,
    inode: InodeId,
    offset: u64,
    len: u64,
    clear_privileges: bool,
    append: Append<'_>,
) -> Result<(), FsError> {
    let (mut row, standing) = draft.any_inode(inode)?;
    truncate::regular(&row)?;
    if len == 0 {
        return Ok(());
    }
    let end = offset.checked_add(len).filter(|end| *end <= SIZE).ok_or(FsError::TooLarge)?;
    let whole = offset == 0 && end >= row.size;
    let tiny = if whole { Vec::new() } else { thaw::tiny_bytes(draft, &row)? };
    let before = tiny.len() as u64;
    let pieces = append(&tiny)?;
    if whole && !matches!(row.content, ContentRef::Content(_)) {
        body::release(draft, &mut row)?;
    } else if before > 0 {
        thaw::tiny(draft, inode, &mut row, &pieces, 0, before)?;
    } else if end > row.size {
        body::loosen(draft, &mut row)?;
    }
    thaw::put(draft, inode, &pieces, before, offset, len)?;
    let size = row.size.max(end);
    truncate::set_size(draft, &mut row, standing, size);
    names::changed(&mut row, draft.now());
    if clear_privileges {
        privileges::clear(draft, &mut row)?;
    }
    draft.put_any(inode, &row, standing);
    Ok(())
}

impl Live {
    /// Writes `data` to a regular file at `offset`. With `clear_privileges` the file loses setuid, setgid and its
    /// capabilities.
    ///
    /// # Errors
    /// Fails with `TooLarge` beyond 2^63 - 1 bytes, with `NotFound`, `IsDirectory`, `NotRegular`, `NoSpace` or
    /// `ReadOnly`, or with `Io` if tables cannot be read.
    pub fn write(&self, inode: InodeId, offset: u64, data: &[u8], clear_privileges: bool) -> Result<(), FsError> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > SIZE) {
            return Err(FsError::TooLarge);
        }
        let mut at = offset;
        for data in data.chunks(STEP) {
            let source = Source::new(self, data);
            let append = |before: &[u8]| source.append(before);
            let len = data.len() as u64;
            self.transact(|draft| write(draft, inode, at, len, clear_privileges, &append))?;
            at = at.saturating_add(len);
        }
        Ok(())
    }
}
