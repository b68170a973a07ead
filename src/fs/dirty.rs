//! Which files have bytes in the thaw log, and which of them may be frozen.
//!
//! Invariants: a file is in this set exactly as long as some of its thawed ranges are in the log (lost ranges do not
//! count), with the number of bytes in these. `ready` is the sum over the files that nobody has open for writing and
//! that are not held. Pure: time is handed in. Called by `state`, in the step that changes the ranges.

use crate::format::ids::InodeId;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Time without writes after which a file that is open for writing may be frozen.
pub(super) const UNWRITTEN: Duration = Duration::from_secs(30);
/// Number of times in a row that a file changes during its freeze, so that nothing of it can be spliced, after which it
/// has to wait.
// Case 28.
const DROPS: u32 = 2;
/// Time that a file has to wait if it changed during its freeze several times in a row.
const WAIT_AFTER_DROPS: Duration = Duration::from_secs(60);
/// Time to wait after any other failure to freeze a file, such as a frame that does not verify.
const WAIT_AFTER_FAILURE: Duration = Duration::from_secs(600);

/// A file with bytes in the thaw log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirty {
    /// Bytes of the file in the thaw log.
    pub(super) bytes: u64,
    /// Time of the last write to the file.
    pub(super) written: Instant,
    /// Whether somebody has the file open for writing.
    writing: bool,
    /// Number of times in a row that nothing of the file could be spliced.
    drops: u32,
    /// Time until which the file is not frozen.
    hold: Option<Instant>,
    /// Whether the file has to wait because it could not be frozen.
    failed: bool,
}

impl Dirty {
    /// Returns how many bytes of the file count as ready to be frozen: none while it is open for writing, or has to
    /// wait after a failure.
    fn weight(&self) -> u64 {
        if self.writing || self.hold.is_some() { 0 } else { self.bytes }
    }

    /// Returns whether the file may be frozen without anybody asking.
    pub(super) fn is_eligible(&self, now: Instant) -> bool {
        let quiet = !self.writing || now.saturating_duration_since(self.written) >= UNWRITTEN;
        quiet && self.hold.is_none_or(|until| until <= now)
    }

    /// Returns whether the file has to wait until it is frozen: it changed during its freeze again and again, or cannot
    /// be frozen.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.hold.is_some_and(|until| until > now)
    }

    /// Returns whether somebody has the file open for writing.
    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }
}

/// All files with bytes in the thaw log. A clone is cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct DirtyFiles {
    files: imbl::OrdMap<InodeId, Dirty>,
    held: BTreeSet<InodeId>,
    bytes: u64,
    ready: u64,
    /// Time of the last write to any file.
    written: Option<Instant>,
}

impl DirtyFiles {
    /// Makes the list from files that nobody has open, each with the number of its bytes in the thaw log.
    pub(super) fn found(files: impl IntoIterator<Item = (InodeId, u64)>, now: Instant) -> Self {
        let mut dirty = DirtyFiles::default();
        files.into_iter().for_each(|(inode, bytes)| dirty.change(inode, i128::from(bytes), true, false, now));
        dirty
    }

    /// Changes the number of bytes that a file has in the thaw log. `wrote`: something was written to it. `writing`:
    /// somebody has it open for writing.
    pub(super) fn change(&mut self, inode: InodeId, by: i128, wrote: bool, writing: bool, now: Instant) {
        if wrote {
            self.written = Some(now);
        }
        let new = Dirty { bytes: 0, written: now, writing, drops: 0, hold: None, failed: false };
        let mut file = self.files.get(&inode).copied().unwrap_or(new);
        let sum = i128::from(file.bytes).saturating_add(by).clamp(0, i128::from(u64::MAX));
        file.bytes = u64::try_from(sum).unwrap_or(u64::MAX);
        if wrote {
            file.written = now;
        }
        self.put(inode, file);
    }

    /// Records whether somebody has the file open for writing.
    pub(super) fn set_writing(&mut self, inode: InodeId, writing: bool) {
        if let Some(mut file) = self.files.get(&inode).copied().filter(|file| file.writing != writing) {
            file.writing = writing;
            self.put(inode, file);
        }
    }

    /// Records that nothing of a file that was cut could be spliced, because it had changed. After [`DROPS`] times in a
    /// row the file has to wait.
    pub(super) fn dropped(&mut self, inode: InodeId, now: Instant) {
        if let Some(mut file) = self.files.get(&inode).copied() {
            file.drops = file.drops.saturating_add(1);
            if file.drops >= DROPS {
                (file.drops, file.hold) = (0, now.checked_add(WAIT_AFTER_DROPS));
            }
            self.put(inode, file);
        }
    }

    /// Records that something of the file was spliced. Earlier failures no longer count.
    pub(super) fn spliced(&mut self, inode: InodeId) {
        if let Some(mut file) = self.files.get(&inode).copied().filter(|file| file.drops > 0 || file.hold.is_some()) {
            (file.drops, file.hold, file.failed) = (0, None, false);
            self.put(inode, file);
        }
    }

    /// Records that the file cannot be frozen. Returns false if that was known already.
    pub(super) fn hold(&mut self, inode: InodeId, now: Instant) -> bool {
        let Some(mut file) = self.files.get(&inode).copied() else { return false };
        let is_news = !std::mem::replace(&mut file.failed, true);
        file.hold = now.checked_add(WAIT_AFTER_FAILURE);
        self.put(inode, file);
        is_news
    }

    /// Lets files be frozen again that have waited long enough after a failure.
    pub(super) fn expire(&mut self, now: Instant) {
        let due: Vec<_> = (self.held.iter())
            .filter(|inode| self.files.get(*inode).is_none_or(|file| file.hold.is_none_or(|until| until <= now)))
            .copied()
            .collect();
        for inode in due {
            if let Some(mut file) = self.files.get(&inode).copied() {
                file.hold = None;
                self.put(inode, file);
            }
        }
    }

    fn put(&mut self, inode: InodeId, file: Dirty) {
        if let Some(old) = self.files.get(&inode) {
            self.bytes = self.bytes.saturating_sub(old.bytes);
            self.ready = self.ready.saturating_sub(old.weight());
        }
        if file.bytes > 0 && file.hold.is_some() {
            self.held.insert(inode);
        } else {
            self.held.remove(&inode);
        }
        if file.bytes == 0 {
            self.files.remove(&inode);
            return;
        }
        self.bytes = self.bytes.saturating_add(file.bytes);
        self.ready = self.ready.saturating_add(file.weight());
        self.files.insert(inode, file);
    }

    /// Returns a file, if it has bytes in the thaw log.
    #[cfg(test)]
    pub(super) fn get(&self, inode: InodeId) -> Option<&Dirty> {
        self.files.get(&inode)
    }

    /// Iterates over all files in the order of their inode numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (InodeId, &Dirty)> {
        self.files.iter().map(|(inode, file)| (*inode, file))
    }

    /// Iterates over the files from one inode number on, in order.
    pub(super) fn iter_from(&self, from: InodeId) -> impl Iterator<Item = (InodeId, &Dirty)> {
        self.files.range(from..).map(|(inode, file)| (*inode, file))
    }

    /// Returns the number of files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns the bytes that all files have in the thaw log.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes of the files that may be frozen: nobody has them open for writing, and they do not wait after
    /// a failure.
    pub(super) fn ready(&self) -> u64 {
        self.ready
    }

    /// Returns the number of files that cannot be frozen.
    pub(super) fn failed(&self) -> usize {
        self.held.iter().filter(|inode| self.files.get(*inode).is_some_and(|file| file.failed)).count()
    }

    /// Returns whether there is a file with bytes in the thaw log that does not have to wait after a failure.
    pub(super) fn has_more_than_held(&self) -> bool {
        self.files.len() > self.held.len()
    }

    /// Returns the time of the last write to any file.
    pub(super) fn written(&self) -> Option<Instant> {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: InodeId = InodeId(3);
    const B: InodeId = InodeId(9);

    #[test]
    fn what_is_ready_is_closed_and_not_held() {
        let now = Instant::now();
        let mut dirty = DirtyFiles::found([(A, 10), (B, 5)], now);
        assert_eq!((dirty.bytes(), dirty.ready(), dirty.len()), (15, 15, 2));
        dirty.set_writing(A, true);
        assert_eq!((dirty.bytes(), dirty.ready()), (15, 5));
        let eligible = |dirty: &DirtyFiles, after| dirty.get(A).unwrap().is_eligible(now + after);
        assert!(!eligible(&dirty, UNWRITTEN - Duration::from_nanos(1)) && eligible(&dirty, UNWRITTEN));
        dirty.change(A, 7, true, true, now + Duration::from_secs(20));
        assert!(!eligible(&dirty, UNWRITTEN));
        dirty.set_writing(A, false);
        assert!(eligible(&dirty, Duration::ZERO));
        assert!(dirty.hold(B, now) && !dirty.hold(B, now));
        assert_eq!((dirty.bytes(), dirty.ready(), dirty.failed()), (22, 17, 1));
        dirty.expire(now + WAIT_AFTER_FAILURE);
        assert_eq!((dirty.ready(), dirty.failed()), (22, 0));
        dirty.change(A, -17, false, false, now);
        dirty.change(B, -5, false, false, now);
        assert_eq!((dirty.bytes(), dirty.ready(), dirty.len()), (0, 0, 0));
    }

    // Case 28.
    #[test]
    fn a_file_that_was_dropped_twice_waits_a_minute() {
        let now = Instant::now();
        let mut dirty = DirtyFiles::found([(A, 10)], now);
        let eligible = |dirty: &DirtyFiles, after| dirty.get(A).unwrap().is_eligible(now + after);
        dirty.dropped(A, now);
        dirty.spliced(A);
        dirty.dropped(A, now);
        assert!(eligible(&dirty, Duration::ZERO) && dirty.ready() == 10);
        dirty.dropped(A, now);
        let minute = Duration::from_secs(60);
        assert!(!eligible(&dirty, minute - Duration::from_nanos(1)) && eligible(&dirty, minute));
        assert_eq!(dirty.ready(), 0);
        // Writing to it does not shorten the wait.
        dirty.change(A, 1, true, false, now);
        assert_eq!(dirty.ready(), 0);
        dirty.expire(now + minute);
        assert_eq!(dirty.ready(), 11);
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_count(
            steps in prop::collection::vec((1u64..5, 0u8..6, 0u64..50), 0..60),
        ) {
            let now = Instant::now();
            let mut dirty = DirtyFiles::default();
            for (step, (inode, what, bytes)) in steps.into_iter().enumerate() {
                let (inode, now) = (InodeId(inode), now + Duration::from_secs(step as u64 * 20));
                match what {
                    0 => dirty.change(inode, bytes.into(), true, false, now),
                    1 => dirty.change(inode, -i128::from(bytes), false, false, now),
                    2 => dirty.set_writing(inode, bytes % 2 == 0),
                    3 => dirty.dropped(inode, now),
                    4 => drop(dirty.hold(inode, now)),
                    _ => dirty.expire(now),
                }
                prop_assert_eq!(dirty.bytes(), dirty.iter().map(|(_, file)| file.bytes).sum::<u64>());
                prop_assert_eq!(dirty.ready(), dirty.iter().map(|(_, file)| file.weight()).sum::<u64>());
                let held: Vec<_> = dirty.iter().filter(|(_, file)| file.hold.is_some()).map(|(inode, _)| inode).collect();
                prop_assert!(dirty.held.iter().copied().eq(held));
                prop_assert!(dirty.iter().all(|(_, file)| file.bytes > 0));
            }
        }
    }
}
