//! The committer: makes pending operations durable, in the order in which they were applied in memory.
//!
//! A commit is begin, sync, end. Begin takes the pending operations and the waiters, and appends the group. The sync
//! holds no lock that an operation needs. End answers the waiters that arrived before begin [11]. Only one commit runs
//! at a time. A group that could not be written is retried unchanged, before anything newer [14]. A failed sync
//! latches: after one, the kernel may report success for bytes that it has dropped.

use super::FsError;
use super::live::{Live, PENDING_MAX};
use super::state::{Group, Seal, Sealed, Waiter};
use crate::thaw::{Begun, NotBegun, ThawError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A commit of the thaw log that has begun and has not ended.
struct Running {
    begun: Begun,
    waiters: Vec<Waiter>,
    seal: Option<Seal>,
    /// Whether the commit retries operations that could not be written before. It then contains nothing that came after
    /// these operations.
    retried: bool,
}

impl Live {
    /// Makes all changes so far durable in the thaw log, and answers those who wait for it.
    ///
    /// # Errors
    /// Fails with `NoSpace` if the thaw log cannot grow: the next commit tries again. After any other error, now or
    /// earlier, all changes are refused for good.
    pub fn commit_now(&self) -> Result<(), FsError> {
        self.commit(false)
    }

    /// Asks the thread that commits for a commit, and waits for it, if that thread runs.
    ///
    /// # Errors
    /// Fails as [`Live::commit_now`] does.
    pub fn sync_and_wait(&self) -> Result<(), FsError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        // The receiver below waits for exactly one answer.
        self.sync(Box::new(move |result| drop(sender.send(result))));
        receiver.recv().unwrap_or_else(|_| Err(FsError::io("the committer has ended")))
    }

    /// Makes all changes so far durable. With `seal`, the state that the commit makes durable is also set aside for a
    /// checkpoint (sealed), in the same step.
    // Case 2.
    pub(super) fn commit(&self, seal: bool) -> Result<(), FsError> {
        self.keep_what_came_back()?;
        let _one = self.committing.lock();
        loop {
            match self.begin_commit(seal)? {
                None => return Ok(()),
                Some(running) => {
                    let (synced, retried) = (running.begun.sync(), running.retried);
                    self.end_commit(running, synced)?;
                    if !retried {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// If somebody waits for a commit, writes again what was recovered after a crash, as is done before a first change.
    /// Until then it may be in the page cache only, and whoever asks for a commit is told that everything is durable.
    fn keep_what_came_back(&self) -> Result<(), FsError> {
        let nobody_waits = self.lock_state().waiters.is_empty();
        if nobody_waits || self.has_begun() || !self.has_recovered() {
            return Ok(());
        }
        self.begin().inspect_err(|error| {
            let waiters = std::mem::take(&mut self.lock_state().waiters);
            answer(waiters, || Err(error.again()));
        })
    }

    /// Begins a commit. Returns `None` if there is nothing to do.
    fn begin_commit(&self, seal: bool) -> Result<Option<Running>, FsError> {
        let mut side = self.log.lock();
        let came_back = self.has_recovered();
        let mut state = self.lock_state();
        if state.latch.is_some() {
            let waiters = std::mem::take(&mut state.waiters);
            drop((state, side));
            answer(waiters, || Err(FsError::latched()));
            return Err(FsError::ReadOnly);
        }
        let Some(log) = &mut side.log else {
            // Nothing was ever changed. If something was recovered and somebody has just come to wait for it, the next
            // commit answers.
            let waiters = if came_back { Vec::new() } else { std::mem::take(&mut state.waiters) };
            drop((state, side));
            answer(waiters, || Ok(()));
            return Ok(None);
        };
        let retried = state.failed.is_some();
        let sealing = seal && state.durable_seal.is_none();
        // A waiter is answered by the commit that contains its changes: if this one retries a group, that is the next
        // commit.
        let mut waiters = if retried { Vec::new() } else { std::mem::take(&mut state.waiters) };
        if !state.has_pending() && !sealing && !log.has_unsynced() {
            drop((state, side));
            answer(waiters, || Ok(()));
            return Ok(None);
        }
        // A freeze raises the image's end and makes rows pending in one step, under both locks. A group that could not
        // be written keeps its own end: the rows of a freeze since then are in the next one.
        let group = state.take_group(self.ids.counters(), self.image_end.load(Ordering::Relaxed), sealing);
        let image_end = group.image_end;
        state.syncing = Some(Instant::now());
        drop(state);
        let time = (self.options.clock)();
        match log.begin(group.operations, image_end, (time.secs, time.nanos)) {
            Ok(begun) => {
                self.log_is_short.store(!log.has_space(), Ordering::Relaxed);
                Ok(Some(Running { begun, waiters, seal: group.seal, retried }))
            }
            Err(NotBegun { error, operations }) => {
                let full = matches!(FsError::of_log(&error), FsError::NoSpace);
                let mut state = self.lock_state();
                state.failed = Some(Group { operations, seal: group.seal, image_end });
                state.syncing = None;
                if !full {
                    state.latch(&error.to_string());
                }
                waiters.append(&mut state.waiters);
                drop((state, side));
                self.changed.notify_all();
                answer(waiters, || Err(FsError::of_log(&error)));
                Err(error.into())
            }
        }
    }

    fn end_commit(&self, running: Running, synced: Result<(), ThawError>) -> Result<(), FsError> {
        let Running { begun, waiters, seal, .. } = running;
        let end = begun.transaction_end();
        let mut side = self.log.lock();
        let ended = match &mut side.log {
            Some(log) => log.end(begun, synced),
            None => Err(ThawError::Stopped),
        };
        drop(side);
        let mut state = self.lock_state();
        state.syncing = None;
        match &ended {
            Ok(transaction) => {
                if let Some(seal) = seal {
                    state.durable_seal = Some(Sealed { seal, transaction: *transaction, end });
                }
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed: the mount is read-only from now on");
                state.latch(&error.to_string());
            }
        }
        drop(state);
        self.changed.notify_all();
        match ended {
            Ok(_) => {
                answer(waiters, || Ok(()));
                Ok(())
            }
            Err(error) => {
                answer(waiters, || Err(FsError::of_log(&error)));
                Err(error.into())
            }
        }
    }

    /// Records in the log that its last commit is durable. Otherwise only the next commit would do so.
    ///
    /// # Errors
    /// Fails as [`Live::commit_now`] does.
    pub(super) fn record_last_commit(&self) -> Result<(), FsError> {
        let _one = self.committing.lock();
        let mut side = self.log.lock();
        let Some(log) = side.log.as_mut().filter(|log| log.has_unrecorded_commit()) else { return Ok(()) };
        {
            let state = self.lock_state();
            state.check_latch()?;
            if state.has_pending() {
                // The next commit records it. The image's end may belong to rows that are pending: without them it must
                // not be written.
                return Ok(());
            }
        }
        let time = (self.options.clock)();
        let image_end = self.image_end.load(Ordering::Relaxed);
        // Nothing is lost if this cannot be written.
        let begun =
            log.begin(Vec::new(), image_end, (time.secs, time.nanos)).map_err(|not| FsError::from(not.error))?;
        // No commit of later changes begins before this one has ended.
        self.lock_state().syncing = Some(Instant::now());
        drop(side);
        let synced = begun.sync();
        self.end_commit(Running { begun, waiters: Vec::new(), seal: None, retried: false }, synced)
    }

    /// Answers those who wait for a commit with an error: the thread that commits does not run any more.
    pub(super) fn give_up_waiters(&self) {
        let waiters = std::mem::take(&mut self.lock_state().waiters);
        answer(waiters, || Err(FsError::latched()));
    }

    /// Runs the thread that commits: when somebody waits for a commit, when there are many changes, and some time after
    /// the oldest change, until the filesystem begins to end.
    pub(super) fn run_committer(self: &Arc<Self>) {
        loop {
            let mut state = self.lock_state();
            let mut idle = false;
            loop {
                let urgent = !state.waiters.is_empty() || state.pending_bytes() >= PENDING_MAX;
                if state.closing || urgent || state.failed.is_some() {
                    break;
                }
                match state.oldest.map(|oldest| self.options.commit.saturating_sub(oldest.elapsed())) {
                    Some(left) if left.is_zero() => break,
                    Some(left) => drop(self.changed.wait_for(&mut state, left)),
                    None => {
                        idle = self.changed.wait_for(&mut state, self.options.commit).timed_out();
                        if idle {
                            break;
                        }
                    }
                }
            }
            let closing = state.closing;
            drop(state);
            // Waiters have been answered already. A failure has latched, or is tried again.
            let done = if idle { self.record_last_commit() } else { self.commit(false) };
            if closing {
                return;
            }
            if done.is_err() {
                let mut state = self.lock_state();
                if state.waiters.is_empty() && !state.closing {
                    self.changed.wait_for(&mut state, self.options.commit);
                }
            }
        }
    }
}

fn answer(waiters: Vec<Waiter>, result: impl Fn() -> Result<(), FsError>) {
    waiters.into_iter().for_each(|waiter| waiter(result()));
}
