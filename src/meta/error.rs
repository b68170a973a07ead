//! The errors of reading an image.

use crate::format::FormatError;
use crate::format::ids::SubchunkId;
use crate::log::LogError;
use crate::storage::StorageError;
use crate::table::TableError;
use thiserror::Error;

/// Why an image could not be opened, or a lookup failed.
#[derive(Debug, Error)]
pub enum MetaError {
    /// The file is not a floe image: neither head slot has the magic number.
    #[error("no floe image: bad magic at offset 0 ('file' says what it is)")]
    NotAnImage,
    /// Both head slots are damaged.
    #[error("no head slot of the image can be used: {0} ('floe check' says more)")]
    Head(#[source] FormatError),
    /// The newest head slot that verifies needs a newer program. The other slot is not used instead.
    #[error("{0}")]
    Unsupported(#[source] FormatError),
    /// The image can be read, but must not be written to.
    #[error("the image cannot be written to: {why}")]
    Unfit {
        /// Why the image must not be written to.
        why: String,
    },
    /// The file is shorter than the log of the image.
    #[error("the image is cut short: its log ends at offset {log_end}, but the file has {len} bytes")]
    CutShort {
        /// Offset in bytes where the log ends, as the head says.
        log_end: u64,
        /// Length of the file in bytes.
        len: u64,
    },
    /// No root that a head slot names can be read. In a warning: the root of one head slot cannot be read.
    #[error("the root at offset {offset} of the image cannot be read ('floe check' says more)")]
    Root {
        /// Offset in bytes of the root.
        offset: u64,
        /// Why the root cannot be read.
        #[source]
        source: Box<MetaError>,
    },
    /// A frame of the image's log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The storage cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The tree of a table cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Bytes of the image are not a valid value.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A table block cannot be read from any copy.
    #[error("cannot read the table block with subchunk id {id}: {why}")]
    Block {
        /// Subchunk id of the table block.
        id: SubchunkId,
        /// Why the table block cannot be read.
        why: String,
    },
    /// A row that another row refers to does not exist.
    #[error("the image is damaged: the table {table} has no row {id}, but another row refers to it")]
    Missing {
        /// Name of the table that should have the row.
        table: &'static str,
        /// Key of the row that does not exist.
        id: u64,
    },
    /// A table cannot be read to its end.
    #[error("cannot read the table {table} of the image: {why}")]
    Unreadable {
        /// Name of the table.
        table: &'static str,
        /// Why the table cannot be read.
        why: String,
    },
    /// Rows of the map contradict one another.
    #[error("the image is damaged: rows of the table map contradict one another: {why}")]
    Contradiction {
        /// What the rows say that cannot both be true.
        why: String,
    },
}
