//! Walks over the frames of a log in the order they lie, and finds the next one behind damage.

use super::{LogError, LogReader};
use crate::format::frame::{FRAME_HEADER, FRAME_MAGIC, FrameHeader};
use crate::format::ids::LogOffset;

/// Bytes read at once in search of a header.
const WINDOW: usize = 1 << 20;
/// Bytes given up at once where they cannot be read: what a disk loses at least.
const UNREADABLE: u64 = 4096;

/// The headers of a log's frames, one after another; only headers are verified. After an error it stands still, and
/// ends unless [`Scan::resume_at`] says where to go on.
#[derive(Debug)]
pub struct Scan {
    reader: LogReader,
    at: u64,
    failed: bool,
}

impl Scan {
    /// Begins with the frame at `from`.
    pub fn new(reader: LogReader, from: LogOffset) -> Self {
        Scan { reader, at: from.0, failed: false }
    }

    /// Where the next frame is looked for.
    pub fn position(&self) -> LogOffset {
        LogOffset(self.at)
    }

    /// Goes on at `offset` after an error. A scan never goes back: an offset not behind the error is taken as the byte
    /// behind it.
    pub fn resume_at(&mut self, offset: LogOffset) {
        let least = if self.failed { self.at.saturating_add(1) } else { self.at };
        self.at = offset.0.max(least);
        self.failed = false;
    }

    /// The first frame at or behind `from`: whose header verifies and which lies within the log. Every byte is tried,
    /// so a damaged header loses only its own frame. Bytes that cannot be read are passed over.
    pub fn find_next(&self, from: LogOffset) -> Option<LogOffset> {
        self.reader.find_next(from)
    }
}

impl Iterator for Scan {
    type Item = Result<FrameHeader, (LogOffset, LogError)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.at >= self.reader.end() {
            return None;
        }
        let offset = LogOffset(self.at);
        Some(match self.reader.header(offset) {
            Ok(header) => {
                // Cannot overflow: the frame was found to lie within the log.
                self.at += header.frame_len();
                Ok(header)
            }
            Err(error) => {
                self.failed = true;
                Err((offset, error))
            }
        })
    }
}

impl LogReader {
    /// The frames from `from` on, in the order they lie.
    pub fn scan(&self, from: LogOffset) -> Scan {
        Scan::new(self.clone(), from)
    }

    /// As [`Scan::find_next`].
    pub fn find_next(&self, from: LogOffset) -> Option<LogOffset> {
        let mut window = Vec::new();
        let mut at = from.0;
        loop {
            let left = self.readable().checked_sub(at)?;
            if left < FRAME_HEADER as u64 {
                return None;
            }
            let skipped = self.read_window(at, left.min(WINDOW as u64) as usize, &mut window);
            if let Some(found) = self.find_within(at, &window) {
                return Some(found);
            }
            // A header may lie across the border of two windows; not across bytes that cannot be read.
            at += if skipped == 0 { (window.len() - (FRAME_HEADER - 1)) as u64 } else { skipped };
        }
    }

    /// Reads `len` bytes, or as many as can be read; says how far to go on if they are not all there.
    fn read_window(&self, at: u64, len: usize, window: &mut Vec<u8>) -> u64 {
        window.resize(len, 0);
        if self.storage().read_at(at, window).is_ok() {
            return 0;
        }
        let mut good = 0;
        while good < len {
            let border = UNREADABLE - (at + good as u64) % UNREADABLE;
            let next = len.min(good + border as usize);
            let part = window.get_mut(good..next).unwrap_or_default();
            if self.storage().read_at(at + good as u64, part).is_err() {
                window.truncate(good);
                return next as u64;
            }
            good = next;
        }
        0
    }

    fn find_within(&self, at: u64, window: &[u8]) -> Option<LogOffset> {
        let mut from = 0;
        while let Some(start) = window.get(from..)?.iter().position(|&byte| byte == FRAME_MAGIC[0]) {
            let start = from + start;
            let header = window.get(start..start + FRAME_HEADER)?;
            let offset = LogOffset(at + start as u64);
            if header.starts_with(&FRAME_MAGIC) && self.verify_header(offset, header).is_ok() {
                return Some(offset);
            }
            from = start + 1;
        }
        None
    }
}
