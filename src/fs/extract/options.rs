//! Options of an extraction, its observer, and its result.

use crate::format::rows::FileType;
use thiserror::Error;

/// Number of directories that are held open by default.
const OPEN_DIRECTORIES: usize = 32;

/// What to do with a name that already exists in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Leave the existing file as it is.
    #[default]
    Never,
    /// Leave the existing file if it has the type, and as a regular file the size and the mtime, that it would get;
    /// otherwise replace it.
    Changed,
    /// Replace the existing file.
    Always,
}

/// What a filter decides about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Extract the path. If it is a directory, walk it.
    Take,
    /// Leave the path out, with everything in it.
    Skip,
    /// Walk this directory, but make it only if something in it is extracted.
    Search,
}

/// A filter, called with each path (from the image's root, without a leading slash) and its type.
pub type ExtractFilter<'a> = dyn Fn(&[u8], FileType) -> Pick + 'a;

/// Options for an extraction.
pub struct ExtractOptions<'a> {
    /// What to do with names that exist in the target.
    pub overwrite: Overwrite,
    /// Number of leading components stripped from each path. A path with no more components than that is not extracted.
    pub strip_components: usize,
    /// Filter that decides about each path.
    pub filter: &'a ExtractFilter<'a>,
    /// Number of directories of the target that are held open on the way down, and as many again for files that have
    /// further names. With fewer, deep directories are reopened more often.
    pub open_directories: usize,
    /// Device and inode numbers of the image's own files. None of them is replaced, and nothing is put into those that
    /// are directories.
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

/// Receives the progress of an extraction. Paths are those in the image.
pub trait ExtractObserver {
    /// Reports that a file or directory was made.
    fn extracted(&self, path: &[u8]) {
        let _ = path;
    }
    /// Reports that a name of the target was left as it was.
    fn skipped(&self, path: &[u8]) {
        let _ = path;
    }
    /// Reports how many files were made and bytes written so far.
    fn progress(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// Reports that a file was made, but lacks something that only root can restore. Each kind of such a lack is
    /// reported once.
    fn note(&self, path: &[u8], message: &str) {
        let _ = (path, message);
    }
    /// Reports that a file was made, but not all of its attributes could be set.
    fn warning(&self, path: &[u8], message: &str);
    /// Reports that a file could not be made.
    fn error(&self, path: &[u8], message: &str);
    /// Returns whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Result of an extraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractSummary {
    /// Number of files, links and devices made, including further names of a file.
    pub files: u64,
    /// Number of symlinks, devices, FIFOs, sockets, and further names of a file, which `files` includes.
    pub others: u64,
    /// Number of directories made, with the target itself if it got the attributes of the image's root.
    pub directories: u64,
    /// Number of bytes written.
    pub bytes: u64,
    /// Number of names left as they were.
    pub skipped: u64,
    /// Number of attributes that could not be set. Of owners, and of each xattr, only the first with each error counts.
    pub warnings: u64,
    /// Number of files that could not be made or read.
    pub errors: u64,
}

/// Why an extraction ended early.
#[derive(Debug, Error)]
pub enum ExtractError {
    /// The target directory cannot be made or opened.
    #[error("cannot use '{}' as the directory to extract into: {source}", path.display())]
    Target {
        /// Path of the directory.
        path: std::path::PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The process or the system has no file descriptors left.
    #[error("cannot open '{}': {source} (raise the limit of open files: 'ulimit -n')", path.escape_debug())]
    Descriptors {
        /// Path of the current file in the image.
        path: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The target is full or cannot be written, so that no further file can be made.
    #[error("cannot write '{}': {source} (nothing more is extracted)", path.escape_debug())]
    Refused {
        /// Path of the current file in the image.
        path: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The observer cancelled the extraction.
    #[error("the extraction was interrupted: what it has written stays")]
    Cancelled,
}
