//! Options of an extraction, its observer, and its result.

use crate::format::rows::FileType;
use thiserror::Error;

/// How many directories are held open by default.
const OPEN_DIRECTORIES: usize = 32;

/// What to do with a name that exists in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Leave what is there.
    #[default]
    Never,
    /// Leave it if it has the type, and as a file the size and the mtime, that it would get; otherwise replace it.
    Changed,
    /// Replace it.
    Always,
}

/// What a filter decides about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Extract it. If it is a directory, walk it.
    Take,
    /// Leave it out, with everything in it.
    Skip,
    /// Walk this directory, but make it only if something in it is extracted.
    Search,
}

/// Called with each path (from the image's root, without a leading slash) and its type.
pub type ExtractFilter<'a> = dyn Fn(&[u8], FileType) -> Pick + 'a;

/// How to extract.
pub struct ExtractOptions<'a> {
    /// What to do with names that exist.
    pub overwrite: Overwrite,
    /// Number of leading components stripped from each path. A path with no more components than that is not extracted.
    pub strip_components: usize,
    /// What is extracted.
    pub filter: &'a ExtractFilter<'a>,
    /// How many directories of the target are held open on the way down, and as many again for files that have further
    /// names. With fewer, deep directories are reopened more often.
    pub open_directories: usize,
    /// Device and inode of the image's own files. None of them is replaced, and nothing is put into those that are
    /// directories.
    pub own: Vec<(u64, u64)>,
}

impl Default for ExtractOptions<'_> {
    fn default() -> Self {
        ExtractOptions {
            overwrite: Overwrite::default(),
            strip_components: 0,
            filter: &|_, _| Pick::Take,
            open_directories: OPEN_DIRECTORIES,
            own: Vec::new(),
        }
    }
}

/// Receives what happens. Paths are those in the image.
pub trait ExtractObserver {
    /// Something was made.
    fn extracted(&self, path: &[u8]) {
        let _ = path;
    }
    /// A name of the target was left as it is.
    fn skipped(&self, path: &[u8]) {
        let _ = path;
    }
    /// How many files were made and bytes written so far.
    fn progress(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// It was made, but lacks something that only root can restore. Each kind is reported once.
    fn note(&self, path: &[u8], message: &str) {
        let _ = (path, message);
    }
    /// It was made, but not all of its attributes could be set.
    fn warning(&self, path: &[u8], message: &str);
    /// It could not be made.
    fn error(&self, path: &[u8], message: &str);
    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// What an extraction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractSummary {
    /// Files, links and devices made, including further names of a file.
    pub files: u64,
    /// Of these: symlinks, devices, FIFOs, sockets, and further names of a file.
    pub others: u64,
    /// Directories made, and the target itself if it got the attributes of the image's root.
    pub directories: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Names left as they were.
    pub skipped: u64,
    /// Attributes that could not be set; of each kind only the first.
    pub warnings: u64,
    /// Things that could not be made or read.
    pub errors: u64,
}

/// Why an extraction ended early.
#[derive(Debug, Error)]
pub enum ExtractError {
    /// The target directory cannot be made or opened.
    #[error("cannot use '{}' as the directory to extract into: {source}", path.display())]
    Target {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The process or the system has no descriptors left.
    #[error("cannot open '{}': {source} (raise the limit of open files: 'ulimit -n')", path.escape_debug())]
    Descriptors {
        /// Path in the image.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The target is full or cannot be written, so no further file can be.
    #[error("cannot write '{}': {source} (nothing more is extracted)", path.escape_debug())]
    Refused {
        /// Path in the image.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The observer cancelled it.
    #[error("the extraction was interrupted: what it has written stays")]
    Cancelled,
}
