//! Counts the users of contents, tiny contents and xattr sets, for the table of shares.
//!
//! Every use is one number in a buffer of fixed size. A full buffer is sorted and becomes a run of (key, count); at the
//! end the runs are merged. So memory does not grow with the number of files: runs spill to disk, like the rows.

use super::PackError;
use crate::chunk::Spill;
use crate::format::block::{KeyRef, Row};
use crate::format::bytes::{Cursor, put_varint};
use crate::format::rows::{ShareKey, ShareRow};
use crate::table::TableError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::path::{Path, PathBuf};

/// Number of uses of contents and xattr sets that are collected before they are sorted: 8 MiB.
const USES: usize = 1 << 20;
/// Number of bytes of a sorted run that are read back at once. A sorted run has up to a million keys, so even for a
/// thousand million files this takes only 16 MiB.
const WINDOW: usize = 16 << 10;
/// Length in bytes of the longest entry of a sorted run: two varints.
const ENTRY: usize = 20;

/// Counts the users of each content and xattr set with little memory.
pub(super) struct UserCounts {
    uses: Vec<u64>,
    limit: usize,
    spill: Spill,
    dir: PathBuf,
    /// Offsets at which each sorted run begins and ends.
    runs: Vec<(u64, u64)>,
}

impl UserCounts {
    /// Makes counts without users. Sorted runs beyond `spill_after` bytes go to a file in `dir`.
    pub(super) fn new(spill_after: usize, dir: &Path) -> Self {
        UserCounts {
            uses: Vec::new(),
            limit: USES,
            spill: Spill::new(spill_after, dir),
            dir: dir.to_owned(),
            runs: Vec::new(),
        }
    }

    /// Counts one inode that uses `key`.
    pub(super) fn add(&mut self, key: ShareKey) -> Result<(), PackError> {
        if self.uses.len() >= self.limit {
            self.finish_run()?;
        }
        self.uses.push(key.pack());
        Ok(())
    }

    fn finish_run(&mut self) -> Result<(), PackError> {
        self.uses.sort_unstable();
        let (from, mut last) = (self.spill.len(), 0);
        let mut buffer = Vec::new();
        for users in self.uses.chunk_by(|a, b| a == b) {
            let Some(&key) = users.first() else { continue };
            put_varint(&mut buffer, key - last);
            put_varint(&mut buffer, users.len() as u64);
            last = key;
            if buffer.len() >= WINDOW {
                self.spill.append(&buffer).map_err(|source| PackError::Spill { dir: self.dir.clone(), source })?;
                buffer.clear();
            }
        }
        self.spill.append(&buffer).map_err(|source| PackError::Spill { dir: self.dir.clone(), source })?;
        self.runs.push((from, self.spill.len()));
        self.uses.clear();
        Ok(())
    }

    /// Iterates over the rows of the table of shares, in key order: one for each content, tiny content and xattr set
    /// with more than one user.
    pub(super) fn rows(&mut self) -> Result<ShareRows<'_>, PackError> {
        self.finish_run()?;
        self.uses = Vec::new();
        Ok(ShareRows { runs: self.runs.iter().map(|&(at, to)| Run::new(&self.spill, at, to)).collect(), heads: None })
    }
}

/// A sorted run that is being read back.
struct Run<'a> {
    spill: &'a Spill,
    at: u64,
    to: u64,
    window: Vec<u8>,
    used: usize,
    key: u64,
}

impl<'a> Run<'a> {
    fn new(spill: &'a Spill, at: u64, to: u64) -> Self {
        Run { spill, at, to, window: Vec::new(), used: 0, key: 0 }
    }

    /// Returns the next key and its number of users.
    fn next(&mut self) -> Result<Option<(u64, u64)>, TableError> {
        if self.window.len() - self.used < ENTRY && self.at < self.to {
            self.window.drain(..self.used);
            self.used = 0;
            let (start, more) = (self.window.len(), (self.to - self.at).min(WINDOW as u64));
            self.window.resize(start + more as usize, 0);
            self.spill.read_at(self.at, &mut self.window[start..]).map_err(TableError::source)?;
            self.at += more;
        }
        if self.used == self.window.len() {
            return Ok(None);
        }
        let mut cursor = Cursor::new(&self.window[self.used..], "spooled users");
        self.key += cursor.varint().map_err(TableError::source)?;
        let users = cursor.varint().map_err(TableError::source)?;
        self.used = self.window.len() - cursor.remaining();
        Ok(Some((self.key, users)))
    }
}

/// Merges the sorted runs into rows.
pub(super) struct ShareRows<'a> {
    runs: Vec<Run<'a>>,
    /// The next key of each sorted run, with its number of users and the run's index; runs that are at their end are
    /// left out. `None` before the first keys are read.
    heads: Option<BinaryHeap<Reverse<(u64, u64, usize)>>>,
}

impl ShareRows<'_> {
    fn read(&mut self) -> Result<Option<Row>, TableError> {
        let heads = match &mut self.heads {
            Some(heads) => heads,
            none => {
                let mut heads = BinaryHeap::new();
                for (n, run) in self.runs.iter_mut().enumerate() {
                    heads.extend(run.next()?.map(|(key, users)| Reverse((key, users, n))));
                }
                none.insert(heads)
            }
        };
        while let Some(&Reverse((key, _, _))) = heads.peek() {
            let mut total = 0;
            while let Some(mut head) = heads.peek_mut().filter(|head| head.0.0 == key) {
                let Reverse((_, users, run)) = *head;
                total += users;
                match self.runs[run].next()? {
                    Some((key, users)) => *head = Reverse((key, users, run)),
                    None => drop(PeekMut::pop(head)),
                }
            }
            if total >= 2 {
                let (a, b) = ShareKey::unpack(key).map_err(TableError::source)?.encode();
                let ints = ShareRow { users: total }.encode().to_vec();
                return Ok(Some(Row { key: KeyRef::new(a, b).to_key(), ints, tail: Vec::new() }));
            }
        }
        Ok(None)
    }
}

impl Iterator for ShareRows<'_> {
    type Item = Result<Row, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::rows::ShareKind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn counted(uses: &[ShareKey], limit: usize, spill_after: usize) -> Vec<(u64, u64, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let mut counts = UserCounts { limit, ..UserCounts::new(spill_after, dir.path()) };
        uses.iter().for_each(|&key| counts.add(key).unwrap());
        let rows = counts.rows().unwrap();
        rows.map(Result::unwrap).map(|row| (row.key.a, row.key.b, row.ints[0])).collect()
    }

    proptest! {
        #[test]
        fn users_are_counted_alike_in_one_run_and_in_many(
            uses in prop::collection::vec((0usize..3, prop_oneof![1u64..20, 1..1u64 << 62]), 0..300),
            limit in 1usize..50,
            spill_after in prop_oneof![Just(usize::MAX), Just(0)],
        ) {
            let kinds = [ShareKind::Content, ShareKind::Tiny, ShareKind::Xattrs];
            let uses: Vec<_> = uses.into_iter().map(|(kind, id)| ShareKey { kind: kinds[kind], id }).collect();
            let mut model: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            uses.iter().for_each(|key| *model.entry(key.encode()).or_default() += 1);
            let expected: Vec<_> = model.into_iter().filter(|(_, n)| *n > 1).map(|((a, b), n)| (a, b, n)).collect();
            prop_assert_eq!(counted(&uses, limit, spill_after), expected.clone());
            prop_assert_eq!(counted(&uses, USES, usize::MAX), expected);
        }
    }

    #[test]
    fn a_run_longer_than_a_window_is_read_to_its_end() {
        let key = |id| ShareKey { kind: ShareKind::Tiny, id };
        let uses: Vec<_> = (1..=30_000).chain((1..=30_000).rev()).map(key).collect();
        let rows = counted(&uses, 40_000, 1000);
        assert_eq!(rows.len(), 30_000);
        assert!(rows.iter().zip(1..).all(|(row, id)| *row == (2, id, 2)));
    }
}
