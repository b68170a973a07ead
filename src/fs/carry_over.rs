//! Copies live ranges out of old segments of the thaw log, so that segments with few live bytes can be deleted.
//!
//! Segments are deleted in order, lowest first. A few live bytes in a low segment therefore keep every segment above
//! it, however few of their bytes are live. This module appends such bytes to the log again, and moves their ranges to
//! the copy in transactions that change nothing else. A range that was changed meanwhile names another frame. A frame's
//! offset is never used twice, so a range that still names the old frame has the bytes that were copied. A frame is
//! verified as a whole before any part of it is copied [16]. The next checkpoint deletes the old segments. The
//! freezer's thread calls this. Nobody calls it while a batch runs: the batch would find its ranges changed.

use super::FsError;
use super::carried::CarryOver;
use super::draft::Draft;
use super::live::Live;
use super::state::State;
use crate::format::block::Key;
use crate::format::ids::{InodeId, LogOffset};
use crate::format::rows::{ThawedBytes, ThawedRow};
use crate::format::schema;
use crate::freeze::pressure::is_pressed;
use crate::thaw::{Appended, Segments};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most rows of thawed ranges that are read at once, to copy ranges out of old segments of the thaw log.
const ROWS: usize = 1 << 16;

/// Number of bytes that are copied at once, out of old segments of the thaw log.
const BYTES: u64 = 8 << 20;

/// Most bytes of a frame in which small ranges are appended together.
const FRAME: u64 = 1 << 20;

/// Most ranges that one transaction moves. A transaction is short, because it is evaluated again whenever one of its
/// files changes.
const RANGES: usize = 128;

/// Divisor that counts if writers are faster than the freezer: segments are emptied if less than one part in this many
/// of their bytes is live, and the log is longer than one and a half times the thawed bytes plus two segments. In a
/// shorter log most bytes are live, and only freezing frees space.
const PRESSED_PART: u64 = 2;

/// Divisor that counts if writers are not faster than the freezer: segments are emptied if less than one part in this
/// many of their bytes is live, and the log is longer than twice the thawed bytes plus two segments.
const CALM_PART: u64 = 8;

/// Divisor of the thaw log's budget: the live bytes of the segments that are emptied together are at most one part in
/// this many, because the copies take up space in the log, too, until the old segments are deleted.
const GOAL_PART: u64 = 16;

/// A thawed range of a file, whose bytes are to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inode: InodeId,
    begin: u64,
    len: u64,
    frame: LogOffset,
    skip: u32,
    sum: u64,
}

impl Live {
    /// Copies ranges out of old segments while segments are worth emptying and `go_on` returns true. Returns the bytes
    /// copied.
    ///
    /// # Errors
    /// Fails as any change does, with `NoSpace` if the log has no space for the copies. Ranges that were moved before
    /// stay moved.
    pub(super) fn carry_over(&self, go_on: &dyn Fn() -> bool) -> Result<u64, FsError> {
        let mut copied = 0u64;
        while go_on() {
            let mut freezer = self.freezing.lock();
            let Some(bytes) = self.carry_over_step(&mut freezer.carry)? else { break };
            copied = copied.saturating_add(bytes);
        }
        Ok(copied)
    }

    /// Reads some ranges, copies those in old segments, and returns the bytes copied; `None` if there is nothing to do.
    fn carry_over_step(&self, carry: &mut CarryOver) -> Result<Option<u64>, FsError> {
        let fill = self.pressure.fill();
        if carry.below == 0 {
            let Some(below) = self.segments_to_empty(&self.lock_state()) else { return Ok(None) };
            let (ended, log) = carry.ended;
            if below <= ended && fill.log <= log.saturating_add(self.segment_size()) {
                return Ok(None);
            }
            (carry.below, carry.next) = (below, Key::new(0, 0));
        }
        let (ranges, next) = self.ranges_below(carry.below, &carry.next)?;
        let copied = self.copy_ranges(&ranges)?;
        match next {
            Some(next) => carry.next = next,
            None => *carry = CarryOver { ended: (carry.below, self.pressure.fill().log), ..CarryOver::default() },
        }
        Ok(Some(copied))
    }

    fn segment_size(&self) -> u64 {
        self.lock_state().segments().size()
    }

    /// Returns the number below which segments are worth emptying; `None` if none is.
    pub(super) fn segments_to_empty(&self, state: &State) -> Option<u64> {
        let fill = self.pressure.fill();
        if state.latch.is_some() || !self.has_begun() || self.log_wants_checkpoint(state, 0) {
            return None;
        }
        let segments = state.segments();
        let size = segments.size();
        let thawed = state.frames.bytes();
        let besides = fill.log.saturating_sub(thawed).saturating_sub(size.saturating_mul(2));
        let part = if is_pressed(fill) && besides > thawed / 2 {
            PRESSED_PART
        } else if besides > thawed {
            CALM_PART
        } else {
            return None;
        };
        let numbers: Vec<_> = segments.numbers().collect();
        worth_emptying(&numbers, state.frames.by_segment(), size, part, fill.budget / GOAL_PART)
    }

    /// Returns ranges in segments below number `below`, in key order from key `from`, and the key from which the next
    /// call continues.
    fn ranges_below(&self, below: u64, from: &Key) -> Result<(Vec<Range>, Option<Key>), FsError> {
        self.ranges_within(below, from, ROWS, BYTES)
    }

    /// Works like [`Live::ranges_below`], for at most `most_rows` rows and about `most_bytes` bytes.
    fn ranges_within(
        &self,
        below: u64,
        from: &Key,
        most_rows: usize,
        most_bytes: u64,
    ) -> Result<(Vec<Range>, Option<Key>), FsError> {
        let snapshot = self.snapshot();
        let (view, size) = (&snapshot.view, self.segment_size());
        let (mut ranges, mut bytes, mut rows) = (Vec::new(), 0u64, 0);
        let mut cursor = view.cursor_at(&schema::THAWED, from.as_ref())?;
        while let Some(row) = cursor.row() {
            let key = row.key();
            if rows == most_rows || bytes >= most_bytes {
                return Ok((ranges, Some(key.to_key())));
            }
            rows += 1;
            let (inode, begin) = (InodeId(key.a), key.b);
            let ThawedRow { length, bytes: place } = ThawedRow::decode(begin, row.ints(), row.tail())?;
            if let ThawedBytes::InLog { frame, skip, sum } = place
                && frame.0.checked_div(size).is_some_and(|number| number < below)
            {
                bytes = bytes.saturating_add(length);
                ranges.push(Range { inode, begin, len: length, frame, skip, sum });
            }
            cursor.advance(view)?;
        }
        Ok((ranges, None))
    }

    /// Appends the bytes of the given ranges to the thaw log again, and makes the ranges name the copies. A range with
    /// damaged bytes is not moved.
    fn copy_ranges(&self, ranges: &[Range]) -> Result<u64, FsError> {
        let segments = Arc::clone(self.lock_state().segments());
        let mut source = Source { segments, frames: BTreeMap::new(), bytes: 0 };
        let (mut copied, mut rest) = (0u64, ranges);
        while !rest.is_empty() {
            let (mut data, mut taken, mut seen) = (Vec::new(), Vec::new(), 0);
            for range in rest {
                let full = !taken.is_empty() && (data.len() as u64).saturating_add(range.len) > FRAME;
                if full || taken.len() == RANGES {
                    break;
                }
                seen += 1;
                if let Some(bytes) = source.get(range) {
                    taken.push((*range, data.len() as u64));
                    data.extend_from_slice(bytes);
                }
            }
            rest = rest.get(seen..).unwrap_or_default();
            if !taken.is_empty() {
                // `written` protects the copies until the ranges name them.
                let written = self.append(&data)?;
                self.transact(|draft| move_ranges(draft, &taken, &written.pieces))?;
                copied = copied.saturating_add(data.len() as u64);
            }
        }
        Ok(copied)
    }
}

/// Reads frames of old segments, and keeps those that were verified.
struct Source {
    segments: Arc<Segments>,
    frames: BTreeMap<LogOffset, Option<Vec<u8>>>,
    bytes: u64,
}

impl Source {
    /// Returns the bytes of a range; `None` if they are damaged or cannot be read.
    fn get(&mut self, range: &Range) -> Option<&[u8]> {
        if !self.frames.contains_key(&range.frame) {
            if self.bytes > BYTES {
                self.frames.clear();
                self.bytes = 0;
            }
            let read = self.segments.get(range.frame).map(|segment| segment.written(range.frame, range.sum));
            let read = match read {
                Some(Ok(bytes)) => Some(bytes),
                Some(Err(error)) => {
                    tracing::warn!(%error, inode = range.inode.0, "bytes of a file cannot be read from the thaw log");
                    None
                }
                None => None,
            };
            self.bytes = self.bytes.saturating_add(read.as_ref().map_or(0, |bytes| bytes.len() as u64));
            self.frames.insert(range.frame, read);
        }
        let frame = self.frames.get(&range.frame)?.as_deref()?;
        let begin = usize::try_from(range.skip).ok()?;
        frame.get(begin..begin.checked_add(usize::try_from(range.len).ok()?)?)
    }
}

/// Makes each range name its copy, which begins at the given offset in the bytes of `pieces`. Parts of a range that
/// were changed meanwhile are left as they are.
fn move_ranges(draft: &mut Draft, ranges: &[(Range, u64)], pieces: &[Appended]) -> Result<(), FsError> {
    draft.only_moves();
    for (range, at) in ranges {
        for (begin, len) in unchanged(draft, range)? {
            let within = at.saturating_add(begin.saturating_sub(range.begin));
            super::ops::put_thawed(draft, range.inode, pieces, within, begin, len)?;
        }
    }
    Ok(())
}

/// Returns the parts of a range that name the same bytes as before.
fn unchanged(draft: &mut Draft, range: &Range) -> Result<Vec<(u64, u64)>, FsError> {
    draft.reads(range.inode);
    let end = range.begin.saturating_add(range.len);
    let mut parts = Vec::new();
    let mut rows = draft.view().thawed_within(range.inode, range.begin, end)?;
    while let Some((begin, row)) = rows.next(draft.view())? {
        let ThawedBytes::InLog { frame, skip, sum } = row.bytes else { continue };
        // The offset in the file minus the offset in the frame: it is the same for all parts of what was one range.
        let origin = |begin: u64, skip: u32| i128::from(begin) - i128::from(skip);
        if (frame, sum) == (range.frame, range.sum) && origin(begin, skip) == origin(range.begin, range.skip) {
            let (from, to) = (begin.max(range.begin), begin.saturating_add(row.length).min(end));
            parts.extend((from < to).then(|| (from, to - from)));
        }
    }
    Ok(parts)
}

/// Returns the number below which segments of the thaw log are worth emptying; `None` if no segment is. `numbers` are
/// the segments, ascending, each of `size` bytes; `live` has the live bytes of each.
///
/// Segments are looked at from the lowest with live bytes on, without the last one, which is being written. It is worth
/// emptying them up to one of them if less than one part in `part` of the bytes of all of these is live, and less than
/// one part in `part` of that one. Of several such segments, the highest is chosen up to which at most `most` bytes are
/// live; if there is none, the lowest.
fn worth_emptying(numbers: &[u64], live: &BTreeMap<u64, u64>, size: u64, part: u64, most: u64) -> Option<u64> {
    let (mut held, mut needed, mut best) = (0u64, 0u64, None);
    for pair in numbers.windows(2) {
        let &[number, next] = pair else { break };
        let own = live.get(&number).copied().unwrap_or(0);
        needed = needed.saturating_add(own);
        if needed == 0 {
            continue;
        }
        held = held.saturating_add(size);
        if best.is_some() && needed > most {
            break;
        }
        if needed.saturating_mul(part) < held && own.saturating_mul(part) < size {
            best = Some(next);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::world::World;

    /// All thawed ranges. The tests write to the root, which has no content: they look at ranges and frames only.
    fn ranges(live: &Live) -> Vec<Range> {
        live.ranges_below(u64::MAX, &Key::new(0, 0)).unwrap().0
    }

    fn write(live: &Live, offset: u64, bytes: &[u8]) {
        let written = live.append(bytes).unwrap();
        let len = bytes.len() as u64;
        live.transact(|draft| crate::fs::ops::put_thawed(draft, InodeId::ROOT, &written.pieces, 0, offset, len))
            .unwrap();
    }

    #[test]
    fn what_was_changed_while_it_was_copied_keeps_the_change() {
        let world = World::new();
        let live = &world.live;
        write(live, 0, &[1; 1000]);
        write(live, 1000, &[2; 1000]);
        let old = ranges(live);
        // The draft changes the middle of one range, cuts off another, and adds a third.
        write(live, 300, &[3; 100]);
        live.transact(|draft| draft.unthaw(InodeId::ROOT, 1500, 500)).unwrap();
        write(live, 2000, &[4; 10]);
        let before = ranges(live);
        assert_eq!(live.copy_ranges(&old).unwrap(), 2000);
        let after = ranges(live);
        let shape = |ranges: &[Range]| ranges.iter().map(|range| (range.begin, range.len)).collect::<Vec<_>>();
        assert_eq!(shape(&after), [(0, 300), (300, 100), (400, 600), (1000, 500), (2000, 10)]);
        assert_eq!(shape(&before), shape(&after));
        let moved: Vec<_> = before.iter().zip(&after).map(|(before, after)| before.frame != after.frame).collect();
        assert_eq!(moved, [true, false, true, true, false]);
        let mut source =
            Source { segments: Arc::clone(live.lock_state().segments()), frames: BTreeMap::new(), bytes: 0 };
        for (range, byte) in after.iter().zip([1, 3, 1, 2, 4]) {
            assert_eq!(source.get(range).unwrap(), vec![byte; range.len as usize]);
        }
        // The ranges are removed after they were read: nothing is moved, and nothing comes back.
        live.transact(|draft| draft.unthaw_after(InodeId::ROOT, 0)).unwrap();
        live.copy_ranges(&after).unwrap();
        assert_eq!(ranges(live), []);
    }

    #[test]
    fn a_step_ends_and_the_next_goes_on_where_it_ended() {
        let world = World::new();
        let live = &world.live;
        for n in 0..10 {
            write(live, n * 1000, &[n as u8; 1000]);
        }
        let mut seen = Vec::new();
        let mut next = Key::new(0, 0);
        loop {
            let (ranges, more) = live.ranges_within(u64::MAX, &next, 4, u64::MAX).unwrap();
            assert!(ranges.len() <= 4);
            seen.extend(ranges);
            match more {
                Some(key) => next = key,
                None => break,
            }
        }
        assert_eq!(seen, ranges(live));
        assert_eq!(live.ranges_within(u64::MAX, &Key::new(0, 0), 100, 2500).unwrap().0.len(), 3);
    }

    #[test]
    fn what_is_worth_emptying_begins_with_the_lowest_needed_segment_and_ends_before_the_last() {
        let worth = |live: &[(u64, u64)], numbers: &[u64], most| {
            worth_emptying(numbers, &live.iter().copied().collect(), 100, 2, most)
        };
        let numbers = [3, 4, 5, 6, 7];
        assert_eq!(worth(&[], &numbers, 1000), None);
        // The last segment is being written.
        assert_eq!(worth(&[(7, 1)], &numbers, 1000), None);
        assert_eq!(worth(&[(3, 49)], &numbers, 1000), Some(7));
        assert_eq!(worth(&[(3, 50)], &[3, 4], 1000), None);
        // The lowest segments without live bytes are deleted anyway, and are not counted.
        assert_eq!(worth(&[(5, 80)], &[3, 4, 5, 6], 1000), None);
        // A full segment is below empty ones.
        assert_eq!(worth(&[(3, 99)], &numbers, 1000), Some(7));
        assert_eq!(worth(&[(3, 99), (4, 99)], &numbers, 1000), Some(7));
        assert_eq!(worth(&[(3, 99), (4, 99), (5, 99), (6, 99)], &numbers, 1000), None);
        // A segment that is mostly live stays if emptying those below it is worth it.
        assert_eq!(worth(&[(3, 10), (4, 80)], &numbers[..3], 1000), Some(4));
        // The live bytes are at most `most`, except in the shortest count.
        assert_eq!(worth(&[(3, 99)], &numbers, 60), Some(5));
        assert_eq!(worth(&[(3, 10), (4, 10), (5, 100)], &numbers, 60), Some(5));
        // The numbers may have gaps.
        assert_eq!(worth(&[(3, 10)], &[3, 9], 1000), Some(9));
    }
}
