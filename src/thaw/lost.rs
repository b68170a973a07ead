//! The lost ranges of the log. Called by `recover`.

use crate::format::ids::LogOffset;
use crate::format::transaction::Thawed;
use std::collections::BTreeMap;

/// The parts of a thaw log whose frames of written bytes are damaged.
#[derive(Debug, Clone, Default)]
pub(super) struct LostFrames {
    /// Start and end offset of each part.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_lost_if_it_begins_in_a_damaged_part_or_is_said_to_be() {
        let mut lost = LostFrames::default();
        lost.add(100, 200);
        lost.add(100, 150);
        assert_eq!(lost.parts().collect::<Vec<_>>(), [(100, 200)]);
        assert!(lost.contain(LogOffset(100)) && lost.contain(LogOffset(199)) && lost.contain(Thawed::LOST));
        assert!(!lost.contain(LogOffset(99)) && !lost.contain(LogOffset(200)));
    }
}
