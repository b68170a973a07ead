//! Where anchors are in stored data: a hash table of a bounded size.
//!
//! The table grows with its content up to a limit. When it is full, it keeps only every second anchor, chosen by
//! hash, and from then on takes no others; so what it contains depends only on what was inserted, in which order. A
//! bucket of [`WAYS`] slots drops its oldest place for a new one. Memory: 16 bytes for each slot.

use crate::format::ids::SuperchunkId;

/// Number of slots of a bucket: a cache line.
pub(super) const WAYS: usize = 4;
/// Number of buckets of an empty table.
const FIRST_BUCKETS: usize = 1 << 12;
/// Bits of an offset in a superchunk: it has at most 64 MiB.
const OFFSET_BITS: u32 = 26;
/// The table is full when more than this many of [`WAYS`] slots are used, on average.
const FULL: f64 = 2.5;

/// Place of an anchor's first byte in the stored parts of a superchunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) superchunk: SuperchunkId,
    /// Position in the superchunk's raw bytes.
    pub(super) at: u32,
}

/// Hash and place of an anchor. The place is 0 if the slot is empty: ids begin with 1.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u64,
    place: u64,
}

/// The index of anchors.
#[derive(Debug)]
pub(super) struct AnchorIndex {
    buckets: Vec<[Slot; WAYS]>,
    used: usize,
    /// Only hashes with so many zeros at their low end are kept.
    thinning: u32,
    most_buckets: usize,
}

impl AnchorIndex {
    /// Makes an empty index of at most this many bytes.
    pub(super) fn new(most_bytes: usize) -> Self {
        let most_buckets = (most_bytes / size_of::<[Slot; WAYS]>()).max(FIRST_BUCKETS);
        // Rounded down: the number of buckets is a power of two.
        let most_buckets = 1 << most_buckets.ilog2();
        AnchorIndex { buckets: vec![Default::default(); FIRST_BUCKETS], used: 0, thinning: 0, most_buckets }
    }

    fn keeps(&self, hash: u64) -> bool {
        hash.trailing_zeros() >= self.thinning
    }

    fn bucket(&self, hash: u64) -> usize {
        (hash >> (64 - self.buckets.len().ilog2())) as usize
    }

    /// Adds an anchor. Its place replaces one in the same superchunk, so the last of several equal anchors counts.
    pub(super) fn insert(&mut self, hash: u64, location: Location) {
        if !self.keeps(hash) {
            return;
        }
        if self.used as f64 > FULL * self.buckets.len() as f64 {
            self.make_room();
            if !self.keeps(hash) {
                return;
            }
        }
        let bucket = self.bucket(hash);
        let place = location.superchunk.0 << OFFSET_BITS | u64::from(location.at);
        let slots = &mut self.buckets[bucket];
        let same = |slot: &Slot| slot.hash == hash && slot.place >> OFFSET_BITS == location.superchunk.0;
        let at = match slots.iter().position(same) {
            Some(at) => at,
            // An empty slot has the smallest place.
            None => (0..WAYS).min_by_key(|&at| slots[at].place).unwrap_or(0),
        };
        self.used += usize::from(slots[at].place == 0);
        slots[at] = Slot { hash, place };
    }

    /// Returns the known places of an anchor, the newest first, as far as the bound allows.
    pub(super) fn find(&self, hash: u64) -> impl Iterator<Item = Location> + use<> {
        let mut places = [0; WAYS];
        if self.keeps(hash) {
            let found = self.buckets[self.bucket(hash)].iter().filter(|slot| slot.hash == hash);
            places.iter_mut().zip(found).for_each(|(place, slot)| *place = slot.place);
            places.sort_unstable_by(|a, b| b.cmp(a));
        }
        places.into_iter().take_while(|&place| place != 0).map(|place| Location {
            superchunk: SuperchunkId(place >> OFFSET_BITS),
            at: (place & ((1 << OFFSET_BITS) - 1)) as u32,
        })
    }

    /// Returns the power of two of the share of anchors that are kept: 0 for all, 1 for half of them.
    pub(super) fn thinning(&self) -> u32 {
        self.thinning
    }

    /// Returns whether an anchor is known.
    pub(super) fn has(&self, hash: u64) -> bool {
        self.find(hash).next().is_some()
    }

    fn make_room(&mut self) {
        let mut len = self.buckets.len();
        if len < self.most_buckets {
            len *= 2;
        } else {
            self.thinning += 1;
        }
        let old = std::mem::replace(&mut self.buckets, vec![Default::default(); len]);
        self.used = 0;
        for slot in old.into_iter().flatten().filter(|slot| slot.place != 0) {
            if !self.keeps(slot.hash) {
                continue;
            }
            let bucket = self.bucket(slot.hash);
            // No bucket gets more than it had: it takes from one bucket, or half of one.
            if let Some(empty) = self.buckets[bucket].iter_mut().find(|slot| slot.place == 0) {
                *empty = slot;
                self.used += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::held::mixed;

    fn at(superchunk: u64, at: u32) -> Location {
        Location { superchunk: SuperchunkId(superchunk), at }
    }

    #[test]
    fn places_come_newest_first_and_a_superchunk_counts_once() {
        let mut index = AnchorIndex::new(0);
        for location in [at(1, 5), at(2, 7), at(2, 9)] {
            index.insert(77, location);
        }
        assert_eq!(index.find(77).collect::<Vec<_>>(), [at(2, 9), at(1, 5)]);
        (3..=8).for_each(|n| index.insert(77, at(n, (64 << 20) - 1)));
        assert_eq!(index.find(77).collect::<Vec<_>>(), [8, 7, 6, 5].map(|n| at(n, (64 << 20) - 1)));
        assert!(index.has(77) && !index.has(78));
    }

    #[test]
    fn it_grows_and_then_keeps_a_share_that_depends_on_hashes_alone() {
        let most = 1 << 20;
        let mut index = AnchorIndex::new(most);
        for n in 0..400_000 {
            index.insert(mixed(1, n), at(1 + n / 1000, (n % 1000) as u32));
        }
        assert_eq!(size_of_val(index.buckets.as_slice()), most);
        assert!(index.thinning >= 3, "{}", index.thinning);
        let known = (0..400_000).filter(|&n| index.has(mixed(1, n)));
        let known: Vec<_> = known.collect();
        assert!(known.iter().all(|&n| mixed(1, n).trailing_zeros() >= index.thinning));
        // Full buckets drop a few.
        let kept = (0..400_000).filter(|&n| mixed(1, n).trailing_zeros() >= index.thinning).count();
        assert!(known.len() * 100 >= kept * 80, "{} of {kept}", known.len());
    }
}
