//! Every block of a tree, also of a damaged one: for `check`, and for marking what is live.

use super::{BlockSource, ChildRef, TableError, Tree, child_at, fetch};
use crate::format::block::{Block, KeyRef};
use std::ops::ControlFlow;
use std::sync::Arc;

/// A block of a tree, or why it could not be had.
#[derive(Debug)]
pub struct Visit<'a> {
    /// Its level; 0 for a leaf.
    pub level: u8,
    /// How its parent names it; `None` if the parent's row cannot be understood.
    pub child: Option<ChildRef>,
    /// All keys in it and below are at least this; `None`: no bound.
    pub lower: Option<KeyRef<'a>>,
    /// All keys in it and below are below this; `None`: no bound.
    pub upper: Option<KeyRef<'a>>,
    /// The block. An error means that rows in this range are lost.
    pub block: Result<&'a Arc<Block>, &'a TableError>,
}

/// How a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// To the blocks below, if there are any.
    Into,
    /// To the block after this one, leaving out those below.
    Past,
    /// Not at all.
    Stop,
}

impl Tree {
    /// Visits every block, parents first, in key order, and goes on after one that cannot be had.
    ///
    /// See the module's page for what bounds it.
    pub fn walk(&self, source: &dyn BlockSource, visit: &mut dyn FnMut(&Visit<'_>) -> Onward) {
        self.walk_where(source, &mut |_, _| true, visit);
    }

    /// As [`Tree::walk`], but neither reads nor visits blocks that are not `wanted` (by level and name), nor what is
    /// below them: with a set of those already seen, trees that share blocks are gone over once.
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
        // Whether it was stopped or has seen all, it ends here.
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
