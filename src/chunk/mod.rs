//! Cuts file data into subchunks, and finds equal subchunks.
//!
//! The cuts depend on the data, the chunker and its key alone, as format-spec section 15 defines; borders are part of
//! the format. An index's answers depend only on what was inserted. Its memory is bounded: beyond a limit it moves to
//! unlinked temporary files. Called by the packer and the freezer.

mod cdc;
mod fixed;
mod index;
mod region;
mod spill;

use crate::format::ids::SubchunkId;
use crate::format::params::{Chunker, Params};
pub use index::DedupIndex;
pub use spill::{Spill, unlinked_file};
use std::io;
use thiserror::Error;

/// Why a dedup index failed.
#[derive(Debug, Error)]
pub enum ChunkError {
    /// A temporary file could not be created or written.
    #[error("cannot use a temporary file in {dir}: {source}")]
    Spill {
        /// Directory of the temporary file.
        dir: std::path::PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The ids of inserted subchunks do not ascend.
    #[error("cannot add subchunk {id} to the dedup index: its id does not follow the last one, {last}")]
    Order {
        /// Id of the subchunk to insert.
        id: SubchunkId,
        /// Id of the last subchunk inserted before.
        last: SubchunkId,
    },
    /// The index holds as many subchunks as it can number.
    #[error("cannot add a subchunk to the dedup index: it already holds its limit of {limit} subchunks")]
    Full {
        /// Most subchunks that an index holds.
        limit: u64,
    },
}

/// Cuts file data into subchunks; all threads can share one cutter.
#[derive(Debug, Clone)]
pub struct Cutter(Kind);

#[derive(Debug, Clone)]
enum Kind {
    FastCdc(cdc::FastCdc),
    Fixed(fixed::Fixed),
}

impl Cutter {
    /// Makes the cutter that the parameters name, with the parameters' key.
    pub fn new(params: &Params) -> Self {
        Cutter(match params.chunker {
            Chunker::FastCdc { min, avg, max } => Kind::FastCdc(cdc::FastCdc::new(min, avg, max, &params.chunk_key)),
            Chunker::Fixed(len) => Kind::Fixed(fixed::Fixed::new(len)),
        })
    }

    /// Returns the length of the first subchunk of `data` in bytes: at least 1 unless `data` is empty. `data` must have
    /// at least [`Cutter::max_len`] bytes, unless it ends at the end of the file or at a hole: with fewer bytes the
    /// answer may differ.
    pub fn cut(&self, data: &[u8]) -> usize {
        match &self.0 {
            Kind::FastCdc(chunker) => chunker.cut(data),
            Kind::Fixed(chunker) => chunker.cut(data),
        }
    }

    /// Returns the length of the longest subchunk in bytes.
    pub fn max_len(&self) -> usize {
        match &self.0 {
            Kind::FastCdc(chunker) => chunker.max_len(),
            Kind::Fixed(chunker) => chunker.max_len(),
        }
    }
}
