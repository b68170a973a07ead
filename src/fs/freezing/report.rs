//! The options of a freeze, and its reports.

use crate::format::ids::InodeId;
use crate::freeze::Priority;

/// When the freezer's thread begins to freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freezing {
    /// The freezer begins by itself: when there is enough to freeze, or when nobody writes.
    #[default]
    Auto,
    /// The freezer begins only when somebody asks, or when the thaw log takes too much space.
    Off,
    /// The freezer begins as soon as anything is thawed, also in open files, and even if it does not fill a superchunk.
    /// For tests.
    Eager,
}

/// What a freeze is to include, and how it is to work.
#[derive(Clone, Copy)]
pub struct FreezeHow<'a> {
    /// Whether to freeze everything: also files that are open, and what does not fill a superchunk.
    pub everything: bool,
    /// Whether to freeze also files that are open for writing and files without a name, because the thaw log has to be
    /// emptied.
    pub open_files: bool,
    /// Whether to freeze also what does not fill a superchunk.
    pub rest: bool,
    /// Level of zstd; if absent, the image's own.
    pub level: Option<i32>,
    /// If `level` is absent: whether to use the highest level at which the log stays within its budget, at most the
    /// image's own.
    pub by_rate: bool,
    /// Whether to cut contents that were made by changes again, to pack again what was packed fast, and to share equal
    /// contents, too.
    pub deep: bool,
    /// Priority of the compressors.
    pub priority: Priority,
    /// Returns whether to end the freeze. Called often, without any lock held.
    pub stop: &'a dyn Fn() -> bool,
    /// Called with each file when all of its written bytes have left the log.
    pub frozen: &'a dyn Fn(InodeId),
}

impl Default for FreezeHow<'_> {
    fn default() -> Self {
        FreezeHow {
            everything: false,
            open_files: false,
            rest: false,
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
    /// Returns how to freeze everything, at the image's level, to the end.
    pub fn everything() -> Self {
        FreezeHow { everything: true, ..FreezeHow::default() }
    }
}

/// Result of a freeze. Bytes are raw bytes if nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreezeReport {
    /// Number of files of which something left the log.
    pub files: u64,
    /// Bytes that were thawed when the freeze began.
    pub bytes: u64,
    /// Bytes that left the log.
    pub frozen_bytes: u64,
    /// Bytes of new subchunks.
    pub new_bytes: u64,
    /// Bytes that the new superchunks take in the image.
    pub stored_bytes: u64,
    /// Bytes that the image already had, so that they were not stored again.
    pub shared_bytes: u64,
    /// Number of superchunks appended.
    pub superchunks: u64,
    /// Number of superchunks that had been packed fast and were packed again. They do not count in `superchunks`.
    pub repacked: u64,
    /// Bytes by which the superchunks that were packed again have become smaller in the image.
    pub repacked_saved_bytes: u64,
    /// Number of files that had changed, so that nothing of what was cut could be spliced.
    pub dropped: u64,
    /// Number of files that cannot be frozen, because their bytes cannot be read.
    pub failed: u64,
    /// Bytes that are in the thaw log now.
    pub left_bytes: u64,
}

impl FreezeReport {
    /// Returns the sum with the report of a later freeze.
    pub fn and(&self, after: &FreezeReport) -> Self {
        self.each(after, u64::saturating_add)
    }

    /// Returns the difference to a later sum, `all`.
    pub fn until(&self, all: &FreezeReport) -> Self {
        self.each(all, |before, after| after.saturating_sub(before))
    }

    /// Combines each field with the same field of a later report, by `sum`. Two fields are no sums and are taken from
    /// the later report: the bytes that are left, and the number of files that cannot be frozen.
    fn each(&self, later: &FreezeReport, sum: impl Fn(u64, u64) -> u64) -> Self {
        FreezeReport {
            files: sum(self.files, later.files),
            bytes: sum(self.bytes, later.bytes),
            frozen_bytes: sum(self.frozen_bytes, later.frozen_bytes),
            new_bytes: sum(self.new_bytes, later.new_bytes),
            stored_bytes: sum(self.stored_bytes, later.stored_bytes),
            shared_bytes: sum(self.shared_bytes, later.shared_bytes),
            superchunks: sum(self.superchunks, later.superchunks),
            repacked: sum(self.repacked, later.repacked),
            repacked_saved_bytes: sum(self.repacked_saved_bytes, later.repacked_saved_bytes),
            dropped: sum(self.dropped, later.dropped),
            failed: later.failed,
            left_bytes: later.left_bytes,
        }
    }
}

/// Progress of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreezeProgress {
    /// Bytes that have left the log, or are cut and about to leave it.
    pub done_bytes: u64,
    /// Bytes that were in the log when the freeze began.
    pub total_bytes: u64,
    /// Bytes that the new superchunks take in the image.
    pub stored_bytes: u64,
}

/// The state of the freezer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FreezerStatus {
    /// Whether a freeze is running.
    pub running: bool,
    /// When the freezer begins to freeze.
    pub freezing: Freezing,
    /// Ticket (number) of the last request.
    pub ticket: u64,
    /// Requests with tickets up to this one are done, or have failed.
    pub ticket_done: u64,
    /// Report of the last freeze that somebody asked for.
    pub last: Option<FreezeReport>,
    /// Sum of the reports of all freezes of this mount, including those that it began by itself.
    pub all: FreezeReport,
    /// Why the last freeze failed, if it did.
    pub error: Option<String>,
    /// Bytes that files have in the thaw log, including files that cannot be frozen.
    pub queue_bytes: u64,
    /// Number of files that have bytes in the log.
    pub queue_files: u64,
    /// Number of files that cannot be frozen.
    pub failed_files: u64,
    /// Level of zstd of the last batch; 19 for one in xz; `None` before the first.
    pub level: Option<i32>,
    /// Raw bytes a second that the freezer compresses at this level; 0 if unknown.
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
