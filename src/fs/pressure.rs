//! How full the thaw log is, and what its budget is.
//!
//! Written by those who append to the log or remove segments, under its lock; read by anybody, without one. Called by `live`,
//! `checkpoint`, `carry_over`.

use super::live::Live;
use super::state::State;
use crate::freeze::level::Fill;
use crate::freeze::pressure::{budget, largest_segment};
use crate::storage::LogHome;
use crate::thaw::{self, ThawLog};
use std::sync::atomic::{AtomicU64, Ordering};

/// A checkpoint is due when segments that nothing in the state needs take this part of the budget.
const CHECKPOINT_PART: u64 = 4;

/// Budget and fill of the thaw log.
pub(super) struct Pressure {
    /// 0: by the free space, when the log is begun.
    budget: AtomicU64,
    log: AtomicU64,
}

impl Pressure {
    /// With a budget of so many bytes; by the free space, if it is not given.
    pub(super) fn new(budget: Option<u64>) -> Self {
        Pressure { budget: AtomicU64::new(budget.unwrap_or(0)), log: AtomicU64::new(0) }
    }

    /// Looks at the free space where the log is to lie. Returns the bytes of its segments; `None` if it cannot tell.
    pub(super) fn settle(&self, home: &dyn LogHome) -> Option<u64> {
        let free = home.space().ok()?.free;
        if self.budget.load(Ordering::Relaxed) == 0 {
            self.budget.store(budget(free), Ordering::Relaxed);
        }
        Some(thaw::segment_size(free).min(largest_segment(self.fill().budget)))
    }

    /// The log is as it is now.
    pub(super) fn note(&self, log: &ThawLog) {
        self.log.store(log.extent(), Ordering::Relaxed);
    }

    /// How full the log was when it was last noted.
    pub(super) fn fill(&self) -> Fill {
        let budget = match self.budget.load(Ordering::Relaxed) {
            0 => budget(0),
            known => known,
        };
        Fill { log: self.log.load(Ordering::Relaxed), budget }
    }
}

impl Live {
    /// Whether so much of the log is not needed once a root of the present state is published that a checkpoint is worth it;
    /// `left` of it the last one did not remove.
    pub(super) fn log_wants_checkpoint(&self, state: &State, left: u64) -> bool {
        state.garbage().saturating_sub(left) >= self.pressure.fill().budget / CHECKPOINT_PART
    }
}
