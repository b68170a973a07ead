//! Where anchors are in stored data: a hash table of a bounded size.
//!
//! The table grows with its content up to a limit. When it is full, it keeps only every second anchor, chosen by
//! hash, and from then on takes no others; so what it contains depends only on what was inserted, in which order. A
//! bucket of [`WAYS`] slots drops its oldest place for a new one. Memory: 16 bytes for each slot. Superchunks that have
//! no id yet have provisional ones, from [`PROVISIONAL`] on.

use super::anchor;
use crate::format::ids::SuperchunkId;

/// Ids from this one on are of superchunks that have no id in an image yet. They are newer than all others.
pub const PROVISIONAL: SuperchunkId = SuperchunkId(1 << (ID_BITS - 1));
/// Bits of a superchunk's id in the table. Superchunks with larger ids are left out: no image has so many.
const ID_BITS: u32 = 64 - OFFSET_BITS;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Slot {
    hash: u64,
    place: u64,
}

/// An index of the anchors in superchunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorIndex {
    buckets: Vec<[Slot; WAYS]>,
    used: usize,
    /// Only hashes with so many zeros at their low end are kept.
    thinning: u32,
    most_buckets: usize,
}

impl AnchorIndex {
    /// Makes an empty index of at most this many bytes.
    pub fn new(most_bytes: usize) -> Self {
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

    /// Adds the anchors of a superchunk with these raw bytes. A newer place is never dropped for an older one, so older
    /// superchunks may be added after newer ones.
    pub fn add(&mut self, id: SuperchunkId, raw: &[u8]) {
        let mut anchors = Vec::new();
        anchor::find(raw, 0, &mut anchors);
        anchors.iter().for_each(|anchor| self.insert(anchor.hash, Location { superchunk: id, at: anchor.at }));
    }

    /// Adds the anchors of another index. `id_of` returns the id under which a superchunk is added; `None` leaves the
    /// superchunk out.
    pub fn absorb(&mut self, other: &AnchorIndex, id_of: impl Fn(SuperchunkId) -> Option<SuperchunkId>) {
        let mut slots: Vec<_> = other.buckets.iter().flatten().filter(|slot| slot.place != 0).collect();
        slots.sort_unstable_by_key(|slot| (slot.place, slot.hash));
        for slot in slots {
            let Location { superchunk, at } = location(slot.place);
            if let Some(superchunk) = id_of(superchunk) {
                self.insert(slot.hash, Location { superchunk, at });
            }
        }
    }

    /// Removes the anchors of the superchunks for which `goes` is true.
    pub fn remove(&mut self, goes: impl Fn(SuperchunkId) -> bool) {
        for slot in self.buckets.iter_mut().flatten() {
            if slot.place != 0 && goes(location(slot.place).superchunk) {
                *slot = Slot::default();
                self.used -= 1;
            }
        }
    }

    /// Returns whether no anchor is known.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Adds an anchor. Its place replaces one in the same superchunk, so the last of several equal anchors counts.
    pub(super) fn insert(&mut self, hash: u64, location: Location) {
        if !self.keeps(hash) || location.superchunk.0 >> ID_BITS != 0 {
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
        if slots[at].place > place {
            return;
        }
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
        places.into_iter().take_while(|&place| place != 0).map(location)
    }

    /// Returns the power of two of the share of anchors that are kept: 0 for all, 1 for half of them.
    pub(super) fn thinning(&self) -> u32 {
        self.thinning
    }

    /// Returns how many anchors another index has, too.
    #[cfg(test)]
    pub fn shares(&self, other: &AnchorIndex) -> usize {
        self.buckets.iter().flatten().filter(|slot| slot.place != 0 && other.has(slot.hash)).count()
    }

    #[cfg(test)]
    fn has(&self, hash: u64) -> bool {
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

fn location(place: u64) -> Location {
    Location { superchunk: SuperchunkId(place >> OFFSET_BITS), at: (place & ((1 << OFFSET_BITS) - 1)) as u32 }
}

/// The anchors that are known: those of the superchunks that are being filled, and those of an image.
#[derive(Debug)]
pub(super) struct Anchors<'i> {
    pub(super) own: AnchorIndex,
    pub(super) image: Option<&'i AnchorIndex>,
}

impl Anchors<'_> {
    /// Returns the known places of an anchor, the newest first, as far as the bounds allow.
    pub(super) fn find(&self, hash: u64) -> impl Iterator<Item = Location> + use<> {
        // Superchunks that are being filled are newer than those of the image.
        self.own.find(hash).chain(self.image.map(|image| image.find(hash)).into_iter().flatten())
    }

    /// Returns whether an anchor is known.
    pub(super) fn has(&self, hash: u64) -> bool {
        self.find(hash).next().is_some()
    }

    /// Returns whether an anchor counts where numbers of anchors are compared: both indexes keep it.
    pub(super) fn counts(&self, hash: u64) -> bool {
        hash.trailing_zeros() >= self.thinning()
    }

    /// Returns the power of two of the share of anchors that count: 0 for all, 1 for half of them.
    pub(super) fn thinning(&self) -> u32 {
        self.own.thinning().max(self.image.map_or(0, AnchorIndex::thinning))
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

    #[test]
    fn an_older_place_never_replaces_a_newer_one() {
        let mut index = AnchorIndex::new(0);
        for superchunk in [9, 8, 7, 6, 5, 4] {
            index.insert(77, at(superchunk, 1));
        }
        assert_eq!(index.find(77).collect::<Vec<_>>(), [9, 8, 7, 6].map(|n| at(n, 1)));
        index.insert(77, at(1 << 38, 1));
        assert_eq!(index.find(77).count(), 4);
    }

    #[test]
    fn provisional_ids_become_those_of_the_image_and_what_has_none_is_left_out() {
        let (mut image, mut own) = (AnchorIndex::new(0), AnchorIndex::new(0));
        let provisional = |n, position| at(PROVISIONAL.0 + n, position);
        // In buckets of their own.
        let single = |n: u64| (n + 1) << 60;
        image.insert(1, at(3, 5));
        for n in 0..3 {
            own.insert(1, provisional(n, 7));
            own.insert(single(n), provisional(n, n as u32));
        }
        let both = Anchors { own: own.clone(), image: Some(&image) };
        let all = [provisional(2, 7), provisional(1, 7), provisional(0, 7), at(3, 5)];
        assert_eq!(both.find(1).collect::<Vec<_>>(), all);
        image.absorb(&own, |id| Some(id.0 - PROVISIONAL.0).filter(|n| *n < 2).map(|n| SuperchunkId(10 + n)));
        assert_eq!(image.find(1).collect::<Vec<_>>(), [at(11, 7), at(10, 7), at(3, 5)]);
        let found = [0, 1, 2].map(|n| image.find(single(n)).next());
        assert_eq!(found, [Some(at(10, 0)), Some(at(11, 1)), None]);
        image.remove(|id| id == SuperchunkId(11));
        assert_eq!(image.find(1).collect::<Vec<_>>(), [at(10, 7), at(3, 5)]);
        assert!(!image.has(single(1)) && !image.is_empty());
        image.remove(|_| true);
        assert!(image.is_empty());
    }
}
