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

/// What a run of the benchmark measures.
#[derive(Clone)]
pub struct Plan {
    /// Absolute path of the source tree.
    pub source: PathBuf,
    /// Name of the source tree for display.
    pub shown: String,
    /// Settings of floe to measure.
    pub settings: Vec<Setting>,
    /// Sample to take. If there is one, only a part is compressed, the size is predicted, and nothing else is measured.
    pub sample: Option<Sample>,
    /// Threads and memory of a prediction. The other options are the setting's.
    pub pack: PackOptions,
    /// Whether other programs are measured, too.
    pub with_peers: bool,
    /// Time after which a step of another program is stopped.
    pub peer_limit: Option<Duration>,
    /// Absolute path of the directory in which the work directory is made.
    pub base: PathBuf,
    /// Number of threads that pack.
    pub jobs: usize,
    /// Path of the program that packs and mounts: this one.
    pub program: PathBuf,
    /// Directories to search for programs, as in PATH.
    pub path: OsString,
    /// The current time, seconds since 1970.
    pub time: i64,
}

/// The progress of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct At {
    /// Name of the entry: "floe balanced".
    pub entry: String,
    /// Name of the step: "packing".
    pub doing: &'static str,
    /// Number of the entry, from 1.
    pub number: usize,
    /// Number of all entries.
    pub entries: usize,
    /// Fraction of the step that is done, if known.
    pub share: Option<f64>,
    /// Estimated seconds left, if possible.
    pub seconds_left: Option<f64>,
}

/// Receives the progress of a run. Called from several threads, ten times a second.
pub trait BenchObserver: Sync {
    /// Reports the current progress.
    fn at(&self, at: &At);
    /// Reports something that a reader of the figures must know.
    fn note(&self, text: &str);
    /// Reports that something in the source could not be read; the run continues.
    fn finding(&self, text: &str);
    /// Reports that an entry has ended.
    fn entry(&self, entry: &Entry);
    /// Returns whether the run must stop.
    fn cancelled(&self) -> bool;
}

/// Why a run of the benchmark has no report.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The observer asked to stop.
    #[error("the benchmark was interrupted")]
    Interrupted,
    /// The source cannot be read.
    #[error("cannot read the source '{path}'")]
    Source {
        /// Path of the source.
        path: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The work directory cannot be made or used.
    #[error("cannot use '{path}' as the work directory (choose another with --work)")]
    Work {
        /// Path of the directory.
        path: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The work directory is inside the source.
    #[error("the work directory '{work}' is inside the source: it would be packed, too (choose another with --work)")]
    WorkInSource {
        /// Path of the work directory.
        work: String,
    },
    /// The work directory's file system has not even room for a well compressed image.
    #[error(
        "'{path}' has {} MiB free, and an entry may need {} MiB (choose another place with --work, or take a --sample)",
        free >> 20, needed >> 20
    )]
    NoSpace {
        /// Path of the directory in which the work directory is made.
        path: String,
        /// Free space in bytes.
        free: u64,
        /// Needed space in bytes.
        needed: u64,
    },
}
