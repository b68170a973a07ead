//! Read-ahead: when a reader comes to a superchunk and the one before was read too, the next ones are inflated on
//! threads of their own. Superchunk ids ascend in packing order, which is path order, so this crosses file borders.

use super::cache::Cache;
use super::load::{self, Unit};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::meta::View;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// How far ahead of a sequential reader. One hides the inflation behind the reading of small files; the second keeps up
/// with a reader of large ones.
const DISTANCE: u64 = 2;
/// Wishes that may wait; more are dropped, since a reader that far ahead has them inflated itself.
const QUEUE: usize = 8;

/// A superchunk to be inflated, and the one that its reader had come to.
struct Wish {
    /// What the reader reads by.
    view: View,
    reader_at: SuperchunkId,
    wanted: SuperchunkId,
}

/// The threads that inflate ahead. Dropping it ends them.
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

    /// A reader by `view` has come to superchunk `id` for the first time.
    pub(super) fn after(&self, cache: &Cache, view: &View, id: SuperchunkId) {
        let sequential = id.0 > 1 && cache.has_whole(SuperchunkId(id.0 - 1));
        if !sequential {
            return;
        }
        for next in (1..=DISTANCE).map(|n| SuperchunkId(id.0 + n)) {
            if !cache.has_whole(next)
                && let Some(wishes) = &self.wishes
            {
                // A full queue means the threads are busy: the reader inflates for itself then.
                let _ = wishes.try_send(Wish { view: view.clone(), reader_at: id, wanted: next });
            }
        }
    }
}

fn run(cache: &Weak<Cache>, queue: &Receiver<Wish>) {
    while let Ok(Wish { view, reader_at, wanted: id }) = queue.recv() {
        let Some(cache) = cache.upgrade() else { return };
        // The least recently used goes first, so where this one is gone the reader is past the wanted one, too, and that
        // may be gone as well: a busy machine must not inflate it again for nobody.
        if !cache.has_whole(reader_at) {
            continue;
        }
        // Where there was no room for the one between, the reader makes room for it, and would drop this one for that.
        let before = SuperchunkId(id.0 - 1);
        if before != reader_at && !cache.has_whole(before) {
            continue;
        }
        // Whoever reads what cannot be looked up is told why; here no subchunk is named.
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
            // A thread that panicked has told its waiters through its landing; there is nothing to add here.
            let _ = thread.join();
        }
    }
}
