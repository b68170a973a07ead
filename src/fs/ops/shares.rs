//! Users of what several inodes may have (section 8.10).
//!
//! What has one user has no row. Whoever adds or removes a user claims the object, so that of two operations that would take
//! each other's last user, or give one to what is deleted, one begins anew.

use crate::format::block::{Key, Row};
use crate::format::rows::{ShareKey, ShareRow};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::Draft;

fn key_of(share: ShareKey) -> Key {
    let (a, b) = share.encode();
    Key::new(a, b)
}

/// Whether several inodes have it, so that none may change it in place.
pub(super) fn is_shared(draft: &mut Draft, share: ShareKey) -> Result<bool, FsError> {
    draft.claim_shared(share);
    Ok(draft.view().users(share)? > 1)
}

/// Takes a user away. `true`: it was the last, and the rows must go, too.
pub(super) fn remove_user(draft: &mut Draft, share: ShareKey) -> Result<bool, FsError> {
    draft.claim_shared(share);
    //= format-spec.md#8.10
    //# What has one user has no row, nor has what has none.
    match draft.view().users(share)? {
        0 | 1 => return Ok(true),
        2 => draft.delete(&schema::SHARES, key_of(share)),
        users => put(draft, share, users - 1),
    }
    Ok(false)
}

/// Adds a user to what the caller read from the row of an inode that it has claimed: so it has a user, and its rows are there.
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
