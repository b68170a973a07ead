//! Sets of xattrs (section 8.4): up to 128 bytes are in the inode's row, larger ones in rows of table 4, which several
//! inodes may share.

use super::shares;
use crate::format::block::{Key, Row};
use crate::format::ids::XattrSetId;
use crate::format::limits;
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{InodeRow, ShareKey, ShareKind, Xattr, XattrSet};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::Draft;

/// Most bytes that listxattr(2) can return: names, each with a zero byte.
const LIST: usize = 64 << 10;

fn share(id: XattrSetId) -> ShareKey {
    ShareKey { kind: ShareKind::Xattrs, id: id.0 }
}

/// Makes `set` the inode's xattrs. The caller writes the row.
///
/// # Errors
/// Fails with `NoSpace` if the set is too large.
pub(super) fn set(draft: &mut Draft, row: &mut InodeRow, set: &XattrSet) -> Result<(), FsError> {
    let bytes = set.encode();
    let names: usize = set.0.iter().map(|xattr| xattr.name.len().saturating_add(1)).sum();
    if bytes.len() > limits::XATTR_SET || names > LIST {
        return Err(FsError::NoSpace);
    }
    if bytes.len() <= limits::XATTR_INLINE {
        release(draft, row)?;
        row.xattrs = if bytes.is_empty() { XattrRef::None } else { XattrRef::Inline(bytes) };
        return Ok(());
    }
    release(draft, row)?;
    // Always a new id, so that the deleted rows and the new rows have different keys.
    let id = draft.new_xattrs()?;
    for (piece, tail) in (0..).zip(bytes.chunks(limits::XATTR_PIECE)) {
        draft.put(&schema::XATTRS, Row { key: Key::new(id.0, piece), ints: Vec::new(), tail: tail.to_vec() });
    }
    row.xattrs = XattrRef::Set(id);
    Ok(())
}

/// Releases the inode's xattrs. If it was the last user of a set, the set's rows are deleted. The caller writes the
/// row.
pub(super) fn release(draft: &mut Draft, row: &mut InodeRow) -> Result<(), FsError> {
    if let XattrRef::Set(id) = std::mem::replace(&mut row.xattrs, XattrRef::None)
        && shares::remove_user(draft, share(id))?
    {
        // Ids are below 2^62.
        draft.delete_range(&schema::XATTRS, Key::new(id.0, 0), Key::new(id.0.saturating_add(1), 0))?;
    }
    Ok(())
}

/// Sets one xattr, replacing one of the same name. The caller writes the row.
pub(super) fn put(draft: &mut Draft, row: &mut InodeRow, name: &[u8], value: Vec<u8>) -> Result<(), FsError> {
    let mut all = draft.view().xattrs(row)?;
    all.0.retain(|xattr| xattr.name != name);
    all.0.push(Xattr { name: name.to_vec(), value });
    set(draft, row, &XattrSet::new(all.0))
}

/// Removes one xattr. Returns whether it existed. The caller writes the row.
pub(super) fn remove(draft: &mut Draft, row: &mut InodeRow, name: &[u8]) -> Result<bool, FsError> {
    if row.xattrs == XattrRef::None {
        return Ok(false);
    }
    let mut all = draft.view().xattrs(row)?;
    let before = all.0.len();
    all.0.retain(|xattr| xattr.name != name);
    if all.0.len() == before {
        return Ok(false);
    }
    set(draft, row, &all)?;
    Ok(true)
}
