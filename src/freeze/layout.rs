//! The layout of a file as the freezer sees it: spans of bytes, each with the source of its bytes.
//!
//! Invariant: within one session, two bytes with the same source are the same byte. So a byte whose source has not
//! changed has not changed. `fs` implements [`Layout`] over a snapshot. Nothing here keeps a whole layout in memory, as
//! a file may have millions of spans.

use crate::format::ids::{LogOffset, SubchunkId};

/// The source of the bytes of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanSource {
    /// A frame of written bytes in the thaw log.
    Thawed {
        /// Offset of the frame in the thaw log.
        frame: LogOffset,
        /// Offset of the span's first byte in the frame's raw bytes.
        skip: u32,
        /// XXH3-64 checksum of all raw bytes of the frame.
        sum: u64,
    },
    /// A subchunk of the image, or a part of one.
    Stored {
        /// Id of the subchunk.
        subchunk: SubchunkId,
        /// Offset of the span's first byte in the subchunk.
        skip: u32,
        /// Length of the whole subchunk in bytes.
        subchunk_len: u32,
    },
    /// A tiny content: bytes in a row of a table.
    Tiny,
    /// A hole: the bytes read as zeros.
    Hole,
    /// Lost bytes, which cannot be read.
    Lost,
}

/// A range of a file whose bytes have one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset in the file of the span's first byte.
    pub begin: u64,
    /// Number of bytes, at least 1.
    pub len: u64,
    /// Source of the bytes.
    pub source: SpanSource,
}

impl Span {
    /// Returns the offset in the file after the span's last byte.
    pub fn end(&self) -> u64 {
        self.begin.saturating_add(self.len)
    }

    /// Returns whether there are bytes to cut.
    pub fn is_data(&self) -> bool {
        !matches!(self.source, SpanSource::Hole | SpanSource::Lost)
    }

    /// Returns whether the bytes are in no subchunk.
    pub fn is_unfrozen(&self) -> bool {
        matches!(self.source, SpanSource::Thawed { .. } | SpanSource::Tiny)
    }

    /// Returns the subchunk, if the span is exactly one whole subchunk.
    pub fn whole(&self) -> Option<SubchunkId> {
        match self.source {
            SpanSource::Stored { subchunk, skip: 0, subchunk_len } if u64::from(subchunk_len) == self.len => {
                Some(subchunk)
            }
            _ => None,
        }
    }

    /// Returns whether a subchunk begins where the span begins.
    pub(super) fn begins_subchunk(&self) -> bool {
        matches!(self.source, SpanSource::Stored { skip: 0, .. })
    }

    /// Returns whether the span's subchunk, or tiny content, would begin before `offset` if all of it were in the file.
    pub(super) fn reaches_before(&self, offset: u64) -> bool {
        match self.source {
            SpanSource::Stored { skip, .. } => self.begin.saturating_sub(skip.into()) < offset,
            SpanSource::Tiny => self.begin < offset,
            _ => false,
        }
    }
}

/// The spans of one file from 0 to its size, in order and without gaps, and their bytes. A layout does not change while
/// it is used.
pub trait Layout {
    /// The error of reading.
    type Error;

    /// Returns the size of the file in bytes.
    fn size(&self) -> u64;

    /// Returns the span that covers `offset`, which is less than the size. Each subchunk of a run is a span of its own.
    /// What is after the end of the content and not thawed is a hole. The offsets of successive calls ascend, except
    /// that a call may go back a few subchunks where the cutting of a region begins.
    ///
    /// # Errors
    /// Fails if the tables cannot be read.
    fn span(&mut self, offset: u64) -> Result<Span, Self::Error>;

    /// Returns the offset of the first thawed byte at or after `from`. Lost ranges do not count.
    ///
    /// # Errors
    /// Fails if the tables cannot be read.
    fn thawed(&mut self, from: u64) -> Result<Option<u64>, Self::Error>;

    /// Reads a range of data, which may cover several spans. Never called for holes and lost ranges.
    ///
    /// # Errors
    /// Fails if the bytes cannot be read, or their checksum does not match.
    fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Self::Error>;
}
