//! Sets of xattrs (section 8.4): in the inode's row up to 128 bytes, else in rows of table 4, which other inodes may have, too.

use super::shares;
use crate::format::block::{Key, Row};
use crate::format::ids::XattrSetId;
use crate::format::limits;
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{InodeRow, ShareKey, ShareKind, Xattr, XattrSet};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::Draft;

/// Bytes that listxattr(2) can give: names, each with a zero byte.
const LIST: usize = 64 << 10;

fn share(id: XattrSetId) -> ShareKey {
    ShareKey { kind: ShareKind::Xattrs, id: id.0 }
}

/// Makes these the inode's xattrs. The caller puts the row.
///
/// # Errors
/// `NoSpace` if they are too many.
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
    // A new id each time: rows that go and rows that come have different keys.
    let id = draft.new_xattrs()?;
    for (piece, tail) in (0..).zip(bytes.chunks(limits::XATTR_PIECE)) {
        draft.put(&schema::XATTRS, Row { key: Key::new(id.0, piece), ints: Vec::new(), tail: tail.to_vec() });
    }
    row.xattrs = XattrRef::Set(id);
    Ok(())
}

/// Gives up the inode's xattrs; where it was the last user of a set, its rows go, too. The caller puts the row.
pub(super) fn release(draft: &mut Draft, row: &mut InodeRow) -> Result<(), FsError> {
    if let XattrRef::Set(id) = std::mem::replace(&mut row.xattrs, XattrRef::None)
        && shares::remove_user(draft, share(id))?
    {
        // Ids are below 2^62.
        draft.delete_range(&schema::XATTRS, Key::new(id.0, 0), Key::new(id.0.saturating_add(1), 0))?;
    }
    Ok(())
}

/// Puts one xattr in place of the one of its name. The caller puts the row.
pub(super) fn put(draft: &mut Draft, row: &mut InodeRow, name: &[u8], value: Vec<u8>) -> Result<(), FsError> {
    let mut all = draft.view().xattrs(row)?;
    all.0.retain(|xattr| xattr.name != name);
    all.0.push(Xattr { name: name.to_vec(), value });
    set(draft, row, &XattrSet::new(all.0))
}

/// Removes one xattr; whether it was there. The caller puts the row.
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
