//! Finds subchunks that are shorter than the chunker makes them, although neither the file nor its data ends there.
//!
//! The walk over the contents finds them. The walk over the inodes tells which contents are uneven and so may have
//! them.

use crate::format::rows::{ContentRow, Extent};
use std::collections::BTreeMap;

/// Most contents that are remembered (about 32 bytes each).
const MAX: usize = 1 << 20;

/// Finds contents with a short subchunk that is followed by data.
#[derive(Debug, Default)]
pub(super) struct ShortSubchunks {
    /// Length in bytes from which a subchunk is not short.
    min: u64,
    content: u64,
    /// Offset of the last subchunk seen of the current content, if that is short.
    last: Option<u64>,
    /// For each content, the offset of its first short subchunk.
    found: BTreeMap<u64, u64>,
}

impl ShortSubchunks {
    pub(super) fn new(min: u32) -> Self {
        ShortSubchunks { min: min.into(), ..Self::default() }
    }

    /// Adds the next row of the contents table. Call it for all rows in key order.
    pub(super) fn row(&mut self, content: u64, offset: u64, row: &ContentRow) {
        let before = self.last.take().filter(|_| self.content == content);
        self.content = content;
        let mut short = before;
        match &row.extent {
            Extent::Hole => return,
            Extent::Slice { .. } => self.last = (row.length < self.min).then_some(offset),
            Extent::Run { lens, .. } => {
                let mut at = offset;
                for &len in lens {
                    short = short.or(self.last.take());
                    self.last = (u64::from(len) < self.min).then_some(at);
                    at = at.saturating_add(len.into());
                }
            }
        }
        if let Some(at) = short
            && self.found.len() < MAX
        {
            self.found.entry(content).or_insert(at);
        }
    }

    /// Adds the content of an inode, and whether it is uneven: then it may have short subchunks anywhere.
    pub(super) fn user(&mut self, content: u64, uneven: bool) {
        if uneven {
            self.found.remove(&content);
        }
    }

    /// Returns the contents that have a short subchunk followed by data and that no inode calls uneven, each with the
    /// offset of its first such subchunk.
    pub(super) fn take(&mut self) -> BTreeMap<u64, u64> {
        std::mem::take(&mut self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::SubchunkId;

    #[test]
    fn only_what_ends_no_data_is_short() {
        let slice = |length| ContentRow { length, extent: Extent::Slice { subchunk: SubchunkId(1), skip: 0 } };
        let run = |lens: &[u32]| ContentRow {
            length: lens.iter().map(|&len| u64::from(len)).sum(),
            extent: Extent::Run { first: SubchunkId(1), lens: lens.to_vec() },
        };
        let hole = ContentRow { length: 5, extent: Extent::Hole };
        let short = |rows: &[&ContentRow]| {
            let mut found = ShortSubchunks::new(10);
            let mut at = 0;
            for row in rows {
                found.row(3, at, row);
                at += row.length;
            }
            // Another content begins.
            found.row(4, 0, &slice(20));
            found.take().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(short(&[&slice(9)]), []);
        assert_eq!(short(&[&slice(10), &slice(9), &hole, &slice(3)]), []);
        assert_eq!(short(&[&run(&[10, 11, 9]), &hole]), []);
        assert_eq!(short(&[&slice(9), &slice(10)]), [(3, 0)]);
        assert_eq!(short(&[&run(&[10, 9, 10])]), [(3, 10)]);
        assert_eq!(short(&[&hole, &run(&[10, 9]), &run(&[9, 9])]), [(3, 15)]);
    }
}
