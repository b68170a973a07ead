//! The threads that compress a batch's superchunks.
//!
//! On a busy machine, threads at a low priority may get almost no processor time. If somebody begins to wait for their
//! work, a second set at normal priority takes over: it compresses again everything that they have not finished. The
//! result depends only on the superchunk's bytes, so whichever is first counts. The first set is left behind: each of
//! its threads ends after its present superchunk, and nobody waits for that.
//!
//! Invariants: a thread takes no lock and waits for nothing but the next superchunk. Its panic continues in the thread
//! that collects its results. Called by the batch.

use crate::format::FormatError;
use crate::format::codec::{Compression, Encoded, Encoder};
use crate::pack::superchunk::{CompressJob, compressor_memory};
use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded, select};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Number of superchunks that wait for a thread, not counting the one that is being sent.
const WAITING: usize = 1;
/// Time between two checks whether somebody waits for the work of threads at a low priority.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of memory that matching and the compressing threads of one batch may take together. One thread always runs,
/// whatever it takes.
const MEMORY: u64 = 1 << 30;

/// Returns how many of `count` compressing threads fit into [`MEMORY`] beside `other` bytes; at least one.
pub(super) fn affordable(count: usize, compression: Compression, superchunk_size: u32, other: u64) -> usize {
    let many = MEMORY.saturating_sub(other) / compressor_memory(compression, superchunk_size).max(1);
    count.min(usize::try_from(many).unwrap_or(usize::MAX)).max(1)
}

/// The compressing threads of one batch, and their unfinished superchunks.
#[derive(Debug)]
pub(super) struct Compressors<'k> {
    count: usize,
    compression: Compression,
    part_size: Option<u32>,
    set: Set,
    urgency: Option<Urgency<'k>>,
    jobs: BTreeMap<Ticket, Job>,
    next: u64,
}

/// Threads of one priority, and their queue.
#[derive(Debug)]
struct Set {
    priority: Priority,
    /// Queue of superchunks for the set's threads; `None` only while the set ends.
    queue: Option<Sender<CompressJob>>,
    threads: Vec<JoinHandle<()>>,
    /// Whether each thread ends after its present superchunk, and the superchunks in the queue are dropped.
    given_up: Arc<AtomicBool>,
}

/// Number of a superchunk that was sent to the compressing threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A superchunk whose stored bytes have not arrived.
#[derive(Debug)]
struct Job {
    raw: Arc<Vec<u8>>,
    in_parts: bool,
    first: Awaited,
    /// Receiver of the result from the second set of threads, if that has taken the superchunk over.
    again: Option<Awaited>,
}

/// Receiver of the stored bytes of a superchunk.
type Awaited = Receiver<Result<Encoded, FormatError>>;

/// The condition under which the work of threads at a low priority is taken over, and the place where these threads are
/// kept until they end.
#[derive(Clone, Copy)]
pub struct Urgency<'k> {
    /// Returns whether somebody waits for the threads' work. Called often.
    pub is_urgent: &'k dyn Fn() -> bool,
    /// Receives the threads whose work was taken over, until they end.
    pub left: &'k LeftBehind,
}

impl fmt::Debug for Urgency<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Urgency").field("left", &self.left).finish_non_exhaustive()
    }
}

/// Threads whose work was taken over. Each keeps one superchunk in memory until it ends.
#[derive(Debug, Default)]
pub struct LeftBehind(Mutex<Vec<JoinHandle<()>>>);

impl LeftBehind {
    /// Returns whether all threads whose work was taken over have ended. Until then, no more threads at a low priority
    /// should be started.
    pub fn is_empty(&self) -> bool {
        let mut threads = self.0.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.is_empty()
    }
}

/// The priority of compressing threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// The threads compete like any other thread.
    #[default]
    Normal,
    /// The threads leave nearly all of a processor to other threads, but make some progress.
    Low,
    /// The threads run only when no other thread wants the processor.
    Idle,
}

/// The nice value of [`Priority::Low`]: it has a tenth of the weight of nice value 0 (sched(7)).
const NICE: i32 = 10;

impl<'k> Compressors<'k> {
    /// Starts `count` threads, at least one.
    pub(super) fn start(
        count: usize,
        priority: Priority,
        compression: Compression,
        part_size: Option<u32>,
    ) -> io::Result<Self> {
        let set = Set::start(count, priority, compression, part_size)?;
        Ok(Compressors { count, compression, part_size, set, urgency: None, jobs: BTreeMap::new(), next: 0 })
    }

    /// Sets when somebody waits for the work: then threads of normal priority take it over.
    pub(super) fn set_urgency(&mut self, urgency: Urgency<'k>) {
        self.urgency = Some(urgency);
    }

    /// Sends a superchunk to the threads, which compress it in parts or not. Waits while all threads are busy and another superchunk waits.
    pub(super) fn send(&mut self, raw: Arc<Vec<u8>>, in_parts: bool) -> Ticket {
        let ticket = Ticket(self.next);
        self.next = self.next.saturating_add(1);
        let (done, first) = bounded(1);
        let mut job = CompressJob { raw: Arc::clone(&raw), in_parts, done };
        while let Some(queue) = &self.set.queue {
            if !self.may_be_taken_over() {
                if queue.send(job).is_err() {
                    self.end();
                }
                break;
            }
            match queue.send_timeout(job, LOOK) {
                Ok(()) => break,
                Err(SendTimeoutError::Disconnected(_)) => {
                    self.end();
                    break;
                }
                Err(SendTimeoutError::Timeout(back)) => job = back,
            }
            self.look();
        }
        self.jobs.insert(ticket, Job { raw, in_parts, first, again: None });
        ticket
    }

    /// Returns the stored bytes, if they have arrived.
    pub(super) fn try_receive(&mut self, ticket: Ticket) -> Option<Result<Encoded, FormatError>> {
        let encoded = self.jobs.get(&ticket)?.try_receive()?;
        self.jobs.remove(&ticket);
        Some(encoded)
    }

    /// Waits for the stored bytes. Returns `None` if the thread ended without sending them, which only a panic can
    /// cause; the panic continues here.
    pub(super) fn receive(&mut self, ticket: Ticket) -> Option<Result<Encoded, FormatError>> {
        let received = loop {
            let may_be_taken_over = self.may_be_taken_over();
            let job = self.jobs.get(&ticket)?;
            if !may_be_taken_over {
                break job.receive();
            }
            match job.first.recv_timeout(LOOK) {
                Ok(encoded) => break Some(encoded),
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        };
        self.jobs.remove(&ticket);
        if received.is_none() {
            self.end();
        }
        received
    }

    fn may_be_taken_over(&self) -> bool {
        self.set.priority != Priority::Normal && self.urgency.is_some()
    }

    /// Starts a second set of threads at normal priority if somebody waits for the work, and sends them all superchunks
    /// whose stored bytes have not arrived.
    fn look(&mut self) {
        let Some(urgency) = self.urgency.filter(|urgency| (urgency.is_urgent)()) else { return };
        // If no more threads can be started, the present ones go on, slowly.
        let Ok(set) = Set::start(self.count, Priority::Normal, self.compression, self.part_size) else { return };
        std::mem::replace(&mut self.set, set).leave(urgency.left);
        let Some(queue) = &self.set.queue else { return };
        // In the order in which they will be awaited.
        for job in self.jobs.values_mut() {
            let (done, again) = bounded(1);
            // If these threads panic, whoever waits for the result notices.
            let _ = queue.send(CompressJob { raw: Arc::clone(&job.raw), in_parts: job.in_parts, done });
            job.again = Some(again);
        }
    }

    /// Waits for the threads to end; but while somebody waits for the work, does not wait for threads at a low
    /// priority. A thread's panic continues here.
    pub(super) fn end(&mut self) {
        match self.urgency.filter(|urgency| self.set.priority != Priority::Normal && (urgency.is_urgent)()) {
            Some(urgency) => self.set.leave(urgency.left),
            None => self.set.end(),
        }
    }
}

impl Drop for Compressors<'_> {
    fn drop(&mut self) {
        self.set.given_up.store(true, Ordering::Relaxed);
        self.end();
    }
}

impl Job {
    fn try_receive(&self) -> Option<Result<Encoded, FormatError>> {
        self.first.try_recv().ok().or_else(|| self.again.as_ref()?.try_recv().ok())
    }

    /// Waits for the result of the first or of the second set of threads, whichever comes first. Returns `None` once
    /// neither can come.
    fn receive(&self) -> Option<Result<Encoded, FormatError>> {
        let Some(again) = &self.again else { return self.first.recv().ok() };
        select! {
            recv(self.first) -> encoded => encoded.or_else(|_| again.recv()).ok(),
            recv(again) -> encoded => encoded.ok(),
        }
    }
}

impl Set {
    fn start(count: usize, priority: Priority, compression: Compression, part_size: Option<u32>) -> io::Result<Self> {
        let (jobs, queue) = bounded::<CompressJob>(WAITING);
        // If a later thread cannot be started, the earlier ones end and are joined.
        let given_up = Arc::new(AtomicBool::new(false));
        let mut started = Set { priority, queue: Some(jobs), threads: Vec::new(), given_up };
        for n in 0..count.max(1) {
            let (queue, given_up) = (queue.clone(), Arc::clone(&started.given_up));
            let thread = Builder::new().name(format!("freeze-{n}")).spawn(move || {
                priority.take();
                let mut encoder = Encoder::new(compression, part_size);
                // If a receiver hung up, the batch has failed or has this result from another thread.
                while let Ok(job) = queue.recv()
                    && !given_up.load(Ordering::Relaxed)
                {
                    job.run(&mut encoder);
                }
            })?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Waits for the threads to end. A thread's panic continues here.
    fn end(&mut self) {
        self.queue = None;
        self.threads.drain(..).for_each(join);
    }

    /// Lets the threads end by themselves, each after its present superchunk. Threads that have ended already are
    /// joined, so that a panic is noticed.
    fn leave(&mut self, left: &LeftBehind) {
        self.given_up.store(true, Ordering::Relaxed);
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.is_finished() {
                join(thread);
            } else {
                left.0.lock().push(thread);
            }
        }
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self.end();
    }
}

fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join()
        && !std::thread::panicking()
    {
        std::panic::resume_unwind(panic);
    }
}

impl Priority {
    /// Applies the priority to this thread. If that is not allowed, the priority stays as it is.
    fn take(self) {
        match self {
            Priority::Normal => {}
            // On Linux, this is the priority of this thread alone.
            Priority::Low => drop(rustix::process::setpriority_process(None, NICE)),
            Priority::Idle => {
                let param = libc::sched_param { sched_priority: 0 };
                // SAFETY: thread 0 is the calling thread, and the call reads the parameters only until it returns.
                let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::profile::Profile;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const COMPRESSION: Compression = Compression::Zstd(1);

    /// Compressors with one thread of this priority, which runs `body`.
    fn with(priority: Priority, body: impl FnOnce(Receiver<CompressJob>) + Send + 'static) -> Compressors<'static> {
        let (jobs, queue) = bounded::<CompressJob>(WAITING);
        let threads = vec![std::thread::spawn(move || body(queue))];
        let set = Set { priority, queue: Some(jobs), threads, given_up: Arc::default() };
        let jobs = BTreeMap::new();
        Compressors { count: 1, compression: COMPRESSION, part_size: None, set, urgency: None, jobs, next: 0 }
    }

    /// Compressors whose only thread panics at the first superchunk.
    fn panicking() -> Compressors<'static> {
        with(Priority::Normal, |queue| {
            let _job = queue.recv().unwrap();
            panic!("out of order");
        })
    }

    /// Compressors whose only thread takes the first superchunk, and then waits until it is told to go on.
    fn starving() -> (Compressors<'static>, Sender<()>) {
        let (go, wait) = bounded::<()>(1);
        let compressors = with(Priority::Idle, move |queue| {
            let CompressJob { raw, done, .. } = queue.recv().unwrap();
            let _ = wait.recv();
            let _ = done.send(Encoder::new(COMPRESSION, None).encode(&raw));
        });
        (compressors, go)
    }

    #[test]
    fn threads_give_way_to_memory_where_superchunks_are_large() {
        let affordable = |count, profile: Profile| {
            super::affordable(count, profile.compression(), profile.params().superchunk_size, 0)
        };
        assert_eq!([affordable(0, Profile::Balanced), affordable(8, Profile::Balanced)], [1, 8]);
        assert_eq!(super::affordable(64, Profile::Smallest.compression(), 64 << 20, 0), 1);
        assert!([Profile::Small, Profile::Smallest].iter().all(|&profile| (2..64).contains(&affordable(64, profile))));
        assert_eq!(super::affordable(8, COMPRESSION, 4 << 20, MEMORY), 1);
    }

    fn message(result: std::thread::Result<()>) -> String {
        result.unwrap_err().downcast_ref::<&str>().unwrap().to_string()
    }

    fn raw(n: u8) -> Arc<Vec<u8>> {
        Arc::new((0..100_000u32).map(|at| (at % 251) as u8 ^ n).collect())
    }

    fn encoded(n: u8) -> Encoded {
        Encoder::new(COMPRESSION, None).encode(&raw(n)).unwrap()
    }

    fn urgent(left: &LeftBehind) -> Urgency<'_> {
        Urgency { is_urgent: &|| true, left }
    }

    fn until_empty(left: &LeftBehind) {
        while !left.is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_starving_threads_have_begun_and_what_waits_is_taken_over_when_it_is_urgent() {
        let (left, looks) = (LeftBehind::default(), Cell::new(0));
        // Not at the first check: nobody waits then.
        let is_urgent = || looks.replace(looks.get() + 1) >= 1;
        let (mut compressors, go): (Compressors<'_>, _) = starving();
        compressors.set_urgency(Urgency { is_urgent: &is_urgent, left: &left });
        // More than fit into the queue: without a second set this would wait for ever.
        let tickets: Vec<_> = (0..6).map(|n| compressors.send(raw(n), false)).collect();
        for (n, ticket) in (0..).zip(tickets) {
            assert_eq!(compressors.receive(ticket).unwrap().unwrap(), encoded(n));
        }
        assert!(looks.get() >= 2 && compressors.jobs.is_empty());
        drop(compressors);
        // The thread is still waiting. It ends by itself once it can.
        assert!(!left.is_empty());
        drop(go);
        until_empty(&left);
    }

    #[test]
    fn a_superchunk_that_a_starving_thread_has_begun_is_compressed_again_where_it_is_waited_for() {
        let left = LeftBehind::default();
        let (mut compressors, go): (Compressors<'_>, _) = starving();
        compressors.set_urgency(urgent(&left));
        let ticket = compressors.send(raw(1), false);
        assert_eq!(compressors.receive(ticket).unwrap().unwrap(), encoded(1));
        drop(go);
        drop(compressors);
        until_empty(&left);
    }

    #[test]
    fn of_both_sets_whichever_ends_first_counts() {
        for first_ends in [true, false] {
            let (give, first) = bounded(1);
            let (gives, again) = bounded(1);
            let job = Job { raw: raw(1), in_parts: false, first, again: Some(again) };
            assert!(job.try_receive().is_none());
            let (ends, never) = if first_ends { (give, gives) } else { (gives, give) };
            ends.send(Ok(encoded(1))).unwrap();
            assert_eq!(job.receive().unwrap().unwrap(), encoded(1));
            ends.send(Ok(encoded(2))).unwrap();
            assert_eq!(job.try_receive().unwrap().unwrap(), encoded(2));
            drop((ends, never));
            assert!(job.receive().is_none());
        }
    }

    #[test]
    fn a_batch_that_is_given_up_does_not_wait_for_starving_threads() {
        let left = LeftBehind::default();
        let (mut compressors, go): (Compressors<'_>, _) = starving();
        compressors.set_urgency(urgent(&left));
        compressors.send(raw(1), false);
        drop(compressors);
        assert!(!left.is_empty());
        drop(go);
        until_empty(&left);
    }

    #[test]
    fn where_nothing_is_urgent_threads_at_idle_priority_do_it_alone_and_are_waited_for() {
        let left = LeftBehind::default();
        let mut compressors = Compressors::start(1, Priority::Idle, COMPRESSION, None).unwrap();
        compressors.set_urgency(Urgency { is_urgent: &|| false, left: &left });
        let tickets: Vec<_> = (0..4).map(|n| compressors.send(raw(n), false)).collect();
        for (n, ticket) in (0..).zip(tickets) {
            assert_eq!(compressors.receive(ticket).unwrap().unwrap(), encoded(n));
        }
        assert_eq!(compressors.set.priority, Priority::Idle);
        drop(compressors);
        assert!(left.0.lock().is_empty());
    }

    #[test]
    fn a_panic_of_a_compressor_goes_on_where_its_work_is_waited_for() {
        let mut compressors = panicking();
        let awaited = compressors.send(Arc::new(vec![1]), false);
        let panic = catch_unwind(AssertUnwindSafe(|| drop(compressors.receive(awaited))));
        assert_eq!(message(panic), "out of order");
    }

    #[test]
    fn a_panic_of_a_compressor_goes_on_where_more_work_is_handed_over() {
        let mut compressors = panicking();
        let panic =
            catch_unwind(AssertUnwindSafe(|| (0..9).for_each(|_| _ = compressors.send(Arc::new(vec![1]), false))));
        assert_eq!(message(panic), "out of order");
    }

    #[test]
    fn a_panic_of_a_compressor_goes_on_where_a_batch_is_given_up() {
        let mut compressors = panicking();
        compressors.send(Arc::new(vec![1]), false);
        assert_eq!(message(catch_unwind(AssertUnwindSafe(|| drop(compressors)))), "out of order");
    }
}
