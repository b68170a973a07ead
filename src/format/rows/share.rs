//! How many inodes use a shared content, tiny content or xattr set (section 8.10).

use super::ContentRef;
use super::inode::{InodeRow, XattrRef};
use crate::format::{FormatError, limits};

/// What several inodes can share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShareKind {
    /// A content in the contents table (table 3).
    Content,
    /// A tiny content: the bytes of a small file.
    Tiny,
    /// A set of xattrs in the xattrs table (table 4).
    Xattrs,
}

impl ShareKind {
    /// Returns the kind's name for messages.
    pub fn name(self) -> &'static str {
        match self {
            ShareKind::Content => "content",
            ShareKind::Tiny => "tiny content",
            ShareKind::Xattrs => "xattr set",
        }
    }
}

/// The key of a row of the table of shares, ordered as in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareKey {
    /// Kind of what is shared.
    pub kind: ShareKind,
    /// Id of what is shared, from 1, below [`limits::ID`].
    pub id: u64,
}

impl ShareKey {
    /// Returns everything that the inode is a user of, at most two things.
    pub fn used_by(inode: &InodeRow) -> impl Iterator<Item = ShareKey> + use<> {
        let content = match inode.content {
            ContentRef::None | ContentRef::Subchunk(_) => None,
            ContentRef::Content(id) => Some(ShareKey { kind: ShareKind::Content, id: id.0 }),
            ContentRef::Tiny(id) => Some(ShareKey { kind: ShareKind::Tiny, id: id.0 }),
        };
        let xattrs = match inode.xattrs {
            XattrRef::None | XattrRef::Inline(_) => None,
            XattrRef::Set(id) => Some(ShareKey { kind: ShareKind::Xattrs, id: id.0 }),
        };
        content.into_iter().chain(xattrs)
    }

    /// Returns `a` and `b` of the row's key.
    pub fn encode(&self) -> (u64, u64) {
        let kind = match self.kind {
            ShareKind::Content => 1,
            ShareKind::Tiny => 2,
            ShareKind::Xattrs => 3,
        };
        (kind, self.id)
    }

    /// Decodes `a` and `b` of a row's key.
    ///
    /// # Errors
    /// Fails if there is no such kind or id.
    pub fn decode(a: u64, b: u64) -> Result<Self, FormatError> {
        //= format-spec.md#8.10
        //# A reader of the table refuses a row with an unknown kind, an id of 0, or fewer than two users.
        let kind = match a {
            1 => ShareKind::Content,
            2 => ShareKind::Tiny,
            3 => ShareKind::Xattrs,
            _ => return Err(FormatError::invalid("key of shares", "unknown kind")),
        };
        if b == 0 || b >= limits::ID {
            return Err(FormatError::Limit { what: "id in shares", value: b, limit: limits::ID });
        }
        Ok(ShareKey { kind, id: b })
    }

    /// Packs kind and id into one number with the same order as the key: the kind takes 2 bits, the id 62.
    pub fn pack(&self) -> u64 {
        let (kind, id) = self.encode();
        kind << 62 | id
    }

    /// Unpacks a number that [`ShareKey::pack`] made.
    ///
    /// # Errors
    /// Fails as [`ShareKey::decode`] does.
    pub fn unpack(packed: u64) -> Result<Self, FormatError> {
        ShareKey::decode(packed >> 62, packed & (limits::ID - 1))
    }
}

/// A row of the table of shares, without its key. What has no row has one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareRow {
    /// Number of inodes that use the shared content or set, orphans included; at least 2.
    pub users: u64,
}

impl ShareRow {
    /// Returns the integers of the row.
    pub fn encode(&self) -> [u64; 1] {
        [self.users]
    }

    /// Decodes the integers of a row.
    ///
    /// # Errors
    /// Fails if the row has fewer than two users, or more than there can be inodes.
    pub fn decode(ints: &[u64]) -> Result<Self, FormatError> {
        const WHAT: &str = "users of what is shared";
        match *ints {
            [users @ 2..limits::INODE] => Ok(ShareRow { users }),
            [value] => Err(FormatError::Limit { what: WHAT, value, limit: limits::INODE - 1 }),
            _ => Err(FormatError::invalid(WHAT, "wrong number of columns")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = ShareKey> {
        let kind = prop_oneof![Just(ShareKind::Content), Just(ShareKind::Tiny), Just(ShareKind::Xattrs)];
        (kind, 1..limits::ID).prop_map(|(kind, id)| ShareKey { kind, id })
    }

    proptest! {
        #[test]
        fn shares_come_back_as_they_went_in_and_keep_their_order(one in key(), other in key(), users in 2..limits::INODE) {
            let (a, b) = one.encode();
            prop_assert_eq!(ShareKey::decode(a, b).unwrap(), one);
            prop_assert_eq!(ShareKey::unpack(one.pack()).unwrap(), one);
            prop_assert_eq!(one.pack().cmp(&other.pack()), one.cmp(&other));
            prop_assert_eq!(one.encode().cmp(&other.encode()), one.cmp(&other));
            let row = ShareRow { users };
            prop_assert_eq!(ShareRow::decode(&row.encode()).unwrap(), row);
        }

        #[test]
        fn any_key_and_integers_give_a_share_or_an_error(a in 0u64..6, b: u64, ints in prop::collection::vec(any::<u64>(), 0..3)) {
            if let Ok(key) = ShareKey::decode(a, b) {
                prop_assert_eq!(key.encode(), (a, b));
            }
            if let Ok(row) = ShareRow::decode(&ints) {
                prop_assert_eq!(row.encode().to_vec(), ints);
            }
        }
    }

    //= format-spec.md#8.10
    //= type=test
    //# A reader of the table refuses a row with an unknown kind, an id of 0, or fewer than two users.
    #[test]
    fn shares_of_unknown_things_or_of_fewer_than_two_users_are_refused() {
        assert!(ShareKey::decode(0, 1).is_err());
        assert!(ShareKey::decode(4, 1).is_err());
        assert!(ShareKey::decode(1, 0).is_err());
        assert!(ShareKey::decode(1, limits::ID).is_err());
        assert!(ShareKey::unpack(7).is_err());
        for ints in [&[0][..], &[1], &[limits::INODE], &[], &[2, 2]] {
            assert!(ShareRow::decode(ints).is_err(), "{ints:?}");
        }
    }
}
