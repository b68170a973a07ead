//! Applies a sorted batch of changes to a tree. The new tree shares all blocks without changes with the old one
//! (section 7.5).

use super::rewrite::{Context, Item, Level, TARGET_MAX, items_of};
use super::write::{TARGET_MIN, check_level, check_row};
use super::{BlockSink, BlockSource, ChildRef, RowRef, TableError, Tree, child_at, fetch};
use crate::format::FormatError;
use crate::format::block::{Block, Key, KeyRef, Row};
use crate::format::schema::Table;
use std::sync::Arc;

/// A change to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Inserts the row, or replaces the row with the same key.
    Put(Row),
    /// Deletes the row with this key, if there is one.
    Delete(Key),
}

impl Change {
    /// Returns the key of the row that changes.
    pub fn key(&self) -> KeyRef<'_> {
        match self {
            Change::Put(row) => row.key.as_ref(),
            Change::Delete(key) => key.as_ref(),
        }
    }
}

/// The result of [`apply`].
#[derive(Debug)]
pub struct Applied {
    /// The tree after the changes.
    pub tree: Tree,
    /// Blocks that the new tree does not refer to: replaced blocks of the old tree, to which other trees may refer, and
    /// sometimes a new block in the sink, when the tree has lost levels.
    pub replaced: Vec<ChildRef>,
}

/// Applies changes, whose keys ascend strictly, to a tree. Returns the new tree.
///
/// New blocks have about `target_bytes` raw bytes (limited to 1 KiB to 128 KiB). A block that would have more than
/// twice as many is split; a block with less than a quarter is joined with a neighbour under the same parent. Changes
/// without effect cause no writes. The old tree does not change, also not after an error; but the sink may then have
/// new blocks.
///
/// # Errors
/// Fails with errors of the source and the sink; with `OutOfOrder`, `RowTooLarge` and `Misfit` for changes; with
/// `OutOfRange` and `Format` for the old tree's blocks; with `TooDeep`.
pub fn apply(
    tree: &Tree,
    source: &dyn BlockSource,
    sink: &mut dyn BlockSink,
    target_bytes: usize,
    changes: &mut dyn Iterator<Item = Change>,
) -> Result<Applied, TableError> {
    let table = tree.table;
    let target = target_bytes.clamp(TARGET_MIN, TARGET_MAX);
    let context = Context { table, source, sink, target, replaced: Vec::new(), singles: Vec::new() };
    let changes = Changes::new(table, changes)?;
    let mut apply = Apply { table, changes, context, added: 0, removed: 0 };
    let (mut level, blocks) = match tree.root_child()? {
        None => (0, apply.fill()?),
        Some((child, level)) => {
            let root = fetch(source, table, level, &child, None, None)?;
            let mut top = Level::new(table, level, None);
            if !apply.rewrite(&root, None, &mut top)? {
                return Ok(Applied { tree: *tree, replaced: Vec::new() });
            }
            apply.context.replaced.push(child);
            match top.single() {
                Some(child) => (level - 1, vec![child]),
                None => (level, top.finish(&mut apply.context)?),
            }
        }
    };
    let only = apply.grow(&mut level, blocks)?;
    let root = match only {
        None => None,
        Some(item) => Some((apply.shrink(&mut level, item)?, level + 1)),
    };
    let rows = tree.rows.checked_add(apply.added).and_then(|rows| rows.checked_sub(apply.removed));
    match rows {
        Some(rows) if (rows == 0) == root.is_none() => {
            Ok(Applied { tree: Tree { table, root, rows }, replaced: apply.context.replaced })
        }
        _ => Err(TableError::format(table)(FormatError::invalid(
            "tree",
            "the number of its rows is not the one in its root",
        ))),
    }
}

/// The batch of changes, with one change of lookahead.
struct Changes<'a> {
    table: &'static Table,
    rest: &'a mut dyn Iterator<Item = Change>,
    next: Option<Change>,
}

impl<'a> Changes<'a> {
    fn new(table: &'static Table, rest: &'a mut dyn Iterator<Item = Change>) -> Result<Self, TableError> {
        let mut changes = Changes { table, rest, next: None };
        changes.take()?;
        Ok(changes)
    }

    /// Returns the next change, if its key is below `upper`.
    fn below(&self, upper: Option<KeyRef<'_>>) -> Option<&Change> {
        self.next.as_ref().filter(|next| upper.is_none_or(|upper| next.key() < upper))
    }

    /// Takes the next change, and checks the order of the one after it.
    fn take(&mut self) -> Result<Option<Change>, TableError> {
        let taken = std::mem::replace(&mut self.next, self.rest.next());
        if let (Some(taken), Some(next)) = (&taken, &self.next)
            && taken.key() >= next.key()
        {
            return Err(TableError::OutOfOrder { table: self.table.name });
        }
        if let Some(Change::Put(row)) = &self.next {
            check_row(self.table, 0, row.key.as_ref(), &row.ints, &row.tail)?;
        }
        Ok(taken)
    }
}

struct Apply<'a> {
    table: &'static Table,
    changes: Changes<'a>,
    context: Context<'a>,
    /// Number of rows inserted.
    added: u64,
    /// Number of rows deleted.
    removed: u64,
}

impl Apply<'_> {
    /// Writes the leaves of a tree that was empty.
    fn fill(&mut self) -> Result<Vec<Item>, TableError> {
        let mut leaves = Level::new(self.table, 0, None);
        while let Some(change) = self.changes.take()? {
            if let Change::Put(row) = change {
                leaves.push(&mut self.context, Item::New(row))?;
                self.added += 1;
            }
        }
        leaves.finish(&mut self.context)
    }

    /// Applies the changes below `upper` to a block: its new rows go to `out`, and the caller notes the block as
    /// replaced. If no change has an effect, it does nothing and returns false.
    fn rewrite(&mut self, block: &Arc<Block>, upper: Option<KeyRef<'_>>, out: &mut Level) -> Result<bool, TableError> {
        if block.level() == 0 {
            return self.rewrite_leaf(block, upper, out);
        }
        let level = block.level() - 1;
        let mut below = Level::new(self.table, level, upper);
        let mut changed = false;
        for row in 0..block.len() {
            let upper = if row + 1 < block.len() { Some(block.key(row + 1)) } else { upper };
            if self.changes.below(upper).is_some() {
                let child = child_at(self.table, block, row)?;
                let old = fetch(self.context.source, self.table, level, &child, Some(block.key(row)), upper)?;
                if self.rewrite(&old, upper, &mut below)? {
                    self.context.replaced.push(child);
                    below.boundary(&mut self.context)?;
                    changed = true;
                    continue;
                }
            }
            below.keep(&mut self.context, RowRef::new(block, row))?;
        }
        if changed {
            for item in below.finish(&mut self.context)? {
                out.push(&mut self.context, item)?;
            }
        }
        Ok(changed)
    }

    fn rewrite_leaf(
        &mut self,
        leaf: &Arc<Block>,
        upper: Option<KeyRef<'_>>,
        out: &mut Level,
    ) -> Result<bool, TableError> {
        // Skip changes without effect first: a leaf without other changes is not rewritten.
        while self.changes.below(upper).is_some_and(|change| !has_effect(leaf, change)) {
            self.changes.take()?;
        }
        if self.changes.below(upper).is_none() {
            return Ok(false);
        }
        let mut row = 0;
        while self.changes.below(upper).is_some()
            && let Some(change) = self.changes.take()?
        {
            let at = leaf.lower_bound(change.key());
            let exists = at < leaf.len() && leaf.key(at) == change.key();
            for item in items_of(leaf, row..at) {
                out.push(&mut self.context, item)?;
            }
            row = at + usize::from(exists);
            match change {
                Change::Put(new) => {
                    out.push(&mut self.context, Item::New(new))?;
                    self.added += u64::from(!exists);
                }
                Change::Delete(_) => self.removed += u64::from(exists),
            }
        }
        for item in items_of(leaf, row..leaf.len()) {
            out.push(&mut self.context, item)?;
        }
        Ok(true)
    }

    /// Adds levels above the blocks until one block is left. `level` is the level of the blocks; when this returns, it
    /// is the level of the one block.
    fn grow(&mut self, level: &mut u8, mut blocks: Vec<Item>) -> Result<Option<Item>, TableError> {
        while blocks.len() > 1 {
            *level += 1;
            check_level(self.table, *level)?;
            let mut above = Level::new(self.table, *level, None);
            for item in blocks {
                above.push(&mut self.context, item)?;
            }
            blocks = above.finish(&mut self.context)?;
        }
        Ok(blocks.pop())
    }

    /// Removes root blocks that have only one child.
    fn shrink(&mut self, level: &mut u8, mut root: Item) -> Result<ChildRef, TableError> {
        loop {
            let child = root.child(self.table)?;
            if *level == 0 {
                return Ok(child);
            }
            let single = self.context.singles.iter().position(|(single, _)| *single == child);
            let only = match (&root, single) {
                (_, Some(at)) => self.context.singles.swap_remove(at).1,
                (Item::Old(row), None) => {
                    let block = fetch(self.context.source, self.table, *level, &child, Some(row.key()), None)?;
                    if block.len() > 1 {
                        return Ok(child);
                    }
                    Item::Old(RowRef::new(&block, 0))
                }
                (Item::New(_), None) => return Ok(child),
            };
            self.context.replaced.push(child);
            root = only;
            *level -= 1;
        }
    }
}

/// Returns whether this change alters the leaf.
fn has_effect(leaf: &Block, change: &Change) -> bool {
    let at = leaf.lower_bound(change.key());
    let exists = at < leaf.len() && leaf.key(at) == change.key();
    match change {
        Change::Delete(_) => exists,
        Change::Put(row) => !exists || leaf.ints(at) != row.ints || leaf.tail(at) != row.tail,
    }
}
