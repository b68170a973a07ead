//! Bytes stored as they are.

use super::{Codec, Decompress, FormatError, RAW, failed};

pub(super) const CODEC: Codec = Codec {
    number: RAW,
    name: "none",
    levels: 0..=0,
    default_level: 0,
    probe_from: i32::MAX,
    compress: |_, _, _| Ok(false),
    memory: |_, _| 0,
    decoding_memory: |_| 0,
    decompressor: || Ok(Box::new(Raw)),
};

struct Raw;

impl Decompress for Raw {
    fn decompress(&mut self, stored: &[u8], out: &mut [u8], _: Option<&[u8]>) -> Result<(), FormatError> {
        if stored.len() != out.len() {
            return Err(failed("raw bytes", format!("{} are stored, {} were expected", stored.len(), out.len())));
        }
        out.copy_from_slice(stored);
        Ok(())
    }

    fn salvage(&mut self, stored: &[u8], out: &mut [u8], _: Option<&[u8]>) -> usize {
        out.iter_mut().zip(stored).for_each(|(out, stored)| *out = *stored);
        stored.len().min(out.len())
    }
}
