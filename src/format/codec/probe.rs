//! A cheap look at whether compressing is worth the time.

use super::{FormatError, zstd};

/// Below this a slow codec is quicker than thinking about it.
const SMALLEST: usize = 4096;
/// zstd's fastest level: about a hundredth of what the slow ones take.
const LEVEL: i32 = 1;
/// What saves less than one byte in so many is left alone.
const LEAST_GAIN: usize = 256;

/// Whether the bytes look random: even the fastest codec finds something in all others. A function of the bytes alone.
pub(super) fn is_hopeless(raw: &[u8]) -> Result<bool, FormatError> {
    if raw.len() < SMALLEST {
        return Ok(false);
    }
    let mut out = Vec::new();
    Ok(!zstd::compress(LEVEL, raw, &mut out)? || out.len() > raw.len() - raw.len() / LEAST_GAIN)
}
