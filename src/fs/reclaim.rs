//! gc in a filesystem that is being written. It works as for an image that nobody has mounted, while operations go on.
//!
//! Whatever no row of the present view leads to is dead. It stays dead: an operation names only what it finds in rows
//! that it claims; and the freezer, which finds subchunks by their bytes, is kept out from the first look to the last.
//! The freezer's index is dropped before the first row is deleted. The rows are deleted in transactions of whole
//! superchunks; a checkpoint removes them from the roots of both slots. It also brings the places of superchunks that
//! were packed again into these roots. Nothing is punched before all changes so far are durable, all earlier snapshots
//! are gone, and other readers of the image are kept out. What could not be punched has no rows any more, and the next
//! gc punches it. Called by `running` (the thread), fuse and tests.

use super::FsError;
use super::gc::{GcError, GcReport, roots, take_census};
use super::gc_control::{GcStatus, KeepOut, Shown};
use super::live::Live;
use crate::format::ids::SuperchunkId;
use crate::format::place::Place;
use crate::format::schema;
use crate::meta::{Census, DeadFrame, Overlay, View, dead_frames, deletions, punch, rounds};
use crate::storage::{HeadIndex, LockError, Operation, StorageError};
use crate::table::Change;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Number of subchunks whose rows are deleted in one transaction. Each transaction holds the mutex of the state for a
/// few milliseconds.
const ROUND: u64 = 1 << 16;
/// Longest time that gc waits for earlier snapshots. Each belongs to one request.
const SNAPSHOTS: Duration = Duration::from_secs(30);
/// Time between two checks whether all earlier snapshots of the state are gone.
const PAUSE: Duration = Duration::from_millis(10);
/// Time without changes after which gc may begin by itself.
const IDLE: Duration = Duration::from_secs(60);
/// Factor of a pause: after gc has looked by itself for what is dead, it waits at least this many times as long as that
/// took.
const SHARE_OF_TIME: u32 = 100;
impl Live {
    /// Sets how readers of the image in other processes are kept out. Without this, nothing is punched.
    pub fn set_keep_out(&self, keep_out: KeepOut) {
        *self.gc.keep_out.lock() = Some(keep_out);
    }

    /// Sets when gc frees space by itself: when this many percent of the superchunks are dead, and this many bytes. The
    /// defaults are 25 percent and 64 MiB. With more than 100 percent, gc does nothing by itself.
    pub fn set_gc_threshold(&self, percent: u64, least: u64) {
        self.gc.percent.store(percent, Ordering::Relaxed);
        self.gc.least.store(least, Ordering::Relaxed);
    }

    /// Asks gc's thread to free space. Returns a ticket: the work is done once [`GcStatus::ticket_done`] reaches it.
    pub fn request_gc(&self) -> u64 {
        // Under the mutex, so that the thread cannot miss the notification.
        let state = self.lock_state();
        let ticket = self.gc.asked.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        drop(state);
        self.changed.notify_all();
        ticket
    }

    /// Returns the state of gc.
    pub fn gc_status(&self) -> GcStatus {
        let shown = self.gc.shown.lock();
        GcStatus {
            running: self.gc.running.load(Ordering::Relaxed),
            ticket: self.gc.asked.load(Ordering::Relaxed),
            ticket_done: self.gc.done.load(Ordering::Relaxed),
            last: shown.last,
            has_readers: shown.has_readers,
            error: shown.error.clone(),
        }
    }

    /// Frees the space of what is dead. `stop` is called regularly, and ends gc if it returns true.
    ///
    /// # Errors
    /// Fails with a [`GcError`]. Nothing is lost, and the call may be repeated.
    pub fn gc_now(&self, stop: &dyn Fn() -> bool) -> Result<GcReport, GcError> {
        self.free(&|_| true, stop)
    }

    /// Frees the space of what is dead, if `is_worth` says that it is worth it.
    fn free(&self, is_worth: &dyn Fn(&Census) -> bool, stop: &dyn Fn() -> bool) -> Result<GcReport, GcError> {
        // Held from the first look at what is live to the last punch. Otherwise the freezer could find dead subchunks
        // by their bytes, and name them.
        let mut freezer = self.freezing.lock();
        if self.snapshots.is_making() {
            return Err(GcError::Snapshot);
        }
        let view = self.snapshot().view().clone();
        let census = take_census(&view, stop)?;
        drop(view);
        let mut report = GcReport::of(&census);
        if !is_worth(&census) {
            return Ok(GcReport { superchunks: 0, ..report });
        }
        self.begin()?;
        let dead: HashSet<SuperchunkId> = census.dead().map(|tally| tally.id).collect();
        freezer.forget(|id| dead.contains(&id));
        for round in rounds(&census, ROUND) {
            let view = self.snapshot().view().clone();
            let changes = deletions(&view, &census, &round, stop)?;
            drop(view);
            self.delete_rows(&changes)?;
            self.gc.is_behind.store(true, Ordering::Relaxed);
        }
        self.make_durable(census.dead().next().is_some())?;
        self.punch_dead(&mut report, stop)?;
        Ok(report)
    }

    /// Deletes rows of the map and of identities. Nobody else changes these rows: the freezer is kept out, and a
    /// checkpoint only adds rows for its own blocks.
    fn delete_rows(&self, changes: &Overlay) -> Result<(), FsError> {
        self.transact(|draft| {
            draft.removes();
            for table in [&schema::MAP, &schema::IDENTITIES] {
                for change in changes.changes(table) {
                    match change {
                        Change::Put(row) => draft.put(table, row),
                        Change::Delete(key) => draft.delete(table, key),
                    }
                }
            }
            Ok(())
        })
    }

    /// Brings all changes of the map into the roots of both slots: what was deleted, and the new places of superchunks
    /// that were packed again. Nobody else changes the map: the freezer is kept out. Afterwards all changes so far are
    /// durable. Otherwise a crash could bring back files and rows that name what gc frees.
    fn make_durable(&self, has_deleted: bool) -> Result<(), FsError> {
        if has_deleted || !self.is_map_in_root() {
            // A checkpoint that was given up before is made first, and is not enough.
            drop(self.checkpoint_moment()?);
        }
        self.commit_now()
    }

    fn is_map_in_root(&self) -> bool {
        let snapshot = self.snapshot();
        let view = snapshot.view();
        view.active().says_nothing_of(&schema::MAP)
            && view.sealed().is_none_or(|sealed| sealed.says_nothing_of(&schema::MAP))
    }

    /// Punches the frames that nothing names any more.
    fn punch_dead(&self, report: &mut GcReport, stop: &dyn Fn() -> bool) -> Result<(), GcError> {
        let (view, roots) = self.what_slots_name()?;
        // The roots may still name what the view has deleted, if no checkpoint contains that yet. Later roots share
        // frames with these two. Their other frames are after what is, for this view, the end of the log.
        let root = View::of(Arc::clone(view.version()));
        let dead = dead_frames(&[view, root], &roots, &|_| false, stop)?;
        if dead.iter().any(|frame| !frame.is_punched) {
            self.wait_for_snapshots(stop)?;
            self.punch_now(&dead)?;
            report.count(&dead);
        }
        self.gc.is_behind.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the present view, and the places of the roots that the slots name. Both slots name the root of the
    /// view's version.
    fn what_slots_name(&self) -> Result<(View, Vec<Place>), GcError> {
        let image = self.image.lock();
        let image = image.as_ref().ok_or_else(|| FsError::io("the file system has ended already"))?;
        let state = self.lock_state();
        state.check_latch()?;
        let view = state.snapshot().view().clone();
        drop(state);
        let named = view.version().head();
        let same = image.heads.slots().filter(|head| (head.root, head.root_hash) == (named.root, named.root_hash));
        if same.count() < HeadIndex::ALL.len() {
            return Err(FsError::io("the head slots do not name the root that is read").into());
        }
        Ok((view, roots(&image.heads)))
    }

    /// Waits until all earlier snapshots are gone.
    fn wait_for_snapshots(&self, stop: &dyn Fn() -> bool) -> Result<(), GcError> {
        let until = Instant::now().checked_add(SNAPSHOTS);
        let mut old = self.gc.old.lock();
        old.push(self.lock_state().renew_pin());
        loop {
            old.retain(|pin| pin.strong_count() > 0);
            if old.is_empty() {
                return Ok(());
            }
            if stop() {
                return Err(GcError::Stopped);
            }
            if until.is_none_or(|until| Instant::now() >= until) {
                return Err(GcError::Busy);
            }
            self.changed.wait_for(&mut self.lock_state(), PAUSE);
        }
    }

    fn punch_now(&self, dead: &[DeadFrame]) -> Result<(), GcError> {
        let keep_out = self.gc.keep_out.lock().clone();
        let keep_out = keep_out.ok_or_else(|| FsError::io("no way to keep readers out is set"))?;
        let _no_readers = keep_out()?;
        punch(&**self.snapshot().view().version().log().storage(), dead).map_err(|error| {
            if matches!(error, StorageError::Io { operation: Operation::Sync, .. }) {
                self.latch(&error.to_string());
            }
            GcError::Punch(error)
        })
    }

    /// Runs gc's thread: frees space on request, and by itself, until the filesystem begins to end.
    pub(super) fn run_gc(self: &Arc<Self>) {
        let mut looks = Looks { stamp: 0, since: Instant::now(), looked_at: 0, not_before: Instant::now() };
        while let Some(ticket) = self.wait_for_gc(&mut looks) {
            let began = Instant::now();
            self.gc.running.store(true, Ordering::Relaxed);
            let stop = || {
                let state = self.lock_state();
                state.closing || state.latch.is_some()
            };
            let done = match ticket {
                Some(_) => self.gc_now(&stop),
                None => self.free(&|census| self.is_much(census), &stop),
            };
            self.gc.running.store(false, Ordering::Relaxed);
            let mut shown = self.gc.shown.lock();
            match done {
                Ok(report) => *shown = Shown { last: Some(report), error: None, has_readers: false },
                Err(error) => {
                    tracing::info!(%error, "gc could not free space");
                    let has_readers = matches!(error, GcError::Readers(LockError::Read));
                    *shown = Shown { last: None, error: Some(error.to_string()), has_readers };
                }
            }
            drop(shown);
            let now = Instant::now();
            looks.not_before = now.checked_add(began.elapsed().saturating_mul(SHARE_OF_TIME)).unwrap_or(now);
            let state = self.lock_state();
            if let Some(ticket) = ticket {
                self.gc.done.store(ticket, Ordering::Relaxed);
            }
            looks.looked_at = state.changes();
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Returns whether so much is dead that it is freed without a request.
    fn is_much(&self, census: &Census) -> bool {
        let sum = |bytes: u64, tally: &crate::meta::Tally| bytes.saturating_add(tally.bytes());
        let dead = census.dead().fold(0, sum);
        let all = census.superchunks.iter().fold(0, sum);
        let percent = self.gc.percent.load(Ordering::Relaxed);
        dead >= self.gc.least.load(Ordering::Relaxed)
            && dead > 0
            && u128::from(dead) * 100 >= u128::from(all) * u128::from(percent)
            || self.gc.is_behind.load(Ordering::Relaxed)
    }

    /// Waits for a request, and returns its ticket; or until gc should begin by itself, and returns no ticket. Returns
    /// `None` once the filesystem begins to end or refuses changes.
    fn wait_for_gc(&self, looks: &mut Looks) -> Option<Option<u64>> {
        let mut state = self.lock_state();
        loop {
            if state.closing || state.latch.is_some() {
                return None;
            }
            let asked = self.gc.asked.load(Ordering::Relaxed);
            if asked > self.gc.done.load(Ordering::Relaxed) {
                return Some(Some(asked));
            }
            let (now, stamp) = (Instant::now(), state.changes());
            if stamp != looks.stamp {
                (looks.stamp, looks.since) = (stamp, now);
            }
            let is_new = stamp != looks.looked_at || self.gc.is_behind.load(Ordering::Relaxed);
            let is_idle = now.saturating_duration_since(looks.since) >= IDLE;
            // Nothing is written to the image before the first change.
            if self.has_begun() && is_new && is_idle && now >= looks.not_before {
                return Some(None);
            }
            if self.has_begun() && is_new {
                self.changed.wait_for(&mut state, IDLE);
            } else {
                self.changed.wait(&mut state);
            }
        }
    }
}

/// State that gc's thread keeps between two looks.
struct Looks {
    /// Number of changes so far. The next field is the time since which this number is the same.
    stamp: u64,
    since: Instant,
    /// Number of changes at the last look for what is dead.
    looked_at: u64,
    /// Time before which gc does not begin by itself.
    not_before: Instant,
}
