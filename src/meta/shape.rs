//! How large a tree is, as far as its root block says: enough to bound what a change of it writes.
//!
//! Invariant: no tree is larger than its shape, whatever its root block says. Called by `image`, which keeps the answers, for
//! `estimate`.

use crate::format::block::{Block, BlockBuilder, KeyRef};
use crate::format::limits;
use crate::table::{BlockSource, Tree};
use std::sync::Arc;

/// Children of an interior block at most: each has a hash of 24 bytes in it.
const CHILDREN: u64 = limits::TABLE_BLOCK / 24;

/// How large a tree is.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Levels, 0 if it is empty.
    pub(super) levels: u8,
    /// Raw bytes of its root block.
    pub(super) root_bytes: u64,
    /// Leaves at most.
    leaves: u64,
    root: Option<Arc<Block>>,
}

impl Shape {
    /// Of this tree. Reads its root block; if it cannot be read, the tree is taken to be as large as its levels and rows
    /// allow.
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

    /// How many children of the root block, and how many leaves at most, changes touch. `has_change` says whether one has
    /// a key from the first on and below the second, if there is one. There are `changes` of them.
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
                // What is before the first child's key goes there, too.
                let lower = |row| if row == 0 { KeyRef::new(0, 0) } else { root.key(row) };
                let upper = |row| (row + 1 < root.len()).then(|| root.key(row + 1));
                (0..root.len()).filter(|&row| has_change(lower(row), upper(row))).count() as u64
            }
        };
        let below = CHILDREN.saturating_pow(u32::from(self.levels).saturating_sub(2));
        (children, children.saturating_mul(below).min(changes).min(self.leaves))
    }
}
