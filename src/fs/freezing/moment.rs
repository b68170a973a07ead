//! The moment of the filesystem that a snapshot is to show, while it is being frozen and the head goes on.
//!
//! It begins as the version that a checkpoint just made, without its orphans. Batches cut the moment's files, not the
//! head's. What they publish is spliced into the moment completely, as nobody else changes it, and into the head where
//! the head still has the same bytes. So in the end the moment has no thawed ranges, and shows what it showed before.
//! Its changes are in memory only, until a checkpoint writes them with the row of the snapshot. Its snapshot holds the
//! segments of the thaw log open, so frames that it names stay readable even after their segments are removed.
//!
//! Invariants: gc does not run while a moment exists, so whatever it names stays. Moment and head take ids of contents
//! and tiny contents from the same counters. The map of the moment's version lacks what is published later: those rows
//! are copied from the head. Called by `batch`, `pass` and `snapshots`.

use crate::format::block::KeyRef;
use crate::format::ids::InodeId;
use crate::format::rows::ThawedRow;
use crate::format::rows::Time;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::ids::Ids;
use crate::fs::ops::{Frozen, freeze, reap_step};
use crate::fs::snapshot::Snapshot;
use crate::meta::{MetaError, Overlay, View};
use std::sync::Arc;

/// The filesystem at the moment of a snapshot, while its thawed bytes are being frozen.
pub(in crate::fs) struct Moment {
    snapshot: Snapshot,
    ids: Arc<Ids>,
    time: Time,
    /// Ids from which on rows of the map have still to be copied, by space: superchunks, subchunks, recipes.
    unknown: [u64; 3],
    splices: u64,
    /// The first file that could not be read, and why.
    pub(super) unreadable: Option<(InodeId, FsError)>,
}

impl Moment {
    /// Makes the value for the moment of this snapshot, which must be a version without changes.
    pub(in crate::fs) fn new(snapshot: Snapshot, ids: Arc<Ids>, time: Time) -> Self {
        let root = snapshot.view().version().root();
        let unknown = [root.next_superchunk, root.next_subchunk, root.next_subchunk];
        Moment { snapshot, ids, time, unknown, splices: 0, unreadable: None }
    }

    /// Returns how many times frozen data has replaced thawed data of a file.
    pub(super) fn splices(&self) -> u64 {
        self.splices
    }

    /// Returns the time of the snapshot's moment.
    pub(in crate::fs) fn time(&self) -> Time {
        self.time
    }

    /// Returns the present state. The files that it shows do not change; where their bytes are stored does.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns all tables of the moment.
    pub(in crate::fs) fn view(&self) -> &View {
        self.snapshot.view()
    }

    /// Returns the rows that differ from those of the version of the image at the moment.
    pub(in crate::fs) fn changes(&self) -> &Overlay {
        self.view().active()
    }

    fn change<T>(&mut self, operation: impl Fn(&mut Draft) -> Result<T, FsError>) -> Result<T, FsError> {
        let mut draft = Draft::new(self.snapshot.clone(), Arc::clone(&self.ids), self.time);
        let value = operation(&mut draft)?;
        self.snapshot = draft.into_snapshot();
        Ok(value)
    }

    /// Deletes the files that had no name at this moment but were open: their rows and their thawed ranges.
    pub(in crate::fs) fn reap(&mut self) -> Result<(), FsError> {
        loop {
            let cursor = self.view().cursor_at(&schema::ORPHANS, KeyRef::new(0, 0))?;
            let Some(inode) = cursor.row().map(|row| InodeId(row.key().a)) else { return Ok(()) };
            while !self.change(|draft| reap_step(draft, inode))? {}
        }
    }

    /// Splices everything that was cut of a file into its content.
    pub(super) fn splice(&mut self, frozen: &Frozen) -> Result<(), FsError> {
        let mut next = Some(0);
        while let Some(first) = next {
            let done = self.change(|draft| freeze(draft, frozen, first))?;
            self.splices = self.splices.saturating_add(u64::from(done.changed));
            next = done.next;
        }
        Ok(())
    }

    /// Copies from a later view of the head where newer subchunks are stored.
    pub(super) fn learn(&mut self, head: &View) -> Result<(), FsError> {
        let spaces = [SPACE_SUPERCHUNKS, SPACE_SUBCHUNKS, SPACE_RECIPES];
        for (space, unknown) in spaces.into_iter().zip(&mut self.unknown) {
            let mut cursor = head.cursor_at(&schema::MAP, KeyRef::new(space, *unknown))?;
            while let Some(row) = cursor.row().filter(|row| row.key().a == space) {
                *unknown = row.key().b.saturating_add(1);
                let row = row.to_row();
                self.snapshot.view.active_mut().set(&schema::MAP, row.key.clone(), Some(row));
                cursor.advance(head)?;
            }
        }
        Ok(())
    }

    /// Returns the next file, from `from` on, with bytes in the thaw log.
    pub(super) fn next_file(&self, from: InodeId) -> Result<Option<InodeId>, FsError> {
        self.next_thawed(from, |row| !row.is_lost())
    }

    /// Returns a file that still has bytes in the thaw log because it could not be read, and why.
    pub(in crate::fs) fn take_unreadable(&mut self) -> Result<Option<(InodeId, FsError)>, FsError> {
        let left = self.next_file(InodeId(0))?;
        let Some(inode) = left else { return Ok(None) };
        let known = self.unreadable.take().unwrap_or_else(|| (inode, FsError::io("it could not be frozen")));
        Ok(Some(known))
    }

    /// Returns the first file with lost bytes.
    pub(in crate::fs) fn first_lost(&self) -> Result<Option<InodeId>, FsError> {
        self.next_thawed(InodeId(0), ThawedRow::is_lost)
    }

    fn next_thawed(&self, from: InodeId, which: impl Fn(&ThawedRow) -> bool) -> Result<Option<InodeId>, FsError> {
        let view = self.view();
        if !view.has_thawed() {
            return Ok(None);
        }
        let mut cursor = view.cursor_at(&schema::THAWED, KeyRef::new(from.0, 0))?;
        while let Some(row) = cursor.row() {
            let key = row.key();
            if which(&ThawedRow::decode(key.b, row.ints(), row.tail()).map_err(MetaError::from)?) {
                return Ok(Some(InodeId(key.a)));
            }
            cursor.advance(view)?;
        }
        Ok(None)
    }
}
