//! What can go wrong with a tree.

use super::ChildRef;
use crate::format::FormatError;
use crate::format::schema::Table;
use std::error::Error;
use thiserror::Error;

/// Why a tree could not be read or changed.
#[derive(Debug, Error)]
pub enum TableError {
    /// A block holds what the format does not allow.
    #[error("table {table}: {source}")]
    Format {
        /// Name of the table.
        table: &'static str,
        /// What is wrong.
        source: FormatError,
    },
    /// The source could not get a block, or the sink not store it.
    #[error(transparent)]
    Source(Box<dyn Error + Send + Sync>),
    /// A block is not at the level, or its rows not in the range, that its parent says.
    #[error("table {table}: a block at level {level} does not lie where its parent says ({child})")]
    OutOfRange {
        /// Name of the table.
        table: &'static str,
        /// Level it should be at.
        level: u8,
        /// How the parent names it.
        child: ChildRef,
    },
    /// Rows to load or changes to apply do not ascend.
    #[error("table {table}: rows do not ascend")]
    OutOfOrder {
        /// Name of the table.
        table: &'static str,
    },
    /// A row does not fit a block.
    #[error("table {table}: a row needs {bytes} bytes, the limit is {limit}")]
    RowTooLarge {
        /// Name of the table.
        table: &'static str,
        /// Bytes it may need, or bytes of its name.
        bytes: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A row or a reference to a block is not of the form that the table has.
    #[error("table {table}: {what} is not of this table's form")]
    Misfit {
        /// Name of the table.
        table: &'static str,
        /// What does not fit.
        what: &'static str,
    },
    /// The tree has, or would get, a number of levels that no tree may have.
    #[error("table {table}: a tree of {levels} levels")]
    TooDeep {
        /// Name of the table.
        table: &'static str,
        /// Levels.
        levels: u8,
    },
}

impl TableError {
    /// Wraps the error of a source or sink.
    pub fn source(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        TableError::Source(error.into())
    }

    /// For `map_err`: says whose block it was.
    pub fn format(table: &'static Table) -> impl Fn(FormatError) -> Self {
        |source| TableError::Format { table: table.name, source }
    }
}
