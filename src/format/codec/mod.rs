//! Codecs (section 6): raw bytes of a frame to stored bytes, and back.
//!
//! The stored bytes depend only on the raw bytes, the compression and the part size, never on the thread or on what an
//! encoder did before. Bytes that would not shrink are stored raw. Stored bytes may be hostile: a decoder returns an
//! error and takes no more memory than the limits of the format allow. Every module that writes or reads frames calls
//! this one.
//!
//! A new codec is one file, one line in [`CODECS`], and a variant of [`Compression`].

mod compression;
mod damaged;
mod decoder;
mod encoder;
mod filter;
mod machine;
mod parts;
mod probe;
mod raw;
mod xz;
mod zstd;

use super::FormatError;
pub use compression::Compression;
pub use decoder::Decoder;
pub use encoder::{Encoded, Encoder};
pub use filter::{FILTER_ARM64, FILTER_X86, decode_filter};
pub use parts::{Part, PartTable};
use std::ops::RangeInclusive;

/// Codec number of bytes that are stored as they are.
pub const RAW: u8 = 0;
/// Codec number of zstd.
pub const ZSTD: u8 = 1;
/// Codec number of xz.
pub const XZ: u8 = 2;

/// All codecs, in order of their numbers.
static CODECS: [Codec; 3] = [raw::CODEC, zstd::CODEC, xz::CODEC];

/// Appends the encoded bytes of `raw` to `out`. If these would not be fewer than the bytes of `raw`, returns false and
/// leaves `out` unchanged.
type Compress = fn(level: i32, raw: &[u8], out: &mut Vec<u8>) -> Result<bool, FormatError>;

/// Properties and functions of a codec.
struct Codec {
    number: u8,
    /// Name of the codec on the command line.
    name: &'static str,
    levels: RangeInclusive<i32>,
    /// Level of the codec when none is given.
    default_level: i32,
    /// From this level on the codec is so slow that a [`probe`] before it is cheap.
    probe_from: i32,
    compress: Compress,
    /// Returns the memory in bytes that the codec takes besides input and output, while it compresses `raw_len` bytes.
    memory: fn(level: i32, raw_len: usize) -> usize,
    /// Returns the memory in bytes that the codec takes at most besides input and output, while it decodes `raw_len`
    /// bytes.
    decoding_memory: fn(raw_len: usize) -> usize,
    decompressor: fn() -> Result<Box<dyn Decompress>, FormatError>,
}

/// The decoder of one codec, which keeps its context between calls.
trait Decompress: Send {
    /// Fills all of `out` from all of `stored`, or fails.
    fn decompress(&mut self, stored: &[u8], out: &mut [u8], dictionary: Option<&[u8]>) -> Result<(), FormatError>;

    /// Decodes as much as possible and returns how many bytes of `out` were written. They may be wrong from the damage
    /// in `stored` on. The bytes of `out` after them are undefined.
    fn salvage(&mut self, stored: &[u8], out: &mut [u8], dictionary: Option<&[u8]>) -> usize;
}

/// Returns the codec with this number, or an error if this version does not know the number.
fn codec(number: u8) -> Result<&'static Codec, FormatError> {
    CODECS
        .get(usize::from(number))
        .filter(|codec| codec.number == number)
        .ok_or(FormatError::invalid("codec", "this version does not know it"))
}

/// Returns whether this version can decode the codec with this number.
pub fn is_known(number: u8) -> bool {
    codec(number).is_ok()
}

/// Returns the codec's name on the command line, or `unknown` for an unknown number.
pub fn name(number: u8) -> &'static str {
    codec(number).map_or("unknown", |codec| codec.name)
}

/// Returns an upper bound of the memory in bytes that a decoder takes besides its input and output, while it decodes
/// `raw_len` bytes. The bound holds for any stored bytes, also for forged ones. It is 0 for an unknown codec.
pub fn decoding_memory(number: u8, raw_len: usize) -> usize {
    codec(number).map_or(0, |codec| (codec.decoding_memory)(raw_len))
}

fn failed(what: &'static str, why: impl ToString) -> FormatError {
    FormatError::Decode { what, why: why.to_string() }
}

#[cfg(test)]
mod tests;
