//! FastCDC with normalised chunking of level 2 and cut-point skipping (Xia et al., USENIX ATC 2016), as format-spec
//! section 15 defines it. Its borders are part of the format: tests compare them with a naive implementation of that
//! section and with borders recorded once and for all.

/// The constant that is hashed before the key to make the gear table.
const GEAR_CONTEXT: &[u8] = b"floe gear v1";
/// Number of bits by which the two masks differ from the mask that would give the average length alone: the strict one
/// has more, the loose one fewer.
const NORMALISATION: u32 = 2;
/// Number of bytes examined between two checks for the end of data.
const STRIDE: usize = 16;

#[derive(Clone)]
pub(super) struct FastCdc {
    min: usize,
    avg: usize,
    max: usize,
    /// Mask for positions before `avg`: it matches more rarely.
    strict: u64,
    /// Mask for positions from `avg` on.
    loose: u64,
    gear: Box<[u64; 256]>,
}

impl std::fmt::Debug for FastCdc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { min, avg, max, .. } = self;
        f.debug_struct("FastCdc").field("min", min).field("avg", avg).field("max", max).finish_non_exhaustive()
    }
}

/// Returns a mask of the topmost `bits` bits.
fn topmost(bits: u32) -> u64 {
    !u64::MAX.checked_shr(bits).unwrap_or(0)
}

fn gear(key: &[u8; 16]) -> Box<[u64; 256]> {
    let mut bytes = [0; 256 * 8];
    blake3::Hasher::new().update(GEAR_CONTEXT).update(key).finalize_xof().fill(&mut bytes);
    let (values, _) = bytes.as_chunks::<8>();
    let mut gear = Box::new([0; 256]);
    for (value, bytes) in gear.iter_mut().zip(values) {
        *value = u64::from_le_bytes(*bytes);
    }
    gear
}

impl FastCdc {
    /// Makes a chunker. The parameters must be valid: min ≤ avg ≤ max in bytes, avg a power of two of at least 64.
    pub(super) fn new(min: u32, avg: u32, max: u32, key: &[u8; 16]) -> Self {
        let bits = avg.max(1).ilog2();
        FastCdc {
            min: min as usize,
            avg: avg as usize,
            max: max as usize,
            strict: topmost(bits + NORMALISATION),
            loose: topmost(bits.saturating_sub(NORMALISATION)),
            gear: gear(key),
        }
    }

    pub(super) fn max_len(&self) -> usize {
        self.max
    }

    pub(super) fn cut(&self, data: &[u8]) -> usize {
        let data = &data[..data.len().min(self.max)];
        if data.len() <= self.min {
            return data.len();
        }
        let (before, behind) = data.split_at(data.len().min(self.avg));
        let mut fingerprint = 0;
        if let Some(at) = self.find(&before[self.min..], self.strict, &mut fingerprint) {
            return self.min + at + 1;
        }
        match self.find(behind, self.loose, &mut fingerprint) {
            Some(at) => before.len() + at + 1,
            None => data.len(),
        }
    }

    /// Returns the first position in `data` that has a cut after it.
    #[inline]
    fn find(&self, data: &[u8], mask: u64, fingerprint: &mut u64) -> Option<usize> {
        let gear = &*self.gear;
        let mut h = *fingerprint;
        let (strides, rest) = data.as_chunks::<STRIDE>();
        for (i, stride) in strides.iter().enumerate() {
            // A fixed number of steps, which the compiler unrolls.
            for (j, &byte) in stride.iter().enumerate() {
                h = (h << 1).wrapping_add(gear[usize::from(byte)]);
                if h & mask == 0 {
                    return Some(i * STRIDE + j);
                }
            }
        }
        for (j, &byte) in rest.iter().enumerate() {
            h = (h << 1).wrapping_add(gear[usize::from(byte)]);
            if h & mask == 0 {
                return Some(strides.len() * STRIDE + j);
            }
        }
        *fingerprint = h;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::Cutter;
    use crate::format::params::{Chunker, Params};
    use proptest::prelude::*;

    /// Section 15, sentence by sentence.
    fn naive(data: &[u8], min: usize, avg: usize, max: usize, key: [u8; 16]) -> usize {
        let mut seed = b"floe gear v1".to_vec();
        seed.extend_from_slice(&key);
        let mut table = [0u8; 2048];
        blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut table);
        let gear = |byte: u8| {
            let at = usize::from(byte) * 8;
            (0..8).map(|i| u64::from(table[at + i]) << (8 * i)).sum::<u64>()
        };
        if data.len() <= min {
            return data.len();
        }
        let b = avg.trailing_zeros();
        let mut h = 0u64;
        for (p, &byte) in data.iter().enumerate().take(max).skip(min) {
            h = (h << 1).wrapping_add(gear(byte));
            let bits = if p < avg { b + 2 } else { b - 2 };
            if h >> (64 - bits) == 0 {
                return p + 1;
            }
        }
        data.len().min(max)
    }

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn lengths(cutter: &Cutter, mut data: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        while !data.is_empty() {
            let len = cutter.cut(data);
            out.push(len);
            data = &data[len..];
        }
        out
    }

    #[test]
    fn borders_are_those_written_down_once_for_all() {
        let gear = gear(&[0; 16]);
        assert_eq!([gear[0], gear[1], gear[255]], [GEAR_0, GEAR_1, GEAR_255]);
        let plain = Cutter::new(&Params::default());
        assert_eq!(lengths(&plain, &noise(400_000, 1)), PLAIN);
        let keyed = Cutter::new(&Params { chunk_key: *b"a key of 16 byte", ..Params::default() });
        assert_eq!(lengths(&keyed, &noise(400_000, 1)), KEYED);
        let small = Chunker::FastCdc { min: 64, avg: 256, max: 1024 };
        let small = Cutter::new(&Params { chunker: small, ..Params::default() });
        assert_eq!(lengths(&small, &noise(4000, 2)), SMALL);
        assert_eq!(lengths(&plain, &vec![0; 300_000]), [131_072, 131_072, 37_856]);
    }

    const GEAR_0: u64 = 16_432_646_166_703_975_387;
    const GEAR_1: u64 = 10_370_506_813_509_496_918;
    const GEAR_255: u64 = 11_106_585_630_494_137_360;
    const PLAIN: &[usize] = &[31945, 38773, 33277, 40578, 33367, 33657, 34548, 36216, 36172, 35463, 33539, 12465];
    const KEYED: &[usize] = &[60331, 46858, 35822, 38808, 34086, 34390, 20004, 35282, 59574, 34845];
    const SMALL: &[usize] = &[275, 316, 310, 268, 488, 310, 113, 173, 176, 202, 291, 264, 293, 393, 128];

    #[test]
    fn an_insertion_moves_only_the_borders_near_it() {
        let cutter = Cutter::new(&Params::default());
        let data = noise(4 << 20, 3);
        let changed = [&data[..1 << 20], b"something new", &data[1 << 20..]].concat();
        // Where subchunks end, with the insertion's length taken off.
        let borders = |data: &[u8], behind: i64| {
            let mut end = 0;
            let ends = lengths(&cutter, data).into_iter().map(|len| {
                end += len as i64;
                end - if end > 1 << 20 { behind } else { 0 }
            });
            ends.collect::<Vec<_>>()
        };
        let (before, after) = (borders(&data, 0), borders(&changed, 13));
        let kept = after.iter().filter(|border| before.contains(border)).count();
        assert!(kept + 5 > before.len(), "{kept} of {}", before.len());
    }

    #[test]
    fn subchunks_are_on_average_about_as_long_as_asked_for() {
        let lengths = lengths(&Cutter::new(&Params::default()), &noise(16 << 20, 4));
        let average = (16 << 20) / lengths.len();
        assert!((28 << 10..44 << 10).contains(&average), "{average}");
        let (_, all_but_last) = lengths.split_last().unwrap();
        assert!(all_but_last.iter().all(|len| (8 << 10..=128 << 10).contains(len)));
    }

    proptest! {
        #[test]
        fn it_cuts_where_the_specification_says(
            len in 0usize..20_000,
            seed: u64,
            alphabet in 1u8..=255,
            key: [u8; 16],
            shape in prop::sample::select(vec![
                (1, 64, 64), (64, 64, 4096), (64, 256, 1024), (250, 256, 256), (2048, 4096, 16_384), (1, 4096, 65_536),
            ]),
        ) {
            let (min, avg, max) = shape;
            let data: Vec<u8> = noise(len, seed).into_iter().map(|byte| byte % alphabet).collect();
            let chunker = Chunker::FastCdc { min, avg, max };
            let cutter = Cutter::new(&Params { chunker, chunk_key: key, ..Params::default() });
            let mut rest = &data[..];
            while !rest.is_empty() {
                let len = cutter.cut(rest);
                prop_assert_eq!(len, naive(rest, min as usize, avg as usize, max as usize, key));
                // More data after the longest subchunk changes nothing.
                prop_assert_eq!(len, cutter.cut(&rest[..rest.len().min(cutter.max_len())]));
                rest = &rest[len..];
            }
            prop_assert_eq!(cutter.cut(&[]), 0);
        }
    }
}
