//! How large a tree is, as far as its root block says: enough to bound what a change of it writes.
//!
//! Called by `image`, which keeps the answers, for `estimate`.

use crate::format::limits;
use crate::table::{BlockSource, Tree};

/// Children of an interior block at most: each has a hash of 24 bytes in it.
const CHILDREN: u64 = limits::TABLE_BLOCK / 24;

/// How large a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Levels, 0 if it is empty.
    pub(super) levels: u8,
    /// Rows of its root block at most.
    pub(super) children: u64,
    /// Raw bytes of its root block at most.
    pub(super) root_bytes: u64,
    /// Leaves at most.
    pub(super) leaves: u64,
}

impl Shape {
    /// Of this tree. If its root block cannot be read, as large as its levels and rows allow.
    pub(super) fn of(tree: &Tree, source: &dyn BlockSource) -> Shape {
        let levels = tree.root.map_or(0, |(_, levels)| levels);
        let (children, root_bytes) = tree.root_size(source).unwrap_or((CHILDREN, limits::TABLE_BLOCK));
        let below = CHILDREN.saturating_pow(u32::from(levels.saturating_sub(2)));
        let leaves = match levels {
            0 | 1 => levels.into(),
            _ => children.saturating_mul(below).min(tree.rows),
        };
        Shape { levels, children, root_bytes, leaves }
    }
}
