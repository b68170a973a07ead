//! POSIX ACLs in the kernel's xattr form (version 2), which is how the image keeps them.
//!
//! The algorithms are those of acl(5) and of `fs/posix_acl.c` in Linux, whose functions are named beside them. Pure.
//! Every [`Acl`] is valid. Callers: the operations that make files and change modes or ACLs.

use crate::format::FormatError;
use crate::format::bytes::Cursor;

/// Name of the xattr with the access ACL, which says who may access the file.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the xattr with a directory's default ACL, which new files in the directory inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const WHAT: &str = "ACL";
/// Version number of an encoded ACL; no other version exists.
const VERSION: u32 = 2;
/// Id in an entry that names no user or group.
const NO_ID: u32 = u32::MAX;
/// Mask of the permission bits that an ACL replaces.
const RWX_ALL: u16 = 0o777;
const RWX: u16 = 0o7;

/// Whom an entry of an ACL gives permissions. The numbers are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Tag {
    UserObj = 0x01,
    User = 0x02,
    GroupObj = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

impl Tag {
    fn from_number(number: u16) -> Option<Self> {
        [Tag::UserObj, Tag::User, Tag::GroupObj, Tag::Group, Tag::Mask, Tag::Other]
            .into_iter()
            .find(|tag| *tag as u16 == number)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    /// Permission bits: read, write, execute; below 8.
    permissions: u16,
    /// Id of the user or group of [`Tag::User`] and [`Tag::Group`]; [`NO_ID`] for the others.
    id: u32,
}

/// A valid POSIX ACL. Its entries are in the kernel's order: exactly one each for the owner, the owning group and
/// others, and a mask if it names other users or groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Decodes the ACL in an xattr's value; `None` if it has no entries, which asks for its removal
    /// (`posix_acl_from_xattr` and `posix_acl_valid` in Linux).
    ///
    /// # Errors
    /// Fails if the value is not a valid ACL.
    pub(super) fn decode(value: &[u8]) -> Result<Option<Self>, FormatError> {
        if value.is_empty() {
            return Ok(None);
        }
        let mut cursor = Cursor::new(value, WHAT);
        if cursor.u32()? != VERSION {
            return Err(FormatError::invalid(WHAT, "its version is not 2"));
        }
        let mut entries = Vec::new();
        while cursor.remaining() > 0 {
            let tag = u16::from_le_bytes(cursor.array()?);
            let permissions = u16::from_le_bytes(cursor.array()?);
            let id = cursor.u32()?;
            let tag = Tag::from_number(tag).ok_or(FormatError::invalid(WHAT, "an entry has an unknown tag"))?;
            if permissions & !RWX != 0 {
                return Err(FormatError::invalid(WHAT, "an entry has unknown permissions"));
            }
            let id = match tag {
                Tag::User | Tag::Group if id == NO_ID => {
                    return Err(FormatError::invalid(WHAT, "an entry names nobody"));
                }
                Tag::User | Tag::Group => id,
                _ => NO_ID,
            };
            entries.push(Entry { tag, permissions, id });
        }
        if entries.is_empty() {
            return Ok(None);
        }
        check_order(&entries)?;
        Ok(Some(Acl(entries)))
    }

    /// Encodes the ACL as an xattr's value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            out.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            out.extend_from_slice(&entry.permissions.to_le_bytes());
            out.extend_from_slice(&entry.id.to_le_bytes());
        }
        out
    }

    fn of(&self, tag: Tag) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions)
    }

    /// Returns the nine permission bits that go with the ACL (`posix_acl_equiv_mode` in Linux). The group's bits are
    /// those of the mask, if there is one.
    pub(super) fn mode(&self) -> u16 {
        let group = self.of(Tag::Mask).or(self.of(Tag::GroupObj)).unwrap_or(0);
        self.of(Tag::UserObj).unwrap_or(0) << 6 | group << 3 | self.of(Tag::Other).unwrap_or(0)
    }

    /// Returns whether the file's mode alone says the same as the ACL. Then the ACL need not be stored.
    pub(super) fn is_mode(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, Tag::UserObj | Tag::GroupObj | Tag::Other))
    }

    /// Changes the ACL of a file whose mode is changed to `mode` (`__posix_acl_chmod_masq` in Linux). The group's bits
    /// go to the mask, if there is one.
    pub(super) fn chmod(&mut self, mode: u16) {
        let group = if self.of(Tag::Mask).is_some() { Tag::Mask } else { Tag::GroupObj };
        for entry in &mut self.0 {
            match entry.tag {
                Tag::UserObj => entry.permissions = mode >> 6 & RWX,
                Tag::Other => entry.permissions = mode & RWX,
                tag if tag == group => entry.permissions = mode >> 3 & RWX,
                _ => {}
            }
        }
    }

    /// Returns the mode and the access ACL of a file made with `mode` in a directory with this default ACL
    /// (`__posix_acl_create_masq` in Linux). There is no access ACL if the mode says it all. Nobody gets more than
    /// `mode` asks for.
    pub(super) fn inherit(&self, mode: u16) -> (u16, Option<Acl>) {
        let mut own = self.clone();
        let group = if own.of(Tag::Mask).is_some() { Tag::Mask } else { Tag::GroupObj };
        for entry in &mut own.0 {
            match entry.tag {
                Tag::UserObj => entry.permissions &= mode >> 6 & RWX,
                Tag::Other => entry.permissions &= mode & RWX,
                tag if tag == group => entry.permissions &= mode >> 3 & RWX,
                _ => {}
            }
        }
        let mode = mode & !RWX_ALL | own.mode();
        let kept = (!own.is_mode()).then_some(own);
        (mode, kept)
    }
}

/// Checks the order of entries as `posix_acl_valid` does in Linux: owner, named users, owning group, named groups,
/// mask, others.
fn check_order(entries: &[Entry]) -> Result<(), FormatError> {
    let disorder = || FormatError::invalid(WHAT, "its entries are not in order, or one is missing");
    let (mut last, mut named) = (None, false);
    for entry in entries {
        last = match (last, entry.tag) {
            (None, Tag::UserObj)
            | (Some(Tag::UserObj | Tag::User), Tag::User | Tag::GroupObj)
            | (Some(Tag::GroupObj | Tag::Group), Tag::Group | Tag::Mask) => Some(entry.tag),
            (Some(Tag::GroupObj | Tag::Group), Tag::Other) if !named => Some(Tag::Other),
            (Some(Tag::Mask), Tag::Other) => Some(Tag::Other),
            _ => return Err(disorder()),
        };
        named |= matches!(entry.tag, Tag::User | Tag::Group);
    }
    if last == Some(Tag::Other) { Ok(()) } else { Err(disorder()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x04;
    const NAMED_GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&permissions.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::decode(&value(entries)).unwrap().unwrap()
    }

    fn named() -> Acl {
        acl(&[
            (OWNER, 7, NO_ID),
            (USER, 6, 1000),
            (GROUP, 5, NO_ID),
            (NAMED_GROUP, 7, 50),
            (MASK, 7, NO_ID),
            (OTHER, 4, NO_ID),
        ])
    }

    #[test]
    fn an_acl_comes_back_and_gives_the_mode_that_goes_with_it() {
        let plain = acl(&[(OWNER, 6, NO_ID), (GROUP, 4, NO_ID), (OTHER, 0, NO_ID)]);
        assert_eq!((plain.mode(), plain.is_mode()), (0o640, true));
        assert_eq!((named().mode(), named().is_mode()), (0o774, false));
        // No mode can express a mask.
        let masked = acl(&[(OWNER, 6, NO_ID), (GROUP, 6, NO_ID), (MASK, 4, NO_ID), (OTHER, 0, NO_ID)]);
        assert_eq!((masked.mode(), masked.is_mode()), (0o640, false));
        for acl in [plain, named(), masked] {
            assert_eq!(Acl::decode(&acl.encode()).unwrap(), Some(acl));
        }
    }

    #[test]
    fn a_value_without_entries_asks_for_removal() {
        assert_eq!(Acl::decode(&[]).unwrap(), None);
        assert_eq!(Acl::decode(&value(&[])).unwrap(), None);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        let (o, g, t) = ((OWNER, 6, NO_ID), (GROUP, 4, NO_ID), (OTHER, 0, NO_ID));
        for entries in [
            vec![o, g],
            vec![g, o, t],
            vec![o, o, g, t],
            vec![o, g, g, t],
            vec![o, g, t, t],
            vec![o, (USER, 4, 1), g, t],
            vec![o, g, (NAMED_GROUP, 4, 1), t],
            vec![o, g, (MASK, 4, 0), (MASK, 4, 0), t],
            vec![o, (USER, 4, NO_ID), g, (MASK, 4, 0), t],
            vec![(OWNER, 8, 0), g, t],
            vec![o, g, (0x40, 0, 0), t],
            vec![o, (MASK, 4, 0), g, t],
        ] {
            assert!(Acl::decode(&value(&entries)).is_err(), "{entries:?}");
        }
        let good = value(&[o, g, t]);
        assert!(Acl::decode(&good).is_ok());
        assert!(Acl::decode(&good[..good.len() - 1]).is_err());
        assert!(Acl::decode(&good[..3]).is_err());
        let mut other_version = good;
        other_version[0] = 1;
        assert!(Acl::decode(&other_version).is_err());
    }

    #[test]
    fn chmod_changes_the_mask_and_leaves_whom_it_masks() {
        let mut changed = named();
        changed.chmod(0o4751);
        let expected = acl(&[
            (OWNER, 7, NO_ID),
            (USER, 6, 1000),
            (GROUP, 5, NO_ID),
            (NAMED_GROUP, 7, 50),
            (MASK, 5, NO_ID),
            (OTHER, 1, NO_ID),
        ]);
        assert_eq!(changed, expected);
        let mut plain = acl(&[(OWNER, 6, NO_ID), (GROUP, 4, NO_ID), (OTHER, 0, NO_ID)]);
        plain.chmod(0o751);
        assert_eq!(plain.mode(), 0o751);
    }

    #[test]
    fn what_is_made_gets_the_default_acl_and_never_more_than_it_asked_for() {
        let (mode, own) = named().inherit(0o2640);
        assert_eq!(mode, 0o2640);
        let expected = acl(&[
            (OWNER, 6, NO_ID),
            (USER, 6, 1000),
            (GROUP, 5, NO_ID),
            (NAMED_GROUP, 7, 50),
            (MASK, 4, NO_ID),
            (OTHER, 0, NO_ID),
        ]);
        assert_eq!(own, Some(expected));
        let plain = acl(&[(OWNER, 7, NO_ID), (GROUP, 5, NO_ID), (OTHER, 0, NO_ID)]);
        assert_eq!(plain.inherit(0o666), (0o640, None));
    }

    proptest! {
        #[test]
        fn any_value_gives_an_acl_that_comes_back_or_an_error(
            tags in prop::collection::vec((prop_oneof![Just(1u16), Just(2), Just(4), Just(8), Just(16), Just(32), any::<u16>()], 0u16..9, any::<u32>()), 0..8),
            cut in 0usize..9,
        ) {
            let bytes = value(&tags);
            if let Ok(Some(acl)) = Acl::decode(&bytes[..bytes.len() - cut.min(bytes.len())]) {
                let mut changed = acl.clone();
                changed.chmod(acl.mode());
                prop_assert_eq!(&changed, &acl);
                let (mode, _) = acl.inherit(0o777);
                prop_assert_eq!(mode, acl.mode());
                prop_assert_eq!(Acl::decode(&acl.encode()).unwrap(), Some(acl));
            }
        }
    }
}
