//! Which bytes of the files a sample reads. All files lie end to end on a line, in path order; a sample reads stretches
//! of that line.
//!
//! Invariant: the bytes to read depend only on the sizes of the files, never on their content, and every byte is read
//! with the same probability if the stretches lie at random. Made by the sampler, used by the readers.

use crate::format::ids::SubchunkId;
use std::ops::Range;

/// Size in bytes up to which files are read whole or not at all.
const WHOLE: u64 = 1 << 20;
/// Alignment in bytes of cuts in larger files, a multiple of most fixed subchunk sizes.
const ALIGN: u64 = 128 << 10;

/// One use of a subchunk in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Id of the subchunk.
    pub subchunk: SubchunkId,
    /// Length of the subchunk in bytes.
    pub len: u32,
    /// Offset of this use in the concatenation of all files.
    pub at: u64,
    /// Whether the cuts may differ when more is read: the use is next to bytes that are not read, or next to a hole.
    pub edge: bool,
}

/// The ranges of bytes to read, in the concatenation of all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Portions {
    /// Ranges in ascending order that do not touch.
    stretches: Vec<Range<u64>>,
}

impl Portions {
    /// Makes portions from ranges in any order. Overlapping ranges are merged.
    pub fn new(mut stretches: Vec<Range<u64>>) -> Self {
        stretches.retain(|stretch| stretch.start < stretch.end);
        stretches.sort_by_key(|stretch| stretch.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            match merged.last_mut() {
                Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end),
                _ => merged.push(stretch),
            }
        }
        Portions { stretches: merged }
    }

    /// Returns the ranges to read of a file of `size` bytes that begins at offset `start` of the concatenation of all
    /// files: ascending, within the file.
    pub(super) fn of(&self, start: u64, size: u64) -> Vec<Range<u64>> {
        let first = self.stretches.partition_point(|stretch| stretch.end <= start);
        let overlapping = self.stretches.iter().skip(first);
        if size <= WHOLE {
            let middle = start.saturating_add(size / 2);
            let read =
                overlapping.take_while(|stretch| stretch.start <= middle).any(|stretch| stretch.contains(&middle));
            return if read && size > 0 { std::iter::once(0..size).collect() } else { Vec::new() };
        }
        let mut out: Vec<Range<u64>> = Vec::new();
        for stretch in overlapping.take_while(|stretch| stretch.start < start.saturating_add(size)) {
            let from = aligned(stretch.start.saturating_sub(start), size);
            let to = aligned(stretch.end - start, size);
            match out.last_mut() {
                Some(last) if from <= last.end => last.end = to,
                _ if from < to => out.push(from..to),
                _ => {}
            }
        }
        out
    }
}

/// Returns the nearest offset where a file of `size` bytes may be cut.
fn aligned(at: u64, size: u64) -> u64 {
    if at >= size {
        return size;
    }
    ((at + ALIGN / 2) / ALIGN * ALIGN).min(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ranges(portions: &Portions, start: u64, size: u64) -> Vec<(u64, u64)> {
        portions.of(start, size).into_iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn small_files_are_read_whole_where_their_middle_is_covered_and_large_ones_in_aligned_parts() {
        let portions = Portions::new(vec![10 * MIB..20 * MIB, 15 * MIB..16 * MIB, 30 * MIB..30 * MIB + 10]);
        assert_eq!(portions.stretches, [10 * MIB..20 * MIB, 30 * MIB..30 * MIB + 10]);
        assert_eq!(ranges(&portions, 10 * MIB - 400, 1000), [(0, 1000)]);
        assert_eq!(ranges(&portions, 10 * MIB - 600, 1000), []);
        assert_eq!(ranges(&portions, 20 * MIB - 500, 1000), []);
        assert_eq!(ranges(&portions, 12 * MIB, 0), []);
        assert_eq!(ranges(&portions, 0, 100 * MIB), [(10 * MIB, 20 * MIB)]);
        assert_eq!(ranges(&portions, 100, 11 * MIB + 7), [(10 * MIB, 11 * MIB + 7)]);
        assert_eq!(ranges(&portions, 12 * MIB, 2 * MIB), [(0, 2 * MIB)]);
        assert_eq!(ranges(&portions, 19 * MIB, 2 * MIB), [(0, MIB)]);
        assert_eq!(ranges(&portions, 21 * MIB, 5 * MIB), []);
    }

    #[test]
    fn every_byte_is_read_as_often_as_every_other_over_all_places_of_a_stretch() {
        // Files of many sizes on a line of 4 MiB, and a stretch of 512 KiB at every multiple of 8 KiB, also where it
        // wraps around the end.
        let sizes = [700_000, 1, 4096, 100, 1_500_000, 65_536, 1_100_000, 823_871];
        let total: u64 = sizes.iter().sum();
        let (step, len) = (8 << 10, 512 << 10);
        let mut read = vec![0u64; sizes.len()];
        let mut offset = 0;
        let mut places = 0;
        while offset < total {
            let end = offset + len;
            let portions = Portions::new(vec![offset..end.min(total), 0..end.saturating_sub(total)]);
            let mut start = 0;
            for (sum, &size) in read.iter_mut().zip(&sizes) {
                *sum += portions.of(start, size).iter().map(|range| range.end - range.start).sum::<u64>();
                start += size;
            }
            (offset, places) = (offset + step, places + 1);
        }
        for (&sum, &size) in read.iter().zip(&sizes) {
            let share = sum as f64 / (places * size) as f64;
            let expected = len as f64 / total as f64;
            assert!((share - expected).abs() < 0.02, "{size}: {share} {expected}");
        }
    }
}
