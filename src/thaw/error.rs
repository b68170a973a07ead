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
    #[error("cannot read or write the thaw log: {0}")]
    Storage(#[from] StorageError),
    /// A transaction cannot be encoded, or it cannot be decoded though its checksum is right.
    #[error("the transaction at offset {offset} of the thaw log is not valid: {source}")]
    Transaction {
        /// Offset in the log of the transaction's frame.
        offset: LogOffset,
        /// What is wrong with the transaction.
        source: FormatError,
    },
    /// The log does not continue the current state of the image.
    #[error("the thaw log does not fit the image: {0} (nothing of it was replayed)")]
    Foreign(#[from] Misfit),
    /// Bytes that were durable are damaged.
    #[error("the thaw log is damaged at offset {at}, though it was durable up to {durable}: {why}")]
    Damaged {
        /// Offset in the log of the first damaged byte.
        at: LogOffset,
        /// Offset in the log up to which bytes were synced.
        durable: LogOffset,
        /// What is wrong at the damaged bytes.
        why: String,
    },
    /// A frame is not the frame of written bytes that a range names, or is damaged.
    #[error("cannot read written bytes at offset {offset} of the thaw log: {why}")]
    Written {
        /// Offset in the log of the frame.
        offset: LogOffset,
        /// What is wrong with the frame.
        why: String,
    },
    /// A transaction or written bytes do not fit into one segment.
    #[error("cannot write {what} of {len} bytes to the thaw log: its segments have {segment_size} bytes")]
    TooLarge {
        /// Name of what is too large.
        what: &'static str,
        /// Length in bytes of what is too large.
        len: u64,
        /// Length of a segment in bytes.
        segment_size: u64,
    },
    /// A segment size or epoch is not allowed by the format.
    #[error("cannot write to the thaw log: {what} is {value}, which is not allowed")]
    Invalid {
        /// Name of the value that is not allowed.
        what: &'static str,
        /// The value that is not allowed.
        value: u64,
    },
    /// A new log cannot begin, because there is a log with commits.
    #[error("cannot make a thaw log: there already is one, with {transactions} transactions")]
    Occupied {
        /// Number of the last transaction of the existing log.
        transactions: u64,
    },
    /// An earlier commit was begun and has not ended.
    #[error("cannot commit to the thaw log: an earlier commit has not ended")]
    Unfinished,
    /// An earlier sync or truncation failed, so it is not known what is durable.
    #[error(
        "cannot write to the thaw log: an earlier write to it failed, so nothing more is written until it is opened \
         again"
    )]
    Stopped,
}
