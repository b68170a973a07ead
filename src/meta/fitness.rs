//! Checks whether an image may be written to. A writer does so before it appends its first byte.

use super::{Image, MetaError, View};
use crate::format::FormatError;
use crate::format::block::{KeyRef, Row};
use crate::format::head::ro_compat;
use crate::format::ids::SubchunkId;
use crate::format::limits;
use crate::format::rows::SubchunkRun;
use crate::format::rows::map::{SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::schema::{self, Table};
use crate::format::transaction::Counters;

impl Image {
    /// Checks whether a writer may continue from this version of the image. Reads one block per level of each table.
    ///
    /// # Errors
    /// Returns `Unfit` if something was wrong when the image was opened, if the image has features that this writer
    /// does not know, or if a counter of next free ids is not above the ids in use; another error if a table cannot be
    /// read.
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
        let last =
            |table: &'static Table, key: KeyRef<'_>| Ok(self.tree(table).floor(self, key)?.map(|row| row.to_row()));
        are_free(&Counters::of(self.root()), &last)
    }
}

/// Checks whether each of these counters of next free ids is above the ids in the tables of a view, and within its
/// limit. Called after a replay of the thaw log, whose rows and counters are untrusted. Reads one block per level of
/// each table.
///
/// # Errors
/// Returns `Unfit` if a counter is too low or too high; another error if a table cannot be read.
pub fn counters_are_free(view: &View, counters: &Counters) -> Result<(), MetaError> {
    are_free(counters, &|table, key| Ok(view.floor(table, key)?.map(|row| row.to_row())))
}

/// Returns the last row of a table whose key is not above a given key.
type LastRow<'a> = &'a dyn Fn(&'static Table, KeyRef<'_>) -> Result<Option<Row>, MetaError>;

fn are_free(counters: &Counters, last_row: LastRow<'_>) -> Result<(), MetaError> {
    let last = |table, a| last_row(table, KeyRef::new(a, u64::MAX));
    let by_key: [(&str, u64, &'static Table); 6] = [
        ("next inode", counters.inode, &schema::INODES),
        ("next inode", counters.inode, &schema::ORPHANS),
        ("next content id", counters.content, &schema::CONTENTS),
        ("next tiny id", counters.tiny, &schema::TINY),
        ("next xattr set id", counters.xattrs, &schema::XATTRS),
        ("next snapshot ordinal", counters.ordinal, &schema::SNAPSHOTS),
    ];
    //= format-spec.md#9
    //# Before a writer uses a counter, it compares it with the last key of the tables with these ids; it refuses an
    //# image in which a counter is not above that key.
    for (counter, next, table) in by_key {
        above(counter, next, table.name, last(table, u64::MAX)?.map(|row| row.key.a))?;
    }
    let identities = match last(&schema::IDENTITIES, u64::MAX)? {
        Some(row) => Some(last_of(row.key.a, row.ints.first().copied().unwrap_or(0))?),
        None => None,
    };
    above("next subchunk id", counters.subchunk, schema::IDENTITIES.name, identities)?;
    let in_map = |space| Ok::<_, MetaError>(last(&schema::MAP, space)?.filter(|row| row.key.a == space));
    let superchunk = in_map(SPACE_SUPERCHUNKS)?.map(|row| row.key.b);
    above("next superchunk id", counters.superchunk, schema::MAP.name, superchunk)?;
    let subchunk = match in_map(SPACE_SUBCHUNKS)? {
        Some(row) => {
            let first = row.key.b;
            let run = SubchunkRun::decode(SubchunkId(first), &row.ints, &row.tail)?;
            Some(last_of(first, run.lens.len() as u64)?)
        }
        None => None,
    };
    above("next subchunk id", counters.subchunk, schema::MAP.name, subchunk)?;
    for (counter, next, limit) in [
        ("next inode", counters.inode, limits::INODE),
        ("next content id", counters.content, limits::ID),
        ("next tiny id", counters.tiny, limits::ID),
        ("next xattr set id", counters.xattrs, limits::ID),
        ("next snapshot ordinal", counters.ordinal, limits::ID),
        ("next subchunk id", counters.subchunk, limits::ID),
        ("next superchunk id", counters.superchunk, limits::ID),
    ] {
        if !(1..=limit).contains(&next) {
            return Err(MetaError::Unfit { why: format!("its {counter} is {next}, which is 0 or above {limit}") });
        }
    }
    Ok(())
}

/// Returns the last id of a run of `count` ids that begins with `first`.
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
