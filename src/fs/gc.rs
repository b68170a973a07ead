//! gc of an image that nobody has mounted: first the rows of dead superchunks are deleted, then their bytes.
//!
//! The order: mark; delete the rows of superchunks that are wholly dead, in checkpoints; both head slots name the root
//! without them, durably; keep readers out; punch. Nothing is punched that a root of either slot leads to. A crash
//! between any two steps leaves an image that lacks nothing: at worst, rows of dead superchunks remain, or dead frames
//! that are not punched yet, and the next gc finds them. An image is refused if its thaw log has changes that it lacks:
//! rows of the log may name what the image's rows do not. No thaw log is begun. Called by cli.

use super::FsError;
use super::begin::{open_log, raise_epoch};
use super::start::{Found, FoundLog, StartError, look, older};
use crate::format::ids::{LogOffset, SuperchunkId};
use crate::format::place::Place;
use crate::format::rows::Time;
use crate::format::transaction::Counters;
use crate::log::LogWriter;
use crate::meta::{
    Census, CheckpointError, CheckpointInput, DeadFrame, Heads, Image, ImageOptions, MarkError, MetaError, Overlay,
    ThawMark, View, dead_frames, deletions, mark, punch, rounds, tally, write_checkpoint,
};
use crate::storage::{HeadIndex, LockError, LogHome, Storage, StorageError};
use std::any::Any;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;
use thiserror::Error;

/// A guard: as long as it exists, no other process reads the image, and no reader can begin.
pub type NoReaders = Box<dyn Any>;

/// Number of subchunks whose rows are deleted at once. With the shortest possible rows, their tombstones take 256 MiB;
/// with typical rows, 3 MiB.
const ROUND: u64 = 1 << 20;
/// Most times that marking is repeated, because gc's own checkpoints leave dead blocks. The second pass changes only
/// the map. The map's own blocks have no rows in it, so no third pass finds more.
const PASSES: usize = 3;

/// Why gc freed nothing, or not everything.
#[derive(Debug, Error)]
pub enum GcError {
    /// The image cannot be written to.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A table cannot be read, so it is unknown what is live.
    #[error("cannot find out which bytes of the image are in use, so nothing is freed: {0}")]
    Unknown(#[source] MetaError),
    /// The map lacks subchunks that files or tables need.
    #[error(
        "the image is damaged: its map lacks {subchunks} subchunks that files or tables need, so nothing is freed \
         ('floe check' says more)"
    )]
    Damaged {
        /// Number of subchunks that the map lacks.
        subchunks: u64,
    },
    /// Some changes are only in the thaw log.
    #[error("some changes are only in the thaw log ({place}): freeze the image first ('floe freeze')")]
    ThawLog {
        /// Path of the thaw log.
        place: String,
    },
    /// Readers could not be kept out. Rows may be deleted already; the next gc frees what they named.
    #[error(transparent)]
    Readers(#[from] LockError),
    /// The filesystem refuses changes, or has no space for this one.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A snapshot is being made, and it is not known yet what it needs.
    #[error("space cannot be freed now: a snapshot is being made (try again later)")]
    Snapshot,
    /// Earlier requests are still running. The next gc frees what has no rows any more.
    #[error("space cannot be freed now: requests that may read dead bytes are still running (try again later)")]
    Busy,
    /// Holes could not be punched, so space could not be returned to the file system. The image lacks nothing.
    #[error("cannot return the space of dead bytes to the file system of the image: {0}")]
    Punch(#[source] StorageError),
    /// The caller asked to stop. The image lacks nothing.
    #[error("freeing space was interrupted: the next gc continues")]
    Stopped,
}

impl From<MarkError> for GcError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Meta(error) => GcError::Unknown(error),
            MarkError::Stopped => GcError::Stopped,
        }
    }
}

impl From<MetaError> for GcError {
    fn from(error: MetaError) -> Self {
        GcError::Unknown(error)
    }
}

/// Options for freeing space.
pub struct GcHow<'a> {
    /// Whether to write nothing and only report what would be freed.
    pub dry_run: bool,
    /// The present time.
    pub time: Time,
    /// Keeps readers of other processes out, and waits for those that exist; or fails.
    pub no_readers: &'a dyn Fn() -> Result<NoReaders, LockError>,
    /// Returns whether gc is to end early. Called regularly.
    pub stop: &'a dyn Fn() -> bool,
}

/// Result of gc: what was freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Number of dead superchunks and table groups whose rows were deleted.
    pub superchunks: u64,
    /// Number of frames whose payloads were punched.
    pub frames: u64,
    /// Bytes of the payloads that were punched.
    pub freed_bytes: u64,
    /// Dead bytes that stay, in superchunks that are partly live.
    pub left_bytes: u64,
}

impl GcReport {
    pub(super) fn of(census: &Census) -> Self {
        let partly = census.superchunks.iter().filter(|tally| !tally.is_dead());
        let left_bytes = partly.fold(0u64, |sum, tally| sum.saturating_add(tally.bytes() - tally.live_bytes()));
        GcReport { superchunks: census.dead().count() as u64, left_bytes, ..GcReport::default() }
    }

    /// Counts frames that are being punched, except frames that were punched already.
    pub(super) fn count(&mut self, dead: &[DeadFrame]) {
        for frame in dead.iter().filter(|frame| !frame.is_punched) {
            self.frames += 1;
            self.freed_bytes = self.freed_bytes.saturating_add(frame.bytes());
        }
    }
}

/// Frees the space of everything in the image in `storage` that neither files nor snapshots need. The caller holds the
/// writer's lock.
///
/// # Errors
/// Fails with a [`GcError`]. In every case the image lacks nothing, and the call may be repeated.
pub fn gc_image(storage: &Arc<dyn Storage>, home: &Arc<dyn LogHome>, how: &GcHow<'_>) -> Result<GcReport, GcError> {
    let Found { heads, image, log, .. } = look(Arc::clone(storage), Arc::clone(home), ImageOptions::default())?;
    if let FoundLog::Resume(..) = log {
        return Err(GcError::ThawLog { place: home.describe() });
    }
    let newest = View::of(Arc::clone(&image));
    let mut census = take_census(&newest, how.stop)?;
    let mut report = GcReport::of(&census);
    if how.dry_run {
        let dead: HashSet<SuperchunkId> = census.dead().map(|tally| tally.id).collect();
        let views = slots(&heads, &newest)?;
        report.count(&dead_frames(&views, &roots(&heads), &|id| dead.contains(&id), how.stop)?);
        return Ok(report);
    }
    let mut work = Work { storage, heads, version: image, log: None, how };
    // If a slot names an older root or is damaged, frames of that root are in use until both slots name the newest one.
    // What a power cut left after a slot goes, too.
    let newest = work.heads.newest();
    let same = work.heads.slots().filter(|head| (head.root, head.root_hash) == (newest.root, newest.root_hash));
    if same.count() < HeadIndex::ALL.len() || work.heads.has_litter()? {
        work.begin()?;
    }
    // A checkpoint replaces table blocks. So table groups that were live before it may be dead after it.
    for _ in 0..PASSES {
        if census.dead().next().is_none() {
            break;
        }
        for round in rounds(&census, ROUND) {
            work.delete(&census, &round, &mut report)?;
        }
        census = take_census(&View::of(Arc::clone(&work.version)), how.stop)?;
        report.superchunks = report.superchunks.saturating_add(census.dead().count() as u64);
    }
    work.punch(&mut report)?;
    Ok(report)
}

fn is_full(error: &CheckpointError) -> bool {
    !error.is_final() && matches!(error.storage_kind(), Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// Finds what is live in a view, and counts the live bytes of each superchunk in its map.
pub(super) fn take_census(view: &View, stop: &dyn Fn() -> bool) -> Result<Census, GcError> {
    let census = tally(view, mark(std::slice::from_ref(view), stop)?, stop)?;
    match census.unknown {
        0 => Ok(census),
        subchunks => Err(GcError::Damaged { subchunks }),
    }
}

/// Returns the view `newest`, and views of the versions that the head slots name, if these are others. A version with a
/// damaged root is left out: nothing can be read through it.
fn slots(heads: &Heads, newest: &View) -> Result<Vec<View>, GcError> {
    let mut views = vec![newest.clone()];
    let version = newest.version();
    for head in heads.slots() {
        if (head.root, head.root_hash) != (version.head().root, version.head().root_hash)
            && let Some(version) = older(version, head)?
        {
            views.push(View::of(Arc::new(version)));
        }
    }
    Ok(views)
}

/// Returns the places of the roots that the head slots name.
pub(super) fn roots(heads: &Heads) -> Vec<Place> {
    heads.slots().map(|head| head.root).collect()
}

struct Work<'a> {
    storage: &'a Arc<dyn Storage>,
    heads: Heads,
    version: Arc<Image>,
    /// Writer of the image's log, once something has been written.
    log: Option<LogWriter>,
    how: &'a GcHow<'a>,
}

impl Work<'_> {
    /// Prepares the first write: both slots name the newest root, have a new epoch, and are clean.
    fn begin(&mut self) -> Result<(), StartError> {
        if self.log.is_none() {
            let epoch = raise_epoch(&mut self.heads, None)?;
            self.log = Some(open_log(self.storage, self.heads.newest(), epoch, 0)?);
        }
        Ok(())
    }

    /// Writes a checkpoint with these changes, so that both head slots name it.
    fn publish(&mut self, changes: &Overlay) -> Result<(), StartError> {
        self.begin()?;
        let Some(log) = &mut self.log else { return Ok(()) };
        let root = self.version.root();
        let input = CheckpointInput {
            version: &self.version,
            changes,
            counters: Counters::of(root),
            inodes: root.view.inodes,
            bytes: root.view.bytes,
            shared: 0,
            time: self.how.time,
            // It contains as much of the thaw log as the root before. So a log that was not removed yet is known to be
            // contained.
            thaw: ThawMark { log_id: root.thaw_log_id, transaction: root.thaw_transaction, offset: root.thaw_offset },
            snapshot: None,
        };
        let written = write_checkpoint(log, input)?;
        self.heads.publish(|head| {
            head.root = written.place;
            head.root_hash = written.root_hash;
            head.log_end = LogOffset(written.log_end);
        })?;
        self.version = Arc::new(self.version.successor(self.heads.newest().clone(), written.root)?);
        Ok(())
    }

    /// Deletes the rows of dead superchunks.
    fn delete(&mut self, census: &Census, round: &HashSet<SuperchunkId>, report: &mut GcReport) -> Result<(), GcError> {
        let changes = deletions(&View::of(Arc::clone(&self.version)), census, round, self.how.stop)?;
        match self.publish(&changes) {
            // Punching what is dead and has no rows any more makes room for a checkpoint.
            Err(StartError::Checkpoint(error)) if is_full(&error) => {
                self.punch(report)?;
                Ok(self.publish(&changes)?)
            }
            done => Ok(done?),
        }
    }

    /// Punches the frames that neither slot's root leads to.
    fn punch(&self, report: &mut GcReport) -> Result<(), GcError> {
        let view = View::of(Arc::clone(&self.version));
        let dead = dead_frames(&[view], &roots(&self.heads), &|_| false, self.how.stop)?;
        if dead.iter().all(|frame| frame.is_punched) {
            return Ok(());
        }
        //= format-spec.md#2.3
        //# A frame must be punched only if the durable roots of both head slots do not lead to it, and while byte 1 is
        //# locked exclusively (16).
        let _no_readers = (self.how.no_readers)()?;
        punch(&**self.storage, &dead).map_err(GcError::Punch)?;
        report.count(&dead);
        Ok(())
    }
}
