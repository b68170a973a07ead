//! A tree, named by its root block, and lookups in it.

use super::{BlockSource, ChildRef, RowRef, TableError, child_at, fetch};
use crate::format::block::{Block, KeyRef};
use crate::format::limits;
use crate::format::root::MapRef;
use crate::format::schema::{self, Table};
use crate::format::tree_ref::{TreeRef, TreeRoot};
use std::sync::Arc;

/// The copy-on-write tree of one version of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The table whose rows the tree holds.
    pub table: &'static Table,
    /// Reference to the root block, and the number of levels (1 if the root block is a leaf, at most
    /// [`limits::TREE_LEVELS`]); `None` if there are no rows.
    pub root: Option<(ChildRef, u8)>,
    /// Number of rows in all leaves according to the root; only a walk over all leaves verifies it.
    pub rows: u64,
}

impl Tree {
    /// Makes a tree without rows.
    pub fn empty(table: &'static Table) -> Self {
        Tree { table, root: None, rows: 0 }
    }

    /// Makes the tree of any table except the map from its reference in a root.
    pub fn from_ref(table: &'static Table, tree: &TreeRef) -> Self {
        let root = tree.root.map(|root| (ChildRef::Block { id: root.block, hash: root.hash }, root.levels));
        Tree { table, root, rows: tree.rows }
    }

    /// Makes the tree of the map from its reference in a root.
    pub fn from_map(map: &MapRef) -> Self {
        let root = map.root.map(|(place, levels)| (ChildRef::Frame(place), levels));
        Tree { table: &schema::MAP, root, rows: map.rows }
    }

    /// Returns the reference for a root, the inverse of [`Tree::from_ref`].
    ///
    /// # Errors
    /// Fails with `Misfit` if this is the map, whose root is a place.
    pub fn to_ref(&self) -> Result<TreeRef, TableError> {
        let root = match self.root {
            None => None,
            Some((ChildRef::Block { id, hash }, levels)) => Some(TreeRoot { block: id, hash, levels }),
            Some((ChildRef::Frame(_), _)) => return Err(self.misfit("a root block named by its place")),
        };
        Ok(TreeRef { root, rows: self.rows })
    }

    /// Returns the reference for a root, the inverse of [`Tree::from_map`].
    ///
    /// # Errors
    /// Fails with `Misfit` if this is not the map.
    pub fn to_map_ref(&self) -> Result<MapRef, TableError> {
        let root = match self.root {
            None => None,
            Some((ChildRef::Frame(place), levels)) => Some((place, levels)),
            Some((ChildRef::Block { .. }, _)) => return Err(self.misfit("a root block named by its id")),
        };
        Ok(MapRef { root, rows: self.rows })
    }

    fn misfit(&self, what: &'static str) -> TableError {
        TableError::Misfit { table: self.table.name, what }
    }

    /// Returns the reference to the root block, and its level; `None` if the tree is empty.
    pub(super) fn root_child(&self) -> Result<Option<(ChildRef, u8)>, TableError> {
        match self.root {
            None => Ok(None),
            Some((child, levels @ 1..=limits::TREE_LEVELS)) => Ok(Some((child, levels - 1))),
            Some((_, levels)) => Err(TableError::TooDeep { table: self.table.name, levels }),
        }
    }

    /// Returns the root block; `None` if the tree is empty.
    ///
    /// # Errors
    /// Fails as [`Tree::get`] does.
    pub fn root_block(&self, source: &dyn BlockSource) -> Result<Option<Arc<Block>>, TableError> {
        match self.root_child()? {
            None => Ok(None),
            Some((child, level)) => fetch(source, self.table, level, &child, None, None).map(Some),
        }
    }

    /// Returns the row with this key, or `None`. Reads one block per level.
    ///
    /// # Errors
    /// Fails if a block on the way cannot be read or is not valid.
    pub fn get(&self, source: &dyn BlockSource, key: KeyRef<'_>) -> Result<Option<RowRef>, TableError> {
        let Some(mut block) = self.root_block(source)? else { return Ok(None) };
        let mut upper = None;
        while let Some(row) = block.floor(key) {
            if block.level() == 0 {
                return Ok((block.key(row) == key).then(|| RowRef::new(&block, row)));
            }
            block = self.step(source, &block, row, &mut upper)?;
        }
        Ok(None)
    }

    /// Returns the last row whose key is not above `key`. Reads at most two blocks per level.
    ///
    /// # Errors
    /// Fails as [`Tree::get`] does.
    pub fn floor(&self, source: &dyn BlockSource, key: KeyRef<'_>) -> Result<Option<RowRef>, TableError> {
        let Some(mut block) = self.root_block(source)? else { return Ok(None) };
        let mut upper = None;
        // The left neighbour of the path, on the lowest level that has one.
        let mut left: Option<RowRef> = None;
        while let Some(row) = block.floor(key) {
            if block.level() == 0 {
                return Ok(Some(RowRef::new(&block, row)));
            }
            if row > 0 {
                left = Some(RowRef::new(&block, row - 1));
            }
            block = self.step(source, &block, row, &mut upper)?;
        }
        // All rows here are above `key`, though the parent's key for this block is not: return the row before them.
        let Some(left) = left else { return Ok(None) };
        let mut block = self.step(source, left.block(), left.index(), &mut upper)?;
        while block.level() > 0 {
            block = self.step(source, &block, block.len() - 1, &mut upper)?;
        }
        Ok(Some(RowRef::new(&block, block.len() - 1)))
    }

    /// Reads the child that row number `row` of an interior block refers to. `upper` becomes the next row of the block,
    /// if there is one: its key is above all keys of the child.
    fn step(
        &self,
        source: &dyn BlockSource,
        block: &Arc<Block>,
        row: usize,
        upper: &mut Option<RowRef>,
    ) -> Result<Arc<Block>, TableError> {
        if row + 1 < block.len() {
            *upper = Some(RowRef::new(block, row + 1));
        }
        let child = child_at(self.table, block, row)?;
        let upper = upper.as_ref().map(RowRef::key);
        fetch(source, self.table, block.level() - 1, &child, Some(block.key(row)), upper)
    }
}
