//! Whether an image may be written to: what a writer asks before it appends its first byte.

use super::{Image, MetaError};
use crate::format::FormatError;
use crate::format::block::KeyRef;
use crate::format::head::ro_compat;
use crate::format::ids::SubchunkId;
use crate::format::rows::SubchunkRun;
use crate::format::rows::map::{SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::schema::{self, Table};
use crate::table::RowRef;

impl Image {
    /// Whether a writer may go on from this state. Reads one block a level of each table.
    ///
    /// # Errors
    /// `Unfit` if it was opened with doubts, has features that a writer would have to know, or gives out ids that are
    /// in use; others if a table cannot be read.
    pub fn fit_for_writing(&self) -> Result<(), MetaError> {
        if let Some(why) = self.doubts().first() {
            return Err(MetaError::Unfit { why: why.clone() });
        }
        //= format-spec.md#3.2
        //# A reader refuses an image with an incompat bit that it does not know; a writer refuses one with an incompat or
        //# ro_compat bit that it does not know.
        let unknown = self.head().ro_compat & !ro_compat::KNOWN;
        if unknown != 0 {
            let why = format!("it has the features {unknown:#x}, which this program does not know how to write");
            return Err(MetaError::Unfit { why });
        }
        self.counters_are_free()
    }

    /// Whether each of the root's counters is above what its tables hold.
    ///
    /// # Errors
    /// `Unfit` if one is not; others if a table cannot be read.
    fn counters_are_free(&self) -> Result<(), MetaError> {
        let root = self.root();
        let (inodes, contents) = (root.next_inode, root.next_content);
        let by_key: [(&str, u64, &'static Table); 6] = [
            ("next inode", inodes, &schema::INODES),
            ("next inode", inodes, &schema::ORPHANS),
            ("next content id", contents, &schema::CONTENTS),
            ("next tiny id", root.next_tiny, &schema::TINY),
            ("next xattr set id", root.next_xattrs, &schema::XATTRS),
            ("next snapshot ordinal", root.next_ordinal, &schema::SNAPSHOTS),
        ];
        //= format-spec.md#9
        //# Before a writer trusts a counter, it compares it with the last key of the tables whose ids it gives out; it refuses an
        //# image in which a counter is not above that key.
        for (counter, next, table) in by_key {
            let last = self.last_row(table, u64::MAX)?.map(|row| row.key().a);
            above(counter, next, table.name, last)?;
        }
        let identities = match self.last_row(&schema::IDENTITIES, u64::MAX)? {
            Some(row) => Some(last_of(row.key().a, row.ints().first().copied().unwrap_or(0))?),
            None => None,
        };
        above("next subchunk id", root.next_subchunk, schema::IDENTITIES.name, identities)?;
        let in_map = |space| {
            let row = self.last_row(&schema::MAP, space)?;
            Ok::<_, MetaError>(row.filter(|row| row.key().a == space))
        };
        let superchunk = in_map(SPACE_SUPERCHUNKS)?.map(|row| row.key().b);
        above("next superchunk id", root.next_superchunk, schema::MAP.name, superchunk)?;
        let subchunk = match in_map(SPACE_SUBCHUNKS)? {
            Some(row) => {
                let first = row.key().b;
                let run = SubchunkRun::decode(SubchunkId(first), row.ints(), row.tail())?;
                Some(last_of(first, run.lens.len() as u64)?)
            }
            None => None,
        };
        above("next subchunk id", root.next_subchunk, schema::MAP.name, subchunk)
    }

    /// The last row whose `a` is at most this.
    fn last_row(&self, table: &'static Table, a: u64) -> Result<Option<RowRef>, MetaError> {
        Ok(self.tree(table).floor(self, KeyRef::new(a, u64::MAX))?)
    }
}

/// The last id of a run of `count`.
fn last_of(first: u64, count: u64) -> Result<u64, FormatError> {
    let last = count.checked_sub(1).and_then(|more| first.checked_add(more));
    last.ok_or(FormatError::invalid("run of ids", "it is empty or goes beyond 2^64"))
}

fn above(counter: &str, next: u64, table: &str, last: Option<u64>) -> Result<(), MetaError> {
    match last {
        Some(last) if last >= next => {
            Err(MetaError::Unfit { why: format!("its {counter} is {next}, but table {table} has {last} already") })
        }
        _ => Ok(()),
    }
}
