//! The threads of a writable filesystem, and its end.

use super::FsError;
use super::finish::{Finished, finish};
use super::freezing::FreezeHow;
use super::live::Live;
use super::start::Found;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Level of zstd for the last freeze, while somebody waits for it: it saves most of the space in little time.
const END_LEVEL: i32 = 3;

/// The function that a thread runs.
type Run = fn(&Arc<Live>);

/// The threads of a writable filesystem, which run until [`Running::stop`].
pub struct Running {
    live: Arc<Live>,
    threads: Vec<JoinHandle<()>>,
}

impl Live {
    /// Starts the threads: those that make commits and checkpoints, the freezer, gc, and the one that sends delayed
    /// replies.
    ///
    /// # Errors
    /// Fails if a thread cannot be started.
    pub fn start_threads(self: &Arc<Self>) -> io::Result<Running> {
        let mut running = Running { live: Arc::clone(self), threads: Vec::new() };
        let threads = [
            ("commit", Live::run_committer as Run),
            ("checkpoint", Live::run_checkpointer),
            ("freeze", Live::run_freezer),
            ("gc", Live::run_gc),
            ("pace", Live::run_pacer),
        ];
        self.delays.open();
        for (name, run) in threads {
            let live = Arc::clone(self);
            let body = move || {
                if catch_unwind(AssertUnwindSafe(|| run(&live))).is_err() {
                    // It may have left something half done.
                    live.latch(&format!("thread '{name}' panicked"));
                    live.give_up_waiters();
                    live.delays.close();
                }
            };
            self.lock_state().has_threads = true;
            running.threads.push(std::thread::Builder::new().name(name.into()).spawn(body)?);
        }
        Ok(running)
    }

    /// Deletes orphans that nobody has open.
    ///
    /// # Errors
    /// Fails as any change does.
    pub fn reap_now(&self) -> Result<(), FsError> {
        loop {
            let Some(inode) = self.lock_state().reapable() else { return Ok(()) };
            self.reap(inode)?;
        }
    }

    /// Takes over a thaw log that was found and that nothing needs, or what is left of one, so that [`Live::end`]
    /// removes it. If there is none, nothing is written.
    ///
    /// # Errors
    /// Fails as any change does.
    pub fn take_over_log(&self) -> Result<(), FsError> {
        let is_there = self.found.lock().as_ref().is_some_and(Found::has_log);
        if !is_there {
            return Ok(());
        }
        self.begin()?;
        // The root has to record that the log has nothing more.
        self.checkpoint(true)
    }

    /// Ends the filesystem. All handles count as closed. Orphans are deleted. Everything is frozen, as fast as possible
    /// and for at most `limit`. Then a commit and a checkpoint are made. What is left in the thaw log stays there. With
    /// a limit of 0, nothing is frozen. Call this after the threads are stopped, when nobody calls anything else any
    /// more.
    ///
    /// # Errors
    /// Fails if not everything became durable, or the image could not be marked clean.
    pub fn end(&self, limit: Duration) -> Result<Finished, FsError> {
        self.lock_state().close_all();
        if !self.has_begun() && (self.has_recovered() || self.has_orphans()) {
            self.begin()?;
        }
        let freezes = !limit.is_zero() && self.lock_state().dirty.bytes() > 0;
        if !self.has_begun() && freezes {
            // An earlier session left something in the log. If it cannot be frozen, it stays there.
            let _ = self.begin().inspect_err(|error| tracing::warn!(%error, "the contents of the thaw log stay there"));
        }
        if !self.has_begun() {
            return Ok(Finished::Untouched);
        }
        // With a full disk, orphans and the checkpoint are left for next time; the commit is not.
        let reaped = self.reap_now();
        if freezes {
            self.freeze_until(limit);
        }
        self.commit_now()?;
        let checkpoint = self.checkpoint_now().and_then(|()| {
            // If a checkpoint was given up before, this one contained only what was sealed then.
            let has_more = self.lock_state().is_changed();
            if has_more { self.checkpoint_now() } else { Ok(()) }
        });
        if self.latched().is_some() {
            checkpoint.and(reaped)?;
            return Err(FsError::ReadOnly);
        }
        let image = self.image.lock().take();
        let log = self.log.lock().log.take();
        let (Some(log), Some(image)) = (log, image) else {
            return Err(FsError::io("the file system has ended already"));
        };
        let time = (self.options.clock)();
        let image_end = self.image_end.load(Ordering::Relaxed);
        let storage = Arc::clone(image.log.storage());
        let finished = finish(log, image.heads, &*image.home, &storage, image_end, (time.secs, time.nanos))?;
        if !matches!(finished, Finished::Kept { .. }) {
            // Frees what was allocated after the image's end. A failure only wastes space.
            let _ = storage.len().and_then(|len| storage.truncate(len));
        }
        Ok(finished)
    }

    /// Freezes everything at a low level. Whatever cannot be frozen stays in the thaw log.
    fn freeze_until(&self, limit: Duration) {
        let began = Instant::now();
        let stop = || began.elapsed() >= limit || self.lock_state().latch.is_some();
        let how = FreezeHow { level: Some(END_LEVEL), stop: &stop, ..FreezeHow::everything() };
        if let Err(error) = self.freeze_now(&how, &|_| ()) {
            tracing::warn!(%error, "not everything could be frozen: the rest stays in the thaw log");
        }
    }

    fn has_orphans(&self) -> bool {
        self.lock_state().reapable().is_some()
    }
}

impl Running {
    /// Commits all changes, ends the threads and waits for them.
    pub fn stop(mut self) {
        self.stop_threads();
    }

    fn stop_threads(&mut self) {
        let mut state = self.live.lock_state();
        (state.closing, state.has_threads) = (true, false);
        drop(state);
        self.live.changed.notify_all();
        self.live.delays.wake();
        for thread in self.threads.drain(..) {
            // A thread that panicked has latched.
            let _ = thread.join();
        }
        // If the thread never ran, nobody else sends the replies.
        self.live.delays.close();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop_threads();
    }
}
