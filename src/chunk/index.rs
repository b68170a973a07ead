//! The dedup index: from identity to subchunk id.
//!
//! Each identity is stored once, in the order of ids. Ids are not stored but counted, since they ascend in runs. The
//! hash table over the identities has five bytes a slot, a tag and an ordinal, and doubles when three quarters are
//! full. So a subchunk takes 24 bytes and 7 to 13 for the table. The answers depend only on what was inserted. Called
//! by the packer and the freezer.

use super::ChunkError;
use super::region::Region;
use crate::format::ids::SubchunkId;
use crate::format::rows::identity::Identity;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of an identity (content hash).
const WIDTH: usize = 24;
/// Bytes of an ordinal in a slot of the hash table.
const ORDINAL: usize = 4;
/// Bytes of a slot: tag and ordinal.
const SLOT: usize = 1 + ORDINAL;
/// Number of slots of the first table.
const SLOTS_MIN: usize = 1 << 10;
/// Most subchunks of an index, because ordinals are u32.
const MOST: u64 = u32::MAX as u64;
/// Tag that marks a free slot.
const FREE: u8 = 0;

/// An index that finds subchunks by their identity (content hash).
#[derive(Debug)]
pub struct DedupIndex {
    spill_after: usize,
    dir: PathBuf,
    spilled: bool,
    /// Identities by ordinal.
    identities: Region,
    runs: Vec<Run>,
    table: Table,
}

/// Ordinals whose subchunks have consecutive ids.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: SubchunkId,
    ordinal: u64,
}

impl DedupIndex {
    /// Makes an empty index. When it grows beyond `spill_after` bytes, it moves to unlinked files in `spill_dir`, whose
    /// pages the kernel can write out.
    pub fn new(spill_after: usize, spill_dir: &Path) -> Self {
        DedupIndex {
            spill_after,
            dir: spill_dir.to_path_buf(),
            spilled: false,
            identities: Region::in_memory(0),
            runs: Vec::new(),
            table: Table { slots: Region::in_memory(SLOTS_MIN * SLOT) },
        }
    }

    /// Returns the number of subchunks inserted.
    pub fn len(&self) -> u64 {
        (self.identities.bytes().len() / WIDTH) as u64
    }

    /// Returns whether no subchunk was inserted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes that the index takes, in memory or in files.
    pub fn memory(&self) -> usize {
        self.identities.capacity() + self.table.slots.capacity() + self.runs.capacity() * size_of::<Run>()
    }

    /// Returns whether the index is in files.
    pub fn is_spilled(&self) -> bool {
        self.spilled
    }

    /// Returns the subchunk with this identity; the last one if several were inserted.
    pub fn get(&self, identity: &Identity) -> Option<SubchunkId> {
        match self.table.find(self.identities.bytes(), identity) {
            Found::Ordinal { ordinal, .. } => self.id_of(ordinal.into()),
            Found::Free { .. } => None,
        }
    }

    /// Inserts a subchunk. Ids ascend. A consecutive id takes no memory; after a gap an id takes 16 bytes. If the
    /// identity was inserted before, this subchunk replaces the other.
    ///
    /// # Errors
    /// Fails with `Order` if the id does not ascend, with `Full`, or with `Spill` if temporary files cannot be created
    /// or written. On an error the index is unchanged.
    pub fn insert(&mut self, identity: Identity, id: SubchunkId) -> Result<(), ChunkError> {
        let ordinal = self.len();
        let expected = self.next_id();
        if let Some(next) = expected
            && id < next
        {
            return Err(ChunkError::Order { id, last: SubchunkId(next.0 - 1) });
        }
        let Some(short) = u32::try_from(ordinal).ok().filter(|_| ordinal < MOST) else {
            return Err(ChunkError::Full { limit: MOST });
        };
        self.make_room().map_err(|source| ChunkError::Spill { dir: self.dir.clone(), source })?;
        let (Found::Free { slot } | Found::Ordinal { slot, .. }) = self.table.find(self.identities.bytes(), &identity);
        self.identities.append(&identity.0).map_err(|source| ChunkError::Spill { dir: self.dir.clone(), source })?;
        self.table.set(slot, &identity, short);
        if expected != Some(id) {
            self.runs.push(Run { first: id, ordinal });
        }
        Ok(())
    }

    /// Iterates over all subchunks in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (SubchunkId, Identity)> + '_ {
        let ends = self.runs.iter().skip(1).map(|run| run.ordinal).chain([self.len()]);
        let ids = self.runs.iter().zip(ends).flat_map(|(run, end)| (0..end - run.ordinal).map(|i| run.first.0 + i));
        let (identities, _) = self.identities.bytes().as_chunks::<WIDTH>();
        ids.map(SubchunkId).zip(identities.iter().map(|&bytes| Identity(bytes)))
    }

    /// Returns the id after the last one, if the index is not empty.
    fn next_id(&self) -> Option<SubchunkId> {
        self.runs.last().map(|run| SubchunkId(run.first.0.saturating_add(self.len() - run.ordinal)))
    }

    fn id_of(&self, ordinal: u64) -> Option<SubchunkId> {
        let behind = self.runs.partition_point(|run| run.ordinal <= ordinal);
        let run = self.runs.get(behind.checked_sub(1)?)?;
        Some(SubchunkId(run.first.0 + (ordinal - run.ordinal)))
    }

    /// Makes sure that one more entry finds a free slot, and moves the index to files if it has become too large.
    fn make_room(&mut self) -> io::Result<()> {
        let slots = self.table.len();
        let grows = self.len() + 1 > slots as u64 / 4 * 3;
        let wanted = if grows { slots * 2 } else { slots };
        if !self.spilled && self.identities.bytes().len() + WIDTH + wanted * SLOT > self.spill_after {
            self.identities.spill(&self.dir)?;
            if !grows {
                self.table.slots.spill(&self.dir)?;
            }
            self.spilled = true;
        }
        if grows {
            let slots = if self.spilled {
                Region::in_file(wanted * SLOT, &self.dir)?
            } else {
                Region::in_memory(wanted * SLOT)
            };
            self.table = Table::filled(slots, self.identities.bytes());
        }
        Ok(())
    }
}

/// A hash table with open addressing and linear probing. The region holds all tags, then all ordinals.
#[derive(Debug)]
struct Table {
    slots: Region,
}

enum Found {
    /// The slot has this identity.
    Ordinal { slot: usize, ordinal: u32 },
    /// The slot is free, and is where the identity belongs.
    Free { slot: usize },
}

/// Returns the tag of an identity, taken from other bits of its prefix than those that select the first slot.
fn tag(identity: &Identity) -> u8 {
    ((identity.prefix() >> 56) as u8).max(FREE + 1)
}

impl Table {
    fn len(&self) -> usize {
        self.slots.bytes().len() / SLOT
    }

    /// Makes a table of all `identities`. `slots` are zero, and their number is a power of two.
    fn filled(slots: Region, identities: &[u8]) -> Self {
        let mut table = Table { slots };
        let (all, _) = identities.as_chunks::<WIDTH>();
        for (ordinal, bytes) in all.iter().enumerate() {
            let identity = Identity(*bytes);
            let (Found::Free { slot } | Found::Ordinal { slot, .. }) = table.find(identities, &identity);
            table.set(slot, &identity, ordinal as u32);
        }
        table
    }

    /// Finds the slot of an identity. The search ends because a quarter of the slots is free.
    fn find(&self, identities: &[u8], identity: &Identity) -> Found {
        let len = self.len();
        let (tags, ordinals) = self.slots.bytes().split_at(len);
        let (ordinals, _) = ordinals.as_chunks::<ORDINAL>();
        let tag = tag(identity);
        let mut slot = identity.prefix() as usize & (len - 1);
        loop {
            if tags[slot] == FREE {
                return Found::Free { slot };
            }
            if tags[slot] == tag {
                let ordinal = u32::from_le_bytes(ordinals[slot]);
                let at = ordinal as usize * WIDTH;
                if identities[at..at + WIDTH] == identity.0 {
                    return Found::Ordinal { slot, ordinal };
                }
            }
            slot = (slot + 1) & (len - 1);
        }
    }

    fn set(&mut self, slot: usize, identity: &Identity, ordinal: u32) {
        let len = self.len();
        let bytes = self.slots.bytes_mut();
        bytes[slot] = tag(identity);
        bytes[len + slot * ORDINAL..][..ORDINAL].copy_from_slice(&ordinal.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn identity(number: u64) -> Identity {
        let mut out = [0; WIDTH];
        out.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..WIDTH]);
        Identity(out)
    }

    #[test]
    fn an_index_moves_to_files_beyond_its_limit_and_answers_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = DedupIndex::new(500_000, dir.path());
        assert!(index.is_empty() && index.get(&identity(0)).is_none());
        for number in 0..50_000 {
            index.insert(identity(number), SubchunkId(number + 1)).unwrap();
        }
        assert!(index.is_spilled() && index.len() == 50_000);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for number in 0..50_000 {
            assert_eq!(index.get(&identity(number)), Some(SubchunkId(number + 1)));
        }
        assert!((50_000..100_000).all(|number| index.get(&identity(number)).is_none()));
        let expected = (0..50_000).map(|number| (SubchunkId(number + 1), identity(number)));
        assert!(index.iter().eq(expected));
    }

    #[test]
    fn an_index_takes_no_more_than_forty_bytes_a_subchunk() {
        let mut index = DedupIndex::new(usize::MAX, Path::new("/nonexistent/folder"));
        let mut most = 0.0f64;
        for number in 0..200_000u64 {
            index.insert(identity(number), SubchunkId(number + 7)).unwrap();
            if number > 100_000 {
                most = most.max(index.memory() as f64 / number as f64);
            }
        }
        assert!(!index.is_spilled());
        assert!(most < 41.0, "{most}");
    }

    #[test]
    fn ids_that_do_not_ascend_are_refused_and_a_missing_folder_changes_nothing() {
        let mut index = DedupIndex::new(40_000, Path::new("/nonexistent/folder"));
        index.insert(identity(1), SubchunkId(5)).unwrap();
        assert!(matches!(index.insert(identity(2), SubchunkId(5)), Err(ChunkError::Order { .. })));
        let mut number = 6;
        let error = loop {
            match index.insert(identity(number), SubchunkId(number)) {
                Ok(()) => number += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ChunkError::Spill { .. }), "{error}");
        assert_eq!(index.len(), number - 5);
        assert_eq!(index.get(&identity(number - 1)), Some(SubchunkId(number - 1)));
        assert_eq!(index.get(&identity(number)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn it_answers_like_a_map_whose_later_entries_win(
            steps in prop::collection::vec((0u64..400, prop::sample::select(vec![0u64, 0, 0, 1, 100])), 0..3000),
            spill_after in prop::sample::select(vec![0usize, 10_000, usize::MAX]),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut index = DedupIndex::new(spill_after, dir.path());
            let (mut map, mut list, mut next) = (HashMap::new(), Vec::new(), 1);
            for (number, gap) in steps {
                let id = SubchunkId(next + gap);
                next = id.0 + 1;
                prop_assert_eq!(index.get(&identity(number)), map.get(&number).copied());
                index.insert(identity(number), id).unwrap();
                map.insert(number, id);
                list.push((id, identity(number)));
            }
            prop_assert!(index.iter().eq(list.iter().copied()));
            for number in 0..450 {
                prop_assert_eq!(index.get(&identity(number)), map.get(&number).copied());
            }
        }
    }
}
