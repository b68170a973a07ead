//! The frame header: 64 bytes before every record of a log (section 2.1).

use super::ids::LogOffset;
use super::layout::on_disk;
use super::{FormatError, limits, sums};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Bytes of a frame header.
pub const FRAME_HEADER: usize = RawFrameHeader::SIZE;
/// First bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"frle";

on_disk! {
    /// A frame header on disk.
    pub struct RawFrameHeader {
        /// [`FRAME_MAGIC`].
        magic: [u8; 4],
        /// [`FrameKind`].
        kind: u8,
        /// Codec of the stored bytes.
        codec: u8,
        /// [`Flags`].
        flags: U16,
        /// Log the frame belongs to.
        log_id: U64,
        /// Writer's session.
        epoch: U32,
        /// Bytes of the clear part.
        clear_len: U32,
        /// Ascends in time.
        sequence: U64,
        /// Offset of this header in its log.
        own_offset: U64,
        /// Bytes stored.
        stored_len: U32,
        /// Bytes after decoding.
        raw_len: U32,
        /// XXH3 of the stored bytes.
        sum: U64,
        /// Zero: not encrypted.
        key_id: U32,
        /// CRC-32 of all before.
        crc: U32,
    }
}

/// What a frame holds; unknown numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameKind(pub u8);

impl FrameKind {
    /// File data.
    pub const SUPERCHUNK: FrameKind = FrameKind(1);
    /// Table blocks of all tables but the map.
    pub const TABLE_GROUP: FrameKind = FrameKind(2);
    /// A block of the map.
    pub const MAP_BLOCK: FrameKind = FrameKind(3);
    /// A root.
    pub const ROOT: FrameKind = FrameKind(4);
    /// Parity.
    pub const PARITY: FrameKind = FrameKind(5);
    /// Zeros.
    pub const PAD: FrameKind = FrameKind(6);
    /// Thaw log: bytes that applications wrote.
    pub const WRITTEN: FrameKind = FrameKind(16);
    /// Thaw log: a transaction.
    pub const TRANSACTION: FrameKind = FrameKind(17);
    /// Thaw log: the first frame of a segment.
    pub const SEGMENT: FrameKind = FrameKind(18);

    /// The name for messages; `unknown` for numbers that this version does not know.
    pub fn name(self) -> &'static str {
        match self {
            Self::SUPERCHUNK => "superchunk",
            Self::TABLE_GROUP => "table group",
            Self::MAP_BLOCK => "map block",
            Self::ROOT => "root",
            Self::PARITY => "parity",
            Self::PAD => "pad",
            Self::WRITTEN => "written bytes",
            Self::TRANSACTION => "transaction",
            Self::SEGMENT => "segment",
            _ => "unknown",
        }
    }

    /// Whether there is a clear list before the stored bytes.
    pub fn has_clear_list(self) -> bool {
        matches!(self, Self::SUPERCHUNK | Self::TABLE_GROUP)
    }
}

/// Flags of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// The stored bytes are parts, each decodable alone.
    pub const PARTS: u16 = 1;
    /// The codec needs the image's dictionary.
    pub const DICTIONARY: u16 = 2;
    /// The superchunk is not full: it is the last of its batch, or it reached another limit (section 5).
    pub const SHORT: u16 = 4;
    const KNOWN: u16 = Self::PARTS | Self::DICTIONARY | Self::SHORT | 0xff00;

    /// Whether the stored bytes are parts.
    pub fn parts(self) -> bool {
        self.0 & Self::PARTS != 0
    }

    /// Whether the dictionary is needed.
    pub fn dictionary(self) -> bool {
        self.0 & Self::DICTIONARY != 0
    }

    /// Whether the superchunk may be less than full.
    pub fn short(self) -> bool {
        self.0 & Self::SHORT != 0
    }

    /// These flags with the bit for a superchunk that is not full.
    pub fn with_short(self, short: bool) -> Self {
        Flags(self.0 & !Self::SHORT | if short { Self::SHORT } else { 0 })
    }

    /// Number of the filter, 0 for none.
    pub fn filter(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// These flags with the given filter.
    pub fn with_filter(self, filter: u8) -> Self {
        Flags(self.0 & 0xff | u16::from(filter) << 8)
    }

    /// Whether a bit is set that this version does not know.
    pub fn unknown(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }
}

/// A verified frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: FrameKind,
    /// Codec number.
    pub codec: u8,
    /// Flags.
    pub flags: Flags,
    /// Log the frame belongs to.
    pub log_id: u64,
    /// Writer's session.
    pub epoch: u32,
    /// Bytes of the clear part.
    pub clear_len: u32,
    /// Ascends in time.
    pub sequence: u64,
    /// Offset of this header.
    pub offset: LogOffset,
    /// Bytes stored.
    pub stored_len: u32,
    /// Bytes after decoding.
    pub raw_len: u32,
    /// XXH3 of the stored bytes.
    pub sum: u64,
}

impl FrameHeader {
    /// The header's bytes, with its checksum.
    pub fn encode(&self) -> [u8; FRAME_HEADER] {
        let mut raw = RawFrameHeader {
            magic: FRAME_MAGIC,
            kind: self.kind.0,
            codec: self.codec,
            flags: self.flags.0.into(),
            log_id: self.log_id.into(),
            epoch: self.epoch.into(),
            clear_len: self.clear_len.into(),
            sequence: self.sequence.into(),
            own_offset: self.offset.0.into(),
            stored_len: self.stored_len.into(),
            raw_len: self.raw_len.into(),
            sum: self.sum.into(),
            key_id: 0.into(),
            crc: 0.into(),
        };
        raw.crc = crc(&raw).into();
        let mut out = [0; FRAME_HEADER];
        out.copy_from_slice(raw.as_bytes());
        out
    }

    /// Bytes of the whole frame.
    pub fn frame_len(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.clear_len) + u64::from(self.stored_len)
    }
}

/// The checksum of all bytes before the field.
fn crc(raw: &RawFrameHeader) -> u32 {
    raw.as_bytes().split_last_chunk::<4>().map_or(0, |(before, _)| sums::crc32(before))
}

/// Whether these bytes may be a frame header at `offset`, whole or damaged, or are zeros, so that no header was written
/// yet. Data seldom looks like this.
pub fn may_be_header(bytes: &[u8; FRAME_HEADER], offset: LogOffset) -> bool {
    let own_offset = RawFrameHeader::read(bytes, "frame header").map(|raw| raw.own_offset.get());
    bytes.starts_with(&FRAME_MAGIC) || own_offset == Ok(offset.0) || bytes == &[0; FRAME_HEADER]
}

impl RawFrameHeader {
    /// The header, if it verifies and belongs to `log_id` and `offset`.
    ///
    /// # Errors
    /// The first thing that is wrong, in this order: magic, checksum, log, offset, limits.
    pub fn validate(&self, log_id: u64, offset: LogOffset) -> Result<FrameHeader, FormatError> {
        //= format-spec.md#2.1
        //# A frame counts only if magic, crc, `log_id` and `own_offset` are right. So frames of other images, or of an
        //# image that is stored inside this one as data, never count.
        if self.magic != FRAME_MAGIC {
            return Err(FormatError::Magic { what: "frame header", found: self.magic });
        }
        let computed = crc(self);
        if computed != self.crc.get() {
            return Err(FormatError::Checksum {
                what: "frame header",
                stored: self.crc.get().into(),
                computed: computed.into(),
            });
        }
        if self.log_id.get() != log_id {
            return Err(FormatError::invalid("frame header", "it belongs to another log"));
        }
        if self.own_offset.get() != offset.0 {
            return Err(FormatError::invalid("frame header", "its offset is not the one it names"));
        }
        if self.key_id.get() != 0 {
            return Err(FormatError::invalid("frame header", "the frame is encrypted"));
        }
        let flags = Flags(self.flags.get());
        if flags.unknown() {
            return Err(FormatError::invalid("frame header", "a flag is set that this version does not know"));
        }
        for (what, value, limit) in [
            ("clear part of a frame", self.clear_len.get(), limits::CLEAR_LEN),
            ("stored bytes of a frame", self.stored_len.get(), limits::STORED_LEN),
            ("raw bytes of a frame", self.raw_len.get(), limits::RAW_LEN),
        ] {
            if u64::from(value) > limit {
                return Err(FormatError::Limit { what, value: value.into(), limit });
            }
        }
        Ok(FrameHeader {
            kind: FrameKind(self.kind),
            codec: self.codec,
            flags,
            log_id,
            epoch: self.epoch.get(),
            clear_len: self.clear_len.get(),
            sequence: self.sequence.get(),
            offset,
            stored_len: self.stored_len.get(),
            raw_len: self.raw_len.get(),
            sum: self.sum.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::SUPERCHUNK,
            codec: 1,
            flags: Flags(Flags::PARTS),
            log_id: 7,
            epoch: 1,
            clear_len: 10,
            sequence: 3,
            offset: LogOffset(32768),
            stored_len: 100,
            raw_len: 200,
            sum: 9,
        }
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_noticed() {
        let good = header().encode();
        assert_eq!(RawFrameHeader::read(&good, "h").unwrap().validate(7, LogOffset(32768)).unwrap(), header());
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(RawFrameHeader::read(&bad, "h").unwrap().validate(7, LogOffset(32768)).is_err(), "bit {bit}");
        }
    }

    //= format-spec.md#2.1
    //= type=test
    //# A frame counts only if magic, crc, `log_id` and `own_offset` are right. So frames of other images, or of an
    //# image that is stored inside this one as data, never count.
    #[test]
    fn a_header_of_another_log_or_another_offset_does_not_count() {
        let raw = RawFrameHeader::read(&header().encode(), "h").unwrap();
        assert!(raw.validate(8, LogOffset(32768)).is_err());
        assert!(raw.validate(7, LogOffset(32769)).is_err());
    }
}
