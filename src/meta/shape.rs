//! The size of a tree according to its root block: enough to bound the bytes that a change of it writes.
//!
//! Invariant: no tree is larger than its shape, whatever its root block says. Called by `image`, which keeps the shapes
//! for `estimate`.

use crate::format::block::{Block, BlockBuilder, KeyRef};
use crate::format::limits;
use crate::table::{BlockSource, Tree};
use std::sync::Arc;

/// Most children of an interior block: each takes at least the 24 bytes of its hash.
const CHILDREN: u64 = limits::TABLE_BLOCK / 24;

/// The size of a table's tree.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Number of levels, 0 if the tree is empty.
    pub(super) levels: u8,
    /// Raw bytes of the root block.
    pub(super) root_bytes: u64,
    /// Upper bound of the number of leaves.
    leaves: u64,
    root: Option<Arc<Block>>,
}

impl Shape {
    /// Returns the size of a tree. Reads the tree's root block. If that cannot be read, the result is the largest size
    /// that the tree's levels and rows allow.
    pub(super) fn of(tree: &Tree, source: &dyn BlockSource) -> Shape {
        let root = tree.root_block(source).ok().flatten();
        let levels = tree.root.map_or(0, |(_, levels)| levels);
        let root_bytes = root.as_ref().map_or(limits::TABLE_BLOCK, |root| {
            let mut again = BlockBuilder::new(tree.table, root.level());
            (0..root.len()).for_each(|row| again.push(root.key(row), root.ints(row), root.tail(row)));
            again.len() as u64
        });
        Shape { levels, root_bytes, leaves: tree.rows, root }
    }

    /// Returns how many children of the root block `changes` changes touch, and an upper bound of the leaves that they
    /// touch. `has_change` tells whether a change has a key that is at least the first and below the second, if there
    /// is a second.
    pub(super) fn touched(
        &self,
        changes: u64,
        has_change: &dyn Fn(KeyRef<'_>, Option<KeyRef<'_>>) -> bool,
    ) -> (u64, u64) {
        let children = match (self.levels, &self.root) {
            (0, _) => return (0, 0),
            (1, _) => return (0, 1),
            (_, None) => CHILDREN,
            (_, Some(root)) => {
                // Keys before the first child's key belong to it, too.
                let lower = |row| if row == 0 { KeyRef::new(0, 0) } else { root.key(row) };
                let upper = |row| (row + 1 < root.len()).then(|| root.key(row + 1));
                (0..root.len()).filter(|&row| has_change(lower(row), upper(row))).count() as u64
            }
        };
        let below = CHILDREN.saturating_pow(u32::from(self.levels).saturating_sub(2));
        (children, children.saturating_mul(below).min(changes).min(self.leaves))
    }
}
