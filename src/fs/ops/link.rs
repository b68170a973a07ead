//! Gives an inode another name.

use super::{attributes, names};
use crate::format::ids::InodeId;
use crate::format::rows::{DirentRow, FileType, InodeRow};
use crate::fs::draft::Draft;
use crate::fs::live::Live;
use crate::fs::{Attr, FsError};

/// Adds the name `name` in `parent` to `inode`.
pub(in crate::fs) fn link(
    draft: &mut Draft,
    inode: InodeId,
    parent: InodeId,
    name: &[u8],
) -> Result<InodeRow, FsError> {
    names::check(name)?;
    names::directory(draft, parent)?;
    if draft.lookup(parent, name)?.is_some() {
        return Err(FsError::Exists);
    }
    // An inode that lost its last name while it was open gets no new one.
    let mut row = draft.inode(inode)?;
    if row.file_type == FileType::Directory {
        return Err(FsError::NotPermitted);
    }
    if row.links >= names::LINKS {
        return Err(FsError::TooManyNames);
    }
    row.links += 1;
    row.ctime = draft.now();
    draft.put_inode(inode, &row);
    draft.put_dirent(parent, name, &DirentRow { inode, file_type: row.file_type });
    names::directory_changed(draft, parent, 0)?;
    Ok(row)
}

impl Live {
    /// Gives `inode` another name, `new_name` in `new_parent`.
    ///
    /// # Errors
    /// Fails with `NotPermitted` for a directory, `Exists`, `NotFound`, `NotDirectory`, `TooManyNames`, `NameTooLong`,
    /// `NoSpace` or `ReadOnly`, or with `Io` if tables cannot be read.
    pub fn link(&self, inode: InodeId, new_parent: InodeId, new_name: &[u8]) -> Result<Attr, FsError> {
        self.transact(|draft| {
            let row = link(draft, inode, new_parent, new_name)?;
            attributes::of(draft.view(), inode, &row)
        })
    }
}
