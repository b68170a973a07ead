//! The attributes of a row that an operation wrote.

use super::body;
use crate::format::ids::InodeId;
use crate::format::rows::{ContentRef, FileType, InodeRow};
use crate::fs::{Attr, FsError};
use crate::meta::View;

/// Most thawed ranges that are added up. If a file has more, its number of blocks is an estimate until the next stat.
const RANGES: u64 = 256;

/// Returns the attributes of an inode with this row.
pub(super) fn of(view: &View, inode: InodeId, row: &InodeRow) -> Result<Attr, FsError> {
    let allocated = if row.file_type == FileType::Regular {
        let content = match row.content {
            ContentRef::None => 0,
            ContentRef::Tiny(_) | ContentRef::Subchunk(_) => row.size,
            ContentRef::Content(id) => match row.allocated() {
                Some(allocated) => allocated,
                None => body::end_of(view, id)?,
            },
        };
        if content >= row.size { row.size } else { content.saturating_add(thawed(view, inode, row.size)?) }
    } else {
        0
    };
    Ok(Attr::of(inode, row, allocated))
}

/// Returns the bytes in thawed ranges of an inode, or the size if there are too many ranges.
fn thawed(view: &View, inode: InodeId, size: u64) -> Result<u64, FsError> {
    if !view.has_thawed() {
        return Ok(0);
    }
    let mut bytes = 0u64;
    let mut ranges = view.thawed(inode, 0)?;
    for _ in 0..RANGES {
        let Some((_, row)) = ranges.next(view)? else { return Ok(bytes) };
        bytes = bytes.saturating_add(row.length);
    }
    Ok(size)
}
