//! What the freezer's thread and the others tell each other.

use super::report::{FreezeProgress, FreezeReport, Freezing};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Requests to the freezer's thread, and the state that it reports.
#[derive(Default)]
pub(in crate::fs) struct Control {
    /// Ticket (number) of the last request.
    pub(super) asked: AtomicU64,
    /// Ticket (number) of the last request that asked for contents to be cut again.
    pub(super) asked_deep: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) running: AtomicBool,
    /// When the freezer's thread freezes by itself.
    pub(super) freezing: Mutex<Freezing>,
    pub(super) shown: Mutex<Shown>,
    /// Function that a test runs between the steps of a batch.
    #[cfg(test)]
    hook: Mutex<Option<(Option<Step>, Hook)>>,
}

impl Control {
    /// Returns whether somebody waits for a freeze.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > self.done.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
type Hook = Box<dyn FnOnce(Step) + Send>;

#[cfg(test)]
impl Control {
    pub(in crate::fs) fn at(&self, step: Step) {
        // The lock is not held while the hook runs: the hook may freeze, too.
        let hook = self.hook.lock().take_if(|(at, _)| at.is_none_or(|at| at == step));
        if let Some((_, hook)) = hook {
            hook(step);
        }
    }

    /// Runs `hook` once, when a batch next reaches the step `step`.
    pub(in crate::fs) fn set_hook(&self, step: Step, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock() = Some((Some(step), Box::new(move |_| hook())));
    }

    /// Runs `hook` once, when a batch next reaches any step.
    pub(in crate::fs) fn set_hook_anywhere(&self, hook: impl FnOnce(Step) + Send + 'static) {
        *self.hook.lock() = Some((None, Box::new(hook)));
    }
}

/// The state that the freezer reports.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) last: Option<FreezeReport>,
    pub(super) all: FreezeReport,
    pub(super) error: Option<String>,
    pub(super) progress: FreezeProgress,
}

/// Steps of a batch, for tests that change files in between.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) enum Step {
    /// Superchunks are appended, and their rows wait for the next commit. No file names them yet.
    Published,
    /// Superchunks are packed again: their frames are appended, and their rows wait for the next commit.
    Repacked,
    /// Candidates for equal contents are known. Nothing has been compared.
    Gathered,
    /// Two contents have been compared. Nothing of it counts yet.
    Compared,
    /// A checkpoint has set the state aside. Nothing is written yet.
    Sealed,
    /// It is decided which moment a snapshot shows. Nothing of it is frozen yet.
    Taken,
    /// A batch is frozen for a snapshot.
    Frozen,
    /// Everything that a snapshot shows is frozen.
    Packed,
}
