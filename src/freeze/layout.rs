//! What a file is made of, as the freezer sees it: spans of bytes, each with the source of its bytes.
//!
//! Invariant: two bytes with the same source are the same byte, within one session. So a byte whose source has not changed has
//! not changed. `fs` implements [`Layout`] over a snapshot; nothing here holds a whole layout in memory, as a file may have
//! millions of spans.

use crate::format::ids::{LogOffset, SubchunkId};

/// Where the bytes of a span come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanSource {
    /// A frame of written bytes of the thaw log.
    Thawed {
        /// Offset of the frame in the thaw log.
        frame: LogOffset,
        /// First byte of the span in the frame's raw bytes.
        skip: u32,
        /// XXH3 of all raw bytes of the frame.
        sum: u64,
    },
    /// A subchunk of the image, or a part of one.
    Stored {
        /// The subchunk.
        subchunk: SubchunkId,
        /// First byte of the span in the subchunk.
        skip: u32,
        /// Bytes of the whole subchunk.
        subchunk_len: u32,
    },
    /// A tiny content.
    Tiny,
    /// Nothing: reads as zeros.
    Hole,
    /// Nothing: cannot be read.
    Lost,
}

/// A range of a file whose bytes have one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte in the file.
    pub begin: u64,
    /// How many bytes, at least 1.
    pub len: u64,
    /// Where they come from.
    pub source: SpanSource,
}

impl Span {
    /// Offset after the last byte.
    pub fn end(&self) -> u64 {
        self.begin.saturating_add(self.len)
    }

    /// Whether there are bytes to be cut.
    pub fn is_data(&self) -> bool {
        !matches!(self.source, SpanSource::Hole | SpanSource::Lost)
    }

    /// Whether the bytes are in no subchunk.
    pub fn is_unfrozen(&self) -> bool {
        matches!(self.source, SpanSource::Thawed { .. } | SpanSource::Tiny)
    }

    /// The subchunk that is exactly this span.
    pub fn whole(&self) -> Option<SubchunkId> {
        match self.source {
            SpanSource::Stored { subchunk, skip: 0, subchunk_len } if u64::from(subchunk_len) == self.len => {
                Some(subchunk)
            }
            _ => None,
        }
    }

    /// Whether a subchunk begins where the span begins.
    pub(super) fn begins_subchunk(&self) -> bool {
        matches!(self.source, SpanSource::Stored { skip: 0, .. })
    }

    /// Whether the subchunk that the span is of, or the tiny content, would have bytes before `offset` if all of it were in
    /// the file.
    pub(super) fn reaches_before(&self, offset: u64) -> bool {
        match self.source {
            SpanSource::Stored { skip, .. } => self.begin.saturating_sub(skip.into()) < offset,
            SpanSource::Tiny => self.begin < offset,
            _ => false,
        }
    }
}

/// The spans of one file from 0 to its size, in order and without gaps, and their bytes. It does not change while it is used.
pub trait Layout {
    /// What can go wrong.
    type Error;

    /// Bytes of the file.
    fn size(&self) -> u64;

    /// The span that covers `offset`, which is below the size. Each subchunk of a run is a span of its own. What is after the
    /// end of the content, and not thawed, is a hole. Asked with ascending offsets, but for a few steps back where a region
    /// begins.
    ///
    /// # Errors
    /// If the tables cannot be read.
    fn span(&mut self, offset: u64) -> Result<Span, Self::Error>;

    /// The first thawed byte at or after `from`. Lost ranges do not count.
    ///
    /// # Errors
    /// If the tables cannot be read.
    fn thawed(&mut self, from: u64) -> Result<Option<u64>, Self::Error>;

    /// Reads a range of data, which may be of several spans. Holes and lost ranges are never asked for.
    ///
    /// # Errors
    /// If the bytes cannot be read, or are not what their checksum says.
    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Self::Error>;
}
