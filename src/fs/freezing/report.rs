//! What a freeze is asked for, and what it says of itself.

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
    /// The level of zstd; the image's own, if it is not given.
    pub level: Option<i32>,
    /// Contents that came about by changes are cut anew, too.
    pub deep: bool,
    /// Compressors run only when nobody else wants the processor.
    pub at_idle_priority: bool,
    /// Whether to end: asked often, without any lock.
    pub stop: &'a dyn Fn() -> bool,
}

impl Default for FreezeHow<'_> {
    fn default() -> Self {
        FreezeHow { everything: false, level: None, deep: false, at_idle_priority: false, stop: &|| false }
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

/// How far a freeze is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreezeProgress {
    /// Bytes that left the log.
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
    /// Why the last freeze failed, if it did.
    pub error: Option<String>,
    /// Bytes in the log.
    pub queue_bytes: u64,
    /// Files that have them.
    pub queue_files: u64,
    /// Files that cannot be frozen.
    pub failed_files: u64,
    /// The level at work, if it is not the image's own.
    pub level: Option<i32>,
    /// Thawed bytes frozen a second, of the last freeze; 0 if it is not known.
    pub rate: u64,
    /// Of the freeze at work, or of the last.
    pub progress: FreezeProgress,
}
