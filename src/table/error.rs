//! The errors of trees.

use super::ChildRef;
use crate::format::FormatError;
use crate::format::schema::Table;
use std::error::Error;
use thiserror::Error;

/// Why a tree could not be read or changed.
#[derive(Debug, Error)]
pub enum TableError {
    /// A block or a row is not valid.
    #[error("cannot decode a block of the table {table}: {source}")]
    Format {
        /// Name of the table.
        table: &'static str,
        /// What is wrong with the block or row.
        source: FormatError,
    },
    /// The source could not read a block, or the sink could not store one.
    #[error(transparent)]
    Source(Box<dyn Error + Send + Sync>),
    /// A block does not have the level that its parent gives, or its keys are not in the range that its parent gives.
    #[error(
        "table {table} is damaged: the block {child} has not the level {level} or not the keys that its parent names"
    )]
    OutOfRange {
        /// Name of the table.
        table: &'static str,
        /// Level that the block should have.
        level: u8,
        /// The parent's reference to the block.
        child: ChildRef,
    },
    /// The keys of rows to load or of changes to apply do not ascend.
    #[error("cannot write to the table {table}: the keys of its rows do not ascend")]
    OutOfOrder {
        /// Name of the table.
        table: &'static str,
    },
    /// A row is too large for a block.
    #[error("cannot write to the table {table}: a row needs {bytes} bytes, the limit is {limit}")]
    RowTooLarge {
        /// Name of the table.
        table: &'static str,
        /// Number of bytes that the row may need, or length of its name.
        bytes: usize,
        /// Most bytes that are allowed.
        limit: usize,
    },
    /// A row or a reference to a block does not have the columns of the table, or a value is out of range.
    #[error("cannot write to the table {table}: {what} does not fit its schema")]
    Misfit {
        /// Name of the table.
        table: &'static str,
        /// Name of what does not fit: a row or a reference.
        what: &'static str,
    },
    /// The tree has too many levels, or would get too many. A reference to a tree with 0 levels has this error, too.
    #[error("cannot use or write the table {table}: its tree would have {levels} levels, which is not allowed")]
    TooDeep {
        /// Name of the table.
        table: &'static str,
        /// Number of levels.
        levels: u8,
    },
}

impl TableError {
    /// Wraps the error of a source or sink.
    pub fn source(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        TableError::Source(error.into())
    }

    /// Returns a function for `map_err` that adds the name of the table to an error.
    pub fn format(table: &'static Table) -> impl Fn(FormatError) -> Self {
        |source| TableError::Format { table: table.name, source }
    }
}
