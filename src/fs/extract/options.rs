//! How to extract, who is told, and what comes of it.

use crate::format::rows::FileType;
use thiserror::Error;

/// Directories held open where nobody says how many.
const OPEN_DIRECTORIES: usize = 32;

/// What to do with a name that the target has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Leave what is there.
    #[default]
    Never,
    /// Leave it if it has the type, and as a file the size and the mtime, that it would get; else replace it.
    Changed,
    /// Replace it.
    Always,
}

/// What a filter says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Take it; of a directory, look at what is in it.
    Take,
    /// Leave it, and all that is in it.
    Skip,
    /// A directory that is only made if something in it is taken.
    Search,
}

/// Asked of each path (from the image's root, without a slash in front) and its type.
pub type ExtractFilter<'a> = dyn Fn(&[u8], FileType) -> Pick + 'a;

/// How to extract.
pub struct ExtractOptions<'a> {
    /// What to do with names that are there.
    pub overwrite: Overwrite,
    /// Number of leading components stripped from each path; a path that has no more is not extracted.
    pub strip_components: usize,
    /// What is taken.
    pub filter: &'a ExtractFilter<'a>,
    /// Directories of the target to hold open on the way down, and as many again where files have further names. With fewer,
    /// deep directories are opened more often.
    pub open_directories: usize,
    /// Device and inode of the image's own files: none is replaced, and nothing is put into those that are directories.
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

/// Is told what happens. Paths are those in the image.
pub trait ExtractObserver {
    /// Something was made.
    fn extracted(&self, path: &[u8]) {
        let _ = path;
    }
    /// A name of the target was left as it is.
    fn skipped(&self, path: &[u8]) {
        let _ = path;
    }
    /// So many things were made, and bytes written, so far.
    fn progress(&self, files: u64, bytes: u64) {
        let _ = (files, bytes);
    }
    /// It was made, without something that only root can restore. Told once of each kind.
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

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractSummary {
    /// Things made that are no directories; further names of a file too.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Names left as they were.
    pub skipped: u64,
    /// Attributes that could not be set; of one kind, only the first.
    pub warnings: u64,
    /// Things that could not be made or read.
    pub errors: u64,
}

/// Why nothing more was extracted.
#[derive(Debug, Error)]
pub enum ExtractError {
    /// The target folder cannot be made or opened.
    #[error("cannot use '{}' as target: {source}", path.display())]
    Target {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The process, or the system, has no descriptor left.
    #[error("cannot open '{}': {source} (raise the limit of open files: 'ulimit -n')", path.escape_debug())]
    Descriptors {
        /// Path in the image.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The observer wanted it to end.
    #[error("interrupted")]
    Cancelled,
}
