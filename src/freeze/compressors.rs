//! The threads that compress a batch's superchunks.
//!
//! Invariants: a thread takes no lock and waits for nothing but the next superchunk; its panic goes on in the thread that
//! collects what it made. Called by the batch.

use crate::format::FormatError;
use crate::format::codec::{Compression, Encoded};
use crate::pack::superchunk::{CompressJob, compress};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Superchunks that wait for a thread, besides the one that is being handed over.
const WAITING: usize = 1;

/// Threads, and the queue in front of them.
#[derive(Debug)]
pub(super) struct Compressors {
    /// `None` only while it ends.
    queue: Option<Sender<CompressJob>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads leave to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// They compete like anybody.
    #[default]
    Normal,
    /// Whoever else wants a processor gets nearly all of it, and they get on all the same.
    Low,
    /// They run only where nobody else wants to.
    Idle,
}

/// The nice value of [`Priority::Low`]: a tenth of the weight of who is at 0 (sched(7)).
const NICE: i32 = 10;

/// Stored bytes that are on their way.
pub(super) type Awaited = Receiver<Result<Encoded, FormatError>>;

impl Compressors {
    /// Starts so many threads, at least one.
    pub(super) fn start(
        count: usize,
        priority: Priority,
        compression: Compression,
        part_size: Option<u32>,
    ) -> io::Result<Self> {
        let (jobs, queue) = bounded::<CompressJob>(WAITING);
        // What was started ends, and is waited for, if a later one cannot be.
        let mut started = Compressors { queue: Some(jobs), threads: Vec::new() };
        for n in 0..count.max(1) {
            let queue = queue.clone();
            let thread = Builder::new().name(format!("freeze-{n}")).spawn(move || {
                priority.take();
                compress(&queue, compression, part_size);
            })?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Hands a superchunk over; waits while all threads are at work and another superchunk waits.
    pub(super) fn send(&mut self, raw: Arc<Vec<u8>>) -> Awaited {
        let (done, encoded) = bounded(1);
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send((raw, done)).is_ok());
        if !sent {
            self.end();
        }
        encoded
    }

    /// The stored bytes; `None` if the thread has ended without them, which only a panic does: it goes on here.
    pub(super) fn receive(&mut self, awaited: &Awaited) -> Option<Result<Encoded, FormatError>> {
        let received = awaited.recv().ok();
        if received.is_none() {
            self.end();
        }
        received
    }

    /// Waits for the threads to end. A panic of one goes on here.
    pub(super) fn end(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Compressors {
    fn drop(&mut self) {
        self.end();
    }
}

impl Priority {
    /// Gives it to this thread. Where that is not allowed it runs as it did.
    fn take(self) {
        match self {
            Priority::Normal => {}
            // On Linux that is the priority of this thread alone.
            Priority::Low => drop(rustix::process::setpriority_process(None, NICE)),
            Priority::Idle => {
                let param = libc::sched_param { sched_priority: 0 };
                // SAFETY: thread 0 is this one, and the call reads the parameters only while it goes on.
                let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Compressors whose only thread panics at the first superchunk.
    fn panicking() -> Compressors {
        let (jobs, queue) = bounded::<CompressJob>(WAITING);
        let thread = std::thread::spawn(move || {
            let _job = queue.recv().unwrap();
            panic!("out of order");
        });
        Compressors { queue: Some(jobs), threads: vec![thread] }
    }

    fn message(result: std::thread::Result<()>) -> String {
        result.unwrap_err().downcast_ref::<&str>().unwrap().to_string()
    }

    #[test]
    fn a_panic_of_a_compressor_goes_on_where_its_work_is_waited_for() {
        let mut compressors = panicking();
        let awaited = compressors.send(Arc::new(vec![1]));
        let panic = catch_unwind(AssertUnwindSafe(|| drop(compressors.receive(&awaited))));
        assert_eq!(message(panic), "out of order");
    }

    #[test]
    fn a_panic_of_a_compressor_goes_on_where_more_work_is_handed_over() {
        let mut compressors = panicking();
        let panic = catch_unwind(AssertUnwindSafe(|| (0..9).for_each(|_| drop(compressors.send(Arc::new(vec![1]))))));
        assert_eq!(message(panic), "out of order");
    }

    #[test]
    fn a_panic_of_a_compressor_goes_on_where_a_batch_is_given_up() {
        let mut compressors = panicking();
        compressors.send(Arc::new(vec![1]));
        assert_eq!(message(catch_unwind(AssertUnwindSafe(|| drop(compressors)))), "out of order");
    }
}
