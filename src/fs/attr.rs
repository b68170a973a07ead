//! Attributes, as stat(2) and statfs(2) want them.

use super::{Fs, FsError};
use crate::format::ids::{ContentId, InodeId};
use crate::format::rows::{ContentRef, FileType, InodeRow, Time};

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
    /// Blocks of `block_size` that the files have.
    pub blocks: u64,
    /// Bytes.
    pub block_size: u32,
    /// Inodes.
    pub files: u64,
}

const STAT_BLOCK: u64 = 512;
const STATFS_BLOCK: u32 = 4096;

impl Fs {
    pub(super) fn attr_of(&self, inode: InodeId, row: &InodeRow) -> Result<Attr, FsError> {
        let device = matches!(row.file_type, FileType::BlockDevice | FileType::CharDevice);
        let (size, allocated) = match (row.file_type, row.content) {
            (FileType::Regular, ContentRef::None) => (row.size, 0),
            (FileType::Regular, ContentRef::Content(content)) => (row.size, self.allocated(content, row)?),
            (FileType::Regular, _) => (row.size, row.size),
            (FileType::Symlink | FileType::Directory, _) => (row.size, 0),
            _ => (0, 0),
        };
        // Thawed ranges are data; where they lie over data, that counts twice, so the size bounds it.
        let allocated = match row.file_type {
            FileType::Regular => allocated.saturating_add(self.thawed_bytes(inode)?).min(size),
            _ => allocated,
        };
        Ok(Attr {
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
        })
    }

    /// Bytes of a file with this content that are no hole. The row says so where the content has holes; where it has none,
    /// they are as many as the content is long. (Adding the extents up would take a walk for each inode that has it.)
    fn allocated(&self, content: ContentId, row: &InodeRow) -> Result<u64, FsError> {
        if let Some(allocated) = row.allocated() {
            return Ok(allocated.min(row.size));
        }
        if let Some(end) = self.content_ends.get(&content) {
            return Ok(end);
        }
        let last = self.view.extents(content, u64::MAX)?.next(&self.view)?;
        let end = last.map_or(0, |(begin, extent)| begin.saturating_add(extent.length));
        self.content_ends.insert(content, end, 64);
        Ok(end)
    }

    /// What the whole filesystem has.
    pub fn statfs(&self) -> StatFs {
        let root = self.view.version().root();
        StatFs {
            blocks: root.view.bytes.div_ceil(STATFS_BLOCK.into()),
            block_size: STATFS_BLOCK,
            files: root.view.inodes,
        }
    }
}
