//! Guesses what readers will need next from the small files that they read one after another. A wrong guess costs time,
//! but never gives wrong bytes.

use parking_lot::Mutex;
use std::ops::Range;

/// Number of streams that are followed at a time. A stream is a reader that reads files in the order of their inode
/// numbers.
const STREAMS: usize = 8;
/// Number of inodes that a stream may skip: directories, symlinks, and files that are already in the page cache.
const SLACK: u64 = 8;
/// Number of inodes in the first and in the longest window. A window is the range of inodes whose files a reader will
/// probably need next.
const WINDOW: Range<u64> = 8..128;

/// A range of inodes whose files are to be stored in the page cache. One file at or after `mark` is left out: when it
/// is READ, the reader has come so far. (The kernel's read-ahead marks a page for the same purpose.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Number of the stream (reader) for which the window is; [`Streams::reader`] takes it.
    pub(super) stream: usize,
    /// Inodes of the window.
    pub(super) inodes: Range<u64>,
    /// Inode in the middle of the window; a READ of a file from here on tells that the reader has come so far.
    pub(super) mark: u64,
    /// Whether the reader has read the files of the window before, so that the page cache must have lost them.
    pub(super) anew: bool,
}

#[derive(Default, Clone)]
struct Stream {
    /// The inode that the reader read last; 0 if there is no reader yet.
    at: u64,
    /// The range of inodes that was returned last for the reader, to be stored in the page cache.
    window: Range<u64>,
    used: u64,
}

#[derive(Default)]
struct State {
    streams: [Stream; STREAMS],
    clock: u64,
}

/// Finds readers that read files in the order of their inode numbers, which is the order in which `pack` walked them.
#[derive(Default)]
pub(super) struct Streams {
    state: Mutex<State>,
}

impl Streams {
    /// Records that the beginning of `inode` was READ; `anew` tells that it was not for the first time. Returns the
    /// range of inodes to store in the page cache now, if there is one.
    pub(super) fn was_read(&self, inode: u64, anew: bool) -> Option<Window> {
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        let follows = |s: &Stream| s.at != 0 && inode >= s.at && inode <= s.at.max(s.window.end).saturating_add(SLACK);
        let Some((n, stream)) = state.streams.iter_mut().enumerate().find(|(_, stream)| follows(stream)) else {
            if let Some(oldest) = state.streams.iter_mut().min_by_key(|stream| stream.used) {
                *oldest = Stream { at: inode, window: 0..0, used: now };
            }
            return None;
        };
        (stream.at, stream.used) = (inode, now);
        let len = stream.window.end - stream.window.start;
        if inode < stream.window.start + len / 2 {
            return None;
        }
        let len = (2 * len).clamp(WINDOW.start, WINDOW.end);
        let start = stream.window.end.max(inode.saturating_add(1));
        stream.window = start..start.saturating_add(len);
        Some(Window { stream: n, inodes: stream.window.clone(), mark: start.saturating_add(len / 2), anew })
    }

    /// Returns the inode that the reader of a stream read last.
    pub(super) fn reader(&self, stream: usize) -> u64 {
        self.state.lock().streams.get(stream).map_or(0, |stream| stream.at)
    }

    /// Records that the kernel does not know the inodes of this window: its reader is forgotten, and found again when
    /// it reads on.
    pub(super) fn was_unknown(&self, window: &Window) {
        if let Some(stream) = self.state.lock().streams.get_mut(window.stream)
            && stream.window == window.inodes
        {
            *stream = Stream::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_in_order_gets_growing_windows_that_join() {
        let streams = Streams::default();
        assert_eq!(streams.was_read(10, false), None);
        let first = streams.was_read(11, false).unwrap();
        assert_eq!((first.inodes.clone(), first.mark), (12..20, 16));
        assert_eq!(streams.was_read(13, false), None, "before the mark nothing more is needed");
        let second = streams.was_read(16, false).unwrap();
        assert_eq!((second.inodes.clone(), second.mark), (20..36, 28));
        assert_eq!(streams.was_read(28, false).unwrap().inodes, 36..68);
        assert_eq!(streams.reader(first.stream), 28);
    }

    #[test]
    fn a_reader_here_and_there_gets_none() {
        let streams = Streams::default();
        assert!((1..1000).all(|n| streams.was_read(n * 7919 % 100_003 + 1000 * n, false).is_none()));
    }

    #[test]
    fn readers_side_by_side_each_have_their_stream() {
        let streams = Streams::default();
        let windows: usize =
            (0..100).map(|n| (1..=4).filter_map(|k| streams.was_read(k * 10_000 + n, false)).count()).sum();
        assert!(windows >= 8);
    }

    #[test]
    fn a_stream_into_the_unknown_begins_anew() {
        let streams = Streams::default();
        streams.was_read(10, false);
        let window = streams.was_read(11, false).unwrap();
        streams.was_unknown(&window);
        assert_eq!(streams.was_read(12, false), None);
        assert_eq!(streams.was_read(u64::MAX, false), None);
        assert_eq!(streams.was_read(u64::MAX, false).map(|w| w.inodes), Some(u64::MAX..u64::MAX));
    }
}
