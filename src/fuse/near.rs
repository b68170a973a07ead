//! Decides when the event loops of a mount run on the CPU of the requesting process: what the loops count, and the
//! decision.
//!
//! A process that handles small files sends one request after another and sleeps meanwhile, so it and the event loop
//! never run at the same time. But the scheduler spreads them over two CPUs, so each request and each reply wakes a
//! sleeping CPU. In a virtual machine that takes longer than the request itself. If both run on one CPU, nothing is
//! woken.
//!
//! Pure: no threads, no clock, no system calls; `follow` has these. Loops only count. Each call of [`Judge::judge`]
//! looks at what was counted since the previous one; that time is a *tick*. Invariants: loops are near only while a
//! single process sends many small requests, and for a bounded time. It is measured before and after whether this is
//! faster; if it is not, the loops stay away for longer and longer. Loops that make no progress are released within two
//! ticks. Called by `writing` and `follow`.

use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::Thread;

/// Least number of bytes of a large request. A large request takes longer than waking a CPU, so a process that sends it
/// profits from a second CPU.
const BULK: usize = 128 << 10;

/// Number of requests of one process in a row that wake the judge: the thread that decides on which CPUs event loops
/// run.
const WAKING: u32 = 64;

/// Number of requests of one process in one tick that make a streak. A tick is the time between two decisions on which
/// CPUs event loops run.
const STREAK: u32 = 16;

/// Divisor: in a streak, at most one request out of this many comes from another process, and at most one is large.
const PURITY: u32 = 16;

/// Number of ticks without a streak after which the judge goes to sleep: the thread that decides on which CPUs event
/// loops run.
const QUIET: u32 = 16;

/// Number of ticks in which requests are counted before event loops are moved to the CPU of the process that sends
/// them, and again afterwards. The first tick of each series is not counted: only a part of it may belong to the
/// series.
const MEASURED: u32 = 4;

/// Number of ticks after which it is measured again whether it is useful that event loops run on the CPU of the process
/// that sends requests.
const TERM: u32 = 512;

/// Shortest and longest pause, in ticks, after an attempt that was not useful.
const MIN_REST: u32 = 16;
const MAX_REST: u32 = 2048;

/// Counts of the requests that event loops answer. All of it is a hint: counts may be off by a few.
#[derive(Default)]
pub(super) struct Traffic {
    /// Thread id (as the kernel gives it) of the process whose requests `own` counts; 0 for nobody.
    requester: AtomicU32,
    own: AtomicU32,
    /// Thread id of the process that sent the last request which `own` does not count, and the number of such requests.
    other: AtomicU32,
    others: AtomicU32,
    bulky: AtomicU32,
    /// Whether the thread that decides on which CPUs event loops run sleeps until there is a streak of requests.
    asleep: AtomicBool,
    /// Whether the mount is no longer served.
    over: AtomicBool,
    judge: OnceLock<Thread>,
    /// Thread ids of the event loops.
    loops: Mutex<Vec<u32>>,
}

/// Counts of the requests that came during one tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Thread id of the process whose requests were counted.
    pub(super) requester: u32,
    /// Number of requests of that process.
    pub(super) own: u32,
    /// Number of requests of other processes.
    pub(super) others: u32,
    /// Number of large requests, whoever sent them.
    pub(super) bulky: u32,
}

impl Traffic {
    /// Counts a request of `requester` that moves `bytes` bytes. 0 means the kernel itself, or a process without a
    /// number in this namespace.
    pub(super) fn note(&self, requester: u32, bytes: usize) {
        if bytes >= BULK {
            self.bulky.fetch_add(1, Ordering::Relaxed);
        }
        if requester == 0 {
            return;
        }
        let is_asleep = self.asleep.load(Ordering::Relaxed);
        if requester == self.requester.load(Ordering::Relaxed) {
            let own = self.own.fetch_add(1, Ordering::Relaxed);
            if is_asleep && own >= WAKING && self.asleep.swap(false, Ordering::AcqRel) {
                self.wake();
            }
        } else if is_asleep {
            self.count_for(requester);
        } else {
            self.other.store(requester, Ordering::Relaxed);
            self.others.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds an event loop, by the id of its thread.
    pub(super) fn add_loop(&self, thread_id: u32) {
        self.loops.lock().push(thread_id);
    }

    /// Returns the thread ids of the event loops that have answered something.
    pub(super) fn loops(&self) -> Vec<u32> {
        self.loops.lock().clone()
    }

    /// Returns the counts since the last call. If other processes sent more requests than the one that was counted, one
    /// of the others is counted from now on.
    pub(super) fn take(&self) -> Sample {
        let sample = Sample {
            requester: self.requester.load(Ordering::Relaxed),
            own: self.own.swap(0, Ordering::Relaxed),
            others: self.others.swap(0, Ordering::Relaxed),
            bulky: self.bulky.swap(0, Ordering::Relaxed),
        };
        if sample.others > sample.own {
            self.requester.store(self.other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        sample
    }

    /// Records that the calling thread is the judge from now on: it decides on which CPUs event loops run, and a streak
    /// of requests wakes it.
    pub(super) fn judged_here(&self) {
        // Only called once, so this cannot fail.
        self.judge.set(std::thread::current()).ok();
    }

    /// Waits for a streak of requests, or until the mount is no longer served.
    pub(super) fn sleep(&self) {
        self.own.store(0, Ordering::Relaxed);
        self.asleep.store(true, Ordering::Release);
        while self.asleep.load(Ordering::Acquire) && !self.is_over() {
            std::thread::park();
        }
    }

    /// Records that the mount is no longer served.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    /// Returns whether [`Traffic::end`] was called.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn count_for(&self, requester: u32) {
        self.requester.store(requester, Ordering::Relaxed);
        self.own.store(1, Ordering::Relaxed);
    }

    fn wake(&self) {
        if let Some(judge) = self.judge.get() {
            judge.unpark();
        }
    }
}

/// How long the judge, which decides on which CPUs event loops run, waits until its next decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The judge waits for the usual time.
    Tick,
    /// The judge waits for this many ticks. Requests that come meanwhile do not count.
    Rest(u32),
    /// The judge waits until there is a streak: many small requests of one process in one tick.
    Streak,
}

/// Decision about the CPU on which event loops should run in the next tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The CPU on which event loops should run; `None` if the scheduler decides.
    pub(super) cpu: Option<usize>,
    pub(super) wait: Wait,
}

const ANYWHERE: Verdict = Verdict { cpu: None, wait: Wait::Tick };

/// Decides where event loops run, from samples of the requests.
pub(super) struct Judge {
    phase: Phase,
    /// Length of the next pause in ticks, after an attempt that was not useful.
    rest: u32,
}

#[derive(Clone, Copy)]
enum Phase {
    /// There was no streak of requests for `quiet` ticks.
    Watching { quiet: u32 },
    /// The scheduler decides on which CPUs event loops run, and the requests of a streak are being counted.
    Measuring { requester: u32, ticks: u32, count: u32 },
    /// Event loops run on the CPU of the process that sends the requests.
    Near(Near),
}

#[derive(Clone, Copy)]
struct Near {
    requester: u32,
    cpu: usize,
    ticks: u32,
    /// Number of requests that were counted since event loops run on the CPU of the process, and in as many ticks
    /// before that.
    count: u32,
    before: u32,
    /// Whether the previous tick had too few requests for event loops to stay on this CPU.
    is_weak: bool,
}

impl Default for Judge {
    fn default() -> Self {
        Judge { phase: Phase::Watching { quiet: 0 }, rest: MIN_REST }
    }
}

impl Sample {
    fn is_pure(&self) -> bool {
        let limit = self.own / PURITY;
        self.others <= limit && self.bulky <= limit
    }

    fn is_streak(&self) -> bool {
        self.requester != 0 && self.own >= STREAK && self.is_pure()
    }
}

impl Judge {
    /// Decides on which CPU event loops should run after a tick with this `sample`. `cpu_of` returns the CPU on which a
    /// thread ran last.
    pub(super) fn judge(&mut self, sample: Sample, cpu_of: impl FnOnce(u32) -> Option<usize>) -> Verdict {
        match self.phase {
            Phase::Watching { quiet } => self.watch(sample, quiet),
            Phase::Measuring { requester, ticks, count } if sample.is_streak() && sample.requester == requester => {
                let (ticks, count) = (ticks + 1, count.saturating_add(sample.own));
                self.phase = Phase::Measuring { requester, ticks, count };
                if ticks < MEASURED {
                    return ANYWHERE;
                }
                match cpu_of(requester) {
                    Some(cpu) => {
                        let (before, count) = (count, 0);
                        self.stay(Near { requester, cpu, ticks: 0, count, before, is_weak: false })
                    }
                    None => self.give_up(),
                }
            }
            Phase::Measuring { .. } => self.watch(sample, 0),
            Phase::Near(near) => self.keep(near, sample, cpu_of),
        }
    }

    fn watch(&mut self, sample: Sample, quiet: u32) -> Verdict {
        if sample.is_streak() {
            self.phase = Phase::Measuring { requester: sample.requester, ticks: 0, count: 0 };
            return ANYWHERE;
        }
        let quiet = quiet + 1;
        self.phase = Phase::Watching { quiet: quiet % QUIET };
        let wait = if quiet < QUIET { Wait::Tick } else { Wait::Streak };
        Verdict { cpu: None, wait }
    }

    fn keep(&mut self, near: Near, sample: Sample, cpu_of: impl FnOnce(u32) -> Option<usize>) -> Verdict {
        let is_weak = sample.own < STREAK;
        let is_its = sample.requester == near.requester && (sample.is_pure() || (is_weak && sample.others == 0));
        if !is_its || (is_weak && near.is_weak) {
            self.phase = Phase::Watching { quiet: 0 };
            return ANYWHERE;
        }
        let mut near = Near { ticks: near.ticks + 1, is_weak, ..near };
        // The first tick is not counted.
        if (2..=MEASURED + 1).contains(&near.ticks) {
            near.count = near.count.saturating_add(sample.own);
        }
        if near.ticks == MEASURED + 1 {
            if near.count <= near.before {
                return self.give_up();
            }
            self.rest = MIN_REST;
        }
        if near.ticks >= TERM {
            self.phase = Phase::Watching { quiet: 0 };
            return ANYWHERE;
        }
        let Some(cpu) = cpu_of(near.requester) else { return self.give_up() };
        near.cpu = cpu;
        self.stay(near)
    }

    fn stay(&mut self, near: Near) -> Verdict {
        self.phase = Phase::Near(near);
        Verdict { cpu: Some(near.cpu), wait: Wait::Tick }
    }

    /// Ends an attempt to run event loops on the CPU of a process, because it was not useful: pauses for a while.
    fn give_up(&mut self) -> Verdict {
        let rest = self.rest;
        self.rest = (rest * 2).min(MAX_REST);
        self.phase = Phase::Watching { quiet: 0 };
        Verdict { cpu: None, wait: Wait::Rest(rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTER: u32 = 77;

    fn sample(own: u32) -> Sample {
        Sample { requester: REQUESTER, own, others: 0, bulky: 0 }
    }

    /// Verdicts on ticks with `own` requests each. They come from a process on CPU 1.
    fn ticks(judge: &mut Judge, number: u32, own: u32) -> Vec<Verdict> {
        (0..number).map(|_| judge.judge(sample(own), |_| Some(1))).collect()
    }

    fn near(cpu: usize) -> Verdict {
        Verdict { cpu: Some(cpu), wait: Wait::Tick }
    }

    /// A judge that has just brought loops near, after `before` requests in each tick.
    fn follows(before: u32) -> Judge {
        let mut judge = Judge::default();
        let verdicts = ticks(&mut judge, 1 + MEASURED, before);
        let (last, earlier) = verdicts.split_last().unwrap();
        assert_eq!(*last, near(1));
        assert!(earlier.iter().all(|verdict| *verdict == ANYWHERE));
        judge
    }

    #[test]
    fn loops_come_near_one_process_that_sends_many_small_requests() {
        follows(STREAK);
        let mut judge = Judge::default();
        assert!(ticks(&mut judge, QUIET - 1, STREAK - 1).iter().all(|verdict| *verdict == ANYWHERE));
    }

    #[test]
    fn nobody_is_followed_while_several_ask_or_requests_are_large_or_nobody_is_known() {
        let own = 10 * STREAK;
        for different in [
            Sample { others: own / PURITY + 1, ..sample(own) },
            Sample { bulky: own / PURITY + 1, ..sample(own) },
            Sample { requester: 0, ..sample(own) },
        ] {
            let mut judge = Judge::default();
            for _ in 0..QUIET - 1 {
                assert_eq!(judge.judge(different, |_| Some(1)), ANYWHERE);
            }
            assert_eq!(judge.judge(different, |_| Some(1)).wait, Wait::Streak, "nothing wakes up for it");
            // Nor is a process followed any longer then.
            if different.requester != 0 {
                assert_eq!(follows(own).judge(different, |_| Some(1)), ANYWHERE);
            }
        }
        let mut judge = Judge::default();
        ticks(&mut judge, MEASURED, own);
        assert_eq!(judge.judge(Sample { requester: 78, ..sample(own) }, |_| Some(1)), ANYWHERE);
    }

    #[test]
    fn loops_that_get_nowhere_are_let_go_in_the_second_tick() {
        let mut judge = follows(50);
        assert_eq!(ticks(&mut judge, 2, 0), [near(1), ANYWHERE]);
        let mut judge = follows(50);
        assert_eq!(ticks(&mut judge, 3, 100), [near(1); 3]);
        assert_eq!(ticks(&mut judge, 2, STREAK - 1), [near(1), ANYWHERE]);
        let mut judge = follows(50);
        let other = Sample { others: 1, ..sample(0) };
        assert_eq!(judge.judge(other, |_| Some(1)), ANYWHERE, "somebody else waits");
    }

    #[test]
    fn a_process_that_is_moved_is_followed() {
        let mut judge = follows(50);
        assert_eq!(judge.judge(sample(80), |_| Some(0)), near(0));
        assert_eq!(judge.judge(sample(80), |_| Some(3)), near(3));
        let verdict = judge.judge(sample(80), |_| None);
        assert_eq!(verdict, Verdict { cpu: None, wait: Wait::Rest(MIN_REST) }, "it cannot be seen");
    }

    #[test]
    fn what_is_not_faster_is_tried_again_after_ever_longer_rests() {
        let mut judge = Judge::default();
        let mut rests = Vec::new();
        for _ in 0..10 {
            ticks(&mut judge, 1 + MEASURED, 50);
            let verdicts = ticks(&mut judge, 1 + MEASURED, 50);
            rests.push(verdicts.last().unwrap().wait);
        }
        assert_eq!(rests[..3], [Wait::Rest(MIN_REST), Wait::Rest(2 * MIN_REST), Wait::Rest(4 * MIN_REST)]);
        assert_eq!(rests[9], Wait::Rest(MAX_REST));
        // Once it was useful, the next pause is short.
        ticks(&mut judge, 1 + MEASURED, 50);
        assert_eq!(ticks(&mut judge, 1 + MEASURED, 51).last(), Some(&near(1)));
        let verdict = judge.judge(sample(80), |_| None);
        assert_eq!(verdict.wait, Wait::Rest(MIN_REST));
    }

    #[test]
    fn it_is_measured_again_after_each_term() {
        let mut judge = follows(50);
        let verdicts = ticks(&mut judge, TERM, 100);
        let (last, earlier) = verdicts.split_last().unwrap();
        assert!(earlier.iter().all(|verdict| *verdict == near(1)));
        assert_eq!(*last, ANYWHERE);
        assert_eq!(ticks(&mut judge, 1 + MEASURED, 50).last(), Some(&near(1)));
    }

    #[test]
    fn requests_are_counted_for_whoever_sends_most() {
        let traffic = Traffic::default();
        (0..5).for_each(|_| traffic.note(7, 0));
        assert_eq!(traffic.take(), Sample { requester: 0, own: 0, others: 5, bulky: 0 });
        (0..5).for_each(|_| traffic.note(7, 4096));
        traffic.note(8, BULK);
        traffic.note(0, BULK);
        assert_eq!(traffic.take(), Sample { requester: 7, own: 5, others: 1, bulky: 2 });
        assert_eq!(traffic.take(), Sample { requester: 7, own: 0, others: 0, bulky: 0 });
    }

    #[test]
    fn a_streak_wakes_the_judge_and_so_does_the_end() {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            let judge = scope.spawn(|| {
                traffic.judged_here();
                traffic.sleep();
                let was_over = traffic.is_over();
                traffic.sleep();
                (was_over, traffic.is_over())
            });
            // Nothing wakes the judge before it sleeps.
            while !traffic.asleep.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            (0..=WAKING).for_each(|_| traffic.note(7, 0));
            while !traffic.asleep.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            traffic.end();
            assert_eq!(judge.join().unwrap(), (false, true));
        });
    }
}
