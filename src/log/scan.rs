//! Walks over the frames of a log in the order of their offsets, and finds the next frame after damage.
//!
//! Frames may be inside the punched payload of a dead frame (section 2.3). A scan reads each byte of a log a bounded
//! number of times, whatever the frames claim: it looks for headers in one window that only moves forward; it reads a
//! payload once for its checksum and once to search it; and it never searches the payload of a frame found in a
//! payload.

use super::window::Window;
use super::{LogError, LogReader};
use crate::format::frame::{FRAME_HEADER, FrameHeader, FrameKind, may_be_header};
use crate::format::ids::LogOffset;
use crate::format::limits::SYNC_BLOCK;
use crate::format::sums::Xxh3;
use std::ops::Range;

/// Number of bytes of a payload that are read at once for its checksum.
const PIECE: usize = 1 << 18;

/// Iterates over the headers of a log's frames. Only headers are verified. After an error the scan ends, unless
/// [`Scan::resume_at`] sets where it continues.
#[derive(Debug)]
pub struct Scan {
    reader: LogReader,
    at: u64,
    failed: bool,
    window: Window,
    payload: Option<Payload>,
}

/// The punched payload that is being searched.
#[derive(Debug)]
struct Payload {
    outer: FrameHeader,
    blocks_end: u64,
}

impl Scan {
    /// Begins a scan with the frame at `from`.
    pub fn new(reader: LogReader, from: LogOffset) -> Self {
        Scan { reader, at: from.0, failed: false, window: Window::default(), payload: None }
    }

    /// Returns the offset where the scan looks for the next frame.
    pub fn position(&self) -> LogOffset {
        LogOffset(self.at)
    }

    /// Returns the frame whose punched payload is being searched: the last frame returned, or the frame that contains
    /// it.
    pub fn punched(&self) -> Option<&FrameHeader> {
        self.payload.as_ref().map(|payload| &payload.outer)
    }

    /// Returns the whole 4 KiB blocks of the punched payload that is being searched, if there is one, as a range of
    /// offsets.
    pub fn payload(&self) -> Option<Range<u64>> {
        let Payload { outer, blocks_end } = self.payload.as_ref()?;
        let stored = self.at_end(outer) - u64::from(outer.stored_len);
        Some(stored.next_multiple_of(SYNC_BLOCK)..*blocks_end)
    }

    /// Continues the scan at `offset` after an error. A scan never goes back: if `offset` is not after the error, it
    /// continues at the byte after the error.
    pub fn resume_at(&mut self, offset: LogOffset) {
        let least = if self.failed { self.at.saturating_add(1) } else { self.at };
        self.at = offset.0.max(least);
        self.failed = false;
    }

    /// Returns the first frame at or after `from` whose header verifies and that is within the log. Every offset is
    /// tried, so a damaged header loses only its own frame. Unreadable bytes are skipped.
    pub fn find_next(&mut self, from: LogOffset) -> Option<LogOffset> {
        self.window.find(&self.reader, from.0)
    }

    fn header(&self, at: LogOffset) -> Result<FrameHeader, LogError> {
        match self.window.get::<FRAME_HEADER>(at.0) {
            Some(bytes) => self.reader.verify_header(at, bytes),
            None => self.reader.header(at),
        }
    }

    /// Returns the next frame in the payload that is being searched; `None` at its end, after which the scan continues.
    fn in_payload(&mut self) -> Option<FrameHeader> {
        let payload = self.payload.as_ref()?;
        let found = self.window.find_on_borders(&self.reader, self.at, payload.blocks_end, SYNC_BLOCK);
        match found {
            //= format-spec.md#2.3
            //# The payload of a frame found in a payload is never searched.
            Some(header) => self.at = (self.at_end(&header)).next_multiple_of(SYNC_BLOCK),
            None => {
                self.at = self.at_end(&payload.outer);
                self.payload = None;
            }
        }
        found
    }

    fn at_end(&self, header: &FrameHeader) -> u64 {
        // This cannot overflow: the frame is within the log.
        header.offset.0 + header.frame_len()
    }
}

impl Iterator for Scan {
    type Item = Result<FrameHeader, (LogOffset, LogError)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if let Some(header) = self.in_payload() {
            return Some(Ok(header));
        }
        if self.at >= self.reader.end() {
            return None;
        }
        let offset = LogOffset(self.at);
        Some(match self.header(offset) {
            Ok(header) => {
                self.at = self.at_end(&header);
                if let Some(blocks) = self.reader.punched_blocks(&header) {
                    self.at = blocks.start;
                    self.payload = Some(Payload { outer: header, blocks_end: blocks.end });
                }
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
    /// Iterates over the frames from `from` on, in the order of their offsets.
    pub fn scan(&self, from: LogOffset) -> Scan {
        Scan::new(self.clone(), from)
    }

    /// Returns the whole 4 KiB blocks within the stored bytes of a frame, if they are punched and may hold other
    /// frames.
    ///
    /// The first 64 bytes of a punched payload are zero, unreadable, or a header, whole or damaged. A live frame may
    /// look the same by chance or on purpose; but its checksum is right, and then nothing inside it counts.
    fn punched_blocks(&self, header: &FrameHeader) -> Option<Range<u64>> {
        if !matches!(header.kind, FrameKind::SUPERCHUNK | FrameKind::TABLE_GROUP | FrameKind::MAP_BLOCK) {
            return None;
        }
        // Nothing here can overflow: the frame is within the log.
        let end = header.offset.0 + header.frame_len();
        let stored = end - u64::from(header.stored_len);
        let blocks = stored.next_multiple_of(SYNC_BLOCK)..end - end % SYNC_BLOCK;
        if blocks.is_empty() {
            return None;
        }
        let mut first = [0; FRAME_HEADER];
        let readable = self.storage().read_at(blocks.start, &mut first).is_ok();
        let may_be_punched = !readable || may_be_header(&first, LogOffset(blocks.start));
        //= format-spec.md#2.3
        //# If the checksum of the outer frame is right, frames in its payload must not count: they are the data of a
        //# live frame.
        (may_be_punched && !self.has_right_sum(header, stored..end)).then_some(blocks)
    }

    /// Returns whether the stored bytes can be read and match the checksum in the header.
    fn has_right_sum(&self, header: &FrameHeader, stored: Range<u64>) -> bool {
        let mut sum = Xxh3::default();
        let mut piece = vec![0; PIECE.min(header.stored_len as usize)];
        let mut at = stored.start;
        while at < stored.end {
            let len = (stored.end - at).min(PIECE as u64) as usize;
            let Some(piece) = piece.get_mut(..len) else { return false };
            if self.storage().read_at(at, piece).is_err() {
                return false;
            }
            sum.update(piece);
            at += len as u64;
        }
        sum.finish() == header.sum
    }
}
