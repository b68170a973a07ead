//! The thread that brings event loops to the CPU of the process that asks, as `near` decides.
//!
//! A loop that is near may run on that CPU only, and under SCHED_IDLE: the scheduler then takes a CPU on which nothing else
//! runs for idle, and lets the process go on there when it is answered, instead of waking another CPU for it. Under SCHED_IDLE
//! a loop gets next to nothing while anything else wants its CPU, so this thread keeps its own rank, looks every tick, and
//! lets go of loops that get nowhere. It alone changes them, and no thread is ever started by one that is near: nothing else inherits
//! it. A process that may not take SCHED_IDLE back (it needs CAP_SYS_NICE or RLIMIT_NICE), or has one CPU only, follows
//! nobody. Called by `session`.

use super::near::{Judge, Traffic, Wait};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it is looked whether loops are where they should be: so long at most, and as long again, nobody is served by
/// loops that cannot run.
const TICK: Duration = Duration::from_millis(4);

/// Field `processor` of /proc/PID/stat, counted from the one after the name.
const PROCESSOR: usize = 36;

/// The thread, which ends when this is dropped.
pub(super) struct Follower {
    traffic: Arc<Traffic>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows whoever `traffic` tells of. Without a thread, nobody is followed, and nothing else is different.
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
            // It has nothing to say.
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
            return moved.bring(&[], None);
        }
        let verdict = judge.judge(traffic.take(), cpu_of);
        match verdict.cpu {
            Some(_) => moved.bring(&traffic.loops(), verdict.cpu),
            None => moved.bring(&[], None),
        }
        wait = verdict.wait;
    }
}

/// Whether a thread of this process may take SCHED_IDLE and come back, and has more than one CPU: tried out on the calling one.
fn may_return() -> bool {
    let has_choice = sched_getaffinity(None).is_ok_and(|cpus| cpus.count() > 1);
    has_choice
        && policy(0) == Some(libc::SCHED_OTHER)
        && set_policy(0, libc::SCHED_IDLE)
        && set_policy(0, libc::SCHED_OTHER)
}

/// The CPU on which a thread ran last. None: it is gone, or /proc does not show it.
fn cpu_of(thread_id: u32) -> Option<usize> {
    processor(&std::fs::read_to_string(format!("/proc/{thread_id}/stat")).ok()?)
}

/// A name may hold anything, also parentheses: what counts begins after the last.
fn processor(stat: &str) -> Option<usize> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(PROCESSOR)?.parse().ok()
}

/// The loops that are near, each with the CPUs that it may run on otherwise.
#[derive(Default)]
struct Moved {
    loops: Vec<(u32, CpuSet)>,
    cpu: Option<usize>,
}

impl Moved {
    /// Brings `loops` to `cpu`, or lets all of them go.
    fn bring(&mut self, loops: &[u32], cpu: Option<usize>) {
        let Some(cpu) = cpu else {
            self.cpu = None;
            return self.loops.drain(..).for_each(|(thread_id, cpus)| release(thread_id, &cpus));
        };
        if self.cpu == Some(cpu) && self.loops.len() == loops.len() {
            return;
        }
        if self.cpu != Some(cpu) {
            self.loops.retain(|(thread_id, cpus)| {
                let may = pin(*thread_id, cpus, cpu);
                if !may {
                    release(*thread_id, cpus);
                }
                may
            });
        }
        for thread_id in loops {
            if self.loops.iter().any(|(known, _)| known == thread_id) {
                continue;
            }
            let Some(cpus) = cpus_of(*thread_id).filter(|_| policy(*thread_id) == Some(libc::SCHED_OTHER)) else {
                continue;
            };
            if pin(*thread_id, &cpus, cpu) && set_policy(*thread_id, libc::SCHED_IDLE) {
                self.loops.push((*thread_id, cpus));
            } else {
                release(*thread_id, &cpus);
            }
        }
        self.cpu = Some(cpu);
    }
}

fn pin(thread_id: u32, allowed: &CpuSet, cpu: usize) -> bool {
    if cpu >= CpuSet::MAX_CPU || !allowed.is_set(cpu) {
        return false;
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    own(thread_id).is_some_and(|pid| sched_setaffinity(Some(pid), &only).is_ok())
}

/// Lets a loop run where and as it did. A loop that has ended needs none of it.
fn release(thread_id: u32, cpus: &CpuSet) {
    set_policy(thread_id, libc::SCHED_OTHER);
    if let Some(pid) = own(thread_id)
        && let Err(error) = sched_setaffinity(Some(pid), cpus)
    {
        tracing::debug!(thread_id, %error, "an event loop stays where it is");
    }
}

fn cpus_of(thread_id: u32) -> Option<CpuSet> {
    sched_getaffinity(Some(own(thread_id)?)).ok()
}

/// The number of a thread of this process; not of one that got the number of a loop that has ended.
fn own(thread_id: u32) -> Option<Pid> {
    let number = i32::try_from(thread_id).ok()?;
    let exists = PathBuf::from(format!("/proc/self/task/{thread_id}")).exists();
    Pid::from_raw(number).filter(|_| exists)
}

/// How a thread is scheduled; 0: the calling one.
fn policy(thread_id: u32) -> Option<libc::c_int> {
    let number = libc::pid_t::try_from(thread_id).ok()?;
    // SAFETY: takes a number and touches no memory of this process.
    let policy = unsafe { libc::sched_getscheduler(number) };
    (policy >= 0).then_some(policy)
}

/// Whether a thread, 0 being the calling one, is now scheduled so.
fn set_policy(thread_id: u32, policy: libc::c_int) -> bool {
    let Ok(number) = libc::pid_t::try_from(thread_id) else { return false };
    if thread_id != 0 && own(thread_id).is_none() {
        return false;
    }
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` outlives the call, which only reads it.
    unsafe { libc::sched_setscheduler(number, policy, &parameters) == 0 }
}
