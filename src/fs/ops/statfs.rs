//! statfs(2) of a filesystem that grows: the numbers of the file system that contains image and thaw log.

use crate::format::limits;
use crate::fs::live::Live;
use crate::fs::{FsError, StatFs};
use crate::storage::Space;

/// Length of a block in bytes, only for display: nothing is allocated in blocks.
const BLOCK: u32 = 4096;
/// Bytes that the next commits and the next checkpoint may take. They are not free for files.
const RESERVE: u64 = 16 << 20;

/// Makes the statistics. `inodes` is the number of inodes that have a name now; `next_inode` is the next inode number.
fn statfs(space: Space, inodes: u64, next_inode: u64) -> StatFs {
    let block = u64::from(BLOCK);
    StatFs {
        blocks: space.total / block,
        free: space.free.saturating_sub(RESERVE) / block,
        block_size: BLOCK,
        files: inodes.saturating_add(limits::INODE.saturating_sub(next_inode)),
        free_files: limits::INODE.saturating_sub(next_inode),
    }
}

impl Live {
    /// Returns the total and free space of the file system that contains the image, less what is kept for commits and
    /// checkpoints; also how many inodes exist, and how many more there can be.
    ///
    /// # Errors
    /// Fails with `Io` if the file system does not tell.
    pub fn statfs(&self) -> Result<StatFs, FsError> {
        let next_inode = self.ids.counters().inode;
        Ok(statfs(self.space()?, self.lock_state().totals().inodes, next_inode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_commits_is_not_free() {
        let found = statfs(Space { free: RESERVE + 8192, total: 1 << 30 }, 3, 5);
        assert_eq!((found.blocks, found.free, found.block_size), (1 << 18, 2, 4096));
        assert_eq!(found.files - found.free_files, 3);
        assert_eq!(statfs(Space { free: 1, total: 4096 }, 1, 2).free, 0);
    }
}
