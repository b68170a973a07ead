//! Replies to writes that are held back while the thaw log is too full.
//!
//! What was written counts already; only who wrote it is told later, so that writers are no faster than the freezer. Whoever
//! waits here holds nothing, no lock and no event loop. Each is answered exactly once: at its moment, when as many superchunks
//! were frozen as it waits for, or at the end, when changes are refused, when there is no thread to do it. Called by `running`
//! and fuse.

use super::live::Live;
use super::state::Waiter;
use crate::freeze::pressure::Delay;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// While somebody waits it is looked at so often whether changes are refused.
const LOOK: Duration = Duration::from_millis(500);

/// Who waits.
#[derive(Default)]
pub(super) struct Delays {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Delay, Waiter)>,
    /// A thread answers.
    served: bool,
    /// Something has changed that the thread has not seen.
    news: bool,
}

impl Queue {
    /// Takes out those whose time has come; the moment of the next. Nobody waits for superchunks where the log `has_room`.
    fn ready(&mut self, now: Duration, frozen: u64, has_room: bool) -> (Vec<Waiter>, Option<Duration>) {
        let (mut ready, mut next) = (Vec::new(), None::<Duration>);
        let mut rest = Vec::new();
        for (delay, waiter) in std::mem::take(&mut self.waiting) {
            let (is_ready, latest) = match delay {
                Delay::None => (true, now),
                Delay::Until(at) => (at <= now, at),
                Delay::Frozen { count, latest } => (has_room || count <= frozen || latest <= now, latest),
            };
            if is_ready {
                ready.push(waiter);
            } else {
                next = Some(next.map_or(latest, |next| next.min(latest)));
                rest.push((delay, waiter));
            }
        }
        self.waiting = rest;
        (ready, next)
    }
}

impl Delays {
    /// Something happened that may end a wait.
    pub(super) fn wake(&self) {
        self.queue.lock().news = true;
        self.changed.notify_all();
    }

    /// From now on nobody waits; those who do are answered.
    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.served = false;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(|(_, waiter)| waiter(Ok(())));
    }

    /// A thread will answer.
    pub(super) fn open(&self) {
        self.queue.lock().served = true;
    }
}

impl Live {
    /// Calls `done` when the reply to a write of so many bytes may be sent: at once, or later and from another thread, without
    /// any lock. With an error only if `done` got none: what was written is written.
    pub fn after_write(&self, bytes: u64, done: Waiter) {
        let delay = self.pressure.delay(bytes);
        if delay == Delay::None {
            return done(Ok(()));
        }
        let mut queue = self.delays.queue.lock();
        if !queue.served {
            drop(queue);
            return done(Ok(()));
        }
        queue.waiting.push((delay, done));
        queue.news = true;
        drop(queue);
        self.delays.changed.notify_all();
    }

    /// Whether replies to writes are held back now. A hint: it saves who asks the trouble of keeping one.
    pub fn holds_replies_back(&self) -> bool {
        self.pressure.is_pressed()
    }

    /// From now on no reply is held back, and those that are, are sent: the end has begun.
    pub fn answer_writers(&self) {
        self.delays.close();
    }

    /// Answers as it comes to be time, until the end has begun.
    pub(super) fn run_pacer(self: &Arc<Self>) {
        loop {
            let is_over = {
                let state = self.lock_state();
                state.closing || state.latch.is_some()
            };
            if is_over {
                return self.delays.close();
            }
            let (now, frozen) = (self.pressure.time(), self.pressure.frozen());
            let has_room = !self.pressure.is_full();
            let mut queue = self.delays.queue.lock();
            queue.news = false;
            let (ready, next) = queue.ready(now, frozen, has_room);
            drop(queue);
            ready.into_iter().for_each(|waiter| waiter(Ok(())));
            let mut queue = self.delays.queue.lock();
            if queue.news {
                continue;
            }
            match next {
                None => self.delays.changed.wait(&mut queue),
                Some(next) => {
                    let left = next.saturating_sub(self.pressure.time()).min(LOOK);
                    self.delays.changed.wait_for(&mut queue, left);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::world::World;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    const MS: Duration = Duration::from_millis(1);
    /// No answer of these tests takes so long.
    const LONG: Duration = Duration::from_secs(30);

    /// Asks for a delay as if the log were that full; who waits for the answer.
    fn ask(live: &Live, delay: Delay) -> Receiver<bool> {
        let (sender, receiver) = channel();
        let waiter: Waiter = Box::new(move |result| sender.send(result.is_ok()).unwrap());
        let mut queue = live.delays.queue.lock();
        if queue.served {
            queue.waiting.push((delay, waiter));
            queue.news = true;
            drop(queue);
            live.delays.changed.notify_all();
        } else {
            drop(queue);
            waiter(Ok(()));
        }
        receiver
    }

    #[test]
    fn a_reply_is_sent_at_its_moment_or_when_superchunks_were_frozen() {
        let mut queue = Queue::default();
        let (sender, receiver) = channel();
        let delays = [
            Delay::Until(10 * MS),
            Delay::Until(20 * MS),
            Delay::Frozen { count: 3, latest: 100 * MS },
            Delay::Frozen { count: 4, latest: 90 * MS },
        ];
        for (n, delay) in delays.into_iter().enumerate() {
            let sender = sender.clone();
            queue.waiting.push((delay, Box::new(move |_| sender.send(n).unwrap())));
        }
        let mut answered = |now: Duration, frozen| {
            let (ready, next) = queue.ready(now, frozen, false);
            ready.into_iter().for_each(|waiter| waiter(Ok(())));
            (receiver.try_iter().collect::<Vec<_>>(), next)
        };
        assert_eq!(answered(9 * MS, 2), (vec![], Some(10 * MS)));
        assert_eq!(answered(15 * MS, 3), (vec![0, 2], Some(20 * MS)));
        assert_eq!(answered(20 * MS, 3), (vec![1], Some(90 * MS)));
        assert_eq!(answered(90 * MS, 3), (vec![3], None));
        queue.waiting.push((Delay::Frozen { count: 9, latest: 100 * MS }, Box::new(|_| ())));
        queue.waiting.push((Delay::Until(99 * MS), Box::new(|_| ())));
        let (ready, next) = queue.ready(91 * MS, 3, true);
        assert_eq!((ready.len(), next), (1, Some(99 * MS)));
    }

    #[test]
    fn who_waits_is_answered_by_the_clock_by_the_freezer_at_a_latch_and_at_the_end() {
        let world = World::new();
        let live = &world.live;
        // Without threads nobody waits.
        assert!(ask(live, Delay::Until(LONG)).recv_timeout(LONG).unwrap());
        let running = live.start_threads().unwrap();
        let soon = live.pressure.time() + 30 * MS;
        let began = Instant::now();
        assert!(ask(live, Delay::Until(soon)).recv_timeout(LONG).unwrap());
        assert!(began.elapsed() >= 20 * MS);
        let never = Duration::from_secs(3600);
        live.pressure.set_full_for_tests();
        let frozen = ask(live, Delay::Frozen { count: 2, latest: never });
        live.pressure.froze(1, MS, 1, 1);
        live.delays.wake();
        assert!(frozen.try_recv().is_err());
        live.pressure.froze(1, MS, 1, 1);
        live.delays.wake();
        assert!(frozen.recv_timeout(LONG).unwrap());
        let last = ask(live, Delay::Until(never));
        running.stop();
        assert!(last.recv_timeout(LONG).unwrap());
        assert!(ask(live, Delay::Until(never)).recv_timeout(LONG).unwrap());
        let world = World::new();
        let live = &world.live;
        let running = live.start_threads().unwrap();
        let latched = ask(live, Delay::Until(never));
        live.latch("a test");
        assert!(latched.recv_timeout(LONG).unwrap());
        running.stop();
    }

    #[test]
    fn a_thread_that_panics_answers_all() {
        let world = World::new();
        let running = world.live.start_threads().unwrap();
        let never = Duration::from_secs(3600);
        let (sender, receiver) = channel::<()>();
        let other = ask(&world.live, Delay::Until(never));
        let bad: Waiter = Box::new(move |_| {
            drop(sender);
            panic!("a bug");
        });
        world.live.delays.queue.lock().waiting.push((Delay::None, bad));
        world.live.delays.wake();
        assert!(receiver.recv_timeout(LONG).is_err());
        assert!(other.recv_timeout(LONG).unwrap());
        assert!(world.live.latched().is_some());
        running.stop();
    }
}
