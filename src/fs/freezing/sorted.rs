//! Sorts records of fixed length. Memory hardly grows with their number.
//!
//! A full buffer is sorted and becomes a run; in the end the runs are merged. Memory: 8 MiB for the buffer, up to 8 MiB
//! of runs before they move to a file without a name, and 16 KiB for each run while they are merged. A run has 262,144
//! records. Called by `share`.

use crate::chunk::Spill;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::path::Path;

/// Length of a record in bytes. Records are compared byte by byte.
pub(super) const LEN: usize = 32;
/// A record to be sorted.
pub(super) type Record = [u8; LEN];

/// Number of records that are sorted in memory at a time, as one sorted run.
const RECORDS: usize = (8 << 20) / LEN;
/// Bytes of sorted runs that are kept in memory; more go to a file.
const SPILL_AFTER: usize = 8 << 20;
/// Number of records of a sorted run that are read back at a time: 16 KiB.
const WINDOW: usize = 512;

/// Sorts any number of records with little memory: sorts some at a time (a sorted run), and merges the sorted runs.
pub(super) struct Sorter {
    buffer: Vec<Record>,
    most: usize,
    spill: Spill,
    /// Offsets at which each sorted run begins and ends.
    runs: Vec<(u64, u64)>,
}

impl Sorter {
    /// Makes a sorter without records. What does not fit into memory goes to a file in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Sorter { buffer: Vec::new(), most: RECORDS, spill: Spill::new(SPILL_AFTER, folder), runs: Vec::new() }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, record: Record) -> io::Result<()> {
        if self.buffer.len() >= self.most {
            self.finish_run()?;
        }
        self.buffer.push(record);
        Ok(())
    }

    fn finish_run(&mut self) -> io::Result<()> {
        self.buffer.sort_unstable();
        let begin = self.spill.len();
        for records in self.buffer.chunks(WINDOW) {
            self.spill.append(records.as_flattened())?;
        }
        self.runs.push((begin, self.spill.len()));
        self.buffer.clear();
        Ok(())
    }

    /// Returns all records, in order.
    pub(super) fn sorted(mut self) -> io::Result<Sorted> {
        self.finish_run()?;
        let mut runs: Vec<_> =
            self.runs.iter().map(|&(at, end)| Run { at, end, window: Vec::new().into_iter() }).collect();
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (n, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next(&self.spill)?.map(|record| Reverse((record, n))));
        }
        Ok(Sorted { spill: self.spill, runs, heads })
    }
}

/// A sorted run that is being read back.
struct Run {
    at: u64,
    end: u64,
    window: std::vec::IntoIter<Record>,
}

impl Run {
    fn next(&mut self, spill: &Spill) -> io::Result<Option<Record>> {
        if self.window.len() == 0 && self.at < self.end {
            let bytes = (self.end - self.at).min((WINDOW * LEN) as u64);
            let mut window = vec![[0; LEN]; bytes as usize / LEN];
            spill.read_at(self.at, window.as_flattened_mut())?;
            self.at = self.at.saturating_add(bytes);
            self.window = window.into_iter();
        }
        Ok(self.window.next())
    }
}

/// Returns the records in order.
pub(super) struct Sorted {
    spill: Spill,
    runs: Vec<Run>,
    /// The next record of each sorted run that has one, with the number of the run.
    heads: BinaryHeap<Reverse<(Record, usize)>>,
}

impl Sorted {
    /// Returns the next record, or `None` after the last.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let Some(Reverse((record, n))) = self.heads.pop() else { return Ok(None) };
        if let Some(run) = self.runs.get_mut(n) {
            self.heads.extend(run.next(&self.spill)?.map(|record| Reverse((record, n))));
        }
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_sorted_from_one_run_and_from_many_that_are_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let records: Vec<Record> = (0..5000u32).map(|n| *blake3::hash(&(n / 2).to_le_bytes()).as_bytes()).collect();
        let mut expected = records.clone();
        expected.sort_unstable();
        for (most, limit) in [(RECORDS, SPILL_AFTER), (7, SPILL_AFTER), (1300, 1000)] {
            let mut sorter = Sorter { most, spill: Spill::new(limit, dir.path()), ..Sorter::new(dir.path()) };
            records.iter().for_each(|&record| sorter.push(record).unwrap());
            let mut sorted = sorter.sorted().unwrap();
            assert_eq!(sorted.spill.is_spilled(), limit == 1000);
            let found: Vec<_> = std::iter::from_fn(|| sorted.next().unwrap()).collect();
            assert!(found == expected, "runs of {most}");
        }
    }
}
