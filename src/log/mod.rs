//! Frames: appended, synced, read and scanned. The one log that image and thaw log both are (section 2).
//!
//! Nothing is handed out that was not verified, but where a function's name says so; nothing is allocated before its
//! length was found to lie within the log and within the bytes there are. A writer never writes into a 4 KiB block that
//! holds bytes it has synced. Knows what a frame is and not what is in it. Called by `table`, `pack`, `inflate`, `care`.

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

/// Why a frame was not read or written.
#[derive(Debug, Error)]
pub enum LogError {
    /// The bytes could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes are not what they should be.
    #[error("frame at offset {offset}: {source}")]
    Format {
        /// Offset of the frame's header.
        offset: LogOffset,
        /// What is wrong.
        source: FormatError,
    },
    /// A writer would not append where the log ends.
    #[error("the log ends at {end}, but there are {len} bytes")]
    NotAtEnd {
        /// Where the log ends.
        end: u64,
        /// Bytes of the storage.
        len: u64,
    },
    /// A writer would begin inside a 4 KiB block, which may hold synced bytes.
    #[error("the log ends at {end}, inside a 4 KiB block that may have been synced: no writer can go on there")]
    InsideBlock {
        /// Where the log ends.
        end: u64,
    },
    /// An earlier write failed in a way after which it is not known what is durable. Nothing more is written.
    #[error("an earlier write to the log failed: nothing more is written to it")]
    Stopped,
}

impl LogError {
    /// Shorthand for [`LogError::Format`].
    pub const fn format(offset: LogOffset, source: FormatError) -> Self {
        LogError::Format { offset, source }
    }
}

#[cfg(test)]
mod dead_tests;
#[cfg(test)]
mod tests;
