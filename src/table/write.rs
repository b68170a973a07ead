//! Shared code of bulk load and apply: checks rows, writes blocks to the sink, makes parent rows.

use super::{BlockSink, ChildRef, TableError};
use crate::format::block::{BlockBuilder, Key, KeyRef, Row};
use crate::format::limits;
use crate::format::schema::{Coding, Table};

/// Smallest target size, in bytes. Two rows of any interior block fit into it (each with a name of 255 bytes, plus
/// [`HEADER_ROOM`]), so each level has at most half as many blocks as the level below.
pub(super) const TARGET_MIN: usize = 1024;
/// Most raw bytes of a block.
pub(super) const BLOCK_MAX: usize = limits::TABLE_BLOCK as usize;
/// Upper bound of the bytes of a block besides its rows.
const HEADER_ROOM: usize = 256;

/// Checks that a block of `table` at `level` can hold the row.
pub(super) fn check_row(
    table: &'static Table,
    level: u8,
    key: KeyRef<'_>,
    ints: &[u64],
    tail: &[u8],
) -> Result<(), TableError> {
    let schema = table.schema(level);
    let ids_fit = || ints.iter().zip(schema.ints).all(|(&int, &c)| c != Coding::Nullable || int < limits::ID);
    if ints.len() != schema.ints.len()
        || !(schema.has_b || key.b == 0)
        || !(schema.has_name || key.name.is_empty())
        || !(schema.has_tail || tail.is_empty())
        || !ids_fit()
    {
        return Err(TableError::Misfit { table: table.name, what: "a row" });
    }
    let bytes = HEADER_ROOM + BlockBuilder::row_bound(key, ints, tail);
    for (bytes, limit) in [(key.name.len(), limits::NAME_LEN), (bytes, BLOCK_MAX)] {
        if bytes > limit {
            return Err(TableError::RowTooLarge { table: table.name, bytes, limit });
        }
    }
    Ok(())
}

/// Writes a block to the sink.
pub(super) fn put(
    sink: &mut dyn BlockSink,
    table: &'static Table,
    level: u8,
    raw: Vec<u8>,
) -> Result<ChildRef, TableError> {
    if raw.len() > BLOCK_MAX {
        return Err(TableError::RowTooLarge { table: table.name, bytes: raw.len(), limit: BLOCK_MAX });
    }
    let child = sink.put(table, level, raw)?;
    if child.fits(table) {
        Ok(child)
    } else {
        Err(TableError::Misfit { table: table.name, what: "the reference to a new block" })
    }
}

/// Makes the parent's row for a child whose first key is `key`.
pub(super) fn child_row(key: Key, child: &ChildRef) -> Row {
    let (ints, tail) = child.encode();
    Row { key, ints, tail }
}

/// Checks that a tree may have a block at `level`.
pub(super) fn check_level(table: &'static Table, level: u8) -> Result<(), TableError> {
    if level < limits::TREE_LEVELS { Ok(()) } else { Err(TableError::TooDeep { table: table.name, levels: level + 1 }) }
}
