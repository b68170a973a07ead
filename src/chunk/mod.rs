//! Cutting file data into subchunks, and finding the ones that are equal.
//!
//! Where data is cut depends on the data, the chunker and its key alone, as format-spec section 15 lays it down; borders
//! are part of the format. Indexes are functions of what was put into them, and their memory is bounded: beyond a limit it
//! lies in unlinked temporary files. Called by the packer and the freezer.

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

/// What can go wrong with an index.
#[derive(Debug, Error)]
pub enum ChunkError {
    /// A temporary file could not be made or written.
    #[error("cannot use a temporary file in {dir}: {source}")]
    Spill {
        /// The folder.
        dir: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Ids have to ascend.
    #[error("subchunk {id} was put into an index whose last one is {last}")]
    Order {
        /// The id.
        id: SubchunkId,
        /// The last id before.
        last: SubchunkId,
    },
    /// More subchunks than an index can number.
    #[error("an index holds no more than {limit} subchunks")]
    Full {
        /// How many it holds.
        limit: u64,
    },
}

/// Cuts file data; one can be used by all threads.
#[derive(Debug, Clone)]
pub struct Cutter(Kind);

#[derive(Debug, Clone)]
enum Kind {
    FastCdc(cdc::FastCdc),
    Fixed(fixed::Fixed),
}

impl Cutter {
    /// The chunker that the parameters name, with their key.
    pub fn new(params: &Params) -> Self {
        Cutter(match params.chunker {
            Chunker::FastCdc { min, avg, max } => Kind::FastCdc(cdc::FastCdc::new(min, avg, max, &params.chunk_key)),
            Chunker::Fixed(len) => Kind::Fixed(fixed::Fixed::new(len)),
        })
    }

    /// Bytes of the first subchunk of `data`, at least 1 unless `data` is empty. Unless `data` goes up to the end of the file
    /// or to a hole, it must have [`Cutter::max_len`] bytes or more: with fewer the answer may be another.
    pub fn cut(&self, data: &[u8]) -> usize {
        match &self.0 {
            Kind::FastCdc(chunker) => chunker.cut(data),
            Kind::Fixed(chunker) => chunker.cut(data),
        }
    }

    /// Bytes of the longest subchunk.
    pub fn max_len(&self) -> usize {
        match &self.0 {
            Kind::FastCdc(chunker) => chunker.max_len(),
            Kind::Fixed(chunker) => chunker.max_len(),
        }
    }
}
