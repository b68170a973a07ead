//! gc of an image that nobody has mounted: dead superchunks lose their rows, and then their bytes.
//!
//! Order: mark; delete the rows of what is wholly dead, in checkpoints; both head slots name the root without them, durably;
//! keep readers out; punch. Nothing is punched that a root of either slot leads to, and a crash between any two steps leaves
//! an image that lacks nothing: at worst rows of dead superchunks, or dead frames that are not punched yet, which the next gc
//! finds. An image whose thaw log has something that it has not is refused: the log's rows may name what the image's rows do
//! not. No thaw log is begun. Called by cli.

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

/// While it lives, no reader begins, and there is none.
pub type NoReaders = Box<dyn Any>;

/// Subchunks whose rows are deleted at once. With the shortest rows there are, their tombstones take 256 MiB; with rows as
/// they are usually, 3.
const ROUND: u64 = 1 << 20;
/// How often it is marked anew what its own checkpoints left. The second changes nothing but the map, whose blocks have no
/// rows.
const PASSES: usize = 3;

/// Why nothing was freed, or not all.
#[derive(Debug, Error)]
pub enum GcError {
    /// The image cannot be written to.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It is not known what is live: a table cannot be read.
    #[error("it is not known what may be freed, so nothing is: {0}")]
    Unknown(#[source] MetaError),
    /// The map lacks subchunks that files or tables need.
    #[error(
        "the map lacks {subchunks} subchunks that files or tables need, so nothing is freed ('floe check' says more)"
    )]
    Damaged {
        /// How many.
        subchunks: u64,
    },
    /// Something is in the thaw log alone.
    #[error("changes are in the thaw log alone ({place}): freeze the image first ('floe freeze')")]
    ThawLog {
        /// Where it is.
        place: String,
    },
    /// Readers could not be kept out. Rows may be deleted already; what they named is freed the next time.
    #[error(transparent)]
    Readers(#[from] LockError),
    /// The filesystem refuses changes, or has no space for this one.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// What a snapshot in the making needs is not known before it is made.
    #[error("a snapshot is being made")]
    Snapshot,
    /// Requests from before are not answered yet. What has no rows any more is freed the next time.
    #[error("requests from before are not answered yet")]
    Busy,
    /// Space could not be given back. The image lacks nothing.
    #[error("space cannot be given back: {0}")]
    Punch(#[source] StorageError),
    /// The caller asked for it. The image lacks nothing.
    #[error("interrupted")]
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

/// How space is freed.
pub struct GcHow<'a> {
    /// Nothing is written: only what would be freed is said.
    pub dry_run: bool,
    /// When it is.
    pub time: Time,
    /// Keeps readers out, and waits for those that there are, or fails.
    pub no_readers: &'a dyn Fn() -> Result<NoReaders, LockError>,
    /// Asked now and then; it ends early if this is true.
    pub stop: &'a dyn Fn() -> bool,
}

/// What was freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Dead superchunks and table groups whose rows were deleted.
    pub superchunks: u64,
    /// Frames whose payloads were punched.
    pub frames: u64,
    /// Bytes of these payloads.
    pub freed_bytes: u64,
    /// Dead bytes that stay: of superchunks that are partly live.
    pub left_bytes: u64,
}

impl GcReport {
    pub(super) fn of(census: &Census) -> Self {
        let partly = census.superchunks.iter().filter(|tally| !tally.is_dead());
        let left_bytes = partly.fold(0u64, |sum, tally| sum.saturating_add(tally.bytes() - tally.live_bytes()));
        GcReport { superchunks: census.dead().count() as u64, left_bytes, ..GcReport::default() }
    }

    /// Counts frames that are punched, but for those that were before.
    pub(super) fn count(&mut self, dead: &[DeadFrame]) {
        for frame in dead.iter().filter(|frame| !frame.is_punched) {
            self.frames += 1;
            self.freed_bytes = self.freed_bytes.saturating_add(frame.bytes());
        }
    }
}

/// Frees what nothing of the image in `storage` needs any more. The caller has the writer's lock.
///
/// # Errors
/// See [`GcError`]. Whatever it is, the image lacks nothing, and it may be tried again.
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
    // Where a slot names an older root, or is damaged, that root's frames are in use until both name the newer one.
    let newest = work.heads.newest();
    let same = work.heads.slots().filter(|head| (head.root, head.root_hash) == (newest.root, newest.root_hash));
    if same.count() < HeadIndex::ALL.len() {
        work.begin()?;
    }
    // A checkpoint replaces table blocks, so groups of them may be dead after it that were live before.
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

/// What is live by a view, and by its map.
pub(super) fn take_census(view: &View, stop: &dyn Fn() -> bool) -> Result<Census, GcError> {
    let census = tally(view, mark(std::slice::from_ref(view), stop)?, stop)?;
    match census.unknown {
        0 => Ok(census),
        subchunks => Err(GcError::Damaged { subchunks }),
    }
}

/// The version, and the one that the other slot names where it is another. A root that is damaged names nothing that can be
/// had.
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

/// Where the roots lie that the head slots name.
pub(super) fn roots(heads: &Heads) -> Vec<Place> {
    heads.slots().map(|head| head.root).collect()
}

struct Work<'a> {
    storage: &'a Arc<dyn Storage>,
    heads: Heads,
    version: Arc<Image>,
    /// Once something is written.
    log: Option<LogWriter>,
    how: &'a GcHow<'a>,
}

impl Work<'_> {
    /// Before anything is written: both slots name the newest root, with a new epoch, and are clean.
    fn begin(&mut self) -> Result<(), StartError> {
        if self.log.is_none() {
            let epoch = raise_epoch(&mut self.heads, None)?;
            self.log = Some(open_log(self.storage, self.heads.newest(), epoch, 0)?);
        }
        Ok(())
    }

    /// A checkpoint of these changes, which both slots name then.
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
            // Of the thaw log it contains what it did: so one that was not removed yet is known to be contained.
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
            // What is dead and has no rows any more makes room for a checkpoint.
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
        //# A frame must be
        //# punched only if the roots of both head slots, durably, do not lead to it, and while byte 1 is locked exclusively (16).
        let _no_readers = (self.how.no_readers)()?;
        punch(&**self.storage, &dead).map_err(GcError::Punch)?;
        report.count(&dead);
        Ok(())
    }
}
