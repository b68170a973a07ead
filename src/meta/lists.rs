//! Iterates over the entries of a directory and the extents of a content.

use super::merge::ViewCursor;
use super::{MetaError, View};
use crate::format::FormatError;
use crate::format::block::{Key, KeyRef};
use crate::format::ids::{ContentId, InodeId};
use crate::format::rows::{ContentRow, DirentRow};
use crate::format::schema;

impl View {
    /// Lists the entries of directory `dir` after the name `after`, in the order of their names' bytes.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn dirents(&self, dir: InodeId, after: Option<&[u8]>) -> Result<Dirents, MetaError> {
        Dirents::new(self, dir, after)
    }

    /// Lists the extents of `content`, beginning with the one that covers byte `offset`.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn extents(&self, content: ContentId, offset: u64) -> Result<Extents, MetaError> {
        Extents::new(self, content, offset)
    }
}

/// Cursor on the entries of a directory, in the order of their names' bytes.
pub struct Dirents {
    dir: InodeId,
    cursor: ViewCursor,
}

impl Dirents {
    fn new(view: &View, dir: InodeId, after: Option<&[u8]>) -> Result<Self, MetaError> {
        let from = KeyRef::named(dir.0, after.unwrap_or(&[]));
        let mut cursor = view.cursor_within(&schema::DIRENTS, from, Key::new(dir.0.saturating_add(1), 0))?;
        if after.is_some() && cursor.row().is_some_and(|row| row.key() == from) {
            cursor.advance(view)?;
        }
        Ok(Dirents { dir, cursor })
    }

    /// Returns the current entry with a borrowed name, or `None` after the last one.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn peek(&self) -> Result<Option<(&[u8], DirentRow)>, MetaError> {
        match self.cursor.row() {
            Some(row) if row.key().a == self.dir.0 => {
                let name = row.key().name;
                Ok(Some((name, DirentRow::decode(name, row.ints())?)))
            }
            _ => Ok(None),
        }
    }

    /// Moves to the next entry.
    ///
    /// # Errors
    /// Fails if the table cannot be read there.
    pub fn advance(&mut self, view: &View) -> Result<(), MetaError> {
        self.cursor.advance(view)
    }

    /// Returns the current entry and moves to the next. Returns `None` after the last.
    ///
    /// # Errors
    /// Fails if the table cannot be read or the row is not valid.
    pub fn next(&mut self, view: &View) -> Result<Option<(Vec<u8>, DirentRow)>, MetaError> {
        let Some((name, row)) = self.peek()? else {
            return Ok(None);
        };
        let entry = (name.to_vec(), row);
        self.advance(view)?;
        Ok(Some(entry))
    }
}

/// Cursor on the extents of a content, which must follow one another without gaps.
pub struct Extents {
    content: ContentId,
    expected: Option<u64>,
    cursor: ViewCursor,
}

impl Extents {
    fn new(view: &View, content: ContentId, offset: u64) -> Result<Self, MetaError> {
        let covering = view.floor_within(&schema::CONTENTS, KeyRef::new(content.0, offset))?;
        let Some(covering) = covering else {
            return Err(MetaError::Missing { table: schema::CONTENTS.name, id: content.0 });
        };
        let end = Key::new(content.0.saturating_add(1), 0);
        Ok(Extents { content, expected: None, cursor: view.cursor_within(&schema::CONTENTS, covering.key(), end)? })
    }

    /// Returns the current extent and its offset in bytes in the file, and moves to the next; `None` after the last.
    ///
    /// # Errors
    /// Fails if the table cannot be read, a row is not valid, or there is a gap.
    pub fn next(&mut self, view: &View) -> Result<Option<(u64, ContentRow)>, MetaError> {
        let (offset, row) = match self.cursor.row() {
            Some(row) if row.key().a == self.content.0 => {
                (row.key().b, ContentRow::decode(row.key().b, row.ints(), row.tail())?)
            }
            _ => return Ok(None),
        };
        if self.expected.is_some_and(|expected| expected != offset) {
            return Err(FormatError::invalid("content", "its extents have a gap or overlap").into());
        }
        self.expected = Some(offset + row.length);
        self.cursor.advance(view)?;
        Ok(Some((offset, row)))
    }
}
