//! How long the reply to a write is delayed, so that the thaw log stays within its budget.
//!
//! Pure: its input is how full the log is, how fast the freezer is, and the time; its output is a time. The write
//! itself is done already; a delayed reply holds no lock and no event loop. All replies are paced together, one after
//! another: several writers together are no faster than the freezer. Times count from any fixed moment. Called by `fs`.

use super::level::Fill;
use std::time::Duration;

/// Divisor of the free space that gives the default budget of the thaw log.
const SHARE: u64 = 10;
/// Smallest default budget of the thaw log in bytes.
const LEAST: u64 = 1 << 30;
/// Largest default budget of the thaw log in bytes.
const MOST: u64 = 16 << 30;

/// Smallest budget of the thaw log in bytes that a user can ask for: four of the smallest segments.
pub const SMALLEST: u64 = 16 << 20;

/// Least number of segments for which the thaw log's budget has room, since space is freed one segment at a time.
const SEGMENTS: u64 = 16;
/// Length of the smallest segment in bytes.
const SEGMENT_LEAST: u64 = 4 << 20;
/// Length of the largest segment in bytes.
const SEGMENT_MOST: u64 = 64 << 20;

/// Longest delay of a reply to a write, while the thaw log is below its budget.
const LONGEST: Duration = Duration::from_secs(1);

/// Longest time that a reply waits for a superchunk to be frozen: a freezer that is stuck must not stop all writers.
const LONGEST_STOP: Duration = Duration::from_secs(20);

/// Returns the default budget of the thaw log in bytes, by the free bytes of the file system that contains it.
pub fn budget(free: u64) -> u64 {
    (free / SHARE).clamp(LEAST, MOST)
}

/// Returns the largest size of a segment in bytes for a thaw log with this budget: a power of two.
pub fn largest_segment(budget: u64) -> u64 {
    let share = (budget / SEGMENTS).clamp(SEGMENT_LEAST, SEGMENT_MOST);
    1 << share.ilog2()
}

/// Returns whether writers are faster than the freezer. Then replies are delayed, files that are open for writing are
/// frozen, too, and compressors run at normal priority.
pub fn is_pressed(fill: Fill) -> bool {
    fill.log >= fill.budget / 2
}

/// When the reply to a write may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// The reply may be sent at once.
    None,
    /// The reply may be sent at this time.
    Until(Duration),
    /// The reply may be sent when this many superchunks are frozen, but no later than a given time.
    Frozen {
        /// Value of [`Freezer::frozen`] from which the reply may be sent.
        count: u64,
        /// Latest time at which the reply is sent.
        latest: Duration,
    },
}

/// Speed and progress of the freezer, from which delays are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freezer {
    /// Raw bytes per second that the freezer compresses now; 0 if unknown.
    pub rate: u64,
    /// Number of superchunks that were frozen.
    pub frozen: u64,
    /// Raw bytes of a superchunk.
    pub superchunk: u64,
}

/// Computes the delays of replies to writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Time at which the last reply may be sent that is delayed because the freezer is slower than writers.
    due: Duration,
    /// Count of superchunks that the last reply waits for, and the bytes written by all writes that wait for this
    /// count.
    stop: (u64, u64),
}

impl Pace {
    /// Returns when the reply to a write of `bytes` bytes may be sent.
    pub fn delay(&mut self, bytes: u64, fill: Fill, freezer: Freezer, now: Duration) -> Delay {
        if fill.log >= fill.budget {
            return self.stop(bytes, freezer, now);
        }
        if !is_pressed(fill) {
            return Delay::None;
        }
        let alone = match freezer.rate {
            0 => LONGEST,
            rate => Duration::try_from_secs_f64(bytes as f64 / rate as f64).unwrap_or(LONGEST),
        };
        let latest = now.saturating_add(LONGEST);
        self.due = self.due.max(now).saturating_add(alone).min(latest);
        Delay::Until(self.due)
    }

    /// Returns the delay of the reply to a write of `bytes` bytes while the thaw log has used up its budget. For each
    /// superchunk that is frozen, replies are sent to writes of at most as many bytes as a superchunk has, but to one
    /// write at least.
    fn stop(&mut self, bytes: u64, freezer: Freezer, now: Duration) -> Delay {
        let next = freezer.frozen.saturating_add(1);
        let (count, given) = self.stop;
        let latest = now.saturating_add(LONGEST_STOP);
        self.stop = if count < next {
            (next, bytes)
        } else if given.saturating_add(bytes) <= freezer.superchunk {
            (count, given.saturating_add(bytes))
        } else {
            (count.saturating_add(1), bytes)
        };
        Delay::Frozen { count: self.stop.0, latest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: u64 = 512 << 20;
    const FREEZER: Freezer = Freezer { rate: 100 << 20, frozen: 7, superchunk: 4 << 20 };

    fn fill(log: u64) -> Fill {
        Fill { log, budget: BUDGET }
    }

    #[test]
    fn the_budget_is_a_tenth_of_the_free_space_within_bounds() {
        for (free, expected) in [(0, 1 << 30), (5 << 30, 1 << 30), (100 << 30, 10 << 30), (u64::MAX, 16 << 30)] {
            assert_eq!(budget(free), expected, "{free} bytes free");
        }
    }

    #[test]
    fn a_segment_is_at_most_a_sixteenth_of_the_budget() {
        for (budget, expected) in [
            (0, 4 << 20),
            (SMALLEST, 4 << 20),
            (64 << 20, 4 << 20),
            (512 << 20, 32 << 20),
            (1000 << 20, 32 << 20),
            (1 << 30, 64 << 20),
            (u64::MAX, 64 << 20),
        ] {
            assert_eq!(largest_segment(budget), expected, "budget {budget}");
        }
    }

    #[test]
    fn nothing_is_held_back_below_half_of_the_budget() {
        let mut pace = Pace::default();
        assert_eq!(pace.delay(1 << 20, fill(BUDGET / 2 - 1), FREEZER, Duration::from_secs(9)), Delay::None);
        assert!(!is_pressed(fill(BUDGET / 2 - 1)) && is_pressed(fill(BUDGET / 2)));
    }

    #[test]
    fn from_half_on_replies_follow_one_another_at_the_rate_of_the_freezer() {
        let (mut pace, now) = (Pace::default(), Duration::from_secs(9));
        let at = |ms| Delay::Until(now + Duration::from_millis(ms));
        assert_eq!(pace.delay(1 << 20, fill(BUDGET / 2), FREEZER, now), at(10));
        assert_eq!(pace.delay(2 << 20, fill(BUDGET / 2), FREEZER, now), at(30));
        // If no reply is waiting, the next one waits only for its own bytes.
        assert_eq!(pace.delay(1 << 20, fill(BUDGET - 1), FREEZER, now + Duration::from_millis(90)), at(100));
    }

    #[test]
    fn no_reply_is_held_back_for_more_than_a_second_below_the_whole_budget() {
        let (mut pace, now) = (Pace::default(), Duration::from_secs(9));
        let latest = Delay::Until(now + LONGEST);
        for rate in [0, 1, 1 << 20] {
            for _ in 0..10 {
                let delay = pace.delay(1 << 20, fill(BUDGET - 1), Freezer { rate, ..FREEZER }, now);
                assert!(rate > 1 || delay == latest, "{delay:?}");
            }
        }
        assert_eq!(pace.delay(1 << 20, fill(BUDGET - 1), FREEZER, now), latest);
    }

    #[test]
    fn at_the_whole_budget_replies_wait_for_superchunks_and_at_most_20_seconds() {
        let (mut pace, now) = (Pace::default(), Duration::from_secs(9));
        let latest = now + LONGEST_STOP;
        let mut next = |bytes: u64, frozen: u64| {
            let delay = pace.delay(bytes, fill(BUDGET), Freezer { frozen, ..FREEZER }, now);
            let Delay::Frozen { count, latest: at } = delay else { panic!("{delay:?}") };
            assert_eq!(at, latest);
            count
        };
        // Four of 1 MiB for each superchunk of 4 MiB.
        let counts: Vec<_> = (0..9).map(|_| next(1 << 20, 7)).collect();
        assert_eq!(counts, [8, 8, 8, 8, 9, 9, 9, 9, 10]);
        // A write larger than a superchunk waits for a superchunk of its own.
        assert_eq!((next(9 << 20, 7), next(1, 7)), (11, 12));
        // Never for one that is frozen already.
        assert_eq!(next(1 << 20, 20), 21);
    }

    /// Writers that each wait for their reply, and a freezer that is slower: the log stays within its budget, except
    /// for writes that are being handled.
    #[test]
    fn writers_who_wait_do_not_get_past_the_budget() {
        const WRITE: u64 = 1 << 20;
        const WRITERS: usize = 64;
        let (mut pace, mut log, mut frozen, mut part) = (Pace::default(), 0u64, 0u64, 0u64);
        let mut waiting = [Delay::None; WRITERS];
        let (mut highest, mut written) = (0, 0u64);
        for ms in 0..120_000u64 {
            let now = Duration::from_millis(ms);
            // 20 MB/s.
            part += 20_000.min(log);
            log -= 20_000.min(log);
            frozen += part / FREEZER.superchunk;
            part %= FREEZER.superchunk;
            for delay in &mut waiting {
                let answered = match *delay {
                    Delay::None => true,
                    Delay::Until(at) => at <= now,
                    Delay::Frozen { count, latest } => count <= frozen || latest <= now,
                };
                if answered {
                    log += WRITE;
                    written += WRITE;
                    highest = highest.max(log);
                    let freezer = Freezer { rate: 20_000_000, frozen, ..FREEZER };
                    *delay = pace.delay(WRITE, fill(log), freezer, now);
                }
            }
        }
        assert!(highest <= BUDGET + 2 * WRITERS as u64 * WRITE, "{highest}");
        // They are not delayed more than needed: what was written is what the freezer froze plus what is in the log.
        assert!(written >= 120 * 20_000_000, "{written}");
        assert!(log >= BUDGET / 2, "{log}");
    }
}
