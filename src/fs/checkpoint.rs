//! Checkpoints: after one, the image's head contains what was sealed.
//!
//! Sealing is part of a commit's begin, so the sealed state is exactly what the log has up to one transaction. The head
//! is published only after that commit is durable [2]. A checkpoint whose write fails is given up, and tried again with
//! the same sealed state. A failed sync of the image or a failed publication latches [24]. Afterwards the segments that
//! nothing needs any more are removed [10].

use super::FsError;
use super::begin::binding;
use super::ids;
use super::live::{ImageSide, Live};
use super::snapshot::Snapshot;
use super::state::{Sealed, State};
use crate::format::head::ro_compat;
use crate::format::ids::LogOffset;
use crate::format::limits;
use crate::format::transaction::Counters;
use crate::meta::{self, CheckpointInput, NewSnapshot, ThawMark, write_checkpoint};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A checkpoint is due when segments that nothing in the present state needs take up the thaw log's budget divided by
/// this.
const CHECKPOINT_PART: u64 = 4;

impl Live {
    /// Makes the head's root contain all changes so far. Thawed bytes stay in the thaw log. If an earlier checkpoint
    /// was given up, this one contains only the changes that were to be in that one; later changes take another
    /// checkpoint.
    ///
    /// # Errors
    /// `NoSpace`: it may be tried again. Any other error: changes are refused from now on.
    pub fn checkpoint_now(&self) -> Result<(), FsError> {
        self.checkpoint(false)
    }

    /// Makes a checkpoint as [`Live::checkpoint_now`] does. With `unchanged`, makes one even if nothing has changed.
    pub(super) fn checkpoint(&self, unchanged: bool) -> Result<(), FsError> {
        let mut image = self.image.lock();
        let Some(image) = image.as_mut() else { return Ok(()) };
        let sealed = self.lock_state().durable_seal;
        let sealed = match sealed {
            Some(sealed) => sealed,
            None if !unchanged && !self.lock_state().is_changed() => return self.commit(false),
            None => {
                self.commit(true)?;
                self.lock_state().durable_seal.ok_or_else(|| FsError::io("the state could not be sealed"))?
            }
        };
        #[cfg(test)]
        self.freezer.at(super::freezing::control::Step::Sealed);
        self.publish(image, sealed, None)?;
        self.remove_segments(sealed.end)
    }

    /// Makes the head's root contain all changes so far, even if an earlier checkpoint was given up. Returns the state
    /// that the root has: nothing that comes later is in it, and no file in it is open.
    pub(super) fn checkpoint_moment(&self) -> Result<Snapshot, FsError> {
        let mut image = self.image.lock();
        let image = image.as_mut().ok_or_else(FsError::ended)?;
        self.checkpoint_anew(image, None)?;
        Ok(self.lock_state().snapshot_of_version())
    }

    /// Makes the head's root contain all changes so far and this snapshot. Returns the snapshot's ordinal; the one in
    /// `new` is ignored.
    pub(super) fn checkpoint_with(&self, new: NewSnapshot<'_>) -> Result<u64, FsError> {
        let mut image = self.image.lock();
        let image = image.as_mut().ok_or_else(FsError::ended)?;
        let ordinal = ids::next(&self.ids.ordinal, limits::ID).ok_or(FsError::NoSpace)?;
        self.checkpoint_anew(image, Some(NewSnapshot { ordinal, ..new }))?;
        Ok(ordinal)
    }

    /// Makes a checkpoint of the present state. If an earlier checkpoint was given up, first makes that one.
    fn checkpoint_anew(&self, image: &mut ImageSide, snapshot: Option<NewSnapshot<'_>>) -> Result<(), FsError> {
        loop {
            // Nobody else can seal: the caller holds the image's lock.
            let was_sealed = self.lock_state().sealed().is_some();
            self.commit(true)?;
            let sealed = self.lock_state().durable_seal;
            let sealed = sealed.ok_or_else(|| FsError::io("the state could not be sealed"))?;
            #[cfg(test)]
            self.freezer.at(super::freezing::control::Step::Sealed);
            self.publish(image, sealed, snapshot.filter(|_| !was_sealed))?;
            let removed = self.remove_segments(sealed.end);
            if !was_sealed {
                // The root contains what it should. Segments that are still there are removed by the next checkpoint.
                return match removed {
                    Err(error) if snapshot.is_none() => Err(error),
                    _ => Ok(()),
                };
            }
        }
    }

    /// Writes the blocks and the root of a checkpoint, with a snapshot if one is given, and then both head slots.
    /// `sealed` is the state that the checkpoint contains.
    fn publish(&self, image: &mut ImageSide, sealed: Sealed, snapshot: Option<NewSnapshot<'_>>) -> Result<(), FsError> {
        let (version, changes) = {
            let state = self.lock_state();
            state.check_latch()?;
            let (version, changes) = state.sealed().ok_or_else(|| FsError::io("nothing is sealed"))?;
            (Arc::clone(version), changes.clone())
        };
        self.is_still_the_image(image)?;
        if let Some(new) = &snapshot {
            // The reserve is for checkpoints of the head only.
            self.allocate_before_reserve(meta::estimate(new.changes, new.version))?;
        }
        let log_id = self.log.lock().log.as_ref().map_or(0, |log| log.log_id());
        let shared = self.saved.load(Ordering::Relaxed);
        let input = CheckpointInput {
            version: &version,
            changes: &changes,
            counters: self.counters_of(&sealed),
            inodes: sealed.seal.totals.inodes,
            bytes: sealed.seal.totals.bytes,
            shared,
            time: (self.options.clock)(),
            thaw: ThawMark { log_id, transaction: sealed.transaction, offset: sealed.end.0 },
            snapshot,
        };
        let written = write_checkpoint(&mut image.log, input).map_err(|error| {
            let failure = FsError::of_checkpoint(&error);
            // Cutting back the image also freed the space that was allocated after its end.
            self.reserved.store(0, Ordering::Relaxed);
            if error.is_final() {
                self.latch(&error.to_string());
            }
            failure
        })?;
        self.ids.raise(&written.counters);
        let published = image.heads.publish(|head| {
            head.root = written.place;
            head.root_hash = written.root_hash;
            head.log_end = LogOffset(written.log_end);
            if snapshot.is_some() {
                head.ro_compat |= ro_compat::SNAPSHOTS;
            }
        });
        if let Err(error) = published {
            self.latch(&error.to_string());
            return Err(FsError::io(error.to_string()));
        }
        let head = image.heads.newest().clone();
        let binding = binding(&head);
        let next = match version.successor(head, written.root) {
            Ok(next) => Arc::new(next),
            Err(error) => {
                self.latch(&error.to_string());
                return Err(error.into());
            }
        };
        self.image_end.store(written.log_end, Ordering::SeqCst);
        self.reserved.store(0, Ordering::SeqCst);
        self.saved.fetch_sub(shared, Ordering::Relaxed);
        if let Some(log) = &mut self.log.lock().log {
            log.set_binding(binding);
        }
        self.lock_state().published(next);
        Ok(())
    }

    /// Returns the counters of the new root. Blocks take the next ids of subchunks and superchunks, and a freeze may
    /// have given out some since the state was set aside; ordinals are given out here. All this happens under the
    /// image's lock, which the caller holds, so no id is given out twice.
    fn counters_of(&self, sealed: &Sealed) -> Counters {
        let Counters { subchunk, superchunk, ordinal, .. } = self.ids.counters();
        sealed.seal.counters.larger(Counters { subchunk, superchunk, ordinal, ..Counters::default() })
    }

    /// Checks that the image's path still leads to the file that is being written: somebody may have replaced it.
    pub(super) fn is_still_the_image(&self, image: &ImageSide) -> Result<(), FsError> {
        image.home.check_image().map_err(|error| {
            self.latch(&error.to_string());
            FsError::io(error.to_string())
        })
    }

    /// Removes the segments that are needed neither by a root, nor by the state, nor by a transaction after `end`.
    fn remove_segments(&self, end: LogOffset) -> Result<(), FsError> {
        let mut side = self.log.lock();
        let Some(log) = &mut side.log else { return Ok(()) };
        let lowest = self.lock_state().frames.lowest();
        let bound = lowest.map_or(end.0, |number| number.saturating_mul(log.segment_size()).min(end.0));
        let before = log.lowest_segment();
        let removed = log.remove_before(LogOffset(bound));
        self.pressure.note(log);
        self.pressure.look_at_space();
        self.delays.wake();
        if log.lowest_segment() != before {
            self.lock_state().set_segments(log.segments());
        }
        removed.map_err(|error| {
            // The next checkpoint tries again to remove the rest, unless a sync failed.
            if log.is_stopped() {
                self.latch(&error.to_string());
            }
            error.into()
        })
    }

    /// Makes checkpoints, and deletes orphans that nobody has open, when that is due, until the filesystem begins to
    /// end.
    pub(super) fn run_checkpointer(self: &Arc<Self>) {
        let mut last = Last::default();
        loop {
            let mut state = self.lock_state();
            while !state.closing && state.reapable().is_none() && !self.is_due(&state, last) {
                self.changed.wait(&mut state);
                last.garbage = last.garbage.min(state.garbage());
            }
            if state.closing || state.latch.is_some() {
                return;
            }
            let (due, bytes, garbage) = (self.is_due(&state, last), state.overlay_bytes(), state.garbage());
            let (lowest, given_up) = (state.segments().lowest(), state.sealed().is_some());
            drop(state);
            // A failure has latched, or the checkpoint is tried again when more has changed.
            if due {
                let failed = self.checkpoint_now().is_err();
                let mut state = self.lock_state();
                // Garbage that was there before and could not be removed waits for more. Garbage that came during the
                // checkpoint takes another one.
                // So does what an earlier checkpoint had sealed that was given up: this one published no more.
                let moved = state.segments().lowest() != lowest || given_up && !failed;
                let left = if moved { 0 } else { garbage.min(state.garbage()) };
                last = Last { failed_at: if failed { bytes } else { 0 }, garbage: left };
                state.checkpoint_failed = failed;
                drop(state);
                self.changed.notify_all();
            }
            if self.reap_until_due(last).is_err() {
                let mut state = self.lock_state();
                if !state.closing {
                    self.changed.wait_for(&mut state, self.options.commit);
                }
            }
        }
    }

    /// Deletes orphans that nobody has open, until a checkpoint is due. The deletions alone may make one due.
    fn reap_until_due(&self, last: Last) -> Result<(), FsError> {
        loop {
            let inode = {
                let state = self.lock_state();
                let stops = state.closing || self.is_due(&state, last);
                state.reapable().filter(|_| !stops)
            };
            let Some(inode) = inode else { return Ok(()) };
            self.reap_some(inode)?;
        }
    }

    /// Returns whether publishing a root of the present state would free so much of the log that a checkpoint is worth
    /// it. `left` are the bytes that the last checkpoint could not remove.
    pub(super) fn log_wants_checkpoint(&self, state: &State, left: u64) -> bool {
        state.garbage().saturating_sub(left) >= self.pressure.budget() / CHECKPOINT_PART
    }

    /// Returns whether a checkpoint is due: much has changed, or much of the thaw log is needed by nothing.
    fn is_due(&self, state: &State, last: Last) -> bool {
        let bytes = state.overlay_bytes();
        bytes >= self.checkpoint_at() && bytes > last.failed_at.saturating_add(last.failed_at / 8)
            || state.has_much_garbage(last.garbage)
            || self.log_wants_checkpoint(state, last.garbage)
    }
}

/// What the last checkpoint left undone.
#[derive(Clone, Copy, Default)]
struct Last {
    /// Bytes of changed rows at the time of the last checkpoint, if it failed.
    failed_at: usize,
    /// Bytes of the thaw log that nothing needs and that are still there.
    garbage: u64,
}
