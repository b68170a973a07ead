//! The frame header: 64 bytes before every record of a log (section 2.1).

use super::ids::LogOffset;
use super::layout::on_disk;
use super::{FormatError, limits, sums};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Length of a frame header in bytes.
pub const FRAME_HEADER: usize = RawFrameHeader::SIZE;
/// Magic number: the first four bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"frle";

on_disk! {
    /// A frame header on disk, not verified yet.
    pub struct RawFrameHeader {
        /// Magic number, [`FRAME_MAGIC`].
        magic: [u8; 4],
        /// Number of the [`FrameKind`].
        kind: u8,
        /// Number of the codec of the stored bytes.
        codec: u8,
        /// Bits of [`Flags`].
        flags: U16,
        /// Id of the log that the frame belongs to.
        log_id: U64,
        /// Epoch: number of the writer's session.
        epoch: U32,
        /// Length of the clear part in bytes.
        clear_len: U32,
        /// Sequence number of the frame, which ascends in time.
        sequence: U64,
        /// Offset in bytes of this header in its log.
        own_offset: U64,
        /// Length of the stored (compressed) bytes.
        stored_len: U32,
        /// Length in bytes after decoding.
        raw_len: U32,
        /// XXH3-64 checksum of the stored bytes.
        sum: U64,
        /// Id of the encryption key; zero, because nothing is encrypted.
        key_id: U32,
        /// CRC-32 of all bytes of the header before this field.
        crc: U32,
    }
}

/// Kind of a frame, as its number: what the frame holds. Unknown numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameKind(pub u8);

impl FrameKind {
    /// A superchunk: file data.
    pub const SUPERCHUNK: FrameKind = FrameKind(1);
    /// A table group: table blocks of all tables but the map.
    pub const TABLE_GROUP: FrameKind = FrameKind(2);
    /// One table block of the map.
    pub const MAP_BLOCK: FrameKind = FrameKind(3);
    /// A root of the image.
    pub const ROOT: FrameKind = FrameKind(4);
    /// Parity data for a range of the log.
    pub const PARITY: FrameKind = FrameKind(5);
    /// Padding: the frame holds zeros.
    pub const PAD: FrameKind = FrameKind(6);
    /// Written bytes: bytes that applications wrote, in the thaw log.
    pub const WRITTEN: FrameKind = FrameKind(16);
    /// A transaction of the thaw log.
    pub const TRANSACTION: FrameKind = FrameKind(17);
    /// The first frame of a segment of the thaw log.
    pub const SEGMENT: FrameKind = FrameKind(18);

    /// Returns the kind's name for messages, or `unknown` for numbers that this version does not know.
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

    /// Returns whether frames of this kind have a clear list before the stored bytes.
    pub fn has_clear_list(self) -> bool {
        matches!(self, Self::SUPERCHUNK | Self::TABLE_GROUP)
    }
}

/// Flag bits of a frame, with the number of its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// Bit: the stored bytes are parts, each decodable alone.
    pub const PARTS: u16 = 1;
    /// Bit: the codec needs the image's dictionary.
    pub const DICTIONARY: u16 = 2;
    /// Bit: the superchunk is not full, because it is the last of its batch or reached another limit (section 5).
    pub const SHORT: u16 = 4;
    const KNOWN: u16 = Self::PARTS | Self::DICTIONARY | Self::SHORT | 0xff00;

    /// Returns whether the stored bytes are parts.
    pub fn parts(self) -> bool {
        self.0 & Self::PARTS != 0
    }

    /// Returns whether decoding needs the image's dictionary.
    pub fn dictionary(self) -> bool {
        self.0 & Self::DICTIONARY != 0
    }

    /// Returns whether the superchunk may be less than full.
    pub fn short(self) -> bool {
        self.0 & Self::SHORT != 0
    }

    /// Returns the flags with the bit [`Flags::SHORT`] (a superchunk that is not full) set to `short`.
    pub fn with_short(self, short: bool) -> Self {
        Flags(self.0 & !Self::SHORT | if short { Self::SHORT } else { 0 })
    }

    /// Returns the number of the filter, 0 for none.
    pub fn filter(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Returns the flags with the number of the filter set to `filter`.
    pub fn with_filter(self, filter: u8) -> Self {
        Flags(self.0 & 0xff | u16::from(filter) << 8)
    }

    /// Returns whether a bit is set that this version does not know.
    pub fn unknown(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }
}

/// A verified frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Kind of the frame: what it holds.
    pub kind: FrameKind,
    /// Number of the codec of the stored bytes.
    pub codec: u8,
    /// Flags of the frame.
    pub flags: Flags,
    /// Id of the log that the frame belongs to.
    pub log_id: u64,
    /// Epoch: number of the writer's session.
    pub epoch: u32,
    /// Length of the clear part in bytes.
    pub clear_len: u32,
    /// Sequence number of the frame, which ascends in time.
    pub sequence: u64,
    /// Offset in bytes of this header in its log.
    pub offset: LogOffset,
    /// Length of the stored (compressed) bytes.
    pub stored_len: u32,
    /// Length in bytes after decoding.
    pub raw_len: u32,
    /// XXH3-64 checksum of the stored bytes.
    pub sum: u64,
}

impl FrameHeader {
    /// Returns the encoded header, with its checksum.
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

    /// Returns the bytes of the whole frame: header, clear part and stored bytes.
    pub fn frame_len(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.clear_len) + u64::from(self.stored_len)
    }
}

/// Returns the CRC-32 of all bytes of the header before the checksum field.
fn crc(raw: &RawFrameHeader) -> u32 {
    raw.as_bytes().split_last_chunk::<4>().map_or(0, |(before, _)| sums::crc32(before))
}

/// Returns whether these bytes may be a frame header at `offset`, whole or damaged. Zeros count, too: perhaps the
/// header was never written. Data seldom looks like this.
pub fn may_be_header(bytes: &[u8; FRAME_HEADER], offset: LogOffset) -> bool {
    let own_offset = RawFrameHeader::read(bytes, "frame header").map(|raw| raw.own_offset.get());
    bytes.starts_with(&FRAME_MAGIC) || own_offset == Ok(offset.0) || bytes == &[0; FRAME_HEADER]
}

impl RawFrameHeader {
    /// Returns the header, if it verifies and belongs to the log `log_id` and to `offset`.
    ///
    /// # Errors
    /// Returns the first thing that is wrong, in this order: magic, checksum, log, offset, limits.
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
