//! A file as the freezer reads it: its spans one by one, and its bytes, all from one snapshot.
//!
//! Bytes of the thaw log are used only after their frame is verified as a whole [16]. Called by `batch`.

use crate::format::block::KeyRef;
use crate::format::ids::{InodeId, LogOffset};
use crate::format::rows::{ContentRef, InodeRow, ThawedBytes, ThawedRow};
use crate::format::schema;
use crate::freeze::{Layout, Span, SpanSource};
use crate::fs::ops::content_end;
use crate::fs::snapshot::Snapshot;
use crate::fs::{FsError, layout};
use crate::inflate::WorkingSet;
use crate::meta::View;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of verified frames that are kept. Frames of a large file are read one at a time; a frame with many small files
/// is read once.
const FRAMES: usize = 32 << 20;
/// Most frames that are kept. They are searched one by one, and small ones are seldom needed twice.
const FRAMES_MOST: usize = 256;

/// Reads the bytes of files in one snapshot.
pub(super) struct Reader<'a> {
    pub(super) now: &'a Snapshot,
    pub(super) working_set: &'a WorkingSet,
    frames: RefCell<Frames>,
}

/// The frames of the thaw log that were read last.
#[derive(Default)]
struct Frames {
    last: VecDeque<(LogOffset, Arc<Vec<u8>>)>,
    bytes: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(now: &'a Snapshot, working_set: &'a WorkingSet) -> Self {
        Reader { now, working_set, frames: RefCell::default() }
    }

    pub(super) fn view(&self) -> &View {
        self.now.view()
    }

    /// Returns the verified bytes of a frame.
    fn frame(&self, frame: LogOffset, sum: u64) -> Result<Arc<Vec<u8>>, FsError> {
        let mut frames = self.frames.borrow_mut();
        if let Some((_, bytes)) = frames.last.iter().rev().find(|(known, _)| *known == frame) {
            return Ok(Arc::clone(bytes));
        }
        let segment = self.now.segments.as_ref().and_then(|segments| segments.get(frame));
        let segment = segment.ok_or_else(|| FsError::io("a segment of the thaw log is missing"))?;
        let bytes = Arc::new(segment.written(frame, sum)?);
        frames.bytes = frames.bytes.saturating_add(bytes.len());
        frames.last.push_back((frame, Arc::clone(&bytes)));
        while (frames.bytes > FRAMES || frames.last.len() > FRAMES_MOST)
            && frames.last.len() > 1
            && let Some((_, old)) = frames.last.pop_front()
        {
            frames.bytes = frames.bytes.saturating_sub(old.len());
        }
        Ok(bytes)
    }

    /// Fills `out` with the bytes of a span, beginning at byte `within` of the span.
    fn read(&self, row: &InodeRow, span: &Span, within: u64, out: &mut [u8]) -> Result<(), FsError> {
        match layout::from(span.source, within) {
            SpanSource::Thawed { frame, skip, sum } => {
                let bytes = self.frame(frame, sum)?;
                let from = skip as usize;
                let part = bytes.get(from..from.saturating_add(out.len()));
                let part = part.ok_or_else(|| FsError::io("a thawed range extends beyond its frame"))?;
                out.copy_from_slice(part);
                Ok(())
            }
            SpanSource::Stored { subchunk, skip, .. } => {
                Ok(self.working_set.read_subchunk(self.view(), subchunk, skip, out)?)
            }
            SpanSource::Tiny => {
                let ContentRef::Tiny(id) = row.content else { return Err(FsError::io("the file is not tiny")) };
                let bytes = self.view().tiny(id)?;
                let from = usize::try_from(span.begin.saturating_add(within)).unwrap_or(usize::MAX);
                let part = bytes.get(from..from.saturating_add(out.len()));
                out.copy_from_slice(part.ok_or_else(|| FsError::io("a tiny content is shorter than its file"))?);
                Ok(())
            }
            SpanSource::Hole => {
                out.fill(0);
                Ok(())
            }
            SpanSource::Lost => Err(FsError::io(format!("{} bytes at offset {} are lost", span.len, span.begin))),
        }
    }
}

/// The layout of one file: which of its bytes are thawed, and which are in the image.
pub(super) struct FileLayout<'a> {
    reader: &'a Reader<'a>,
    inode: InodeId,
    row: InodeRow,
    /// Spans around the offset that was asked for last.
    stretch: Vec<Span>,
}

impl<'a> FileLayout<'a> {
    pub(super) fn new(reader: &'a Reader<'a>, inode: InodeId, row: InodeRow) -> Self {
        FileLayout { reader, inode, row, stretch: Vec::new() }
    }

    pub(super) fn row(&self) -> &InodeRow {
        &self.row
    }

    pub(super) fn into_row(self) -> InodeRow {
        self.row
    }

    fn known(&self, offset: u64) -> Option<Span> {
        let at = self.stretch.partition_point(|span| span.begin.saturating_add(span.len) <= offset);
        self.stretch.get(at).copied().filter(|span| span.begin <= offset)
    }

    /// Finds the spans around an offset: a thawed range, or what one row of the content has between two thawed ranges.
    fn load(&mut self, offset: u64) -> Result<(), FsError> {
        self.stretch.clear();
        let view = self.reader.view();
        let (mut from, mut to) = (0, self.row.size);
        if view.has_thawed() {
            // The range that covers the offset, or else the first one after it.
            let before = offset.checked_sub(1);
            if let Some(before) = before
                && let Some((begin, range)) = last_before(view, self.inode, before)?
            {
                from = begin.saturating_add(range.length).min(offset);
            }
            let mut ranges = view.thawed(self.inode, offset)?;
            if let Some((begin, range)) = ranges.next(view)? {
                if begin <= offset {
                    let source = match range.bytes {
                        ThawedBytes::InLog { frame, skip, sum } => SpanSource::Thawed { frame, skip, sum },
                        ThawedBytes::Lost => SpanSource::Lost,
                    };
                    self.stretch.push(Span { begin, len: range.length, source });
                    return Ok(());
                }
                to = to.min(begin);
            }
        }
        let (begin, end) = self.stored_row(offset)?;
        let range = (from.max(begin), to.min(end));
        let len_of = |id| layout::subchunk_len(view, id);
        let row = &self.row;
        let spans = layout::stored_spans(view, row, range, &len_of)?;
        self.stretch = spans;
        Ok(())
    }

    /// Returns the range of the content's row that covers an offset.
    fn stored_row(&self, offset: u64) -> Result<(u64, u64), FsError> {
        let size = self.row.size;
        let ContentRef::Content(id) = self.row.content else { return Ok((0, size)) };
        let view = self.reader.view();
        let mut extents = view.extents(id, offset)?;
        Ok(match extents.next(view)? {
            // The last row is returned even if it ends before the offset.
            Some((begin, extent)) if begin <= offset && offset - begin < extent.length => {
                (begin, begin.saturating_add(extent.length))
            }
            // The offset is after the content's end.
            _ => (content_end(view, id)?, size),
        })
    }
}

/// Returns the last thawed range that begins at or before `offset`.
fn last_before(view: &View, inode: InodeId, offset: u64) -> Result<Option<(u64, ThawedRow)>, FsError> {
    let row = view.floor_within(&schema::THAWED, KeyRef::new(inode.0, offset))?;
    let Some(row) = row.filter(|row| row.key().a == inode.0) else { return Ok(None) };
    let begin = row.key().b;
    Ok(Some((begin, ThawedRow::decode(begin, row.ints(), row.tail())?)))
}

impl Layout for FileLayout<'_> {
    type Error = FsError;

    fn size(&self) -> u64 {
        self.row.size
    }

    fn span(&mut self, offset: u64) -> Result<Span, FsError> {
        if self.known(offset).is_none() {
            self.load(offset)?;
        }
        self.known(offset).ok_or_else(|| FsError::io(format!("no span covers offset {offset}")))
    }

    fn thawed(&mut self, from: u64) -> Result<Option<u64>, FsError> {
        let view = self.reader.view();
        let mut ranges = view.thawed(self.inode, from)?;
        while let Some((begin, range)) = ranges.next(view)? {
            if !range.is_lost() {
                return Ok(Some(begin.max(from)));
            }
        }
        Ok(None)
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), FsError> {
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let span = self.span(at)?;
            let within = at.saturating_sub(span.begin);
            let len = usize::try_from(span.len.saturating_sub(within)).unwrap_or(usize::MAX).min(rest.len());
            let (now, behind) = rest.split_at_mut(len);
            self.reader.read(&self.row, &span, within, now)?;
            at = at.saturating_add(len as u64);
            rest = behind;
        }
        Ok(())
    }
}
