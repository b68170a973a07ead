//! Predicts how small a tree would become, from a sample of it.
//!
//! Either everything is read and cut, and a part of the superchunks is compressed ([`whole`]); or only a part is read
//! ([`fast`]). Both say how far off they may be, by how much the parts of the sample differ, not by a constant.
//! Invariants: no image results, temporary files have no names, and if everything was compressed the prediction is
//! exact. Called by the run of a benchmark.

mod estimate;
mod fast;
mod growth;
mod whole;

use super::report::Size;
use crate::pack::{PackError, PackObserver, PackOptions, PackSummary};
use std::path::{Path, PathBuf};

/// Options of a sample.
#[derive(Debug, Clone, Copy)]
pub struct SampleOptions<'a> {
    /// Number of raw bytes to compress; if `fast` is true, number of bytes to read.
    pub bytes: u64,
    /// Whether to read no more than `bytes` bytes of the tree. Otherwise everything is read.
    pub fast: bool,
    /// Seed that decides which parts of the tree are in the sample.
    pub seed: u64,
    /// Directory for temporary files: up to twice `bytes` (nine superchunks, if that is more), 8 KiB a superchunk, and
    /// rows that do not fit into memory.
    pub work: &'a Path,
}

/// The result of a prediction.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Size that an image would have. What each step saved is unknown.
    pub size: Size,
    /// Files, directories and bytes as `pack` would report them. If only a sample was read, unique and shared bytes are
    /// those of the sample.
    pub summary: PackSummary,
    /// Number of raw bytes that were compressed.
    pub compressed: u64,
}

/// A callback that receives the fraction of the sample that is compressed.
pub type Shares<'a> = dyn Fn(f64) + Sync + 'a;

/// Predicts the size of the image that `pack` would make of the sources.
///
/// At least four superchunks are compressed, and otherwise at most about 1.3 times the requested bytes; `watch`
/// receives the progress.
///
/// # Errors
/// Fails as [`crate::pack::pack`] does, except for errors about the image; also if temporary files cannot be written.
pub fn predict(
    sources: &[PathBuf],
    options: &PackOptions,
    how: &SampleOptions<'_>,
    observer: &dyn PackObserver,
    watch: &Shares<'_>,
) -> Result<Prediction, PackError> {
    let predict = if how.fast { fast::predict } else { whole::predict };
    predict(sources, options, how, observer, watch)
}
