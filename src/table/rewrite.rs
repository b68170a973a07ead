//! Rewrites one level of blocks below one parent: it decides which old blocks stay, and cuts new rows into blocks.
//!
//! Rows and unchanged blocks come in key order. New blocks have between a quarter of the target and twice the target in
//! bytes, if there is a neighbour to join or a row to split at. At most the rows of two blocks are in memory.

use super::write::{BLOCK_MAX, child_row, put};
use super::{BlockSink, BlockSource, ChildRef, RowRef, TableError, child_at, fetch};
use crate::format::block::{Block, BlockBuilder, Key, KeyRef, Row};
use crate::format::schema::Table;
use std::sync::Arc;

/// A row of a level that is being rewritten, old or new.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// A row of an existing block.
    Old(RowRef),
    /// A row that is not yet in a block.
    New(Row),
}

impl Item {
    pub(super) fn parts(&self) -> (KeyRef<'_>, &[u64], &[u8]) {
        match self {
            Item::Old(row) => (row.key(), row.ints(), row.tail()),
            Item::New(row) => (row.key.as_ref(), &row.ints, &row.tail),
        }
    }

    /// Returns the child that the row refers to, as a row of an interior block.
    pub(super) fn child(&self, table: &'static Table) -> Result<ChildRef, TableError> {
        let (_, ints, tail) = self.parts();
        ChildRef::decode(table, ints, tail).map_err(TableError::format(table))
    }
}

/// State that all levels of a rewrite share.
pub(super) struct Context<'a> {
    pub(super) table: &'static Table,
    pub(super) source: &'a dyn BlockSource,
    pub(super) sink: &'a mut dyn BlockSink,
    /// Target size of a new block in bytes, at most half of the limit.
    pub(super) target: usize,
    /// Blocks that the new tree does not refer to.
    pub(super) replaced: Vec<ChildRef>,
    /// New interior blocks with only one row, and that row: such a block must not become the root.
    pub(super) singles: Vec<(ChildRef, Item)>,
}

impl Context<'_> {
    /// Writes a block with the rows `items`, and returns the parent's row for it.
    fn write(&mut self, level: u8, items: &[Item]) -> Result<Item, TableError> {
        let mut block = BlockBuilder::new(self.table, level);
        for item in items {
            let (key, ints, tail) = item.parts();
            block.push(key, ints, tail);
        }
        let child = put(self.sink, self.table, level, block.finish())?;
        if let ([only], 1..) = (items, level) {
            self.singles.push((child, only.clone()));
        }
        let first = items.first().map_or_else(Key::default, |item| item.parts().0.to_key());
        Ok(Item::New(child_row(first, &child)))
    }
}

/// A block whose next neighbour is not known yet.
enum Held {
    /// An old block that stays, by its row in the old parent.
    Kept(RowRef),
    /// The rows for a new block.
    New(Vec<Item>),
}

/// The blocks of one level below one parent.
pub(super) struct Level {
    table: &'static Table,
    level: u8,
    /// Upper bound of the old parent: all keys are below it.
    upper: Option<Key>,
    /// The block before the pending rows. It is finished once its next neighbour is known.
    held: Option<Held>,
    /// Rows after those of `held`. They take at most twice the target size in bytes.
    pending: Vec<Item>,
    /// The rows of `pending`, encoded to know their length.
    encoded: BlockBuilder,
    /// Number of rows of `pending` that are needed to reach the target size; 0 while they do not reach it.
    cut: usize,
    /// Rows of the parent for the finished blocks.
    done: Vec<Item>,
}

impl Level {
    pub(super) fn new(table: &'static Table, level: u8, upper: Option<KeyRef<'_>>) -> Self {
        Level {
            table,
            level,
            upper: upper.map(KeyRef::to_key),
            held: None,
            pending: Vec::new(),
            encoded: BlockBuilder::new(table, level),
            cut: 0,
            done: Vec::new(),
        }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, context: &mut Context<'_>, item: Item) -> Result<(), TableError> {
        let (key, ints, tail) = item.parts();
        if self.pending.last().is_some_and(|last| last.parts().0 >= key) {
            return Err(TableError::OutOfOrder { table: self.table.name });
        }
        let bound = BlockBuilder::row_bound(key, ints, tail);
        while !self.pending.is_empty() && self.encoded.len() + bound > 2 * context.target {
            self.split(context)?;
        }
        self.append(context.target, item);
        Ok(())
    }

    fn append(&mut self, target: usize, item: Item) {
        let (key, ints, tail) = item.parts();
        self.encoded.push(key, ints, tail);
        self.pending.push(item);
        if self.cut == 0 && self.encoded.len() >= target {
            self.cut = self.pending.len();
        }
    }

    /// Makes a block from the pending rows up to `cut`.
    fn split(&mut self, context: &mut Context<'_>) -> Result<(), TableError> {
        let cut = if self.cut == 0 { self.pending.len() } else { self.cut };
        let mut first = self.take_pending();
        let rest = first.split_off(cut);
        for item in rest {
            self.append(context.target, item);
        }
        self.hold(context, Held::New(first))
    }

    fn take_pending(&mut self) -> Vec<Item> {
        self.encoded = BlockBuilder::new(self.table, self.level);
        self.cut = 0;
        std::mem::take(&mut self.pending)
    }

    /// Returns whether the pending rows are too few for a block that has neighbours.
    fn is_small(&self, context: &Context<'_>) -> bool {
        self.encoded.len() < context.target / 4
    }

    /// Ends a rewritten block, when all of its rows have been pushed. If they take less than half of the target size,
    /// they share a block with the rows of the next rewritten block, which costs nothing. They take in the rows of an
    /// old neighbour only if they take less than a quarter.
    pub(super) fn boundary(&mut self, context: &mut Context<'_>) -> Result<(), TableError> {
        if self.encoded.len() < context.target / 2 { Ok(()) } else { self.close(context) }
    }

    /// Finishes the pending block, if there is one.
    fn close(&mut self, context: &mut Context<'_>) -> Result<(), TableError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let rows = self.take_pending();
        self.hold(context, Held::New(rows))
    }

    /// Adds an old block, by its row in the old parent. It stays unless the block before it is too small and needs its
    /// rows.
    pub(super) fn keep(&mut self, context: &mut Context<'_>, row: RowRef) -> Result<(), TableError> {
        if self.pending.is_empty() || !self.is_small(context) {
            self.close(context)?;
            return self.hold(context, Held::Kept(row));
        }
        for item in self.load(context, &row)? {
            self.push(context, item)?;
        }
        self.boundary(context)
    }

    /// Returns the only row, if this level is above the leaves and would be one block with one row.
    pub(super) fn single(&mut self) -> Option<Item> {
        let single = self.level > 0 && self.done.is_empty() && self.held.is_none() && self.pending.len() == 1;
        if single { self.pending.pop() } else { None }
    }

    /// Reads the rows of an old block and notes it as replaced.
    fn load(&self, context: &mut Context<'_>, row: &RowRef) -> Result<Vec<Item>, TableError> {
        let (parent, at) = (row.block(), row.index());
        let child = child_at(self.table, parent, at)?;
        let own = self.upper.as_ref().map(Key::as_ref);
        let upper = if at + 1 < parent.len() { Some(parent.key(at + 1)) } else { own };
        let block = fetch(context.source, self.table, self.level, &child, Some(row.key()), upper)?;
        context.replaced.push(child);
        Ok(items_of(&block, 0..block.len()).collect())
    }

    /// Holds a block, and finishes the one held before.
    fn hold(&mut self, context: &mut Context<'_>, next: Held) -> Result<(), TableError> {
        match self.held.replace(next) {
            None => {}
            Some(Held::Kept(row)) => self.done.push(Item::Old(row)),
            Some(Held::New(rows)) => self.done.push(context.write(self.level, &rows)?),
        }
        Ok(())
    }

    /// Writes the blocks that are not written yet. Returns the parent's rows for all blocks of the level.
    pub(super) fn finish(mut self, context: &mut Context<'_>) -> Result<Vec<Item>, TableError> {
        if !self.pending.is_empty() && self.is_small(context) {
            // There is no block after it, so it joins the one before.
            let before = match self.held.take() {
                None => Vec::new(),
                Some(Held::New(rows)) => rows,
                Some(Held::Kept(row)) => self.load(context, &row)?,
            };
            let rows = self.take_pending();
            for item in before.into_iter().chain(rows) {
                self.push(context, item)?;
            }
        }
        self.close(context)?;
        match self.held.take() {
            None => {}
            Some(Held::Kept(row)) => self.done.push(Item::Old(row)),
            Some(Held::New(rows)) => self.done.push(context.write(self.level, &rows)?),
        }
        Ok(self.done)
    }
}

/// Iterates over the rows of a block whose indexes are in `rows`.
pub(super) fn items_of(block: &Arc<Block>, rows: std::ops::Range<usize>) -> impl Iterator<Item = Item> + '_ {
    rows.map(|row| Item::Old(RowRef::new(block, row)))
}

/// Largest target size in bytes whose double is still allowed for a block.
pub(super) const TARGET_MAX: usize = BLOCK_MAX / 2;
