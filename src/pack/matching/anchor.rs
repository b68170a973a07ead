//! Anchors: ranges of data that are chosen by their content, so that equal data has equal anchors wherever it is.
//!
//! A rolling hash over [`ANCHOR_LEN`] bytes chooses one position in [`SPACING`] (as in Manber: Finding similar files in
//! a large file system, USENIX 1994). Its shift is two bits, so a byte has left the hash after that many bytes. Pure
//! functions; called by the window and by the search.

use crate::format::sums;

/// Length of an anchor in bytes.
pub(super) const ANCHOR_LEN: usize = 32;
/// Number of positions of which one is chosen, on average.
pub(super) const SPACING: u64 = 1 << SPACING_BITS;
const SPACING_BITS: u32 = 5;
/// Bits by which the rolling hash is shifted for each byte.
const SHIFT: u32 = 64 / ANCHOR_LEN as u32;

/// One anchor in some data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    /// Position of the anchor's first byte.
    pub(super) at: u32,
    /// Hash of the anchor's bytes.
    pub(super) hash: u64,
}

/// A value for each byte, by splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
static GEAR: [u64; 256] = {
    let mut gear = [0; 256];
    let (mut byte, mut state) = (0, 0x666c_6f65_u64);
    while byte < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        gear[byte] = z ^ (z >> 31);
        byte += 1;
    }
    gear
};

/// Appends the anchors of `data` to `anchors`, in the order of their positions, which count from `base`. Data that
/// repeats itself after at most 8 bytes has no anchors: they would be everywhere.
pub(super) fn find(data: &[u8], base: u32, anchors: &mut Vec<Anchor>) {
    let mut rolling = 0u64;
    let (before, rest) = data.split_at(data.len().min(ANCHOR_LEN - 1));
    for &byte in before {
        rolling = (rolling << SHIFT).wrapping_add(GEAR[usize::from(byte)]);
    }
    for (at, &byte) in rest.iter().enumerate() {
        rolling = (rolling << SHIFT).wrapping_add(GEAR[usize::from(byte)]);
        if rolling >> (64 - SPACING_BITS) == 0 {
            let bytes = &data[at..at + ANCHOR_LEN];
            if bytes[8..] != bytes[..ANCHOR_LEN - 8] {
                anchors.push(Anchor { at: base + at as u32, hash: sums::xxh3(bytes) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes in no order.
    fn noise(len: usize, seed: u64) -> Vec<u8> {
        (0..len as u64).map(|n| (crate::pack::held::mixed(seed, n) >> 24) as u8).collect()
    }

    fn anchors(data: &[u8]) -> Vec<Anchor> {
        let mut anchors = Vec::new();
        find(data, 0, &mut anchors);
        anchors
    }

    #[test]
    fn equal_data_has_equal_anchors_wherever_it_stands() {
        let data = noise(100_000, 1);
        let own = anchors(&data);
        let moved = anchors(&[noise(777, 2), data].concat());
        let moved: Vec<_> = moved.iter().filter(|a| a.at >= 777).map(|a| Anchor { at: a.at - 777, ..*a }).collect();
        assert_eq!(own, moved);
        // One position in 32: 3125 are expected, with a standard deviation of 55.
        assert!((2850..3400).contains(&own.len()), "{}", own.len());
    }

    #[test]
    fn what_repeats_itself_and_what_is_short_has_no_anchors() {
        for unit in [&b"\0"[..], b"ab", b"abcd", b"abcdefgh"] {
            assert_eq!(anchors(&unit.repeat(20_000)), []);
        }
        let data = noise(1 << 20, 3);
        assert!((0..1000).all(|at| anchors(&data[at * 1000..][..ANCHOR_LEN - 1]).is_empty()));
        let first = anchors(&data)[0].at as usize;
        assert_eq!(anchors(&data[first..][..ANCHOR_LEN]).len(), 1);
    }
}
