//! The cache of inflated superchunks, single flight, and the reading of subchunks out of it.
//!
//! Locks: a shard's, never held over I/O or while another is taken; a flight's, held by nobody who holds a shard's.

use super::budget::Budget;
use super::load::{self, Inflated};
use super::{InflateError, ahead};
use crate::format::codec::PartTable;
use crate::format::frame::FrameKind;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::rows::Identity;
use crate::meta::{ByteLru, Image, Located};
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shards of the working set: threads that read different superchunks seldom meet.
const SHARDS: usize = 16;
/// Bytes of part tables kept: a table of 4 MiB in parts of 128 KiB takes 400 bytes.
const PART_TABLES: usize = 4 << 20;

/// What a working set did since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InflateCounters {
    /// Superchunks (or parts) inflated.
    pub inflations: u64,
    /// Raw bytes that came out.
    pub inflated_bytes: u64,
    /// Inflations that nobody had asked for yet.
    pub ahead: u64,
    /// Reads that found their superchunk inflated.
    pub hits: u64,
    /// Bytes handed to readers.
    pub read_bytes: u64,
}

/// A superchunk, or part `.1` of it.
type Key = (SuperchunkId, Option<u32>);
type Outcome = Result<Arc<Inflated>, InflateError>;

/// One inflation that somebody does and others may wait for.
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
    /// Until a reader has it after read-ahead.
    fresh: bool,
    /// The clock's reading when it was last asked for.
    used: u64,
}

/// Inflated superchunks of one image, at most so many bytes of them.
pub struct WorkingSet {
    pub(super) inner: Arc<Inner>,
    ahead: Option<ahead::Ahead>,
    /// Subchunks of intact superchunks are judged by their identities too.
    verify: bool,
}

pub(super) struct Inner {
    image: Arc<Image>,
    shards: Vec<Mutex<LruCache<Key, Slot>>>,
    budget: Arc<Budget>,
    part_tables: ByteLru<SuperchunkId, Option<Arc<PartTable>>>,
    /// One tick a use, so that the oldest of all shards can be told.
    clock: AtomicU64,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    inflations: AtomicU64,
    inflated_bytes: AtomicU64,
    ahead: AtomicU64,
    hits: AtomicU64,
    read_bytes: AtomicU64,
}

impl WorkingSet {
    /// An empty working set of at most `bytes` bytes; `ahead` threads inflate what a sequential reader will want next.
    pub fn new(image: Arc<Image>, bytes: usize, ahead: usize) -> Self {
        let inner = Arc::new(Inner {
            image,
            shards: (0..SHARDS).map(|_| Mutex::new(LruCache::unbounded())).collect(),
            budget: Budget::new(bytes),
            part_tables: ByteLru::new(PART_TABLES, 4),
            clock: AtomicU64::new(0),
            counters: Counters::default(),
        });
        let ahead = (ahead > 0).then(|| ahead::Ahead::start(&inner, ahead));
        WorkingSet { inner, ahead, verify: false }
    }

    /// From now on every subchunk is judged by its own identity, whatever its superchunk's checksum says: what an image from
    /// a mirror that is not trusted needs.
    pub fn verifying(self, verify: bool) -> Self {
        WorkingSet { verify, ..self }
    }

    /// Fills `out` with the bytes of subchunk `id` from byte `skip` on.
    ///
    /// # Errors
    /// If the subchunk is not there, shorter, cannot be read, or does not have its identity.
    pub fn read_subchunk(&self, id: SubchunkId, skip: u32, out: &mut [u8]) -> Result<(), InflateError> {
        let located = self.inner.locate(id)?;
        self.inner.counters.read_bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        if located.composed {
            return self.read_composed(id, located, skip, out);
        }
        if u64::from(skip) + out.len() as u64 > u64::from(located.len) {
            return Err(InflateError::Inconsistent { id, why: "it is shorter than its file needs" });
        }
        if self.copy_stored(id, &located, skip, out)? {
            return Ok(());
        }
        let mut bytes = vec![0; located.len as usize];
        self.copy_stored(id, &located, 0, &mut bytes)?;
        self.inner.judge(id, &located, &bytes)?;
        out.copy_from_slice(&bytes[skip as usize..skip as usize + out.len()]);
        Ok(())
    }

    /// Puts a composed subchunk together out of ranges of stored parts.
    fn read_composed(&self, id: SubchunkId, located: Located, skip: u32, out: &mut [u8]) -> Result<(), InflateError> {
        let lookup = |error| InflateError::Lookup { id, source: Arc::new(error) };
        let recipe = self
            .inner
            .image
            .recipe(id)
            .map_err(lookup)?
            .ok_or(InflateError::Inconsistent { id, why: "it is composed, but has no recipe" })?;
        if u64::from(skip) + out.len() as u64 > u64::from(recipe.subchunk_len()) {
            return Err(InflateError::Inconsistent { id, why: "it is shorter than its file needs" });
        }
        let mut bytes = vec![0; recipe.subchunk_len() as usize];
        let mut rest = bytes.as_mut_slice();
        let mut intact = true;
        for piece in recipe.pieces() {
            let (target, behind) = std::mem::take(&mut rest).split_at_mut(piece.len as usize);
            rest = behind;
            let source = if piece.subchunk == id { located } else { self.inner.locate(piece.subchunk)? };
            if u64::from(piece.offset) + u64::from(piece.len) > u64::from(source.len) {
                return Err(InflateError::Inconsistent { id, why: "its recipe names bytes that are not stored" });
            }
            intact &= self.copy_stored(piece.subchunk, &source, piece.offset, target)?;
        }
        if !intact {
            self.inner.judge(id, &located, &bytes)?;
        }
        out.copy_from_slice(&bytes[skip as usize..skip as usize + out.len()]);
        Ok(())
    }

    /// Copies a range of a stored part. Returns whether the bytes are known to be right; if not, they are to be judged.
    fn copy_stored(&self, id: SubchunkId, located: &Located, skip: u32, out: &mut [u8]) -> Result<bool, InflateError> {
        let start = located.position as usize + skip as usize;
        let key = (located.superchunk, None);
        let (inflated, fresh) = match self.inner.inflated(&key) {
            Some(found) => found,
            // Only now is it worth asking the map where the superchunk lies.
            None => {
                let row = self
                    .inner
                    .image
                    .superchunk(located.superchunk)
                    .map_err(|error| InflateError::Lookup { id, source: Arc::new(error) })?
                    .ok_or(InflateError::Inconsistent { id, why: "the map does not know its superchunk" })?;
                if row.kind != FrameKind::SUPERCHUNK || start + out.len() > row.place.raw_len as usize {
                    return Err(outside(id));
                }
                if row.place.flags.parts()
                    && let Some(table) = self.inner.part_table(located.superchunk, &row.place)?
                {
                    let intact = self.copy_parts(located.superchunk, &row.place, &table, start, out)?;
                    return Ok(intact && !self.verify);
                }
                self.inner.get(key, &row.place, None)?
            }
        };
        if start + out.len() > inflated.raw_len {
            return Err(outside(id));
        }
        if fresh && let Some(ahead) = &self.ahead {
            ahead.after(&self.inner, located.superchunk);
        }
        copy_range(&inflated, start, out);
        Ok(inflated.intact && !self.verify)
    }

    fn copy_parts(
        &self,
        id: SuperchunkId,
        place: &Place,
        table: &PartTable,
        start: usize,
        out: &mut [u8],
    ) -> Result<bool, InflateError> {
        let size = table.part_size as usize;
        let mut intact = true;
        let mut done = 0;
        while done < out.len() {
            let (index, within) = ((start + done) / size, (start + done) % size);
            let len = (size - within).min(out.len() - done);
            let (inflated, _) = self.inner.get((id, Some(index as u32)), place, Some(table))?;
            copy_range(&inflated, within, &mut out[done..done + len]);
            intact &= inflated.intact;
            done += len;
        }
        Ok(intact)
    }

    /// What it did so far.
    pub fn counters(&self) -> InflateCounters {
        let c = &self.inner.counters;
        InflateCounters {
            inflations: c.inflations.load(Ordering::Relaxed),
            inflated_bytes: c.inflated_bytes.load(Ordering::Relaxed),
            ahead: c.ahead.load(Ordering::Relaxed),
            hits: c.hits.load(Ordering::Relaxed),
            read_bytes: c.read_bytes.load(Ordering::Relaxed),
        }
    }

    /// Bytes it holds now, those being inflated included.
    pub fn bytes(&self) -> usize {
        self.inner.budget.used()
    }
}

fn outside(id: SubchunkId) -> InflateError {
    InflateError::Inconsistent { id, why: "it does not lie within its superchunk" }
}

/// Copies what is there; what a damaged superchunk does not have stays as it is and is judged by the caller.
fn copy_range(inflated: &Inflated, start: usize, out: &mut [u8]) {
    let have = inflated.bytes.get(start..).unwrap_or(&[]);
    let len = have.len().min(out.len());
    out[..len].copy_from_slice(&have[..len]);
    out[len..].fill(0);
}

impl Inner {
    fn locate(&self, id: SubchunkId) -> Result<Located, InflateError> {
        self.image
            .locate(id)
            .map_err(|error| InflateError::Lookup { id, source: Arc::new(error) })?
            .ok_or(InflateError::Inconsistent { id, why: "the map does not know it" })
    }

    /// Whether these are the subchunk's bytes.
    fn judge(&self, id: SubchunkId, located: &Located, bytes: &[u8]) -> Result<(), InflateError> {
        let identity = self.image.identity(id).map_err(|error| InflateError::Lookup { id, source: Arc::new(error) })?;
        if identity == Some(Identity::of(self.image.params().hash, bytes)) {
            Ok(())
        } else {
            Err(InflateError::Damaged { id, superchunk: located.superchunk })
        }
    }

    fn part_table(&self, id: SuperchunkId, place: &Place) -> Result<Option<Arc<PartTable>>, InflateError> {
        if let Some(known) = self.part_tables.get(&id) {
            return Ok(known);
        }
        let table = load::part_table(&self.image, id, place)?.map(Arc::new);
        let weight = 64 + table.as_ref().map_or(0, |table| table.parts.len() * 24);
        self.part_tables.insert(id, table.clone(), weight);
        Ok(table)
    }

    fn shard(&self, key: &Key) -> &Mutex<LruCache<Key, Slot>> {
        &self.shards[(key.0.0 as usize ^ key.1.unwrap_or(0) as usize) % SHARDS]
    }

    /// The inflated bytes if they are there, and whether no reader had them yet since they were inflated.
    fn inflated(&self, key: &Key) -> Option<(Arc<Inflated>, bool)> {
        let mut shard = self.shard(key).lock();
        let Some(Slot::Ready(ready)) = shard.get_mut(key) else { return None };
        Some(self.hit(ready))
    }

    /// A reader takes what is there.
    fn hit(&self, ready: &mut Ready) -> (Arc<Inflated>, bool) {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        ready.used = self.tick();
        (ready.inflated.clone(), std::mem::take(&mut ready.fresh))
    }

    /// The inflated bytes, and whether this is the first time a reader gets them since they were inflated.
    fn get(&self, key: Key, place: &Place, table: Option<&PartTable>) -> Result<(Arc<Inflated>, bool), InflateError> {
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
        match flight {
            Some(flight) => {
                let mut outcome = flight.outcome.lock();
                while outcome.is_none() {
                    flight.done.wait(&mut outcome);
                }
                match &*outcome {
                    Some(Ok(inflated)) => Ok((inflated.clone(), true)),
                    Some(Err(error)) => Err(error.clone()),
                    None => Err(InflateError::Inconsistent { id: SubchunkId(0), why: "nobody inflated it" }),
                }
            }
            None => self.fly(key, place, table, false).map(|inflated| (inflated, true)),
        }
    }

    /// Inflates a superchunk ahead of its readers, if nobody has or does, and if there is room without waiting.
    pub(super) fn inflate_ahead(&self, id: SuperchunkId) {
        let Ok(Some(row)) = self.image.superchunk(id) else {
            return;
        };
        if row.kind != FrameKind::SUPERCHUNK || row.place.flags.parts() {
            return;
        }
        let key = (id, None);
        {
            let mut shard = self.shard(&key).lock();
            if shard.contains(&key) {
                return;
            }
            shard.put(key, Slot::Busy(Arc::new(Flight::default())));
        }
        self.counters.ahead.fetch_add(1, Ordering::Relaxed);
        // An error is told to whoever asks for the superchunk: it is inflated anew then.
        let _ = self.fly(key, &row.place, None, true);
    }

    /// Whether the superchunk is inflated or being inflated.
    pub(super) fn has(&self, id: SuperchunkId) -> bool {
        let key = (id, None);
        self.shard(&key).lock().contains(&key)
    }

    /// Inflates what this thread has put a `Busy` slot for, and tells everybody who waits.
    fn fly(&self, key: Key, place: &Place, table: Option<&PartTable>, ahead: bool) -> Outcome {
        let landing = Landing { inner: self, key, landed: false };
        let bytes = match (table, key.1) {
            (Some(table), Some(index)) => table.parts.get(index as usize).map_or(0, |part| part.raw_len as usize),
            _ => place.raw_len as usize,
        };
        let buffer = self.budget.take(bytes, || self.evict(bytes));
        let outcome = match (table, key.1) {
            (Some(table), Some(index)) if (index as usize) < table.parts.len() => {
                load::part(&self.image, key.0, place, table, index as usize, buffer)
            }
            _ => load::whole(&self.image, key.0, place, buffer),
        };
        let outcome = outcome.map(Arc::new);
        if let Ok(inflated) = &outcome {
            self.counters.inflations.fetch_add(1, Ordering::Relaxed);
            self.counters.inflated_bytes.fetch_add(inflated.bytes.len() as u64, Ordering::Relaxed);
        }
        landing.land(outcome, ahead)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Drops the superchunks that were used longest ago, until about `bytes` are free or none is left.
    fn evict(&self, bytes: usize) {
        let mut freed = 0;
        while freed < bytes {
            let oldest = self.shards.iter().filter_map(|shard| {
                let shard = shard.lock();
                shard.iter().rev().find_map(|(key, slot)| match slot {
                    Slot::Ready(ready) => Some((ready.used, *key)),
                    Slot::Busy(_) => None,
                })
            });
            let Some((_, key)) = oldest.min() else {
                return;
            };
            // Between the look and the lock it may have gone or be in flight anew: then it is left alone.
            let mut shard = self.shard(&key).lock();
            let gone = matches!(shard.peek(&key), Some(Slot::Ready(_))).then(|| shard.pop(&key)).flatten();
            drop(shard);
            if let Some(Slot::Ready(ready)) = gone {
                freed += ready.inflated.bytes.len().max(1);
            }
        }
    }
}

/// Makes sure that a flight lands: if the inflating thread panics, those who wait get an error, not silence.
struct Landing<'a> {
    inner: &'a Inner,
    key: Key,
    landed: bool,
}

impl Landing<'_> {
    fn land(mut self, outcome: Outcome, ahead: bool) -> Outcome {
        self.landed = true;
        self.settle(outcome.clone(), ahead);
        outcome
    }

    fn settle(&self, outcome: Outcome, ahead: bool) {
        let mut shard = self.inner.shard(&self.key).lock();
        let busy = match &outcome {
            Ok(inflated) => {
                let (inflated, used) = (inflated.clone(), self.inner.tick());
                shard.put(self.key, Slot::Ready(Ready { inflated, fresh: ahead, used }))
            }
            Err(_) => shard.pop(&self.key),
        };
        drop(shard);
        if let Some(Slot::Busy(flight)) = busy {
            *flight.outcome.lock() = Some(outcome);
            flight.done.notify_all();
        }
        self.inner.budget.wake();
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if !self.landed {
            let why = "the thread that inflated it panicked";
            self.settle(Err(InflateError::Inconsistent { id: SubchunkId(0), why }), false);
        }
    }
}
