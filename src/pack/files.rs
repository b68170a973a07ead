//! What the scan hands on: entries in path order, in batches.

use super::dirs::Directory;
use crate::format::rows::{Time, XattrSet};
use rustix::fs::Stat;
use std::sync::Arc;

/// What the scan learned of an inode.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) rdev: u64,
    pub(super) mtime: Time,
    pub(super) xattrs: XattrSet,
    /// Device and inode, where it has more than one link.
    pub(super) link_key: Option<(u64, u64)>,
}

/// The mtime of a stat.
pub(super) fn mtime(stat: &Stat) -> Time {
    #[allow(clippy::unnecessary_cast, reason = "the field's types differ between architectures")]
    Time { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 }
}

/// A regular file that is to be read.
#[derive(Clone)]
pub(super) struct FileJob {
    /// The directory it was found in.
    pub(super) dir: Arc<Directory>,
    pub(super) name: Box<[u8]>,
    /// As the scan saw it: what differs when it is read has changed.
    pub(super) stat: Stat,
    /// Bytes of the files before it, in path order.
    pub(super) start: u64,
}

/// One step of the walk over the tree.
pub(super) enum Entry {
    /// Into a directory.
    Enter { name: Box<[u8]>, meta: Meta },
    /// Out of it.
    Leave,
    /// A regular file, whose contents come from a reader.
    File { meta: Meta, job: FileJob },
    /// Anything else.
    Other { name: Box<[u8]>, meta: Meta, target: Box<[u8]> },
    /// Another name of an inode that came before. A regular file is read by this name if it could not be by that one.
    Link { name: Box<[u8]>, key: (u64, u64), alone: Option<Box<(Meta, FileJob)>> },
}

/// Entries in path order.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
}

/// An extent of a file that was read.
pub(super) enum ReadExtent {
    Hole(u64),
    /// A subchunk; its bytes follow those of the one before in the segment.
    Data {
        len: u32,
        identity: crate::format::rows::Identity,
    },
}

/// How reading a file ended.
pub(super) enum ReadEnd {
    /// All of it was read.
    Whole,
    /// It was read, but is not what the scan saw.
    Changed(String),
    /// It cannot be packed.
    Failed(String),
    /// It cannot be read for a reason that is not its own: packing ends.
    Shortage(std::io::Error),
}

/// A part of a file, or all of it.
#[derive(Default)]
pub(super) struct FilePart {
    pub(super) extents: Vec<ReadExtent>,
    /// There where the file ends.
    pub(super) end: Option<ReadEnd>,
}

/// What a reader hands on: parts of consecutive files of a batch, and their bytes.
#[derive(Default)]
pub(super) struct Segment {
    pub(super) parts: Vec<FilePart>,
    pub(super) bytes: Vec<u8>,
}
