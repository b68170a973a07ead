//! The freezer's thread: freezes by itself what has been closed, and everything when somebody asks for it.
//!
//! By itself it begins when the ready bytes would fill a superchunk, and when nobody has written for a minute; it
//! leaves bytes that fill no superchunk. While writers are faster, open files are frozen, too. Between two freezes it
//! copies live ranges out of old segments of the log. After a failure it waits. Called by `running`.

use super::report::{FreezeHow, FreezeReport, FreezerStatus, Freezing};
use crate::freeze::Priority;
use crate::fs::FsError;
use crate::fs::live::Live;
use crate::fs::state::State;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time without writes after which bytes are frozen, however few they are.
const IDLE: Duration = Duration::from_secs(60);
/// Time without writes after which the freezer's thread may freeze by itself, even if the thaw log is short.
const REST: Duration = Duration::from_secs(1);
/// Interval at which the freezer's thread checks whether to freeze, while there is something to freeze.
const LOOK: Duration = Duration::from_millis(500);
/// Time after a failed freeze before the next attempt.
const BACKOFF: Duration = Duration::from_secs(30);
/// Time to wait if writers are faster than the freezer and nothing can be frozen.
const PAUSE: Duration = Duration::from_secs(1);
/// Divisor of the thaw log's budget: if writers are faster than the freezer, one part in this many is worth freezing,
/// too, because a superchunk may be larger than a small budget.
const ENOUGH_PART: u64 = 8;
/// Interval at which the files that are open for writing are checked: nobody may write to some of them any more.
const QUIET: Duration = Duration::from_secs(30);

/// State that the freezer's thread keeps between two checks whether to freeze.
struct Looks {
    /// Number of bytes that were ready to be frozen and that the last freeze left.
    left: u64,
    /// Time of the last write before the last freeze: an idle filesystem is frozen once after each write.
    idle_for: Option<Instant>,
    /// Time when the files that are open for writing were last checked.
    quiet: Instant,
    /// Time before which nothing is frozen, after a failure or if nothing can be frozen.
    not_before: Option<Instant>,
    /// Length of the thaw log in bytes at which old segments are looked at again, after nothing in them could be
    /// copied.
    sparse_from: u64,
}

/// Why the freezer's thread begins to freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody asked for a freeze: requests with tickets up to this one.
    Asked(u64),
    /// The thaw log takes too much space.
    Pressed,
    /// Enough bytes are ready to be frozen, or nobody has written for a while.
    Itself,
    /// Anything is thawed, and [`Freezing::Eager`] says not to wait for more.
    Eager,
    /// Nothing is frozen: live ranges are only copied, because a few live bytes keep old segments of the log.
    Sparse,
}

impl Live {
    /// Asks the freezer's thread to freeze everything and to make a checkpoint. With `deep`, contents that were made by
    /// changes are cut again. Returns a ticket: the work is done once [`FreezerStatus::ticket_done`] reaches it.
    pub fn request_freeze(&self, deep: bool) -> u64 {
        // Under the mutex, so that the thread cannot miss the notification.
        let state = self.lock_state();
        let ticket = self.freezer.asked.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if deep {
            self.freezer.asked_deep.fetch_max(ticket, Ordering::Relaxed);
        }
        drop(state);
        self.changed.notify_all();
        ticket
    }

    /// Sets when the freezer's thread begins to freeze.
    pub fn set_freezing(&self, freezing: Freezing) {
        *self.freezer.freezing.lock() = freezing;
        self.pressure.set_unattended(freezing == Freezing::Off);
        self.changed.notify_all();
    }

    /// Returns the state of the freezer.
    pub fn freezer_status(&self) -> FreezerStatus {
        let (queue_bytes, queue_files, failed_files) = {
            let state = self.lock_state();
            (state.dirty.bytes(), state.dirty.len() as u64, state.dirty.failed() as u64)
        };
        let control = &self.freezer;
        let speed = self.pressure.shown();
        let shown = control.shown.lock();
        FreezerStatus {
            running: control.running.load(Ordering::Relaxed),
            freezing: *control.freezing.lock(),
            ticket: control.asked.load(Ordering::Relaxed),
            ticket_done: control.done.load(Ordering::Relaxed),
            last: shown.last,
            all: shown.all,
            error: shown.error.clone(),
            queue_bytes,
            queue_files,
            failed_files,
            level: speed.level,
            rate: speed.rate,
            progress: shown.progress,
        }
    }

    /// Runs the freezer's thread: freezes when it is time, until the filesystem begins to end or refuses changes.
    pub(in crate::fs) fn run_freezer(self: &Arc<Self>) {
        let mut looks = Looks { left: 0, idle_for: None, quiet: Instant::now(), not_before: None, sparse_from: 0 };
        while let Some(why) = self.wait_for_freeze(&mut looks) {
            let written = self.lock_state().dirty.written();
            self.freezer.running.store(true, Ordering::Relaxed);
            let done = self.freeze_for(why);
            self.freezer.running.store(false, Ordering::Relaxed);
            if why != Why::Sparse {
                let nothing = done.as_ref().is_ok_and(|report| report.frozen_bytes == 0);
                self.pressure.set_idle(nothing, done.is_err());
            }
            self.delays.wake();
            let carried = self.carry_over(&|| !self.is_ending());
            if let Err(error) = &carried {
                // As long as there is no space, or for good.
                tracing::debug!(%error, "old segments of the thaw log stay");
            }
            let fill = self.pressure.fill().log;
            looks.sparse_from = match carried {
                Ok(copied) if copied > 0 => 0,
                // What cannot be read keeps its segment. That must not keep other files from being frozen.
                _ => fill.saturating_add(self.lock_state().segments().size()),
            };
            let mut shown = self.freezer.shown.lock();
            match &done {
                Ok(report) => {
                    shown.error = None;
                    shown.all = shown.all.and(report);
                    if let Why::Asked(_) = why {
                        shown.last = Some(*report);
                    }
                    // Under pressure it goes on as long as there is something to do.
                    let idles = why != Why::Itself && report.frozen_bytes == 0;
                    looks.not_before = if idles { Instant::now().checked_add(PAUSE) } else { None };
                }
                Err(error) => {
                    tracing::warn!(%error, "a freeze was given up; what is written stays in the thaw log");
                    shown.error = Some(error.to_string());
                    looks.not_before = Instant::now().checked_add(BACKOFF);
                }
            }
            drop(shown);
            let state = self.lock_state();
            if why != Why::Sparse {
                (looks.left, looks.idle_for) = (state.dirty.ready(), written);
            }
            if let Why::Asked(ticket) = why {
                self.freezer.done.store(ticket, Ordering::Relaxed);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits until it is time to freeze, and returns why. Returns `None` once the filesystem begins to end or refuses
    /// changes.
    fn wait_for_freeze(&self, looks: &mut Looks) -> Option<Why> {
        let superchunk = self.superchunk_size();
        let mut state = self.lock_state();
        loop {
            if state.closing || state.latch.is_some() {
                return None;
            }
            let asked = self.freezer.asked.load(Ordering::Relaxed);
            if asked > self.freezer.done.load(Ordering::Relaxed) {
                return Some(Why::Asked(asked));
            }
            if state.dirty.bytes() == 0 {
                looks.left = 0;
                self.changed.wait(&mut state);
                continue;
            }
            let now = Instant::now();
            if looks.not_before.is_none_or(|until| until <= now)
                && let Some(why) = self.is_time(&mut state, looks, superchunk, now)
            {
                return Some(why);
            }
            self.changed.wait_for(&mut state, LOOK);
        }
    }

    fn is_time(&self, state: &mut State, looks: &mut Looks, superchunk: u64, now: Instant) -> Option<Why> {
        let freezing = *self.freezer.freezing.lock();
        if freezing != Freezing::Off && self.pressure.is_pressed() {
            // Less than that makes no room worth mentioning.
            let enough = superchunk.min(self.pressure.budget() / ENOUGH_PART);
            if state.dirty.bytes() >= enough {
                return Some(Why::Pressed);
            }
        }
        if self.pressure.fill().log >= looks.sparse_from && self.segments_to_empty(state).is_some() {
            return Some(Why::Sparse);
        }
        // Nothing of the image is written before the first change.
        if !self.has_begun() {
            return None;
        }
        state.dirty.expire(now);
        match freezing {
            Freezing::Auto => {}
            Freezing::Off => return None,
            Freezing::Eager => return state.dirty.has_more_than_held().then_some(Why::Eager),
        }
        // Whoever writes has the processor to himself, while the log is short.
        let written = state.dirty.written();
        let rests = written.is_none_or(|written| now.saturating_duration_since(written) >= REST);
        if !rests && self.pressure.is_short(state.dirty.bytes()) {
            return None;
        }
        let ready = state.dirty.ready();
        looks.left = looks.left.min(ready);
        // What the last freeze left is matched once more. It may be much, because recipes took most of it from elsewhere:
        // so each attempt waits for as much again.
        if ready - looks.left >= superchunk.max(looks.left) {
            return Some(Why::Itself);
        }
        let is_idle = written.is_some_and(|written| now.saturating_duration_since(written) >= IDLE);
        if is_idle && looks.idle_for != written {
            return Some(Why::Itself);
        }
        if state.dirty.bytes() - ready >= superchunk && now.saturating_duration_since(looks.quiet) >= QUIET {
            looks.quiet = now;
            let quiet = state.dirty.iter().filter(|(_, file)| file.is_writing() && file.is_eligible(now));
            let bytes = quiet.fold(0u64, |sum, (_, file)| sum.saturating_add(file.bytes));
            return (bytes >= superchunk).then_some(Why::Itself);
        }
        None
    }

    fn superchunk_size(&self) -> u64 {
        u64::from(self.snapshot().view().params().superchunk_size)
    }

    fn is_ending(&self) -> bool {
        let state = self.lock_state();
        state.closing || state.latch.is_some()
    }

    fn freeze_for(&self, why: Why) -> Result<FreezeReport, FsError> {
        let stop = || self.is_ending();
        let how = match why {
            Why::Asked(ticket) => {
                let deep = self.freezer.asked_deep.load(Ordering::Relaxed) > self.freezer.done.load(Ordering::Relaxed)
                    && self.freezer.asked_deep.load(Ordering::Relaxed) <= ticket;
                FreezeHow {
                    everything: true,
                    by_rate: true,
                    priority: Priority::Low,
                    deep,
                    stop: &stop,
                    ..FreezeHow::default()
                }
            }
            Why::Pressed => {
                // What fills no superchunk is frozen, too, where the log has no room for a superchunk's worth. Reading
                // the superchunk's size takes the state's lock as well.
                let superchunk = self.superchunk_size();
                let rest = self.lock_state().dirty.bytes() < superchunk;
                FreezeHow { rest, open_files: true, by_rate: true, stop: &stop, ..FreezeHow::default() }
            }
            Why::Eager => FreezeHow { everything: true, by_rate: true, stop: &stop, ..FreezeHow::default() },
            Why::Itself => FreezeHow { priority: Priority::Idle, by_rate: true, stop: &stop, ..FreezeHow::default() },
            Why::Sparse => return Ok(FreezeReport::default()),
        };
        let observer = |progress| self.freezer.shown.lock().progress = progress;
        let report = self.freeze_now(&how, &observer)?;
        if let Why::Asked(_) = why {
            // Afterwards the image alone is complete.
            self.checkpoint_now()?;
            if self.lock_state().is_changed() {
                self.checkpoint_now()?;
            }
        }
        Ok(report)
    }
}
