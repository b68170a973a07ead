//! What can go wrong with a thaw log.

use super::fit::Misfit;
use crate::format::FormatError;
use crate::format::ids::LogOffset;
use crate::storage::StorageError;
use thiserror::Error;

/// Why a thaw log was not written or not read.
#[derive(Debug, Error)]
pub enum ThawError {
    /// The directory or a segment could not be read or changed.
    #[error("thaw log: {0}")]
    Storage(#[from] StorageError),
    /// A transaction cannot be encoded, or not be decoded though its checksum is right.
    #[error("thaw log, transaction at offset {offset}: {source}")]
    Transaction {
        /// Offset of its frame.
        offset: LogOffset,
        /// What is wrong with it.
        source: FormatError,
    },
    /// It does not continue the image as it is.
    #[error("the thaw log does not fit the image: {0} (nothing of it was replayed)")]
    Foreign(#[from] Misfit),
    /// Bytes that were durable once are not right any more.
    #[error("the thaw log is damaged at offset {at}, though it was durable up to {durable}: {why}")]
    Damaged {
        /// First byte that is not right.
        at: LogOffset,
        /// Up to where it was synced.
        durable: LogOffset,
        /// What is wrong there.
        why: String,
    },
    /// A frame of written bytes is not what a range of a file needs.
    #[error("thaw log, written bytes at offset {offset}: {why}")]
    Written {
        /// Offset of the frame.
        offset: LogOffset,
        /// What is wrong with it.
        why: String,
    },
    /// More than fits into one segment.
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
    /// There is a log with commits where a new one was to begin.
    #[error("a thaw log with {transactions} transactions is there already")]
    Occupied {
        /// Number of its last transaction.
        transactions: u64,
    },
    /// A commit was begun and not yet ended.
    #[error("the commit before has not ended")]
    Unfinished,
    /// An earlier sync or truncation failed: what is durable is not known.
    #[error("an earlier write to the thaw log failed: nothing more is written to it")]
    Stopped,
}
