//! Iterates over rows in key order.

use super::{BlockSource, RowView, TableError, Tree, child_at, fetch};
use crate::format::block::{Block, KeyRef};
use crate::format::schema::Table;
use std::sync::Arc;

/// A position in a tree. It owns the blocks from the root to its leaf (one per level) and borrows nothing; it can
/// continue with any source that has the tree's blocks. Keys ascend strictly, also in a hostile tree.
#[derive(Debug, Clone)]
pub struct Cursor {
    table: &'static Table,
    /// Blocks from the root to a leaf, each with the index of a row; empty for an empty tree. Only in the leaf may the
    /// index be the block's length: the cursor is then after the last row of the tree.
    path: Vec<(Arc<Block>, usize)>,
}

impl Tree {
    /// Makes a cursor on the first row whose key is not below `key`.
    ///
    /// # Errors
    /// Fails as [`Tree::get`] does.
    pub fn cursor_at(&self, source: &dyn BlockSource, key: KeyRef<'_>) -> Result<Cursor, TableError> {
        let mut cursor = Cursor { table: self.table, path: Vec::new() };
        if let Some(root) = self.root_block(source)? {
            let row = towards(&root, key);
            cursor.path = cursor.settled(source, vec![(root, row)], |block| towards(block, key))?;
        }
        Ok(cursor)
    }
}

impl Cursor {
    /// Returns the row at the cursor, or `None` after the last.
    pub fn row(&self) -> Option<RowView<'_>> {
        let (leaf, row) = self.path.last()?;
        (*row < leaf.len()).then(|| RowView::new(leaf, *row))
    }

    /// Moves to the next row. After the last row it does not move.
    ///
    /// # Errors
    /// Fails as [`Tree::get`] does; the cursor then has not moved.
    pub fn advance(&mut self, source: &dyn BlockSource) -> Result<(), TableError> {
        let Some((leaf, row)) = self.path.last_mut() else { return Ok(()) };
        if *row + 1 < leaf.len() {
            *row += 1;
        } else if *row < leaf.len() {
            let mut path = self.path.clone();
            if let Some((leaf, row)) = path.last_mut() {
                *row = leaf.len();
            }
            self.path = self.settled(source, path, |_| 0)?;
        }
        Ok(())
    }

    /// Moves to the previous row; false if there is none. A cursor after the last row moves to the last row.
    ///
    /// # Errors
    /// As [`Tree::get`]; the cursor then has not moved. It does not move either if there is no previous row.
    pub fn retreat(&mut self, source: &dyn BlockSource) -> Result<bool, TableError> {
        let Some(above) = self.path.iter().rposition(|(_, row)| *row > 0) else { return Ok(false) };
        if above + 1 == self.path.len() {
            if let Some((_, row)) = self.path.last_mut() {
                *row -= 1;
            }
            return Ok(true);
        }
        let mut path = self.path.clone();
        path.truncate(above + 1);
        if let Some((_, row)) = path.last_mut() {
            *row -= 1;
        }
        self.descend(source, &mut path, |block| block.len() - 1)?;
        self.path = path;
        Ok(true)
    }

    /// Moves to the first row whose key is not below `key`, forwards or backwards. Within the same leaf it reads no
    /// block; otherwise only the blocks below the last block that both positions share.
    ///
    /// # Errors
    /// As [`Tree::get`]; the cursor then has not moved.
    pub fn seek(&mut self, source: &dyn BlockSource, key: KeyRef<'_>) -> Result<(), TableError> {
        let Some((leaf, row)) = self.path.last_mut() else { return Ok(()) };
        if leaf.key(0) <= key && key <= leaf.key(leaf.len() - 1) {
            *row = leaf.lower_bound(key);
            return Ok(());
        }
        let mut path = self.path.clone();
        while path.len() > 1 && !covers(&path, key) {
            path.pop();
        }
        if let Some((block, row)) = path.last_mut() {
            *row = towards(block, key);
        }
        self.path = self.settled(source, path, |block| towards(block, key))?;
        Ok(())
    }

    /// Completes a path down to a leaf; `pick` chooses the row in each block. If the path ends after the last row of
    /// that leaf, it moves to the first row of the next leaf.
    fn settled(
        &self,
        source: &dyn BlockSource,
        mut path: Vec<(Arc<Block>, usize)>,
        pick: impl Fn(&Block) -> usize,
    ) -> Result<Vec<(Arc<Block>, usize)>, TableError> {
        self.descend(source, &mut path, pick)?;
        let at_end = |path: &[(Arc<Block>, usize)]| path.last().is_none_or(|(leaf, row)| *row >= leaf.len());
        if !at_end(&path) {
            return Ok(path);
        }
        let Some(above) = path.iter().rposition(|(block, row)| row + 1 < block.len()) else { return Ok(path) };
        path.truncate(above + 1);
        if let Some((_, row)) = path.last_mut() {
            *row += 1;
        }
        self.descend(source, &mut path, |_| 0)?;
        Ok(path)
    }

    fn descend(
        &self,
        source: &dyn BlockSource,
        path: &mut Vec<(Arc<Block>, usize)>,
        pick: impl Fn(&Block) -> usize,
    ) -> Result<(), TableError> {
        while let Some((block, row)) = path.last()
            && block.level() > 0
        {
            let child = child_at(self.table, block, *row)?;
            let next = fetch(source, self.table, block.level() - 1, &child, Some(block.key(*row)), upper(path))?;
            let row = pick(&next);
            path.push((next, row));
        }
        Ok(())
    }
}

/// Returns the row to choose for `key`: in a leaf the first row not below it; in an interior block the child whose
/// range has it.
fn towards(block: &Block, key: KeyRef<'_>) -> usize {
    if block.level() == 0 { block.lower_bound(key) } else { block.floor(key).unwrap_or(0) }
}

/// Returns the upper bound of the keys in the child of the path's last block.
fn upper(path: &[(Arc<Block>, usize)]) -> Option<KeyRef<'_>> {
    path.iter().rev().find(|(block, row)| row + 1 < block.len()).map(|(block, row)| block.key(row + 1))
}

/// Returns whether `key` is in the range of the path's last block, which is not the root.
fn covers(path: &[(Arc<Block>, usize)], key: KeyRef<'_>) -> bool {
    let above = path.split_last().map_or(&[][..], |(_, above)| above);
    above.last().is_some_and(|(block, row)| block.key(*row) <= key) && upper(above).is_none_or(|upper| key < upper)
}
