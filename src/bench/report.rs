//! The result of a benchmark. Table, JSON and page are made from it and from nothing else.
//!
//! Sizes are in bytes, and times in seconds unless the name says otherwise. A value that was not measured is absent,
//! never zero. Filled by `run`, shown by `cli` and `page`.

use serde::{Deserialize, Serialize};

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of floe.
    pub floe: String,
    /// Start of the run, seconds since 1970.
    pub time: i64,
    /// The machine it ran on.
    pub machine: Machine,
    /// What was packed.
    pub source: Source,
    /// How it was measured.
    pub method: Method,
    /// floe's settings in the order requested, then the peers.
    pub entries: Vec<Entry>,
    /// Peers that are not installed.
    pub missing: Vec<Missing>,
    /// What a reader of the figures must know: for example that caches were warm, or that a file could not be read.
    pub notes: Vec<String>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Kernel and its version.
    pub kernel: String,
    /// Type of the filesystem that the work directory is on.
    pub work_filesystem: String,
}

/// The tree that was packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its path as given, made safe to show.
    pub path: String,
    /// Regular files, each inode once.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// Threads that pack.
    pub jobs: usize,
    /// Whether each reading pass began with empty caches.
    pub cold: bool,
    /// A peer that takes longer is stopped; seconds.
    pub peer_limit: Option<f64>,
    /// The sample, if only a part was compressed.
    pub sample: Option<Sample>,
}

/// Which part of the data was compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Bytes requested.
    pub bytes: u64,
    /// Whether only these were read. Otherwise everything was read and cut, and deduplication is exact.
    pub fast: bool,
}

/// Whose figures an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// floe with one setting.
    Floe,
    /// Another program.
    Peer,
}

/// How the measurement of an entry ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// It was measured.
    Done,
    /// It was stopped after this many seconds.
    OverLimit {
        /// Seconds.
        seconds: f64,
    },
    /// It failed.
    Failed {
        /// Why.
        message: String,
    },
}

/// One setting of floe, or one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `floe balanced`, `mksquashfs zstd:15`: short and unique.
    pub name: String,
    /// floe or a peer.
    pub kind: Kind,
    /// Version of the program.
    pub version: String,
    /// The options of the command as given.
    pub options: String,
    /// How its measurement ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The size of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Cost of packing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// Reading times, one for each pass.
    pub passes: Vec<Pass>,
    /// Bytes inflated for each byte read, one for each working set. Only for floe.
    pub read_costs: Vec<ReadCost>,
}

/// The size of the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// Total bytes; for a sample, the prediction.
    pub total: u64,
    /// Bytes of the source for each byte of the result.
    pub ratio: f64,
    /// For a sample: the bounds of the true size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// How the bytes are used. Only for floe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
    /// What each step saved. Only for floe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<Saved>,
}

/// Two bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The lower.
    pub low: u64,
    /// The upper.
    pub high: u64,
}

/// How the bytes of an image are used; the sum is the total.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Stored superchunks.
    pub data: u64,
    /// Tables, except the identities.
    pub metadata: u64,
    /// Identities of subchunks.
    pub identities: u64,
    /// Clear lists of the superchunks.
    pub clear_lists: u64,
    /// Head slots, paddings and the rest.
    pub other: u64,
}

/// What each step saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Raw bytes that deduplication left out.
    pub deduplication: u64,
    /// Stored bytes of the data if each subchunk were compressed alone.
    pub alone: u64,
    /// Stored bytes that packing into superchunks saved over that.
    pub superchunks: u64,
    /// Stored bytes that matching saved; absent if the setting does not use matching.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<u64>,
}

/// Cost of packing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Processor seconds.
    pub cpu_seconds: f64,
    /// Bytes of the source for each wall-clock second.
    pub bytes_per_second: f64,
    /// Peak resident bytes of any one process.
    pub peak_memory: u64,
}

/// The kind of a reading pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Read {
    /// Every file in path order.
    InOrder,
    /// Every file of one directory.
    OneDirectory,
    /// 4 KiB at random offsets.
    Random,
    /// `find -ls`: every entry's attributes.
    Find,
}

/// One reading pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// What was read.
    pub read: Read,
    /// Whether it was read through a mount; otherwise by the program's own extraction.
    pub mounted: bool,
    /// Whether it began with empty caches.
    pub cold: bool,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Bytes read; 0 for `Find`.
    pub bytes: u64,
    /// Number of reads or entries.
    pub operations: u64,
    /// Median duration of a read in seconds. Only for `Random`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// 99th percentile of the duration of a read in seconds. Only for `Random`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
}

/// Bytes inflated for each byte read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadCost {
    /// Bytes of the working set.
    pub working_set: u64,
    /// Everything in path order.
    pub in_order: f64,
    /// One directory.
    pub one_directory: f64,
    /// 4 KiB at random offsets.
    pub random: f64,
}

/// A peer that is not installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// The package that provides it.
    pub package: String,
}
