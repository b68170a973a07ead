//! The stamp that each packed inode had in its source, by which a change since is recognised.
//!
//! Invariant: stamps are added in the order of the inode numbers, from the root's on. Beyond a limit they are in a
//! temporary file. Made with the tree rows, and asked when the image is verified.

use super::PackError;
use crate::chunk::Spill;
use crate::format::ids::InodeId;
use std::path::{Path, PathBuf};

/// Bytes in memory beyond which all stamps move to a temporary file: two million inodes.
const IN_MEMORY: usize = 16 << 20;
/// Bytes of a stamp.
const LEN: usize = size_of::<u64>();

/// The stamps of all packed inodes.
pub(super) struct Stamps {
    spill: Spill,
    dir: PathBuf,
}

impl Stamps {
    /// Makes an empty list; a temporary file is made in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Stamps { spill: Spill::new(IN_MEMORY, dir), dir: dir.to_owned() }
    }

    /// Adds the stamp of the next inode.
    pub(super) fn push(&mut self, stamp: u64) -> Result<(), PackError> {
        let added = self.spill.append(&stamp.to_le_bytes());
        added.map(drop).map_err(|source| PackError::Spill { dir: self.dir.clone(), source })
    }

    /// Returns the stamp that an inode had when it was packed; `None` if it was not packed.
    pub(super) fn get(&self, inode: InodeId) -> Result<Option<u64>, PackError> {
        let offset = inode.0.checked_sub(InodeId::ROOT.0).and_then(|index| index.checked_mul(LEN as u64));
        let Some(offset) = offset.filter(|offset| *offset < self.spill.len()) else { return Ok(None) };
        let mut bytes = [0; LEN];
        let read = self.spill.read_at(offset, &mut bytes);
        read.map_err(|source| PackError::Spill { dir: self.dir.clone(), source })?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inode_has_the_stamp_that_was_added_for_it_and_others_have_none() {
        let mut stamps = Stamps::new(Path::new("."));
        (0..1000).for_each(|n: u64| stamps.push(n.pow(3)).unwrap());
        let of = |inode| stamps.get(InodeId(inode)).unwrap();
        assert!((0..1000).all(|n| of(InodeId::ROOT.0 + n) == Some(n.pow(3))));
        assert_eq!([of(InodeId::ROOT.0 + 1000), of(InodeId::ROOT.0 - 1), of(u64::MAX)], [None; 3]);
    }
}
