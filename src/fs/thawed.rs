//! Thawed ranges of files, for a reader that does not have the thaw log.
//!
//! In an image without thawed ranges none of these functions looks anything up.

use super::{Fs, FsError};
use crate::format::ids::InodeId;

impl Fs {
    /// An error if the image does not have some of these bytes, since they are in the thaw log, or are lost.
    pub(super) fn refuse_thawed(&self, inode: InodeId, offset: u64, len: u64) -> Result<(), FsError> {
        if !self.view.has_thawed() {
            return Ok(());
        }
        //= format-spec.md#8.9
        //# A reader without the thaw log must answer a read that meets a thawed range, in the log or lost, with EIO, and no
        //# other read.
        match self.view.thawed(inode, offset)?.next(&self.view)? {
            Some((begin, row)) if begin < offset.saturating_add(len) => {
                let place = if row.is_lost() { "lost" } else { "in the thaw log, not in the image" };
                Err(FsError::io(format!("{} bytes at offset {begin} are {place}", row.length)))
            }
            _ => Ok(()),
        }
    }

    /// Bytes in the thawed ranges of an inode. Stat asks for them each time, so they are remembered.
    pub(super) fn thawed_bytes(&self, inode: InodeId) -> Result<u64, FsError> {
        if !self.view.has_thawed() {
            return Ok(0);
        }
        if let Some(known) = self.thawed.get(&inode) {
            return Ok(known);
        }
        let mut bytes = 0u64;
        let mut ranges = self.view.thawed(inode, 0)?;
        while let Some((_, row)) = ranges.next(&self.view)? {
            bytes = bytes.saturating_add(row.length);
        }
        self.thawed.insert(inode, bytes, 64);
        Ok(bytes)
    }
}
