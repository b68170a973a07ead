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

/// Why packing failed.
#[derive(Debug, Error)]
pub enum PackError {
    /// The image exists already.
    #[error("cannot write '{}': the file exists (--force replaces it)", image.display())]
    Exists {
        /// Path of the image.
        image: PathBuf,
    },
    /// A source cannot be read.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// What was attempted: a verb.
        action: &'static str,
        /// Path of the source.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Two sources have the same name.
    #[error("cannot pack two sources that are both named '{name}': the root directory can hold only one of them")]
    SameName {
        /// Name that both sources have.
        name: String,
    },
    /// The image is the only source.
    #[error("cannot pack '{}' into itself: it is the only source", image.display())]
    OnlyItself {
        /// Path of the image.
        image: PathBuf,
    },
    /// No source was named.
    #[error("cannot pack: no file or directory to pack was named")]
    NoSource,
    /// The image cannot be written.
    #[error("cannot write '{}': {source}", image.display())]
    Image {
        /// Path of the image.
        image: PathBuf,
        /// The error of the storage.
        #[source]
        source: StorageError,
    },
    /// The image's head slots cannot be written.
    #[error("cannot write '{}': {source}", image.display())]
    Head {
        /// Path of the image.
        image: PathBuf,
        /// Why the head slots cannot be written.
        #[source]
        source: HeadError,
    },
    /// The finished image cannot get its name.
    #[error(transparent)]
    Appear(AtomicError),
    /// The image's log cannot be written.
    #[error("cannot write '{}': {source}", image.display())]
    Log {
        /// Path of the image.
        image: PathBuf,
        /// Why the log cannot be written.
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
        /// Memory limit that was given, in bytes.
        given: u64,
        /// Memory that is needed, in bytes.
        need: u64,
    },
    /// Data that did not fit in memory could not be written to a temporary file.
    #[error("cannot keep intermediate data in '{}': {source}", dir.display())]
    Spill {
        /// Directory of the temporary file.
        dir: PathBuf,
        /// The error of the operating system.
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
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The tables of a rehearsal (a trial run that estimates the image) cannot be read back.
    #[error("cannot read the tables of the trial run that estimates the image: {source}")]
    Rehearsal {
        /// Why the tables cannot be read.
        #[source]
        source: MetaError,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread that packs: {source}")]
    Thread {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Packing was stopped because another thread failed; report its error instead.
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
