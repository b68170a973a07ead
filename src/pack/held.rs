//! A sample of raw superchunks that may be compressed later, in a temporary file without a name. The number of
//! superchunks is known only at the end.
//!
//! The superchunks are divided into consecutive blocks of `stride`. One of each block is kept: the one with the lowest
//! random number. When the kept bytes exceed the limit, each pair of neighbouring blocks becomes one block, and the
//! lower of the two kept superchunks stays. Invariant: at every moment the kept superchunks are spread evenly, at
//! random, over all that came, whatever they contain. Called by a rehearsal.

use crate::chunk::unlinked_file;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Place in the file, number and length of a superchunk that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    index: usize,
    slot: u64,
    len: u32,
}

/// A sample of superchunks that is kept in a temporary file.
#[derive(Debug)]
pub(super) struct Held {
    file: File,
    /// Bytes from the start of one slot to the start of the next.
    slot_size: u64,
    free: Vec<u64>,
    slots: u64,
    seed: u64,
    stride: usize,
    /// Places of the kept superchunks, ascending.
    places: Vec<Place>,
    bytes: u64,
    limit: u64,
    at_least: usize,
    /// Index of the superchunk that is to be kept of the current block of superchunks: one of each block is kept.
    wanted: usize,
    next: usize,
}

impl Held {
    /// Makes an empty sample of up to `limit` bytes, but at least `at_least` superchunks if there are so many. Each has
    /// at most `slot_size` bytes. `seed` decides which are kept.
    pub(super) fn new(dir: &Path, slot_size: u32, limit: u64, at_least: usize, seed: u64) -> io::Result<Self> {
        Ok(Held {
            file: unlinked_file(dir)?,
            slot_size: slot_size.into(),
            free: Vec::new(),
            slots: 0,
            seed,
            stride: 1,
            places: Vec::new(),
            bytes: 0,
            limit,
            at_least,
            wanted: 0,
            next: 0,
        })
    }

    /// Offers the next superchunk, which is kept or not.
    pub(super) fn offer(&mut self, raw: &[u8]) -> io::Result<()> {
        let index = self.next;
        self.next += 1;
        if index.is_multiple_of(self.stride) {
            self.wanted = self.lowest(index);
        }
        if index != self.wanted {
            return Ok(());
        }
        // An earlier superchunk of the same block was kept in case the input ended before this one.
        if let Some(last) = self.places.pop_if(|last| last.index / self.stride == index / self.stride) {
            self.free.push(last.slot);
            self.bytes -= u64::from(last.len);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        self.file.write_all_at(raw, slot * self.slot_size)?;
        self.places.push(Place { index, slot, len: raw.len() as u32 });
        self.bytes += raw.len() as u64;
        while self.bytes > self.limit && self.places.len() > 2 * self.at_least {
            self.widen();
        }
        Ok(())
    }

    /// Returns the index of the superchunk with the lowest random number in the block that begins at `first`.
    fn lowest(&self, first: usize) -> usize {
        (first..first + self.stride).min_by_key(|&index| mixed(self.seed, index as u64)).unwrap_or(first)
    }

    /// Doubles the number of superchunks in a block: two blocks become one, of which one superchunk is kept.
    fn widen(&mut self) {
        self.stride *= 2;
        let (stride, seed) = (self.stride, self.seed);
        let places = std::mem::take(&mut self.places);
        for two in places.chunk_by(|a, b| a.index / stride == b.index / stride) {
            let kept = two.iter().min_by_key(|place| mixed(seed, place.index as u64));
            for place in two {
                if Some(place) == kept {
                    self.places.push(*place);
                } else {
                    self.free.push(place.slot);
                    self.bytes -= u64::from(place.len);
                }
            }
        }
        // The last block may be incomplete. Its lowest superchunk is kept already, or is still to come.
        self.wanted = self.lowest((self.next - 1) / stride * stride);
    }

    /// Returns the indexes of the kept superchunks, counted from 0 in the order in which they came; ascending.
    pub(super) fn indexes(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.index).collect()
    }

    /// Returns whether all superchunks that came are kept.
    pub(super) fn holds_all(&self) -> bool {
        self.places.len() == self.next
    }

    /// Reads the raw bytes of a kept superchunk.
    pub(super) fn read(&self, index: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let place = self.places.binary_search_by_key(&index, |place| place.index);
        let Some(place) = place.ok().and_then(|at| self.places.get(at)) else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        out.resize(place.len as usize, 0);
        self.file.read_exact_at(out, place.slot * self.slot_size)
    }
}

/// Returns a number that looks random, and is the same for the same arguments (SplitMix64's finalizer).
pub const fn mixed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns a number less than `limit` that looks random and depends on seed and index alone; `limit` must not be 0.
pub fn mixed_below(seed: u64, index: u64, limit: u64) -> u64 {
    // The upper half of the product is less than `limit`.
    ((u128::from(mixed(seed, index)) * u128::from(limit)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(count: usize, limit: u64, seed: u64) -> Held {
        let dir = tempfile::tempdir().unwrap();
        let mut held = Held::new(dir.path(), 16, limit, 2, seed).unwrap();
        for index in 0..count {
            held.offer(&[index as u8; 10]).unwrap();
        }
        held
    }

    #[test]
    fn what_is_held_is_one_of_each_block_with_its_bytes_and_within_the_limit() {
        for count in [0, 1, 3, 9, 10, 11, 100, 1000] {
            let held = held(count, 100, 7);
            let indexes = held.indexes();
            assert!(held.bytes <= 100 && held.slots <= 11, "{held:?}");
            assert_eq!(held.holds_all(), count <= 10);
            assert!(count < 6 || indexes.len() >= 4, "{indexes:?}");
            let blocks: Vec<usize> = indexes.iter().map(|index| index / held.stride).collect();
            assert!(blocks.windows(2).all(|two| two[0] + 1 == two[1]), "{indexes:?}");
            let mut raw = Vec::new();
            for index in indexes {
                held.read(index, &mut raw).unwrap();
                assert_eq!(raw, [index as u8; 10]);
            }
            assert!(held.read(count, &mut raw).is_err());
        }
    }

    #[test]
    fn every_superchunk_is_held_as_often_as_every_other() {
        let mut times = vec![0u32; 160];
        for seed in 0..2000 {
            held(160, 100, seed * 31).indexes().into_iter().for_each(|index| times[index] += 1);
        }
        // One in 16: 125 times of 2000, give or take 11.
        assert!(times.iter().all(|&times| (75..180).contains(&times)), "{times:?}");
    }
}
