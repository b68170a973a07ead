//! What the scan passes on: entries in path order, in batches.

use super::dirs::Directory;
use crate::format::rows::{Time, XattrSet};
use rustix::fs::Stat;
use std::sync::Arc;

/// What the walk over the sources has found out about an inode.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) rdev: u64,
    pub(super) mtime: Time,
    pub(super) xattrs: XattrSet,
    /// Device and inode number, if the inode has more than one link.
    pub(super) link_key: Option<(u64, u64)>,
}

/// Returns the modification time in the result of a stat(2).
pub(super) fn mtime(stat: &Stat) -> Time {
    #[allow(clippy::unnecessary_cast, reason = "the field's types differ between architectures")]
    Time { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 }
}

/// A regular file that a reader is to read.
#[derive(Clone)]
pub(super) struct FileJob {
    /// The directory that holds the file.
    pub(super) dir: Arc<Directory>,
    pub(super) name: Box<[u8]>,
    /// Name of the file in `dir`, if it differs from the name in the image.
    pub(super) at: Option<Box<[u8]>>,
    /// Attributes of the file when the walk over the sources found it. If they differ when the file is read, it has
    /// changed.
    pub(super) stat: Stat,
    /// Total bytes of the files before this one, in path order.
    pub(super) start: u64,
}

/// One step of the walk over the source tree.
pub(super) enum Entry {
    /// The walk enters a directory.
    Enter { name: Box<[u8]>, meta: Meta },
    /// The walk leaves the current directory.
    Leave,
    /// A regular file, whose content a reader provides.
    File { meta: Meta, job: FileJob },
    /// A file without bytes to read: a symlink, device, fifo or socket.
    Other { name: Box<[u8]>, meta: Meta, target: Box<[u8]> },
    /// Another name of an inode that came before. `alone` lets a regular file be read by this name if it could not be
    /// read by its earlier ones.
    Link { name: Box<[u8]>, key: (u64, u64), alone: Option<Box<(Meta, FileJob)>> },
}

/// A batch of entries that the walk has found, in path order.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
}

/// An extent of a file being read.
pub(super) enum ReadExtent {
    Hole(u64),
    /// A subchunk; its bytes follow those of the previous subchunk in the segment.
    Data {
        len: u32,
        identity: crate::format::rows::Identity,
    },
}

/// The result of reading a file to its end.
pub(super) enum ReadEnd {
    /// The whole file was read.
    Whole,
    /// The file was read, but differs from what the walk over the sources found.
    Changed(String),
    /// The file cannot be packed, for this reason.
    Failed(String),
    /// Descriptors ran out, which is not the file's fault: packing ends.
    Shortage(std::io::Error),
}

/// A part of a file, or all of it.
#[derive(Default)]
pub(super) struct FilePart {
    pub(super) extents: Vec<ReadExtent>,
    /// The result of reading, if the file ends here.
    pub(super) end: Option<ReadEnd>,
}

/// What a thread that reads files passes on at once: parts of consecutive files of a batch, and their bytes.
#[derive(Default)]
pub(super) struct Segment {
    pub(super) parts: Vec<FilePart>,
    pub(super) bytes: Vec<u8>,
}
