//! The writable state: what is there now, and what no commit contains yet.
//!
//! One mutex guards it, which is held for memory operations only. Changes come in by [`State::apply`] alone, which puts a
//! draft's rows into the active overlay and its operations into the pending ones in one step: the order of the log is the
//! order of memory [3]. Called by `live` and the parts of it (`commit`, `checkpoint`).

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

/// So many bytes of the log that nothing names are worth a checkpoint, if they are half of it; or so many segments, where those
/// are small since there is little space.
const GARBAGE_MIN: u64 = 64 << 20;
const GARBAGE_SEGMENTS: u64 = 4;

/// Who waits for a commit. Called without any lock.
pub type Waiter = Box<dyn FnOnce(Result<(), FsError>) + Send>;

/// What the head's view has, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Inodes that have a name.
    pub inodes: u64,
    /// Bytes of its regular files.
    pub bytes: u64,
}

/// What was sealed: with the rows in `sealed` it makes a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seal {
    pub(super) counters: Counters,
    pub(super) totals: Totals,
}

/// What one commit contains.
pub(super) struct Group {
    pub(super) operations: Vec<Operation>,
    /// Whether the state was sealed when the operations were taken.
    pub(super) seal: Option<Seal>,
}

/// A seal whose commit is durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) seal: Seal,
    /// Number of the last transaction of its group.
    pub(super) transaction: u64,
    /// Where that transaction ends in the thaw log.
    pub(super) end: LogOffset,
}

/// Why changes are refused.
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
    /// Inodes without a name; those that nobody has open are the reaper's.
    orphans: BTreeSet<InodeId>,
    totals: Totals,
    segments: Arc<Segments>,
    /// Where the log ended when this mount began to write.
    session: LogOffset,
    pub(super) frames: Frames,
    /// Files with bytes in the log.
    pub(super) dirty: DirtyFiles,
    pending: Pending,
    /// Written bytes that were appended since the last commit was begun.
    pub(super) appended: u64,
    /// Since when something is pending.
    pub(super) oldest: Option<Instant>,
    /// A group that could not be written: it is retried unchanged, before anything else.
    pub(super) failed: Option<Group>,
    pub(super) waiters: Vec<Waiter>,
    /// Since when a commit is being synced.
    pub(super) syncing: Option<Instant>,
    /// What is sealed and durable, and not yet in the head.
    pub(super) durable_seal: Option<Sealed>,
    pub(super) latch: Option<Latch>,
    /// A committer and a checkpointer run.
    pub(super) has_threads: bool,
    /// When the last checkpoint of this mount was made.
    pub(super) checkpointed: Option<Instant>,
    /// The last checkpoint failed.
    pub(super) checkpoint_failed: bool,
    /// The end has begun: threads end.
    pub(super) closing: bool,
    /// Every snapshot has one.
    pin: Arc<()>,
}

/// What a state begins with.
pub(super) struct Basis {
    pub(super) version: Arc<Image>,
    pub(super) active: Overlay,
    pub(super) totals: Totals,
    pub(super) orphans: BTreeSet<InodeId>,
    pub(super) frames: Frames,
    pub(super) dirty: DirtyFiles,
    pub(super) segments: Arc<Segments>,
    pub(super) session: LogOffset,
    /// Operations that no commit contains yet: what recovery found lost.
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

    /// Takes another basis for the one it has, before anything was changed. The rows say the same, but thawed ranges may name
    /// other frames: so no draft on a snapshot from before counts.
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

    /// The state that the version's root has: without what came since, and nobody has anything open.
    pub(super) fn snapshot_of_version(&self) -> Snapshot {
        Snapshot { view: View::of(Arc::clone(&self.version)), opens: Opens::new(), ..self.snapshot() }
    }

    /// Later snapshots have another pin. The one given is gone when all earlier ones are.
    pub(super) fn renew_pin(&mut self) -> Weak<()> {
        Arc::downgrade(&std::mem::take(&mut self.pin))
    }

    /// How often something was changed, opened or closed.
    pub(super) fn changes(&self) -> u64 {
        self.stamp
    }

    /// Makes a draft count, whole. Gives it up, changing nothing, if something that it claims is not as it was.
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

    /// Counts what a draft changes of thawed ranges, by segment and by file.
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

    /// Takes what is pending for a commit, and seals the state if `seal` says so and nothing is sealed yet.
    pub(super) fn take_group(&mut self, counters: Counters, seal: bool) -> Group {
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
        Group { operations, seal }
    }

    /// Whether a commit has something to do.
    pub(super) fn has_pending(&self) -> bool {
        self.failed.is_some() || !self.pending.is_empty()
    }

    /// About how many bytes the next commit makes durable.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.pending.bytes().saturating_add(self.appended)
    }

    /// What is sealed.
    pub(super) fn sealed(&self) -> Option<(&Arc<Image>, &Overlay)> {
        self.sealed.as_ref().map(|sealed| (&self.version, sealed))
    }

    /// The head's root has what was sealed.
    pub(super) fn published(&mut self, version: Arc<Image>) {
        self.version = version;
        self.sealed = None;
        self.durable_seal = None;
        self.layout += 1;
        self.checkpointed = Some(Instant::now());
        self.frames.publish();
    }

    /// Bytes that changed rows take.
    pub(super) fn overlay_bytes(&self) -> usize {
        self.active.bytes() + self.sealed.as_ref().map_or(0, Overlay::bytes)
    }

    /// Bytes of the log's lowest segments that no range of the state is in: a checkpoint may remove them.
    pub(super) fn garbage(&self) -> u64 {
        let Some(lowest) = self.segments.lowest() else { return 0 };
        // The last one takes what comes next.
        let last = lowest.saturating_add(self.segments.len() as u64).saturating_sub(1);
        let needed = self.frames.lowest_of_state().min(last);
        needed.saturating_sub(lowest).saturating_mul(self.segments.size())
    }

    /// Whether that is a good part of the log, and worth a checkpoint; `left` of it the last one did not remove.
    pub(super) fn has_much_garbage(&self, left: u64) -> bool {
        let size = self.segments.size();
        let least = GARBAGE_MIN.min(size.saturating_mul(GARBAGE_SEGMENTS));
        let log = size.saturating_mul(self.segments.len() as u64);
        // Before the first change there is no log, and none of these is more than nothing.
        self.garbage().saturating_sub(left) >= least.max(log / 2).max(1)
    }

    /// Whether a checkpoint would write anything.
    pub(super) fn is_changed(&self) -> bool {
        self.sealed.is_some() || !self.active.is_empty()
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Makes the segments readable that the log has now.
    pub(super) fn set_segments(&mut self, segments: Arc<Segments>) {
        self.segments = segments;
    }

    pub(super) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Counts a handle, if the inode is still as it was at `base`. Those who unlink it see that it is open, or begin anew.
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

    /// A handle is gone. Whether the inode is now the reaper's.
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

    /// All handles count as closed [31].
    pub(super) fn close_all(&mut self) {
        self.stamp += 1;
        for inode in self.opens.keys() {
            self.stamps.set_one(Claim::Inode(*inode), self.stamp);
            self.dirty.set_writing(*inode, false);
        }
        self.opens = Opens::new();
    }

    /// An orphan that nobody has open.
    pub(super) fn reapable(&self) -> Option<InodeId> {
        self.orphans.iter().find(|inode| !self.opens.contains_key(*inode)).copied()
    }

    /// How many inodes are open.
    pub(super) fn open_inodes(&self) -> usize {
        self.opens.len()
    }

    /// Nothing is changed any more: the first reason stays.
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
