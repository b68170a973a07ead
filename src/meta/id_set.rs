//! A set of ids with one bit per id, in pages of 512 ids. A page is allocated when its first id is inserted.
//!
//! Ids are assigned consecutively, so pages are full: a set of all subchunks of 1 TiB takes about 10 MiB. At worst, a
//! page with one id takes about five times as much as the row that names the id. So memory is bounded by the size of
//! the image's tables. Called by `mark` and `tally`.

use std::collections::HashMap;

/// Number of bits of a word.
const WORD: u64 = u64::BITS as u64;
/// Number of words of a page.
const WORDS: usize = 8;
/// Number of ids of a page.
const PAGE: u64 = WORD * WORDS as u64;

/// A set of numeric ids, kept as a sparse bitmap.
#[derive(Debug, Clone, Default)]
pub struct IdSet {
    pages: HashMap<u64, [u64; WORDS]>,
    len: u64,
}

impl IdSet {
    /// Inserts an id. Returns false if the set already had it.
    pub fn insert(&mut self, id: u64) -> bool {
        let page = self.pages.entry(id / PAGE).or_default();
        // The remainder is always the index of a word.
        let Some(word) = page.get_mut((id % PAGE / WORD) as usize) else { return false };
        let bit = 1 << (id % WORD);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.len += u64::from(is_new);
        is_new
    }

    /// Returns whether the set has this id.
    pub fn contains(&self, id: u64) -> bool {
        let word = self.pages.get(&(id / PAGE)).and_then(|page| page.get((id % PAGE / WORD) as usize));
        word.is_some_and(|word| word & 1 << (id % WORD) != 0)
    }

    /// Returns the number of ids in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the set has no ids.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_ids_is_as_a_set_of_numbers(
            ids in prop::collection::vec(prop_oneof![0u64..2000, any::<u64>()], 0..400),
            others in prop::collection::vec(prop_oneof![0u64..2000, any::<u64>()], 0..100),
        ) {
            let (mut set, mut model) = (IdSet::default(), BTreeSet::new());
            for id in ids {
                prop_assert_eq!(set.insert(id), model.insert(id));
            }
            prop_assert_eq!((set.len(), set.is_empty()), (model.len() as u64, model.is_empty()));
            prop_assert!(model.iter().all(|&id| set.contains(id)));
            prop_assert!(others.iter().all(|id| set.contains(*id) == model.contains(id)));
        }
    }
}
