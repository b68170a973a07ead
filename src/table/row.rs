//! Rows without copies: a [`RowRef`] owns its block, a [`RowView`] borrows it.

use crate::format::block::{Block, KeyRef, Row};
use std::sync::Arc;

/// A row of a table block, which it keeps alive.
#[derive(Debug, Clone)]
pub struct RowRef {
    block: Arc<Block>,
    row: usize,
}

impl RowRef {
    /// Makes a reference to row number `row`, which must be below the block's length.
    pub(super) fn new(block: &Arc<Block>, row: usize) -> Self {
        debug_assert!(row < block.len());
        RowRef { block: Arc::clone(block), row }
    }

    /// Returns the key of the row.
    pub fn key(&self) -> KeyRef<'_> {
        self.block.key(self.row)
    }

    /// Returns the integer columns of the row.
    pub fn ints(&self) -> &[u64] {
        self.block.ints(self.row)
    }

    /// Returns the tail of the row: its bytes after the integer columns.
    pub fn tail(&self) -> &[u8] {
        self.block.tail(self.row)
    }

    /// Returns an owned copy of the row.
    pub fn to_row(&self) -> Row {
        self.block.row(self.row)
    }

    /// Returns the row, borrowed.
    pub fn view(&self) -> RowView<'_> {
        RowView { block: &self.block, row: self.row }
    }

    pub(super) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    pub(super) fn index(&self) -> usize {
        self.row
    }
}

/// A row, borrowed from its table block.
#[derive(Debug, Clone, Copy)]
pub struct RowView<'a> {
    block: &'a Arc<Block>,
    row: usize,
}

impl<'a> RowView<'a> {
    pub(super) fn new(block: &'a Arc<Block>, row: usize) -> Self {
        RowView { block, row }
    }

    /// Returns the key of the row.
    pub fn key(&self) -> KeyRef<'a> {
        self.block.key(self.row)
    }

    /// Returns the integer columns of the row.
    pub fn ints(&self) -> &'a [u64] {
        self.block.ints(self.row)
    }

    /// Returns the tail of the row: its bytes after the integer columns.
    pub fn tail(&self) -> &'a [u8] {
        self.block.tail(self.row)
    }

    /// Returns an owned copy of the row.
    pub fn to_row(&self) -> Row {
        self.block.row(self.row)
    }

    /// Returns the row, together with its block.
    pub fn to_row_ref(&self) -> RowRef {
        RowRef::new(self.block, self.row)
    }
}
