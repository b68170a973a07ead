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
    #[error("cannot decode the transaction at offset {offset} of the thaw log: {source}")]
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
    #[error("cannot read written bytes at offset {offset} of the thaw log: {why}")]
    Written {
        /// Offset of the frame.
        offset: LogOffset,
        /// What is wrong with it.
        why: String,
    },
    /// Something does not fit into one segment.
    #[error("cannot write {what} of {len} bytes to the thaw log: its segments have {segment_size} bytes")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its bytes.
        len: u64,
        /// Bytes of a segment.
        segment_size: u64,
    },
    /// A segment size or epoch that the format does not allow.
    #[error("cannot write to the thaw log: {what} is {value}, which is not allowed")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A new log cannot begin, because there is a log with commits.
    #[error("cannot make a thaw log: there already is one, with {transactions} transactions")]
    Occupied {
        /// Number of its last transaction.
        transactions: u64,
    },
    /// An earlier commit was begun and has not ended.
    #[error("cannot commit to the thaw log: an earlier commit has not ended")]
    Unfinished,
    /// An earlier sync or truncation failed: it is not known what is durable.
    #[error(
        "cannot write to the thaw log: an earlier write to it failed, so nothing more is written until it is opened again"
    )]
    Stopped,
}
