//! A version of an image together with the changes since. It has the same lookups as an image.
//!
//! A [`View`] does not change after it was taken, so everything that one request reads is from one moment. Taking one
//! costs three reference counts. Without overlays its lookups are those of the image. The module `places` has the
//! lookups of subchunks. Called by inflate, thaw, freeze, fs and care.

use super::merge::{Layers, ViewCursor, ViewRow};
use super::{Image, MetaError, Overlay};
use crate::format::block::{Key, KeyRef};
use crate::format::ids::{InodeId, TinyId};
use crate::format::limits;
use crate::format::params::Params;
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{DirentRow, InodeRow, ShareKey, ShareRow, XattrSet};
use crate::format::schema::{self, Table};
use std::sync::Arc;

/// The current state of all tables, in up to three layers. The lowest is a version of the image. Above it is the sealed
/// overlay: changed rows that a checkpoint is writing, if one is. The uppermost is the active overlay, which takes new
/// changes.
#[derive(Clone)]
pub struct View {
    version: Arc<Image>,
    sealed: Option<Overlay>,
    active: Overlay,
}

impl View {
    /// Makes the view of an image without changes.
    pub fn of(version: Arc<Image>) -> Self {
        View { version, sealed: None, active: Overlay::default() }
    }

    /// Makes the view of a version under these overlays.
    pub fn live(version: Arc<Image>, sealed: Option<Overlay>, active: Overlay) -> Self {
        View { version, sealed, active }
    }

    /// Returns the version of the image below the overlays.
    pub fn version(&self) -> &Arc<Image> {
        &self.version
    }

    /// Returns the overlay that is being checkpointed, if there is one.
    pub fn sealed(&self) -> Option<&Overlay> {
        self.sealed.as_ref()
    }

    /// Returns the overlay that takes changes.
    pub fn active(&self) -> &Overlay {
        &self.active
    }

    /// Returns the overlay that takes changes, mutable. Changing it changes this view.
    pub fn active_mut(&mut self) -> &mut Overlay {
        &mut self.active
    }

    /// Returns the parameters that the image was made with.
    pub fn params(&self) -> &Params {
        self.version.params()
    }

    /// Iterates over the overlays, the uppermost first.
    pub(super) fn overlays(&self) -> impl Iterator<Item = &Overlay> {
        std::iter::once(&self.active).chain(&self.sealed)
    }

    /// Returns whether no overlay has entries of this table, so that the version alone answers.
    pub(super) fn is_bare(&self, table: &'static Table) -> bool {
        self.active.says_nothing_of(table) && self.sealed.as_ref().is_none_or(|sealed| sealed.says_nothing_of(table))
    }

    pub(super) fn layers(&self, table: &'static Table) -> Layers<'_> {
        Layers::new(self.version.tree(table), &*self.version, [Some(&self.active), self.sealed.as_ref()])
    }

    /// Returns the row with this key, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn get(&self, table: &'static Table, key: KeyRef<'_>) -> Result<Option<ViewRow>, MetaError> {
        Ok(self.layers(table).get(key)?)
    }

    /// Returns the last row whose key is not above `key`.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn floor(&self, table: &'static Table, key: KeyRef<'_>) -> Result<Option<ViewRow>, MetaError> {
        Ok(self.layers(table).floor(key, 0)?)
    }

    /// Returns the last row whose key is not above `key`, only among the rows with the key's `a`. It does not search
    /// before them, where there may be many tombstones.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn floor_within(&self, table: &'static Table, key: KeyRef<'_>) -> Result<Option<ViewRow>, MetaError> {
        Ok(self.layers(table).floor(key, key.a)?)
    }

    /// Makes a cursor on the first row whose key is not below `key`.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn cursor_at(&self, table: &'static Table, key: KeyRef<'_>) -> Result<ViewCursor, MetaError> {
        Ok(self.layers(table).cursor_at(key, None)?)
    }

    /// Makes a cursor on the first row whose key is not below `key`. The cursor ends before the key `end`. It does not
    /// step over tombstones from there on, of which there may be many.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn cursor_within(&self, table: &'static Table, key: KeyRef<'_>, end: Key) -> Result<ViewCursor, MetaError> {
        Ok(self.layers(table).cursor_at(key, Some(end))?)
    }

    /// Returns whether the version or the sealed overlay has a row with this key. A deletion must then hide that row by
    /// a tombstone in the active overlay.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn is_below(&self, table: &'static Table, key: KeyRef<'_>) -> Result<bool, MetaError> {
        if let Some(said) = self.sealed.as_ref().and_then(|sealed| sealed.get(table, key)) {
            return Ok(said.is_some());
        }
        Ok(self.version.tree(table).get(&*self.version, key)?.is_some())
    }

    /// Returns the row of an inode, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn inode(&self, inode: InodeId) -> Result<Option<InodeRow>, MetaError> {
        if self.is_bare(&schema::INODES) {
            return self.version.inode(inode);
        }
        self.inode_in(&schema::INODES, inode)
    }

    /// Returns the row of an orphan: an inode without a name that is still open.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn orphan(&self, inode: InodeId) -> Result<Option<InodeRow>, MetaError> {
        self.inode_in(&schema::ORPHANS, inode)
    }

    fn inode_in(&self, table: &'static Table, inode: InodeId) -> Result<Option<InodeRow>, MetaError> {
        match self.get(table, KeyRef::new(inode.0, 0))? {
            Some(row) => Ok(Some(InodeRow::decode(row.ints(), row.tail())?)),
            None => Ok(None),
        }
    }

    /// Returns the entry `name` of directory `dir`, or `None`.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn lookup(&self, dir: InodeId, name: &[u8]) -> Result<Option<DirentRow>, MetaError> {
        if self.is_bare(&schema::DIRENTS) {
            return self.version.lookup(dir, name);
        }
        match self.get(&schema::DIRENTS, KeyRef::named(dir.0, name))? {
            Some(row) => Ok(Some(DirentRow::decode(name, row.ints())?)),
            None => Ok(None),
        }
    }

    /// Returns the bytes of a tiny content: a small file's content in a table.
    ///
    /// # Errors
    /// Fails if the table cannot be read or has no such row.
    pub fn tiny(&self, id: TinyId) -> Result<Vec<u8>, MetaError> {
        match self.get(&schema::TINY, KeyRef::new(id.0, 0))? {
            Some(row) => Ok(row.tail().to_vec()),
            None => Err(MetaError::Missing { table: schema::TINY.name, id: id.0 }),
        }
    }

    /// Returns the xattrs of an inode.
    ///
    /// # Errors
    /// Fails if the table cannot be read, has no such set, or the set is not valid.
    pub fn xattrs(&self, inode: &InodeRow) -> Result<XattrSet, MetaError> {
        let id = match &inode.xattrs {
            XattrRef::None => return Ok(XattrSet::default()),
            XattrRef::Inline(bytes) => return Ok(XattrSet::decode(bytes)?),
            XattrRef::Set(id) => *id,
        };
        let mut bytes = Vec::new();
        for piece in 0..=(limits::XATTR_SET / limits::XATTR_PIECE) as u64 {
            match self.get(&schema::XATTRS, KeyRef::new(id.0, piece))? {
                Some(row) => bytes.extend_from_slice(row.tail()),
                None if piece == 0 => return Err(MetaError::Missing { table: schema::XATTRS.name, id: id.0 }),
                None => break,
            }
        }
        Ok(XattrSet::decode(&bytes)?)
    }

    /// Returns how many inodes use a shared content, tiny content or xattr set. It is 1 if the table of shares has no
    /// row of it.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn users(&self, key: ShareKey) -> Result<u64, MetaError> {
        let (a, b) = key.encode();
        match self.get(&schema::SHARES, KeyRef::new(a, b))? {
            Some(row) => Ok(ShareRow::decode(row.ints())?.users),
            None => Ok(1),
        }
    }

    /// Returns whether any file may have thawed ranges: file data that is not in the image.
    pub fn has_thawed(&self) -> bool {
        self.version.has_thawed() || !self.is_bare(&schema::THAWED)
    }
}

impl ViewCursor {
    /// Moves to the next row. After the last row it does not move. `view` is the view that made the cursor, or a later
    /// one.
    ///
    /// # Errors
    /// Fails if the table cannot be read there; the cursor then has not moved.
    pub fn advance(&mut self, view: &View) -> Result<(), MetaError> {
        Ok(self.advance_in(&**view.version())?)
    }
}
