//! Decoding as far as it goes, when a frame's sum is wrong.

use super::decoder::{check_flags, part_codec};
use super::parts::{PartTable, check_raw_len};
use super::{Decoder, FormatError, decode_filter};
use crate::format::frame::Flags;

impl Decoder {
    /// What can be had of damaged stored bytes, at most `raw_len` bytes, each at its right position; empty if there is nothing.
    ///
    /// Nothing of it is certain: a codec may not notice damage, and gives wrong bytes from there on. Each subchunk is
    /// to be judged by its own identity. Without parts the result ends where decoding stopped. With parts it has `raw_len`
    /// bytes, each part is decoded by itself, and from where a part cannot be decoded on, up to the next part, are zeros;
    /// if the part table itself is damaged, that goes for all parts behind the damaged entry.
    pub fn decode_damaged(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        raw_len: u32,
        dictionary: Option<&[u8]>,
    ) -> Vec<u8> {
        self.try_damaged(codec, flags, stored, raw_len, dictionary).unwrap_or_default()
    }

    fn try_damaged(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        raw_len: u32,
        dictionary: Option<&[u8]>,
    ) -> Result<Vec<u8>, FormatError> {
        let dictionary = check_flags(codec, flags, dictionary)?;
        if !flags.parts() {
            let mut out = vec![0; check_raw_len(raw_len)?];
            let len = self.salvage_unit(codec, flags, stored, dictionary, &mut out)?;
            out.truncate(len);
            return Ok(out);
        }
        let table = PartTable::decode_damaged(stored, raw_len)?;
        let mut out = vec![0; check_raw_len(raw_len)?];
        for (part, out) in table.parts.iter().zip(out.chunks_mut(table.part_size as usize)) {
            let (codec, stored) = (part_codec(codec, part), part.stored(stored)?);
            if self.unit(codec, flags, stored, dictionary, out).is_err() {
                let len = self.salvage_unit(codec, flags, stored, dictionary, out)?;
                out[len..].fill(0);
            }
        }
        Ok(out)
    }

    fn salvage_unit(
        &mut self,
        codec: u8,
        flags: Flags,
        stored: &[u8],
        dictionary: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<usize, FormatError> {
        let len = self.context(codec)?.salvage(stored, out, dictionary);
        decode_filter(flags.filter(), &mut out[..len])?;
        Ok(len)
    }
}
