//! What an image's layout gains and costs, counted and not timed: [`subchunks_alone`] and [`read_cost`].
//!
//! The figures depend only on the image and the options, not on threads or the machine. Nothing is written. Memory is
//! bounded; the time is that of reading what is measured. Called by bench.

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

/// Receives the progress of a measurement, from several threads.
pub trait MeasureObserver: Sync {
    /// Reports how many of the raw bytes are done.
    fn progress(&self, _done: u64, _total: u64) {}
    /// Returns whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that ignores everything.
impl MeasureObserver for () {}

/// Why an image could not be measured.
#[derive(Debug, Error)]
pub enum MeasureError {
    /// The observer cancelled the measurement.
    #[error("measuring the image was interrupted")]
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
    /// A row is not valid, or the image's codec is unknown or cannot compress.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A thread cannot be started.
    #[error("cannot start a thread that measures the image: {0}")]
    Thread(#[source] io::Error),
    /// The path is not a directory.
    #[error("'{path}' is not a directory of the image")]
    NotDirectory {
        /// The path, as far as it is UTF-8.
        path: String,
    },
}

/// Returns `Cancelled` if the observer wants to stop.
fn go_on(observer: &dyn MeasureObserver) -> Result<(), MeasureError> {
    if observer.cancelled() { Err(MeasureError::Cancelled) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
