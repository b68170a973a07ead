//! Visits every block of a tree, also of a damaged one: for `check`, and to find what is live.

use super::{BlockSource, ChildRef, TableError, Tree, child_at, fetch};
use crate::format::block::{Block, KeyRef};
use std::ops::ControlFlow;
use std::sync::Arc;

/// A block of a tree that a walk visits, or why it could not be read.
#[derive(Debug)]
pub struct Visit<'a> {
    /// Level of the block; 0 for a leaf.
    pub level: u8,
    /// The parent's reference to the block; `None` if the parent's row is not valid.
    pub child: Option<ChildRef>,
    /// Lower bound (inclusive) of all keys in the block and below; `None`: no bound.
    pub lower: Option<KeyRef<'a>>,
    /// Upper bound (exclusive) of all keys in the block and below; `None`: no bound.
    pub upper: Option<KeyRef<'a>>,
    /// The verified block. An error means that rows in this range are lost.
    pub block: Result<&'a Arc<Block>, &'a TableError>,
}

/// How a walk continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// The walk continues with the blocks below, if there are any.
    Into,
    /// The walk continues with the next block, skipping those below this one.
    Past,
    /// The walk stops.
    Stop,
}

impl Tree {
    /// Visits every block, parents first, in key order. `visit` is also called for a block that cannot be read, with the
    /// error, and then the walk continues with the next block. The result of `visit` says where the walk goes on.
    ///
    /// The module's documentation says what bounds a walk.
    pub fn walk(&self, source: &dyn BlockSource, visit: &mut dyn FnMut(&Visit<'_>) -> Onward) {
        self.walk_where(source, &mut |_, _| true, visit);
    }

    /// Visits blocks as [`Tree::walk`] does, but skips those that are not `wanted` (by level and reference), and all
    /// blocks below them. With a set of the blocks already seen, shared blocks of several trees are visited once.
    pub fn walk_where(
        &self,
        source: &dyn BlockSource,
        wanted: &mut dyn FnMut(u8, &ChildRef) -> bool,
        visit: &mut dyn FnMut(&Visit<'_>) -> Onward,
    ) {
        let (level, child) = match self.root_child() {
            Ok(None) => return,
            Ok(Some((child, level))) => (level, Ok(child)),
            Err(error) => (0, Err(error)),
        };
        // It does not matter whether the walk was stopped or is complete.
        let _ = Walk { tree: self, source, wanted, visit }.block(level, child, None, None);
    }
}

struct Walk<'w> {
    tree: &'w Tree,
    source: &'w dyn BlockSource,
    wanted: &'w mut dyn FnMut(u8, &ChildRef) -> bool,
    visit: &'w mut dyn FnMut(&Visit<'_>) -> Onward,
}

impl Walk<'_> {
    fn block(
        &mut self,
        level: u8,
        named: Result<ChildRef, TableError>,
        lower: Option<KeyRef<'_>>,
        upper: Option<KeyRef<'_>>,
    ) -> ControlFlow<()> {
        let table = self.tree.table;
        let child = named.as_ref().ok().copied();
        if child.is_some_and(|child| !(self.wanted)(level, &child)) {
            return ControlFlow::Continue(());
        }
        let block = named.and_then(|child| fetch(self.source, table, level, &child, lower, upper));
        let onward = (self.visit)(&Visit { level, child, lower, upper, block: block.as_ref() });
        match (onward, block) {
            (Onward::Stop, _) => return ControlFlow::Break(()),
            (Onward::Into, Ok(block)) if level > 0 => {
                for row in 0..block.len() {
                    let upper = if row + 1 < block.len() { Some(block.key(row + 1)) } else { upper };
                    self.block(level - 1, child_at(table, &block, row), Some(block.key(row)), upper)?;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
