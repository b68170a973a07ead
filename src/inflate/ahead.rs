//! Read-ahead: background threads inflate what a reader that reads in order needs next.
//!
//! Whoever reads only notes which subchunk it reads (`sequence`). If that calls for a stretch of subchunks to be looked
//! at, a thread does so (`coming`) and passes on what is not cached, in the order of first use; all threads inflate
//! that. So the sources of the next subchunks are inflated ahead like their own superchunk, and parts of a superchunk
//! side by side. Invariants: nobody waits for these threads but readers of what they inflate just then. What was
//! inflated ahead and not read takes at most a quarter of the budget (`cache`): a stretch ends where that is reached.

use super::cache::{AheadShare, Cache};
use super::coming::coming;
use super::load::Unit;
use super::sequence::{Purpose, Sequences, Stretch};
use crate::format::ids::SubchunkId;
use crate::meta::View;
use crossbeam_channel::{Receiver, Sender, bounded, select_biased};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Most stretches that may wait to be looked at. More are dropped: a reader that far ahead inflates for itself.
const PLANS: usize = 16;
/// Most units that may wait to be inflated. The thread that finds more inflates them itself.
const WISHES: usize = 128;

/// A stretch to look at.
struct Plan {
    /// View through which the sequential reader reads.
    view: View,
    stretch: Stretch,
}

/// A unit to inflate ahead.
struct Wish {
    unit: Unit,
    share: AheadShare,
    purpose: Purpose,
}

/// The read-ahead threads. Dropping this value ends them.
pub(super) struct Ahead {
    sequences: Arc<Sequences>,
    plans: Option<Sender<Plan>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    pub(super) fn start(cache: &Arc<Cache>, threads: usize) -> Self {
        let sequences = Arc::<Sequences>::default();
        let (plans, queue) = bounded(PLANS);
        let wishes = bounded(WISHES);
        let threads = (0..threads)
            .filter_map(|n| {
                let cache = Arc::downgrade(cache);
                let worker =
                    Worker { cache, sequences: sequences.clone(), plans: queue.clone(), wishes: wishes.clone() };
                std::thread::Builder::new().name(format!("ahead-{n}")).spawn(move || worker.run()).ok()
            })
            .collect();
        Ahead { sequences, plans: Some(plans), threads }
    }

    /// Notes that a reader reads subchunk `id` of `view`, and has what it needs next inflated if it reads in order.
    pub(super) fn is_read(&self, view: &View, id: SubchunkId) {
        let Some(stretch) = self.sequences.is_read(id) else { return };
        let plan = Plan { view: view.clone(), stretch };
        // If the queue is full, the threads are busy, and the reader inflates for itself.
        if self.plans.as_ref().is_none_or(|plans| plans.try_send(plan).is_err()) {
            self.sequences.looked(&stretch, stretch.from);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.plans = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has told its waiters through its `Landing`; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

/// What one thread has.
struct Worker {
    cache: Weak<Cache>,
    sequences: Arc<Sequences>,
    plans: Receiver<Plan>,
    wishes: (Sender<Wish>, Receiver<Wish>),
}

impl Worker {
    /// Works until no more stretches can come.
    fn run(&self) {
        loop {
            // Stretches first: they say what other threads can do meanwhile.
            select_biased! {
                recv(self.plans) -> plan => {
                    let (Ok(plan), Some(cache)) = (plan, self.cache.upgrade()) else { return };
                    self.plan(&cache, &plan);
                }
                recv(self.wishes.1) -> wish => {
                    let (Ok(wish), Some(cache)) = (wish, self.cache.upgrade()) else { return };
                    self.inflate(&cache, wish);
                }
            }
        }
    }

    fn plan(&self, cache: &Cache, Plan { view, stretch }: &Plan) {
        let to = coming(cache, view, stretch.from..stretch.end, &mut |unit, subchunk| {
            // What is cached is needed soon: it should not be evicted for what is needed after it.
            if cache.touch(&unit.key()) {
                return true;
            }
            let purpose = Purpose { reader: stretch.reader, subchunk };
            let share = cache.share(unit, purpose).or_else(|| {
                cache.forget_unwanted(|purpose| self.sequences.wants(purpose)).then(|| cache.share(unit, purpose))?
            });
            let Some(share) = share else { return false };
            let wish = Wish { unit: *unit, share, purpose };
            if let Err(full) = self.wishes.0.try_send(wish) {
                self.inflate(cache, full.into_inner());
            }
            true
        });
        self.sequences.looked(stretch, to);
    }

    fn inflate(&self, cache: &Cache, Wish { unit, share, purpose }: Wish) {
        // A reader that has passed the subchunk has inflated the unit itself, and it may be evicted since. A busy
        // machine must not inflate it again when nobody needs it.
        if self.sequences.wants(&purpose) {
            cache.get_ahead(&unit, share);
        }
    }
}
