//! A cheap test whether compressing is worth the time.

use super::{FormatError, zstd};

/// Length in bytes below which testing bytes costs more than compressing them in vain.
const SMALLEST: usize = 4096;
/// Level of zstd at which bytes are tested: the fastest. It takes about a hundredth of the time of the slow levels.
const LEVEL: i32 = 1;
/// A saving of less than one byte in this many bytes is not worth the time that compressing takes.
const LEAST_GAIN: usize = 256;

/// Returns whether compressing the bytes is hopeless, because they look random. It tries the fastest codec: if that
/// saves next to nothing, no codec saves much. The result depends on the bytes alone.
pub(super) fn is_hopeless(raw: &[u8]) -> Result<bool, FormatError> {
    if raw.len() < SMALLEST {
        return Ok(false);
    }
    let mut out = Vec::new();
    Ok(!zstd::compress(LEVEL, raw, &mut out)? || out.len() > raw.len() - raw.len() / LEAST_GAIN)
}
