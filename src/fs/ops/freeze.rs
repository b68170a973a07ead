//! The last step of a freeze: a file names subchunks for the bytes that were cut, and no longer names them in the thaw
//! log.
//!
//! The row is read again, and only the columns of its content change [4]. Bytes are spliced only if their source is the
//! same as when they were cut, and into the content as it is now [5]. So whatever was written, cut off or punched
//! meanwhile stays. A file that was written from nothing gets the content that `pack` would give it. Called by
//! `freezing`.

use super::unlink::{STEP_ROWS, thawed_rows};
use super::{body, truncate};
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::limits;
use crate::format::rows::{ContentRef, ContentRow, Extent, InodeRow};
use crate::format::schema;
use crate::freeze::Span;
use crate::fs::FsError;
use crate::fs::content::{clear_fast, clear_uneven, hole, set_fast, slice};
use crate::fs::draft::{Draft, Standing};
use crate::fs::layout::{self, Unchanged};

/// A whole subchunk that was cut of a file, and where its bytes are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct Piece {
    pub(in crate::fs) begin: u64,
    pub(in crate::fs) len: u32,
    pub(in crate::fs) subchunk: SubchunkId,
    /// Whether the image already had the bytes of the piece.
    pub(in crate::fs) saved: bool,
}

impl Piece {
    /// Returns the offset in the file after the piece's last byte.
    pub(in crate::fs) fn end(&self) -> u64 {
        self.begin.saturating_add(self.len.into())
    }
}

/// The subchunks that were cut of a file, to be spliced into its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fs) struct Frozen {
    pub(in crate::fs) inode: InodeId,
    /// Size of the file in bytes when it was cut.
    pub(in crate::fs) size: u64,
    /// Sources of the file's bytes, in order: at least for those in pieces; for the whole file if all of it was cut.
    pub(in crate::fs) sources: Vec<Span>,
    /// Pieces in the order of the file's bytes, without overlaps.
    pub(in crate::fs) pieces: Vec<Piece>,
    /// Whether pieces and holes cover the whole file.
    pub(in crate::fs) whole: bool,
    /// Whether pieces without thawed bytes are useful, too, because the whole content is being cut again.
    pub(in crate::fs) deep: bool,
    /// Whether some borders of pieces differ from those that the chunker would find.
    pub(in crate::fs) uneven: bool,
    /// Whether some pieces are in superchunks that were packed at a lower level than the image's own.
    pub(in crate::fs) fast: bool,
    /// All bytes of the file, if it becomes tiny.
    pub(in crate::fs) tiny: Option<Vec<u8>>,
    /// The tiny content that the file had, if any.
    pub(in crate::fs) was_tiny: Option<Vec<u8>>,
}

/// Result of splicing some pieces into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::fs) struct Spliced {
    /// Bytes that are no longer in the thaw log.
    pub(in crate::fs) bytes: u64,
    /// How many of the bytes that are no longer in the thaw log the image already had.
    pub(in crate::fs) saved: u64,
    /// Whether anything was spliced.
    pub(in crate::fs) changed: bool,
    /// Number of the piece with which to continue; `None` if all pieces are done.
    pub(in crate::fs) next: Option<usize>,
    /// Whether the file is deleted.
    pub(in crate::fs) gone: bool,
}

/// Splices the pieces in `frozen` into the file's content, from piece number `first` on, as far as a single operation
/// may go: it changes a limited number of rows.
// Case 27.
pub(in crate::fs) fn freeze(draft: &mut Draft, frozen: &Frozen, first: usize) -> Result<Spliced, FsError> {
    draft.lightens_log();
    let (mut row, standing) = match draft.any_inode(frozen.inode) {
        Err(FsError::NotFound) => return Ok(Spliced { gone: true, ..Spliced::default() }),
        found => found?,
    };
    truncate::regular(&row)?;
    if standing == Standing::Orphan && !draft.is_open(frozen.inode) {
        return Ok(Spliced { gone: true, ..Spliced::default() });
    }
    if first == 0
        && frozen.whole
        && frozen.pieces.len() <= STEP_ROWS
        && thawed_rows(draft, frozen.inode, 0)? <= STEP_ROWS
        && let Some((bytes, saved)) = anew(draft, frozen, &mut row)?
    {
        mark_fast(frozen, &mut row);
        draft.put_any(frozen.inode, &row, standing);
        return Ok(Spliced { bytes, saved, changed: true, ..Spliced::default() });
    }
    let spliced = some(draft, frozen, first, &mut row)?;
    if spliced.changed {
        mark_fast(frozen, &mut row);
        draft.put_any(frozen.inode, &row, standing);
    }
    Ok(spliced)
}

/// Marks a content that got pieces which were packed fast. Pieces at the image's own level remove no mark: others may
/// still be there.
fn mark_fast(frozen: &Frozen, row: &mut InodeRow) {
    if frozen.fast && matches!(row.content, ContentRef::Content(_) | ContentRef::Subchunk(_)) {
        set_fast(row);
    }
}

/// Removes the mark that a content was packed fast, if the file still has this content.
pub(in crate::fs) fn no_longer_fast(draft: &mut Draft, inode: InodeId, content: ContentRef) -> Result<(), FsError> {
    let (mut row, standing) = match draft.any_inode(inode) {
        Err(FsError::NotFound) => return Ok(()),
        found => found?,
    };
    if row.content == content && row.is_fast() {
        clear_fast(&mut row);
        draft.put_any(inode, &row, standing);
    }
    Ok(())
}

/// Gives the file the content that `pack` would give it, if nothing of the file has changed. Returns how many bytes
/// left the log, and how many of them the image already had; `None` if something has changed.
fn anew(draft: &mut Draft, frozen: &Frozen, row: &mut InodeRow) -> Result<Option<(u64, u64)>, FsError> {
    if row.size != frozen.size {
        return Ok(None);
    }
    if let ContentRef::Tiny(id) = row.content
        && Some(draft.view().tiny(id)?) != frozen.was_tiny
    {
        return Ok(None);
    }
    let now = layout::spans(draft.view(), frozen.inode, row, (0, row.size), &|_| Ok(0))?;
    let unchanged = layout::unchanged(&frozen.sources, &now);
    let (mut at, mut bytes) = (0, 0u64);
    for range in &unchanged {
        if range.from != at {
            return Ok(None);
        }
        at = range.to;
        bytes = bytes.saturating_add(if range.thawed { range.to - range.from } else { 0 });
    }
    if at != row.size {
        return Ok(None);
    }
    let bytes = (bytes, saved(&frozen.pieces, &unchanged));
    draft.unthaw_after(frozen.inode, 0)?;
    if let Some(tiny) = &frozen.tiny {
        body::become_tiny(draft, row, tiny.clone())?;
        return Ok(Some(bytes));
    }
    if let [piece] = frozen.pieces.as_slice()
        && (piece.begin, u64::from(piece.len)) == (0, row.size)
    {
        body::become_subchunk(draft, row, piece.subchunk)?;
        return Ok(Some(bytes));
    }
    body::release(draft, row)?;
    let (mut rows, mut end) = (Rows::default(), 0);
    for piece in &frozen.pieces {
        if piece.begin > end {
            rows.hole(piece.begin - end);
        }
        rows.subchunk(piece.subchunk, 0, piece.len.into(), true);
        end = piece.end();
    }
    if !rows.all.is_empty() {
        body::splice(draft, row, 0, &rows.all, !frozen.uneven)?;
    }
    Ok(Some(bytes))
}

/// Splices the unchanged parts of the pieces.
fn some(draft: &mut Draft, frozen: &Frozen, first: usize, row: &mut InodeRow) -> Result<Spliced, FsError> {
    let mut spliced = Spliced::default();
    let pieces = frozen.pieces.get(first..).unwrap_or_default();
    let (Some(begin), false) = (pieces.first().map(|piece| piece.begin), matches!(row.content, ContentRef::Tiny(_)))
    else {
        return Ok(spliced);
    };
    let pieces = step(draft, frozen.inode, begin, pieces)?;
    let next = first.saturating_add(pieces.len());
    spliced.next = (next < frozen.pieces.len()).then_some(next);
    let end = pieces.last().map_or(begin, Piece::end).min(row.size);
    if begin >= end {
        return Ok(Spliced::default());
    }
    let now = layout::spans(draft.view(), frozen.inode, row, (begin, end), &|_| Ok(0))?;
    let first_source = frozen.sources.partition_point(|span| span.begin.saturating_add(span.len) <= begin);
    let then = frozen.sources.get(first_source..).unwrap_or_default();
    let mut unchanged = layout::unchanged(then, &now).into_iter().peekable();
    let mut groups = Vec::<Group>::new();
    let (mut bytes, mut saved) = (0u64, 0u64);
    for piece in pieces {
        let mut ranges = Vec::new();
        while let Some(range) = unchanged.peek().copied().filter(|range| range.from < piece.end()) {
            let part = Unchanged { from: range.from.max(piece.begin), to: range.to.min(piece.end()), ..range };
            if part.from < part.to {
                ranges.push(part);
            }
            if range.to > piece.end() {
                break;
            }
            unchanged.next();
        }
        for (from, to, thawed) in joined(&ranges) {
            let whole = to - from == u64::from(piece.len);
            // If a piece is changed in part, those of its bytes that are not in the log better stay where they are.
            if !whole && thawed == 0 {
                continue;
            }
            if groups.last().is_none_or(|group| group.end != from) {
                groups.push(Group { at: from, end: from, rows: Rows::default(), whole: !frozen.uneven });
            }
            let Some(group) = groups.last_mut() else { continue };
            // Less than the length of the piece, which fits a u32.
            let skip = u32::try_from(from - piece.begin).unwrap_or(u32::MAX);
            group.rows.subchunk(piece.subchunk, skip, to - from, whole);
            group.whole &= whole;
            group.end = to;
            bytes = bytes.saturating_add(thawed);
            saved = saved.saturating_add(if piece.saved { thawed } else { 0 });
        }
    }
    spliced.changed = bytes > 0 || frozen.deep && !groups.is_empty();
    // Without thawed bytes there is no reason to splice.
    if spliced.changed {
        for group in groups {
            body::splice(draft, row, group.at, &group.rows.all, group.whole)?;
            draft.unthaw(frozen.inode, group.at, group.end - group.at)?;
        }
    }
    (spliced.bytes, spliced.saved) = (bytes, saved);
    Ok(spliced)
}

/// Marks a content as no longer uneven, however it was made, if it consists of whole subchunks, and none of them is
/// shorter than the chunker's minimum except before a hole or the end.
pub(in crate::fs) fn even_out(draft: &mut Draft, inode: InodeId) -> Result<(), FsError> {
    let (mut row, standing) = match draft.any_inode(inode) {
        Err(FsError::NotFound) => return Ok(()),
        found => found?,
    };
    let ContentRef::Content(id) = row.content else { return Ok(()) };
    if !row.is_uneven() {
        return Ok(());
    }
    let min = draft.view().params().chunker.min_len();
    let (mut extents, mut short) = (draft.view().extents(id, 0)?, false);
    while let Some((_, extent)) = extents.next(draft.view())? {
        let whole = |len: u64, short: &mut bool| std::mem::replace(short, len < u64::from(min));
        let is_wrong = match &extent.extent {
            Extent::Hole => {
                short = false;
                false
            }
            Extent::Slice { subchunk, skip } => {
                *skip > 0
                    || u64::from(layout::subchunk_len(draft.view(), *subchunk)?) != extent.length
                    || whole(extent.length, &mut short)
            }
            Extent::Run { lens, .. } => lens.iter().any(|&len| whole(len.into(), &mut short)),
        };
        if is_wrong {
            return Ok(());
        }
    }
    clear_uneven(&mut row);
    draft.put_any(inode, &row, standing);
    Ok(())
}

/// Returns as many of the pieces as a single operation may splice; at least one.
fn step<'p>(draft: &Draft, inode: InodeId, begin: u64, pieces: &'p [Piece]) -> Result<&'p [Piece], FsError> {
    let most = pieces.get(..STEP_ROWS).unwrap_or(pieces);
    let Some(end) = most.last().map(Piece::end) else { return Ok(most) };
    let upto = truncate::upto(draft.view(), &schema::THAWED, inode.0, begin, end)?;
    let count = if upto < end { most.partition_point(|piece| piece.end() <= upto) } else { most.len() };
    Ok(most.get(..count.max(1)).unwrap_or(most))
}

/// Returns the number of thawed bytes in pieces that the image already had.
fn saved(pieces: &[Piece], unchanged: &[Unchanged]) -> u64 {
    let mut ranges = unchanged.iter().filter(|range| range.thawed).peekable();
    let mut bytes = 0u64;
    for piece in pieces {
        while let Some(range) = ranges.peek().filter(|range| range.from < piece.end()) {
            let (from, to) = (range.from.max(piece.begin), range.to.min(piece.end()));
            bytes = bytes.saturating_add(if piece.saved { to.saturating_sub(from) } else { 0 });
            if range.to > piece.end() {
                break;
            }
            ranges.next();
        }
    }
    bytes
}

/// Joins adjoining ranges. Returns begin, end, and how many of the bytes are in the log.
fn joined(ranges: &[Unchanged]) -> Vec<(u64, u64, u64)> {
    let mut out = Vec::<(u64, u64, u64)>::new();
    for range in ranges {
        let thawed = if range.thawed { range.to - range.from } else { 0 };
        match out.last_mut() {
            Some((_, to, bytes)) if *to == range.from => {
                *to = range.to;
                *bytes = bytes.saturating_add(thawed);
            }
            _ => out.push((range.from, range.to, thawed)),
        }
    }
    out
}

/// Rows that will cover one range of the file.
struct Group {
    at: u64,
    end: u64,
    rows: Rows,
    /// Whether all rows of the group are whole subchunks.
    whole: bool,
}

/// Rows of a content, as `pack` would write them.
#[derive(Default)]
struct Rows {
    all: Vec<ContentRow>,
    /// The subchunk with which the last row ends, if it is whole.
    last: Option<SubchunkId>,
}

impl Rows {
    fn hole(&mut self, len: u64) {
        self.last = None;
        self.all.push(hole(len));
    }

    fn subchunk(&mut self, id: SubchunkId, skip: u32, len: u64, whole: bool) {
        let follows = whole && self.last.is_some_and(|last| last.0.checked_add(1) == Some(id.0));
        self.last = whole.then_some(id);
        // Lengths of whole subchunks fit a u32.
        let short = |len: u64| u32::try_from(len).unwrap_or(u32::MAX);
        if let Some(row) = self.all.last_mut().filter(|_| follows) {
            match &mut row.extent {
                Extent::Slice { subchunk, .. } => {
                    row.extent = Extent::Run { first: *subchunk, lens: vec![short(row.length), short(len)] };
                    row.length = row.length.saturating_add(len);
                    return;
                }
                Extent::Run { lens, .. } if (lens.len() as u64) < limits::RUN => {
                    lens.push(short(len));
                    row.length = row.length.saturating_add(len);
                    return;
                }
                _ => {}
            }
        }
        self.all.push(slice(id, skip, len));
    }
}
