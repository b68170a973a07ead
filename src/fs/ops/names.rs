//! What all operations on names ask first.

use crate::format::ids::InodeId;
use crate::format::limits;
use crate::format::rows::dirent::check_name;
use crate::format::rows::{FileType, InodeRow, Time};
use crate::fs::FsError;
use crate::fs::draft::Draft;

/// Names of one file at most, as ext4 has it. An image that was packed may hold files with more; these get no further ones.
pub(super) const LINKS: u64 = 65_000;

/// Whether this can be a name in a directory.
///
/// # Errors
/// `NameTooLong`; `Invalid` for one that no directory may hold.
pub(super) fn check(name: &[u8]) -> Result<(), FsError> {
    if name.len() > limits::NAME_LEN {
        return Err(FsError::NameTooLong);
    }
    check_name(name).map_err(|_| FsError::Invalid)
}

/// The row of a directory that has a name.
///
/// # Errors
/// `NotFound` if it is gone, `NotDirectory`.
pub(super) fn directory(draft: &mut Draft, inode: InodeId) -> Result<InodeRow, FsError> {
    let row = draft.inode(inode)?;
    if row.file_type == FileType::Directory { Ok(row) } else { Err(FsError::NotDirectory) }
}

/// What changes when the bytes of a file, or the names in a directory, change.
pub(super) fn changed(row: &mut InodeRow, now: Time) {
    row.mtime = now;
    row.ctime = now;
}

/// Notes that the names in directory `inode` changed, and that it has `subdirectories` more directories in it.
pub(super) fn directory_changed(draft: &mut Draft, inode: InodeId, subdirectories: i64) -> Result<(), FsError> {
    let mut row = directory(draft, inode)?;
    row.links = row.links.saturating_add_signed(subdirectories);
    changed(&mut row, draft.now());
    draft.put_inode(inode, &row);
    Ok(())
}
