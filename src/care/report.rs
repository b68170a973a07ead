//! What `check` is asked and what it answers.

use super::ranges::{FindingId, Hits, NO_FINDING};
use crate::log::LogError;
use crate::meta::{MetaError, ThawedCount};
use crate::storage::StorageError;
use crate::thaw::ThawError;
use thiserror::Error;

/// Findings listed at most; further ones are counted.
pub const MAX_FINDINGS: usize = 10_000;
/// Paths listed with a finding at most; further ones are counted.
pub const MAX_PATHS: usize = 1000;
/// Paths listed in a report at most.
pub(super) const MAX_PATHS_ALL: usize = 100_000;
/// Most bytes of paths that are listed, of all findings together: names and depth are the image's to choose.
pub(super) const MAX_PATHS_BYTES: usize = 16 << 20;

/// What to check.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Everything but the stored bytes of data superchunks.
    pub quick: bool,
    /// Which data superchunks to read; without meaning if `quick`.
    pub subset: Subset,
    /// Threads that read and decode data; 0 is taken as 1.
    pub jobs: usize,
    /// Bytes of memory for all threads' buffers together. At least what one thread needs is taken anyway.
    pub memory: u64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        CheckOptions { quick: false, subset: Subset::All, jobs: 1, memory: 512 << 20 }
    }
}

/// Which data superchunks are read. The same ones each time, for the same image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// Every one.
    All,
    /// Each `of`-th, so that parts 1 to `of` together are all.
    Part {
        /// From 1.
        part: u32,
        /// At least 1.
        of: u32,
    },
    /// So many percent of them, spread over the image.
    Percent(f64),
    /// So many stored bytes of them, spread over the image; the last one is read whole.
    Bytes(u64),
}

/// Is told how far it has come.
pub trait CheckObserver: Sync {
    /// So many of the image's bytes were gone over; called from several threads.
    fn progress(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Asked often; if true, `check` ends with [`CheckError::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that looks away.
impl CheckObserver for () {}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing, but no damage.
    Note,
    /// Damage, but everything can still be read: there is a second copy, or another place that says the same.
    Recoverable,
    /// Something cannot be read.
    Lost,
}

impl Severity {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Recoverable => "recoverable",
            Severity::Lost => "lost",
        }
    }
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// A head slot.
    Head,
    /// The log as a whole: its length, bytes that belong to no frame.
    Log,
    /// A root.
    Root,
    /// A frame's header, clear part or stored bytes.
    Frame,
    /// What the map says.
    Map,
    /// A table's blocks or rows.
    Table,
    /// Data in a superchunk.
    Data,
    /// How directories, inodes and contents fit together.
    Namespace,
    /// The thaw log beside the image.
    ThawLog,
}

impl FindingKind {
    /// One word.
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

/// One thing that is wrong: what, where, and which files it hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// How bad it is.
    pub severity: Severity,
    /// A sentence for people.
    pub message: String,
    /// Offset in the image, in bytes.
    pub offset: Option<u64>,
    /// Superchunk id.
    pub superchunk: Option<u64>,
    /// First and last subchunk id, where it is about neighbouring ones.
    pub subchunks: Option<(u64, u64)>,
    /// Name of the table.
    pub table: Option<&'static str>,
    /// Paths that are hit, from the root, without a slash in front (the root itself is `.`), at most [`MAX_PATHS`].
    /// What has lost its name is `<inode N>`.
    pub paths: Vec<Vec<u8>>,
    /// Paths that are hit and not listed.
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

/// What was found, and how much was looked at.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// What is wrong, and notes; in the order the image was gone over.
    pub findings: Vec<Finding>,
    /// Findings beyond [`MAX_FINDINGS`].
    pub suppressed: u64,
    /// Whether a root could be read. If not, only heads and frames were checked.
    pub readable: bool,
    /// Whether more paths are hit than were counted, for want of memory.
    pub paths_incomplete: bool,
    /// Frames found.
    pub frames: u64,
    /// Bytes of the image's log.
    pub bytes: u64,
    /// Superchunks of data that live, and how many of them were read.
    pub superchunks: u64,
    /// Superchunks of data that were read.
    pub superchunks_read: u64,
    /// Subchunks of data whose identity was computed.
    pub subchunks_verified: u64,
    /// Table blocks, those of the map too.
    pub table_blocks: u64,
    /// Inodes.
    pub inodes: u64,
    /// Names in directories.
    pub names: u64,
    /// Ranges of files, and of orphans, whose bytes are not in the image: as the thaw log leaves them if it was read, else as
    /// the last checkpoint has them.
    pub thawed: ThawedCount,
    /// Number of the last transaction of the thaw log, if it was read and verified.
    pub transactions: Option<u64>,
    /// Who writes the image: then only its last checkpoint was checked.
    pub writer: Option<String>,
}

impl CheckReport {
    /// Whether anything is damaged, lost or not.
    pub fn damaged(&self) -> bool {
        self.suppressed > 0 || self.findings.iter().any(|finding| finding.severity > Severity::Note)
    }
}

/// Why an image could not be checked at all. Damage is no such reason.
#[derive(Debug, Error)]
pub enum CheckError {
    /// It is no image.
    #[error("bad magic at offset 0 (is this a floe image? 'file' says more)")]
    NotAnImage,
    /// A newer program made it.
    #[error(transparent)]
    Unsupported(crate::format::FormatError),
    /// The storage failed in a way that says nothing about the image.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The thaw log could not be read.
    #[error(transparent)]
    Thaw(#[from] ThawError),
    /// Whoever writes the image makes one checkpoint after another.
    #[error("the image changes faster than it can be read: try again")]
    Changing,
    /// A table could not be asked.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The observer wanted it to end.
    #[error("interrupted")]
    Cancelled,
}

/// Findings as they come, and what they hit.
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
