//! Checks that all operations on names make first.

use crate::format::ids::InodeId;
use crate::format::limits;
use crate::format::rows::dirent::check_name;
use crate::format::rows::{FileType, InodeRow, Time};
use crate::fs::FsError;
use crate::fs::draft::Draft;

/// Most names of a file, as on ext4. A packed image may contain files with more names; these get no further ones.
pub(super) const LINKS: u64 = 65_000;

/// Checks that a directory can have this name.
///
/// # Errors
/// Fails with `NameTooLong`, or with `Invalid` for a name that no directory may have.
pub(super) fn check(name: &[u8]) -> Result<(), FsError> {
    if name.len() > limits::NAME_LEN {
        return Err(FsError::NameTooLong);
    }
    check_name(name).map_err(|_| FsError::Invalid)
}

/// Returns the row of a directory that has a name.
///
/// # Errors
/// Fails with `NotFound` if it is deleted, or with `NotDirectory`.
pub(super) fn directory(draft: &mut Draft, inode: InodeId) -> Result<InodeRow, FsError> {
    let row = draft.inode(inode)?;
    if row.file_type == FileType::Directory { Ok(row) } else { Err(FsError::NotDirectory) }
}

/// Updates the times after a change of a file's bytes, or of a directory's names.
pub(super) fn changed(row: &mut InodeRow, now: Time) {
    row.mtime = now;
    row.ctime = now;
}

/// Updates a directory whose names changed, and which has `subdirectories` more directories in it.
pub(super) fn directory_changed(draft: &mut Draft, inode: InodeId, subdirectories: i64) -> Result<(), FsError> {
    let mut row = directory(draft, inode)?;
    row.links = row.links.saturating_add_signed(subdirectories);
    changed(&mut row, draft.now());
    draft.put_inode(inode, &row);
    Ok(())
}
