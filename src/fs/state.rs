//! The writable state: the present state, and what no commit contains yet.
//!
//! It is guarded by one mutex, which is held only for memory operations. Changes are made only by [`State::apply`]. It
//! puts a draft's rows into the active overlay and its operations into the pending ones in one step: the order of the
//! log is the order of memory [3]. Called by `live` and its parts (`commit`, `checkpoint`).

use super::FsError;
use super::claims::{Claim, Stamps};
use super::dirty::DirtyFiles;
use super::draft::Draft;
use super::frames::Frames;
use super::pending::Pending;
use super::snapshot::{Opens, Snapshot};
use crate::format::ids::{InodeId, LogOffset};
use crate::format::schema;
use crate::format::transaction::{Counters, Operation};
use crate::meta::{Image, Overlay, View};
use crate::thaw::Segments;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// A checkpoint is worthwhile if it frees at least this many bytes of the thaw log (or the bytes of
/// [`GARBAGE_SEGMENTS`] segments, if these are fewer) and at least half of the log. Segments are small where there is
/// little space.
const GARBAGE_MIN: u64 = 64 << 20;
const GARBAGE_SEGMENTS: u64 = 4;

/// A callback of somebody who waits for a commit. It is called without any lock held.
pub type Waiter = Box<dyn FnOnce(Result<(), FsError>) + Send>;

/// Number of inodes and bytes in the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Number of inodes that have a name.
    pub inodes: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
}

/// What a checkpoint needs besides the changed rows that were set aside for it (sealed): the next free ids, and the
/// totals of the filesystem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seal {
    pub(super) counters: Counters,
    pub(super) totals: Totals,
}

/// The operations of one commit.
pub(super) struct Group {
    pub(super) operations: Vec<Operation>,
    /// The state that was set aside for a checkpoint when the operations were taken, if it was.
    pub(super) seal: Option<Seal>,
    /// Offset in the image where the frames end that the operations name.
    pub(super) image_end: u64,
}

/// A state that was set aside for a checkpoint, and whose commit is durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) seal: Seal,
    /// Number of the last transaction of the commit that made the state durable.
    pub(super) transaction: u64,
    /// Offset in the thaw log of the end of the last transaction of the commit that made the state durable.
    pub(super) end: LogOffset,
}

/// The reason why changes are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Latch(pub(super) Arc<str>);

pub(super) struct State {
    version: Arc<Image>,
    sealed: Option<Overlay>,
    active: Overlay,
    stamp: u64,
    layout: u64,
    stamps: Stamps,
    opens: Opens,
    /// Inodes without a name. Those that nobody has open are deleted in the background.
    orphans: BTreeSet<InodeId>,
    totals: Totals,
    segments: Arc<Segments>,
    /// Offset in bytes where the thaw log ended when this mount began to write.
    session: LogOffset,
    pub(super) frames: Frames,
    /// Files with bytes in the thaw log.
    pub(super) dirty: DirtyFiles,
    pending: Pending,
    /// Number of written bytes that were appended since the last commit began.
    pub(super) appended: u64,
    /// Time of the oldest change that no commit contains yet.
    pub(super) oldest: Option<Instant>,
    /// Operations that could not be written. They are retried unchanged, before anything else.
    pub(super) failed: Option<Group>,
    pub(super) waiters: Vec<Waiter>,
    /// Time when the running commit began.
    pub(super) syncing: Option<Instant>,
    /// The state that was set aside for a checkpoint and is durable, but not yet in the head's root.
    pub(super) durable_seal: Option<Sealed>,
    pub(super) latch: Option<Latch>,
    /// Whether threads run that make commits and checkpoints.
    pub(super) has_threads: bool,
    /// Time when the last checkpoint of this mount was made.
    pub(super) checkpointed: Option<Instant>,
    /// Whether the last checkpoint failed.
    pub(super) checkpoint_failed: bool,
    /// Whether the filesystem has begun to end. Its threads then end, too.
    pub(super) closing: bool,
    /// A reference count: every snapshot has a clone, so it tells whether earlier snapshots still exist.
    pin: Arc<()>,
}

/// The parts from which a state is made.
pub(super) struct Basis {
    pub(super) version: Arc<Image>,
    pub(super) active: Overlay,
    pub(super) totals: Totals,
    pub(super) orphans: BTreeSet<InodeId>,
    pub(super) frames: Frames,
    pub(super) dirty: DirtyFiles,
    pub(super) segments: Arc<Segments>,
    pub(super) session: LogOffset,
    /// Operations that no commit contains yet: they mark ranges that recovery found lost.
    pub(super) lost: Vec<Operation>,
}

impl State {
    pub(super) fn new(basis: Basis) -> Self {
        let mut state = State {
            version: basis.version.clone(),
            sealed: None,
            active: Overlay::default(),
            stamp: 1,
            layout: 1,
            stamps: Stamps::new(),
            opens: Opens::new(),
            orphans: BTreeSet::new(),
            totals: Totals::default(),
            segments: Arc::default(),
            session: LogOffset(0),
            frames: Frames::default(),
            dirty: DirtyFiles::default(),
            pending: Pending::default(),
            appended: 0,
            oldest: None,
            failed: None,
            waiters: Vec::new(),
            syncing: None,
            durable_seal: None,
            latch: None,
            has_threads: false,
            checkpointed: None,
            checkpoint_failed: false,
            closing: false,
            pin: Arc::default(),
        };
        state.rebase(basis);
        state
    }

    /// Replaces the parts from which the state was made, before anything was changed. The new rows say the same, but
    /// thawed ranges may name other frames. So operations that were evaluated on earlier snapshots are not applied.
    pub(super) fn rebase(&mut self, basis: Basis) {
        self.stamp += 1;
        self.layout += 1;
        self.stamps.set_all(self.stamp);
        self.pending = Pending::default();
        basis.lost.into_iter().for_each(|operation| self.pending.thawed(operation));
        self.version = basis.version;
        self.active = basis.active;
        self.orphans = basis.orphans;
        self.totals = basis.totals;
        self.frames = basis.frames;
        self.dirty = basis.dirty;
        self.segments = basis.segments;
        self.session = basis.session;
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            view: View::live(Arc::clone(&self.version), self.sealed.clone(), self.active.clone()),
            segments: Some(Arc::clone(&self.segments)),
            session: self.session,
            opens: self.opens.clone(),
            stamp: self.stamp,
            layout: self.layout,
            _pin: Arc::clone(&self.pin),
        }
    }

    /// Returns the state in the version's root: without anything that came later, and with no inode open.
    pub(super) fn snapshot_of_version(&self) -> Snapshot {
        Snapshot { view: View::of(Arc::clone(&self.version)), opens: Opens::new(), ..self.snapshot() }
    }

    /// Gives later snapshots another reference count. The returned reference to the old one is dead when all earlier
    /// snapshots are gone.
    pub(super) fn renew_pin(&mut self) -> Weak<()> {
        Arc::downgrade(&std::mem::take(&mut self.pin))
    }

    /// Returns how many times something was changed, opened or closed.
    pub(super) fn changes(&self) -> u64 {
        self.stamp
    }

    /// Applies all changes of one operation. Returns false, and changes nothing, if something that the operation has
    /// read or changes was changed after its snapshot.
    pub(super) fn apply(&mut self, draft: Draft) -> bool {
        let base = draft.snapshot();
        if !self.stamps.hold(&draft.claims, base.stamp) {
            return false;
        }
        let adopt = (base.stamp, base.layout) == (self.stamp, self.layout);
        self.stamp += 1;
        self.stamps.set(&draft.claims, self.stamp);
        for (table, from, to) in &draft.ranges {
            self.pending.delete_range(table, from.clone(), to.clone());
        }
        for change in &draft.rows {
            if change.table.id() == schema::ORPHANS.id() {
                let inode = InodeId(change.key.a);
                let _ = if change.row.is_some() { self.orphans.insert(inode) } else { self.orphans.remove(&inode) };
            }
            if change.logged {
                self.pending.row(change.table, change.key.clone(), change.row.clone());
            }
            if !adopt {
                change.put_into(&mut self.active, base.layout == self.layout);
            }
        }
        self.count_thawed(&draft);
        draft.thawed.iter().for_each(|operation| self.pending.thawed(operation.clone()));
        self.totals.inodes = self.totals.inodes.saturating_add_signed(draft.inodes);
        self.totals.bytes = self.totals.bytes.wrapping_add_signed(draft.bytes);
        if self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
        if adopt {
            self.active = std::mem::take(draft.into_snapshot().view.active_mut());
        }
        true
    }

    /// Updates the number of live bytes in each segment of the thaw log, and the thawed bytes of each file, by the
    /// ranges that an operation adds and removes.
    fn count_thawed(&mut self, draft: &Draft) {
        let mut files = BTreeMap::<InodeId, (i128, bool)>::new();
        for change in &draft.frames {
            let number = self.segments.number(change.frame);
            let (bytes, _) = files.entry(change.inode).or_default();
            match change.added {
                true => {
                    self.frames.add(number, change.bytes);
                    *bytes = bytes.saturating_add(change.bytes.into());
                }
                false => {
                    self.frames.remove(number, change.bytes);
                    *bytes = bytes.saturating_sub(change.bytes.into());
                }
            }
        }
        for operation in &draft.thawed {
            if let Operation::Thawed(thawed) = operation
                && let Some((_, wrote)) = files.get_mut(&thawed.inode)
            {
                *wrote = !draft.only_moves;
            }
        }
        if files.is_empty() {
            return;
        }
        let now = Instant::now();
        for (inode, (bytes, wrote)) in files {
            let writing = self.opens.get(&inode).is_some_and(|handles| handles.writing > 0);
            self.dirty.change(inode, bytes, wrote, writing, now);
        }
    }

    /// Takes the operations that no commit contains yet, for a commit; `image_end` is the present end of the image.
    /// With `seal`, also sets the state aside for a checkpoint, unless there is such a state already.
    pub(super) fn take_group(&mut self, counters: Counters, image_end: u64, seal: bool) -> Group {
        if let Some(failed) = self.failed.take() {
            return failed;
        }
        let operations = std::mem::take(&mut self.pending).into_group(counters);
        self.appended = 0;
        self.oldest = None;
        let seal = (seal && self.sealed.is_none()).then(|| {
            self.sealed = Some(std::mem::take(&mut self.active));
            self.layout += 1;
            self.frames.seal();
            Seal { counters, totals: self.totals }
        });
        Group { operations, seal, image_end }
    }

    /// Returns whether a commit has anything to do.
    pub(super) fn has_pending(&self) -> bool {
        self.failed.is_some() || !self.pending.is_empty()
    }

    /// Returns about how many bytes the next commit will make durable.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending.bytes().saturating_add(self.appended)
    }

    /// Returns the version of the image, and the changed rows above it that were set aside for a checkpoint, if there
    /// are such rows.
    pub(super) fn sealed(&self) -> Option<(&Arc<Image>, &Overlay)> {
        self.sealed.as_ref().map(|sealed| (&self.version, sealed))
    }

    /// Records that the head's root now contains the state that was set aside for a checkpoint.
    pub(super) fn published(&mut self, version: Arc<Image>) {
        self.version = version;
        self.sealed = None;
        self.durable_seal = None;
        self.layout += 1;
        self.checkpointed = Some(Instant::now());
        self.frames.publish();
    }

    /// Returns the bytes of memory that changed rows take.
    pub(super) fn overlay_bytes(&self) -> usize {
        self.active.bytes() + self.sealed.as_ref().map_or(0, Overlay::bytes)
    }

    /// Returns the bytes of the log's lowest segments that no range of the state needs: a checkpoint may remove them.
    pub(super) fn garbage(&self) -> u64 {
        let Some(lowest) = self.segments.lowest() else { return 0 };
        // The last segment is still being written to.
        let last = lowest.saturating_add(self.segments.len() as u64).saturating_sub(1);
        let needed = self.frames.lowest_of_state().min(last);
        needed.saturating_sub(lowest).saturating_mul(self.segments.size())
    }

    /// Returns whether so much of the thaw log is needed by nothing that a checkpoint is worth it. `left` are the bytes
    /// that the last checkpoint could not remove.
    pub(super) fn has_much_garbage(&self, left: u64) -> bool {
        let size = self.segments.size();
        let least = GARBAGE_MIN.min(size.saturating_mul(GARBAGE_SEGMENTS));
        let log = size.saturating_mul(self.segments.len() as u64);
        // Before the first change there is no log, and the other bounds are 0.
        self.garbage().saturating_sub(left) >= least.max(log / 2).max(1)
    }

    /// Returns whether a checkpoint would write anything.
    pub(super) fn is_changed(&self) -> bool {
        self.sealed.is_some() || !self.active.is_empty()
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Makes the log's present segments readable.
    pub(super) fn set_segments(&mut self, segments: Arc<Segments>) {
        self.segments = segments;
    }

    pub(super) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Counts a handle, if the inode has not changed since `base`. An operation that unlinks it sees that it is open,
    /// or is evaluated again.
    pub(super) fn open(&mut self, inode: InodeId, writing: bool, base: u64) -> bool {
        let claim = Claim::Inode(inode);
        if !self.stamps.holds(claim, base) {
            return false;
        }
        let mut handles = self.opens.get(&inode).copied().unwrap_or_default();
        handles.all = handles.all.saturating_add(1);
        handles.writing = handles.writing.saturating_add(u32::from(writing));
        self.opens.insert(inode, handles);
        self.dirty.set_writing(inode, handles.writing > 0);
        self.stamp += 1;
        self.stamps.set_one(claim, self.stamp);
        true
    }

    /// Counts a handle as closed. Returns whether the inode may now be deleted in the background: it has no name, and
    /// nobody has it open.
    pub(super) fn release(&mut self, inode: InodeId, writing: bool) -> bool {
        let Some(mut handles) = self.opens.get(&inode).copied() else { return false };
        handles.all = handles.all.saturating_sub(1);
        handles.writing = handles.writing.saturating_sub(u32::from(writing));
        self.dirty.set_writing(inode, handles.all > 0 && handles.writing > 0);
        if handles.all > 0 {
            self.opens.insert(inode, handles);
            return false;
        }
        self.opens.remove(&inode);
        self.stamp += 1;
        self.stamps.set_one(Claim::Inode(inode), self.stamp);
        self.orphans.contains(&inode)
    }

    /// Counts all handles as closed.
    // Case 31.
    pub(super) fn close_all(&mut self) {
        self.stamp += 1;
        for inode in self.opens.keys() {
            self.stamps.set_one(Claim::Inode(*inode), self.stamp);
            self.dirty.set_writing(*inode, false);
        }
        self.opens = Opens::new();
    }

    /// Returns an orphan that nobody has open, if there is one.
    pub(super) fn reapable(&self) -> Option<InodeId> {
        self.orphans.iter().find(|inode| !self.opens.contains_key(*inode)).copied()
    }

    /// Returns how many inodes are open.
    pub(super) fn open_inodes(&self) -> usize {
        self.opens.len()
    }

    /// Refuses all changes from now on. The first reason is kept.
    pub(super) fn latch(&mut self, why: &str) {
        self.latch.get_or_insert_with(|| Latch(why.into()));
    }

    pub(super) fn check_latch(&self) -> Result<(), FsError> {
        match &self.latch {
            None => Ok(()),
            Some(_) => Err(FsError::ReadOnly),
        }
    }
}
