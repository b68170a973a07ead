//! What the scan passes on: entries in path order, in batches.

use super::dirs::Directory;
use crate::format::rows::{Time, XattrSet};
use crate::format::sums;
use rustix::fs::Stat;
use std::sync::Arc;

/// What the walk over the sources has found out about an inode, as it is packed.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// User id of the owner.
    pub uid: u32,
    /// Id of the group.
    pub gid: u32,
    /// Size in bytes that stat(2) reports; 0 for a directory if the image must not depend on its file system.
    pub size: u64,
    /// Device number of a device, as in `st_rdev`.
    pub rdev: u64,
    /// Time of the last change of the contents, limited to the requested timestamp.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: XattrSet,
    /// Device and inode number, if the inode has more than one link.
    pub link_key: Option<(u64, u64)>,
    /// Time of the last change of the inode in its source. It is not packed.
    pub changed: Time,
    /// Stamp of the inode in its source, which differs after a change. It is not packed.
    pub stamp: u64,
}

/// Returns the bytes that the file system has allocated for a file, by the result of a stat(2).
pub(super) fn allocated(stat: &Stat) -> u64 {
    // The unit of `st_blocks`, whatever the file system's own blocks are.
    (stat.st_blocks as u64).saturating_mul(512)
}

/// Returns a number that differs after the inode has changed: it depends on size, mtime and ctime.
pub(super) fn stamp(stat: &Stat) -> u64 {
    let (mtime, ctime) = (mtime(stat), ctime(stat));
    let mut bytes = Vec::with_capacity(32);
    bytes.extend_from_slice(&stat.st_size.to_le_bytes());
    for time in [mtime, ctime] {
        bytes.extend_from_slice(&time.secs.to_le_bytes());
        bytes.extend_from_slice(&time.nanos.to_le_bytes());
    }
    sums::xxh3(&bytes)
}

/// Returns the time of the last change of the inode in the result of a stat(2).
pub(super) fn ctime(stat: &Stat) -> Time {
    #[allow(clippy::unnecessary_cast, reason = "the field's types differ between architectures")]
    Time { secs: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 }
}

/// Returns the modification time in the result of a stat(2).
pub(super) fn mtime(stat: &Stat) -> Time {
    #[allow(clippy::unnecessary_cast, reason = "the field's types differ between architectures")]
    Time { secs: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 }
}

/// A regular file that a reader is to read.
#[derive(Clone)]
pub struct FileJob {
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
pub enum Entry {
    /// The walk enters a directory.
    Enter {
        /// Name of the directory in the image; empty for the root.
        name: Box<[u8]>,
        /// Attributes of the directory.
        meta: Meta,
    },
    /// The walk leaves the current directory.
    Leave,
    /// A regular file, whose content a reader provides.
    File {
        /// Attributes of the file.
        meta: Meta,
        /// The file to read.
        job: FileJob,
    },
    /// A file without bytes to read: a symlink, device, fifo or socket.
    Other {
        /// Name of the file in the image.
        name: Box<[u8]>,
        /// Attributes of the file.
        meta: Meta,
        /// Target of a symlink, else empty.
        target: Box<[u8]>,
    },
    /// Another name of an inode that came before.
    Link {
        /// The other name.
        name: Box<[u8]>,
        /// Device and inode number of the inode.
        key: (u64, u64),
        /// A regular file, to be read by this name if it could not be read by its earlier ones.
        alone: Option<Box<(Meta, FileJob)>>,
    },
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
