//! Appends, syncs, reads and scans the frames of an image's log (section 2).
//!
//! Everything returned is verified, except by `stored_unverified` and `stored_range`. No memory is allocated for a
//! length that is not within the log and the bytes available. A writer never appends into a 4 KiB block that holds
//! synced bytes. The module knows frames, not their contents. Called by `meta`, `pack`, `inflate`, `fs`, `freeze` and
//! `care`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod reader;
mod scan;
mod window;
mod writer;

pub use reader::LogReader;
pub use scan::Scan;
pub use writer::{LogWriter, NewFrame};

use crate::format::FormatError;
use crate::format::ids::LogOffset;
use crate::storage::StorageError;
use thiserror::Error;

/// Why a frame of the log could not be read or written.
#[derive(Debug, Error)]
pub enum LogError {
    /// The storage could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The frame is not valid.
    #[error("the frame at offset {offset} of the log is not valid: {source}")]
    Format {
        /// Offset of the frame's header.
        offset: LogOffset,
        /// What is wrong with the frame.
        source: FormatError,
    },
    /// The bytes do not end where the log ends, so a writer would append elsewhere.
    #[error("cannot append to the log: it ends at offset {end}, but the file has {len} bytes")]
    NotAtEnd {
        /// Offset in bytes where the log ends.
        end: u64,
        /// Length of the storage in bytes.
        len: u64,
    },
    /// The log ends inside a 4 KiB block, which may hold synced bytes: a writer must not append there.
    #[error("cannot append to the log: it ends at offset {end}, inside a 4 KiB block that may hold synced bytes")]
    InsideBlock {
        /// Offset in bytes where the log ends.
        end: u64,
    },
    /// An earlier error left it unknown what is durable, so nothing more is written.
    #[error(
        "cannot write to the log: an earlier write to it failed, so nothing more is written until it is opened again"
    )]
    Stopped,
}

impl LogError {
    /// Makes a [`LogError::Format`].
    pub const fn format(offset: LogOffset, source: FormatError) -> Self {
        LogError::Format { offset, source }
    }
}

#[cfg(test)]
mod dead_tests;
#[cfg(test)]
mod tests;
