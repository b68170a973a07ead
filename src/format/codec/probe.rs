//! A cheap test whether compressing is worth the time.

use super::{FormatError, zstd};

/// Below this length the test costs more than it saves.
const SMALLEST: usize = 4096;
/// zstd's fastest level: it takes about a hundredth of the time of the slow ones.
const LEVEL: i32 = 1;
/// A saving of less than one byte in this many is not worth it.
const LEAST_GAIN: usize = 256;

/// Whether the bytes look random: even the fastest codec saves something on all others. It depends on the bytes alone.
pub(super) fn is_hopeless(raw: &[u8]) -> Result<bool, FormatError> {
    if raw.len() < SMALLEST {
        return Ok(false);
    }
    let mut out = Vec::new();
    Ok(!zstd::compress(LEVEL, raw, &mut out)? || out.len() > raw.len() - raw.len() / LEAST_GAIN)
}
