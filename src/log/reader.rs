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

/// Reads the frames of one log. A scan stops where the log ended when the reader was made. By its offset, a later frame
/// can be read, too, if it is before the offset that [`LogReader::raise`] was given since.
#[derive(Clone)]
pub struct LogReader {
    storage: Arc<dyn Storage>,
    log_id: u64,
    end: u64,
    /// The log's end, or the length of the storage if that is less: each claimed length must be within it.
    readable: u64,
    /// Offset up to which frames after `readable` may be read. All clones, and readers from [`LogReader::up_to`], share
    /// it.
    raised: Arc<AtomicU64>,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("log_id", &self.log_id).field("end", &self.end).finish_non_exhaustive()
    }
}

impl LogReader {
    /// Makes a reader of the log `log_id`, which ends at `end` (the head's `log_end`). A truncated file may have fewer
    /// bytes: reads of the missing ones fail.
    ///
    /// # Errors
    /// Fails if the storage cannot tell its length.
    pub fn new(storage: Arc<dyn Storage>, log_id: u64, end: u64) -> Result<Self, LogError> {
        let readable = end.min(storage.len()?);
        Ok(LogReader { storage, log_id, end, readable, raised: Arc::default() })
    }

    /// Makes a reader of the same log, which has grown and now ends at `end`. This reader and its clones may then read
    /// frames up to there, too.
    ///
    /// # Errors
    /// Fails if the storage cannot tell its length.
    pub fn up_to(&self, end: u64) -> Result<Self, LogError> {
        let readable = end.min(self.storage.len()?);
        self.raise(readable);
        Ok(LogReader { end, readable, ..self.clone() })
    }

    /// Records that frames up to the offset `end` are written now. This reader may then read them, and so may all its
    /// clones and all readers made by [`LogReader::up_to`]. Frames that were readable stay readable.
    pub fn raise(&self, end: u64) {
        self.raised.fetch_max(end, Ordering::Release);
    }

    /// Returns the storage of the log.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns the log's id, which is in the header of each of its frames.
    pub fn log_id(&self) -> u64 {
        self.log_id
    }

    /// Returns the offset in bytes where the log ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the offset where the log ends, or where the bytes end if that is before.
    pub(super) fn readable(&self) -> u64 {
        self.readable
    }

    /// Returns the header at `offset`, if it verifies and its frame is within the log.
    ///
    /// # Errors
    /// Fails with `Format` if not, with `Storage` if it cannot be read.
    pub fn header(&self, offset: LogOffset) -> Result<FrameHeader, LogError> {
        let range = self.range("frame header", offset, 0, FRAME_HEADER as u64)?;
        let mut bytes = [0; FRAME_HEADER];
        self.storage.read_at(range.start, &mut bytes)?;
        self.verify_header(offset, &bytes)
    }

    /// Verifies a header as [`LogReader::header`] does, for bytes that were already read.
    pub(super) fn verify_header(&self, offset: LogOffset, bytes: &[u8]) -> Result<FrameHeader, LogError> {
        let header = RawFrameHeader::read(bytes, "frame header")
            .and_then(|raw| raw.validate(self.log_id, offset))
            .map_err(|source| LogError::format(offset, source))?;
        self.range("frame", offset, 0, header.frame_len())?;
        Ok(header)
    }

    /// Returns the verified clear part of a frame, with the checksum at its end, as `ClearList::decode` expects it. It
    /// is empty if the frame has none.
    ///
    /// # Errors
    /// Fails with `Format` if the checksum is wrong, with `Storage` if it cannot be read.
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

    /// Replaces the contents of `out` by the stored bytes of the frame at `place`, verified with the place's checksum.
    /// If they cannot be read or the checksum is wrong, the copy is tried, if there is one.
    ///
    /// # Errors
    /// Fails with the error of the first attempt, if all fail; `out` is then empty.
    pub fn stored(&self, place: &Place, out: &mut Vec<u8>) -> Result<(), LogError> {
        let mut first = None;
        for which in place.offsets() {
            match self.stored_verified(place, which, out) {
                Ok(()) => return Ok(()),
                Err(error) => first = first.or(Some(error)),
            }
        }
        out.clear();
        // A place has at least one offset, so there was a first attempt.
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

    /// Replaces the contents of `out` by the stored bytes of the frame at `which`, which is the offset of `place` or of
    /// its copy. Returns whether the checksum is right. For salvage: if it is not, the bytes may be anything.
    ///
    /// # Errors
    /// Fails with `Format` if the frame is not within the log, with `Storage` if it cannot be read; `out` is then
    /// empty.
    pub fn stored_unverified(&self, place: &Place, which: LogOffset, out: &mut Vec<u8>) -> Result<bool, LogError> {
        Ok(self.fetch(place, which, out)? == place.sum)
    }

    /// Reads the stored bytes and returns their checksum.
    fn fetch(&self, place: &Place, which: LogOffset, out: &mut Vec<u8>) -> Result<u64, LogError> {
        out.clear();
        let range = self.stored_place(place, which)?;
        out.resize(place.stored_len as usize, 0);
        self.storage.read_at(range.start, out).inspect_err(|_| out.clear())?;
        Ok(sums::xxh3(out))
    }

    /// Fills `out` with the stored bytes from `start` on of the frame at `which`, which is the offset of `place` or of
    /// its copy. They are not verified: this is for parts, which have their own checksums.
    ///
    /// # Errors
    /// Fails with `Format` if the range is not within the frame's stored bytes and the log, with `Storage` if it cannot
    /// be read.
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
        // This cannot overflow: it is within `range`, which is within the log.
        Ok(self.storage.read_at(range.start + u64::from(start), out)?)
    }

    /// Returns the range of offsets of the stored bytes, if it is within the log and the limits.
    fn stored_place(&self, place: &Place, which: LogOffset) -> Result<Range<u64>, LogError> {
        limit("clear part of a frame", place.clear_len, limits::CLEAR_LEN)
            .and_then(|()| limit("stored bytes of a frame", place.stored_len, limits::STORED_LEN))
            .map_err(|source| LogError::format(which, source))?;
        let before = FRAME_HEADER as u64 + u64::from(place.clear_len);
        self.range("stored bytes of a frame", which, before, place.stored_len.into())
    }

    /// Returns the range `[frame + skip, frame + skip + len)`, if it is within the readable bytes.
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

/// Checks that a clear part that is not empty ends with its checksum.
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
