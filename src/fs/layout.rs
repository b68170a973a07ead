//! Where each byte of a file comes from: its spans by source, as the freezer cuts them and later compares them.
//!
//! Within one session, a frame of the thaw log or a subchunk never gets other bytes. So a byte is unchanged exactly if
//! its source is the same [5]. Callers: `freezing` and `ops/freeze`.

use super::FsError;
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::rows::{ContentRef, ContentRow, Extent, InodeRow, ThawedBytes};
use crate::freeze::{Span, SpanSource};
use crate::meta::View;

/// A function that returns the length of a whole subchunk in bytes.
pub(super) type LenOf<'a> = &'a dyn Fn(SubchunkId) -> Result<u32, FsError>;

/// Returns the length of a whole subchunk in bytes.
pub(super) fn subchunk_len(view: &View, id: SubchunkId) -> Result<u32, FsError> {
    let unknown = || FsError::io(format!("the map does not know subchunk {id}"));
    let located = view.locate(id)?.ok_or_else(unknown)?;
    if !located.composed {
        return Ok(located.len);
    }
    Ok(view.recipe(id)?.ok_or_else(unknown)?.subchunk_len())
}

/// Returns the spans of the range `[from, to)` of a regular file, in order and without gaps; `to` is at most its size.
pub(super) fn spans(
    view: &View,
    inode: InodeId,
    row: &InodeRow,
    (from, to): (u64, u64),
    len_of: LenOf<'_>,
) -> Result<Vec<Span>, FsError> {
    let mut out = Spans { all: Vec::new(), at: from, to };
    let mut thawed = view.thawed_within(inode, from, to)?;
    while let Some((begin, range)) = thawed.next(view)? {
        stored(view, row, begin, len_of, &mut out)?;
        let source = match range.bytes {
            ThawedBytes::InLog { frame, skip, sum } => SpanSource::Thawed { frame, skip, sum },
            ThawedBytes::Lost => SpanSource::Lost,
        };
        out.put(begin, range.length, source);
    }
    stored(view, row, to, len_of, &mut out)?;
    Ok(out.all)
}

/// Returns the spans of the range `[from, to)` by the row's content alone, ignoring thawed ranges.
pub(super) fn stored_spans(
    view: &View,
    row: &InodeRow,
    (from, to): (u64, u64),
    len_of: LenOf<'_>,
) -> Result<Vec<Span>, FsError> {
    let mut out = Spans { all: Vec::new(), at: from, to };
    stored(view, row, to, len_of, &mut out)?;
    Ok(out.all)
}

/// Adds the spans of the row's content up to `upto`.
fn stored(view: &View, row: &InodeRow, upto: u64, len_of: LenOf<'_>, out: &mut Spans) -> Result<(), FsError> {
    let upto = upto.min(out.to);
    if out.at >= upto {
        return Ok(());
    }
    let mut here = Spans { all: std::mem::take(&mut out.all), at: out.at, to: upto };
    match row.content {
        ContentRef::None => {}
        ContentRef::Tiny(_) => here.put(0, row.size, SpanSource::Tiny),
        ContentRef::Subchunk(subchunk) => {
            let subchunk_len = u32::try_from(row.size).unwrap_or(u32::MAX);
            here.put(0, row.size, SpanSource::Stored { subchunk, skip: 0, subchunk_len });
        }
        ContentRef::Content(id) => {
            let mut extents = view.extents(id, here.at)?;
            while let Some((begin, extent)) = extents.next(view)?
                && begin < upto
            {
                extent_spans(begin, &extent, len_of, &mut here)?;
            }
        }
    }
    here.put(upto, 0, SpanSource::Hole);
    (out.all, out.at) = (here.all, upto);
    Ok(())
}

fn extent_spans(begin: u64, extent: &ContentRow, len_of: LenOf<'_>, out: &mut Spans) -> Result<(), FsError> {
    match &extent.extent {
        Extent::Hole => out.put(begin, extent.length, SpanSource::Hole),
        Extent::Slice { subchunk, skip } => {
            let subchunk_len = len_of(*subchunk)?;
            out.put(begin, extent.length, SpanSource::Stored { subchunk: *subchunk, skip: *skip, subchunk_len });
        }
        Extent::Run { first, lens } => {
            let mut at = begin;
            for (id, &len) in (first.0..).zip(lens) {
                let subchunk = SubchunkId(id);
                out.put(at, len.into(), SpanSource::Stored { subchunk, skip: 0, subchunk_len: len });
                at = at.saturating_add(len.into());
            }
        }
    }
    Ok(())
}

/// The spans of a range that were found so far.
struct Spans {
    all: Vec<Span>,
    at: u64,
    to: u64,
}

impl Spans {
    /// Adds the part of a source that is in the range and after the present end of the spans. A gap before it becomes a
    /// hole.
    fn put(&mut self, begin: u64, len: u64, source: SpanSource) {
        let end = begin.saturating_add(len).min(self.to);
        if begin > self.at {
            let gap = begin.min(self.to).saturating_sub(self.at);
            self.push(gap, SpanSource::Hole);
        }
        if end > self.at {
            let cut = self.at.saturating_sub(begin);
            self.push(end.saturating_sub(self.at), from(source, cut));
        }
    }

    fn push(&mut self, len: u64, source: SpanSource) {
        match self.all.last_mut() {
            Some(last) if last.source == SpanSource::Hole && source == SpanSource::Hole => last.len += len,
            _ if len == 0 => {}
            _ => self.all.push(Span { begin: self.at, len, source }),
        }
        self.at = self.at.saturating_add(len);
    }
}

/// Returns the source of what remains of a span with this source after its first `by` bytes are cut off.
pub(super) fn from(source: SpanSource, by: u64) -> SpanSource {
    // The offset is within a subchunk or a frame, whose length fits a u32.
    let by = u32::try_from(by).unwrap_or(u32::MAX);
    match source {
        SpanSource::Thawed { frame, skip, sum } => SpanSource::Thawed { frame, skip: skip.saturating_add(by), sum },
        SpanSource::Stored { subchunk, skip, subchunk_len } => {
            SpanSource::Stored { subchunk, skip: skip.saturating_add(by), subchunk_len }
        }
        other => other,
    }
}

/// Returns whether two spans that begin at the same byte have the same source for it.
fn is_same(a: SpanSource, b: SpanSource) -> bool {
    match (a, b) {
        (
            SpanSource::Stored { subchunk: a, skip: from_a, .. },
            SpanSource::Stored { subchunk: b, skip: from_b, .. },
        ) => (a, from_a) == (b, from_b),
        // Lost bytes are never the same; a tiny content may have changed under the same id.
        (SpanSource::Lost | SpanSource::Tiny, _) => false,
        (a, b) => a == b,
    }
}

/// Returns the ranges that have the same sources in both lists, in order.
pub(super) fn unchanged(then: &[Span], now: &[Span]) -> Vec<Unchanged> {
    let mut out = Vec::<Unchanged>::new();
    let (mut then, mut now) = (then.iter().copied().peekable(), now.iter().copied().peekable());
    while let (Some(a), Some(b)) = (then.peek().copied(), now.peek().copied()) {
        let (from_byte, end_a, end_b) = (a.begin.max(b.begin), end(&a), end(&b));
        let to = end_a.min(end_b);
        if from_byte < to && is_same(from(a.source, from_byte - a.begin), from(b.source, from_byte - b.begin)) {
            let thawed = matches!(a.source, SpanSource::Thawed { .. });
            out.push(Unchanged { from: from_byte, to, thawed });
        }
        if end_a <= end_b {
            then.next();
        }
        if end_b <= end_a {
            now.next();
        }
    }
    out
}

fn end(span: &Span) -> u64 {
    span.begin.saturating_add(span.len)
}

/// A range of a file whose bytes still have the sources that they had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unchanged {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Whether the bytes of the range are in the thaw log.
    pub(super) thawed: bool,
}
