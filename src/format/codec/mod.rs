//! Codecs (section 6): raw bytes of a frame to stored bytes, and back.
//!
//! What is encoded is a function of the raw bytes, the compression and the part size alone, never of the thread or of what
//! an encoder did before. Nothing grows: what does not shrink is stored raw. Stored bytes may be hostile: a decoder returns an
//! error, and takes no more memory than the limits of the format allow. Called by whoever writes or reads frames.
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
pub use filter::{FILTER_ARM64, FILTER_X86, decode_filter, encode_filter};
pub use parts::{Part, PartTable};
use std::ops::RangeInclusive;

/// Codec number of bytes stored as they are.
pub const RAW: u8 = 0;
/// Codec number of zstd.
pub const ZSTD: u8 = 1;
/// Codec number of xz.
pub const XZ: u8 = 2;

/// All codecs, in order of their numbers.
static CODECS: [Codec; 3] = [raw::CODEC, zstd::CODEC, xz::CODEC];

/// Appends the encoded bytes of `raw` to `out`; false if they would not be fewer, `out` is then what it was.
type Compress = fn(level: i32, raw: &[u8], out: &mut Vec<u8>) -> Result<bool, FormatError>;

/// What is known about a codec.
struct Codec {
    number: u8,
    /// As people write it.
    name: &'static str,
    levels: RangeInclusive<i32>,
    /// The level when none is given.
    default_level: i32,
    /// From this level on it is so slow that a [`probe`] first is cheap.
    probe_from: i32,
    compress: Compress,
    /// Bytes that takes for `raw_len` bytes, without input and output.
    memory: fn(level: i32, raw_len: usize) -> usize,
    /// Bytes that decoding `raw_len` bytes takes for its time, without input and output.
    decoding_memory: fn(raw_len: usize) -> usize,
    decompressor: fn() -> Result<Box<dyn Decompress>, FormatError>,
}

/// The decoding half of a codec, with its kept context.
trait Decompress: Send {
    /// Fills `out` to its end, and uses `stored` to its end, or fails.
    fn decompress(&mut self, stored: &[u8], out: &mut [u8], dictionary: Option<&[u8]>) -> Result<(), FormatError>;

    /// As far as it goes: how many bytes of `out` were written. They may be wrong from where `stored` is damaged on, and
    /// what is behind them in `out` means nothing.
    fn salvage(&mut self, stored: &[u8], out: &mut [u8], dictionary: Option<&[u8]>) -> usize;
}

/// The codec with this number.
fn codec(number: u8) -> Result<&'static Codec, FormatError> {
    CODECS
        .get(usize::from(number))
        .filter(|codec| codec.number == number)
        .ok_or(FormatError::invalid("codec", "this version does not know it"))
}

/// Whether this version can decode the codec.
pub fn is_known(number: u8) -> bool {
    codec(number).is_ok()
}

/// The codec's name as people write it, `unknown` for others.
pub fn name(number: u8) -> &'static str {
    codec(number).map_or("unknown", |codec| codec.name)
}

/// Bytes of memory that decoding `raw_len` bytes takes while it goes on, without input and output, whatever the stored
/// bytes claim; 0 for a codec that is not known.
pub fn decoding_memory(number: u8, raw_len: usize) -> usize {
    codec(number).map_or(0, |codec| (codec.decoding_memory)(raw_len))
}

fn failed(what: &'static str, why: impl ToString) -> FormatError {
    FormatError::Decode { what, why: why.to_string() }
}

#[cfg(test)]
mod tests;
