//! Which bytes of the log are lost, and which ranges of files name them.

use crate::format::ids::{InodeId, LogOffset};
use crate::format::transaction::{Operation, Thawed};
use std::collections::BTreeMap;

/// A range of a file whose written bytes are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRange {
    /// Which file.
    pub inode: InodeId,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Parts of the log in which frames of written bytes were, and are damaged.
#[derive(Debug, Clone, Default)]
pub(super) struct LostFrames {
    /// From where to where.
    parts: BTreeMap<u64, u64>,
}

impl LostFrames {
    pub(super) fn add(&mut self, from: u64, to: u64) {
        let end = self.parts.entry(from).or_insert(to);
        *end = to.max(*end);
    }

    pub(super) fn contain(&self, frame: LogOffset) -> bool {
        frame == Thawed::LOST || self.parts.range(..=frame.0).next_back().is_some_and(|(_, &end)| frame.0 < end)
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.parts.iter().map(|(&from, &to)| (from, to))
    }
}

/// The ranges of files that name lost frames, as operations change them.
#[derive(Debug, Default)]
pub(super) struct LostRanges {
    /// (inode, first byte) → end.
    ranges: BTreeMap<(u64, u64), u64>,
}

impl LostRanges {
    /// Does what an operation does; of what is put, only what names a frame that is `lost` is kept.
    pub(super) fn apply(&mut self, operation: &Operation, lost: impl Fn(LogOffset) -> bool) {
        match *operation {
            Operation::Thawed(t) => {
                let end = t.offset.saturating_add(t.len);
                self.clear(t.inode, t.offset, end);
                if lost(t.frame) {
                    self.ranges.insert((t.inode.0, t.offset), end);
                }
            }
            Operation::NotThawed { inode, offset, len } => self.clear(inode, offset, offset.saturating_add(len)),
            _ => {}
        }
    }

    fn clear(&mut self, inode: InodeId, from: u64, to: u64) {
        let before = self.ranges.range((inode.0, 0)..(inode.0, from)).next_back();
        let mut touched: Vec<(u64, u64)> = before.map(|(&(_, start), &end)| (start, end)).into_iter().collect();
        touched.extend(self.ranges.range((inode.0, from)..(inode.0, to)).map(|(&(_, start), &end)| (start, end)));
        for (start, end) in touched.into_iter().filter(|&(_, end)| end > from) {
            self.ranges.remove(&(inode.0, start));
            if start < from {
                self.ranges.insert((inode.0, start), from);
            }
            if end > to {
                self.ranges.insert((inode.0, to), end);
            }
        }
    }

    pub(super) fn into_ranges(self) -> Vec<LostRange> {
        let ranges = self.ranges.into_iter();
        ranges.map(|((inode, offset), end)| LostRange { inode: InodeId(inode), offset, len: end - offset }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn thawed(inode: u64, offset: u64, len: u64, frame: u64) -> Operation {
        Operation::Thawed(Thawed { inode: InodeId(inode), offset, len, frame: LogOffset(frame), within: 0, sum: 0 })
    }

    #[test]
    fn a_range_is_lost_until_it_is_written_again_or_thawed_no_more() {
        let mut lost = LostFrames::default();
        lost.add(100, 200);
        assert!(lost.contain(LogOffset(100)) && lost.contain(LogOffset(199)) && lost.contain(Thawed::LOST));
        assert!(!lost.contain(LogOffset(99)) && !lost.contain(LogOffset(200)));
        let mut ranges = LostRanges::default();
        ranges.apply(&thawed(1, 0, 100, 150), |frame| lost.contain(frame));
        ranges.apply(&thawed(1, 100, 50, 300), |frame| lost.contain(frame));
        ranges.apply(&thawed(1, 20, 10, 300), |frame| lost.contain(frame));
        ranges.apply(&Operation::NotThawed { inode: InodeId(1), offset: 90, len: 20 }, |frame| lost.contain(frame));
        ranges.apply(&Operation::NotThawed { inode: InodeId(2), offset: 0, len: 20 }, |frame| lost.contain(frame));
        let found: Vec<_> = ranges.into_ranges().iter().map(|r| (r.inode.0, r.offset, r.len)).collect();
        assert_eq!(found, [(1, 0, 20), (1, 30, 60)]);
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_a_map_byte_by_byte(
            steps in prop::collection::vec((0..2u64, 0..60u64, 1..30u64, 0..3u64), 0..40),
        ) {
            let mut lost = LostFrames::default();
            lost.add(100, 200);
            let mut ranges = LostRanges::default();
            let mut model = std::collections::BTreeSet::new();
            for (inode, offset, len, what) in steps {
                model.retain(|&(i, byte)| i != inode || byte < offset || byte >= offset + len);
                match what {
                    0 => ranges.apply(&Operation::NotThawed { inode: InodeId(inode), offset, len }, |frame| lost.contain(frame)),
                    1 => ranges.apply(&thawed(inode, offset, len, 300), |frame| lost.contain(frame)),
                    _ => {
                        ranges.apply(&thawed(inode, offset, len, 150), |frame| lost.contain(frame));
                        model.extend((offset..offset + len).map(|byte| (inode, byte)));
                    }
                }
            }
            let found: Vec<_> = ranges.into_ranges().iter().flat_map(|r| (r.offset..r.offset + r.len).map(|byte| (r.inode.0, byte))).collect();
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }
}
