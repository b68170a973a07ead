//! What the freezer's thread and everybody else tell each other.

use super::report::{FreezeProgress, FreezeReport, Freezing};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What others tell the freezer's thread, and it tells them.
#[derive(Default)]
pub(in crate::fs) struct Control {
    /// The last ticket that was given out.
    pub(super) asked: AtomicU64,
    /// The last one that asked for contents to be cut anew.
    pub(super) asked_deep: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) running: AtomicBool,
    /// When the thread begins.
    pub(super) freezing: Mutex<Freezing>,
    pub(super) shown: Mutex<Shown>,
    /// What a test does between the steps of a batch.
    #[cfg(test)]
    hook: Mutex<Option<(Option<Step>, Hook)>>,
}

impl Control {
    /// Whether somebody waits for a freeze.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > self.done.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
type Hook = Box<dyn FnOnce(Step) + Send>;

#[cfg(test)]
impl Control {
    pub(in crate::fs) fn at(&self, step: Step) {
        // Not held while it runs: what it does may freeze, too.
        let hook = self.hook.lock().take_if(|(at, _)| at.is_none_or(|at| at == step));
        if let Some((_, hook)) = hook {
            hook(step);
        }
    }

    /// Runs once, when such a step comes next.
    pub(in crate::fs) fn set_hook(&self, step: Step, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock() = Some((Some(step), Box::new(move |_| hook())));
    }

    /// Runs once, at the next step, whichever it is.
    pub(in crate::fs) fn set_hook_anywhere(&self, hook: impl FnOnce(Step) + Send + 'static) {
        *self.hook.lock() = Some((None, Box::new(hook)));
    }
}

/// What the freezer says of itself.
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
    /// Superchunks are appended and their rows pending; no file names them yet.
    Published,
    /// What may be equal is known; nothing was compared.
    Gathered,
    /// Two contents were compared, and nothing of it counts yet.
    Compared,
    /// A checkpoint with or for a snapshot has sealed the state, and writes nothing yet.
    Sealed,
    /// A snapshot has its moment, and nothing of it is frozen yet.
    Taken,
    /// A batch of a snapshot's moment is frozen.
    Frozen,
    /// Everything of a snapshot's moment is frozen.
    Packed,
}
