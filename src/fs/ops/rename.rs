//! Moves and exchanges names.
//!
//! A directory never gets into itself: the path from its new parent up to the root is read with a claim on each
//! directory. So of two renames that together would make a loop, one is evaluated again and finds it.

use super::{names, unlink};
use crate::format::ids::InodeId;
use crate::format::rows::{DirentRow, FileType};
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::live::Live;

/// Largest depth of a directory: far more than any path has. Only a damaged image has a loop.
const DEPTH: usize = 1 << 20;

/// Flags of renameat2(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RenameFlags {
    /// Fail if the new name exists (RENAME_NOREPLACE).
    pub no_replace: bool,
    /// Exchange both names, which must exist (RENAME_EXCHANGE).
    pub exchange: bool,
}

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    dir: InodeId,
    name: &'a [u8],
}

/// Moves `name` in `parent` to `new_name` in `new_parent`.
pub(in crate::fs) fn rename(
    draft: &mut Draft,
    (parent, name): (InodeId, &[u8]),
    (new_parent, new_name): (InodeId, &[u8]),
    flags: RenameFlags,
) -> Result<(), FsError> {
    if flags.no_replace && flags.exchange {
        return Err(FsError::Invalid);
    }
    names::check(name)?;
    names::check(new_name)?;
    names::directory(draft, parent)?;
    names::directory(draft, new_parent)?;
    let from = draft.lookup(parent, name)?.ok_or(FsError::NotFound)?;
    let target = draft.lookup(new_parent, new_name)?;
    let (old, new) = (Place { dir: parent, name }, Place { dir: new_parent, name: new_name });
    // The checks are in the order of Linux.
    match target {
        Some(_) if flags.no_replace => return Err(FsError::Exists),
        None if flags.exchange => return Err(FsError::NotFound),
        _ => {}
    }
    if from.file_type == FileType::Directory && contains(draft, from.inode, new_parent)? {
        return Err(FsError::Invalid);
    }
    if let Some(target) = target
        && target.file_type == FileType::Directory
        && contains(draft, target.inode, parent)?
    {
        return Err(if flags.exchange { FsError::Invalid } else { FsError::NotEmpty });
    }
    match target {
        // Both are names of one inode: POSIX says that nothing happens.
        Some(target) if target.inode == from.inode => Ok(()),
        Some(target) if flags.exchange => exchange(draft, (old, from), (new, target)),
        target => {
            if let Some(target) = target {
                replaced(draft, &from, new, &target)?;
            }
            draft.delete_dirent(old.dir, old.name);
            put(draft, new, &from)?;
            let moved = i64::from(from.file_type == FileType::Directory && parent != new_parent);
            names::directory_changed(draft, parent, -moved)?;
            names::directory_changed(draft, new_parent, moved)
        }
    }
}

/// Returns whether directory `inode` is `dir` or contains it.
fn contains(draft: &mut Draft, inode: InodeId, dir: InodeId) -> Result<bool, FsError> {
    let mut at = dir;
    for _ in 0..DEPTH {
        if at == inode {
            return Ok(true);
        }
        if at == InodeId::ROOT {
            return Ok(false);
        }
        at = names::directory(draft, at)?.parent.ok_or(FsError::NotDirectory)?;
    }
    Err(FsError::io(format!("directory {dir} is not below the root: its parents form a loop")))
}

/// Removes the name `place` from the inode in `target`, which has the name now, so that a rename can give it to the
/// inode in `from`. If the inode in `target` is a directory, its parent has one subdirectory less.
fn replaced(draft: &mut Draft, from: &DirentRow, place: Place<'_>, target: &DirentRow) -> Result<(), FsError> {
    let directory = FileType::Directory;
    draft.removes();
    match (from.file_type == directory, target.file_type == directory) {
        (true, true) => {
            let row = unlink::empty_directory(draft, target.inode)?;
            draft.delete_dirent(place.dir, place.name);
            names::directory_changed(draft, place.dir, -1)?;
            unlink::drop_directory(draft, target.inode, row)
        }
        (true, false) => Err(FsError::NotDirectory),
        (false, true) => Err(FsError::IsDirectory),
        (false, false) => unlink::drop_name(draft, target.inode),
    }
}

fn exchange(
    draft: &mut Draft,
    (old, from): (Place<'_>, DirentRow),
    (new, target): (Place<'_>, DirentRow),
) -> Result<(), FsError> {
    put(draft, new, &from)?;
    put(draft, old, &target)?;
    let is_directory = |entry: &DirentRow| i64::from(entry.file_type == FileType::Directory);
    let gained = if old.dir == new.dir { 0 } else { is_directory(&from) - is_directory(&target) };
    names::directory_changed(draft, old.dir, -gained)?;
    names::directory_changed(draft, new.dir, gained)
}

/// Gives the inode in `entry` the name `place`. A directory also records its new parent.
fn put(draft: &mut Draft, place: Place<'_>, entry: &DirentRow) -> Result<(), FsError> {
    draft.put_dirent(place.dir, place.name, entry);
    let mut row = draft.inode(entry.inode)?;
    row.ctime = draft.now();
    row.parent = row.parent.map(|_| place.dir);
    draft.put_inode(entry.inode, &row);
    Ok(())
}

impl Live {
    /// Moves `name` in `parent` to `new_name` in `new_parent`. An existing file of that name is replaced, unless
    /// `flags` say otherwise.
    ///
    /// # Errors
    /// Fails with `NotFound`, `Exists`, `NotEmpty`, `IsDirectory`, `NotDirectory`; `Invalid` for a directory into
    /// itself; `NameTooLong`, `NoSpace`, `ReadOnly`; `Io` if tables cannot be read.
    pub fn rename(
        &self,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), FsError> {
        self.transact(|draft| rename(draft, (parent, name), (new_parent, new_name), flags))
    }
}
