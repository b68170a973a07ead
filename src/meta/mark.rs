//! Marks what is live, from the inodes of views of an image and from the roots of their trees.
//!
//! A subchunk of data is live if an inode or an orphan names it, or a row of a content that one of them names. A table
//! block is live if its parent is, up to a root. Rows of contents that no inode names do not count (section 8.10). The
//! content of an inode counts also where thawed ranges cover it: the freezer may still need it. The snapshots of a view
//! are marked as views of their own.
//!
//! Rows that an overlay deletes do not count. The table blocks of a view are those of its version: an overlay has none
//! yet.
//!
//! Invariants: a block or a row that cannot be read is an error, so nothing is taken for dead because of an error. Each
//! block is read once, however many views share it; leaves whose rows name nothing are not read. Called by `space`
//! (info) and by gc.

use super::id_set::IdSet;
use super::{Image, MetaError, View};
use crate::format::block::{Block, KeyRef};
use crate::format::ids::{ContentId, SubchunkId};
use crate::format::rows::inode::ContentRef;
use crate::format::rows::{ContentRow, Extent, InodeRow, SnapshotRow};
use crate::format::schema::{self, TABLES, Table};
use crate::format::view::View as ViewRoots;
use crate::table::{ChildRef, Onward, TableError, Tree, Visit};
use std::sync::Arc;
use thiserror::Error;

/// Number of rows that are read between two calls of `stop`, by which the caller can end the search.
const STEP: u64 = 4096;

/// Why the live subchunks could not be found.
#[derive(Debug, Error)]
pub enum MarkError {
    /// The tables cannot be read, or contradict one another.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The caller's `stop` returned true.
    #[error("finding the live subchunks was stopped by the caller")]
    Stopped,
}

impl From<TableError> for MarkError {
    fn from(error: TableError) -> Self {
        MarkError::Meta(error.into())
    }
}

impl From<crate::format::FormatError> for MarkError {
    fn from(error: crate::format::FormatError) -> Self {
        MarkError::Meta(error.into())
    }
}

/// The live subchunks: those that a file, a table or a snapshot needs.
#[derive(Debug, Default)]
pub struct Marked {
    data: IdSet,
    blocks: IdSet,
}

impl Marked {
    /// Returns whether a subchunk, of file data or a table block, is live.
    pub fn contains(&self, id: SubchunkId) -> bool {
        self.data.contains(id.0) || self.blocks.contains(id.0)
    }

    /// Returns the number of live subchunks of file data, and of live table blocks.
    pub fn counts(&self) -> (u64, u64) {
        (self.data.len(), self.blocks.len())
    }
}

/// Finds every subchunk that any of these views names. `stop` is called for each table block, and ends the search when
/// it returns true.
///
/// # Errors
/// Fails if a needed part of a table cannot be read, or if `stop` returned true.
pub fn mark(views: &[View], stop: &dyn Fn() -> bool) -> Result<Marked, MarkError> {
    let mut marking = Marking { rows: Rows::default(), blocks: IdSet::default(), seen: Default::default(), stop };
    // Contents come last: which of them count is known after all inodes.
    let contents = |table: &&'static Table| table.id() == schema::CONTENTS.id();
    for view in views {
        for table in TABLES.into_iter().filter(|table| !contents(table) && table.id() != schema::MAP.id()) {
            marking.table(view, table)?;
        }
    }
    let snapshots = std::mem::take(&mut marking.rows.snapshots);
    for (version, roots) in &snapshots {
        for tree in trees_of(roots).into_iter().filter(|tree| !contents(&tree.table)) {
            marking.tree(version, &tree, names(tree.table))?;
        }
    }
    for view in views {
        marking.table(view, &schema::CONTENTS)?;
    }
    for (version, roots) in &snapshots {
        for tree in trees_of(roots).into_iter().filter(|tree| contents(&tree.table)) {
            marking.tree(version, &tree, names(tree.table))?;
        }
    }
    Ok(Marked { data: marking.rows.data, blocks: marking.blocks })
}

/// Returns the trees of a snapshot's view.
fn trees_of(view: &ViewRoots) -> [Tree; 6] {
    [
        Tree::from_ref(&schema::INODES, &view.inodes_tree),
        Tree::from_ref(&schema::DIRENTS, &view.dirents_tree),
        Tree::from_ref(&schema::CONTENTS, &view.contents_tree),
        Tree::from_ref(&schema::XATTRS, &view.xattrs_tree),
        Tree::from_ref(&schema::TINY, &view.tiny_tree),
        Tree::from_ref(&schema::IDENTITIES, &view.identities_tree),
    ]
}

/// Returns whether rows of this table name subchunks, contents or trees.
fn names(table: &Table) -> bool {
    [schema::INODES.id(), schema::ORPHANS.id(), schema::CONTENTS.id(), schema::SNAPSHOTS.id()].contains(&table.id())
}

/// Ids that the rows read so far name.
#[derive(Default)]
struct Rows {
    data: IdSet,
    /// Contents that inodes name.
    contents: IdSet,
    snapshots: Vec<(Arc<Image>, ViewRoots)>,
}

impl Rows {
    fn take(&mut self, version: &Arc<Image>, named: Named) {
        match named {
            Named::Nothing => {}
            Named::Subchunk(id) => {
                self.data.insert(id.0);
            }
            Named::Content(id) => {
                self.contents.insert(id.0);
            }
            Named::Extent(content, first, count) => {
                if self.contents.contains(content.0) {
                    for id in first.0..first.0.saturating_add(count) {
                        self.data.insert(id);
                    }
                }
            }
            Named::View(roots) => self.snapshots.push((Arc::clone(version), *roots)),
        }
    }

    /// Adds the ids that the rows of a leaf name.
    fn leaf(&mut self, version: &Arc<Image>, table: &'static Table, block: &Block) -> Result<(), MarkError> {
        for row in 0..block.len() {
            let key = block.key(row);
            self.take(version, Named::of(table, (key.a, key.b), block.ints(row), block.tail(row))?);
        }
        Ok(())
    }
}

struct Marking<'a> {
    rows: Rows,
    blocks: IdSet,
    /// Blocks visited, by table number: first those whose rows were read, then those whose rows were not.
    seen: [[IdSet; TABLES.len() + 1]; 2],
    stop: &'a dyn Fn() -> bool,
}

impl Marking<'_> {
    /// Marks the blocks of a tree as live and, if `reads_leaves` is true, the subchunks that its rows name.
    fn tree(&mut self, version: &Arc<Image>, tree: &Tree, reads_leaves: bool) -> Result<(), MarkError> {
        let Marking { rows, blocks, seen: [with_rows, without], stop } = self;
        let table = tree.table;
        let seen = if reads_leaves { with_rows } else { without };
        let Some(seen) = seen.get_mut(usize::from(table.id().0)) else { return Ok(()) };
        let mut wanted = |level, child: &ChildRef| match child {
            ChildRef::Block { id, .. } => {
                blocks.insert(id.0);
                seen.insert(id.0) && (level > 0 || reads_leaves)
            }
            ChildRef::Frame(_) => true,
        };
        let mut done = Ok(());
        tree.walk_where(&**version, &mut wanted, &mut |visit: &Visit<'_>| {
            done = match visit.block {
                _ if stop() => Err(MarkError::Stopped),
                Ok(block) if block.level() == 0 => rows.leaf(version, table, block),
                Ok(_) => Ok(()),
                Err(error) => Err(MetaError::Unreadable { table: table.name, why: error.to_string() }.into()),
            };
            if done.is_ok() { Onward::Into } else { Onward::Stop }
        });
        done
    }

    /// Marks the blocks of a view's table, and the subchunks that its rows name, as live.
    fn table(&mut self, view: &View, table: &'static Table) -> Result<(), MarkError> {
        let tree = view.version().tree(table);
        if !names(table) || view.is_bare(table) {
            return self.tree(view.version(), &tree, names(table));
        }
        self.tree(view.version(), &tree, false)?;
        let mut cursor = view.cursor_at(table, KeyRef::new(0, 0))?;
        let mut rows = 0u64;
        while let Some(row) = cursor.row() {
            let key = row.key();
            let named = Named::of(table, (key.a, key.b), row.ints(), row.tail())?;
            self.rows.take(view.version(), named);
            cursor.advance(view)?;
            rows += 1;
            if rows.is_multiple_of(STEP) && (self.stop)() {
                return Err(MarkError::Stopped);
            }
        }
        Ok(())
    }
}

/// What a row of a table names.
enum Named {
    Nothing,
    Subchunk(SubchunkId),
    Content(ContentId),
    /// A content, and the subchunks of one of its extents: the id of the first, and how many with consecutive ids.
    Extent(ContentId, SubchunkId, u64),
    View(Box<ViewRoots>),
}

impl Named {
    fn of(table: &Table, (a, b): (u64, u64), ints: &[u64], tail: &[u8]) -> Result<Self, MarkError> {
        //= format-spec.md#8.10
        //# A program that decides what is live must start from the inodes of the head, the orphans and the inodes of
        //# all snapshots, and never from the rows of this table or of the tables that inodes name.
        if table.id() == schema::SNAPSHOTS.id() {
            return Ok(Named::View(Box::new(SnapshotRow::decode(tail)?.view)));
        }
        if table.id() == schema::CONTENTS.id() {
            return Ok(match ContentRow::decode(b, ints, tail)?.extent {
                Extent::Hole => Named::Nothing,
                Extent::Slice { subchunk, .. } => Named::Extent(ContentId(a), subchunk, 1),
                Extent::Run { first, lens } => Named::Extent(ContentId(a), first, lens.len() as u64),
            });
        }
        Ok(match InodeRow::decode(ints, tail)?.content {
            ContentRef::None | ContentRef::Tiny(_) => Named::Nothing,
            ContentRef::Subchunk(id) => Named::Subchunk(id),
            ContentRef::Content(id) => Named::Content(id),
        })
    }
}
