//! Users of objects that several inodes may share (section 8.10).
//!
//! An object with one user has no row. Whoever adds or removes a user claims the object. So if two operations each
//! remove one of two users, or if one adds a user to an object that the other deletes, one of them is evaluated again.

use crate::format::block::{Key, Row};
use crate::format::rows::{ShareKey, ShareRow};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::Draft;

fn key_of(share: ShareKey) -> Key {
    let (a, b) = share.encode();
    Key::new(a, b)
}

/// Returns whether several inodes use a content or xattr set. Then none of them may change it in place.
pub(super) fn is_shared(draft: &mut Draft, share: ShareKey) -> Result<bool, FsError> {
    draft.claim_shared(share);
    Ok(draft.view().users(share)? > 1)
}

/// Removes a user of a content or xattr set. Returns true if it was the last one; the caller must then delete the rows.
pub(super) fn remove_user(draft: &mut Draft, share: ShareKey) -> Result<bool, FsError> {
    draft.claim_shared(share);
    //= format-spec.md#8.10
    //# Something with one user or none has no row.
    match draft.view().users(share)? {
        0 | 1 => return Ok(true),
        2 => draft.delete(&schema::SHARES, key_of(share)),
        users => put(draft, share, users - 1),
    }
    Ok(false)
}

/// Adds a user to a content or xattr set that the row of another inode names. The caller has claimed that inode
/// (recorded it as read); so the object has a user, and its rows exist.
pub(super) fn add_user(draft: &mut Draft, share: ShareKey) -> Result<(), FsError> {
    draft.claim_shared(share);
    let users = draft.view().users(share)?.max(1);
    put(draft, share, users.saturating_add(1));
    Ok(())
}

fn put(draft: &mut Draft, share: ShareKey, users: u64) {
    let ints = ShareRow { users }.encode().to_vec();
    draft.put(&schema::SHARES, Row { key: key_of(share), ints, tail: Vec::new() });
}
