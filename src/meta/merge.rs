//! Reads a tree under overlays as one table: an upper layer's entry replaces that of a lower layer, and a tombstone
//! hides it.
//!
//! Iteration costs in proportion to the entries and rows passed, hidden ones included. A cursor sees the overlays as
//! they were when it was made. Called by `view`.

use super::overlay::{Entry, Overlay, OverlayRow};
use crate::format::block::{Key, KeyRef, Row};
use crate::format::schema::Table;
use crate::table::{BlockSource, Cursor, RowRef, RowView, TableError, Tree};
use std::collections::VecDeque;

/// Most overlays over a version: the active one, and the sealed one that is being checkpointed.
const OVERLAYS: usize = 2;
/// Most entries that a cursor copies from an overlay at once. It begins with one entry, and doubles the number each
/// time.
const BATCH: usize = 64;

/// A row of a view. It keeps its table block or overlay entry alive, and borrows nothing.
#[derive(Debug, Clone)]
pub struct ViewRow(Held);

#[derive(Debug, Clone)]
enum Held {
    Tree(RowRef),
    Overlay(OverlayRow),
}

impl ViewRow {
    pub(super) fn of_tree(row: RowRef) -> Self {
        ViewRow(Held::Tree(row))
    }

    pub(super) fn of_overlay(row: OverlayRow) -> Self {
        ViewRow(Held::Overlay(row))
    }

    /// Returns the key of the row.
    pub fn key(&self) -> KeyRef<'_> {
        match &self.0 {
            Held::Tree(row) => row.key(),
            Held::Overlay(row) => row.key(),
        }
    }

    /// Returns the integer columns of the row.
    pub fn ints(&self) -> &[u64] {
        match &self.0 {
            Held::Tree(row) => row.ints(),
            Held::Overlay(row) => row.ints(),
        }
    }

    /// Returns the tail of the row: its bytes after the integer columns.
    pub fn tail(&self) -> &[u8] {
        match &self.0 {
            Held::Tree(row) => row.tail(),
            Held::Overlay(row) => row.tail(),
        }
    }

    /// Returns an owned copy of the row.
    pub fn to_row(&self) -> Row {
        Row { key: self.key().to_key(), ints: self.ints().to_vec(), tail: self.tail().to_vec() }
    }
}

/// A row of a view that is borrowed from a cursor.
#[derive(Debug, Clone, Copy)]
pub struct ViewRowRef<'a>(Lent<'a>);

#[derive(Debug, Clone, Copy)]
enum Lent<'a> {
    Tree(RowView<'a>),
    Held(&'a ViewRow),
}

impl<'a> ViewRowRef<'a> {
    /// Returns the key of the row.
    pub fn key(&self) -> KeyRef<'a> {
        match self.0 {
            Lent::Tree(row) => row.key(),
            Lent::Held(row) => row.key(),
        }
    }

    /// Returns the integer columns of the row.
    pub fn ints(&self) -> &'a [u64] {
        match self.0 {
            Lent::Tree(row) => row.ints(),
            Lent::Held(row) => row.ints(),
        }
    }

    /// Returns the tail of the row: its bytes after the integer columns.
    pub fn tail(&self) -> &'a [u8] {
        match self.0 {
            Lent::Tree(row) => row.tail(),
            Lent::Held(row) => row.tail(),
        }
    }

    /// Returns an owned copy of the row.
    pub fn to_row(&self) -> Row {
        Row { key: self.key().to_key(), ints: self.ints().to_vec(), tail: self.tail().to_vec() }
    }
}

/// One table of a view: the version's tree under the overlays that have entries of the table.
pub(super) struct Layers<'a> {
    tree: Tree,
    source: &'a dyn BlockSource,
    /// The overlays, the uppermost first. Only those with entries of the table are here.
    overlays: [Option<&'a Overlay>; OVERLAYS],
}

impl<'a> Layers<'a> {
    /// Makes the layers of `tree`, whose blocks come from `source`, under these overlays, the uppermost first.
    pub(super) fn new(tree: Tree, source: &'a dyn BlockSource, overlays: [Option<&'a Overlay>; OVERLAYS]) -> Self {
        let overlays = overlays.map(|overlay| overlay.filter(|overlay| !overlay.says_nothing_of(tree.table)));
        Layers { tree, source, overlays }
    }

    fn bare(&self) -> bool {
        self.overlays.iter().all(Option::is_none)
    }

    /// Returns the row with this key, or `None`.
    pub(super) fn get(&self, key: KeyRef<'_>) -> Result<Option<ViewRow>, TableError> {
        for overlay in self.overlays.iter().flatten() {
            if let Some(said) = overlay.get(self.tree.table, key) {
                return Ok(said.map(ViewRow::of_overlay));
            }
        }
        Ok(self.tree.get(self.source, key)?.map(ViewRow::of_tree))
    }

    /// Returns the overlays' last entry whose key is not above `key` and whose `a` is at least `lowest`: no entry, a
    /// tombstone, or a row. Does not read the tree, which may have a row that is nearer to `key`.
    pub(super) fn last_said(&self, key: KeyRef<'_>, lowest: u64) -> Option<Option<OverlayRow>> {
        let mut last: Option<&Entry> = None;
        for overlay in self.overlays.iter().flatten() {
            // Of two entries with the same key the upper one counts; it comes first.
            if let Some(entry) = overlay.entries_down_from(self.tree.table, key).next()
                && last.is_none_or(|last| entry > last)
            {
                last = Some(entry);
            }
        }
        last.filter(|entry| entry.key().a >= lowest).map(Entry::row)
    }

    /// Returns the last row whose key is not above `key` and whose `a` is at least `lowest`.
    pub(super) fn floor(&self, key: KeyRef<'_>, lowest: u64) -> Result<Option<ViewRow>, TableError> {
        let mut below =
            Descent { tree: self.tree, source: self.source, row: self.tree.floor(self.source, key)?, cursor: None };
        if self.bare() {
            return Ok(below.row.filter(|row| row.key().a >= lowest).map(ViewRow::of_tree));
        }
        let heads = self.overlays.map(|overlay| overlay.map(|o| o.entries_down_from(self.tree.table, key).peekable()));
        let mut heads: Vec<_> = heads.into_iter().flatten().collect();
        loop {
            let mut entry: Option<&Entry> = None;
            for head in &mut heads {
                // Of two entries with the same key the upper one counts; it comes first.
                if let Some(&next) = head.peek()
                    && entry.is_none_or(|entry| next > entry)
                {
                    entry = Some(next);
                }
            }
            let in_tree = below.row.as_ref().map(RowRef::key);
            let entry = entry.filter(|entry| in_tree.is_none_or(|key| entry.key() >= key));
            let Some(entry) = entry else {
                return Ok(below.row.filter(|row| row.key().a >= lowest).map(ViewRow::of_tree));
            };
            if entry.key().a < lowest {
                return Ok(None);
            }
            if let Some(row) = entry.row() {
                return Ok(Some(ViewRow::of_overlay(row)));
            }
            if in_tree == Some(entry.key()) {
                below.retreat()?;
            }
            for head in &mut heads {
                head.next_if(|next| *next == entry);
            }
        }
    }

    /// Makes a cursor on the first row whose key is not below `key`. The cursor ends before `end`, and does not step
    /// over tombstones from there on.
    pub(super) fn cursor_at(&self, key: KeyRef<'_>, end: Option<Key>) -> Result<ViewCursor, TableError> {
        let tree = self.tree.cursor_at(self.source, key)?;
        if self.bare() {
            return Ok(ViewCursor { inner: Inner::Tree(tree), end });
        }
        let ahead = |overlay: &Overlay| Ahead {
            table: self.tree.table,
            entries: overlay.entries_from(self.tree.table, key).take(1).cloned().collect(),
            overlay: overlay.clone(),
            batch: 1,
        };
        let overlays = self.overlays.iter().flatten().map(|overlay| ahead(overlay)).collect();
        let mut merged = Merged { tree, tree_given: false, overlays, row: None };
        merged.advance(self.source, end.as_ref())?;
        Ok(ViewCursor { inner: Inner::Merged(Box::new(merged)), end })
    }
}

/// Steps backwards through the rows of a tree.
struct Descent<'a> {
    tree: Tree,
    source: &'a dyn BlockSource,
    row: Option<RowRef>,
    /// Cursor on the current row; `None` before the first step back.
    cursor: Option<Cursor>,
}

impl Descent<'_> {
    fn retreat(&mut self) -> Result<(), TableError> {
        let Some(row) = &self.row else { return Ok(()) };
        let mut cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => self.tree.cursor_at(self.source, row.key())?,
        };
        let moved = cursor.retreat(self.source)?;
        self.row = cursor.row().filter(|_| moved).map(|row| row.to_row_ref());
        self.cursor = Some(cursor);
        Ok(())
    }
}

/// A position in a table of a view. It borrows nothing, and can continue with any view whose version has the tree's
/// blocks.
pub struct ViewCursor {
    inner: Inner,
    /// Exclusive end: the cursor ends before this key.
    end: Option<Key>,
}

enum Inner {
    Tree(Cursor),
    Merged(Box<Merged>),
}

impl ViewCursor {
    /// Returns the current row, or `None` after the last.
    pub fn row(&self) -> Option<ViewRowRef<'_>> {
        match &self.inner {
            Inner::Tree(cursor) => cursor
                .row()
                .filter(|row| self.end.as_ref().is_none_or(|end| row.key() < end.as_ref()))
                .map(|row| ViewRowRef(Lent::Tree(row))),
            Inner::Merged(merged) => merged.row.as_ref().map(|row| ViewRowRef(Lent::Held(row))),
        }
    }

    /// Moves to the next row. After the last row, or on an error, it does not move.
    pub(super) fn advance_in(&mut self, source: &dyn BlockSource) -> Result<(), TableError> {
        match &mut self.inner {
            // After the last row it does not move, and reads nothing.
            Inner::Tree(cursor) => match (cursor.row(), &self.end) {
                (Some(row), Some(end)) if row.key() >= end.as_ref() => Ok(()),
                _ => cursor.advance(source),
            },
            Inner::Merged(merged) => merged.advance(source, self.end.as_ref()),
        }
    }
}

/// The layers of a table, each at its next entry, and the current row of the merge.
struct Merged {
    tree: Cursor,
    /// Whether the tree's current row was returned or hidden, so that the next one follows. The next row is read only
    /// when needed: a damaged block after a row does not prevent returning the row.
    tree_given: bool,
    overlays: Vec<Ahead>,
    row: Option<ViewRow>,
}

impl Merged {
    fn advance(&mut self, source: &dyn BlockSource, end: Option<&Key>) -> Result<(), TableError> {
        let is_past = |key: KeyRef<'_>| end.is_some_and(|end| key >= end.as_ref());
        loop {
            if self.tree_given {
                self.tree.advance(source)?;
                self.tree_given = false;
            }
            let in_tree = self.tree.row();
            let mut entry: Option<&Entry> = None;
            for next in self.overlays.iter().filter_map(|ahead| ahead.entries.front()) {
                if entry.is_none_or(|entry| next < entry) {
                    entry = Some(next);
                }
            }
            let entry = entry.filter(|entry| in_tree.is_none_or(|row| entry.key() <= row.key())).cloned();
            let Some(entry) = entry else {
                self.row = in_tree.filter(|row| !is_past(row.key())).map(|row| ViewRow::of_tree(row.to_row_ref()));
                self.tree_given = self.row.is_some();
                return Ok(());
            };
            if is_past(entry.key()) {
                self.row = None;
                return Ok(());
            }
            self.tree_given = in_tree.is_some_and(|row| row.key() == entry.key());
            self.overlays.iter_mut().for_each(|ahead| ahead.pass(&entry));
            if let Some(row) = entry.row() {
                self.row = Some(ViewRow::of_overlay(row));
                return Ok(());
            }
        }
    }
}

/// The next entries of one overlay, copied in batches.
struct Ahead {
    table: &'static Table,
    overlay: Overlay,
    /// Copied entries. The queue is empty only after the last entry.
    entries: VecDeque<Entry>,
    batch: usize,
}

impl Ahead {
    /// Removes `entry` from the queue if it is the next one.
    fn pass(&mut self, entry: &Entry) {
        if self.entries.front() != Some(entry) {
            return;
        }
        self.entries.pop_front();
        if self.entries.is_empty() {
            self.batch = (self.batch * 2).min(BATCH);
            let next = self.overlay.entries_after(self.table, entry.key()).take(self.batch).cloned();
            self.entries = next.collect();
        }
    }
}
