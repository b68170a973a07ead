//! Encodes the raw bytes of a frame to stored bytes.

use super::parts::{PartTable, check_raw_len};
use super::{Compression, FormatError, RAW, codec, probe};
use crate::format::frame::Flags;
use crate::format::{limits, sums};

/// The stored bytes of a frame, and the fields of the frame header that describe them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Number of the codec.
    pub codec: u8,
    /// Flags of the frame.
    pub flags: Flags,
    /// Stored bytes: at most as many as raw bytes, plus the part table if there are parts.
    pub stored: Vec<u8>,
    /// XXH3-64 checksum of the stored bytes.
    pub sum: u64,
}

/// Compresses frames one after another. Each thread has its own encoder.
#[derive(Debug)]
pub struct Encoder {
    compression: Compression,
    part_size: Option<u32>,
}

impl Encoder {
    /// Makes an encoder that cuts frames of more than `part_size` raw bytes into parts. Wrong parameters are reported
    /// by [`Encoder::encode`].
    pub fn new(compression: Compression, part_size: Option<u32>) -> Self {
        Encoder { compression, part_size }
    }

    /// Returns the bytes of memory that [`Encoder::encode`] takes for its contexts and its output, for `raw_len` bytes
    /// of input. With parts, `raw_len` is the length of a part.
    pub fn memory(compression: Compression, raw_len: usize) -> usize {
        let contexts = codec(compression.codec_number()).map_or(0, |c| (c.memory)(compression.wide_level(), raw_len));
        contexts.saturating_add(raw_len)
    }

    /// Compresses one frame. The frame is stored raw if it would not become smaller.
    ///
    /// # Errors
    /// Returns `Limit` if `raw` is longer than a frame may be, or if the level or part size given to [`Encoder::new`]
    /// is out of bounds; `Decode` if the compressor fails, for example because memory is short.
    pub fn encode(&mut self, raw: &[u8]) -> Result<Encoded, FormatError> {
        self.encode_in(self.part_size, raw)
    }

    /// Compresses one frame as [`Encoder::encode`] does, but never in parts.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_whole(&mut self, raw: &[u8]) -> Result<Encoded, FormatError> {
        self.encode_in(None, raw)
    }

    fn encode_in(&mut self, part_size: Option<u32>, raw: &[u8]) -> Result<Encoded, FormatError> {
        let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        check_raw_len(raw_len)?;
        self.compression.validate()?;
        match part_size {
            Some(size) if size < limits::PART_MIN => {
                Err(FormatError::Limit { what: "part size", value: size.into(), limit: limits::PART_MIN.into() })
            }
            Some(size) if raw_len > size => self.encode_parts(raw, size),
            _ => {
                let mut stored = Vec::new();
                let codec = self.append(raw, &mut stored)?;
                Ok(finish(codec, Flags::default(), stored))
            }
        }
    }

    fn encode_parts(&self, raw: &[u8], part_size: u32) -> Result<Encoded, FormatError> {
        let (mut stored, mut lens, mut codec) = (Vec::new(), Vec::new(), RAW);
        for part in raw.chunks(part_size as usize) {
            let start = stored.len();
            codec = codec.max(self.append(part, &mut stored)?);
            lens.push((stored.len() - start) as u32);
        }
        Ok(finish(codec, Flags(Flags::PARTS), PartTable::assemble(part_size, &lens, &stored)))
    }

    /// Compresses `raw`, appends the stored bytes to `out`, and returns the number of their codec.
    fn append(&self, raw: &[u8], out: &mut Vec<u8>) -> Result<u8, FormatError> {
        let codec = self.compression.validate()?;
        let level = self.compression.wide_level();
        let hopeless = raw.is_empty() || level >= codec.probe_from && probe::is_hopeless(raw)?;
        if !hopeless && (codec.compress)(level, raw, out)? {
            return Ok(codec.number);
        }
        out.extend_from_slice(raw);
        Ok(RAW)
    }
}

fn finish(codec: u8, flags: Flags, stored: Vec<u8>) -> Encoded {
    Encoded { codec, flags, sum: sums::xxh3(&stored), stored }
}
