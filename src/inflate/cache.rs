//! The cache of inflated superchunks, with single flight: one thread inflates, others that want the same wait for it.
//!
//! Locks: a shard's lock is never held over I/O or while another lock is taken; no thread takes a flight's lock while
//! it holds a shard's.

use super::InflateError;
use super::budget::{Budget, Room};
use super::load::{self, Inflated, Key, Load, Unit};
use super::parts::PartTables;
use super::sequence::Purpose;
use crate::format::ids::SubchunkId;
use crate::meta::Image;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Number of shards beside the first. With this many, threads that read different superchunks seldom contend.
const OTHER_SHARDS: usize = 15;
/// Divisor of the working set's size: superchunks that were inflated ahead and not yet read take at most one part in
/// this many. So they evict nothing that is in use, and a working set of few superchunks inflates nothing ahead at all.
const AHEAD_SHARE: usize = 4;

/// Counters of a working set since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InflateCounters {
    /// Number of superchunks (or parts) inflated.
    pub inflations: u64,
    /// Raw bytes that were inflated.
    pub inflated_bytes: u64,
    /// Number of inflations ahead of any reader.
    pub ahead: u64,
    /// Number of reads that found their superchunk inflated (cache hits).
    pub hits: u64,
    /// Bytes returned to readers.
    pub read_bytes: u64,
}

type Outcome = Result<Arc<Inflated>, InflateError>;

/// One inflation that one thread does and others may wait for.
#[derive(Default)]
struct Flight {
    outcome: Mutex<Option<Outcome>>,
    done: Condvar,
}

enum Slot {
    Ready(Ready),
    Busy(Arc<Flight>),
}

struct Ready {
    inflated: Arc<Inflated>,
    /// What the bytes count as inflated ahead: `Some` after read-ahead, until the first reader takes the bytes.
    fresh: Option<AheadShare>,
    /// Value of `Cache::clock` when the superchunk was last requested.
    used: u64,
}

type Shard = Mutex<LruCache<Key, Slot>>;

/// Inflated superchunks of one image, with a limit on their bytes.
pub(super) struct Cache {
    /// A version of the image. It may be any: all share the storage, the parameters and the dictionary.
    image: Arc<Image>,
    first: Shard,
    others: Vec<Shard>,
    part_tables: PartTables,
    budget: Arc<Budget>,
    /// Raw bytes inflated ahead, or being inflated ahead, that no reader has taken yet.
    ahead: Arc<AtomicUsize>,
    /// A counter of uses, so that the least recently used entry of all shards can be found.
    clock: AtomicU64,
    counters: Counters,
    load: Load,
}

#[derive(Default)]
struct Counters {
    inflations: AtomicU64,
    inflated_bytes: AtomicU64,
    ahead: AtomicU64,
    hits: AtomicU64,
    read_bytes: AtomicU64,
}

/// Bytes counted as inflated ahead, until this value is dropped.
pub(super) struct AheadShare {
    bytes: usize,
    all: Arc<AtomicUsize>,
    /// What they are inflated for.
    purpose: Purpose,
}

impl Drop for AheadShare {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Which entries may be evicted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evict {
    Any,
    /// Only entries may be evicted that a reader has used or inflated: read-ahead never evicts its own work.
    NotFresh,
}

impl Cache {
    pub(super) fn new(image: Arc<Image>, bytes: usize, load: Load) -> Self {
        let shard = || Mutex::new(LruCache::unbounded());
        Cache {
            image,
            first: shard(),
            others: (0..OTHER_SHARDS).map(|_| shard()).collect(),
            part_tables: PartTables::new(),
            budget: Budget::new(bytes),
            ahead: Arc::default(),
            clock: AtomicU64::new(0),
            counters: Counters::default(),
            load,
        }
    }

    pub(super) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    pub(super) fn part_tables(&self) -> &PartTables {
        &self.part_tables
    }

    pub(super) fn bytes(&self) -> usize {
        self.budget.used()
    }

    pub(super) fn has_read(&self, bytes: usize) {
        self.counters.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> InflateCounters {
        let c = &self.counters;
        InflateCounters {
            inflations: c.inflations.load(Ordering::Relaxed),
            inflated_bytes: c.inflated_bytes.load(Ordering::Relaxed),
            ahead: c.ahead.load(Ordering::Relaxed),
            hits: c.hits.load(Ordering::Relaxed),
            read_bytes: c.read_bytes.load(Ordering::Relaxed),
        }
    }

    fn shard(&self, key: &Key) -> &Shard {
        let at = (key.0.0 as usize ^ key.1.unwrap_or(0) as usize) % (1 + OTHER_SHARDS);
        self.others.get(at).unwrap_or(&self.first)
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Returns the inflated bytes of a unit if they are cached.
    pub(super) fn ready(&self, key: &Key) -> Option<Arc<Inflated>> {
        let mut shard = self.shard(key).lock();
        let Some(Slot::Ready(ready)) = shard.get_mut(key) else { return None };
        Some(self.hit(ready))
    }

    /// Drops the bytes of a unit (a superchunk, or a part of one) that is damaged.
    pub(super) fn forget_damaged(&self, key: &Key) {
        let mut shard = self.shard(key).lock();
        let is_damaged = matches!(shard.peek(key), Some(Slot::Ready(ready)) if !ready.inflated.intact);
        let gone = is_damaged.then(|| shard.pop(key));
        drop(shard);
        drop(gone);
    }

    /// Counts a cache hit.
    fn hit(&self, ready: &mut Ready) -> Arc<Inflated> {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        ready.used = self.tick();
        ready.fresh = None;
        ready.inflated.clone()
    }

    /// Returns the inflated bytes of a unit, which this thread inflates if nobody does.
    pub(super) fn get(&self, unit: &Unit) -> Outcome {
        let key = unit.key();
        let flight = {
            let mut shard = self.shard(&key).lock();
            match shard.get_mut(&key) {
                Some(Slot::Ready(ready)) => return Ok(self.hit(ready)),
                Some(Slot::Busy(flight)) => Some(flight.clone()),
                None => {
                    shard.put(key, Slot::Busy(Arc::new(Flight::default())));
                    None
                }
            }
        };
        let Some(flight) = flight else {
            let landing = Landing { cache: self, key, landed: false };
            let room = self.room(unit);
            return self.fly(landing, unit, room, None);
        };
        let mut outcome = flight.outcome.lock();
        loop {
            match &*outcome {
                Some(outcome) => return outcome.clone(),
                None => flight.done.wait(&mut outcome),
            }
        }
    }

    /// Inflates a unit (a superchunk, or a part of one) for one reader alone, from its damaged copy numbered `version`.
    /// Returns `None` if there is no such copy.
    pub(super) fn alone(&self, unit: &Unit, version: usize) -> Result<Option<Inflated>, InflateError> {
        load::inflate(&self.image, unit, self.room(unit), version)
    }

    /// Takes the share of a unit of what may be inflated ahead, if it is not used up.
    pub(super) fn share(&self, unit: &Unit, purpose: Purpose) -> Option<AheadShare> {
        let (bytes, limit) = (unit.need().raw, self.budget.limit() / AHEAD_SHARE);
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(AheadShare { bytes, all: self.ahead.clone(), purpose })
    }

    /// Gives back the shares of what was inflated ahead and is not wanted any more: it stays, but counts like what was
    /// read. Returns whether there was anything.
    pub(super) fn forget_unwanted(&self, wants: impl Fn(&Purpose) -> bool) -> bool {
        let mut any = false;
        for shard in self.shards() {
            let fresh = |(key, slot): (&Key, &Slot)| match slot {
                Slot::Ready(Ready { fresh: Some(share), .. }) => Some((*key, share.purpose)),
                _ => None,
            };
            // No lock is taken under that of a shard.
            let fresh: Vec<_> = shard.lock().iter().filter_map(fresh).collect();
            for (key, _) in fresh.into_iter().filter(|(_, purpose)| !wants(purpose)) {
                if let Some(Slot::Ready(ready)) = shard.lock().peek_mut(&key) {
                    any |= ready.fresh.take().is_some();
                }
            }
        }
        any
    }

    /// Inflates a unit (a superchunk, or a part of one) ahead of its readers. Does nothing if it is inflated or being
    /// inflated, or if there is no room for it without waiting.
    pub(super) fn get_ahead(&self, unit: &Unit, share: AheadShare) {
        let (key, need) = (unit.key(), unit.need());
        if self.has(&key) {
            return;
        }
        // A reader must never find a busy slot whose owner waits for room itself. So take the room first and the slot
        // second.
        let mut freed = 0;
        let room = loop {
            if let Some(room) = self.budget.try_take(need) {
                break room;
            }
            match self.evict(Evict::NotFresh) {
                Some(bytes) if freed < need.raw + need.stored + need.decoder => freed += bytes,
                _ => return,
            }
        };
        {
            let mut shard = self.shard(&key).lock();
            if shard.contains(&key) {
                return;
            }
            shard.put(key, Slot::Busy(Arc::new(Flight::default())));
        }
        self.counters.ahead.fetch_add(1, Ordering::Relaxed);
        let landing = Landing { cache: self, key, landed: false };
        // A reader that waits by now gets the error. For later readers it is inflated again.
        let _ = self.fly(landing, unit, room, Some(share));
    }

    /// Returns whether a unit (a superchunk, or a part of one) is inflated or being inflated.
    fn has(&self, key: &Key) -> bool {
        self.shard(key).lock().contains(key)
    }

    /// Returns whether a unit is inflated or being inflated. If it is, it becomes the most recently used one.
    pub(super) fn touch(&self, key: &Key) -> bool {
        let mut shard = self.shard(key).lock();
        match shard.get_mut(key) {
            Some(Slot::Ready(ready)) => ready.used = self.tick(),
            Some(Slot::Busy(_)) => {}
            None => return false,
        }
        true
    }

    fn room(&self, unit: &Unit) -> Room {
        self.budget.take(unit.need(), || self.evict(Evict::Any).is_some())
    }

    /// Inflates the unit that this thread has marked as being inflated (`Busy`), and wakes all threads that wait for
    /// it.
    fn fly(&self, landing: Landing<'_>, unit: &Unit, room: Room, share: Option<AheadShare>) -> Outcome {
        let inflated = match self.load {
            Load::Decode => load::inflate(&self.image, unit, room, 0),
            Load::Count => Ok(Some(load::count(unit, room))),
        };
        let outcome = match inflated {
            Ok(Some(inflated)) => Ok(Arc::new(inflated)),
            Ok(None) => Err(InflateError::Inconsistent { id: SubchunkId(0), why: "its superchunk has no copy" }),
            Err(error) => Err(error),
        };
        if let Ok(inflated) = &outcome {
            self.counters.inflations.fetch_add(1, Ordering::Relaxed);
            self.counters.inflated_bytes.fetch_add(inflated.bytes.len() as u64, Ordering::Relaxed);
        }
        landing.land(outcome, share)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Drops the least recently used entry. Returns its length in bytes, or `None` if there is nothing to drop.
    fn evict(&self, what: Evict) -> Option<usize> {
        loop {
            let oldest = self.shards().filter_map(|shard| {
                let shard = shard.lock();
                shard.iter().rev().find_map(|(key, slot)| match slot {
                    Slot::Ready(ready) if what == Evict::Any || ready.fresh.is_none() => Some((ready.used, *key)),
                    _ => None,
                })
            });
            let (_, key) = oldest.min()?;
            // Between the look and the lock the entry may have been dropped, or be in flight again. Then look for
            // another.
            let mut shard = self.shard(&key).lock();
            let gone = matches!(shard.peek(&key), Some(Slot::Ready(_))).then(|| shard.pop(&key)).flatten();
            drop(shard);
            if let Some(Slot::Ready(ready)) = gone {
                return Some(ready.inflated.bytes.len());
            }
        }
    }
}

/// A guard of the thread that inflates a unit: if that thread panics, the threads that wait for the unit get an error
/// instead of waiting for ever.
struct Landing<'a> {
    cache: &'a Cache,
    key: Key,
    landed: bool,
}

impl Landing<'_> {
    fn land(mut self, outcome: Outcome, share: Option<AheadShare>) -> Outcome {
        self.landed = true;
        self.settle(outcome.clone(), share);
        outcome
    }

    fn settle(&self, outcome: Outcome, fresh: Option<AheadShare>) {
        let mut shard = self.cache.shard(&self.key).lock();
        let busy = match &outcome {
            Ok(inflated) => {
                let (inflated, used) = (inflated.clone(), self.cache.tick());
                shard.put(self.key, Slot::Ready(Ready { inflated, fresh, used }))
            }
            Err(_) => shard.pop(&self.key),
        };
        drop(shard);
        if let Some(Slot::Busy(flight)) = busy {
            *flight.outcome.lock() = Some(outcome);
            flight.done.notify_all();
        }
        self.cache.budget.wake();
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if !self.landed {
            let why = "the thread that inflated it panicked";
            self.settle(Err(InflateError::Inconsistent { id: SubchunkId(0), why }), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::SuperchunkId;
    use crate::format::params::Params;
    use crate::inflate::budget::Need;
    use crate::inflate::sequence::Sequences;
    use crate::meta::{ImageOptions, View};
    use crate::pack::{PackObserver, PackOptions, pack};
    use crate::storage::{Access, FileStorage};

    const MIB: usize = 1 << 20;

    struct Silent;

    impl PackObserver for Silent {
        fn warning(&self, _: &[u8], message: &str) {
            panic!("{message}");
        }
    }

    /// An image of eight superchunks of about a mebibyte, stored raw.
    fn image() -> Arc<Image> {
        let dir = tempfile::tempdir().unwrap();
        let (file, path) = (dir.path().join("file"), dir.path().join("image.floe"));
        let mut bytes = vec![0; 8 * MIB];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        let params = Params { superchunk_size: MIB as u32, ..Params::default() };
        let options = PackOptions { params, compression: "none".parse().unwrap(), jobs: 1, ..PackOptions::default() };
        pack(&[file], &path, &options, &Silent).unwrap();
        let storage = Arc::new(FileStorage::open(&path, Access::ReadOnly).unwrap());
        Arc::new(Image::open(storage, ImageOptions::default()).unwrap())
    }

    fn unit(image: &Arc<Image>, id: u64) -> Unit {
        let (id, view) = (SuperchunkId(id), View::of(image.clone()));
        Unit { id, place: load::row(&view, id, SubchunkId(0)).unwrap().place, part: None }
    }

    impl Cache {
        fn has_whole(&self, id: u64) -> bool {
            self.has(&(SuperchunkId(id), None))
        }

        /// Inflates superchunk `id` ahead of somebody who reads in order, if there is a share for it.
        fn ahead(&self, id: u64) {
            let sequences = Sequences::default();
            let stretch = (1..100).find_map(|id| sequences.is_read(SubchunkId(id))).unwrap();
            let purpose = Purpose { reader: stretch.reader, subchunk: SubchunkId(id) };
            let unit = unit(&self.image, id);
            if let Some(share) = self.share(&unit, purpose) {
                self.get_ahead(&unit, share);
            }
        }
    }

    #[test]
    fn read_ahead_waits_for_no_room_and_keeps_no_slot_without_it() {
        let cache = Cache::new(image(), 16 * MIB, Load::Decode);
        let others = cache.budget.try_take(Need { raw: 15 * MIB, stored: 0, decoder: 0 }).unwrap();
        cache.ahead(1);
        assert!(!cache.has_whole(1));
        assert_eq!((cache.counters().ahead, cache.ahead.load(Ordering::Relaxed)), (0, 0));
        drop(others);
        cache.ahead(1);
        assert!(cache.has_whole(1));
    }

    #[test]
    fn read_ahead_takes_a_quarter_of_the_budget_until_readers_come_and_evicts_none_of_its_own() {
        let image = image();
        let cache = Cache::new(image.clone(), 8 * MIB, Load::Decode);
        (1..=6).for_each(|id| cache.ahead(id));
        let inflated: Vec<_> = (1..=6).filter(|id| cache.has_whole(*id)).collect();
        assert_eq!(inflated, [1, 2]);
        // A reader takes the first: there is room for another.
        cache.get(&unit(&image, 1)).unwrap();
        cache.ahead(3);
        assert!(cache.has_whole(3));
        assert_eq!(cache.counters().ahead, 3);
        drop(cache);
        // If a quarter of the budget does not hold one superchunk, nothing is inflated ahead.
        let small = Cache::new(image.clone(), 3 * MIB, Load::Decode);
        small.ahead(1);
        assert!(!small.has_whole(1));
    }

    #[test]
    fn what_was_inflated_ahead_and_is_not_wanted_any_more_makes_room_for_other_read_ahead() {
        let cache = Cache::new(image(), 8 * MIB, Load::Decode);
        (1..=3).for_each(|id| cache.ahead(id));
        assert!(!cache.forget_unwanted(|_| true) && !cache.has_whole(3));
        assert!(cache.forget_unwanted(|purpose| purpose.subchunk.0 != 1));
        cache.ahead(3);
        assert!((1..=3).all(|id| cache.has_whole(id)), "what is not wanted stays as long as there is room");
        assert!(cache.ahead.load(Ordering::Relaxed) <= cache.budget.limit() / AHEAD_SHARE);
    }

    #[test]
    fn what_is_touched_is_evicted_last() {
        let image = image();
        let cache = Cache::new(image.clone(), 4 * MIB, Load::Decode);
        for id in 1..=8 {
            cache.get(&unit(&image, id)).unwrap();
            assert!(cache.touch(&(SuperchunkId(1), None)), "{id}");
        }
        assert!(!cache.touch(&(SuperchunkId(2), None)));
    }
}
