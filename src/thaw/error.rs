//! What can go wrong with a thaw log.

use crate::format::FormatError;
use crate::format::ids::LogOffset;
use crate::log::LogError;
use crate::storage::StorageError;
use thiserror::Error;

/// Why a thaw log was not written or not read.
#[derive(Debug, Error)]
pub enum ThawError {
    /// A frame could not be written or read.
    #[error("thaw log: {0}")]
    Log(#[from] LogError),
    /// The folder could not be changed or listed.
    #[error("thaw log: {0}")]
    Folder(#[from] StorageError),
    /// A transaction cannot be encoded, or decoded though its sum is right.
    #[error("thaw log, transaction at offset {offset}: {source}")]
    Transaction {
        /// Offset of its frame.
        offset: LogOffset,
        /// What is wrong with it.
        source: FormatError,
    },
    /// It is another image's, or continues a state that the image is no longer in.
    #[error("the thaw log does not belong to the image as it is: {why} (it was set aside, nothing of it was replayed)")]
    Foreign {
        /// What does not fit.
        why: &'static str,
    },
    /// Something that was once durable is not there any more.
    #[error("the thaw log is damaged at offset {at}, though it was durable up to {durable}: {why}")]
    Damaged {
        /// First byte that is not right.
        at: LogOffset,
        /// Up to where it was synced.
        durable: LogOffset,
        /// What is wrong there.
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
    /// An earlier sync failed: what is durable is not known.
    #[error("an earlier write to the thaw log failed: nothing more is written to it")]
    Stopped,
}
