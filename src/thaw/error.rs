//! The errors of a thaw log.

use super::fit::Misfit;
use crate::format::FormatError;
use crate::format::ids::LogOffset;
use crate::storage::StorageError;
use thiserror::Error;

/// Why a thaw log could not be written or read.
#[derive(Debug, Error)]
pub enum ThawError {
    /// The directory or a segment could not be read or changed.
    #[error("thaw log: {0}")]
    Storage(#[from] StorageError),
    /// A transaction cannot be encoded, or it cannot be decoded though its checksum is right.
    #[error("thaw log, transaction at offset {offset}: {source}")]
    Transaction {
        /// Offset of its frame.
        offset: LogOffset,
        /// What is wrong with it.
        source: FormatError,
    },
    /// The log does not continue the current state of the image.
    #[error("the thaw log does not fit the image: {0} (nothing of it was replayed)")]
    Foreign(#[from] Misfit),
    /// Bytes that were durable are damaged.
    #[error("the thaw log is damaged at offset {at}, though it was durable up to {durable}: {why}")]
    Damaged {
        /// Offset of the first damaged byte.
        at: LogOffset,
        /// End of the synced bytes.
        durable: LogOffset,
        /// What is wrong there.
        why: String,
    },
    /// A frame is not the frame of written bytes that a range names, or is damaged.
    #[error("thaw log, written bytes at offset {offset}: {why}")]
    Written {
        /// Offset of the frame.
        offset: LogOffset,
        /// What is wrong with it.
        why: String,
    },
    /// Something does not fit into one segment.
    #[error("{what} of {len} bytes does not fit into a segment of the thaw log of {segment_size} bytes")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its bytes.
        len: u64,
        /// Bytes of a segment.
        segment_size: u64,
    },
    /// A segment size or epoch that the format does not allow.
    #[error("thaw log: {what} is {value}")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A new log cannot begin, because there is a log with commits.
    #[error("there is already a thaw log, with {transactions} transactions")]
    Occupied {
        /// Number of its last transaction.
        transactions: u64,
    },
    /// An earlier commit was begun and has not ended.
    #[error("an earlier commit has not ended")]
    Unfinished,
    /// An earlier sync or truncation failed: it is not known what is durable.
    #[error("an earlier write to the thaw log failed: nothing more is written to it")]
    Stopped,
}
