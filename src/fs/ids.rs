//! The next numbers to be given out. A number that an operation took and did not use is never given out again.

use crate::format::transaction::Counters;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of next free ids, from which any thread may take.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub(super) inode: AtomicU64,
    pub(super) content: AtomicU64,
    pub(super) tiny: AtomicU64,
    pub(super) xattrs: AtomicU64,
    /// Next ordinal of a snapshot, given out only under the image's lock.
    pub(super) ordinal: AtomicU64,
    /// Next subchunk id, given out only under the image's lock, in the order of the image's log.
    pub(super) subchunk: AtomicU64,
    /// Next superchunk id, given out only under the image's lock, in the order of the image's log.
    pub(super) superchunk: AtomicU64,
}

impl Ids {
    pub(super) fn new(counters: &Counters) -> Self {
        let ids = Ids::default();
        ids.raise(counters);
        ids
    }

    /// Raises each counter to at least its value in `counters`.
    pub(super) fn raise(&self, counters: &Counters) {
        for (counter, value) in [
            (&self.inode, counters.inode),
            (&self.content, counters.content),
            (&self.tiny, counters.tiny),
            (&self.xattrs, counters.xattrs),
            (&self.ordinal, counters.ordinal),
            (&self.subchunk, counters.subchunk),
            (&self.superchunk, counters.superchunk),
        ] {
            counter.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// Returns the present values. If they are read after an operation has made its changes, they are above all ids in
    /// these changes.
    pub(super) fn counters(&self) -> Counters {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            inode: now(&self.inode),
            content: now(&self.content),
            tiny: now(&self.tiny),
            xattrs: now(&self.xattrs),
            ordinal: now(&self.ordinal),
            subchunk: now(&self.subchunk),
            superchunk: now(&self.superchunk),
        }
    }
}

/// Returns the next number, if it is below `limit`.
pub(super) fn next(counter: &AtomicU64, limit: u64) -> Option<u64> {
    take(counter, 1, limit)
}

/// Returns the first of the next `count` numbers, if all are below `limit`.
pub(super) fn take(counter: &AtomicU64, count: u64, limit: u64) -> Option<u64> {
    // The limit is a valid value of a counter, so a counter never exceeds it.
    let more = |value: u64| value.checked_add(count).filter(|&next| next < limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_are_raised_and_end_at_their_limit() {
        let ids = Ids::new(&Counters { inode: 7, ..Counters::default() });
        assert_eq!(next(&ids.inode, 100), Some(7));
        ids.raise(&Counters { inode: 3, content: 9, ..Counters::default() });
        assert_eq!(ids.counters(), Counters { inode: 8, content: 9, ..Counters::default() });
        assert_eq!(next(&ids.inode, 9), None);
        assert_eq!(next(&ids.inode, 10), Some(8));
    }
}
