//! Why nothing was packed.

use crate::chunk::ChunkError;
use crate::format::FormatError;
use crate::log::LogError;
use crate::meta::{HeadError, MetaError};
use crate::storage::{AtomicError, StorageError};
use crate::table::TableError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why nothing was packed.
#[derive(Debug, Error)]
pub enum PackError {
    /// The image exists already.
    #[error("cannot write '{}': the file exists (--force replaces it)", image.display())]
    Exists {
        /// The image.
        image: PathBuf,
    },
    /// A source cannot be read.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The path of the source.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Two sources have the same name.
    #[error("cannot pack two sources that are both named '{name}': the root directory can hold only one of them")]
    SameName {
        /// The name.
        name: String,
    },
    /// The image is the only source.
    #[error("cannot pack '{}' into itself: it is the only source", image.display())]
    OnlyItself {
        /// The image.
        image: PathBuf,
    },
    /// No source was named.
    #[error("cannot pack: no file or directory to pack was named")]
    NoSource,
    /// The image cannot be written.
    #[error("cannot write '{}': {source}", image.display())]
    Image {
        /// The image.
        image: PathBuf,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// The image's head slots cannot be written.
    #[error("cannot write '{}': {source}", image.display())]
    Head {
        /// The image.
        image: PathBuf,
        /// Why.
        #[source]
        source: HeadError,
    },
    /// The image cannot be put under its name.
    #[error(transparent)]
    Appear(AtomicError),
    /// The image's log cannot be written.
    #[error("cannot write '{}': {source}", image.display())]
    Log {
        /// The image.
        image: PathBuf,
        /// Why.
        #[source]
        source: LogError,
    },
    /// The image's tables cannot be written.
    #[error("cannot write the tables of the image: {0}")]
    Table(#[from] TableError),
    /// An option or a value does not fit the format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The memory limit is too low for the codec.
    #[error("cannot pack with {} MiB of memory: this codec and superchunk size need {} MiB (set them with --memory)", given >> 20, need.div_ceil(1 << 20))]
    Memory {
        /// Bytes given.
        given: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Data that did not fit in memory could not be written to a temporary file.
    #[error("cannot keep intermediate data in '{}': {source}", dir.display())]
    Spill {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The dedup index failed.
    #[error(transparent)]
    Index(#[from] ChunkError),
    /// The process or the system has no file descriptor left.
    #[error("cannot open '{}': {source} (raise the limit of open files: 'ulimit -n')", path.escape_debug())]
    Descriptors {
        /// Path in the image of the file that could not be opened.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tables of a rehearsal cannot be read back.
    #[error("cannot read the tables of the trial run that estimates the image: {source}")]
    Rehearsal {
        /// Why.
        #[source]
        source: MetaError,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread that packs: {source}")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another stage failed; report its error instead.
    #[error("packing was stopped because another of its threads failed")]
    Stopped,
    /// The observer asked to stop.
    #[error("packing was interrupted: no image was written")]
    Cancelled,
}

impl From<AtomicError> for PackError {
    fn from(error: AtomicError) -> Self {
        match error {
            // As it was named, without the directory it is in.
            AtomicError::Exists(image) => {
                PackError::Exists { image: image.strip_prefix(".").map(Path::to_path_buf).unwrap_or(image) }
            }
            other => PackError::Appear(other),
        }
    }
}

impl PackError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        PackError::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn descriptors(path: &[u8], source: io::Error) -> Self {
        PackError::Descriptors { path: String::from_utf8_lossy(path).into_owned(), source }
    }

    pub(super) fn image(image: &Path, source: StorageError) -> Self {
        PackError::Image { image: image.to_owned(), source }
    }

    pub(super) fn log(image: &Path, source: LogError) -> Self {
        PackError::Log { image: image.to_owned(), source }
    }
}
