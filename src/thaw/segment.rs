//! One segment: a file that holds a range of the thaw log's offsets, its frames, and its head.
//!
//! A read error is an `Err`; bytes that do not verify are an `Err(why)` inside an `Ok`. The two are always
//! distinguished.

use super::ThawError;
use super::fit::Binding;
use crate::format::frame::{FRAME_HEADER, FRAME_MAGIC, Flags, FrameHeader, FrameKind, RawFrameHeader};
use crate::format::ids::LogOffset;
use crate::format::thaw::{SEGMENT_MAX, SEGMENT_MIN, SegmentHead};
use crate::format::{limits, sums};
use crate::storage::Storage;
use std::sync::Arc;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// Smallest segment that a writer makes, in bytes.
const WRITTEN_MIN: u64 = 4 << 20;
/// Divisor of the free space: a segment takes at most one part in this many.
const PART_OF_FREE: u64 = 32;
/// First and largest number of bytes that a search for headers reads at once. The first is small, because the next
/// header is usually near and each damaged header starts a new search; each next read is twice as large.
const WINDOWS: (u64, u64) = (4 << 10, 1 << 20);
const HEADER: u64 = FRAME_HEADER as u64;

/// Returns the size in bytes of the segments of a new log, on a file system with `free` free bytes. It is the largest
/// power of two that is at most 1/32 of the free space, but at least 4 MiB and at most 64 MiB.
pub fn segment_size(free: u64) -> u64 {
    let part = (free / PART_OF_FREE).clamp(WRITTEN_MIN, SEGMENT_MAX);
    1 << part.ilog2()
}

/// Returns whether the format allows segments of this size in bytes.
pub(super) fn is_segment_size(size: u64) -> bool {
    size.is_power_of_two() && (SEGMENT_MIN..=SEGMENT_MAX).contains(&size)
}

/// Number and checksum of the last transaction, which the next one names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Chain {
    pub(super) number: u64,
    pub(super) sum: u64,
}

/// Fields that all frames of a log share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) binding: Binding,
    pub(super) log_id: u64,
    pub(super) epoch: u32,
    pub(super) segment_size: u64,
}

/// The head of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) binding: Binding,
    pub(super) log_id: u64,
    pub(super) segment_size: u64,
    pub(super) last: Chain,
    pub(super) previous_end: u64,
    pub(super) durable_upto: u64,
    /// Offset in the log where the frames after the head begin.
    pub(super) end: u64,
}

/// A segment of a thaw log. A clone reads the same file, also after the file was removed.
#[derive(Clone)]
pub struct Segment {
    pub(super) log_id: u64,
    pub(super) base: u64,
    pub(super) storage: Arc<dyn Storage>,
}

/// A value, or the reason why the bytes do not verify.
pub(super) type Verified<T> = Result<T, String>;

impl Segment {
    /// Bytes of the segment frame at the beginning of a segment.
    pub(super) const HEAD_LEN: u64 = HEADER + SegmentHead::SIZE as u64;

    /// Makes segment `number` of a log of segments of `size` bytes; `None` if its offsets would be beyond the limit.
    pub(super) fn at(log_id: u64, number: u64, size: u64, storage: Arc<dyn Storage>) -> Option<Self> {
        let base = number.checked_mul(size)?;
        base.checked_add(size).filter(|&end| end <= limits::IMAGE_LEN)?;
        Some(Segment { log_id, base, storage })
    }

    /// Returns the offset in the log of the end of the segment's bytes.
    pub(super) fn end(&self) -> Result<u64, ThawError> {
        Ok(self.base.saturating_add(self.storage.len()?))
    }

    /// Frees space that a killed writer reserved after the end. The segment is never appended to again. Returns its
    /// length. If the space cannot be freed now, it is freed when the segment is removed.
    pub(super) fn trim(&self) -> Result<u64, ThawError> {
        let len = self.storage.len()?;
        let _ = self.storage.truncate(len);
        Ok(len)
    }

    //= format-spec.md#11.5
    //# A reader must report a read error and stop; it must not take it for the end of the log.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), ThawError> {
        // An offset before the segment becomes one after any end.
        Ok(self.storage.read_at(offset.checked_sub(self.base).unwrap_or(u64::MAX), out)?)
    }

    /// Returns the header at `offset`, if it verifies and its frame ends at or before `limit`. There are bytes up to
    /// `limit`.
    pub(super) fn header(&self, offset: u64, limit: u64) -> Result<Verified<FrameHeader>, ThawError> {
        if limit.saturating_sub(offset) < HEADER {
            return Ok(Err("fewer bytes are left than a header has".to_owned()));
        }
        let mut bytes = [0; FRAME_HEADER];
        self.read_at(offset, &mut bytes)?;
        Ok(verify(&bytes, self.log_id, offset, limit))
    }

    /// Replaces the contents of `out` by the stored bytes of a frame. Returns whether they match the checksum in its
    /// header. The frame is within the segment's bytes.
    pub(super) fn stored(&self, header: &FrameHeader, out: &mut Vec<u8>) -> Result<bool, ThawError> {
        out.clear();
        out.resize(header.stored_len as usize, 0);
        self.read_at(header.offset.0.saturating_add(HEADER), out)?;
        Ok(sums::xxh3(out) == header.sum)
    }

    /// Returns the first offset from `from` on at which a header verifies whose frame ends at or before `limit`.
    pub(super) fn find_header(&self, from: u64, limit: u64) -> Result<Option<u64>, ThawError> {
        self.find(from, limit, |offset, bytes| verify(bytes, self.log_id, offset, limit).is_ok())
    }

    /// Returns whether the segment holds the header of a transaction, of any log and with any offset.
    pub(super) fn has_transaction(&self) -> Result<bool, ThawError> {
        let transaction = |_, bytes: &[u8]| {
            let header = RawFrameHeader::read(bytes, "frame header")
                .and_then(|raw| raw.validate(raw.log_id.get(), LogOffset(raw.own_offset.get())));
            header.is_ok_and(|header| header.kind == FrameKind::TRANSACTION)
        };
        Ok(self.find(self.base, self.end()?, transaction)?.is_some())
    }

    /// Returns the first offset from `from` on with a header's magic number at which `accept` returns true for the 64
    /// bytes there.
    fn find(&self, from: u64, limit: u64, accept: impl Fn(u64, &[u8]) -> bool) -> Result<Option<u64>, ThawError> {
        let mut window = Vec::new();
        let (mut size, most) = WINDOWS;
        let mut at = from;
        while limit.saturating_sub(at) >= HEADER {
            window.resize(limit.saturating_sub(at).min(size) as usize, 0);
            size = size.saturating_mul(2).min(most);
            self.read_at(at, &mut window)?;
            for (n, bytes) in window.windows(FRAME_HEADER).enumerate() {
                let offset = at.saturating_add(n as u64);
                if bytes.starts_with(&FRAME_MAGIC) && accept(offset, bytes) {
                    return Ok(Some(offset));
                }
            }
            // A header may cross the border of two windows.
            at = at.saturating_add((window.len() as u64).saturating_sub(HEADER - 1));
        }
        Ok(None)
    }

    /// Starts to write the bytes between two offsets of the log, as far as they are in this segment, to the disk. It
    /// guarantees nothing.
    ///
    /// # Errors
    /// Fails if the storage reports an error at once.
    pub fn start_writeback(&self, from: LogOffset, to: LogOffset) -> Result<(), ThawError> {
        let from = from.0.saturating_sub(self.base);
        let len = to.0.saturating_sub(self.base).saturating_sub(from);
        Ok(self.storage.start_writeback(from, len)?)
    }

    /// Fills `out` with written bytes of `frame` from `within` on, unverified; [`Segment::written`] verifies them.
    ///
    /// # Errors
    /// Fails if the bytes cannot be read.
    pub fn read(&self, frame: LogOffset, within: u64, out: &mut [u8]) -> Result<(), ThawError> {
        self.read_at(frame.0.saturating_add(HEADER).saturating_add(within), out)
    }

    /// Returns all written bytes of `frame`, verified; their checksum is `sum`, from a row of `thawed`.
    ///
    /// # Errors
    /// Fails with `Written` if they do not verify, with `Storage` if they cannot be read.
    pub fn written(&self, frame: LogOffset, sum: u64) -> Result<Vec<u8>, ThawError> {
        let wrong = |why: String| ThawError::Written { offset: frame, why };
        let header = self.header(frame.0, self.end()?)?.map_err(wrong)?;
        if header.kind != FrameKind::WRITTEN || !is_plain(&header) || header.sum != sum {
            return Err(wrong("it is not the frame that the range names".to_owned()));
        }
        let mut out = Vec::new();
        match self.stored(&header, &mut out)? {
            true => Ok(out),
            false => Err(wrong("checksum mismatch".to_owned())),
        }
    }

    /// Reads the segment's head.
    pub(super) fn head(number: u64, storage: &Arc<dyn Storage>) -> Result<Verified<Head>, ThawError> {
        let invalid = |why: &str| Ok(Err(format!("segment {number}: {why}")));
        let len = storage.len()?;
        let mut bytes = [0; FRAME_HEADER];
        if len < HEADER {
            return invalid("it has no head");
        }
        storage.read_at(0, &mut bytes)?;
        // Only the header says which log and offset it belongs to. This function uses these values; the caller compares
        // them.
        let named = RawFrameHeader::read(&bytes, "frame header").map(|raw| (raw.log_id.get(), raw.own_offset.get()));
        let Ok((log_id, base)) = named else { return invalid("it has no head") };
        let header = match verify(&bytes, log_id, base, base.saturating_add(len)) {
            Ok(header) => header,
            Err(why) => return invalid(&why),
        };
        if header.kind != FrameKind::SEGMENT || !is_plain(&header) || header.stored_len as usize != SegmentHead::SIZE {
            return invalid("it does not begin with a segment frame");
        }
        let segment = Segment { log_id, base, storage: Arc::clone(storage) };
        let mut stored = Vec::new();
        if !segment.stored(&header, &mut stored)? {
            return invalid("checksum mismatch in its head");
        }
        let Ok(raw) = SegmentHead::read(&stored, "segment") else { return invalid("it has no head") };
        let size = raw.segment_size.get();
        if !is_segment_size(size) || raw.segment.get() != number || number.checked_mul(size) != Some(base) {
            return invalid("its offset does not match its number");
        }
        let (previous_end, durable_upto) = (raw.previous_end.get(), raw.durable_upto.get());
        if previous_end > base
            || durable_upto > previous_end
            || Segment::at(log_id, number, size, storage.clone()).is_none()
        {
            return invalid("its offsets contradict one another");
        }
        Ok(Ok(Head {
            binding: Binding {
                uuid: raw.uuid,
                lineage: raw.lineage,
                generation: raw.generation.get(),
                root_hash: raw.root_hash,
            },
            log_id,
            segment_size: size,
            last: Chain { number: raw.last_transaction.get(), sum: raw.last_sum.get() },
            previous_end,
            durable_upto,
            end: base.saturating_add(header.frame_len()),
        }))
    }
}

fn verify(bytes: &[u8], log_id: u64, offset: u64, limit: u64) -> Verified<FrameHeader> {
    let header = RawFrameHeader::read(bytes, "frame header")
        .and_then(|raw| raw.validate(log_id, LogOffset(offset)))
        .map_err(|error| error.to_string())?;
    match offset.checked_add(header.frame_len()) {
        Some(end) if end <= limit => Ok(header),
        _ => Err("a frame is cut short".to_owned()),
    }
}

/// Returns whether a frame has codec raw, no flags and no clear part, as all frames of a thaw log.
pub(super) fn is_plain(header: &FrameHeader) -> bool {
    header.codec == 0
        && header.flags == Flags::default()
        && header.clear_len == 0
        && header.stored_len == header.raw_len
}

/// Encodes a segment's head.
pub(super) fn head_bytes(
    identity: &Identity,
    number: u64,
    last: Chain,
    previous_end: u64,
    durable_upto: u64,
) -> Vec<u8> {
    let Identity { binding, segment_size, .. } = *identity;
    SegmentHead {
        uuid: binding.uuid,
        lineage: binding.lineage,
        generation: U64::new(binding.generation),
        root_hash: binding.root_hash,
        segment: U64::new(number),
        segment_size: U64::new(segment_size),
        last_transaction: U64::new(last.number),
        last_sum: U64::new(last.sum),
        previous_end: U64::new(previous_end),
        durable_upto: U64::new(durable_upto),
    }
    .as_bytes()
    .to_vec()
}

/// Returns the header of a frame with `bytes` as stored bytes, codec raw; `None` if there are too many bytes for a
/// frame.
pub(super) fn plain_header(
    identity: &Identity,
    kind: FrameKind,
    sequence: u64,
    offset: u64,
    bytes: &[u8],
) -> Option<FrameHeader> {
    let len = u32::try_from(bytes.len()).ok().filter(|&len| u64::from(len) <= limits::RAW_LEN)?;
    Some(FrameHeader {
        kind,
        codec: 0,
        flags: Flags::default(),
        log_id: identity.log_id,
        epoch: identity.epoch,
        clear_len: 0,
        sequence,
        offset: LogOffset(offset),
        stored_len: len,
        raw_len: len,
        sum: sums::xxh3(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_takes_a_thirty_second_of_the_free_space_within_bounds() {
        for (free, size) in [
            (0, 4 << 20),
            (128 << 20, 4 << 20),
            (255 << 20, 4 << 20),
            (256 << 20, 8 << 20),
            (3 << 30, 64 << 20),
            (2 << 30, 64 << 20),
            ((2 << 30) - 1, 32 << 20),
            (u64::MAX, 64 << 20),
        ] {
            assert_eq!(segment_size(free), size, "{free} bytes free");
            assert!(is_segment_size(size));
        }
        assert!(!is_segment_size(0) && !is_segment_size(48 << 10) && !is_segment_size(128 << 20));
    }
}
