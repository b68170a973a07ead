//! Thawed ranges: the bytes of the head's files that are not in the image (section 8.9).
//!
//! For an image without such ranges, as `pack` makes it, nothing here needs a lookup.

use super::merge::ViewCursor;
use super::{Image, MetaError, View};
use crate::format::FormatError;
use crate::format::block::{Key, KeyRef};
use crate::format::ids::InodeId;
use crate::format::rows::ThawedRow;
use crate::format::schema;

/// How many ranges of files there are, and how many bytes they have in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RangeCount {
    /// Number of ranges.
    pub ranges: u64,
    /// Sum of the lengths of the ranges in bytes.
    pub bytes: u64,
}

impl RangeCount {
    /// Adds a range of `bytes` bytes.
    pub fn add(&mut self, bytes: u64) {
        self.ranges = self.ranges.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// The thawed ranges of an image (file data that is not in the image), by where their bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThawedCount {
    /// Ranges whose bytes are in the thaw log.
    pub in_log: RangeCount,
    /// Ranges whose bytes are lost.
    pub lost: RangeCount,
}

impl ThawedCount {
    /// Adds the range of a row.
    pub fn add(&mut self, row: &ThawedRow) {
        if row.is_lost() { self.lost.add(row.length) } else { self.in_log.add(row.length) }
    }
}

impl Image {
    /// Returns whether any file has thawed ranges: file data that is not in the image.
    pub fn has_thawed(&self) -> bool {
        self.root().thawed_tree.root.is_some()
    }

    /// Counts the thawed ranges of all files, by reading the whole table.
    ///
    /// # Errors
    /// Fails if the table cannot be read, or a row is not valid.
    pub fn thawed_count(&self) -> Result<ThawedCount, MetaError> {
        let mut count = ThawedCount::default();
        let mut cursor = self.tree(&schema::THAWED).cursor_at(self, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            count.add(&ThawedRow::decode(row.key().b, row.ints(), row.tail())?);
            cursor.advance(self)?;
        }
        Ok(count)
    }
}

impl View {
    /// Lists the thawed ranges of an inode from the one that covers `offset` on, or from the first after it.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn thawed(&self, inode: InodeId, offset: u64) -> Result<ThawedRanges, MetaError> {
        self.thawed_before(inode, offset, Key::new(inode.0.saturating_add(1), 0))
    }

    /// Lists only those thawed ranges that begin before `to`; otherwise like [`View::thawed`]. Tombstones from `to` on
    /// cost nothing.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub fn thawed_within(&self, inode: InodeId, offset: u64, to: u64) -> Result<ThawedRanges, MetaError> {
        self.thawed_before(inode, offset, Key::new(inode.0, to))
    }

    fn thawed_before(&self, inode: InodeId, offset: u64, end: Key) -> Result<ThawedRanges, MetaError> {
        if !self.has_thawed() {
            return Ok(ThawedRanges { inode, offset, end: 0, cursor: None, given: false });
        }
        let covering = self.floor_within(&schema::THAWED, KeyRef::new(inode.0, offset))?;
        let from = covering.map_or(offset, |row| row.key().b);
        let cursor = self.cursor_within(&schema::THAWED, KeyRef::new(inode.0, from), end)?;
        Ok(ThawedRanges { inode, offset, end: 0, cursor: Some(cursor), given: false })
    }
}

/// Cursor on the thawed ranges of one inode, in order, without overlap.
pub struct ThawedRanges {
    inode: InodeId,
    offset: u64,
    /// Offset in the file where the last returned range ends.
    end: u64,
    /// Cursor on the row of the last returned range, if there was one.
    cursor: Option<ViewCursor>,
    given: bool,
}

impl ThawedRanges {
    /// Returns the next range and its offset in the file, or `None` after the last.
    ///
    /// # Errors
    /// Fails if the table cannot be read, a row is not valid, or ranges overlap.
    pub fn next(&mut self, view: &View) -> Result<Option<(u64, ThawedRow)>, MetaError> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        loop {
            // Only now, so that a damaged block after a range does not prevent returning the range.
            if std::mem::replace(&mut self.given, true) {
                cursor.advance(view)?;
            }
            let Some(row) = cursor.row().filter(|row| row.key().a == self.inode.0) else { return Ok(None) };
            let begin = row.key().b;
            let row = ThawedRow::decode(begin, row.ints(), row.tail())?;
            //= format-spec.md#8.9
            //# Ranges of one inode never overlap.
            if begin < self.end {
                return Err(FormatError::invalid("thawed ranges", "they overlap").into());
            }
            // Decoding has checked that this does not overflow.
            self.end = begin + row.length;
            if self.end > self.offset {
                return Ok(Some((begin, row)));
            }
        }
    }
}
