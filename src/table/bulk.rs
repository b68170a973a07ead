//! Loads a whole table in key order: it writes each leaf when it is full, and interior blocks at the end.

use super::write::{BLOCK_MAX, TARGET_MIN, check_level, check_row, child_row, put};
use super::{BlockSink, ChildRef, TableError, Tree};
use crate::format::block::{BlockBuilder, Key, KeyRef};
use crate::format::schema::Table;

/// Makes a tree from rows in key order.
///
/// A leaf is passed to the sink when the next row might make it larger than the target. [`BulkLoader::finish`] writes
/// the interior blocks level by level, so that they are stored together. Memory: one leaf, and for each leaf written
/// its first key and its reference.
#[derive(Debug)]
pub struct BulkLoader {
    table: &'static Table,
    target: usize,
    leaf: BlockBuilder,
    /// First key of `leaf`, if the leaf has rows.
    first: Key,
    /// Last key pushed, if there are rows.
    last: Key,
    rows: u64,
    leaves: Vec<(Key, ChildRef)>,
}

impl BulkLoader {
    /// Begins a tree of `table`. Blocks have at most `target_bytes` raw bytes (limited to 1 KiB to 256 KiB), or one
    /// row.
    pub fn new(table: &'static Table, target_bytes: usize) -> Self {
        BulkLoader {
            table,
            target: target_bytes.clamp(TARGET_MIN, BLOCK_MAX),
            leaf: BlockBuilder::new(table, 0),
            first: Key::default(),
            last: Key::default(),
            rows: 0,
            leaves: Vec::new(),
        }
    }

    /// Returns the number of rows pushed so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends a row.
    ///
    /// # Errors
    /// Fails with `OutOfOrder` if its key is not above the key before; `RowTooLarge` or `Misfit` if no block can hold
    /// it; errors of the sink. After an error of the sink the loader must not be used again.
    pub fn push(
        &mut self,
        sink: &mut dyn BlockSink,
        key: KeyRef<'_>,
        ints: &[u64],
        tail: &[u8],
    ) -> Result<(), TableError> {
        if self.rows > 0 && key <= self.last.as_ref() {
            return Err(TableError::OutOfOrder { table: self.table.name });
        }
        check_row(self.table, 0, key, ints, tail)?;
        if !self.leaf.is_empty() && self.leaf.len() + BlockBuilder::row_bound(key, ints, tail) > self.target {
            self.finish_leaves(sink)?;
        }
        if self.leaf.is_empty() {
            self.first = key.to_key();
        }
        self.leaf.push(key, ints, tail);
        self.last.a = key.a;
        self.last.b = key.b;
        self.last.name.clear();
        self.last.name.extend_from_slice(key.name);
        self.rows += 1;
        Ok(())
    }

    /// Writes the unfinished leaf to the sink. More rows may follow.
    ///
    /// # Errors
    /// Fails with errors of the sink.
    pub fn finish_leaves(&mut self, sink: &mut dyn BlockSink) -> Result<(), TableError> {
        if !self.leaf.is_empty() {
            let child = put(sink, self.table, 0, self.leaf.finish())?;
            self.leaves.push((std::mem::take(&mut self.first), child));
        }
        Ok(())
    }

    /// Writes the unfinished leaf and all interior blocks to the sink, and returns the tree.
    ///
    /// # Errors
    /// Fails with errors of the sink; with `TooDeep` if the tree would have too many levels.
    pub fn finish(mut self, sink: &mut dyn BlockSink) -> Result<Tree, TableError> {
        self.finish_leaves(sink)?;
        let mut children = std::mem::take(&mut self.leaves);
        let mut level = 0;
        while children.len() > 1 {
            level += 1;
            check_level(self.table, level)?;
            children = self.parents(sink, level, children)?;
        }
        Ok(Tree { table: self.table, root: children.pop().map(|(_, child)| (child, level + 1)), rows: self.rows })
    }

    /// Writes the level above `children`. All blocks except the last have at least two rows (see [`TARGET_MIN`]).
    fn parents(
        &self,
        sink: &mut dyn BlockSink,
        level: u8,
        children: Vec<(Key, ChildRef)>,
    ) -> Result<Vec<(Key, ChildRef)>, TableError> {
        let mut parents = Vec::new();
        let mut block = BlockBuilder::new(self.table, level);
        let mut first = Key::default();
        for (key, child) in children {
            let row = child_row(key, &child);
            let bound = BlockBuilder::row_bound(row.key.as_ref(), &row.ints, &row.tail);
            if !block.is_empty() && block.len() + bound > self.target {
                let child = put(sink, self.table, level, block.finish())?;
                parents.push((std::mem::take(&mut first), child));
            }
            let is_first = block.is_empty();
            block.push(row.key.as_ref(), &row.ints, &row.tail);
            if is_first {
                first = row.key;
            }
        }
        let child = put(sink, self.table, level, block.finish())?;
        parents.push((first, child));
        Ok(parents)
    }
}
