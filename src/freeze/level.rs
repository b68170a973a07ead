//! The level of the next batch: the highest at which the thaw log stays under half its budget.
//!
//! Pure: its input is how long batches took, how many bytes arrived, and the time; its output is a level. If bytes
//! arrive faster than the image's own level compresses them, a lower level is chosen before the log reaches half its
//! budget. A higher level is chosen only if it compresses faster than bytes arrive; so a steady load settles at one
//! level. Times count from any fixed moment. Called by whoever starts batches.

use std::collections::BTreeMap;
use std::time::Duration;

/// Lowest level of zstd that is chosen: lower ones are hardly faster. (The image's own level is never exceeded.)
pub const FAST: i32 = 3;

/// Shorter of the two time constants with which the rate of written bytes is smoothed; the larger of both results
/// counts. So a thaw log that fills up is noticed soon, and a pause is believed only after a while.
const SOON: Duration = Duration::from_secs(1);
/// Longer of the two time constants with which the rate of written bytes is smoothed.
const LATE: Duration = Duration::from_secs(10);

/// Time ahead for which the size of the thaw log is estimated, in addition to the time of the next batch.
const AHEAD: Duration = Duration::from_secs(5);

/// Largest age of a measured rate, relative to the latest one. An older rate is dropped: the data written now may be of
/// another kind.
const KEEP: Duration = Duration::from_secs(60);

/// Weight of a new measurement in the smoothed rate.
const NEWEST: f64 = 0.5;

/// A level above the last one is chosen only if its rate is at least this many times the rate at which bytes arrive,
/// because measured rates vary.
const MARGIN: f64 = 1.25;

/// Speeds in MB/s of one core at zstd's levels 1 to 22 on source text. They relate the rate of one level to that of
/// another, and are assumed before any batch is measured.
const SPEEDS: [u32; 22] = [500, 400, 300, 260, 150, 110, 90, 70, 60, 45, 35, 30, 13, 11, 10, 8, 6, 5, 4, 3, 3, 2];

/// The smoothed rate in bytes per second of a total that only grows and is sampled now and then.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrivals {
    total: u64,
    at: Duration,
    soon: f64,
    late: f64,
}

impl Arrivals {
    /// Records that the total is `total` at time `now`.
    pub fn saw(&mut self, total: u64, now: Duration) {
        let passed = now.saturating_sub(self.at);
        if passed.is_zero() {
            // No time has passed: these bytes count with the next sample.
            return;
        }
        let came = total.saturating_sub(self.total) as f64 / passed.as_secs_f64();
        let smooth = |rate: f64, time: Duration| {
            let old = (-passed.as_secs_f64() / time.as_secs_f64()).exp();
            rate * old + came * (1.0 - old)
        };
        (self.soon, self.late) = (smooth(self.soon, SOON), smooth(self.late, LATE));
        (self.total, self.at) = (total, now);
    }

    /// Returns the rate in bytes per second.
    pub fn rate(&self) -> u64 {
        self.soon.max(self.late) as u64
    }
}

/// A measured rate of a compression level.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Raw bytes per second.
    rate: f64,
    at: Duration,
}

/// How full the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Length of the thaw log in bytes.
    pub log: u64,
    /// Bytes that the thaw log may have.
    pub budget: u64,
}

/// Chooses the level of zstd at which the freezer keeps up with writers.
#[derive(Debug, Clone)]
pub struct Levels {
    own: i32,
    chosen: i32,
    measured: BTreeMap<i32, Measured>,
    /// When the latest batch was measured, on the clock of the caller.
    last: Duration,
    batch: u64,
}

impl Levels {
    /// Makes a chooser for an image packed at level `own`, frozen in batches of at most `batch` raw bytes.
    pub fn new(own: i32, batch: u64) -> Self {
        Levels { own, chosen: own, measured: BTreeMap::new(), last: Duration::ZERO, batch }
    }

    /// Records how long a batch of `bytes` raw bytes took at `level`.
    pub fn measured(&mut self, level: i32, bytes: u64, took: Duration, now: Duration) {
        if bytes == 0 || took.is_zero() {
            return;
        }
        let rate = bytes as f64 / took.as_secs_f64();
        let known = self.fresh(level).map_or(rate, |old| old * (1.0 - NEWEST) + rate * NEWEST);
        self.last = now;
        self.measured.insert(level, Measured { rate: known, at: now });
    }

    /// Returns the level chosen for the last batch.
    pub fn chosen(&self) -> i32 {
        self.chosen
    }

    /// Returns the raw bytes per second at the chosen level, measured or estimated.
    pub fn rate(&self) -> u64 {
        self.rate_at(self.chosen) as u64
    }

    /// Chooses the level of the next batch. Bytes arrive at `arriving` bytes per second.
    pub fn choose(&mut self, fill: Fill, arriving: u64) -> i32 {
        let lowest = FAST.min(self.own);
        if fill.log >= fill.budget {
            self.chosen = lowest;
            return lowest;
        }
        let (half, arriving) = (fill.budget as f64 / 2.0, arriving as f64);
        let keeps = |level: i32| {
            let rate = self.rate_at(level);
            // The bytes of a batch leave the log when the batch is done.
            let meanwhile = arriving * self.batch as f64 / rate;
            fill.log as f64 + meanwhile + (arriving - rate) * AHEAD.as_secs_f64() <= half
        };
        let up = |level: i32| level <= self.chosen || self.rate_at(level) >= arriving * MARGIN;
        let level = (lowest..=self.own).rev().find(|&level| up(level) && keeps(level));
        self.chosen = level.unwrap_or(lowest);
        self.chosen
    }

    /// Returns the rate measured at a level, unless it is too much older than the latest measurement.
    fn fresh(&self, level: i32) -> Option<f64> {
        let measured = self.measured.get(&level)?;
        (self.last.saturating_sub(measured.at) <= KEEP).then_some(measured.rate)
    }

    /// Returns the raw bytes per second at a level, more than 0. If the level was not measured, the rate is estimated
    /// from its nearest measured neighbours below and above, and is between theirs.
    fn rate_at(&self, level: i32) -> f64 {
        let rate = self.fresh(level).unwrap_or_else(|| {
            let mut all = self.measured.keys().filter_map(|&other| Some((other, self.fresh(other)?)));
            let above = all.clone().find(|&(other, _)| other > level);
            let below = all.rfind(|&(other, _)| other < level);
            let from = |(other, rate): (i32, f64)| rate * speed(level) / speed(other);
            match (below, above) {
                // The lower of the two: an estimate that is too high lets the log grow.
                (Some(below), Some(above)) => from(below).min(from(above)).max(above.1).min(below.1.max(above.1)),
                (Some(known), None) | (None, Some(known)) => from(known),
                (None, None) => speed(level),
            }
        });
        rate.max(1.0)
    }
}

/// Returns the assumed rate of a level, in bytes per second.
fn speed(level: i32) -> f64 {
    let last = SPEEDS.len() as i32;
    let index = usize::try_from(level.clamp(1, last) - 1).unwrap_or(0);
    f64::from(SPEEDS.get(index).copied().unwrap_or(1)) * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;
    const BATCH: u64 = 32 << 20;

    /// A freezer, its log, and the writers.
    struct Model {
        levels: Levels,
        arrivals: Arrivals,
        budget: u64,
        log: f64,
        total: f64,
        now: f64,
        /// When each batch ended, and its level.
        batches: Vec<(f64, i32)>,
        highest: f64,
        random: u64,
    }

    impl Model {
        fn new(own: i32, budget: u64) -> Self {
            Model {
                levels: Levels::new(own, BATCH),
                arrivals: Arrivals::default(),
                budget,
                log: 0.0,
                total: 0.0,
                now: 0.0,
                batches: Vec::new(),
                highest: 0.0,
                random: 88172645463325252,
            }
        }

        /// A random factor from 0.9 to 1.1.
        fn noise(&mut self) -> f64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            0.9 + (self.random % 1000) as f64 / 5000.0
        }

        fn pass(&mut self, seconds: f64, arriving: f64) {
            self.now += seconds;
            self.log += arriving * seconds;
            self.total += arriving * seconds;
            self.highest = self.highest.max(self.log);
        }

        /// Runs for `seconds`. Bytes arrive at `arriving` per second; levels compress at `rate` bytes per second.
        fn run(&mut self, seconds: f64, arriving: f64, rate: impl Fn(i32) -> f64) {
            let end = self.now + seconds;
            while self.now < end {
                let bytes = self.log.min(BATCH as f64);
                if bytes < 1e6 {
                    self.pass(0.25, arriving);
                    continue;
                }
                let now = Duration::from_secs_f64(self.now);
                self.arrivals.saw(self.total as u64, now);
                let level =
                    self.levels.choose(Fill { log: self.log as u64, budget: self.budget }, self.arrivals.rate());
                let took = bytes / (rate(level) * self.noise());
                self.pass(took, arriving);
                self.log -= bytes;
                let now = Duration::from_secs_f64(self.now);
                self.levels.measured(level, bytes as u64, Duration::from_secs_f64(took), now);
                self.batches.push((self.now, level));
            }
        }

        /// The levels from `from` seconds on, without repetitions.
        fn levels_from(&self, from: f64) -> Vec<i32> {
            let mut levels: Vec<_> = self.batches.iter().filter(|batch| batch.0 >= from).map(|batch| batch.1).collect();
            levels.dedup();
            levels
        }
    }

    /// The rate of two cores on text.
    fn text(level: i32) -> f64 {
        1.7 * speed(level)
    }

    /// Data that does not compress takes about the same time at each level.
    fn random(level: i32) -> f64 {
        400e6 / (1.0 + f64::from(level) / 20.0)
    }

    #[test]
    fn a_quiet_filesystem_is_frozen_at_its_own_level() {
        for own in [1, 3, 12, 19] {
            let mut model = Model::new(own, 1 << 30);
            model.run(300.0, 1e6, text);
            assert_eq!(model.levels_from(0.0), [own]);
        }
    }

    #[test]
    fn the_log_stays_under_half_where_some_level_keeps_up_and_the_level_settles() {
        for (own, budget, arriving) in [
            (12, 512 << 20, 100e6),
            (12, 512 << 20, 200e6),
            (12, 1 << 30, 65e6),
            (12, 1 << 30, 300e6),
            (15, 2 << 30, 40e6),
            (19, 16 << 30, 120e6),
            (22, 16 << 30, 250e6),
        ] {
            for rate in [text, random] {
                let mut model = Model::new(own, budget);
                model.run(1200.0, arriving, rate);
                let (highest, half) = (model.highest, budget as f64 / 2.0);
                assert!(highest <= half, "level {own}, {arriving} B/s: {highest} bytes of {half}");
                let settled = model.levels_from(600.0);
                assert!(settled.len() <= 2, "level {own}, {arriving} B/s: {settled:?}");
                assert!(settled.iter().all(|&level| rate(level) > arriving * 0.9), "{settled:?} at {arriving} B/s");
            }
        }
    }

    #[test]
    fn a_level_that_keeps_up_is_not_given_up() {
        let mut model = Model::new(12, 1 << 30);
        model.run(600.0, 30e6, text);
        assert_eq!(model.levels_from(0.0), [12]);
    }

    #[test]
    fn it_does_not_flap_between_two_levels_that_are_too_slow_and_fast_enough() {
        // Level 5 compresses 255 MB/s, level 6 187.
        let mut model = Model::new(12, 1 << 30);
        model.run(1800.0, 210e6, text);
        let changes = model.levels_from(0.0).len();
        assert!(changes <= 8, "{changes} changes: {:?}", model.levels_from(0.0));
        assert_eq!(model.levels_from(900.0), [5]);
    }

    #[test]
    fn where_no_level_keeps_up_it_is_the_fastest() {
        let mut model = Model::new(19, 1 << 30);
        model.run(60.0, 2e9, text);
        assert_eq!(model.levels_from(30.0), [3]);
    }

    #[test]
    fn it_goes_back_up_when_it_is_quiet_again() {
        let mut model = Model::new(15, 1 << 30);
        model.run(120.0, 250e6, text);
        assert!(model.levels_from(100.0).iter().all(|&level| level <= 5));
        model.run(600.0, 1e6, text);
        assert_eq!(model.levels_from(300.0), [15]);
    }

    #[test]
    fn what_was_measured_on_other_data_is_forgotten() {
        let mut model = Model::new(12, 512 << 20);
        // Level 12 is measured at 20 MB/s, but would reach 250 on the data that comes now.
        model.run(60.0, 10e6, |level| text(level) * 0.4);
        model.run(60.0, 150e6, |level| text(level) * 0.4);
        assert!(model.levels_from(100.0).iter().all(|&level| level < 6));
        model.run(900.0, 150e6, random);
        assert_eq!(model.levels_from(1000.0), [12]);
    }

    #[test]
    fn at_the_whole_budget_it_is_level_3_whatever_was_measured() {
        let mut levels = Levels::new(19, BATCH);
        levels.measured(19, 100 * MB, Duration::from_millis(1), Duration::from_secs(1));
        assert_eq!(levels.choose(Fill { log: 1 << 29, budget: 1 << 30 }, 0), 19);
        assert_eq!(levels.choose(Fill { log: 1 << 30, budget: 1 << 30 }, 0), FAST);
        assert_eq!(Levels::new(2, BATCH).choose(Fill { log: 1 << 30, budget: 1 << 30 }, 0), 2);
    }

    #[test]
    fn a_level_that_was_not_measured_is_estimated_between_its_neighbours() {
        let mut levels = Levels::new(12, BATCH);
        assert_eq!(levels.rate(), 30 * MB);
        let at = Duration::from_secs(1);
        levels.measured(12, 60 * MB, at, at);
        levels.measured(3, 90 * MB, at, at);
        let rates: Vec<_> = (3..=12).map(|level| levels.rate_at(level)).collect();
        assert!(rates.is_sorted_by(|a, b| a >= b), "{rates:?}");
        assert_eq!((rates[0], rates[9]), (90e6, 60e6));
        assert!(rates.iter().all(|&rate| (60e6..=90e6).contains(&rate)), "{rates:?}");
    }

    #[test]
    fn arrivals_are_smoothed_however_often_they_are_looked_at() {
        for steps in [1u64, 10, 1000] {
            let mut arrivals = Arrivals::default();
            let mut total = 0;
            for n in 0..60 * steps {
                total += 50 * MB / steps;
                arrivals.saw(total, Duration::from_secs_f64((n + 1) as f64 / steps as f64));
            }
            assert!((49 * MB..=50 * MB).contains(&arrivals.rate()), "{}", arrivals.rate());
            arrivals.saw(total, Duration::from_secs(120));
            assert!(arrivals.rate() < MB);
        }
    }
}
