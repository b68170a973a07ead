//! Read-ahead: when a reader comes to a superchunk and the superchunk before it is cached, background threads inflate
//! the next ones. Superchunk ids ascend in packing order, which is path order, so read-ahead crosses file borders.

use super::cache::Cache;
use super::load::{self, Unit};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::meta::View;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Number of superchunks inflated ahead of a sequential reader. One hides the inflation while small files are read; the
/// second keeps up with a reader of large files.
const DISTANCE: u64 = 2;
/// Most requests that may wait. More are dropped: a reader that far ahead inflates for itself.
const QUEUE: usize = 8;

/// A superchunk to inflate ahead, and the superchunk that its reader has reached.
struct Wish {
    /// View through which the sequential reader reads.
    view: View,
    reader_at: SuperchunkId,
    wanted: SuperchunkId,
}

/// The read-ahead threads. Dropping this value ends them.
pub(super) struct Ahead {
    wishes: Option<Sender<Wish>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    pub(super) fn start(cache: &Arc<Cache>, threads: usize) -> Self {
        let (wishes, queue) = bounded(QUEUE);
        let threads = (0..threads)
            .filter_map(|n| {
                let (cache, queue) = (Arc::downgrade(cache), queue.clone());
                std::thread::Builder::new().name(format!("ahead-{n}")).spawn(move || run(&cache, &queue)).ok()
            })
            .collect();
        Ahead { wishes: Some(wishes), threads }
    }

    /// Requests the next superchunks if a reader that uses `view` reads sequentially. Called when the reader has
    /// reached superchunk `id` for the first time.
    pub(super) fn after(&self, cache: &Cache, view: &View, id: SuperchunkId) {
        let sequential = id.0 > 1 && cache.has_whole(SuperchunkId(id.0 - 1));
        if !sequential {
            return;
        }
        for next in (1..=DISTANCE).map(|n| SuperchunkId(id.0 + n)) {
            if !cache.has_whole(next)
                && let Some(wishes) = &self.wishes
            {
                // If the queue is full, the threads are busy, and the reader inflates for itself.
                let _ = wishes.try_send(Wish { view: view.clone(), reader_at: id, wanted: next });
            }
        }
    }
}

fn run(cache: &Weak<Cache>, queue: &Receiver<Wish>) {
    while let Ok(Wish { view, reader_at, wanted: id }) = queue.recv() {
        let Some(cache) = cache.upgrade() else { return };
        // Eviction drops the least recently used superchunk first. So if `reader_at` is gone, the reader is past the
        // wanted one, too, and that one may also be gone. A busy machine must not inflate it again when nobody needs
        // it.
        if !cache.has_whole(reader_at) {
            continue;
        }
        // If there was no room for the superchunk in between, the reader makes room for it and evicts this one for
        // that.
        let before = SuperchunkId(id.0 - 1);
        if before != reader_at && !cache.has_whole(before) {
            continue;
        }
        // A reader that meets the same error reports it. Here no subchunk is known, so the id is 0.
        let Ok(row) = load::row(&view, id, SubchunkId(0)) else { continue };
        if !row.place.flags.parts() {
            cache.get_ahead(&Unit { id, place: row.place, part: None });
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wishes = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has told its waiters through its `Landing`; there is nothing to add here.
            let _ = thread.join();
        }
    }
}
