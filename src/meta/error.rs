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
    /// Neither head slot has the magic number.
    #[error("no floe image: bad magic at offset 0 ('file' says what it is)")]
    NotAnImage,
    /// Both head slots are damaged.
    #[error("cannot open the image: no head slot can be used: {0} ('floe check' says more)")]
    Head(#[source] FormatError),
    /// The newest head slot that verifies needs a newer program. The other slot is not used instead.
    #[error("{0}")]
    Unsupported(#[source] FormatError),
    /// It can be read, but must not be written to.
    #[error("the image cannot be written to: {why}")]
    Unfit {
        /// What is wrong with it.
        why: String,
    },
    /// The file is shorter than the log.
    #[error("the image is cut short: its log ends at offset {log_end}, but the file has {len} bytes")]
    CutShort {
        /// `log_end` of the head.
        log_end: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// No root that a head names can be read.
    #[error("the root at offset {offset} of the image cannot be read ('floe check' says more)")]
    Root {
        /// Its offset.
        offset: u64,
        /// Why.
        #[source]
        source: Box<MetaError>,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The storage cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A tree cannot be walked.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Bytes are not valid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A table block cannot be read.
    #[error("cannot read the table block with subchunk id {id}: {why}")]
    Block {
        /// Its subchunk id.
        id: SubchunkId,
        /// The reason.
        why: String,
    },
    /// A row that another row refers to is missing.
    #[error("the image is damaged: the table {table} has no row {id}, but another row refers to it")]
    Missing {
        /// Table.
        table: &'static str,
        /// Key.
        id: u64,
    },
    /// A table cannot be read to its end.
    #[error("cannot read the table {table} of the image: {why}")]
    Unreadable {
        /// Table.
        table: &'static str,
        /// The reason.
        why: String,
    },
    /// Rows of the map contradict one another.
    #[error("the image is damaged: rows of the table map contradict one another: {why}")]
    Contradiction {
        /// How.
        why: String,
    },
}
