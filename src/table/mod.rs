//! Copy-on-write B+trees of table blocks (section 7): lookup, iteration, bulk load, batches of changes.
//!
//! A [`Tree`] names a root block. Blocks never change, so a tree stays readable after new trees are made from it. This
//! module does not interpret rows and does no I/O: blocks come from a [`BlockSource`] and go to a [`BlockSink`]. Called
//! by `meta`, `pack`, `thaw`, `fs` and `care`.
//!
//! # Hostile trees
//!
//! Each block that is read is checked against its parent: its level is one less, and its keys are in `[its key in the
//! parent, the next key there)`; for the last child the upper bound is the parent's own. It follows that:
//!
//! - A path has at most [`limits::TREE_LEVELS`](crate::format::limits::TREE_LEVELS) blocks, so nothing loops.
//! - Keys ascend strictly over a whole tree, whatever its blocks hold: keys ascend within a block, and the ranges of
//!   the children of a block are disjoint and ascend.
//! - The blocks accepted at one level all have disjoint ranges. Each has at least one row, whose key is in its range;
//!   so no block is accepted twice, however many parents name it. A walk over a whole tree therefore accepts each block
//!   of the image at most once, and refuses at most one child for each row of the accepted blocks.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod apply;
mod bulk;
mod child;
mod cursor;
mod error;
mod rewrite;
mod row;
#[cfg(test)]
mod tests;
mod tree;
mod walk;
mod write;

pub use apply::{Applied, Change, apply};
pub use bulk::BulkLoader;
pub use child::ChildRef;
pub use cursor::Cursor;
pub use error::TableError;
pub use row::{RowRef, RowView};
pub use tree::Tree;
pub use walk::{Onward, Visit};

use crate::format::block::{Block, KeyRef};
use crate::format::schema::Table;
use std::sync::Arc;

/// A source of verified table blocks.
pub trait BlockSource {
    /// Returns the block that `child` names, decoded as a block of `table` at `level`, and verified by its hash or
    /// checksum.
    ///
    /// # Errors
    /// Fails if the block cannot be read or does not verify.
    fn block(&self, table: &'static Table, level: u8, child: &ChildRef) -> Result<Arc<Block>, TableError>;
}

/// A store for new table blocks.
pub trait BlockSink {
    /// Stores the raw bytes of a block of `table` at `level` and returns the reference for its parent: id and hash, or
    /// in the map a place without clear part.
    ///
    /// # Errors
    /// Fails if the block cannot be stored.
    fn put(&mut self, table: &'static Table, level: u8, raw: Vec<u8>) -> Result<ChildRef, TableError>;
}

/// Reads a block and checks that its level is `level` and that its keys are in `[lower, upper)`.
fn fetch(
    source: &dyn BlockSource,
    table: &'static Table,
    level: u8,
    child: &ChildRef,
    lower: Option<KeyRef<'_>>,
    upper: Option<KeyRef<'_>>,
) -> Result<Arc<Block>, TableError> {
    //= format-spec.md#7.3
    //# A reader refuses a block whose hash or checksum is not the one that its parent names, and a block with a key
    //# that is below its row's key in the parent, or not below the key of the parent's next row.
    let block = source.block(table, level, child)?;
    if block.level() != level {
        return Err(TableError::OutOfRange { table: table.name, level, child: *child });
    }
    let (first, last) = (block.key(0), block.key(block.len() - 1));
    if lower.is_some_and(|lower| first < lower) || upper.is_some_and(|upper| last >= upper) {
        return Err(TableError::OutOfRange { table: table.name, level, child: *child });
    }
    Ok(block)
}

/// Returns the child that row number `row` of an interior block names.
fn child_at(table: &'static Table, block: &Block, row: usize) -> Result<ChildRef, TableError> {
    ChildRef::decode(table, block.ints(row), block.tail(row)).map_err(TableError::format(table))
}
