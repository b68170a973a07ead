//! Attributes, as stat(2) and statfs(2) want them.

use crate::format::ids::InodeId;
use crate::format::rows::{FileType, InodeRow, Time};

/// What stat(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub inode: InodeId,
    /// Type.
    pub file_type: FileType,
    /// Permission bits, with setuid, setgid and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Link count.
    pub links: u64,
    /// Bytes; of a symlink those of its target; of a directory what its source said; of others 0.
    pub size: u64,
    /// Units of 512 bytes that are no hole, as far as the inode's row says.
    pub blocks: u64,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Last read.
    pub atime: Time,
    /// Major and minor number of a device, else 0.
    pub device: (u32, u32),
}

impl Attr {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.file_type == FileType::Regular
    }

    /// Whether it is a symlink.
    pub fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }
}

/// What statfs(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Blocks of `block_size`: those that the files have, or all there are.
    pub blocks: u64,
    /// Blocks that can still be written.
    pub free: u64,
    /// Bytes.
    pub block_size: u32,
    /// Inodes that are there, and those that can be made.
    pub files: u64,
    /// Inodes that can still be made.
    pub free_files: u64,
}

const STAT_BLOCK: u64 = 512;

impl Attr {
    /// What an inode's row says, with the bytes of a regular file that are no hole; of others `allocated` is not looked at.
    pub(super) fn of(inode: InodeId, row: &InodeRow, allocated: u64) -> Self {
        let device = matches!(row.file_type, FileType::BlockDevice | FileType::CharDevice);
        let (size, allocated) = match row.file_type {
            FileType::Regular => (row.size, allocated.min(row.size)),
            FileType::Symlink | FileType::Directory => (row.size, 0),
            _ => (0, 0),
        };
        Attr {
            inode,
            file_type: row.file_type,
            permissions: row.permissions,
            uid: row.uid,
            gid: row.gid,
            links: row.links,
            size,
            blocks: allocated.div_ceil(STAT_BLOCK),
            mtime: row.mtime,
            ctime: row.ctime,
            atime: row.atime,
            device: if device { row.device() } else { (0, 0) },
        }
    }
}
