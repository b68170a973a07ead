//! Bytes of memory that inflated superchunks may take, and the buffers they live in.
//!
//! Every live buffer is counted from before it is allocated until it is dropped. Whoever needs room waits until some is
//! given back, except that one buffer is always granted when none is live: so a budget below one superchunk still makes
//! progress.

use parking_lot::{Condvar, Mutex};
use std::ops::Deref;
use std::sync::Arc;

/// Buffers kept for the next inflation instead of being given back to the allocator, which would clear their pages.
const SPARE_BUFFERS: usize = 2;

/// A budget of bytes.
pub(super) struct Budget {
    limit: usize,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    used: usize,
    spare: Vec<Vec<u8>>,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let state = Mutex::new(State { used: 0, spare: Vec::new() });
        Arc::new(Budget { limit, state, returned: Condvar::new() })
    }

    /// A buffer of `bytes`; while there is no room `make_room` is asked to free some, then waited.
    pub(super) fn take(self: &Arc<Self>, bytes: usize, mut make_room: impl FnMut()) -> Buffer {
        loop {
            if let Some(buffer) = self.try_take(bytes) {
                return buffer;
            }
            make_room();
            let mut state = self.state.lock();
            if !self.fits(&state, bytes) {
                self.returned.wait_for(&mut state, std::time::Duration::from_millis(100));
            }
        }
    }

    /// A buffer of `bytes` if there is room now.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Buffer> {
        let mut state = self.state.lock();
        if !self.fits(&state, bytes) {
            return None;
        }
        state.used += bytes;
        let bytes_of = state.spare.pop().unwrap_or_default();
        Some(Buffer { bytes: bytes_of, counted: bytes, budget: self.clone() })
    }

    fn fits(&self, state: &State, bytes: usize) -> bool {
        state.used == 0 || state.used + bytes <= self.limit
    }

    /// Lets those who wait look again: something has become evictable.
    pub(super) fn wake(&self) {
        self.returned.notify_all();
    }

    /// Bytes in live buffers.
    pub(super) fn used(&self) -> usize {
        self.state.lock().used
    }
}

/// A counted buffer.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    counted: usize,
    budget: Arc<Budget>,
}

impl Buffer {
    /// The vector to fill; it is counted with the bytes the buffer was taken for.
    pub(super) fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self.budget.state.lock();
        state.used -= self.counted;
        let mut bytes = std::mem::take(&mut self.bytes);
        if state.spare.len() < SPARE_BUFFERS {
            bytes.clear();
            state.spare.push(bytes);
        }
        drop(state);
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_too_small_for_one_buffer_still_grants_one_at_a_time() {
        let budget = Budget::new(10);
        let first = budget.try_take(100).unwrap();
        assert!(budget.try_take(1).is_none());
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_take(1).is_some());
    }

    #[test]
    fn who_waits_is_woken_when_room_is_made() {
        let budget = Budget::new(10);
        let mut held = Some(budget.try_take(8).unwrap());
        let buffer = budget.take(5, || held = None);
        assert_eq!(buffer.len(), 0);
        assert_eq!(budget.used(), 5);
    }
}
