//! Attributes, in the form that stat(2) and statfs(2) need.

use crate::format::ids::InodeId;
use crate::format::rows::{FileType, InodeRow, Time};

/// The attributes of an inode that stat(2) returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub inode: InodeId,
    /// Type of the file.
    pub file_type: FileType,
    /// Permission bits, with setuid, setgid and sticky.
    pub permissions: u16,
    /// User id of the owner.
    pub uid: u32,
    /// Id of the group that the file belongs to.
    pub gid: u32,
    /// Number of hard links.
    pub links: u64,
    /// Size in bytes: of a symlink the length of its target; of a directory the size that its source reported; 0 of
    /// other types.
    pub size: u64,
    /// Units of 512 bytes that are not in holes, as far as the inode's row says.
    pub blocks: u64,
    /// Time of the last change of the contents.
    pub mtime: Time,
    /// Time of the last change of the inode.
    pub ctime: Time,
    /// Time of the last read.
    pub atime: Time,
    /// Major and minor number of a device, else 0.
    pub device: (u32, u32),
}

impl Attr {
    /// Returns whether the inode is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Returns whether the inode is a regular file.
    pub fn is_regular(&self) -> bool {
        self.file_type == FileType::Regular
    }

    /// Returns whether the inode is a symlink.
    pub fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }
}

/// The statistics of a filesystem that statfs(2) returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Number of blocks of `block_size` bytes. For an image that is only read, these are the blocks that its files
    /// occupy; for one that is written, all blocks of the file system that contains it.
    pub blocks: u64,
    /// Number of blocks that can still be written.
    pub free: u64,
    /// Length of a block in bytes.
    pub block_size: u32,
    /// Number of inodes that exist plus those that can still be made.
    pub files: u64,
    /// Number of inodes that can still be made.
    pub free_files: u64,
}

const STAT_BLOCK: u64 = 512;

impl Attr {
    /// Makes the attributes from an inode's row. `allocated` are the bytes of a regular file that are not in holes; it
    /// is ignored for other types.
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
