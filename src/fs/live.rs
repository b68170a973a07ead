//! A filesystem that can be written: its state, its two logs, and how the changes of an operation are applied.
//!
//! [`Live::transact`] evaluates an operation on a snapshot, without any lock, and applies its changes if nothing that
//! it claims has changed; otherwise it evaluates the operation again. Written bytes are appended to the thaw log before
//! that, so a range never names bytes that are not there. Nothing is written to image or thaw log before the first
//! change.
//!
//! Locks, in the order they are taken: the lock of `snapshots` (one snapshot is made at a time), `freezing` (one batch
//! of a freeze at a time), `turns` (operations share it), `image` (its log and head slots), `committing` (one commit at
//! a time), `log` (the thaw log), `state` (the mutex, for memory operations only). I/O under `image` or `committing`
//! keeps nobody from changing the state.

use super::FsError;
use super::basis::{self, NO_SESSION};
use super::begin::{Beginning, Writer};
use super::delays::Delays;
use super::draft::Draft;
use super::freezing::control::Control;
use super::freezing::known::Freezer;
use super::gc_control::GcControl;
use super::ids::Ids;
use super::making::Making;
use super::pressure::Pressure;
use super::snapshot::Snapshot;
use super::source::SnapshotSource;
use super::start::{Found, look};
use super::state::{Basis, State, Totals, Waiter};
use crate::format::ids::{InodeId, LogOffset};
use crate::format::rows::Time;
use crate::freeze::LeftBehind;
use crate::log::LogWriter;
use crate::meta::{self, Heads, Image, ImageOptions};
use crate::storage::{LogHome, Storage};
use crate::thaw::{Appended, ThawLog};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Number of times that an operation is evaluated again because of other changes, before it gets a turn in which nobody
/// else changes anything.
const TRIES: usize = 8;

/// Number of appended bytes after which write-back of the thaw log is started.
const WRITEBACK: u64 = 8 << 20;

/// Unit in bytes in which space after the image's end is allocated.
const RESERVE_STEP: u64 = 4 << 20;

/// Number of bytes for the next commit at which that commit begins at once.
pub(super) const PENDING_MAX: u64 = 64 << 20;

/// Bytes of memory for what is not in the image yet, by default.
const MEMORY: usize = 512 << 20;

/// Growth of the changed rows in bytes, after which it is estimated again how much space to reserve for checkpoints.
const RESERVE_ROWS: usize = 32 << 10;

/// A function that returns the time of day.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// Options of a writable filesystem.
#[derive(Clone)]
pub struct LiveOptions {
    /// Longest time between a change and the beginning of the commit that contains it.
    pub commit: Duration,
    /// The time of day, for times of inodes and commits.
    pub clock: Clock,
    /// Random number for the id of a new thaw log.
    pub log_id: u64,
    /// Length in bytes of a segment of a new thaw log; if absent, the free space decides.
    pub segment_size: Option<u64>,
    /// Bytes that the thaw log may take; if absent, the free space decides.
    pub budget: Option<u64>,
}

/// The image while it is being written: its log and its head slots.
pub(super) struct ImageSide {
    pub(super) log: LogWriter,
    pub(super) heads: Heads,
    pub(super) home: Arc<dyn LogHome>,
}

/// The thaw log, once it exists.
pub(super) struct LogSide {
    pub(super) log: Option<ThawLog>,
    /// Offset of the bytes that were appended since write-back was last started, and how many there are.
    unwritten: (LogOffset, u64),
}

/// A writable filesystem: an image, its thaw log, and the changes in memory.
pub struct Live {
    pub(super) state: Mutex<State>,
    /// Notified when there is something to commit, when somebody waits for a commit, when a commit has ended, and when
    /// the filesystem begins to end.
    pub(super) changed: Condvar,
    pub(super) log: Mutex<LogSide>,
    pub(super) image: Mutex<Option<ImageSide>>,
    pub(super) committing: Mutex<()>,
    turns: RwLock<()>,
    /// The image and the thaw log as they were found at the start; taken by the first change.
    pub(super) found: Mutex<Option<Found>>,
    begun: AtomicBool,
    pub(super) ids: Arc<Ids>,
    pub(super) options: LiveOptions,
    /// Storage of the image, which is asked to allocate space.
    storage: Arc<dyn Storage>,
    /// Offset in bytes up to which the image is synced.
    pub(super) image_end: AtomicU64,
    /// Bytes that are allocated after the image's end.
    pub(super) reserved: AtomicU64,
    /// Bytes of changed rows when it was last estimated how much space to reserve for checkpoints.
    reserved_for: AtomicUsize,
    /// Bytes of memory for what is not in the image yet.
    memory: AtomicUsize,
    /// Measures how full the thaw log is.
    pub(super) pressure: Pressure,
    /// Replies to writes that are held back.
    pub(super) delays: Delays,
    /// Whether there was no space for another segment of the thaw log when the last commit began.
    pub(super) log_is_short: AtomicBool,
    /// State that freezes share. Its lock lets one batch run at a time.
    pub(super) freezing: Mutex<Freezer>,
    /// Number of superchunks that a freeze compresses at a time.
    pub(super) compressors: AtomicUsize,
    /// Compressors at a low priority whose work others took over.
    pub(super) left_behind: LeftBehind,
    /// Control of the freezer's thread.
    pub(super) freezer: Control,
    /// Bytes that freezes did not store since the last root, because the image had them.
    pub(super) saved: AtomicU64,
    /// Control of gc's thread.
    pub(super) gc: GcControl,
    /// State of the snapshot that is being made. Its lock is taken before any other.
    pub(super) snapshots: Making,
}

impl Live {
    /// Makes a filesystem from the image and thaw log that were found. Writes nothing.
    ///
    /// # Errors
    /// Fails if its tables cannot be read.
    pub fn new(storage: Arc<dyn Storage>, found: Found, options: LiveOptions) -> Result<Arc<Self>, FsError> {
        let ids = Arc::new(Ids::new(&found.replayed().counters));
        let state = State::new(basis::of(found.image(), found.replayed(), found.segments(), NO_SESSION)?);
        Ok(Arc::new(Live {
            state: Mutex::new(state),
            changed: Condvar::new(),
            log: Mutex::new(LogSide { log: None, unwritten: (LogOffset(0), 0) }),
            image: Mutex::new(None),
            committing: Mutex::new(()),
            turns: RwLock::new(()),
            found: Mutex::new(Some(found)),
            begun: AtomicBool::new(false),
            ids,
            pressure: Pressure::new(options.budget),
            delays: Delays::default(),
            options,
            storage,
            image_end: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            reserved_for: AtomicUsize::new(0),
            memory: AtomicUsize::new(MEMORY),
            log_is_short: AtomicBool::new(false),
            freezing: Mutex::default(),
            compressors: AtomicUsize::new(std::thread::available_parallelism().map_or(1, usize::from)),
            left_behind: LeftBehind::default(),
            freezer: Control::default(),
            saved: AtomicU64::new(0),
            gc: GcControl::default(),
            snapshots: Making::default(),
        }))
    }

    /// Sets how many bytes of memory changes may take that are not in the image yet. With the default of 512 MiB, a
    /// checkpoint is due at 48 MiB of changed rows, and at 160 MiB changes wait for it.
    pub fn set_memory(&self, bytes: usize) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes of changed rows at which a checkpoint is due.
    pub(super) fn checkpoint_at(&self) -> usize {
        self.memory.load(Ordering::Relaxed) / 32 * 3
    }

    /// Returns the bytes of changed rows at which changes wait for a checkpoint. The rest of the memory is for rows
    /// that a checkpoint is writing, operations that wait for a commit, and table blocks.
    fn rows_limit(&self) -> usize {
        self.memory.load(Ordering::Relaxed) / 16 * 5
    }

    /// Returns the present state.
    pub fn snapshot(&self) -> Snapshot {
        self.state.lock().snapshot()
    }

    /// Returns the number of inodes and bytes that the present state has.
    pub fn totals(&self) -> Totals {
        self.state.lock().totals()
    }

    /// Returns the space of the file system that contains the image.
    ///
    /// # Errors
    /// Fails if the file system does not tell.
    pub fn space(&self) -> Result<crate::storage::Space, FsError> {
        Ok(self.storage.space()?)
    }

    /// Evaluates `operation` and applies its changes, all of them or none.
    pub(super) fn transact<T>(&self, operation: impl Fn(&mut Draft) -> Result<T, FsError>) -> Result<T, FsError> {
        self.wait_for_room(true)?;
        self.take_turns(operation)
    }

    /// Works as [`Live::transact`], for the thread that makes checkpoints: it must not wait for a checkpoint.
    pub(super) fn transact_between_checkpoints<T>(
        &self,
        operation: impl Fn(&mut Draft) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.wait_for_room(false)?;
        self.take_turns(operation)
    }

    /// Evaluates and applies an operation. It waits for its turn, and for nothing else while it has the turn: others
    /// wait for theirs meanwhile, also the thread that makes checkpoints.
    // Case 23.
    fn take_turns<T>(&self, operation: impl Fn(&mut Draft) -> Result<T, FsError>) -> Result<T, FsError> {
        for _ in 0..TRIES {
            let _turn = self.turns.read();
            if let Some(value) = self.attempt(&operation)? {
                return Ok(value);
            }
        }
        let _turn = self.turns.write();
        loop {
            // Only the opening of handles can still interfere.
            if let Some(value) = self.attempt(&operation)? {
                return Ok(value);
            }
        }
    }

    fn attempt<T>(&self, operation: impl Fn(&mut Draft) -> Result<T, FsError>) -> Result<Option<T>, FsError> {
        let mut draft = Draft::new(self.snapshot(), Arc::clone(&self.ids), (self.options.clock)());
        let value = operation(&mut draft)?;
        if draft.is_empty() {
            return Ok(Some(value));
        }
        self.begin()?;
        self.reserve(&draft)?;
        let frees = draft.removes || draft.lightens_log;
        if !frees && self.log_is_short.load(Ordering::Relaxed) {
            self.find_space_for_log()?;
        }
        let mut state = self.state.lock();
        state.check_latch()?;
        if !frees && state.failed.is_some() {
            // No commit can take it before there is space for one.
            return Err(FsError::NoSpace);
        }
        let (was_idle, was_clean) = (!state.has_pending(), state.dirty.bytes() == 0);
        if !state.apply(draft) {
            return Ok(None);
        }
        let is_much = state.pending_bytes() >= PENDING_MAX || state.overlay_bytes() >= self.checkpoint_at();
        let is_dirty = was_clean && state.dirty.bytes() > 0;
        let is_garbage = state.has_much_garbage(0) || self.log_wants_checkpoint(&state, 0);
        if was_idle || is_dirty || is_much || is_garbage {
            self.changed.notify_all();
        }
        Ok(Some(value))
    }

    /// Makes changes wait while a sync takes longer than the time between commits, so that a crash loses a bounded
    /// amount. With `checkpoint`, they also wait for a checkpoint while too many rows have changed.
    // Case 29.
    fn wait_for_room(&self, checkpoint: bool) -> Result<(), FsError> {
        let mut state = self.state.lock();
        loop {
            state.check_latch()?;
            let late = state.syncing.is_some_and(|since| since.elapsed() > self.options.commit);
            let full = state.has_threads && state.overlay_bytes() > self.rows_limit() && !state.checkpoint_failed;
            if state.closing || !(late || checkpoint && full) {
                return Ok(());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Prepares the image for the first change: raises the epoch in the head slots, and continues the thaw log or makes
    /// a new one.
    pub(super) fn begin(&self) -> Result<(), FsError> {
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut image = self.image.lock();
        let mut side = self.log.lock();
        let Some(found) = self.found.lock().take() else {
            // Somebody else began meanwhile, or failed to.
            return self.state.lock().check_latch();
        };
        let (storage, home, base) = (Arc::clone(&found.storage), Arc::clone(&found.home), Arc::clone(&found.image));
        let by_space = self.pressure.settle(&home);
        let segment_size = self.options.segment_size.or(by_space);
        let begun = found.begin(&Beginning { log_id: self.options.log_id, segment_size });
        let basis = begun.map_err(FsError::from).and_then(|mut writer| {
            let session = writer.log.position();
            let basis = basis::of(&writer.base, &writer.replayed, writer.log.segments(), session)?;
            let is_short = !writer.log.has_space();
            Ok((writer, basis, is_short))
        });
        // If there was no space, nothing is lost: look again, and let the next change try again [24].
        let again = match &basis {
            Err(FsError::NoSpace) => Some(look_again(storage, home, &base)),
            _ => None,
        };
        let mut state = self.state.lock();
        if let Some(Ok((basis, found))) = again {
            state.rebase(basis);
            *self.found.lock() = Some(found);
            return Err(FsError::NoSpace);
        }
        let (writer, basis, is_short) = basis.inspect_err(|error| state.latch(&error.to_string()))?;
        let Writer { log, image: image_log, heads, home, .. } = writer;
        self.ids.raise(&writer.replayed.counters);
        self.image_end.store(image_log.end(), Ordering::Relaxed);
        self.log_is_short.store(is_short, Ordering::Relaxed);
        state.rebase(basis);
        self.pressure.note(&log);
        side.unwritten = (log.position(), 0);
        side.log = Some(log);
        *image = Some(ImageSide { log: image_log, heads, home });
        self.begun.store(true, Ordering::Release);
        Ok(())
    }

    /// Returns whether the first change was begun, so that image and log may be written.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns whether the log that was found has changes that the image lacks.
    pub(super) fn has_recovered(&self) -> bool {
        self.found.lock().as_ref().is_some_and(|found| found.brought_back().is_some())
    }

    /// Makes sure that there is space for two checkpoints of what has changed.
    // Case 24.
    fn reserve(&self, draft: &Draft) -> Result<(), FsError> {
        // An estimate takes longer than a change. It is repeated only after the rows have grown by a step; twice the
        // estimate has room for that.
        let bytes = draft.view().active().bytes();
        let step = self.reserved_for.load(Ordering::Relaxed);
        if bytes >= step && bytes < step.saturating_add(RESERVE_ROWS) && self.reserved.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let view = draft.view();
        let sealed = view.sealed().map_or(0, |overlay| meta::estimate(overlay, view.version()));
        let need = meta::estimate(view.active(), view.version()).saturating_add(sealed).saturating_mul(2);
        let have = self.reserved.load(Ordering::Relaxed);
        if need <= have {
            self.reserved_for.store(bytes, Ordering::Relaxed);
            return Ok(());
        }
        let goal = need.next_multiple_of(RESERVE_STEP);
        loop {
            let end = self.image_end.load(Ordering::SeqCst);
            match self.storage.allocate(end, goal) {
                Ok(()) => {
                    self.reserved.fetch_max(goal, Ordering::SeqCst);
                    // Whoever moves the end clears the reserve afterwards. So one of the two sees what the other did.
                    if self.image_end.load(Ordering::SeqCst) == end {
                        self.reserved_for.store(bytes, Ordering::Relaxed);
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported || draft.removes => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Allocates space for `bytes` more bytes of the image, without using what is reserved after its end. The caller
    /// holds the image's lock.
    pub(super) fn allocate_before_reserve(&self, bytes: u64) -> Result<(), FsError> {
        let reserved = self.reserved.load(Ordering::SeqCst);
        match self.storage.allocate(self.image_end.load(Ordering::SeqCst), reserved.saturating_add(bytes)) {
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Appends bytes to the thaw log, in pieces. No row names them until the operation is applied; until then, their
    /// segments are not deleted.
    ///
    /// # Errors
    /// Fails with `NoSpace`, or with `ReadOnly` after a failure.
    // Case 10.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<Written<'_>, FsError> {
        self.state.lock().check_latch()?;
        self.begin()?;
        match self.append_once(bytes) {
            // Only a checkpoint removes segments that nothing needs any more.
            Err(FsError::NoSpace) if self.could_free_segments() => {
                self.checkpoint_now()?;
                self.append_once(bytes)
            }
            done => done,
        }
    }

    fn append_once(&self, bytes: &[u8]) -> Result<Written<'_>, FsError> {
        let mut side = self.log.lock();
        let LogSide { log: Some(log), unwritten } = &mut *side else { return Err(FsError::ReadOnly) };
        let mut written = Written { live: self, pieces: Vec::new(), segments: Vec::new() };
        let most = usize::try_from(log.largest_write()).unwrap_or(usize::MAX).max(1);
        for piece in bytes.chunks(most) {
            let appended = log.append(piece)?;
            written.pieces.push(appended);
            written.hold(log, appended);
        }
        self.pressure.note(log);
        unwritten.1 = unwritten.1.saturating_add(bytes.len() as u64);
        if unwritten.1 >= WRITEBACK {
            self.pressure.look_at_space();
            let (from, to) = (unwritten.0, log.position());
            *unwritten = (to, 0);
            let segment = log.segment(to).or_else(|| log.segment(from));
            drop(side);
            if let Some(segment) = segment {
                // This only makes the later sync shorter. If anything is wrong, the sync reports it.
                let _ = segment.start_writeback(from, to);
            }
        }
        Ok(written)
    }

    /// Makes sure that there is space for another segment before an operation uses up the log's last one. Otherwise
    /// operations that remove something could not be committed.
    // Case 24.
    fn find_space_for_log(&self) -> Result<(), FsError> {
        let has_space = || {
            let found = self.log.lock().log.as_mut().is_none_or(ThawLog::has_space);
            self.log_is_short.store(!found, Ordering::Relaxed);
            found
        };
        if has_space() {
            return Ok(());
        }
        if self.could_free_segments() {
            self.checkpoint_now()?;
            if has_space() {
                return Ok(());
            }
        }
        Err(FsError::NoSpace)
    }

    /// Returns whether a checkpoint would free the log's lowest segment.
    fn could_free_segments(&self) -> bool {
        let lowest = self.log.lock().log.as_ref().and_then(|log| log.lowest_segment());
        let state = self.state.lock();
        let needed = state.frames.lowest_of_state();
        state.latch.is_none() && state.is_changed() && lowest.is_some_and(|lowest| lowest < needed)
    }

    /// Counts a handle of an inode. The inode keeps its bytes while it has a handle, even without a name.
    ///
    /// # Errors
    /// Fails with `NotFound` if the inode has neither a name nor another handle.
    pub fn open(&self, inode: InodeId, writing: bool) -> Result<(), FsError> {
        loop {
            let snapshot = self.snapshot();
            let known = snapshot.view.inode(inode)?.is_some()
                || (snapshot.opens.contains_key(&inode) && snapshot.view.orphan(inode)?.is_some());
            if !known {
                return Err(FsError::NotFound);
            }
            if self.state.lock().open(inode, writing, snapshot.stamp) {
                return Ok(());
            }
        }
    }

    /// Counts a handle as closed.
    pub fn release(&self, inode: InodeId, writing: bool) {
        if self.state.lock().release(inode, writing) {
            self.changed.notify_all();
        }
    }

    /// Calls `done`, without holding any lock, once all changes so far are durable, or when they can never be.
    pub fn sync(&self, done: Waiter) {
        let mut state = self.state.lock();
        if state.latch.is_some() {
            drop(state);
            return done(Err(FsError::latched()));
        }
        if state.closing {
            // The committer may have ended already.
            drop(state);
            return done(self.commit_now());
        }
        state.waiters.push(done);
        self.changed.notify_all();
    }

    /// Returns the time of day that operations use.
    pub fn now(&self) -> Time {
        (self.options.clock)()
    }

    /// Refuses all changes from now on, for good.
    pub fn latch(&self, why: &str) {
        tracing::error!(why, "the mount is read-only from now on");
        self.state.lock().latch(why);
        self.changed.notify_all();
    }

    /// Returns why changes are refused, if they are.
    pub fn latched(&self) -> Option<String> {
        self.state.lock().latch.as_ref().map(|latch| latch.0.to_string())
    }

    pub(super) fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Reads image and thaw log again, after the first change could not be prepared. The version stays the one that readers
/// have: versions made from it share how far frames can be read, and a newly opened version would not share that with
/// readers.
fn look_again(storage: Arc<dyn Storage>, home: Arc<dyn LogHome>, base: &Arc<Image>) -> Result<(Basis, Found), FsError> {
    let mut found = look(storage, home, ImageOptions::default())?;
    if found.image.head().root_hash != base.head().root_hash {
        return Err(FsError::io("the root of the image has changed"));
    }
    found.image = Arc::clone(base);
    Ok((basis::of(found.image(), found.replayed(), found.segments(), NO_SESSION)?, found))
}

impl SnapshotSource for Live {
    fn snapshot(&self) -> Snapshot {
        Live::snapshot(self)
    }
}

/// Bytes that were appended to the thaw log. As long as this exists, their segments are not deleted.
pub(super) struct Written<'a> {
    live: &'a Live,
    pub(super) pieces: Vec<Appended>,
    segments: Vec<u64>,
}

impl Written<'_> {
    /// Keeps the segment of an append from being deleted, and makes it readable. Called under the log's lock.
    fn hold(&mut self, log: &ThawLog, appended: Appended) {
        let mut state = self.live.state.lock();
        if state.segments().get(appended.frame).is_none() {
            state.set_segments(log.segments());
        }
        let number = state.segments().number(appended.frame);
        state.frames.hold(number);
        state.appended = state.appended.saturating_add(appended.len);
        self.segments.push(number);
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        if self.segments.is_empty() {
            return;
        }
        let mut state = self.live.state.lock();
        self.segments.iter().for_each(|&number| state.frames.release(number));
    }
}
