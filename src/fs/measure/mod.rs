//! What an image's layout gains and costs, counted and not timed: [`subchunks_alone`] and [`read_cost`].
//!
//! The figures depend on the image and the options alone, not on threads or on the machine. Nothing is written. Memory is
//! bounded; time is that of reading what is measured. Called by bench.

mod alone;
mod read_cost;
mod tree;

pub use alone::{Alone, AloneOptions, subchunks_alone};
pub use read_cost::{RANDOM_READ, ReadCost, Reads, read_cost};

use super::FsError;
use crate::format::FormatError;
use crate::inflate::InflateError;
use crate::meta::MetaError;
use std::io;
use thiserror::Error;

/// Is told what happens, by several threads.
pub trait MeasureObserver: Sync {
    /// How many of how many raw bytes were gone over.
    fn progress(&self, _done: u64, _total: u64) {}
    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody who wants to know.
impl MeasureObserver for () {}

/// Why an image could not be measured.
#[derive(Debug, Error)]
pub enum MeasureError {
    /// The observer said so.
    #[error("interrupted")]
    Cancelled,
    /// A name, an inode or a file cannot be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A table cannot be read.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A subchunk cannot be read.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// A row is wrong, the image's codec is not known, or it cannot compress.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// What was named is no directory.
    #[error("'{path}' is not a directory of the image")]
    NotDirectory {
        /// The path, as far as it is UTF-8.
        path: String,
    },
}

/// `Cancelled` if the observer wants to stop.
fn go_on(observer: &dyn MeasureObserver) -> Result<(), MeasureError> {
    if observer.cancelled() { Err(MeasureError::Cancelled) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
