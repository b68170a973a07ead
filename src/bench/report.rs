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
    /// Machine on which the run was made.
    pub machine: Machine,
    /// Source tree that was packed.
    pub source: Source,
    /// Method of the measurement.
    pub method: Method,
    /// Figures of floe's settings in the order requested, then of the other programs.
    pub entries: Vec<Entry>,
    /// Programs that floe would be compared with, but that are not installed.
    pub missing: Vec<Missing>,
    /// Notes that a reader of the figures must know: for example that caches were warm, or that a file could not be
    /// read.
    pub notes: Vec<String>,
}

/// Description of the machine of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Number of processors that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Kernel and its version.
    pub kernel: String,
    /// Type of the file system that the work directory is on.
    pub work_filesystem: String,
}

/// The tree that was packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Path of the tree as given, made safe to show.
    pub path: String,
    /// Number of regular files, each inode counted once.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
}

/// Method of the measurements of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// Number of threads that pack.
    pub jobs: usize,
    /// Whether each reading pass began with empty caches.
    pub cold: bool,
    /// Seconds after which a step of another program is stopped.
    pub peer_limit: Option<f64>,
    /// The sample, if only a part was compressed.
    pub sample: Option<Sample>,
}

/// The part of the data that was compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of bytes that the user asked to compress, or to read if `fast` is true.
    pub bytes: u64,
    /// Whether only a sample of the tree was read. Otherwise everything was read and cut, and deduplication is exact.
    pub fast: bool,
}

/// The kind of program whose figures an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The figures are of floe with one setting.
    Floe,
    /// The figures are of another program.
    Peer,
}

/// How the measurement of an entry ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The entry was measured completely.
    Done,
    /// The entry was stopped after this many seconds.
    OverLimit {
        /// Number of seconds.
        seconds: f64,
    },
    /// The measurement failed.
    Failed {
        /// Why the measurement failed.
        message: String,
    },
}

/// Figures of one setting of floe, or of another program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Short and unique name, such as `floe balanced` or `mksquashfs zstd:15`.
    pub name: String,
    /// Whether the entry is of floe or of another program.
    pub kind: Kind,
    /// Version of the program.
    pub version: String,
    /// The options of the command as given.
    pub options: String,
    /// How the measurement ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The size of the image, or of what another program makes.
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

/// Size of an image, or of what another program makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// Total bytes; for a sample, the prediction.
    pub total: u64,
    /// Bytes of the source for each byte of the result.
    pub ratio: f64,
    /// Bounds of the true size in bytes, for a sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// How the bytes are used. Only for floe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
    /// Bytes that each step saved. Only for floe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<Saved>,
}

/// A range of bytes; both bounds are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Lower bound in bytes.
    pub low: u64,
    /// Upper bound in bytes.
    pub high: u64,
}

/// How the bytes of an image are used; the sum is the total.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Bytes of stored superchunks.
    pub data: u64,
    /// Bytes of tables, except the identities.
    pub metadata: u64,
    /// Bytes of the identities of subchunks.
    pub identities: u64,
    /// Bytes of the clear lists of superchunks.
    pub clear_lists: u64,
    /// Bytes of head slots, paddings and the rest.
    pub other: u64,
}

/// Bytes that each step of packing saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Raw bytes that deduplication left out.
    pub deduplication: u64,
    /// Raw bytes of different subchunks that matching takes from other subchunks; absent if the image has no recipes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<u64>,
    /// Stored bytes of the data if each subchunk were compressed alone, without matching.
    pub alone: u64,
    /// Stored bytes that packing into superchunks, with matching, saved, compared with compressing each subchunk alone.
    pub superchunks: u64,
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
    /// Reads every file in path order.
    InOrder,
    /// Reads every file of one directory.
    OneDirectory,
    /// Reads 4 KiB at random offsets.
    Random,
    /// Reads every entry's attributes, as `find -ls` does.
    Find,
}

/// Figures of one reading pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// Kind of the pass.
    pub read: Read,
    /// Whether the pass read through a mount; otherwise by the program's own extraction.
    pub mounted: bool,
    /// Whether the pass began with empty caches.
    pub cold: bool,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Number of bytes read; 0 for `Find`.
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
    /// Size of the working set in bytes.
    pub working_set: u64,
    /// Bytes inflated for each byte read, for everything in path order.
    pub in_order: f64,
    /// Bytes inflated for each byte read, for one directory.
    pub one_directory: f64,
    /// Bytes inflated for each byte read, for 4 KiB at random offsets.
    pub random: f64,
}

/// A program that floe would be compared with, but that is not installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Name of the program.
    pub name: String,
    /// Name of the package that provides the program.
    pub package: String,
}
