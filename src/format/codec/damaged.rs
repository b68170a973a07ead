//! Decodes as much as possible of a frame whose checksum is wrong.

use super::decoder::{check_flags, part_codec, set_len};
use super::parts::{Part, PartTable, check_raw_len};
use super::{Decoder, FormatError, decode_filter};
use crate::format::frame::Flags;

impl Decoder {
    /// Replaces the contents of `out` by what can be decoded of damaged stored bytes: `raw_len` bytes, each at its
    /// right position, with zeros where nothing was decoded. `out` is empty if nothing can be decoded.
    ///
    /// The result is not verified: a codec may not notice damage and then returns wrong bytes after it. The caller must
    /// compare each subchunk with its identity. Without parts, zeros begin where decoding stopped. With parts, each
    /// part is decoded by itself, and the zeros end at the next part. If the part table itself is damaged, all parts
    /// from the damaged entry on are zeros.
    pub fn decode_damaged(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        raw_len: u32,
        dictionary: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) {
        if self.try_damaged(codec, flags, stored, raw_len, dictionary, out).is_err() {
            out.clear();
        }
    }

    /// Decodes one damaged part from its stored bytes, otherwise like [`Decoder::decode_damaged`].
    pub fn decode_damaged_part(
        &mut self,
        codec: u8,
        flags: Flags,
        part: &Part,
        stored: &[u8],
        dictionary: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) {
        let mut decode = || {
            let dictionary = check_flags(codec, flags, dictionary)?;
            set_len(out, check_raw_len(part.raw_len)?);
            self.damaged_unit(part_codec(codec, part), flags, stored, dictionary, out)
        };
        if decode().is_err() {
            out.clear();
        }
    }

    fn try_damaged(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        raw_len: u32,
        dictionary: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        let dictionary = check_flags(codec, flags, dictionary)?;
        let table = if flags.parts() { Some(PartTable::decode_damaged(stored, raw_len)?) } else { None };
        set_len(out, check_raw_len(raw_len)?);
        let Some(table) = table else { return self.salvage_unit(codec, flags, stored, dictionary, out) };
        let (mut parts, mut rest) = (table.parts.iter(), out.as_mut_slice());
        while !rest.is_empty() {
            let (now, after) = rest.split_at_mut(rest.len().min(table.part_size as usize));
            match parts.next() {
                Some(part) => {
                    self.damaged_unit(part_codec(codec, part), flags, part.stored(stored)?, dictionary, now)?;
                }
                None => now.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    fn damaged_unit(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        dictionary: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), FormatError> {
        if self.unit(codec, flags, stored, dictionary, out).is_ok() {
            return Ok(());
        }
        self.salvage_unit(codec, flags, stored, dictionary, out)
    }

    fn salvage_unit(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        dictionary: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), FormatError> {
        let len = self.context(codec)?.salvage(stored, out, dictionary).min(out.len());
        let (decoded, rest) = out.split_at_mut(len);
        rest.fill(0);
        decode_filter(flags.filter(), decoded)
    }
}
