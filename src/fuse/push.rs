//! Small files pushed into the kernel's page cache before they are read, so that reading one costs no round trip.
//!
//! A round trip takes as long as reading and copying a small file does. Two kinds are saved:
//!
//! - **Behind a look-up.** The kernel makes the inode only after the answer has arrived, in the reader's own thread; from
//!   then until `read` it resolves the path, opens the file and may stat it. In between the event loop, which has nothing
//!   else to do, stores the contents: it tries until the kernel knows the inode, a few times.
//! - **Ahead of a reader** that goes through files the kernel knows already, as after `find` or any listing: a thread of
//!   the pusher's own stores the next ones by inode number.
//!
//! A store waits for pages that a READ has locked, and with the superblock held against unmounting; the READ waits for an
//! event loop. So the pusher's thread serves no requests, and of the event loops one at least never stores nor asks whether
//! an inode is known. A file that is being read is not pushed: a process killed while it waits for a page does not end before
//! the READ is answered, which nobody is left to do. (Of a READ that no event loop has taken yet nothing is known here: killed
//! in those microseconds, the daemon stays until its connection is aborted, by `umount -f` or in
//! /sys/fs/fuse/connections.) Contents never change under a read-only mount, so nothing newer can be overwritten; on any other
//! there is no pusher.

use super::foresight::{Lookups, Streams, Window};
use super::notify::PageCache;
use crate::format::ids::InodeId;
use crate::fs::Fs;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Largest file pushed, in bytes: what the kernel reads in one request anyway.
pub(super) const LARGEST: u64 = 128 << 10;
/// Attempts at an inode that the kernel does not know yet; each takes about a microsecond.
const ATTEMPTS: usize = 24;
/// Windows that may wait for the thread; more are dropped.
const WAITING: usize = 4;
/// Bytes pushed of one window.
const WINDOW_BYTES: u64 = 2 << 20;
/// READs kept account of; event loops beyond that many push nothing of their own and are rare.
const READS: usize = 32;
/// Inodes remembered as being in the page cache.
const REMEMBERED: usize = 1 << 15;
/// Files in a row unknown to the kernel that end a window.
const UNKNOWN: usize = 4;

/// Pushes files of one mount.
pub(super) struct Pusher {
    fs: Arc<Fs>,
    /// Known once the filesystem is mounted.
    cache: OnceLock<PageCache>,
    lookups: Lookups,
    streams: Streams,
    /// Event loops that may still begin a store.
    turns: AtomicUsize,
    windows: (Sender<Window>, Receiver<Window>),
    /// Inodes that were pushed or read lately, each in the slot of its number.
    cached: Vec<AtomicU64>,
    /// Inodes that READs are being answered for; 0 for none.
    reading: [AtomicU64; READS],
    counters: Counters,
}

/// What a pusher did so far.
#[derive(Default)]
pub(super) struct Counters {
    /// Files pushed behind their look-ups.
    pub(super) looked_up: AtomicU64,
    /// Files whose look-up was acted on too late.
    pub(super) late: AtomicU64,
    /// Files pushed ahead of readers.
    pub(super) ahead: AtomicU64,
}

impl Pusher {
    /// For a mount served by so many event loops.
    pub(super) fn new(fs: Arc<Fs>, event_loops: usize) -> Arc<Self> {
        Arc::new(Pusher {
            fs,
            cache: OnceLock::new(),
            lookups: Lookups::default(),
            streams: Streams::default(),
            turns: AtomicUsize::new(event_loops.saturating_sub(1)),
            windows: bounded(WAITING),
            cached: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            reading: Default::default(),
            counters: Counters::default(),
        })
    }

    /// Begins: `device` is a descriptor of the mount's connection. Where there can be no thread only look-ups are pushed.
    pub(super) fn start(self: &Arc<Self>, device: OwnedFd) {
        if self.cache.set(PageCache::new(device)).is_err() {
            return;
        }
        let (pusher, windows) = (Arc::downgrade(self), self.windows.1.clone());
        let run = move || {
            let mut buffer = Vec::new();
            while let Ok(window) = windows.recv() {
                let Some(pusher) = pusher.upgrade() else { return };
                let pushed = catch_unwind(AssertUnwindSafe(|| pusher.push_window(&window, &mut buffer)));
                if pushed.is_err() {
                    tracing::error!(
                        ?window,
                        "panicked while files were pushed: none are pushed ahead of readers from now on"
                    );
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("push".into()).spawn(run) {
            tracing::debug!(%error, "no thread to push files");
        }
    }

    /// The look-up of a regular file was answered. Called by event loops.
    pub(super) fn looked_up(&self, inode: InodeId, size: u64, buffer: &mut Vec<u8>) {
        let Some(cache) = self.cache.get() else { return };
        if size == 0 || size > LARGEST || !self.lookups.worth_it(inode.0) {
            return;
        }
        let Some(_turn) = Turn::take(&self.turns) else { return };
        if !self.read(inode, size, buffer) {
            return;
        }
        for _ in 0..ATTEMPTS {
            if self.is_being_read(inode) {
                break;
            }
            match cache.store(inode, buffer) {
                Ok(true) => {
                    self.remember(inode);
                    self.counters.looked_up.fetch_add(1, Ordering::Relaxed);
                    return self.lookups.came(true);
                }
                Ok(false) => std::hint::spin_loop(),
                Err(_) => return,
            }
        }
        self.counters.late.fetch_add(1, Ordering::Relaxed);
        self.lookups.came(false);
    }

    /// A READ of `inode` begins to be answered: it is not pushed until what is returned is dropped, behind the answer.
    pub(super) fn reading(&self, inode: InodeId) -> Reading<'_> {
        let claim = |slot: &&AtomicU64| slot.compare_exchange(0, inode.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        Reading(self.reading.iter().find(claim))
    }

    fn is_being_read(&self, inode: InodeId) -> bool {
        self.reading.iter().any(|slot| slot.load(Ordering::Acquire) == inode.0)
    }

    /// A READ was answered. Called by event loops.
    pub(super) fn was_read(&self, inode: InodeId, offset: u64) {
        let Some(cache) = self.cache.get() else { return };
        if offset != 0 {
            return;
        }
        self.lookups.was_read(inode.0);
        // One that is read again has left the page cache most likely, and so may those have that were remembered with it.
        let anew = self.remember(inode);
        if let Some(window) = self.streams.was_read(inode.0, anew) {
            // Whoever looks each file up before reading it has none that could be pushed: asking here saves waking the
            // thread.
            let next = || window.inodes.clone().take(2).any(|inode| cache.knows(InodeId(inode)));
            let next = Turn::take(&self.turns).is_some_and(|_turn| next());
            if !next || self.windows.0.try_send(window.clone()).is_err() {
                self.streams.was_unknown(&window);
            }
        }
    }

    /// What it did so far.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Notes that a file is in the page cache. Returns whether it was noted before.
    fn remember(&self, inode: InodeId) -> bool {
        self.remembered(inode).swap(inode.0, Ordering::Relaxed) == inode.0
    }

    fn is_remembered(&self, inode: InodeId) -> bool {
        self.remembered(inode).load(Ordering::Relaxed) == inode.0
    }

    fn remembered(&self, inode: InodeId) -> &AtomicU64 {
        &self.cached[inode.0 as usize % REMEMBERED]
    }

    fn push_window(&self, window: &Window, buffer: &mut Vec<u8>) {
        let Some(cache) = self.cache.get() else { return };
        let (mut bytes, mut unknown, mut left_out) = (0, 0, false);
        for inode in window.inodes.clone() {
            if inode <= self.streams.reader(window.stream) {
                continue;
            }
            let Ok(attr) = self.fs.attr(InodeId(inode)) else { return };
            if !attr.is_regular() || attr.size == 0 || attr.size > LARGEST {
                continue;
            }
            if self.is_remembered(attr.inode) && !window.anew {
                continue;
            }
            if inode >= window.mark && !left_out {
                left_out = true;
                continue;
            }
            if !self.read(attr.inode, attr.size, buffer) || self.is_being_read(attr.inode) {
                continue;
            }
            match cache.store(attr.inode, buffer) {
                Ok(true) => {
                    self.remember(attr.inode);
                    self.counters.ahead.fetch_add(1, Ordering::Relaxed);
                    unknown = 0;
                }
                Ok(false) => unknown += 1,
                Err(_) => return,
            }
            bytes += attr.size;
            if unknown == UNKNOWN {
                return self.streams.was_unknown(window);
            }
            if bytes > WINDOW_BYTES {
                return;
            }
        }
    }

    /// Reads a whole file. One that cannot be read is left to whoever asks for it, who is told why.
    fn read(&self, inode: InodeId, size: u64, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        self.fs.read(inode, 0, size as usize, buffer).is_ok() && buffer.len() as u64 == size
    }
}

/// The right to store from an event loop, given back when dropped.
struct Turn<'a>(&'a AtomicUsize);

impl<'a> Turn<'a> {
    fn take(turns: &'a AtomicUsize) -> Option<Self> {
        turns.fetch_update(Ordering::Acquire, Ordering::Relaxed, |n| n.checked_sub(1)).ok().map(|_| Turn(turns))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A READ that is being answered.
pub(super) struct Reading<'a>(Option<&'a AtomicU64>);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.store(0, Ordering::Release);
        }
    }
}
