//! A set of ids, a bit an id, in pages of 512 that come to be when one of their ids does.
//!
//! Ids are given out side by side, so pages fill: a set of all subchunks of 1 TiB takes about 10 MiB. Where they do not, a page
//! takes no more than about five times what the row takes that names the id. So memory is bounded by what the image holds.
//! Called by `mark` and `tally`.

use std::collections::HashMap;

/// Bits of a word.
const WORD: u64 = u64::BITS as u64;
/// Words of a page.
const WORDS: usize = 8;
/// Ids of a page.
const PAGE: u64 = WORD * WORDS as u64;

/// A set of ids.
#[derive(Debug, Clone, Default)]
pub struct IdSet {
    pages: HashMap<u64, [u64; WORDS]>,
    len: u64,
}

impl IdSet {
    /// Puts an id in; false if it is in already.
    pub fn insert(&mut self, id: u64) -> bool {
        let page = self.pages.entry(id / PAGE).or_default();
        // There are as many words as the remainder can name.
        let Some(word) = page.get_mut((id % PAGE / WORD) as usize) else { return false };
        let bit = 1 << (id % WORD);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.len += u64::from(is_new);
        is_new
    }

    /// Whether an id is in it.
    pub fn contains(&self, id: u64) -> bool {
        let word = self.pages.get(&(id / PAGE)).and_then(|page| page.get((id % PAGE / WORD) as usize));
        word.is_some_and(|word| word & 1 << (id % WORD) != 0)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
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
