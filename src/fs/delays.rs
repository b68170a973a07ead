//! Holds back replies to writes while the thaw log is too full.
//!
//! The writes themselves already count; only their replies are delayed, so that writers are no faster than the freezer.
//! A delayed reply holds no lock and no event loop. Each is sent exactly once: at its time; when as many superchunks as
//! it waits for are frozen; or at once, when the end begins, when changes are refused, or when no thread is there to
//! send it. Called by `pacing`.

use super::state::Waiter;
use crate::freeze::pressure::Delay;
use parking_lot::{Condvar, Mutex};
use std::time::Duration;

/// Replies to writes that are held back, so that writers do not outrun the freezer.
#[derive(Default)]
pub(super) struct Delays {
    pub(super) queue: Mutex<Queue>,
    pub(super) changed: Condvar,
}

/// The replies that wait, each to a write, and the state of the thread that sends them.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: Vec<(Delay, Waiter)>,
    /// Whether a thread that sends the replies is running.
    pub(super) served: bool,
    /// Whether something has changed that the thread that sends the replies has not seen.
    pub(super) news: bool,
}

impl Queue {
    /// Takes out the replies whose time has come. Returns them, and the time of the next one. If the log `has_room`, no
    /// reply waits for superchunks.
    pub(super) fn ready(&mut self, now: Duration, frozen: u64, has_room: bool) -> (Vec<Waiter>, Option<Duration>) {
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
    /// Wakes the thread that sends the replies, because something happened that may let a reply go.
    pub(super) fn wake(&self) {
        self.queue.lock().news = true;
        self.changed.notify_all();
    }

    /// Sends all replies. No reply waits after this call.
    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.served = false;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(|(_, waiter)| waiter(Ok(())));
    }

    /// Records that a thread sends the replies from now on.
    pub(super) fn open(&self) {
        self.queue.lock().served = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const MS: Duration = Duration::from_millis(1);

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
}
