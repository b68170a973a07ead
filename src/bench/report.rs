//! What a benchmark found, for people and programs alike: table, JSON and page are made from it and from nothing else.
//!
//! Sizes are in bytes, times in seconds unless the name says otherwise. What was not measured is absent, never zero. Filled by
//! `run`, shown by `cli` and `page`.

use serde::{Deserialize, Serialize};

/// All of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of floe.
    pub floe: String,
    /// When it began, seconds since 1970.
    pub time: i64,
    /// Where it ran.
    pub machine: Machine,
    /// What was packed.
    pub source: Source,
    /// How it was measured.
    pub method: Method,
    /// floe's settings in the order they were asked for, then the peers.
    pub entries: Vec<Entry>,
    /// Peers that are not installed.
    pub missing: Vec<Missing>,
    /// What a reader of the figures has to know: that caches were warm, that a file could not be read.
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
    /// Each reading pass began with empty caches.
    pub cold: bool,
    /// A peer that takes longer is stopped; seconds.
    pub peer_limit: Option<f64>,
    /// Bytes to compress where not all was compressed.
    pub sample: Option<Sample>,
}

/// What of the data was compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Bytes asked for.
    pub bytes: u64,
    /// Only these were read; else all was read and cut, and deduplication is exact.
    pub fast: bool,
}

/// Whose figures they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// floe with one setting.
    Floe,
    /// Another program.
    Peer,
}

/// What became of one entry.
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
    /// `floe balanced`, `mksquashfs zstd:15`: short, and different from all others'.
    pub name: String,
    /// floe or a peer.
    pub kind: Kind,
    /// Version of the program.
    pub version: String,
    /// The command's options as they were given.
    pub options: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How small it got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// What packing took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// What reading took, one a pass.
    pub passes: Vec<Pass>,
    /// Bytes inflated for bytes read, one a working set. Of floe alone.
    pub read_costs: Vec<ReadCost>,
}

/// How small it got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes in all: of a sample, the prediction.
    pub total: u64,
    /// Bytes of the source for each byte.
    pub ratio: f64,
    /// Of a sample: where the truth lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// What the bytes are. Of floe alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
    /// What each step saved. Of floe alone.
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

/// The bytes of an image; the sum is the total.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Stored superchunks.
    pub data: u64,
    /// Tables but for the identities.
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
    /// Stored bytes that matching saved; absent where the setting does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching: Option<u64>,
}

/// What packing took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    /// Seconds by the clock.
    pub seconds: f64,
    /// Seconds of processors.
    pub cpu_seconds: f64,
    /// Bytes of the source in a second by the clock.
    pub bytes_per_second: f64,
    /// Most bytes resident of any one process.
    pub peak_memory: u64,
}

/// What was read.
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
    /// Through a mount; else by the program's own extraction.
    pub mounted: bool,
    /// With empty caches.
    pub cold: bool,
    /// Seconds by the clock.
    pub seconds: f64,
    /// Bytes read; of `Find`, 0.
    pub bytes: u64,
    /// Reads or entries.
    pub operations: u64,
    /// Half of the reads took at most this, seconds. Of `Random` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// 99 of 100 reads took at most this, seconds. Of `Random` alone.
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
    /// The package that brings it.
    pub package: String,
}
