//! The input of a run, the observer of its progress, and the errors for which there is no report. Called by
//! `cli/bench.rs` and by `run`.

use super::report::{Entry, Sample};
use super::settings::Setting;
use crate::pack::PackOptions;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// What to measure.
#[derive(Clone)]
pub struct Plan {
    /// The tree; an absolute path.
    pub source: PathBuf,
    /// The tree's name for display.
    pub shown: String,
    /// floe's settings.
    pub settings: Vec<Setting>,
    /// If set, only a part is compressed: the size is predicted, and nothing else is measured.
    pub sample: Option<Sample>,
    /// Threads and memory of a prediction. The other options are the setting's.
    pub pack: PackOptions,
    /// Whether other programs are measured, too.
    pub with_peers: bool,
    /// A step of a peer that takes longer is stopped.
    pub peer_limit: Option<Duration>,
    /// The directory in which the work directory is made; absolute.
    pub base: PathBuf,
    /// Threads that pack.
    pub jobs: usize,
    /// The program that packs and mounts: this one.
    pub program: PathBuf,
    /// The directories to search for programs, as in PATH.
    pub path: OsString,
    /// The current time, seconds since 1970.
    pub time: i64,
}

/// The progress of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct At {
    /// The entry: "floe balanced".
    pub entry: String,
    /// What is being done: "packing".
    pub doing: &'static str,
    /// Its number, from 1.
    pub number: usize,
    /// Number of all entries.
    pub entries: usize,
    /// Fraction of the step that is done, if known.
    pub share: Option<f64>,
    /// Estimate of the seconds left, if possible.
    pub seconds_left: Option<f64>,
}

/// Receives the progress of a run. Called from several threads, ten times a second.
pub trait BenchObserver: Sync {
    /// The current progress.
    fn at(&self, at: &At);
    /// Something that a reader of the figures must know.
    fn note(&self, text: &str);
    /// Something in the source could not be read; the run continues.
    fn finding(&self, text: &str);
    /// An entry has ended.
    fn entry(&self, entry: &Entry);
    /// Whether the run must stop.
    fn cancelled(&self) -> bool;
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The observer asked to stop.
    #[error("the benchmark was interrupted")]
    Interrupted,
    /// The source cannot be read.
    #[error("cannot read the source '{path}'")]
    Source {
        /// Its name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work directory cannot be made or used.
    #[error("cannot use '{path}' as the work directory (choose another with --work)")]
    Work {
        /// Its name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work directory is inside the source.
    #[error("the work directory '{work}' is inside the source: it would be packed, too (choose another with --work)")]
    WorkInSource {
        /// Its name.
        work: String,
    },
    /// There is not even room for a well compressed image.
    #[error(
        "'{path}' has {} MiB free, and an entry may need {} MiB (choose another place with --work, or take a --sample)",
        free >> 20, needed >> 20
    )]
    NoSpace {
        /// The work directory's base.
        path: String,
        /// Bytes.
        free: u64,
        /// Bytes.
        needed: u64,
    },
}
