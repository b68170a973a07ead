//! Snapshots: named views that an image keeps (section 10), and the code of a checkpoint that writes one.
//!
//! Invariant: if a root has a snapshot's row, its map has all blocks of the snapshot's trees and all bytes of its
//! files. A checkpoint writes the row together with the last of these blocks, so an image has a snapshot as a whole or
//! not at all. The caller keeps gc out from the snapshot's version until that checkpoint. Called by `checkpoint`, fs
//! and care.

use super::open::Found;
use super::writer::TableWriter;
use super::{Image, MetaError, Overlay};
use crate::format::block::{Key, KeyRef, Row};
use crate::format::root::Root;
use crate::format::rows::{SnapshotRow, Time};
use crate::format::schema::{self, Table};
use crate::format::tree_ref::TreeRef;
use crate::format::view::View as ViewRoots;
use std::sync::Arc;

/// The tables of a snapshot's view that a checkpoint writes: all except the identities, which the snapshot shares with
/// the head.
const TABLES: [&Table; 5] = [&schema::TINY, &schema::XATTRS, &schema::CONTENTS, &schema::INODES, &schema::DIRENTS];

/// A snapshot that a checkpoint is to write.
#[derive(Clone, Copy)]
pub struct NewSnapshot<'a> {
    /// Ordinal of the snapshot, above that of every other snapshot.
    pub ordinal: u64,
    /// Name of the snapshot, which follows the rules for names in directories.
    pub name: &'a [u8],
    /// Comment of the snapshot, for people.
    pub comment: &'a [u8],
    /// The moment whose files the snapshot shows.
    pub time: Time,
    /// The version of the image at that moment.
    pub version: &'a Image,
    /// Rows of the snapshot's view that differ from those of `version`.
    pub changes: &'a Overlay,
}

impl NewSnapshot<'_> {
    /// Writes the changed blocks of the snapshot's tables. Returns the snapshot's row, which names these `identities`.
    pub(super) fn write(&self, writer: &mut TableWriter<'_>, identities: TreeRef) -> Result<Row, MetaError> {
        let mut view = ViewRoots { identities_tree: identities, ..self.version.root().view };
        for table in TABLES {
            if self.changes.says_nothing_of(table) {
                continue;
            }
            let tree = writer.change(&self.version.tree(table), self.version, &mut self.changes.changes(table))?;
            let place = match table.id().0 {
                1 => &mut view.inodes_tree,
                2 => &mut view.dirents_tree,
                3 => &mut view.contents_tree,
                4 => &mut view.xattrs_tree,
                _ => &mut view.tiny_tree,
            };
            *place = tree.to_ref()?;
        }
        let row = SnapshotRow { name: self.name.to_vec(), comment: self.comment.to_vec(), time: self.time, view };
        let tail = row.encode();
        // A row that readers refuse must not be written.
        SnapshotRow::decode(&tail)?;
        Ok(Row { key: Key::new(self.ordinal, 0), ints: Vec::new(), tail })
    }
}

impl Image {
    /// Returns all snapshots with their ordinals, in ascending order. Each takes less than 5 KiB of memory.
    ///
    /// # Errors
    /// Fails if the table cannot be read or a row is not valid.
    pub fn snapshots(&self) -> Result<Vec<(u64, SnapshotRow)>, MetaError> {
        let mut all = Vec::new();
        let mut cursor = self.tree(&schema::SNAPSHOTS).cursor_at(self, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            all.push((row.key().a, SnapshotRow::decode(row.tail())?));
            cursor.advance(self)?;
        }
        Ok(all)
    }

    /// Returns the snapshot with this ordinal, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn snapshot(&self, ordinal: u64) -> Result<Option<SnapshotRow>, MetaError> {
        match self.tree(&schema::SNAPSHOTS).get(self, KeyRef::new(ordinal, 0))? {
            Some(row) => Ok(Some(SnapshotRow::decode(row.tail())?)),
            None => Ok(None),
        }
    }

    /// Returns the snapshot with this name and its ordinal, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read or a row is not valid.
    pub fn snapshot_named(&self, name: &[u8]) -> Result<Option<(u64, SnapshotRow)>, MetaError> {
        Ok(self.snapshots()?.into_iter().find(|(_, row)| row.name == name))
    }

    /// Returns a snapshot as an [`Image`] for reading: it has the view of the snapshot, the map of the image, and
    /// nothing outside the view. It must not be written to.
    ///
    /// # Errors
    /// Fails if the length of the storage cannot be read.
    pub fn at_snapshot(&self, snapshot: &SnapshotRow) -> Result<Image, MetaError> {
        let none = TreeRef::default();
        let root = Root {
            view: snapshot.view,
            orphans_tree: none,
            thawed_tree: none,
            shares_tree: none,
            snapshots_tree: none,
            ..*self.root()
        };
        let found = Found {
            head: self.head().clone(),
            root,
            log: self.log().up_to(self.log().end())?,
            warnings: Vec::new(),
            doubts: vec!["it is a snapshot".to_owned()],
        };
        Ok(Image::version(found, Arc::clone(&self.shared)))
    }
}
