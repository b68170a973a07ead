//! How many bytes of a file are not in holes: stat(2) reports them in blocks.

use super::read::{Fs, Moment};
use super::{FsError, StatFs};
use crate::format::ids::{ContentId, InodeId};
use crate::format::rows::{ContentRef, FileType, InodeRow};

const STATFS_BLOCK: u32 = 4096;
/// Most thawed ranges that one stat(2) adds up while the file is being written. The rest is estimated. Each range costs
/// less than a microsecond.
const RANGES: usize = 1024;

impl Moment<'_> {
    /// Returns the bytes of a file that are not in holes, according to its row and its thawed ranges; 0 if it is not a
    /// regular file.
    pub(super) fn allocated(&self, inode: InodeId, row: &InodeRow) -> Result<u64, FsError> {
        if row.file_type != FileType::Regular {
            return Ok(0);
        }
        let stored = match row.content {
            ContentRef::None => 0,
            ContentRef::Content(content) => self.stored(content, row)?,
            ContentRef::Subchunk(_) | ContentRef::Tiny(_) => row.size,
        };
        // Thawed ranges are data. Where they cover frozen data, those bytes count twice; so the sum is limited to the
        // size.
        Ok(stored.saturating_add(self.thawed_bytes(inode, row.size)?).min(row.size))
    }

    /// Returns the bytes of a file with this content that are not in holes. If the content has holes, the row has the
    /// number; otherwise it is the length of the content. (Adding up the extents would take a walk for each inode that
    /// uses the content.)
    fn stored(&self, content: ContentId, row: &InodeRow) -> Result<u64, FsError> {
        if let Some(allocated) = row.allocated() {
            return Ok(allocated.min(row.size));
        }
        if let Some((stamp, end)) = self.fs.content_ends.get(&content)
            && stamp == self.now.stamp
        {
            return Ok(end);
        }
        let last = self.view().extents(content, u64::MAX)?.next(self.view())?;
        let end = last.map_or(0, |(begin, extent)| begin.saturating_add(extent.length));
        self.fs.content_ends.insert(content, (self.now.stamp, end), 0);
        Ok(end)
    }

    /// Returns the bytes in the thawed ranges of an inode. Stat asks for them each time, so they are cached until
    /// something changes. If a file that is being written has very many ranges, only the first are added up, and the
    /// rest is estimated from their density.
    fn thawed_bytes(&self, inode: InodeId, size: u64) -> Result<u64, FsError> {
        if !self.view().has_thawed() {
            return Ok(0);
        }
        if let Some((stamp, bytes)) = self.fs.thawed.get(&inode)
            && stamp == self.now.stamp
        {
            return Ok(bytes);
        }
        let most = if self.fs.is_fixed() { usize::MAX } else { RANGES };
        let (mut bytes, mut end, mut count) = (0u64, 0, 0);
        let mut ranges = self.view().thawed(inode, 0)?;
        while let Some((begin, row)) = ranges.next(self.view())? {
            if count == most {
                bytes = scaled(bytes, size, end);
                break;
            }
            bytes = bytes.saturating_add(row.length);
            end = begin.saturating_add(row.length);
            count += 1;
        }
        self.fs.thawed.insert(inode, (self.now.stamp, bytes), 0);
        Ok(bytes)
    }
}

/// Returns `bytes` × `size` ÷ `end`, but at least `bytes`.
fn scaled(bytes: u64, size: u64, end: u64) -> u64 {
    let scaled = u128::from(bytes) * u128::from(size) / u128::from(end.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX).max(bytes)
}

impl Fs {
    /// Returns statistics of the whole filesystem, for statfs(2).
    pub fn statfs(&self) -> StatFs {
        let view = &self.now().view().version().root().view.clone();
        let blocks = view.bytes.div_ceil(STATFS_BLOCK.into());
        StatFs { blocks, free: 0, block_size: STATFS_BLOCK, files: view.inodes, free_files: 0 }
    }
}
