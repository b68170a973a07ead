//! Decodes the stored bytes of a frame to raw bytes.

use super::parts::{Part, PartTable, check_raw_len};
use super::{CODECS, Decompress, FormatError, RAW, XZ, codec, decode_filter};
use crate::format::frame::Flags;
use crate::format::sums;

/// Decodes frames one after another, and keeps the codecs' contexts between them. Each thread has its own decoder.
#[derive(Default)]
pub struct Decoder {
    /// Contexts by codec number; each is made when it is first needed.
    contexts: [Option<Box<dyn Decompress>>; CODECS.len()],
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// Makes a decoder without contexts; they are made when first needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the contents of `out` by the raw bytes, exactly `raw_len`, with or without parts. The caller has
    /// verified the frame's `sum`; the checksums of parts are not verified again.
    ///
    /// Reusing a buffer is cheaper than a new one: it is not cleared first.
    ///
    /// # Errors
    /// `Limit`, `Invalid` or `Decode`, and what is wrong with the part table; `out` is then empty. Memory is bounded by
    /// the limits, whatever the bytes claim.
    pub fn decode(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        raw_len: u32,
        dictionary: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let result = self.decode_frame(codec, flags, stored, raw_len, dictionary, out);
        if result.is_err() {
            out.clear();
        }
        result
    }

    fn decode_frame(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        raw_len: u32,
        dictionary: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let dictionary = check_flags(codec, flags, dictionary)?;
        let table = if flags.parts() {
            Some(PartTable::decode(stored, raw_len, u32::try_from(stored.len()).unwrap_or(u32::MAX))?)
        } else {
            None
        };
        //= format-spec.md#6
        //# Decoding must give exactly `raw_len` bytes.
        set_len(out, check_raw_len(raw_len)?);
        let Some(table) = table else { return self.unit(codec, flags, stored, dictionary, out) };
        for (part, out) in table.parts.iter().zip(out.chunks_mut(table.part_size as usize)) {
            self.unit(part_codec(codec, part), flags, part.stored(stored)?, dictionary, out)?;
        }
        Ok(())
    }

    /// Replaces the contents of `out` by the raw bytes of one part. `stored` is the part's stored bytes; this function
    /// verifies their checksum.
    ///
    /// # Errors
    /// As [`Decoder::decode`], and `Checksum`.
    pub fn decode_part(
        &mut self,
        codec: u8,
        flags: Flags,
        part: &Part,
        stored: &[u8],
        dictionary: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let mut decode = || {
            let dictionary = check_flags(codec, flags, dictionary)?;
            let raw_len = check_raw_len(part.raw_len)?;
            let computed = sums::xxh3(stored);
            if computed != part.sum {
                return Err(FormatError::Checksum { what: "part", stored: part.sum, computed });
            }
            set_len(out, raw_len);
            self.unit(part_codec(codec, part), flags, stored, dictionary, out)
        };
        let result = decode();
        if result.is_err() {
            out.clear();
        }
        result
    }

    /// Fills `out` from a unit that can be decoded alone: a frame without parts, or one part.
    pub(super) fn unit(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        dictionary: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), FormatError> {
        self.context(codec)?.decompress(stored, out, dictionary)?;
        decode_filter(flags.filter(), out)
    }

    pub(super) fn context(&mut self, number: u8) -> Result<&mut dyn Decompress, FormatError> {
        let codec = codec(number)?;
        let slot = self.contexts.get_mut(usize::from(number));
        let slot = slot.ok_or(FormatError::invalid("codec", "it has no context"))?;
        let context = match slot.take() {
            Some(context) => context,
            None => (codec.decompressor)()?,
        };
        Ok(slot.insert(context).as_mut())
    }
}

impl Part {
    /// Returns the part's stored bytes within `frame`, the stored bytes of its frame.
    pub(super) fn stored<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8], FormatError> {
        let start = self.offset as usize;
        frame.get(start..start.saturating_add(self.stored_len as usize)).ok_or(FormatError::Truncated {
            what: "part",
            need: u64::from(self.offset) + u64::from(self.stored_len),
            have: frame.len() as u64,
        })
    }
}

/// Returns the number of the codec that a part was compressed with. It is that of the frame, or raw if the part did not
/// become smaller.
pub(super) fn part_codec(codec: u8, part: &Part) -> u8 {
    if part.stored_len == part.raw_len { RAW } else { codec }
}

/// Returns the dictionary to decode with; `None` if the flags ask for none.
///
/// # Errors
/// Fails if the flags ask for a dictionary and there is none, or if codec and flags do not fit together.
pub(super) fn check_flags(codec: u8, flags: Flags, dictionary: Option<&[u8]>) -> Result<Option<&[u8]>, FormatError> {
    if codec == XZ && flags.filter() != 0 {
        return Err(FormatError::invalid("flags", "codec xz with a filter outside of its stream"));
    }
    match (flags.dictionary(), dictionary) {
        (false, _) => Ok(None),
        (true, Some(_)) => Ok(dictionary),
        (true, None) => Err(FormatError::invalid("flags", "a dictionary is needed, and the image has none")),
    }
}

/// Sets the length of `out`. Its contents do not matter: the caller overwrites all of them.
pub(super) fn set_len(out: &mut Vec<u8>, len: usize) {
    if out.capacity() < len {
        // The kernel gives zeroed pages; nothing has to be written.
        *out = vec![0; len];
    } else {
        out.resize(len, 0);
    }
}
