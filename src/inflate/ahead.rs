//! Read-ahead: when a reader comes to a superchunk and the one before was read too, the next ones are inflated on
//! threads of their own. Superchunk ids ascend in packing order, which is path order, so this crosses file borders.

use super::working_set::Inner;
use crate::format::ids::SuperchunkId;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// How far ahead of a sequential reader. One hides the inflation behind the reading of small files; the second keeps up
/// with a reader of large ones.
const DISTANCE: u64 = 2;
/// Wishes that may wait; more are dropped, since a reader that far ahead has them inflated itself.
const QUEUE: usize = 8;

/// The threads that inflate ahead. Dropping it ends them.
pub(super) struct Ahead {
    wishes: Option<Sender<SuperchunkId>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    pub(super) fn start(inner: &Arc<Inner>, threads: usize) -> Self {
        let (wishes, queue) = bounded(QUEUE);
        let threads = (0..threads)
            .filter_map(|n| {
                let (inner, queue) = (Arc::downgrade(inner), queue.clone());
                std::thread::Builder::new().name(format!("ahead-{n}")).spawn(move || run(&inner, &queue)).ok()
            })
            .collect();
        Ahead { wishes: Some(wishes), threads }
    }

    /// A reader has come to superchunk `id` for the first time.
    pub(super) fn after(&self, inner: &Inner, id: SuperchunkId) {
        let sequential = id.0 > 1 && inner.has(SuperchunkId(id.0 - 1));
        if !sequential {
            return;
        }
        for next in (1..=DISTANCE).map(|n| SuperchunkId(id.0 + n)) {
            if !inner.has(next)
                && let Some(wishes) = &self.wishes
            {
                // A full queue means the threads are busy: the reader inflates for itself then.
                let _ = wishes.try_send(next);
            }
        }
    }
}

fn run(inner: &Weak<Inner>, queue: &Receiver<SuperchunkId>) {
    while let Ok(id) = queue.recv() {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        inner.inflate_ahead(id);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wishes = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has told its waiters through its landing; there is nothing to add here.
            let _ = thread.join();
        }
    }
}
