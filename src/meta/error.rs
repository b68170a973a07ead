//! Why an image could not answer.

use crate::format::FormatError;
use crate::format::ids::SubchunkId;
use crate::log::LogError;
use crate::storage::StorageError;
use crate::table::TableError;
use thiserror::Error;

/// Why an image could not be opened, or a question about it not be answered.
#[derive(Debug, Error)]
pub enum MetaError {
    /// Neither head slot begins like one.
    #[error("bad magic at offset 0 (is this a floe image? 'file' says more)")]
    NotAnImage,
    /// Both head slots are damaged.
    #[error("no head slot can be used: {0}")]
    Head(#[source] FormatError),
    /// The newest head slot that verifies needs a newer program. The other slot is not used in its place.
    #[error("{0}")]
    Unsupported(#[source] FormatError),
    /// It can be read, but no writer may go on from it.
    #[error("the image cannot be written to: {why}")]
    Unfit {
        /// What is wrong with it.
        why: String,
    },
    /// The file is shorter than the log it claims.
    #[error("the image is cut short: its log ends at {log_end}, the file has {len} bytes")]
    CutShort {
        /// `log_end` of the head.
        log_end: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// No root that a head names can be read.
    #[error("the root at {offset} cannot be read ('floe check' says more)")]
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
    /// Bytes are not what they should be.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A table block cannot be had.
    #[error("table block {id} cannot be read: {why}")]
    Block {
        /// Its subchunk id.
        id: SubchunkId,
        /// What stands in the way.
        why: String,
    },
    /// A row that another row names is not there.
    #[error("{table} has no row {id}, though it is referred to")]
    Missing {
        /// Table.
        table: &'static str,
        /// Key.
        id: u64,
    },
    /// A table cannot be read to its end.
    #[error("table {table} cannot be read: {why}")]
    Unreadable {
        /// Table.
        table: &'static str,
        /// What stands in the way.
        why: String,
    },
    /// Rows of the map contradict one another.
    #[error("the map contradicts itself: {why}")]
    Contradiction {
        /// How.
        why: String,
    },
}
