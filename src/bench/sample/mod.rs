//! How small a tree would get, from a sample of it.
//!
//! All of it is read and cut, and a part of its superchunks compressed ([`whole`]); or only a part of it is read ([`fast`]). Either says
//! how far off it may be: what the parts of the sample differ by, not a constant, decides that. Invariants: no image comes of it,
//! temporary files have no names, and if everything was compressed the prediction is the truth. Called by the run of a benchmark.

mod estimate;
mod fast;
mod growth;
mod whole;

use super::report::Size;
use crate::pack::{PackError, PackObserver, PackOptions, PackSummary};
use std::path::{Path, PathBuf};

/// How to sample.
#[derive(Debug, Clone, Copy)]
pub struct SampleOptions<'a> {
    /// Raw bytes to compress; if `fast`, to read.
    pub bytes: u64,
    /// Read no more than that. Else all is read.
    pub fast: bool,
    /// Which parts of the tree are in the sample.
    pub seed: u64,
    /// Where temporary files are: up to twice `bytes` (nine superchunks, if that is more), 8 KiB a superchunk, and what spills.
    pub work: &'a Path,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// The size that an image would have. What each step saved is not known.
    pub size: Size,
    /// Files, directories and bytes: as `pack` would say. Unique and shared bytes: if `fast`, of the sample alone.
    pub summary: PackSummary,
    /// Raw bytes that were compressed.
    pub compressed: u64,
}

/// Is told which share of the sample is compressed.
pub type Shares<'a> = dyn Fn(f64) + Sync + 'a;

/// Predicts the size of the image that `pack` would make of the sources.
///
/// Four superchunks are compressed at least, and otherwise at most about 1.3 times the bytes asked for; `watch` is told how far that is.
///
/// # Errors
/// As [`crate::pack::pack`], but for those of the image; and if temporary files cannot be written.
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
