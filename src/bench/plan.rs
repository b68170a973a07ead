//! What a run is asked for, whom it tells where it is, and why there may be no report. Called by `cli/bench.rs` and by `run`.

use super::report::{Entry, Sample};
use super::settings::Setting;
use crate::pack::PackOptions;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// What is to be measured.
#[derive(Clone)]
pub struct Plan {
    /// The tree, absolute.
    pub source: PathBuf,
    /// Its name as it is shown.
    pub shown: String,
    /// floe's settings.
    pub settings: Vec<Setting>,
    /// Not all is compressed: the size is predicted, and nothing else is measured.
    pub sample: Option<Sample>,
    /// How a prediction packs: threads and memory. The rest is the setting's.
    pub pack: PackOptions,
    /// Other programs are measured, too.
    pub with_peers: bool,
    /// A peer's step that takes longer is stopped.
    pub peer_limit: Option<Duration>,
    /// Where the work directory is made; absolute.
    pub base: PathBuf,
    /// Threads that pack.
    pub jobs: usize,
    /// The program that packs and mounts: this one.
    pub program: PathBuf,
    /// Where programs are looked for.
    pub path: OsString,
    /// This moment, seconds since 1970.
    pub time: i64,
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct At {
    /// The entry: "floe balanced".
    pub entry: String,
    /// What is done with it: "packing".
    pub doing: &'static str,
    /// Its number, from 1.
    pub number: usize,
    /// Entries in all.
    pub entries: usize,
    /// Share of the step that is done, where it is known.
    pub share: Option<f64>,
    /// Where it can be told.
    pub seconds_left: Option<f64>,
}

/// Is told where a run is. Called from several threads, ten times a second.
pub trait BenchObserver: Sync {
    /// It is here.
    fn at(&self, at: &At);
    /// Something that its reader has to know.
    fn note(&self, text: &str);
    /// Something of the source could not be read, and the rest goes on.
    fn finding(&self, text: &str);
    /// An entry has ended.
    fn entry(&self, entry: &Entry);
    /// Whether it is to end.
    fn cancelled(&self) -> bool;
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum BenchError {
    /// An end was asked for.
    #[error("interrupted")]
    Interrupted,
    /// The source cannot be read.
    #[error("cannot read '{path}'")]
    Source {
        /// Its name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no work directory to be had.
    #[error("cannot work in '{path}'")]
    Work {
        /// Its name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work directory would be packed, too.
    #[error("the work directory '{work}' is inside the source: it would be packed, too (choose another with --work)")]
    WorkInSource {
        /// Its name.
        work: String,
    },
    /// Not even a well compressed image fits.
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
