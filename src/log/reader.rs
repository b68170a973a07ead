//! Reads frames, by their header or by a [`Place`].

use super::LogError;
use crate::format::frame::{FRAME_HEADER, FrameHeader, RawFrameHeader};
use crate::format::ids::LogOffset;
use crate::format::place::Place;
use crate::format::{FormatError, limits, sums};
use crate::storage::Storage;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads the frames of one log up to where it ended when the reader was made, and those further on up to where it was raised
/// to since. A scan ends where the log did.
#[derive(Clone)]
pub struct LogReader {
    storage: Arc<dyn Storage>,
    log_id: u64,
    end: u64,
    /// `end`, or how many bytes there were if there were fewer: what a claimed length must fit into.
    readable: u64,
    /// Up to where frames may be read that are after `readable`. What reads by [`LogReader::up_to`] and clones has in common.
    raised: Arc<AtomicU64>,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("log_id", &self.log_id).field("end", &self.end).finish_non_exhaustive()
    }
}

impl LogReader {
    /// Reads the log `log_id`, which ends at `end` (the head's `log_end`). There may be fewer bytes than that, in a
    /// file that was cut short: then what is missing gives errors.
    ///
    /// # Errors
    /// If the storage cannot tell its length.
    pub fn new(storage: Arc<dyn Storage>, log_id: u64, end: u64) -> Result<Self, LogError> {
        let readable = end.min(storage.len()?);
        Ok(LogReader { storage, log_id, end, readable, raised: Arc::default() })
    }

    /// A reader of the same log, which has grown and ends at `end` now. All readers of the log that come from one another may
    /// read frames up to there.
    ///
    /// # Errors
    /// If the storage cannot tell its length.
    pub fn up_to(&self, end: u64) -> Result<Self, LogError> {
        let readable = end.min(self.storage.len()?);
        self.raise(readable);
        Ok(LogReader { end, readable, ..self.clone() })
    }

    /// Frames up to `end` are there now: this reader may read them, and all that it comes from or that come from it. What was
    /// readable stays so.
    pub fn raise(&self, end: u64) {
        self.raised.fetch_max(end, Ordering::Release);
    }

    /// Where the bytes lie.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The log's id, which every frame of it names.
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// Where the log ends, in bytes from the image's first.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where it ends, or the bytes do if they end before.
    pub(super) fn readable(&self) -> u64 {
        self.readable
    }

    /// The header at `offset`, if it verifies and its frame lies within the log.
    ///
    /// # Errors
    /// `Format` if not, `Storage` if it cannot be read.
    pub fn header(&self, offset: LogOffset) -> Result<FrameHeader, LogError> {
        let range = self.range("frame header", offset, 0, FRAME_HEADER as u64)?;
        let mut bytes = [0; FRAME_HEADER];
        self.storage.read_at(range.start, &mut bytes)?;
        self.verify_header(offset, &bytes)
    }

    /// As [`LogReader::header`], of bytes that were read already.
    pub(super) fn verify_header(&self, offset: LogOffset, bytes: &[u8]) -> Result<FrameHeader, LogError> {
        let header = RawFrameHeader::read(bytes, "frame header")
            .and_then(|raw| raw.validate(self.log_id, offset))
            .map_err(|source| LogError::format(offset, source))?;
        self.range("frame", offset, 0, header.frame_len())?;
        Ok(header)
    }

    /// The clear part of a frame, verified, with its checksum still at its end as `ClearList::decode` takes it. Empty
    /// if the frame has none.
    ///
    /// # Errors
    /// `Format` if the checksum is wrong, `Storage` if it cannot be read.
    pub fn clear_part(&self, header: &FrameHeader) -> Result<Vec<u8>, LogError> {
        let wrong = |source| LogError::format(header.offset, source);
        limit("clear part of a frame", header.clear_len, limits::CLEAR_LEN).map_err(wrong)?;
        let range = self.range("clear part", header.offset, FRAME_HEADER as u64, header.clear_len.into())?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; header.clear_len as usize];
        self.storage.read_at(range.start, &mut bytes)?;
        verify_clear(&bytes).map_err(wrong)?;
        Ok(bytes)
    }

    /// Puts the stored bytes of the frame at `place` into `out` (whose contents go), verified by the place's sum. If
    /// they cannot be read or are not right, the copy is tried, where there is one.
    ///
    /// # Errors
    /// Of the first attempt, if all fail; `out` is empty then.
    pub fn stored(&self, place: &Place, out: &mut Vec<u8>) -> Result<(), LogError> {
        let mut first = None;
        for which in place.offsets() {
            match self.stored_verified(place, which, out) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        out.clear();
        // A place has at least its own offset, so there was a first attempt.
        Err(first.unwrap_or_else(|| LogError::format(place.offset, FormatError::invalid("place", "it names no frame"))))
    }

    fn stored_verified(&self, place: &Place, which: LogOffset, out: &mut Vec<u8>) -> Result<(), LogError> {
        let computed = self.fetch(place, which, out)?;
        if computed != place.sum {
            let source = FormatError::Checksum { what: "stored bytes of a frame", stored: place.sum, computed };
            return Err(LogError::format(which, source));
        }
        Ok(())
    }

    /// Puts the stored bytes of one frame, that of `place` or its copy as `which` says, into `out` (whose contents go)
    /// and says whether the place's sum is right. For salvage: the bytes may be anything if it is not.
    ///
    /// # Errors
    /// `Format` if the frame does not lie within the log, `Storage` if it cannot be read; `out` is empty then.
    pub fn stored_unverified(&self, place: &Place, which: LogOffset, out: &mut Vec<u8>) -> Result<bool, LogError> {
        Ok(self.fetch(place, which, out)? == place.sum)
    }

    /// Reads the stored bytes and says what their sum is.
    fn fetch(&self, place: &Place, which: LogOffset, out: &mut Vec<u8>) -> Result<u64, LogError> {
        out.clear();
        let range = self.stored_place(place, which)?;
        out.resize(place.stored_len as usize, 0);
        self.storage.read_at(range.start, out).inspect_err(|_| out.clear())?;
        Ok(sums::xxh3(out))
    }

    /// Fills `out` with the stored bytes from `start` on of one frame, that of `place` or its copy. Not verified: for
    /// parts, which have sums of their own.
    ///
    /// # Errors
    /// `Format` if the range goes beyond the frame's stored bytes or the log, `Storage` if it cannot be read.
    pub fn stored_range(&self, place: &Place, which: LogOffset, start: u32, out: &mut [u8]) -> Result<(), LogError> {
        let range = self.stored_place(place, which)?;
        let need = u64::from(start).saturating_add(out.len() as u64);
        if need > u64::from(place.stored_len) {
            let have = place.stored_len.into();
            return Err(LogError::format(
                which,
                FormatError::Truncated { what: "stored bytes of a frame", need, have },
            ));
        }
        // Cannot overflow: it is within `range`, which is within the log.
        Ok(self.storage.read_at(range.start + u64::from(start), out)?)
    }

    /// Where the stored bytes lie, if they lie within the log and the limits.
    fn stored_place(&self, place: &Place, which: LogOffset) -> Result<Range<u64>, LogError> {
        limit("clear part of a frame", place.clear_len, limits::CLEAR_LEN)
            .and_then(|()| limit("stored bytes of a frame", place.stored_len, limits::STORED_LEN))
            .map_err(|source| LogError::format(which, source))?;
        let before = FRAME_HEADER as u64 + u64::from(place.clear_len);
        self.range("stored bytes of a frame", which, before, place.stored_len.into())
    }

    /// `[frame + skip, frame + skip + len)`, if there are so many bytes.
    fn range(&self, what: &'static str, frame: LogOffset, skip: u64, len: u64) -> Result<Range<u64>, LogError> {
        let start = frame.0.saturating_add(skip);
        match start.checked_add(len) {
            Some(end) if end <= self.readable || end <= self.raised.load(Ordering::Acquire) => Ok(start..end),
            _ => {
                let have = self.readable.max(self.raised.load(Ordering::Acquire)).saturating_sub(start);
                Err(LogError::format(frame, FormatError::Truncated { what, need: len, have }))
            }
        }
    }
}

fn limit(what: &'static str, value: u32, limit: u64) -> Result<(), FormatError> {
    let value = u64::from(value);
    if value > limit { Err(FormatError::Limit { what, value, limit }) } else { Ok(()) }
}

/// Whether a clear part that is not empty ends with its checksum.
pub(super) fn verify_clear(bytes: &[u8]) -> Result<(), FormatError> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(FormatError::Truncated { what: "clear part", need: 4, have: bytes.len() as u64 });
    };
    let (stored, computed) = (u32::from_le_bytes(*crc), sums::crc32(body));
    if stored == computed {
        Ok(())
    } else {
        Err(FormatError::Checksum { what: "clear part", stored: stored.into(), computed: computed.into() })
    }
}
