//! The memory budget of inflated superchunks, and the buffers that count against it.
//!
//! Memory counts from before it is allocated until it is returned to the allocator. The budget counts raw bytes, the
//! stored bytes they are decoded from, the decoder's memory, each entry of the working set, and the spare buffers;
//! buffers count by capacity. A thread that needs room waits until some is returned. Room is always granted if nobody
//! holds any, so a budget below one superchunk still makes progress.

use parking_lot::{Condvar, Mutex};
use std::ops::Deref;
use std::sync::Arc;

/// Most buffers kept for the next inflations. Returned to the allocator, their pages would have to be cleared again.
const SPARE_BUFFERS: usize = 4;
/// Smallest buffer in bytes that is worth keeping; the allocator keeps smaller ones in its own lists.
const SPARE_MIN: usize = 64 << 10;
/// Bytes of an entry of the working set without its buffer: list, hash table, the `Arc`s.
pub(super) const ENTRY: usize = 384;

/// Memory that an inflation needs, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// Raw bytes, which the cache keeps.
    pub(super) raw: usize,
    /// Stored (compressed) bytes, needed while the inflation runs.
    pub(super) stored: usize,
    /// Memory of the decoder, needed while the inflation runs.
    pub(super) decoder: usize,
}

/// The memory, in bytes, that inflated superchunks may take. Threads wait until there is room.
pub(super) struct Budget {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that are taken by all [`Room`]s, [`Buffer`]s and spare buffers.
    used: usize,
    /// Number of [`Room`]s and [`Buffer`]s.
    live: usize,
    spare: Vec<Vec<u8>>,
    /// Number of changes up to now by which there may be more room. A waiting thread tries again when this number
    /// grows.
    turn: u64,
    waiting: usize,
    #[cfg(test)]
    waits: u64,
}

/// The memory that [`State::grant`] gives to an inflation: spare buffers to use again, if they fit, and spare buffers
/// to return to the allocator.
struct Grant {
    raw: Option<Vec<u8>>,
    stored: Option<Vec<u8>>,
    counted: usize,
    _gone: Vec<Vec<u8>>,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Budget { limit, state: Mutex::default(), changed: Condvar::new() })
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes room for `need`. While there is none, `make_room` is called to free some. If it returns false, nothing can
    /// be freed now, and the thread waits for a change.
    pub(super) fn take(self: &Arc<Self>, need: Need, mut make_room: impl FnMut() -> bool) -> Room {
        loop {
            // Read the counter before looking, so that no change after the look is missed.
            let seen = self.state.lock().turn;
            if let Some(room) = self.grant(need, false) {
                return room;
            }
            if make_room() {
                continue;
            }
            let mut state = self.state.lock();
            state.waiting += 1;
            while state.turn == seen {
                #[cfg(test)]
                {
                    state.waits += 1;
                }
                self.changed.wait(&mut state);
            }
            state.waiting -= 1;
        }
    }

    /// Takes room for `need` if there is room now and no other thread waits for room.
    pub(super) fn try_take(self: &Arc<Self>, need: Need) -> Option<Room> {
        self.grant(need, true)
    }

    fn grant(self: &Arc<Self>, need: Need, only_unclaimed: bool) -> Option<Room> {
        let mut state = self.state.lock();
        if only_unclaimed && state.waiting > 0 {
            return None;
        }
        let Grant { raw, stored, counted, _gone } = state.grant(need, self.limit)?;
        drop(state);
        let buffer = |spare: Option<Vec<u8>>, len| spare.unwrap_or_else(|| vec![0; len]);
        let (raw, stored) = (buffer(raw, need.raw), buffer(stored, need.stored));
        Some(Room { raw, stored, decoder: need.decoder, claim: Claim { counted, budget: self.clone() } })
    }

    /// Wakes waiting threads, because something can be evicted now.
    pub(super) fn wake(&self) {
        self.state.lock().turn += 1;
        self.changed.notify_all();
    }

    /// Returns the bytes that are counted now.
    pub(super) fn used(&self) -> usize {
        self.state.lock().used
    }
}

impl State {
    /// Counts the memory `need` as used, if that stays within `limit` or nothing else is in use. Spare buffers are
    /// dropped if that makes room.
    fn grant(&mut self, need: Need, limit: usize) -> Option<Grant> {
        let all_spare: usize = self.spare.iter().map(Vec::capacity).sum();
        let in_use = self.used - all_spare;
        let raw = self.spare_for(need.raw, None);
        let stored = self.spare_for(need.stored, raw);
        let bytes = |spare: Option<usize>, len| spare.and_then(|at| self.spare.get(at)).map_or(len, Vec::capacity);
        let with_spares = bytes(raw, need.raw) + bytes(stored, need.stored) + need.decoder + ENTRY;
        let without = need.raw + need.stored + need.decoder + ENTRY;
        // A spare buffer may be larger than needed. If room is short, that is too large.
        let (raw, stored, counted) = if in_use + with_spares <= limit {
            (raw, stored, with_spares)
        } else if in_use + without <= limit || self.live == 0 {
            (None, None, without)
        } else {
            return None;
        };
        let mut grant = Grant { raw: None, stored: None, counted, _gone: Vec::new() };
        for (at, buffer) in std::mem::take(&mut self.spare).into_iter().enumerate() {
            match Some(at) {
                at if at == raw => grant.raw = Some(buffer),
                at if at == stored => grant.stored = Some(buffer),
                _ => self.spare.push(buffer),
            }
        }
        let mut spare: usize = self.spare.iter().map(Vec::capacity).sum();
        while in_use + counted + spare > limit && !self.spare.is_empty() {
            let oldest = self.spare.remove(0);
            spare -= oldest.capacity();
            grant._gone.push(oldest);
        }
        self.used = in_use + counted + spare;
        self.live += 1;
        Some(grant)
    }

    /// Returns the index of the smallest spare buffer that holds `len` bytes and is at most twice as long, if there is
    /// one. The buffer with index `taken` does not count.
    fn spare_for(&self, len: usize, taken: Option<usize>) -> Option<usize> {
        let fits = |capacity: usize| len >= SPARE_MIN / 2 && (len..=len.saturating_mul(2)).contains(&capacity);
        let spare = self.spare.iter().enumerate().filter(|(at, buffer)| Some(*at) != taken && fits(buffer.capacity()));
        spare.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at)
    }
}

/// Bytes that are counted in the budget for one inflation, or for its result. When this is dropped, they are free
/// again.
struct Claim {
    counted: usize,
    budget: Arc<Budget>,
}

impl Claim {
    /// Gives a buffer back to the budget, and `more` bytes in addition. The buffer is kept for the next inflation if it
    /// is large enough.
    fn give_back(&mut self, buffer: Vec<u8>, more: usize) {
        let mut gone = None;
        let mut state = self.budget.state.lock();
        let freed = (buffer.capacity() + more).min(self.counted);
        self.counted -= freed;
        state.used -= freed;
        if buffer.capacity() >= SPARE_MIN {
            // Drop the oldest: neighbouring superchunks have similar sizes.
            if state.spare.len() >= SPARE_BUFFERS {
                let oldest = state.spare.remove(0);
                state.used -= oldest.capacity();
                gone = Some(oldest);
            }
            state.used += buffer.capacity();
            state.spare.push(buffer);
        }
        state.turn += 1;
        drop(state);
        drop(gone);
        self.budget.changed.notify_all();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.used -= self.counted;
        state.live -= 1;
        state.turn += 1;
        drop(state);
        self.budget.changed.notify_all();
    }
}

/// Room for one inflation. The buffers have at least the requested capacity, and their content is arbitrary.
pub(super) struct Room {
    // Fields are dropped in this order: memory counts until it is freed.
    pub(super) raw: Vec<u8>,
    pub(super) stored: Vec<u8>,
    decoder: usize,
    claim: Claim,
}

impl Room {
    /// Keeps the buffer with the raw bytes, and gives the rest of the room back to the budget.
    pub(super) fn into_buffer(self) -> Buffer {
        let Room { raw, stored, decoder, mut claim } = self;
        claim.give_back(stored, decoder);
        Buffer { bytes: raw, claim }
    }
}

/// The raw bytes of an inflation, counted in the budget.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    claim: Claim,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.claim.give_back(std::mem::take(&mut self.bytes), ENTRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn need(raw: usize, stored: usize) -> Need {
        Need { raw, stored, decoder: 0 }
    }

    #[test]
    fn a_budget_too_small_for_one_room_still_grants_one_at_a_time() {
        let budget = Budget::new(10);
        let first = budget.try_take(need(100, 100)).unwrap();
        assert!(budget.try_take(need(1, 0)).is_none());
        drop(first.into_buffer());
        assert!(budget.try_take(need(1, 0)).is_some());
    }

    #[test]
    fn buffers_of_random_sizes_stay_within_the_budget_spare_ones_included() {
        let limit = 8 << 20;
        let budget = Budget::new(limit);
        let mut held = std::collections::VecDeque::new();
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let raw = 1usize << random(22);
            let raw = raw + random(raw as u64) as usize;
            let stored = random(raw as u64 + 1) as usize;
            let room = budget.take(need(raw, stored), || held.pop_front().is_some());
            assert!(room.raw.capacity() >= raw && room.stored.capacity() >= stored);
            held.push_back(room.into_buffer());
            if random(3) == 0 {
                held.remove(random(held.len() as u64) as usize);
            }
            let live: usize = held.iter().map(|buffer: &Buffer| buffer.bytes.capacity() + ENTRY).sum();
            let spare: usize = budget.state.lock().spare.iter().map(Vec::capacity).sum();
            assert!(live + spare <= limit, "{live} bytes in use and {spare} spare, of {limit}");
            assert_eq!(budget.used(), live + spare);
        }
        assert!(held.len() > 2);
        drop(held);
        let state = budget.state.lock();
        assert_eq!((state.live, state.used), (0, state.spare.iter().map(Vec::capacity).sum()));
    }

    #[test]
    fn buffers_are_used_again_for_what_is_of_their_size() {
        let budget = Budget::new(1 << 20);
        let room = budget.try_take(need(200_000, 100_000)).unwrap();
        let (raw, stored) = (room.raw.as_ptr(), room.stored.as_ptr());
        drop(room.into_buffer());
        let room = budget.try_take(need(190_000, 90_000)).unwrap();
        assert_eq!((room.raw.as_ptr(), room.stored.as_ptr()), (raw, stored));
        assert_eq!(budget.used(), 300_000 + ENTRY);
        drop(room);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn who_waits_is_woken_when_room_is_made() {
        let budget = Budget::new(1000);
        let held = budget.try_take(need(500, 0)).unwrap().into_buffer();
        let (done, has_done) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| done.send(budget.take(need(400, 0), || false).raw.len()));
            // The other thread may or may not be waiting by now.
            drop(held);
            assert_eq!(has_done.recv_timeout(Duration::from_secs(60)), Ok(400));
        });
    }

    #[test]
    fn a_change_between_looking_for_room_and_waiting_is_not_missed() {
        let budget = Budget::new(1000);
        let mut held = Some(budget.try_take(need(500, 0)).unwrap().into_buffer());
        let mut looks = 0;
        let room = budget.take(need(400, 0), || {
            looks += 1;
            if looks == 1 {
                // There is nothing to evict. At this moment another thread's inflation lands, and can be evicted.
                budget.wake();
                return false;
            }
            held.take().is_some()
        });
        assert_eq!((looks, room.raw.len()), (2, 400));
        assert_eq!(budget.state.lock().waits, 0, "it slept though something had changed since it looked");
    }

    #[test]
    fn who_does_not_wait_takes_nothing_from_those_who_do() {
        let budget = Budget::new(2000);
        let held = budget.try_take(need(500, 0)).unwrap().into_buffer();
        budget.state.lock().waiting = 1;
        assert!(budget.try_take(need(1, 0)).is_none());
        budget.state.lock().waiting = 0;
        assert!(budget.try_take(need(1, 0)).is_some());
        drop(held);
    }
}
