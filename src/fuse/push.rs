//! Small files pushed into the kernel's page cache before they are read (`-o push`).
//!
//! A round trip through the kernel takes as long as reading and copying a small file. If a reader goes through files
//! that the kernel knows already, as after `find` or another listing, the pusher's thread stores the next ones by inode
//! number (FUSE_NOTIFY_STORE). Reading them then needs no round trip.
//!
//! A store waits, in an uninterruptible sleep, for each page that a READ has locked, and the READ waits for an event
//! loop. So event loops never store, and a file whose READ is being answered is not pushed. That does not cover READs
//! that are still queued in the kernel: a daemon that is killed while it waits for such a page does not end before its
//! connection is aborted (`umount -f`, or /sys/fs/fuse/connections). So pushing is off by default.
//!
//! Contents never change in a read-only mount, so nothing newer can be overwritten. A writable mount must not push.

use super::notify::PageCache;
use super::streams::{Streams, Window};
use crate::format::ids::InodeId;
use crate::fs::Fs;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Largest file in bytes that is stored in the page cache ahead of a reader: the kernel reads that much in one request
/// anyway.
pub(super) const LARGEST: u64 = 128 << 10;
/// Most windows (ranges of inodes) that may wait to be stored in the page cache; more are dropped.
const WAITING: usize = 4;
/// Most bytes that are stored in the page cache for one window (range of inodes).
const WINDOW_BYTES: u64 = 2 << 20;
/// Most READs that are tracked at a time. There are seldom more event loops; if there are, a file may be stored in the
/// page cache while one of them reads it.
const READS: usize = 32;
/// Number of inodes that are remembered as being in the page cache.
const REMEMBERED: usize = 1 << 15;
/// Number of successive files unknown to the kernel after which the rest of a window (range of inodes) is left out.
const UNKNOWN: usize = 4;

/// Stores the files of one mount in the kernel's page cache ahead of a reader.
pub(super) struct Pusher {
    fs: Arc<Fs>,
    /// Page cache of the mount; set as soon as the filesystem is mounted.
    cache: OnceLock<PageCache>,
    streams: Streams,
    windows: (Sender<Window>, Receiver<Window>),
    /// Inodes whose files were recently read, or stored in the page cache ahead of a reader. Each is in the slot that
    /// its number selects.
    cached: Vec<AtomicU64>,
    /// Inodes for which a READ request is being answered; 0 in a free slot.
    reading: [AtomicU64; READS],
    /// Number of files stored in the page cache so far.
    pushed: AtomicU64,
}

impl Pusher {
    /// Makes a pusher, which stores files of a mount of `fs` in the kernel's page cache ahead of readers.
    pub(super) fn new(fs: Arc<Fs>) -> Arc<Self> {
        Arc::new(Pusher {
            fs,
            cache: OnceLock::new(),
            streams: Streams::default(),
            windows: bounded(WAITING),
            cached: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            reading: Default::default(),
            pushed: AtomicU64::new(0),
        })
    }

    /// Starts the thread that stores files in the page cache. `device` is a descriptor of the mount's connection. If
    /// the thread cannot be started, nothing is stored ahead.
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
                    tracing::error!(?window, "panicked while files were pushed: none are pushed from now on");
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("push".into()).spawn(run) {
            tracing::debug!(%error, "cannot start a thread to push files");
        }
    }

    /// Records that a READ of `inode` is about to be answered. The file is not stored in the page cache until the
    /// returned value is dropped, after the answer.
    pub(super) fn reading(&self, inode: InodeId) -> Reading<'_> {
        let claim = |slot: &&AtomicU64| slot.compare_exchange(0, inode.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        Reading(self.reading.iter().find(claim))
    }

    fn is_being_read(&self, inode: InodeId) -> bool {
        self.reading.iter().any(|slot| slot.load(Ordering::Acquire) == inode.0)
    }

    /// Records that a READ was answered. Called by event loops; never waits.
    pub(super) fn was_read(&self, inode: InodeId, offset: u64) {
        if offset != 0 {
            return;
        }
        // If it is read again, it has probably left the page cache, and so may others that were remembered at that
        // time.
        let anew = self.remember(inode);
        if let Some(window) = self.streams.was_read(inode.0, anew)
            && let Err(full) = self.windows.0.try_send(window)
        {
            self.streams.was_unknown(&full.into_inner());
        }
    }

    /// Returns the number of files stored in the page cache so far.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed.load(Ordering::Relaxed)
    }

    /// Remembers that a file is in the page cache. Returns whether it was remembered before.
    fn remember(&self, inode: InodeId) -> bool {
        self.remembered(inode).is_some_and(|slot| slot.swap(inode.0, Ordering::Relaxed) == inode.0)
    }

    fn is_remembered(&self, inode: InodeId) -> bool {
        self.remembered(inode).is_some_and(|slot| slot.load(Ordering::Relaxed) == inode.0)
    }

    fn remembered(&self, inode: InodeId) -> Option<&AtomicU64> {
        self.cached.get(inode.0 as usize % REMEMBERED)
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
            // Ask first: if a reader looks each file up before reading it, there is nothing to push.
            let stored = match cache.knows(attr.inode) {
                true if self.read(attr.inode, attr.size, buffer) && !self.is_being_read(attr.inode) => {
                    cache.store(attr.inode, buffer)
                }
                true => continue,
                false => Ok(false),
            };
            match stored {
                Ok(true) => {
                    self.remember(attr.inode);
                    self.pushed.fetch_add(1, Ordering::Relaxed);
                    unknown = 0;
                    bytes += attr.size;
                }
                Ok(false) => unknown += 1,
                Err(_) => return,
            }
            if unknown == UNKNOWN {
                return self.streams.was_unknown(window);
            }
            if bytes > WINDOW_BYTES {
                return;
            }
        }
    }

    /// Reads a whole file. If that fails, the file is left to whoever asks for it, who gets the error.
    fn read(&self, inode: InodeId, size: u64, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        self.fs.read(inode, 0, size as usize, buffer).is_ok() && buffer.len() as u64 == size
    }
}

/// A guard that exists while a READ is being answered.
pub(super) struct Reading<'a>(Option<&'a AtomicU64>);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.store(0, Ordering::Release);
        }
    }
}
