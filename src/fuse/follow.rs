//! The thread that moves event loops to the CPU of the requesting process, as `near` decides.
//!
//! A loop that is near may run only on that CPU, and under SCHED_IDLE. The scheduler considers a CPU idle if only
//! SCHED_IDLE threads run on it. So it lets the requesting process go on there when it gets its answer, instead of
//! waking another CPU for it. Under SCHED_IDLE a loop gets almost no time while another thread wants its CPU. So this
//! thread keeps its own scheduling policy, looks at every tick, and releases loops that make no progress. Only this
//! thread changes loops, and a loop that is near never starts a thread, so nothing else inherits the change. A process
//! that may not leave SCHED_IDLE again (that needs CAP_SYS_NICE or RLIMIT_NICE), or has only one CPU, follows nobody.
//! Called by `session`.

use super::near::{Judge, Traffic, Wait};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two checks whether the event loops run on the right CPU. If event loops that were moved cannot run, a
/// process that waits for them waits for two ticks at most.
const TICK: Duration = Duration::from_millis(4);

/// Index of the field `processor` of /proc/PID/stat, counted from the first field after the name.
const PROCESSOR: usize = 36;

/// A thread that lets event loops run on the CPU of the process that sends requests. It ends when this is dropped.
pub(super) struct Follower {
    traffic: Arc<Traffic>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows the process that `traffic` reports. If the thread cannot be started, nobody is followed, and everything
    /// else works as usual.
    pub(super) fn start(traffic: Arc<Traffic>) -> Self {
        let of_thread = Arc::clone(&traffic);
        let thread = std::thread::Builder::new().name("near".into()).spawn(move || follow(&of_thread));
        let thread = thread.inspect_err(|error| tracing::debug!(%error, "event loops follow nobody")).ok();
        Follower { traffic, thread }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.traffic.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has no consequences.
            thread.join().ok();
        }
    }
}

fn follow(traffic: &Traffic) {
    if !may_return() {
        return tracing::debug!("event loops follow nobody: this process may not, or has one CPU");
    }
    traffic.judged_here();
    let (mut judge, mut moved, mut wait) = (Judge::default(), Moved::default(), Wait::Streak);
    loop {
        match wait {
            Wait::Tick => std::thread::park_timeout(TICK),
            Wait::Rest(ticks) => {
                std::thread::park_timeout(TICK * ticks);
                traffic.take();
            }
            Wait::Streak => {
                traffic.sleep();
                traffic.take();
            }
        }
        if traffic.is_over() {
            return moved.let_go();
        }
        let verdict = judge.judge(traffic.take(), cpu_of);
        match verdict.cpu {
            Some(cpu) => moved.bring(&traffic.loops(), cpu),
            None => moved.let_go(),
        }
        wait = verdict.wait;
    }
}

/// Returns whether a thread of this process may take SCHED_IDLE and return, and has more than one CPU. It is tried on
/// the calling thread.
fn may_return() -> bool {
    let has_choice = sched_getaffinity(None).is_ok_and(|cpus| cpus.count() > 1);
    has_choice
        && policy(0) == Some(libc::SCHED_OTHER)
        && set_policy(0, libc::SCHED_IDLE)
        && set_policy(0, libc::SCHED_OTHER)
}

/// Returns the CPU on which a thread ran last; `None` if it has ended, or /proc does not show it.
fn cpu_of(thread_id: u32) -> Option<usize> {
    processor(&std::fs::read_to_string(format!("/proc/{thread_id}/stat")).ok()?)
}

/// Parses the field `processor`. The name in parentheses may contain anything, also parentheses, so the fields begin
/// after the last one.
fn processor(stat: &str) -> Option<usize> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(PROCESSOR)?.parse().ok()
}

/// The event loops that were moved to the CPU of a process, each with the CPUs on which it may run otherwise.
///
/// The thread that moves them goes along: if it ran on another CPU, the scheduler would prefer that CPU to one that
/// runs only event loops, and would move the process there. For the same reason it moves last.
#[derive(Default)]
struct Moved {
    loops: Vec<(u32, CpuSet)>,
    /// The CPU to which event loops were moved, and the CPUs on which the thread that moves them may run otherwise.
    here: Option<(usize, CpuSet)>,
}

impl Moved {
    /// Moves the event loops with the thread ids `loops` to `cpu`. The list may have grown since the last call: a loop
    /// is in it once it has answered a request.
    fn bring(&mut self, loops: &[u32], cpu: usize) {
        let is_here = self.here.as_ref().is_some_and(|(here, _)| *here == cpu);
        if is_here && self.loops.len() == loops.len() {
            return;
        }
        if !is_here {
            self.loops.retain(|(thread_id, cpus)| {
                let is_moved = pin(*thread_id, cpus, cpu);
                if !is_moved {
                    release(*thread_id, cpus);
                }
                is_moved
            });
        }
        for thread_id in loops {
            if self.loops.iter().all(|(known, _)| known != thread_id) {
                self.loops.extend(take(*thread_id, cpu).map(|cpus| (*thread_id, cpus)));
            }
        }
        if !is_here && !self.loops.is_empty() {
            self.go_along(cpu);
        }
    }

    fn go_along(&mut self, cpu: usize) {
        let before = self.here.take().map(|(_, cpus)| cpus);
        let Some(cpus) = before.or_else(|| sched_getaffinity(None).ok()) else { return };
        stay_here(sched_setaffinity(None, &only(cpu)));
        self.here = Some((cpu, cpus));
    }

    /// Lets all event loops run on any CPU that they may use.
    fn let_go(&mut self) {
        self.loops.drain(..).for_each(|(thread_id, cpus)| release(thread_id, &cpus));
        if let Some((_, cpus)) = self.here.take() {
            stay_here(sched_setaffinity(None, &cpus));
        }
    }
}

/// Ignores the error of moving a thread: it stays where it is, which only costs time.
fn stay_here(moved: rustix::io::Result<()>) {
    if let Err(error) = moved {
        tracing::debug!(%error, "a thread stays where it is");
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut only = CpuSet::new();
    only.set(cpu);
    only
}

/// Moves an event loop that has not been moved yet to `cpu`. Returns the CPUs on which it may run otherwise; `None` if
/// it was not moved.
fn take(thread_id: u32, cpu: usize) -> Option<CpuSet> {
    let cpus = sched_getaffinity(Some(own(thread_id)?)).ok()?;
    // If somebody gave it another scheduling policy, that was intended.
    if policy(thread_id) != Some(libc::SCHED_OTHER) {
        return None;
    }
    if pin(thread_id, &cpus, cpu) && set_policy(thread_id, libc::SCHED_IDLE) {
        return Some(cpus);
    }
    release(thread_id, &cpus);
    None
}

/// Restricts an event loop, which may run on `allowed`, to `cpu`. Returns whether that succeeded.
fn pin(thread_id: u32, allowed: &CpuSet, cpu: usize) -> bool {
    let is_allowed = cpu < CpuSet::MAX_CPU && allowed.is_set(cpu);
    is_allowed && own(thread_id).is_some_and(|pid| sched_setaffinity(Some(pid), &only(cpu)).is_ok())
}

/// Lets an event loop run on the CPUs `cpus` and with the usual scheduling policy, as before it was moved. For a loop
/// that has ended, it does nothing.
fn release(thread_id: u32, cpus: &CpuSet) {
    if !set_policy(thread_id, libc::SCHED_OTHER) {
        tracing::debug!(thread_id, "an event loop keeps its scheduling policy, or has ended");
    }
    if let Some(pid) = own(thread_id) {
        stay_here(sched_setaffinity(Some(pid), cpus));
    }
}

/// Returns the number of a thread of this process; `None` if the thread has ended and its number belongs to another
/// process.
fn own(thread_id: u32) -> Option<Pid> {
    let number = i32::try_from(thread_id).ok()?;
    let exists = PathBuf::from(format!("/proc/self/task/{thread_id}")).exists();
    Pid::from_raw(number).filter(|_| exists)
}

/// Returns the scheduling policy of a thread; 0 is the calling one.
fn policy(thread_id: u32) -> Option<libc::c_int> {
    let number = libc::pid_t::try_from(thread_id).ok()?;
    // SAFETY: the call takes a number and touches no memory of this process.
    let policy = unsafe { libc::sched_getscheduler(number) };
    (policy >= 0).then_some(policy)
}

/// Sets the scheduling policy of a thread; 0 is the calling one. Returns whether that succeeded.
fn set_policy(thread_id: u32, policy: libc::c_int) -> bool {
    let Ok(number) = libc::pid_t::try_from(thread_id) else { return false };
    if thread_id != 0 && own(thread_id).is_none() {
        return false;
    }
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` outlives the call, which only reads it.
    unsafe { libc::sched_setscheduler(number, policy, &parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_cpu_of_a_thread_is_read_behind_whatever_name_it_has() {
        let fields = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 6 0 0 0 0 0";
        assert_eq!(processor(&format!("12 (tar) {fields}\n")), Some(6));
        assert_eq!(processor(&format!("12 (a) b) (c) {fields}\n")), Some(6));
        assert_eq!(processor("12 (tar) S 1 1"), None);
        assert_eq!(processor(""), None);
        let this = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let cpus = sched_getaffinity(None).unwrap();
        assert!(cpu_of(this).is_some_and(|cpu| cpu < CpuSet::MAX_CPU && cpus.count() > 0));
        assert_eq!(cpu_of(u32::MAX), None);
    }

    #[test]
    fn a_loop_is_brought_near_and_let_go_as_it_was() {
        let (number, its_number) = channel();
        let (end, is_end) = channel::<()>();
        let looping = std::thread::spawn(move || {
            number.send(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()).unwrap();
            is_end.recv().unwrap_err();
        });
        let thread_id = its_number.recv().unwrap();
        // This runs in its own thread, which may be left under SCHED_IDLE.
        let tried = std::thread::spawn(move || {
            if !may_return() {
                return;
            }
            let before = sched_getaffinity(None).unwrap();
            let cpu = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap();
            let cpus = || sched_getaffinity(own(thread_id)).unwrap();
            let mut moved = Moved::default();
            // No thread of this process has the last number.
            moved.bring(&[thread_id, u32::MAX], cpu);
            assert_eq!((cpus(), policy(thread_id)), (only(cpu), Some(libc::SCHED_IDLE)));
            assert_eq!((sched_getaffinity(None).unwrap(), policy(0)), (only(cpu), Some(libc::SCHED_OTHER)));
            moved.let_go();
            assert_eq!((cpus(), policy(thread_id)), (before, Some(libc::SCHED_OTHER)));
            assert_eq!(sched_getaffinity(None).unwrap(), before);
            assert!(moved.loops.is_empty() && moved.here.is_none());
        });
        tried.join().unwrap();
        drop(end);
        looping.join().unwrap();
    }
}
