//! Copies a range of one file to another without copying bytes: afterwards both name the same subchunks and the same
//! frames of the thaw log.

use super::fallocate::reach;
use super::thaw::{self, Append, Source};
use super::truncate::SIZE;
use super::unlink::STEP_ROWS;
use super::{body, names, shares, truncate};
use crate::format::ids::InodeId;
use crate::format::rows::inode::{TAG_ALLOCATED, TAG_WRITER};
use crate::format::rows::{ContentRef, ContentRow, InodeRow, ShareKey, ThawedBytes, ThawedRow};
use crate::format::schema;
use crate::format::transaction::Thawed;
use crate::fs::FsError;
use crate::fs::content::{hole, part, set_fast, slice};
use crate::fs::draft::Draft;
use crate::fs::live::Live;

/// The range of the source that is copied, and where it goes in the target.
struct Range {
    inode: InodeId,
    row: InodeRow,
    from: u64,
    to: u64,
}

/// Copies up to `len` bytes. Returns how many were copied: 0 at the end of the source.
pub(in crate::fs) fn copy_range(
    draft: &mut Draft,
    (from, from_offset): (InodeId, u64),
    (inode, offset): (InodeId, u64),
    len: u64,
    append: Append<'_>,
) -> Result<u64, FsError> {
    let (source, _) = draft.any_inode(from)?;
    let (mut row, standing) = draft.any_inode(inode)?;
    truncate::regular(&source)?;
    truncate::regular(&row)?;
    let len = len.min(source.size.saturating_sub(from_offset));
    if len == 0 {
        return Ok(0);
    }
    if offset.checked_add(len).is_none_or(|end| end > SIZE) {
        return Err(FsError::TooLarge);
    }
    if from == inode && offset < from_offset.saturating_add(len) && from_offset < offset.saturating_add(len) {
        return Err(FsError::Invalid);
    }
    let mut range = Range { inode: from, row: source, from: from_offset, to: from_offset.saturating_add(len) };
    let thawed = bound(draft, &mut range, (inode, &row), offset)?;
    let len = range.to - range.from;
    let whole = range.from == 0 && range.to == range.row.size && offset == 0 && row.size == 0;
    if whole && row.content == ContentRef::None {
        share(draft, &range.row, &mut row)?;
    } else {
        bytes(draft, &range, (inode, &mut row), offset, append)?;
    }
    for (begin, found) in thawed {
        put_thawed(draft, &range, (begin, found), (inode, offset))?;
    }
    let size = row.size.max(offset.saturating_add(len));
    truncate::set_size(draft, &mut row, standing, size);
    names::changed(&mut row, draft.now());
    draft.put_any(inode, &row, standing);
    Ok(len)
}

/// Shortens the range to what may be copied at once, and so that it ends before lost bytes. Returns the thawed ranges
/// in it.
fn bound(
    draft: &mut Draft,
    range: &mut Range,
    (inode, row): (InodeId, &InodeRow),
    offset: u64,
) -> Result<Vec<(u64, ThawedRow)>, FsError> {
    let whole_content = range.from == 0 && range.to == range.row.size && row.size == 0;
    if let (ContentRef::Content(id), false) = (range.row.content, whole_content) {
        range.to = truncate::upto(draft.view(), &schema::CONTENTS, id.0, range.from, range.to)?;
    }
    let end = offset.saturating_add(range.to - range.from);
    let reached = reach(draft, inode, row, offset, end)?;
    range.to = range.from.saturating_add(reached - offset);
    let mut found = Vec::new();
    let mut ranges = draft.view().thawed_within(range.inode, range.from, range.to)?;
    while let Some((begin, thawed)) = ranges.next(draft.view())?
        && begin < range.to
    {
        if thawed.is_lost() {
            if begin <= range.from {
                return Err(FsError::io(format!("{} bytes at offset {begin} are lost", thawed.length)));
            }
            range.to = begin;
        } else if found.len() == STEP_ROWS {
            range.to = begin;
        } else {
            found.push((begin, thawed));
        }
    }
    Ok(found)
}

/// Makes the target, which has no content, another user of the source's content.
pub(super) fn share(draft: &mut Draft, source: &InodeRow, row: &mut InodeRow) -> Result<(), FsError> {
    row.content = source.content;
    row.attributes.retain(|(tag, _)| !matches!(*tag, TAG_ALLOCATED | TAG_WRITER));
    row.attributes
        .extend(source.attributes.iter().filter(|(tag, _)| matches!(*tag, TAG_ALLOCATED | TAG_WRITER)).cloned());
    row.attributes.sort();
    // The source's row is claimed, so the content that it names exists [7].
    let content = InodeRow { xattrs: crate::format::rows::inode::XattrRef::None, ..row.clone() };
    for key in ShareKey::used_by(&content).collect::<Vec<_>>() {
        shares::add_user(draft, key)?;
    }
    Ok(())
}

/// Makes the target's range name what the source's content has there. A tiny content has no parts that could be named,
/// so its bytes are appended to the thaw log.
fn bytes(
    draft: &mut Draft,
    range: &Range,
    (inode, row): (InodeId, &mut InodeRow),
    offset: u64,
    append: Append<'_>,
) -> Result<(), FsError> {
    let len = range.to - range.from;
    let mut own = thaw::tiny_bytes(draft, &range.row)?;
    let cut = own.len().min(usize::try_from(range.to).unwrap_or(usize::MAX));
    own.truncate(cut);
    own.drain(..cut.min(usize::try_from(range.from).unwrap_or(usize::MAX)));
    let (copied, tiny) = (own.len() as u64, thaw::tiny_bytes(draft, row)?);
    let kept = tiny.len() as u64;
    own.extend(tiny);
    let pieces = if own.is_empty() { Vec::new() } else { append(&own)? };
    if kept > 0 {
        thaw::tiny(draft, inode, row, &pieces, copied, kept)?;
    }
    draft.unthaw(inode, offset, len)?;
    if copied > 0 {
        body::replace(draft, row, offset, &[hole(len)])?;
        return thaw::put(draft, inode, &pieces, 0, offset, copied);
    }
    let rows = rows_of(draft, range)?;
    body::replace(draft, row, offset, &rows)?;
    if range.row.is_fast() && matches!(row.content, ContentRef::Content(_)) {
        set_fast(row);
    }
    Ok(())
}

/// Returns the rows of the source's content in the range, with holes where it has none.
fn rows_of(draft: &Draft, range: &Range) -> Result<Vec<ContentRow>, FsError> {
    let (mut rows, mut at) = (Vec::new(), range.from);
    match range.row.content {
        ContentRef::None | ContentRef::Tiny(_) => {}
        ContentRef::Subchunk(id) => {
            // The offset is at most a subchunk's length.
            rows.push(slice(id, u32::try_from(range.from).unwrap_or(u32::MAX), range.to - range.from));
            at = range.to;
        }
        ContentRef::Content(id) => {
            let mut extents = draft.view().extents(id, range.from)?;
            while let Some((begin, extent)) = extents.next(draft.view())?
                && begin < range.to
            {
                for (begin, piece) in part(begin, &extent, range.from, range.to) {
                    at = begin.saturating_add(piece.length);
                    rows.push(piece);
                }
            }
        }
    }
    if at < range.to {
        rows.push(hole(range.to - at));
    }
    Ok(rows)
}

/// Gives the target the part of a thawed range of the source that is in the range.
fn put_thawed(
    draft: &mut Draft,
    range: &Range,
    (begin, found): (u64, ThawedRow),
    (inode, offset): (InodeId, u64),
) -> Result<(), FsError> {
    let ThawedBytes::InLog { frame, skip, sum } = found.bytes else { return Ok(()) };
    let from = begin.max(range.from);
    let to = begin.saturating_add(found.length).min(range.to);
    if from >= to {
        return Ok(());
    }
    draft.thaw(Thawed {
        inode,
        offset: offset.saturating_add(from - range.from),
        len: to - from,
        frame,
        within: u64::from(skip).saturating_add(from - begin),
        sum,
    })
}

impl Live {
    /// Copies up to `len` bytes of one file to another, or within one file if the ranges do not overlap. Returns the
    /// number of bytes copied: fewer only at the end of the source, before lost bytes, or if it is too much for a
    /// single operation; 0 only at the end of the source.
    ///
    /// # Errors
    /// Fails with `Invalid` if the ranges overlap, with `TooLarge`, `NotFound`, `IsDirectory`, `NotRegular`, `NoSpace`
    /// or `ReadOnly`, or with `Io` if tables cannot be read or the first bytes are lost.
    pub fn copy_range(
        &self,
        from: InodeId,
        from_offset: u64,
        to: InodeId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        let source = Source::new(self, &[]);
        let append = |before: &[u8]| source.append(before);
        self.transact(|draft| copy_range(draft, (from, from_offset), (to, to_offset), len, &append))
    }
}
