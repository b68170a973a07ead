//! What a freeze is asked for, and what it says of itself.

use crate::format::ids::InodeId;
use crate::freeze::Priority;

/// When the freezer's thread begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freezing {
    /// By itself, when there is enough to freeze, or nobody writes.
    #[default]
    Auto,
    /// When somebody asks, or the log takes too much space.
    Off,
    /// As soon as anything is thawed, in files that are open too; what fills no superchunk is frozen all the same. For tests.
    Eager,
}

/// What to freeze, and how.
#[derive(Clone, Copy)]
pub struct FreezeHow<'a> {
    /// Everything: files that are open too, and what does not fill a superchunk.
    pub everything: bool,
    /// Files that are open for writing, and those without a name, too: the log has to go.
    pub open_files: bool,
    /// The level of zstd; the image's own, if it is not given.
    pub level: Option<i32>,
    /// Where it is not given: as high as it can be for the log to stay within its budget, and no higher than the image's own.
    pub by_rate: bool,
    /// Contents that came about by changes are cut anew, too.
    pub deep: bool,
    /// What compressors leave to others.
    pub priority: Priority,
    /// Whether to end: asked often, without any lock.
    pub stop: &'a dyn Fn() -> bool,
    /// Is told of each file of which all that was written has left the log.
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
    /// Bytes that were looked at: thawed when the freeze began.
    pub bytes: u64,
    /// Bytes that left the log.
    pub frozen_bytes: u64,
    /// Bytes of new subchunks.
    pub new_bytes: u64,
    /// Bytes that they take in the image.
    pub stored_bytes: u64,
    /// Bytes that were there already.
    pub shared_bytes: u64,
    /// Superchunks appended.
    pub superchunks: u64,
    /// Files that changed so that nothing of what was cut could be spliced.
    pub dropped: u64,
    /// Files that cannot be frozen: their bytes cannot be read.
    pub failed: u64,
    /// Bytes that are in the log now.
    pub left_bytes: u64,
}

impl FreezeReport {
    /// With what another freeze did afterwards.
    pub fn and(&self, after: &FreezeReport) -> Self {
        self.each(after, u64::saturating_add)
    }

    /// What was done from here until `all` was done.
    pub fn until(&self, all: &FreezeReport) -> Self {
        self.each(all, |before, after| after.saturating_sub(before))
    }

    /// What is left, and what cannot be frozen, is not a sum: it is what the later one says.
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

/// How far a freeze is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreezeProgress {
    /// Bytes that left the log, or are cut and about to.
    pub done_bytes: u64,
    /// Bytes there were in it when the freeze began.
    pub total_bytes: u64,
    /// Bytes that the new superchunks take.
    pub stored_bytes: u64,
}

/// How the freezer is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FreezerStatus {
    /// It is freezing.
    pub running: bool,
    /// When it begins.
    pub freezing: Freezing,
    /// The last ticket that was given out.
    pub ticket: u64,
    /// What tickets up to this one asked for is done, or has failed.
    pub ticket_done: u64,
    /// What the last freeze that somebody asked for did.
    pub last: Option<FreezeReport>,
    /// What all freezes of this mount did together, those that it began by itself too.
    pub all: FreezeReport,
    /// Why the last freeze failed, if it did.
    pub error: Option<String>,
    /// Bytes in the log.
    pub queue_bytes: u64,
    /// Files that have them.
    pub queue_files: u64,
    /// Files that cannot be frozen.
    pub failed_files: u64,
    /// The level of the last batch; `None` before the first.
    pub level: Option<i32>,
    /// Bytes a second that it takes in at this level; 0 if it is not known.
    pub rate: u64,
    /// Of the freeze at work, or of the last.
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
