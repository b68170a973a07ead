//! Sets of ids as ranges, and which finding affects which ids.
//!
//! Ids ascend and are assigned consecutively, so there are few ranges; at worst a set takes 16 bytes an id.

use std::ops::Range;

/// Index of a finding in the list of findings.
pub(super) type FindingId = u32;
/// Index that stands for a finding that was only counted.
pub(super) const NO_FINDING: FindingId = FindingId::MAX;

/// A set of ids. Insert in any order (ascending is cheap), then call [`RangeSet::settle`], then query.
#[derive(Debug, Clone, Default)]
pub(super) struct RangeSet {
    ranges: Vec<Range<u64>>,
    unsettled: bool,
}

impl RangeSet {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) if last.end > range.start => {
                self.unsettled = true;
                self.ranges.push(range);
            }
            _ => self.ranges.push(range),
        }
    }

    /// Sorts and merges the ranges.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        self.ranges.sort_by_key(|range| range.start);
        self.ranges.dedup_by(|later, first| {
            let joins = later.start <= first.end;
            if joins {
                first.end = first.end.max(later.end);
            }
            joins
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the ranges: disjoint, ascending.
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        debug_assert!(!self.unsettled);
        &self.ranges
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        debug_assert!(!self.unsettled);
        let at = self.ranges.partition_point(|range| range.start <= id);
        at.checked_sub(1).and_then(|before| self.ranges.get(before)).is_some_and(|range| id < range.end)
    }

    /// Returns the parts of `range` that are not in the set.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        debug_assert!(!self.unsettled);
        let mut out = Vec::new();
        let mut at = range.start;
        let first = self.ranges.partition_point(|known| known.end <= range.start);
        for known in self.ranges.iter().skip(first).take_while(|known| known.start < range.end) {
            if at < known.start {
                out.push(at..known.start);
            }
            at = known.end;
        }
        if at < range.end {
            out.push(at..range.end);
        }
        out
    }

    /// Returns whether any id of `range` is in the set.
    pub(super) fn touches(&self, range: &Range<u64>) -> bool {
        debug_assert!(!self.unsettled);
        let at = self.ranges.partition_point(|known| known.end <= range.start);
        !range.is_empty() && self.ranges.get(at).is_some_and(|known| known.start < range.end)
    }
}

/// Everything that the findings affect. The search for paths starts here.
#[derive(Debug, Default)]
pub(super) struct Hits {
    /// Subchunks of file data that findings affect.
    pub(super) subchunks: Marks,
    /// Contents that findings affect.
    pub(super) contents: Marks,
    /// Tiny contents that findings affect.
    pub(super) tiny: Marks,
    /// Xattr sets that findings affect.
    pub(super) xattrs: Marks,
    /// Inodes that findings affect, with all their names.
    pub(super) inodes: Marks,
    /// Directories whose entries findings affect.
    pub(super) directories: Marks,
}

impl Hits {
    pub(super) fn settle(&mut self) {
        for marks in [
            &mut self.subchunks,
            &mut self.contents,
            &mut self.tiny,
            &mut self.xattrs,
            &mut self.inodes,
            &mut self.directories,
        ] {
            marks.settle();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        [&self.subchunks, &self.contents, &self.tiny, &self.xattrs, &self.inodes, &self.directories]
            .iter()
            .all(|marks| marks.is_empty())
    }
}

/// Most findings remembered for one id. More findings affect the same id only in a hostile image.
const MANY: usize = 4;

/// A map from ids to the findings that affect them.
#[derive(Debug, Default)]
pub(super) struct Marks {
    raw: Vec<(Range<u64>, FindingId)>,
    segments: Vec<(Range<u64>, [FindingId; MANY])>,
}

impl Marks {
    pub(super) fn add(&mut self, range: Range<u64>, finding: FindingId) {
        if range.is_empty() || finding == NO_FINDING {
            return;
        }
        match self.raw.last_mut() {
            Some((last, same)) if *same == finding && last.end == range.start => last.end = range.end,
            _ => self.raw.push((range, finding)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.raw.is_empty() && self.segments.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.raw.len()
    }

    /// Cuts overlapping ranges into disjoint ones.
    pub(super) fn settle(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let mut events: Vec<(u64, bool, FindingId)> = Vec::with_capacity(2 * self.raw.len());
        for (range, finding) in &self.raw {
            events.push((range.start, true, *finding));
            events.push((range.end, false, *finding));
        }
        events.sort_unstable();
        // For each finding that covers the current position: how many of its ranges do.
        let mut active: std::collections::BTreeMap<FindingId, u32> = Default::default();
        let mut since = 0;
        for (at, begins, finding) in events {
            if at > since && !active.is_empty() {
                let mut ids = [NO_FINDING; MANY];
                for (slot, &id) in ids.iter_mut().zip(active.keys()) {
                    *slot = id;
                }
                match self.segments.last_mut() {
                    Some((last, same)) if *same == ids && last.end == since => last.end = at,
                    _ => self.segments.push((since..at, ids)),
                }
            }
            since = at;
            if begins {
                *active.entry(finding).or_default() += 1;
            } else if let Some(count) = active.get_mut(&finding) {
                *count -= 1;
                if *count == 0 {
                    active.remove(&finding);
                }
            }
        }
        self.raw = Vec::new();
    }

    /// Returns the union of `self` and `other`.
    pub(super) fn joined(self, other: Marks) -> Marks {
        let mut out = Marks::default();
        for (range, ids) in self.segments.into_iter().chain(other.segments) {
            ids.iter().take_while(|id| **id != NO_FINDING).for_each(|id| out.raw.push((range.clone(), *id)));
        }
        out.settle();
        out
    }

    /// Returns marks of the same ids, each affected by `finding`.
    pub(super) fn under(&self, finding: FindingId) -> Marks {
        let ranges = self.raw.iter().map(|(range, _)| range).chain(self.segments.iter().map(|(range, _)| range));
        Marks { raw: ranges.map(|range| (range.clone(), finding)).collect(), segments: Vec::new() }
    }

    /// Adds the marks of `other`, for which [`Marks::settle`] was not called yet.
    pub(super) fn take_in(&mut self, other: &Marks) {
        self.raw.extend(other.raw.iter().cloned());
    }

    /// Passes each finding that affects an id of `range` to `each`; the same finding may come more than once.
    pub(super) fn of(&self, range: Range<u64>, each: &mut dyn FnMut(FindingId)) {
        let first = self.segments.partition_point(|(segment, _)| segment.end <= range.start);
        for (_, ids) in self.segments.iter().skip(first).take_while(|(segment, _)| segment.start < range.end) {
            ids.iter().take_while(|id| **id != NO_FINDING).for_each(|id| each(*id));
        }
    }

    /// Passes each finding that affects one id, as [`Marks::of`] does for a range.
    pub(super) fn of_one(&self, id: u64, each: &mut dyn FnMut(FindingId)) {
        self.of(id..id.saturating_add(1), each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_what_is_missing_from_a_range() {
        let mut set = RangeSet::default();
        for range in [10..20, 20..25, 3..5, 40..50, 45..60] {
            set.insert(range);
        }
        set.settle();
        assert_eq!(set.ranges, [3..5, 10..25, 40..60]);
        assert_eq!(set.missing(0..70), [0..3, 5..10, 25..40, 60..70]);
        assert!(set.missing(12..24).is_empty());
        assert!(set.contains(24) && !set.contains(25));
        assert!(set.touches(&(24..26)) && !set.touches(&(25..40)));
    }

    #[test]
    fn overlapping_findings_are_all_told() {
        let mut marks = Marks::default();
        marks.add(0..100, 7);
        marks.add(10..20, 3);
        marks.add(20..30, 3);
        marks.settle();
        let told = |id| {
            let mut out = Vec::new();
            marks.of_one(id, &mut |finding| out.push(finding));
            out
        };
        assert_eq!(told(5), [7]);
        assert_eq!(told(25), [3, 7]);
        assert_eq!(told(30), [7]);
        assert!(told(100).is_empty());
    }
}
