//! What an operation would change, computed on a snapshot without any lock.
//!
//! An operation reads rows through its draft, which sees the operation's own changes, and notes a claim for each thing
//! it reads or writes. The draft exists in memory only. It counts once [`State::apply`](super::state::State::apply)
//! finds that nothing claimed has changed. Operations are in `ops`.

use super::FsError;
use super::claims::{Claim, Claims};
use super::ids::Ids;
use super::snapshot::Snapshot;
use crate::format::block::{Key, KeyRef, Row};
use crate::format::ids::{ContentId, InodeId, LogOffset, TinyId, XattrSetId};
use crate::format::limits;
use crate::format::rows::{DirentRow, InodeRow, ShareKey, ThawedBytes, ThawedRow, Time};
use crate::format::schema::{self, Table};
use crate::format::transaction::{Operation, Thawed};
use crate::meta::{Overlay, View};
use crate::thaw::extents;
use std::sync::Arc;

/// Whether an inode has a name, which decides the table of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The inode has a name: its row is in `inodes`.
    Named,
    /// The inode lost its last name while it was open: its row is in `orphans`.
    Orphan,
}

/// A change of one row in memory.
pub(super) struct RowChange {
    pub(super) table: &'static Table,
    pub(super) key: Key,
    /// The new row; `None` deletes the row.
    pub(super) row: Option<Row>,
    /// Whether the thaw log records the change as a row. Thawed ranges, and rows of deleted ranges, are logged in other
    /// ways.
    pub(super) logged: bool,
    /// Whether a deletion leaves a tombstone, because a layer below the active overlay has the row. A row that was made
    /// and deleted since the last checkpoint leaves nothing that later look-ups would have to skip.
    pub(super) hides: bool,
}

impl RowChange {
    /// Changes the row in the active overlay. `same` tells that the layers below the overlay are the same as when the
    /// operation was evaluated.
    pub(super) fn put_into(&self, active: &mut Overlay, same: bool) {
        if self.hides || !same {
            active.set(self.table, self.key.clone(), self.row.clone());
        } else {
            active.forget(self.table, self.key.as_ref());
        }
    }
}

/// A change of how many bytes an inode has in one segment of the thaw log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameChange {
    pub(super) inode: InodeId,
    /// Offset in the thaw log of any frame in the segment.
    pub(super) frame: LogOffset,
    pub(super) bytes: u64,
    /// Whether the bytes were added; otherwise they were removed.
    pub(super) added: bool,
}

/// All changes of one operation, before they are applied to the state.
pub(super) struct Draft {
    snapshot: Snapshot,
    ids: Arc<Ids>,
    now: Time,
    pub(super) claims: Claims,
    pub(super) rows: Vec<RowChange>,
    pub(super) ranges: Vec<(&'static Table, Key, Key)>,
    pub(super) thawed: Vec<Operation>,
    pub(super) frames: Vec<FrameChange>,
    pub(super) inodes: i64,
    pub(super) bytes: i64,
    pub(super) removes: bool,
    pub(super) lightens_log: bool,
    /// Whether the operation only moves bytes within the thaw log, so that it does not count as a write by an
    /// application.
    pub(super) only_moves: bool,
}

impl Draft {
    pub(super) fn new(snapshot: Snapshot, ids: Arc<Ids>, now: Time) -> Self {
        Draft {
            snapshot,
            ids,
            now,
            claims: Claims::default(),
            rows: Vec::new(),
            ranges: Vec::new(),
            thawed: Vec::new(),
            frames: Vec::new(),
            inodes: 0,
            bytes: 0,
            removes: false,
            lightens_log: false,
            only_moves: false,
        }
    }

    /// Returns the snapshot, with the changes so far in its view.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns all tables, with the changes so far. The caller must claim what it reads there and relies on, that is,
    /// record it as read: so a change by another operation is noticed.
    pub(super) fn view(&self) -> &View {
        &self.snapshot.view
    }

    /// Returns the time of the operation.
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// Returns whether the draft has no changes.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.ranges.is_empty() && self.thawed.is_empty()
    }

    /// Returns whether somebody has the inode open. Claim the inode first, that is, record it as read: opening it
    /// counts as a change.
    pub(super) fn is_open(&self, inode: InodeId) -> bool {
        self.snapshot.opens.contains_key(&inode)
    }

    /// Returns the row of an inode that has a name.
    pub(super) fn inode(&mut self, inode: InodeId) -> Result<InodeRow, FsError> {
        self.claims.read(Claim::Inode(inode));
        self.view().inode(inode)?.ok_or(FsError::NotFound)
    }

    /// Returns the row of an inode, with or without a name.
    pub(super) fn any_inode(&mut self, inode: InodeId) -> Result<(InodeRow, Standing), FsError> {
        self.claims.read(Claim::Inode(inode));
        if let Some(row) = self.view().inode(inode)? {
            return Ok((row, Standing::Named));
        }
        let row = self.view().orphan(inode)?.ok_or(FsError::NotFound)?;
        Ok((row, Standing::Orphan))
    }

    /// Returns the entry `name` of directory `dir`.
    pub(super) fn lookup(&mut self, dir: InodeId, name: &[u8]) -> Result<Option<DirentRow>, FsError> {
        self.claims.read(Claim::Inode(dir));
        Ok(self.view().lookup(dir, name)?)
    }

    /// Claims a shared content or xattr set: neither it nor its number of users may change meanwhile.
    // Case 7.
    pub(super) fn claim_shared(&mut self, key: ShareKey) {
        self.claims.write(Claim::Shared(key));
    }

    /// Claims an inode: neither its row nor its thawed ranges may change meanwhile.
    pub(super) fn reads(&mut self, inode: InodeId) {
        self.claims.read(Claim::Inode(inode));
    }

    pub(super) fn put_inode(&mut self, inode: InodeId, row: &InodeRow) {
        self.put_any(inode, row, Standing::Named);
    }

    pub(super) fn put_any(&mut self, inode: InodeId, row: &InodeRow, standing: Standing) {
        let (ints, tail) = row.encode();
        let key = KeyRef::new(inode.0, 0).to_key();
        self.claims.write(Claim::Inode(inode));
        self.put(table_of(standing), Row { key, ints: ints.to_vec(), tail });
    }

    pub(super) fn delete_inode(&mut self, inode: InodeId, standing: Standing) {
        self.claims.write(Claim::Inode(inode));
        self.delete(table_of(standing), KeyRef::new(inode.0, 0).to_key());
    }

    pub(super) fn put_dirent(&mut self, dir: InodeId, name: &[u8], entry: &DirentRow) {
        self.claims.write(Claim::Inode(dir));
        let key = KeyRef::named(dir.0, name).to_key();
        self.put(&schema::DIRENTS, Row { key, ints: entry.encode().to_vec(), tail: Vec::new() });
    }

    pub(super) fn delete_dirent(&mut self, dir: InodeId, name: &[u8]) {
        self.claims.write(Claim::Inode(dir));
        self.delete(&schema::DIRENTS, KeyRef::named(dir.0, name).to_key());
    }

    /// Writes a row. The caller must claim the inode or the shared object that owns the row, that is, record it as
    /// changed.
    pub(super) fn put(&mut self, table: &'static Table, row: Row) {
        self.change(RowChange { table, key: row.key.clone(), row: Some(row), logged: true, hides: true });
    }

    /// Deletes a row. The caller must claim the inode or the shared object that owns the row, that is, record it as
    /// changed.
    pub(super) fn delete(&mut self, table: &'static Table, key: Key) {
        self.change(RowChange { table, key, row: None, logged: true, hides: true });
    }

    /// Deletes all rows from key `from` up to, but not including, `to`. Takes time and memory for each.
    pub(super) fn delete_range(&mut self, table: &'static Table, from: Key, to: Key) -> Result<(), FsError> {
        let mut keys = Vec::new();
        let mut cursor = self.view().cursor_within(table, from.as_ref(), to.clone())?;
        while let Some(row) = cursor.row() {
            keys.push(row.key().to_key());
            cursor.advance(self.view())?;
        }
        if keys.is_empty() {
            return Ok(());
        }
        // In the log a deleted range comes before rows. So rows that this draft has put into the range are not logged
        // at all.
        let inside = |change: &&mut RowChange| change.table.id() == table.id() && (&from..&to).contains(&&change.key);
        self.rows.iter_mut().filter(inside).for_each(|change| change.logged = false);
        for key in keys {
            self.change(RowChange { table, key, row: None, logged: false, hides: true });
        }
        self.ranges.push((table, from, to));
        Ok(())
    }

    /// Makes a range consist of bytes of a frame in the thaw log.
    pub(super) fn thaw(&mut self, thawed: Thawed) -> Result<(), FsError> {
        self.change_extents(thawed.inode, thawed.offset, thawed.len, Some(thawed))?;
        self.thawed.push(Operation::Thawed(thawed));
        Ok(())
    }

    /// Makes a range no longer thawed. If nothing in it was thawed, no operation is logged.
    pub(super) fn unthaw(&mut self, inode: InodeId, offset: u64, len: u64) -> Result<(), FsError> {
        if len > 0 && self.change_extents(inode, offset, len, None)? {
            self.thawed.push(Operation::NotThawed { inode, offset, len });
        }
        Ok(())
    }

    /// Makes everything from `size` on no longer thawed.
    pub(super) fn unthaw_after(&mut self, inode: InodeId, size: u64) -> Result<(), FsError> {
        self.unthaw(inode, size, (i64::MAX as u64).saturating_sub(size))
    }

    /// Replaces what is thawed of the `len` bytes from `offset` on by `thawed`. Returns whether any row changed.
    fn change_extents(
        &mut self,
        inode: InodeId,
        offset: u64,
        len: u64,
        thawed: Option<Thawed>,
    ) -> Result<bool, FsError> {
        self.claims.write(Claim::Inode(inode));
        let changes = extents::replace(self.view(), inode, offset, len, thawed.as_ref())?;
        let any = !changes.is_empty();
        for (key, row) in changes {
            if let Some(old) = self.view().get(&schema::THAWED, key.as_ref())? {
                self.frame_change(inode, &ThawedRow::decode(key.b, old.ints(), old.tail())?, false);
            }
            if let Some(new) = &row {
                self.frame_change(inode, &ThawedRow::decode(key.b, &new.ints, &new.tail)?, true);
            }
            self.change(RowChange { table: &schema::THAWED, key, row, logged: false, hides: true });
        }
        Ok(any)
    }

    fn frame_change(&mut self, inode: InodeId, row: &ThawedRow, added: bool) {
        if let ThawedBytes::InLog { frame, .. } = row.bytes {
            self.frames.push(FrameChange { inode, frame, bytes: row.length, added });
        }
    }

    fn change(&mut self, mut change: RowChange) {
        // If the table cannot be read, assume that there is something to hide.
        change.hides = change.row.is_some() || self.view().is_below(change.table, change.key.as_ref()).unwrap_or(true);
        change.put_into(self.snapshot.view.active_mut(), true);
        self.rows.push(change);
    }

    /// Returns a number for a new inode.
    ///
    /// # Errors
    /// Fails with `NoSpace` if all numbers are used up.
    pub(super) fn new_inode(&self) -> Result<InodeId, FsError> {
        next(&self.ids.inode, limits::INODE).map(InodeId)
    }

    /// Returns an id for a new content.
    pub(super) fn new_content(&self) -> Result<ContentId, FsError> {
        next(&self.ids.content, limits::ID).map(ContentId)
    }

    /// Returns an id for a new tiny content.
    pub(super) fn new_tiny(&self) -> Result<TinyId, FsError> {
        next(&self.ids.tiny, limits::ID).map(TinyId)
    }

    /// Returns an id for a new set of xattrs.
    pub(super) fn new_xattrs(&self) -> Result<XattrSetId, FsError> {
        next(&self.ids.xattrs, limits::ID).map(XattrSetId)
    }

    /// Adds to the view's number of inodes, and of bytes in regular files.
    pub(super) fn count(&mut self, inodes: i64, bytes: i64) {
        self.inodes = self.inodes.saturating_add(inodes);
        self.bytes = self.bytes.wrapping_add(bytes);
    }

    /// Marks the operation as one that frees space: it may use the space that is reserved for checkpoints.
    // Case 24.
    pub(super) fn removes(&mut self) {
        self.removes = true;
    }

    /// Marks the operation as one that takes bytes out of the thaw log. Like an operation that removes something, it
    /// may use the last of the log's space, but not that of the image.
    pub(super) fn lightens_log(&mut self) {
        self.lightens_log = true;
    }

    /// Marks the operation as one that only changes where in the thaw log bytes are stored.
    pub(super) fn only_moves(&mut self) {
        self.only_moves = true;
    }

    /// Returns the snapshot, with all changes in its view.
    pub(super) fn into_snapshot(self) -> Snapshot {
        self.snapshot
    }
}

fn table_of(standing: Standing) -> &'static Table {
    match standing {
        Standing::Named => &schema::INODES,
        Standing::Orphan => &schema::ORPHANS,
    }
}

fn next(counter: &std::sync::atomic::AtomicU64, limit: u64) -> Result<u64, FsError> {
    super::ids::next(counter, limit).ok_or(FsError::NoSpace)
}
