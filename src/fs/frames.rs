//! Which segments of the thaw log are still needed because of the written bytes in them [10].
//!
//! A segment is needed while a thawed range names bytes in it: a range of the present state, of the state in the head's
//! root, or of a transaction that the root does not contain. It is also needed while bytes were appended to it whose
//! range is not in the state yet. Segments are named by their number. Called by `state`.

use std::collections::BTreeMap;

/// Counts the thawed bytes in each segment of the thaw log, and records which segments are still needed.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of thawed ranges in the present state, by segment.
    now: BTreeMap<u64, u64>,
    /// Bytes of thawed ranges, by segment, in the state that was last set aside for a checkpoint: the root of that
    /// checkpoint will name them.
    sealed: BTreeMap<u64, u64>,
    /// The lowest segment that is named by an operation since a state was last set aside for a checkpoint.
    named: Option<u64>,
    /// The lowest segment that is named by operations which no published root contains yet, from before a state was
    /// last set aside for a checkpoint.
    unpublished: Option<u64>,
    /// Bytes of thawed ranges, by segment, in the published root.
    published: BTreeMap<u64, u64>,
    /// Number of appends, by segment, whose ranges are not in the state yet.
    in_flight: BTreeMap<u64, usize>,
}

impl Frames {
    /// Makes the counts at the start: bytes by segment in the present state, and the lowest segment of the log. The
    /// published root and the transactions of the log may name all segments from there on.
    pub(super) fn found(now: BTreeMap<u64, u64>, lowest_of_log: Option<u64>) -> Self {
        Frames { published: now.clone(), now, named: lowest_of_log, ..Frames::default() }
    }

    /// Records that a range was added, so that an operation names the segment.
    pub(super) fn add(&mut self, segment: u64, bytes: u64) {
        add(&mut self.now, segment, bytes);
        self.named = Some(self.named.map_or(segment, |named| named.min(segment)));
    }

    /// Records that a range was removed.
    pub(super) fn remove(&mut self, segment: u64, bytes: u64) {
        if let Some(count) = self.now.get_mut(&segment) {
            *count = count.saturating_sub(bytes);
            if *count == 0 {
                self.now.remove(&segment);
            }
        }
    }

    pub(super) fn hold(&mut self, segment: u64) {
        *self.in_flight.entry(segment).or_default() += 1;
    }

    pub(super) fn release(&mut self, segment: u64) {
        if let Some(count) = self.in_flight.get_mut(&segment) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.in_flight.remove(&segment);
            }
        }
    }

    /// Records that the present state is set aside for a checkpoint: the root of that checkpoint will need its frames.
    pub(super) fn seal(&mut self) {
        self.sealed = self.now.clone();
        self.unpublished = [self.unpublished, self.named.take()].into_iter().flatten().min();
    }

    /// Records that both head slots name the root of the state that was set aside last.
    pub(super) fn publish(&mut self) {
        self.published = std::mem::take(&mut self.sealed);
        self.unpublished = None;
    }

    /// Returns the lowest segment that is needed for written bytes, or `None` if none is needed.
    pub(super) fn lowest(&self) -> Option<u64> {
        let counted =
            [&self.now, &self.sealed, &self.published].into_iter().filter_map(|map| map.keys().next().copied());
        let held = self.in_flight.keys().next().copied();
        counted.chain([self.named, self.unpublished, held].into_iter().flatten()).min()
    }

    /// Returns the lowest segment that will be needed once a root of the present state is published.
    pub(super) fn lowest_of_state(&self) -> u64 {
        let held = self.in_flight.keys().next();
        self.now.keys().next().into_iter().chain(held).min().copied().unwrap_or(u64::MAX)
    }

    /// Returns the bytes of thawed ranges of the present state, by segment.
    pub(super) fn by_segment(&self) -> &BTreeMap<u64, u64> {
        &self.now
    }

    /// Returns the bytes of thawed ranges in the log.
    pub(super) fn bytes(&self) -> u64 {
        self.now.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

fn add(map: &mut BTreeMap<u64, u64>, segment: u64, bytes: u64) {
    let count = map.entry(segment).or_default();
    *count = count.saturating_add(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    // Case 10.
    #[test]
    fn a_segment_is_needed_until_no_state_no_root_no_later_transaction_and_no_append_names_it() {
        let mut frames = Frames::found(BTreeMap::new(), None);
        frames.hold(3);
        frames.add(3, 10);
        frames.release(3);
        assert_eq!(frames.lowest(), Some(3));
        // It was overwritten before any checkpoint: no root contains the transaction that names it.
        frames.add(5, 10);
        frames.remove(3, 10);
        assert_eq!(frames.lowest(), Some(3));
        frames.seal();
        assert_eq!(frames.lowest(), Some(3));
        frames.publish();
        assert_eq!(frames.lowest(), Some(5));
        // It was overwritten after the checkpoint: the root names it.
        frames.remove(5, 10);
        frames.add(6, 10);
        assert_eq!((frames.lowest(), frames.bytes()), (Some(5), 10));
        frames.hold(4);
        frames.seal();
        frames.publish();
        assert_eq!(frames.lowest(), Some(4));
        frames.release(4);
        assert_eq!(frames.lowest(), Some(6));
        frames.remove(6, 10);
        frames.seal();
        frames.publish();
        assert_eq!(frames.bytes(), 0);
        assert_eq!(frames.lowest(), None);
    }
}
