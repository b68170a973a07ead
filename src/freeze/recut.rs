//! Which part of a changed file is cut again.
//!
//! Where a subchunk ends depends only on its own bytes. So all borders before a change stay. After it, all borders are
//! the old ones again, from the first border that new and old cutting have in common. A region is the part between. It
//! begins at the last border that the chunker surely made. It ends at the first new border at which an old subchunk
//! begins, or where the data ends: at a hole, a lost range or the end of the file.
//!
//! Invariant: the data between two holes then has the borders that cutting it from its start would give, unless it has
//! slices left by punching, or a region is uneven. Pure, except for the [`Layout`] that it reads. Called by `cut_file`.

use super::layout::{Layout, Span, SpanSource};
use crate::chunk::Cutter;
use crate::format::ids::SubchunkId;
use crate::format::limits;
use std::collections::VecDeque;
use std::ops::Range;

/// Which parts of a file are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The thawed bytes are cut, and as little else as the borders require.
    Changed,
    /// All data is cut by the image's chunker, because the content is uneven. An old subchunk is used again only if the
    /// batch finds it.
    Everything,
}

/// The kind of subchunks into which a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// The file is cut into subchunks as the image's chunker makes them.
    Image,
    /// The file is cut into blocks of [`FIXED_LEN`] bytes, at multiples of that in the file. Only blocks with a change
    /// are cut, whatever is around them.
    Fixed,
}

/// Length of a block in bytes.
pub const FIXED_LEN: u32 = 32 << 10;

/// Divisor: if spans are short, one read takes this fraction of the longest subchunk's length. Longer reads would read
/// more than needed after a change.
const READS: u64 = 2;
/// Most bytes of one read.
const READ_MAX: u64 = 1 << 20;
/// Distance after a change, in lengths of the longest subchunk, after which the old borders are kept even if the
/// chunker does not find them. For most data it finds them again after a few subchunks. For data without structure (a
/// long run of equal bytes) it may never find them, and a change of one byte would cut a file of any size.
const RESYNC: u64 = 32;
/// Distance before a change, in lengths of the longest subchunk, up to which a border of the chunker is searched. The
/// search is necessary only after slices that punching left.
const BACK: u64 = 4;
/// Number of spans after a border that are looked at to see whether the border is clean: no old subchunk extends across
/// it.
const LOOK: usize = 16;

/// How a file is cut into subchunks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut<'a> {
    pub(super) cutter: &'a Cutter,
    pub(super) blocks: Blocks,
    pub(super) scope: Scope,
}

impl Cut<'_> {
    fn max_len(&self) -> u64 {
        match self.blocks {
            Blocks::Image => self.cutter.max_len() as u64,
            Blocks::Fixed => FIXED_LEN.into(),
        }
    }

    /// Returns the length of the first subchunk of `data`, which begins at offset `at`.
    fn cut(&self, at: u64, data: &[u8]) -> usize {
        match self.blocks {
            Blocks::Image => self.cutter.cut(data),
            Blocks::Fixed => data.len().min((block_end(at) - at) as usize),
        }
    }

    /// Returns whether the first subchunk of `data`, with `len` bytes, stays the same however many bytes follow.
    fn is_certain(&self, at: u64, data: &[u8], len: usize) -> bool {
        match self.blocks {
            Blocks::Image => len < data.len() || data.len() as u64 >= self.max_len(),
            Blocks::Fixed => len as u64 == block_end(at) - at,
        }
    }

    /// Returns the offset of the first byte, from `from` on, that must be cut.
    pub(super) fn first<L: Layout>(&self, layout: &mut L, from: u64) -> Result<Option<u64>, L::Error> {
        match self.scope {
            Scope::Changed => {
                let Some(thawed) = layout.thawed(from)? else { return Ok(None) };
                // A tiny content is the whole content of a file: if anything else is frozen, the tiny content must be,
                // too.
                let tiny = tiny(layout)?.filter(|tiny| tiny.start >= from);
                Ok(Some(tiny.map_or(thawed, |tiny| tiny.start.min(thawed))))
            }
            Scope::Everything => {
                if tiny(layout)?.is_some() && layout.thawed(0)?.is_none() {
                    return Ok(None);
                }
                let mut at = from;
                while at < layout.size() {
                    let span = layout.span(at)?;
                    if span.is_data() {
                        return Ok(Some(at));
                    }
                    at = span.end().max(at.saturating_add(1));
                }
                Ok(None)
            }
        }
    }

    /// Returns the offset where the region with the first change at `changed` begins: not before `floor`, which is a
    /// border.
    pub(super) fn begin<L: Layout>(&self, layout: &mut L, floor: u64, changed: u64) -> Result<u64, L::Error> {
        let lowest = match self.blocks {
            Blocks::Image => floor.max(changed.saturating_sub(BACK.saturating_mul(self.max_len()))),
            Blocks::Fixed => floor.max(changed - changed % u64::from(FIXED_LEN)),
        };
        let mut at = changed;
        while at > lowest {
            let before = layout.span(at - 1)?;
            if !before.is_data() {
                return Ok(at);
            }
            if self.blocks == Blocks::Image && before.begins_subchunk() {
                // A subchunk may end only because the data ended there when it was cut. A subchunk of the longest
                // length cannot.
                let surely = before.whole().is_some() && before.len >= self.max_len() && before.end() == at;
                return Ok(if surely { at } else { before.begin.max(floor) });
            }
            at = before.begin.max(lowest);
        }
        Ok(at)
    }
}

/// Returns the range from the first to the last byte of a file that is in its tiny content, if there is one.
pub(super) fn tiny<L: Layout>(layout: &mut L) -> Result<Option<Range<u64>>, L::Error> {
    let mut found: Option<Range<u64>> = None;
    let mut at = 0;
    while at < layout.size().min(limits::TINY_LEN) {
        let span = layout.span(at)?;
        if span.source == SpanSource::Tiny {
            found = Some(found.map_or(span.begin, |found| found.start)..span.end());
        }
        at = span.end().max(at.saturating_add(1));
    }
    Ok(found)
}

/// Returns the end of the block that covers `at`.
fn block_end(at: u64) -> u64 {
    (at / u64::from(FIXED_LEN)).saturating_add(1).saturating_mul(FIXED_LEN.into())
}

/// A subchunk that was cut, with its bytes.
#[derive(Debug)]
pub(super) struct Subchunk<'a> {
    pub(super) bytes: &'a [u8],
    /// The old subchunk at the same place, if there is one with the same bytes.
    pub(super) unchanged: Option<SubchunkId>,
    /// Whether no old subchunk extends across the end of this one.
    pub(super) clean: bool,
}

/// Cuts one region of a file into subchunks.
pub(super) struct RegionCutter<'a, L: Layout> {
    cut: Cut<'a>,
    layout: &'a mut L,
    /// Bytes of the file that were read; the first is at offset `at - used`.
    buffer: &'a mut Vec<u8>,
    used: usize,
    /// Offset of the border that was reached.
    at: u64,
    /// Offset of the end of the bytes in the buffer.
    read: u64,
    /// Spans of data without a gap, beginning with the one that covers `at`.
    spans: VecDeque<Span>,
    /// Offset in the file of the end of `spans`.
    known: u64,
    /// End of the region's data, once it is known; or the offset at which the region must end.
    data_end: Option<u64>,
    /// End of the last change before `at`; at first, the beginning of the first change.
    changed_end: u64,
    changed: u64,
    uneven: bool,
}

impl<'a, L: Layout> RegionCutter<'a, L> {
    /// Begins a region at offset `begin`. The buffer is cleared.
    pub(super) fn new(cut: Cut<'a>, layout: &'a mut L, buffer: &'a mut Vec<u8>, begin: u64, changed: u64) -> Self {
        buffer.clear();
        RegionCutter {
            cut,
            layout,
            buffer,
            used: 0,
            at: begin,
            read: begin,
            spans: VecDeque::new(),
            known: begin,
            data_end: None,
            changed_end: changed,
            changed,
            uneven: cut.blocks == Blocks::Fixed,
        }
    }

    /// Returns the offset of the border that was reached.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Returns whether some borders differ from those that the chunker would find.
    pub(super) fn is_uneven(&self) -> bool {
        self.uneven
    }

    /// Returns the next subchunk, or `None` at the region's end.
    pub(super) fn next(&mut self) -> Result<Option<Subchunk<'_>>, L::Error> {
        if self.is_end()? {
            return Ok(None);
        }
        let len = loop {
            let data = self.buffer.get(self.used..).unwrap_or_default();
            let len = self.cut.cut(self.at, data);
            if len > 0 && (self.data_end == Some(self.read) || self.cut.is_certain(self.at, data, len)) {
                break len;
            }
            if self.data_end == Some(self.read) {
                return Ok(None);
            }
            self.read_on()?;
        };
        let whole = self.spans.front().filter(|span| span.begin == self.at && span.len == len as u64);
        let unchanged = whole.and_then(Span::whole).filter(|_| self.cut.scope == Scope::Changed);
        let begin = self.used;
        self.used += len;
        self.at = self.at.saturating_add(len as u64);
        self.pass();
        let clean = self.is_clean()?;
        let bytes = self.buffer.get(begin..self.used).unwrap_or_default();
        Ok(Some(Subchunk { bytes, unchanged, clean }))
    }

    /// Returns whether the region ends at the border that was reached.
    fn is_end(&mut self) -> Result<bool, L::Error> {
        if self.data_end == Some(self.at) {
            return Ok(true);
        }
        let Some(here) = self.ahead(0)? else { return Ok(true) };
        if self.cut.scope == Scope::Everything || self.at <= self.changed || here.is_unfrozen() {
            return Ok(false);
        }
        if self.cut.blocks == Blocks::Fixed {
            let end = block_end(self.at);
            return Ok(self.layout.thawed(self.at)?.is_none_or(|thawed| thawed >= end));
        }
        if here.begin == self.at && here.begins_subchunk() && (here.whole().is_some() || self.ahead(1)?.is_none()) {
            return Ok(true);
        }
        if self.at.saturating_sub(self.changed_end) > RESYNC.saturating_mul(self.cut.max_len()) {
            // From here on the old borders are kept, although the chunker does not find them.
            self.uneven = true;
            if here.begin == self.at {
                return Ok(true);
            }
            self.end_at(here.end());
        }
        Ok(false)
    }

    /// Makes the region end at `end` at the latest.
    fn end_at(&mut self, end: u64) {
        self.data_end = Some(end);
        if self.read > end {
            let len = self.used.saturating_add((end - self.at) as usize);
            self.buffer.truncate(len);
            self.read = end;
        }
    }

    /// Returns whether no subchunk extends across the border that was reached.
    fn is_clean(&mut self) -> Result<bool, L::Error> {
        for n in 0..LOOK {
            match self.ahead(n)? {
                None => return Ok(true),
                Some(span) if matches!(span.source, SpanSource::Thawed { .. }) => {}
                Some(span) => return Ok(!span.reaches_before(self.at)),
            }
        }
        Ok(true)
    }

    /// Returns the `n`th span after the one that covers the border that was reached; `None` after the end of the data.
    fn ahead(&mut self, n: usize) -> Result<Option<Span>, L::Error> {
        while self.spans.len() <= n {
            let next = if self.known < self.layout.size() { Some(self.layout.span(self.known)?) } else { None };
            let Some(span) = next.filter(Span::is_data) else {
                self.data_end = self.data_end.or(Some(self.known));
                return Ok(None);
            };
            self.known = span.end();
            self.spans.push_back(span);
        }
        Ok(self.spans.get(n).copied())
    }

    /// Drops the spans that end at or before the border that was reached.
    fn pass(&mut self) {
        while let Some(span) = self.spans.front().filter(|span| span.end() <= self.at) {
            if span.is_unfrozen() {
                self.changed_end = self.changed_end.max(span.end());
            }
            self.spans.pop_front();
        }
    }

    /// Reads the next bytes, or finds the end of the data.
    fn read_on(&mut self) -> Result<(), L::Error> {
        let mut end = self.read;
        let mut n = 0;
        while end.saturating_sub(self.read) < self.cut.max_len().div_ceil(READS) {
            let Some(span) = self.ahead(n)? else { break };
            end = end.max(span.end().min(self.read.saturating_add(READ_MAX)));
            n += 1;
        }
        let end = self.data_end.map_or(end, |data_end| end.min(data_end));
        if self.used > 0 && self.used >= self.buffer.len() / 2 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        let before = self.buffer.len();
        self.buffer.resize(before.saturating_add(end.saturating_sub(self.read) as usize), 0);
        if let Some(out) = self.buffer.get_mut(before..) {
            self.layout.read(self.read, out)?;
        }
        self.read = end;
        Ok(())
    }
}
