//! Delays the replies to writers: decides for how long, and runs the thread that sends them.
//!
//! `delays` keeps the delayed replies; `pressure` computes the delay. Called by `running` and fuse.

use super::live::Live;
use super::state::Waiter;
use crate::freeze::pressure::Delay;
use std::sync::Arc;
use std::time::Duration;

/// Interval at which the thread that sends delayed replies checks whether changes are refused, while replies wait.
const LOOK: Duration = Duration::from_millis(500);

impl Live {
    /// Calls `done` when the reply to a write of `bytes` bytes may be sent: at once, or later from another thread that
    /// holds no lock. The write itself has succeeded in every case.
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

    /// Returns whether replies to writes are delayed now. This is a hint: it spares the caller from keeping a reply.
    pub fn holds_replies_back(&self) -> bool {
        self.pressure.is_pressed()
    }

    /// Sends all delayed replies, and delays none from now on. Called when the filesystem begins to end.
    pub fn answer_writers(&self) {
        self.delays.close();
    }

    /// Runs the thread that sends each delayed reply at its time, until the filesystem begins to end.
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
    /// No answer in these tests takes so long.
    const LONG: Duration = Duration::from_secs(30);

    /// Asks for a delay as if the log were so full. Returns where the answer arrives.
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
    fn who_waits_is_answered_by_the_clock_by_the_freezer_at_a_latch_and_at_the_end() {
        let world = World::new();
        let live = &world.live;
        // Without threads no reply waits.
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
