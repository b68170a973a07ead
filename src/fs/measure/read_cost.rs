//! How many bytes are inflated for each byte that is read.
//!
//! Every read goes through [`Fs`], as in a mount, with a working set of the given size that is empty at first. There is
//! no read-ahead and no page cache of the kernel. Superchunks are counted and not decoded: a small working set inflates
//! some images hundreds of times over.

use super::tree::{self, Segment};
use super::{MeasureError, MeasureObserver, go_on};
use crate::format::ids::InodeId;
use crate::fs::read::Fs;
use crate::meta::Image;
use crate::pack::rehearsal::mixed_below;
use std::sync::Arc;

/// Length of a random read in bytes.
pub const RANDOM_READ: u64 = 4096;
/// Most bytes of a read that is not random: what the kernel asks for when a file is read from its beginning.
const READ: u64 = 128 << 10;

/// The reads to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads<'a> {
    /// All files are read, each from its beginning to its end, in path order.
    Everything,
    /// The files below one directory are read, given by its path from the root; otherwise like `Everything`.
    Below(&'a [u8]),
    /// Random reads of [`RANDOM_READ`] bytes are made, at offsets that are multiples of that. Every such offset where a
    /// file has data is equally likely. Takes 40 bytes of memory for each read.
    Random {
        /// Seed: the same seed gives the same reads.
        seed: u64,
        /// Number of reads.
        count: u64,
    },
}

/// Cost of the reads that were measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadCost {
    /// Number of files that were read, counted each time a file is opened. Every random read opens one.
    pub files: u64,
    /// Number of reads.
    pub reads: u64,
    /// Bytes that the reads returned. Holes are not read.
    pub read_bytes: u64,
    /// Raw bytes of the superchunks or parts that were inflated for the reads.
    pub inflated_bytes: u64,
    /// Number of superchunks and parts that were inflated.
    pub inflations: u64,
}

impl ReadCost {
    /// Returns the bytes inflated for each byte read; `None` if nothing was read.
    pub fn ratio(&self) -> Option<f64> {
        (self.read_bytes > 0).then(|| self.inflated_bytes as f64 / self.read_bytes as f64)
    }
}

/// Performs the reads with a working set of this many bytes, and counts their cost. Metadata does not count.
///
/// # Errors
/// Fails if something cannot be read, the directory does not exist, or the observer cancelled.
pub fn read_cost(
    image: &Arc<Image>,
    working_set: u64,
    reads: &Reads<'_>,
    observer: &dyn MeasureObserver,
) -> Result<ReadCost, MeasureError> {
    let cache = usize::try_from(working_set).unwrap_or(usize::MAX);
    let fs = Fs::counting(image, cache);
    let mut reading =
        Reading { fs: &fs, observer, total: 0, last: None, buffer: Vec::new(), cost: ReadCost::default() };
    match *reads {
        Reads::Everything => reading.in_order(InodeId::ROOT)?,
        Reads::Below(path) => reading.in_order(directory(&fs, path)?)?,
        Reads::Random { seed, count } => reading.at_random(seed, count)?,
    }
    let counters = fs.working_set().counters();
    Ok(ReadCost { inflated_bytes: counters.inflated_bytes, inflations: counters.inflations, ..reading.cost })
}

fn directory(fs: &Fs, path: &[u8]) -> Result<InodeId, MeasureError> {
    let attr = fs.resolve(path)?;
    if !attr.is_dir() {
        return Err(MeasureError::NotDirectory { path: String::from_utf8_lossy(path).into_owned() });
    }
    Ok(attr.inode)
}

struct Reading<'a> {
    fs: &'a Fs,
    observer: &'a dyn MeasureObserver,
    /// Bytes to read.
    total: u64,
    /// The file that was read last.
    last: Option<InodeId>,
    buffer: Vec<u8>,
    cost: ReadCost,
}

impl Reading<'_> {
    fn in_order(&mut self, root: InodeId) -> Result<(), MeasureError> {
        let mut total = 0u64;
        tree::segments(self.fs, root, self.observer, &mut |segment| {
            total = total.saturating_add(segment.end - segment.begin);
            Ok(())
        })?;
        self.total = total;
        tree::segments(self.fs, root, self.observer, &mut |Segment { inode, begin, end }| {
            if self.last.replace(inode) != Some(inode) {
                self.cost.files += 1;
            }
            let mut at = begin;
            while at < end {
                // Reads begin at multiples of their length, as the kernel's do.
                let len = (READ - at % READ).min(end - at);
                self.read(inode, at, len)?;
                at += len;
            }
            Ok(())
        })
    }

    fn at_random(&mut self, seed: u64, count: u64) -> Result<(), MeasureError> {
        let mut pages = 0u64;
        tree::segments(self.fs, InodeId::ROOT, self.observer, &mut |segment| {
            pages = pages.saturating_add(pages_of(&segment));
            Ok(())
        })?;
        if pages == 0 {
            return Ok(());
        }
        self.total = count.saturating_mul(RANDOM_READ);
        for (inode, offset) in self.places(draw(seed, count, pages))? {
            self.cost.files += 1;
            self.read(inode, offset, RANDOM_READ)?;
        }
        Ok(())
    }

    /// Returns the file and the offset of each page of data whose number is in `drawn`. Pages are numbered in path
    /// order.
    fn places(&self, drawn: Vec<u64>) -> Result<Vec<(InodeId, u64)>, MeasureError> {
        let mut places = vec![(InodeId::ROOT, 0); drawn.len()];
        let mut sorted: Vec<(u64, usize)> = drawn.into_iter().zip(0..).collect();
        sorted.sort_unstable();
        let mut wanted = sorted.into_iter().peekable();
        let mut before = 0u64;
        tree::segments(self.fs, InodeId::ROOT, self.observer, &mut |segment| {
            let end = before.saturating_add(pages_of(&segment));
            while let Some((page, nth)) = wanted.next_if(|(page, _)| *page < end) {
                let offset = (segment.begin / RANDOM_READ + (page - before)) * RANDOM_READ;
                if let Some(place) = places.get_mut(nth) {
                    *place = (segment.inode, offset);
                }
            }
            before = end;
            Ok(())
        })?;
        Ok(places)
    }

    fn read(&mut self, inode: InodeId, offset: u64, len: u64) -> Result<(), MeasureError> {
        go_on(self.observer)?;
        self.buffer.clear();
        self.fs.read(inode, offset, len as usize, &mut self.buffer)?;
        self.cost.reads += 1;
        self.cost.read_bytes += self.buffer.len() as u64;
        self.observer.progress(self.cost.read_bytes, self.total);
        Ok(())
    }
}

/// Returns the number of pages that a range of data touches.
fn pages_of(segment: &Segment) -> u64 {
    segment.end.div_ceil(RANDOM_READ) - segment.begin / RANDOM_READ
}

/// Returns `count` random numbers less than `below`, by splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom
/// number generators).
pub(super) fn draw(seed: u64, count: u64, below: u64) -> Vec<u64> {
    (0..count).map(|n| mixed_below(seed, n, below)).collect()
}
