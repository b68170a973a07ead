//! Going over rows in key order.

use super::{BlockSource, RowView, TableError, Tree, child_at, fetch};
use crate::format::block::{Block, KeyRef};
use crate::format::schema::Table;
use std::sync::Arc;

/// A place between the rows of a tree. It keeps alive the blocks on its way (one a level), so it borrows nothing, and
/// reads on with any source that has the tree's blocks. Rows ascend strictly, whoever made the tree.
#[derive(Debug, Clone)]
pub struct Cursor {
    table: &'static Table,
    /// From the root block to a leaf, each with the row that was taken; empty for an empty tree. Only in the leaf may
    /// the row be the block's length: then the cursor stands behind the last row of the tree.
    path: Vec<(Arc<Block>, usize)>,
}

impl Tree {
    /// A cursor on the first row whose key is not below `key`.
    ///
    /// # Errors
    /// As [`Tree::get`].
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
    /// The row it is on, or `None` behind the last.
    pub fn row(&self) -> Option<RowView<'_>> {
        let (leaf, row) = self.path.last()?;
        (*row < leaf.len()).then(|| RowView::new(leaf, *row))
    }

    /// Goes to the next row. Behind the last it stays.
    ///
    /// # Errors
    /// As [`Tree::get`]; the cursor has not moved then.
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

    /// Goes to the row before; false if there is none. After the last row it goes to that.
    ///
    /// # Errors
    /// As [`Tree::get`]; the cursor has not moved then, nor if there is none.
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

    /// Goes to the first row whose key is not below `key`, forwards or backwards. Within a leaf it reads no block,
    /// elsewhere only those below the last one that both places have in common.
    ///
    /// # Errors
    /// As [`Tree::get`]; the cursor has not moved then.
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

    /// Completes a path down to a leaf, by the rows that `pick` takes in each block; if it ends behind the last row of
    /// that leaf, goes on to the first of the next.
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

/// The row to take for `key`: in a leaf the first not below it, above the child where that is or which is before it.
fn towards(block: &Block, key: KeyRef<'_>) -> usize {
    if block.level() == 0 { block.lower_bound(key) } else { block.floor(key).unwrap_or(0) }
}

/// What bounds the child of the path's last block.
fn upper(path: &[(Arc<Block>, usize)]) -> Option<KeyRef<'_>> {
    path.iter().rev().find(|(block, row)| row + 1 < block.len()).map(|(block, row)| block.key(row + 1))
}

/// Whether `key` belongs below the path's last block, which is not the root.
fn covers(path: &[(Arc<Block>, usize)], key: KeyRef<'_>) -> bool {
    let above = path.split_last().map_or(&[][..], |(_, above)| above);
    above.last().is_some_and(|(block, row)| block.key(*row) <= key) && upper(above).is_none_or(|upper| key < upper)
}
