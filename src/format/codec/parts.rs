//! The table before stored bytes that consist of parts (section 6.4).

use crate::format::bytes::Cursor;
use crate::format::{FormatError, limits, sums};

const WHAT: &str = "part table";
const PART_SIZE_FIELD: usize = 4;
/// Bytes of an entry of the part table: stored length and checksum of a part.
const ENTRY: usize = 4 + 8;
const CRC: usize = 4;

/// Where a part of a frame is, and its length after decoding. Parts can be decoded alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Offset of the part's stored bytes from the beginning of the frame's stored bytes, which is that of the part
    /// table.
    pub offset: u32,
    /// Stored bytes of the part; equal to `raw_len` if the part is stored raw.
    pub stored_len: u32,
    /// XXH3-64 checksum of the part's stored bytes.
    pub sum: u64,
    /// Bytes of the part after decoding.
    pub raw_len: u32,
}

/// The table of a frame's parts. [`PartTable::decode`] verifies that the parts fill the stored bytes, and the raw
/// bytes, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTable {
    /// Raw bytes of each part but the last, which may have fewer.
    pub part_size: u32,
    /// The parts, in the order of their raw bytes.
    pub parts: Vec<Part>,
}

fn count(raw_len: u32, part_size: u32) -> usize {
    raw_len.div_ceil(part_size) as usize
}

fn checked_part_size(part_size: u32) -> Result<u32, FormatError> {
    if part_size < limits::PART_MIN {
        return Err(FormatError::Limit { what: "part size", value: part_size.into(), limit: limits::PART_MIN.into() });
    }
    Ok(part_size)
}

impl PartTable {
    /// Returns the bytes of the part table of a frame of `raw_len` raw bytes in parts of `part_size` raw bytes.
    /// `part_size` is not 0.
    pub fn byte_len(raw_len: u32, part_size: u32) -> usize {
        PART_SIZE_FIELD + ENTRY * count(raw_len, part_size) + CRC
    }

    /// Returns the length in bytes of the part table that begins with `bytes`, of which four are enough.
    /// [`PartTable::decode`] needs that many bytes of a frame.
    ///
    /// # Errors
    /// Returns `Truncated`, or `Limit` if the part size or `raw_len` is out of bounds.
    pub fn byte_len_of(bytes: &[u8], raw_len: u32) -> Result<usize, FormatError> {
        check_raw_len(raw_len)?;
        let part_size = checked_part_size(Cursor::new(bytes, WHAT).u32()?)?;
        Ok(Self::byte_len(raw_len, part_size))
    }

    /// Decodes the part table at the beginning of `bytes`, for a frame with these lengths. Bytes after the table are
    /// ignored.
    ///
    /// # Errors
    /// Returns `Truncated`, `Checksum`, `Limit`, or `Invalid` if the parts do not fill the frame.
    pub fn decode(bytes: &[u8], raw_len: u32, stored_len: u32) -> Result<Self, FormatError> {
        let len = Self::byte_len_of(bytes, raw_len)?;
        let table = Cursor::new(bytes, WHAT).take(len)?;
        let (body, crc) = table.split_at(len - CRC);
        let stored = Cursor::new(crc, WHAT).u32()?;
        let computed = sums::crc32(body);
        if stored != computed {
            return Err(FormatError::Checksum { what: WHAT, stored: stored.into(), computed: computed.into() });
        }
        let table = Self::parse(body, raw_len, stored_len)?;
        let end = table.parts.last().map_or(len as u64, |last| u64::from(last.offset) + u64::from(last.stored_len));
        if table.parts.len() != count(raw_len, table.part_size) || end != u64::from(stored_len) {
            return Err(FormatError::invalid(WHAT, "the parts do not fill the frame"));
        }
        Ok(table)
    }

    /// Decodes a damaged part table up to its first impossible part.
    ///
    /// # Errors
    /// Fails like [`PartTable::decode`], except for a wrong checksum or parts that do not fill the frame.
    pub(super) fn decode_damaged(bytes: &[u8], raw_len: u32) -> Result<Self, FormatError> {
        let len = Self::byte_len_of(bytes, raw_len)?;
        let body = Cursor::new(bytes, WHAT).take(len - CRC)?;
        Self::parse(body, raw_len, bytes.len().min(u32::MAX as usize) as u32)
    }

    /// Parses the parts up to the first that is not within the stored bytes or has more stored bytes than raw bytes.
    fn parse(body: &[u8], raw_len: u32, stored_len: u32) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(body, WHAT);
        let part_size = checked_part_size(cursor.u32()?)?;
        let count = count(raw_len, part_size);
        let mut parts = Vec::with_capacity(count.min(cursor.remaining() / ENTRY));
        let mut offset = (body.len() + CRC) as u32;
        let mut left = raw_len;
        for _ in 0..count {
            let part = Part { offset, stored_len: cursor.u32()?, sum: cursor.u64()?, raw_len: left.min(part_size) };
            let end = offset.checked_add(part.stored_len).filter(|&end| end <= stored_len);
            match end {
                Some(end) if part.stored_len <= part.raw_len => offset = end,
                _ => break,
            }
            left -= part.raw_len;
            parts.push(part);
        }
        Ok(PartTable { part_size, parts })
    }

    /// Returns the stored bytes of a frame with parts: the part table, then the stored bytes of these parts.
    pub(super) fn assemble(part_size: u32, lens: &[u32], stored: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(PART_SIZE_FIELD + ENTRY * lens.len() + CRC + stored.len());
        out.extend_from_slice(&part_size.to_le_bytes());
        let mut rest = stored;
        for &len in lens {
            let (part, behind) = rest.split_at(len as usize);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&sums::xxh3(part).to_le_bytes());
            rest = behind;
        }
        let crc = sums::crc32(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(stored);
        out
    }
}

/// Returns `raw_len` if it is within the limit for a frame, else an error.
pub(super) fn check_raw_len(raw_len: u32) -> Result<usize, FormatError> {
    if u64::from(raw_len) > limits::RAW_LEN {
        return Err(FormatError::Limit { what: "raw bytes of a frame", value: raw_len.into(), limit: limits::RAW_LEN });
    }
    Ok(raw_len as usize)
}
