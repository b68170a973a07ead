//! The options of `check` and its report.

use super::ranges::{FindingId, Hits, NO_FINDING};
use crate::log::LogError;
use crate::meta::{MetaError, ThawedCount};
use crate::storage::StorageError;
use crate::thaw::ThawError;
use thiserror::Error;

/// Most findings listed; further ones are only counted.
pub const MAX_FINDINGS: usize = 10_000;
/// Most paths listed with a finding; further ones are only counted.
pub const MAX_PATHS: usize = 1000;
/// Most paths listed in a report.
pub(super) const MAX_PATHS_ALL: usize = 100_000;
/// Most bytes of listed paths, of all findings together: the image determines names and depth, so they need a limit.
pub(super) const MAX_PATHS_BYTES: usize = 16 << 20;

/// Options of a check.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Whether to check everything except the stored bytes of data superchunks.
    pub quick: bool,
    /// Subset of the data superchunks to read; ignored if `quick`.
    pub subset: Subset,
    /// Number of threads that read and decode data; 0 is taken as 1.
    pub jobs: usize,
    /// Bytes of memory for the buffers of all threads together. The memory that one thread needs is used in any case.
    pub memory: u64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        CheckOptions { quick: false, subset: Subset::All, jobs: 1, memory: 512 << 20 }
    }
}

/// The data superchunks that a check reads: the same ones each time for the same image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// All superchunks are read.
    All,
    /// The superchunks are dealt out to `of` parts in turn, and those of one part are read.
    Part {
        /// Number of the part, from 1.
        part: u32,
        /// Number of parts, at least 1.
        of: u32,
    },
    /// This percentage of the superchunks is read, spread over the image.
    Percent(f64),
    /// This many stored bytes of superchunks are read, spread over the image. The last superchunk is read completely.
    Bytes(u64),
}

/// Receives the progress of a check.
pub trait CheckObserver: Sync {
    /// Reports the bytes of the image examined so far, and their total; called from several threads.
    fn progress(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Returns whether to stop: `check` then ends with [`CheckError::Cancelled`]. Called often.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that ignores everything.
impl CheckObserver for () {}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The finding is worth knowing, but no damage.
    Note,
    /// The finding is damage, but everything can still be read: there is a second copy, or the same information
    /// elsewhere.
    Recoverable,
    /// The finding is damage by which something cannot be read.
    Lost,
}

impl Severity {
    /// Returns the severity in one word.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Recoverable => "recoverable",
            Severity::Lost => "lost",
        }
    }
}

/// The part of the image that a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// The finding is about a head slot.
    Head,
    /// The finding is about the log as a whole: its length, and bytes that belong to no frame.
    Log,
    /// The finding is about a root.
    Root,
    /// The finding is about a frame's header, clear part or stored bytes.
    Frame,
    /// The finding is about the map's content.
    Map,
    /// The finding is about a table's blocks or rows.
    Table,
    /// The finding is about data in a superchunk.
    Data,
    /// The finding is about how directories, inodes and contents fit together.
    Namespace,
    /// The finding is about the thaw log beside the image.
    ThawLog,
}

impl FindingKind {
    /// Returns the kind in one word.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Head => "head",
            FindingKind::Log => "log",
            FindingKind::Root => "root",
            FindingKind::Frame => "frame",
            FindingKind::Map => "map",
            FindingKind::Table => "table",
            FindingKind::Data => "data",
            FindingKind::Namespace => "namespace",
            FindingKind::ThawLog => "thaw log",
        }
    }
}

/// One fault of an image: what, where, and which files it affects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The part of the image that the finding is about.
    pub kind: FindingKind,
    /// Severity of the finding.
    pub severity: Severity,
    /// Sentence for the user that says what is wrong.
    pub message: String,
    /// Offset in the image in bytes, if known.
    pub offset: Option<u64>,
    /// Id of the superchunk, if the finding is about one.
    pub superchunk: Option<u64>,
    /// First and last id, if the finding is about consecutive subchunks.
    pub subchunks: Option<(u64, u64)>,
    /// Name of the table, if the finding is about one.
    pub table: Option<&'static str>,
    /// Affected paths, from the root, without a leading slash (the root itself is `.`), at most [`MAX_PATHS`]. An inode
    /// without a name is `<inode N>`.
    pub paths: Vec<Vec<u8>>,
    /// Number of affected paths that are not listed.
    pub more_paths: u64,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, severity: Severity, message: impl Into<String>) -> Self {
        Finding {
            kind,
            severity,
            message: message.into(),
            offset: None,
            superchunk: None,
            subchunks: None,
            table: None,
            paths: Vec::new(),
            more_paths: 0,
        }
    }

    pub(super) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    pub(super) fn in_superchunk(mut self, id: u64) -> Self {
        self.superchunk = Some(id);
        self
    }

    pub(super) fn of_subchunks(mut self, first: u64, last: u64) -> Self {
        self.subchunks = Some((first, last));
        self
    }

    pub(super) fn in_table(mut self, table: &'static str) -> Self {
        self.table = Some(table);
        self
    }
}

/// Result of a check: the findings, and how much was examined.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// Damage and notes, in the order of the examination.
    pub findings: Vec<Finding>,
    /// Number of findings beyond [`MAX_FINDINGS`].
    pub suppressed: u64,
    /// Whether a root could be read. If not, only heads and frames were checked.
    pub readable: bool,
    /// Whether more paths are affected than were counted, to limit memory.
    pub paths_incomplete: bool,
    /// Number of bytes that are missing at the image's end, if the file is cut short.
    pub missing: u64,
    /// Number of frames found.
    pub frames: u64,
    /// Length of the image's log in bytes.
    pub bytes: u64,
    /// Number of live data superchunks.
    pub superchunks: u64,
    /// Number of data superchunks that were read.
    pub superchunks_read: u64,
    /// Number of subchunks, of the superchunks that were read, whose content hash is right.
    pub subchunks_verified: u64,
    /// Number of subchunks, of the superchunks that were read, that cannot be read or have the wrong content hash.
    pub subchunks_lost: u64,
    /// Number of table blocks, including those of the map.
    pub table_blocks: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// Number of names in directories.
    pub names: u64,
    /// Ranges of files and orphans whose bytes are not in the image: after replaying the thaw log if it was read,
    /// otherwise as of the last checkpoint.
    pub thawed: ThawedCount,
    /// Number of the last transaction of the thaw log, if it was read and verified.
    pub transactions: Option<u64>,
    /// The process that writes the image, if there is one. Then only the image's last checkpoint was checked.
    pub writer: Option<String>,
}

impl CheckReport {
    /// Returns whether anything is damaged, recoverable or lost.
    pub fn damaged(&self) -> bool {
        self.suppressed > 0 || self.findings.iter().any(|finding| finding.severity > Severity::Note)
    }
}

/// Why an image could not be checked at all. Damage is not such a reason.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The file is not an image.
    #[error("no floe image: bad magic at offset 0 ('file' says what it is)")]
    NotAnImage,
    /// A newer program made the image.
    #[error(transparent)]
    Unsupported(crate::format::FormatError),
    /// The storage failed, which says nothing about the image.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The thaw log could not be read.
    #[error(transparent)]
    Thaw(#[from] ThawError),
    /// Another process writes one checkpoint after another, so that no state of the image can be read.
    #[error("another process changes the image faster than it can be read (try again later)")]
    Changing,
    /// A table could not be read.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A thread could not be started.
    #[error("cannot start a thread that checks the image: {0}")]
    Thread(#[source] std::io::Error),
    /// The observer cancelled the check.
    #[error("the check of the image was interrupted")]
    Cancelled,
}

/// The findings so far, and what they affect.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    pub(super) suppressed: u64,
    pub(super) hits: Hits,
}

impl Findings {
    /// Adds a finding; beyond the limit it is only counted.
    pub(super) fn add(&mut self, finding: Finding) -> FindingId {
        if self.list.len() >= MAX_FINDINGS {
            self.suppressed += u64::from(finding.severity > Severity::Note);
            return NO_FINDING;
        }
        self.list.push(finding);
        (self.list.len() - 1) as FindingId
    }
}
