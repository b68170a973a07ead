//! Cheap measures of a superchunk: how well the fastest codec compresses a part of it, and how much of it repeats.
//!
//! Both depend on its bytes alone. They cost less than reading, cutting and hashing it. Called by a rehearsal.

use super::held::mixed;
use crate::format::FormatError;
use crate::format::codec::{Compression, Encoder};
use std::collections::HashSet;

/// Divisor: one byte in this many is compressed, to estimate how well a superchunk compresses.
const PROBED: usize = 8;
/// Bytes compressed in one piece.
const PIECE: usize = 16 << 10;
/// Codec and level with which pieces of superchunks are compressed: as fast as possible, since only sizes are compared.
const CODEC: Compression = Compression::Zstd(1);
/// Mask of the rolling hash: a short piece of data ends where these bits are zero, after 256 bytes on average.
const BORDER: u64 = 0xff << 56;
/// Minimum length in bytes of a piece of data that the rolling hash cuts.
const SHORTEST: usize = 32;
/// Divisor: one piece of data in this many is examined, to see whether it repeats an earlier one.
const LOOKED_AT: u64 = 4;

/// Numbers that look random, for the rolling hash.
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = mixed(21, at as u64);
        at += 1;
    }
    table
};

/// Estimates the size in bytes after the fastest codec, from pieces spread over the superchunk.
pub(super) fn compressed(raw: &[u8]) -> Result<u32, FormatError> {
    let pieces = raw.len().div_ceil(PIECE * PROBED).max(1);
    let step = raw.len() / pieces;
    let mut sample = Vec::with_capacity(pieces * PIECE);
    for piece in raw.chunks(step.max(1)).take(pieces) {
        let from = piece.len().saturating_sub(PIECE) / 2;
        sample.extend(piece.iter().skip(from).take(PIECE));
    }
    let encoded = Encoder::new(CODEC, None).encode(&sample)?;
    Ok((encoded.stored.len() as u64 * raw.len() as u64).div_ceil(sample.len().max(1) as u64) as u32)
}

/// Estimates the number of bytes that do not repeat earlier ones, over any distance. The data is cut by a rolling hash
/// into short pieces; the estimate counts the pieces that occur for the first time.
pub(super) fn fresh(raw: &[u8]) -> u32 {
    let mut seen = HashSet::new();
    let (mut all, mut fresh) = (0u64, 0u64);
    let (mut begin, mut rolling) = (0, 0u64);
    for (at, &byte) in raw.iter().enumerate() {
        rolling = (rolling << 1).wrapping_add(GEAR[usize::from(byte)]);
        if rolling & BORDER == 0 && at - begin >= SHORTEST {
            let run = &raw[begin..=at];
            let hash = xxhash_rust::xxh3::xxh3_64(run);
            if hash.is_multiple_of(LOOKED_AT) {
                all += run.len() as u64;
                fresh += if seen.insert(hash) { run.len() as u64 } else { 0 };
            }
            begin = at + 1;
        }
    }
    let share = |raw: u64| (raw * fresh).checked_div(all).unwrap_or(raw);
    share(raw.len() as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: u64, seed: u64) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|at| mixed(seed, at).to_le_bytes()).collect()
    }

    #[test]
    fn what_repeats_is_seen_over_any_distance_and_at_any_offset() {
        let share = |raw: &[u8]| f64::from(fresh(raw)) / raw.len() as f64;
        let half = noise(1 << 20, 1);
        assert_eq!(share(&half), 1.0);
        let twice = [&half[..], b"!", &half].concat();
        assert!((share(&twice) - 0.5).abs() < 0.02, "{}", share(&twice));
        let third = [&half[..], b"!", &noise(1 << 20, 2), &half].concat();
        assert!((share(&third) - 0.667).abs() < 0.02, "{}", share(&third));
        for same in [&[0; 1 << 16][..], b"", b"a few bytes"] {
            assert_eq!(fresh(same), same.len() as u32);
        }
    }

    #[test]
    fn the_fastest_codec_is_asked_of_pieces_from_everywhere() {
        let share = |raw: &[u8]| f64::from(compressed(raw).unwrap()) / raw.len().max(1) as f64;
        let noise = noise(1 << 20, 3);
        assert!(share(&noise) > 0.99);
        assert!(share(&[7; 1 << 20]) < 0.01);
        let mixed = [&noise[..], &[7; 1 << 20]].concat();
        assert!((share(&mixed) - 0.5).abs() < 0.02, "{}", share(&mixed));
        assert_eq!(compressed(b"").unwrap(), 0);
    }
}
