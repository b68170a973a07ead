//! Replies that wait: an fsync for its commit, a write for room in the thaw log.
//!
//! Each reply is in one queue until it is sent, exactly once: by its [`Ticket`], by [`Parked::drain`], or, if the
//! ticket is dropped, with EIO. So none is ever leaked; a leaked reply would leave its caller in an uninterruptible
//! sleep. Replies are sent without any lock held. Called by `writing` and `session`.

use fuser::{Errno, ReplyEmpty, ReplyWrite};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// A reply that can be sent later, from any thread.
pub(super) trait Answer: Send + 'static {
    /// Sends the reply.
    fn answer(self, result: Result<(), Errno>);
}

/// A reply that waits.
#[derive(Debug)]
pub(super) enum Late {
    /// The reply to an fsync.
    Empty(ReplyEmpty),
    /// The reply to a write of this many bytes, through a descriptor with `O_SYNC` or `O_DSYNC`, or while replies are
    /// delayed.
    Write(ReplyWrite, u32),
}

impl Answer for Late {
    fn answer(self, result: Result<(), Errno>) {
        match (self, result) {
            (Late::Empty(reply), Ok(())) => reply.ok(),
            (Late::Empty(reply), Err(errno)) => reply.error(errno),
            (Late::Write(reply, len), Ok(())) => reply.written(len),
            (Late::Write(reply, _), Err(errno)) => reply.error(errno),
        }
    }
}

/// A queue of replies that wait for a commit or for room in the thaw log.
pub(super) struct Parked<A> {
    state: Mutex<State<A>>,
}

struct State<A> {
    waiting: HashMap<u64, A>,
    next: u64,
    /// Whether the queue is closed: new replies are sent with EIO at once.
    is_closed: bool,
}

impl<A: Answer> Parked<A> {
    /// Makes an empty queue.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Parked { state: Mutex::new(State { waiting: HashMap::new(), next: 0, is_closed: false }) })
    }

    /// Puts a reply into the queue. The returned ticket sends it.
    pub(super) fn park(self: &Arc<Self>, reply: A) -> Ticket<A> {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        if state.is_closed {
            drop(state);
            reply.answer(Err(Errno::EIO));
        } else {
            state.waiting.insert(number, reply);
        }
        Ticket { parked: Arc::clone(self), number }
    }

    /// Sends EIO to all replies that wait, and to all that come later.
    pub(super) fn drain(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if !waiting.is_empty() {
            tracing::warn!(replies = waiting.len(), "answered with EIO: there will be no more commits");
        }
        waiting.into_values().for_each(|reply| reply.answer(Err(Errno::EIO)));
    }

    #[cfg(test)]
    /// Returns how many replies wait.
    pub(super) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    fn answer(&self, number: u64, result: Result<(), Errno>) {
        let reply = self.state.lock().waiting.remove(&number);
        if let Some(reply) = reply {
            reply.answer(result);
        }
    }
}

/// The right to send one reply. If it is dropped unused, it sends EIO.
pub(super) struct Ticket<A: Answer> {
    parked: Arc<Parked<A>>,
    number: u64,
}

impl<A: Answer> Ticket<A> {
    /// Sends the reply, unless it was sent already.
    pub(super) fn answer(self, result: Result<(), Errno>) {
        self.parked.answer(self.number, result);
    }
}

impl<A: Answer> Drop for Ticket<A> {
    fn drop(&mut self) {
        self.parked.answer(self.number, Err(Errno::EIO));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Records its answer. It is not recorded if it is dropped without one.
    struct Noted(u32, Sender<(u32, i32)>);

    impl Answer for Noted {
        fn answer(self, result: Result<(), Errno>) {
            let _ = self.1.send((self.0, result.err().map_or(0, Errno::code)));
        }
    }

    fn answers(receiver: &Receiver<(u32, i32)>) -> Vec<(u32, i32)> {
        let mut all: Vec<_> = receiver.try_iter().collect();
        all.sort_unstable();
        all
    }

    const EIO: i32 = libc::EIO;

    #[test]
    fn a_parked_reply_is_answered_once_by_its_ticket() {
        let (sender, receiver) = channel();
        let parked = Parked::new();
        let first = parked.park(Noted(1, sender.clone()));
        let second = parked.park(Noted(2, sender));
        assert_eq!((parked.len(), answers(&receiver)), (2, vec![]));
        second.answer(Ok(()));
        assert_eq!(answers(&receiver), [(2, 0)]);
        first.answer(Err(Errno::ENOSPC));
        assert_eq!((parked.len(), answers(&receiver)), (0, vec![(1, libc::ENOSPC)]));
        parked.drain();
        assert_eq!(answers(&receiver), []);
    }

    #[test]
    fn draining_answers_all_that_wait_and_all_that_come_later() {
        let (sender, receiver) = channel();
        let parked = Parked::new();
        let tickets: Vec<_> = (0..3).map(|n| parked.park(Noted(n, sender.clone()))).collect();
        parked.drain();
        assert_eq!(answers(&receiver), [(0, EIO), (1, EIO), (2, EIO)]);
        tickets.into_iter().for_each(|ticket| ticket.answer(Ok(())));
        assert_eq!(answers(&receiver), [], "a commit that comes after all answers nobody twice");
        parked.park(Noted(4, sender)).answer(Ok(()));
        assert_eq!(answers(&receiver), [(4, EIO)]);
    }

    #[test]
    fn a_ticket_that_is_lost_answers_eio() {
        let (sender, receiver) = channel();
        let parked = Parked::new();
        let ticket = parked.park(Noted(1, sender.clone()));
        drop(ticket);
        assert_eq!(answers(&receiver), [(1, EIO)]);
        // The same if the thread that has the ticket panics.
        let ticket = parked.park(Noted(2, sender));
        let lost = std::thread::spawn(move || {
            let _ticket = ticket;
            std::panic::resume_unwind(Box::new("a bug"));
        });
        assert!(lost.join().is_err());
        assert_eq!(answers(&receiver), [(2, EIO)]);
    }

    #[test]
    fn replies_that_are_parked_and_drained_at_once_are_each_answered_once() {
        let (sender, receiver) = channel();
        let parked = Parked::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (parked, sender) = (&parked, sender.clone());
                scope.spawn(move || {
                    for n in 0..1000 {
                        parked.park(Noted(thread * 1000 + n, sender.clone())).answer(Ok(()));
                    }
                });
            }
            scope.spawn(|| parked.drain());
        });
        let numbers: Vec<_> = answers(&receiver).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, (0..4000).collect::<Vec<_>>());
        assert_eq!(parked.len(), 0);
    }
}
