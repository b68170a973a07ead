//! The options of a freeze, and its reports.

use crate::format::ids::InodeId;
use crate::freeze::Priority;

/// When the freezer's thread freezes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freezing {
    /// By itself: when there is enough to freeze, or nobody writes.
    #[default]
    Auto,
    /// When somebody asks, or when the log takes too much space.
    Off,
    /// As soon as anything is thawed, also in open files, and even if it does not fill a superchunk. For tests.
    Eager,
}

/// What to freeze, and how.
#[derive(Clone, Copy)]
pub struct FreezeHow<'a> {
    /// Everything: also files that are open, and what does not fill a superchunk.
    pub everything: bool,
    /// Also files that are open for writing, and those without a name: the log has to be emptied.
    pub open_files: bool,
    /// The level of zstd; if absent, the image's own.
    pub level: Option<i32>,
    /// If `level` is absent: the highest level at which the log stays within its budget, at most the image's own.
    pub by_rate: bool,
    /// Contents that were made by changes are cut again, too.
    pub deep: bool,
    /// The priority of the compressors.
    pub priority: Priority,
    /// Whether to end. Called often, without any lock held.
    pub stop: &'a dyn Fn() -> bool,
    /// Called with each file when all of its written bytes have left the log.
    pub frozen: &'a dyn Fn(InodeId),
}

impl Default for FreezeHow<'_> {
    fn default() -> Self {
        FreezeHow {
            everything: false,
            open_files: false,
            level: None,
            by_rate: false,
            deep: false,
            priority: Priority::Normal,
            stop: &|| false,
            frozen: &|_| (),
        }
    }
}

impl FreezeHow<'_> {
    /// Everything, at the image's level, to the end.
    pub fn everything() -> Self {
        FreezeHow { everything: true, ..FreezeHow::default() }
    }
}

/// What a freeze did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreezeReport {
    /// Files of which something left the log.
    pub files: u64,
    /// Bytes that were thawed when the freeze began.
    pub bytes: u64,
    /// Bytes that left the log.
    pub frozen_bytes: u64,
    /// Bytes of new subchunks.
    pub new_bytes: u64,
    /// Bytes that they take in the image.
    pub stored_bytes: u64,
    /// Bytes that the image already had.
    pub shared_bytes: u64,
    /// Superchunks appended.
    pub superchunks: u64,
    /// Files that had changed, so that nothing of what was cut could be spliced.
    pub dropped: u64,
    /// Files that cannot be frozen: their bytes cannot be read.
    pub failed: u64,
    /// Bytes that are in the log now.
    pub left_bytes: u64,
}

impl FreezeReport {
    /// The sum with the report of a later freeze.
    pub fn and(&self, after: &FreezeReport) -> Self {
        self.each(after, u64::saturating_add)
    }

    /// The difference to a later sum, `all`.
    pub fn until(&self, all: &FreezeReport) -> Self {
        self.each(all, |before, after| after.saturating_sub(before))
    }

    /// What is left and what cannot be frozen are not sums: they are taken from the later report.
    fn each(&self, later: &FreezeReport, sum: impl Fn(u64, u64) -> u64) -> Self {
        FreezeReport {
            files: sum(self.files, later.files),
            bytes: sum(self.bytes, later.bytes),
            frozen_bytes: sum(self.frozen_bytes, later.frozen_bytes),
            new_bytes: sum(self.new_bytes, later.new_bytes),
            stored_bytes: sum(self.stored_bytes, later.stored_bytes),
            shared_bytes: sum(self.shared_bytes, later.shared_bytes),
            superchunks: sum(self.superchunks, later.superchunks),
            dropped: sum(self.dropped, later.dropped),
            failed: later.failed,
            left_bytes: later.left_bytes,
        }
    }
}

/// How far a freeze has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreezeProgress {
    /// Bytes that have left the log, or are cut and about to leave it.
    pub done_bytes: u64,
    /// Bytes that were in the log when the freeze began.
    pub total_bytes: u64,
    /// Bytes that the new superchunks take.
    pub stored_bytes: u64,
}

/// The state of the freezer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FreezerStatus {
    /// Whether it is freezing.
    pub running: bool,
    /// When it freezes.
    pub freezing: Freezing,
    /// The last ticket that was given out.
    pub ticket: u64,
    /// Requests with tickets up to this one are done, or have failed.
    pub ticket_done: u64,
    /// The result of the last freeze that somebody asked for.
    pub last: Option<FreezeReport>,
    /// The sum of all freezes of this mount, including those that it began by itself.
    pub all: FreezeReport,
    /// Why the last freeze failed, if it did.
    pub error: Option<String>,
    /// Bytes in the log.
    pub queue_bytes: u64,
    /// Files that have bytes in the log.
    pub queue_files: u64,
    /// Files that cannot be frozen.
    pub failed_files: u64,
    /// The level of the last batch; `None` before the first.
    pub level: Option<i32>,
    /// Bytes a second that it freezes at this level; 0 if unknown.
    pub rate: u64,
    /// Progress of the present freeze, or of the last one.
    pub progress: FreezeProgress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_since_is_the_difference_of_sums() {
        let one =
            FreezeReport { files: 1, bytes: 9, frozen_bytes: 7, left_bytes: 2, failed: 1, ..FreezeReport::default() };
        let two = FreezeReport { files: 3, bytes: 4, frozen_bytes: 4, shared_bytes: 5, ..FreezeReport::default() };
        let all = one.and(&two);
        assert_eq!((all.files, all.frozen_bytes, all.left_bytes, all.failed), (4, 11, 0, 0));
        assert_eq!(one.until(&all), two);
    }
}
