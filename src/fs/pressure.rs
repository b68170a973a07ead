//! How full the thaw log is, at which level it is frozen, and which replies wait for that.
//!
//! Fill and budget are written by those who append to the log or remove segments, under its lock, and read by anybody,
//! without one. The decisions are made in `freeze`; here are the numbers that they are made from. Its own mutex is held
//! for arithmetic only, and nothing else is locked under it. Called by `live`, `checkpoint`, `freezing`, `carry_over`,
//! `delays`.

use crate::format::codec::Compression;
use crate::freeze::level::{Arrivals, Fill, Levels};
use crate::freeze::pressure::{Delay, Freezer, Pace, budget, is_pressed, largest_segment};
use crate::storage::LogHome;
use crate::thaw::{self, ThawLog};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Divisor of the thaw log's budget: while somebody writes, nothing is frozen until that much is ready to be frozen.
const REST_PART: u64 = 8;

/// Divisor of the thaw log's budget: a batch has at most one part in this many, because its bytes leave the log only
/// when it is done.
const BATCH_PART: u64 = 8;

/// The level of zstd for which xz stands, if it is the image's codec. If xz is too slow, a lower level of zstd is used.
const OTHER_CODEC: i32 = 19;

/// Divisor of the free space: if that is less than the thaw log's budget, the log takes at most one part in this many
/// of it, because superchunks need space, too.
const SPACE_PART: u64 = 2;

/// Budget of the thaw log, and how full it is. Writers are slowed down when it fills.
pub(super) struct Pressure {
    /// Budget of the log in bytes; 0 if the free space decides when the log is begun.
    budget: AtomicU64,
    log: AtomicU64,
    /// Offset where the log ended when it was last looked at, which tells how many bytes arrived.
    end: AtomicU64,
    /// Bytes by which the log may grow, as far as there is space for it.
    room: AtomicU64,
    home: Mutex<Option<Arc<dyn LogHome>>>,
    /// Whether the freezer has found nothing that it may freeze, or has failed: then no reply to a write waits until
    /// superchunks are frozen.
    idle: AtomicBool,
    /// Whether the freezer has failed: then no reply to a write is delayed at all.
    failed: AtomicBool,
    /// Whether the freezer freezes only when it is asked to: then no reply to a write is delayed.
    unattended: AtomicBool,
    began: Instant,
    speed: Mutex<Speed>,
}

/// Speeds of the freezer that were measured.
#[derive(Default)]
struct Speed {
    arrivals: Arrivals,
    levels: Option<Levels>,
    pace: Pace,
    frozen: u64,
    superchunk: u64,
}

/// Level and rate of the freezer, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shown {
    pub(super) level: Option<i32>,
    /// Raw bytes per second; 0 if unknown.
    pub(super) rate: u64,
}

impl Pressure {
    /// Makes the state for a log with a budget of `budget` bytes; without one, the free space decides.
    pub(super) fn new(budget: Option<u64>) -> Self {
        Pressure {
            budget: AtomicU64::new(budget.unwrap_or(0)),
            log: AtomicU64::new(0),
            end: AtomicU64::new(0),
            room: AtomicU64::new(u64::MAX),
            home: Mutex::new(None),
            idle: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            unattended: AtomicBool::new(false),
            began: Instant::now(),
            speed: Mutex::default(),
        }
    }

    /// Measures the free space of the file system that is to hold the log. Returns the length of the log's segments in
    /// bytes; `None` if the file system does not tell.
    pub(super) fn settle(&self, home: &Arc<dyn LogHome>) -> Option<u64> {
        let free = home.space().ok()?.free;
        if self.budget.load(Ordering::Relaxed) == 0 {
            self.budget.store(budget(free), Ordering::Relaxed);
        }
        *self.home.lock() = Some(Arc::clone(home));
        Some(thaw::segment_size(free).min(largest_segment(self.budget())))
    }

    /// Records the present length of the log.
    pub(super) fn note(&self, log: &ThawLog) {
        self.log.store(log.extent(), Ordering::Relaxed);
        self.end.store(log.position().0, Ordering::Relaxed);
    }

    /// Measures the free space again.
    pub(super) fn look_at_space(&self) {
        let home = self.home.lock().clone();
        if let Some(Ok(space)) = home.map(|home| home.space()) {
            self.room.store(space.free / SPACE_PART, Ordering::Relaxed);
        }
    }

    /// Returns the budget: the bytes that the thaw log may have.
    pub(super) fn budget(&self) -> u64 {
        match self.budget.load(Ordering::Relaxed) {
            0 => budget(0),
            known => known,
        }
    }

    /// Returns how full the log was when it was last looked at. Where there is not space for all of the budget, a
    /// smaller budget counts.
    pub(super) fn fill(&self) -> Fill {
        let log = self.log.load(Ordering::Relaxed);
        Fill { log, budget: self.budget().min(log.saturating_add(self.room.load(Ordering::Relaxed))) }
    }

    /// Returns whether writers are faster than the freezer.
    pub(super) fn is_pressed(&self) -> bool {
        is_pressed(self.fill())
    }

    /// Returns whether the log has reached its budget.
    pub(super) fn is_full(&self) -> bool {
        let fill = self.fill();
        fill.log >= fill.budget
    }

    /// Returns the raw bytes of the next batch: a part of the thaw log's budget, at most `most`, but at least `least`.
    pub(super) fn batch(&self, most: u64, least: u64) -> u64 {
        most.min(self.budget() / BATCH_PART).max(least)
    }

    /// Returns the codec and level for the next batch, which has at most `batch` bytes, in an image whose own
    /// compression is `own`.
    pub(super) fn compression(&self, own: Compression, batch: u64) -> Compression {
        let top = match own {
            Compression::Zstd(level) => level,
            Compression::Xz(_) => OTHER_CODEC,
            other => return other,
        };
        let mut speed = self.speed.lock();
        speed.arrivals.saw(self.end.load(Ordering::Relaxed), self.time());
        let arriving = speed.arrivals.rate();
        let level = speed.levels.get_or_insert_with(|| Levels::new(top, batch)).choose(self.fill(), arriving);
        if level == top { own } else { Compression::Zstd(level) }
    }

    /// Records that a batch of `bytes` raw bytes took the time `took`, and that it consists of `superchunks`
    /// superchunks of at most `superchunk` raw bytes.
    pub(super) fn froze(&self, bytes: u64, took: Duration, superchunks: u64, superchunk: u64) {
        let now = self.time();
        let mut speed = self.speed.lock();
        if let Some(levels) = &mut speed.levels {
            let level = levels.chosen();
            levels.measured(level, bytes, took, now);
        }
        speed.frozen = speed.frozen.saturating_add(superchunks);
        speed.superchunk = superchunk;
    }

    /// Returns the number of superchunks that were frozen.
    pub(super) fn frozen(&self) -> u64 {
        self.speed.lock().frozen
    }

    /// Records whether the freezer found nothing to freeze, and whether it failed.
    pub(super) fn set_idle(&self, idle: bool, failed: bool) {
        self.idle.store(idle, Ordering::Relaxed);
        self.failed.store(failed, Ordering::Relaxed);
    }

    /// Records whether the freezer freezes only when it is asked to.
    pub(super) fn set_unattended(&self, unattended: bool) {
        self.unattended.store(unattended, Ordering::Relaxed);
    }

    /// Returns whether so few bytes are thawed that freezing would only disturb writers.
    pub(super) fn is_short(&self, thawed: u64) -> bool {
        thawed <= self.budget() / REST_PART
    }

    /// Returns the level and rate of the freezer.
    pub(super) fn shown(&self) -> Shown {
        let speed = self.speed.lock();
        let levels = speed.levels.as_ref();
        Shown { level: levels.map(Levels::chosen), rate: levels.map_or(0, Levels::rate) }
    }

    /// Returns when the reply to a write of `bytes` bytes may be sent, on the clock of [`Pressure::time`].
    pub(super) fn delay(&self, bytes: u64) -> Delay {
        let mut fill = self.fill();
        let alone = self.failed.load(Ordering::Relaxed) || self.unattended.load(Ordering::Relaxed);
        if alone || !is_pressed(fill) {
            return Delay::None;
        }
        if self.idle.load(Ordering::Relaxed) {
            fill.log = fill.log.min(fill.budget.saturating_sub(1));
        }
        let now = self.time();
        let mut speed = self.speed.lock();
        let rate = speed.levels.as_ref().map_or(0, Levels::rate);
        let freezer = Freezer { rate, frozen: speed.frozen, superchunk: speed.superchunk };
        speed.pace.delay(bytes, fill, freezer, now)
    }

    /// Returns the time since the moment that delays are counted from.
    pub(super) fn time(&self) -> Duration {
        self.began.elapsed()
    }

    #[cfg(test)]
    /// Sets the state to that of a log that has reached its budget.
    pub(super) fn set_full_for_tests(&self) {
        self.log.store(u64::MAX, Ordering::Relaxed);
    }
}
