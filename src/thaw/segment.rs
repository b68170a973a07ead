//! One segment: a storage seen at its place in the thaw log's offsets, and the frame it begins with.

use super::ThawError;
use crate::format::frame::{Flags, FrameHeader, FrameKind};
use crate::format::ids::LogOffset;
use crate::format::place::Place;
use crate::format::sums;
use crate::format::thaw::SegmentHead;
use crate::log::{LogReader, LogWriter, NewFrame};
use crate::storage::{HeadBytes, HeadIndex, Storage, StorageError};
use std::sync::Arc;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// Bytes of a segment unless told otherwise.
pub const SEGMENT_SIZE: u64 = 64 << 20;

/// Which state of which image a thaw log continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The image's.
    pub uuid: [u8; 16],
    /// The image's.
    pub lineage: [u8; 16],
    /// Of a head slot.
    pub generation: u64,
    /// Of that slot's root.
    pub root_hash: [u8; 32],
}

/// The last transaction, which the next one names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Chain {
    pub(super) number: u64,
    pub(super) sum: u64,
}

/// A storage whose first byte lies at `base`.
struct Shifted {
    inner: Arc<dyn Storage>,
    base: u64,
}

impl Shifted {
    /// The offset within the segment; one before it is beyond any end.
    fn at(&self, offset: u64) -> u64 {
        offset.checked_sub(self.base).unwrap_or(u64::MAX)
    }
}

impl Storage for Shifted {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.inner.read_at(self.at(offset), buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        Ok(self.base.saturating_add(self.inner.len()?))
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        Ok(self.base.saturating_add(self.inner.append(parts)?))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }

    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        self.inner.truncate(self.at(len))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.punch(self.at(offset), len)
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        self.inner.read_head(slot)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        self.inner.replace_head(slot, expected, new)
    }
}

/// A segment's storage whose first byte lies at `base`.
pub(super) fn at(storage: Arc<dyn Storage>, base: u64) -> Arc<dyn Storage> {
    Arc::new(Shifted { inner: storage, base })
}

/// A segment's storage, seen at its place.
pub(super) fn placed(storage: Arc<dyn Storage>, number: u64, size: u64) -> Result<Arc<dyn Storage>, ThawError> {
    let base = number.checked_mul(size).filter(|base| base.checked_add(size).is_some());
    let base = base.ok_or(ThawError::TooLarge { what: "a segment's number", len: number, segment_size: size })?;
    Ok(at(storage, base))
}

/// What a log's frames have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    pub(super) binding: Binding,
    pub(super) log_id: u64,
    pub(super) epoch: u32,
    pub(super) segment_size: u64,
}

/// Begins segment `number` in an empty storage, which is seen at its place: a writer behind its first frame.
pub(super) fn begin(
    storage: Arc<dyn Storage>,
    number: u64,
    identity: &Identity,
    chain: Chain,
    next_sequence: u64,
) -> Result<LogWriter, ThawError> {
    let Identity { binding, log_id, epoch, segment_size } = *identity;
    let head = SegmentHead {
        uuid: binding.uuid,
        lineage: binding.lineage,
        generation: U64::new(binding.generation),
        root_hash: binding.root_hash,
        segment: U64::new(number),
        segment_size: U64::new(segment_size),
        last_transaction: U64::new(chain.number),
        last_sum: U64::new(chain.sum),
    };
    let base = storage.len()?;
    let mut writer = LogWriter::new(storage, log_id, epoch, next_sequence, base)?;
    writer.append(raw_frame(FrameKind::SEGMENT, head.as_bytes()))?;
    Ok(writer)
}

/// A frame that holds `bytes` as they are.
pub(super) fn raw_frame(kind: FrameKind, bytes: &[u8]) -> NewFrame<'_> {
    NewFrame {
        kind,
        codec: 0,
        flags: Flags::default(),
        clear: &[],
        stored: bytes,
        raw_len: bytes.len() as u32,
        sum: sums::xxh3(bytes),
    }
}

/// The frame at `offset`, its stored bytes verified and put into `out`.
pub(super) fn frame(reader: &LogReader, offset: LogOffset, out: &mut Vec<u8>) -> Result<FrameHeader, ThawError> {
    let header = reader.header(offset)?;
    reader.stored(&Place::of(&header), out)?;
    Ok(header)
}
