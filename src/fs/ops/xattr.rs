//! Extended attributes and ACLs.

use super::privileges::SETGID;
use super::sets;
use crate::format::ids::InodeId;
use crate::format::limits;
use crate::format::rows::{FileType, InodeRow};
use crate::fs::FsError;
use crate::fs::acl::{self, Acl};
use crate::fs::draft::Draft;
use crate::fs::live::Live;

/// Most bytes of an attribute's name, as in Linux.
const NAME: usize = 255;
/// Prefix of the names of floe's own attributes, which are read-only.
const VIRTUAL: &[u8] = b"user.floe.";

/// Flags for setting an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XattrFlags {
    /// Fail if the attribute exists (XATTR_CREATE).
    pub create: bool,
    /// Fail if the attribute does not exist (XATTR_REPLACE).
    pub replace: bool,
    /// For an access ACL: the file loses setgid, because the caller is not in its group (FUSE_SETXATTR_ACL_KILL_SGID).
    pub clear_setgid: bool,
}

/// Sets an attribute.
pub(in crate::fs) fn set_xattr(
    draft: &mut Draft,
    inode: InodeId,
    name: &[u8],
    value: &[u8],
    flags: XattrFlags,
) -> Result<(), FsError> {
    let (mut row, standing) = draft.any_inode(inode)?;
    check(&row, name)?;
    if value.len() > limits::XATTR_VALUE {
        return Err(FsError::AttributeTooLarge);
    }
    let exists = draft.view().xattrs(&row)?.get(name).is_some();
    if flags.create && exists {
        return Err(FsError::Exists);
    }
    if flags.replace && !exists {
        return Err(FsError::NoAttribute);
    }
    match name {
        acl::ACCESS => set_access(draft, &mut row, value, flags.clear_setgid)?,
        acl::DEFAULT => set_default(draft, &mut row, value)?,
        _ => sets::put(draft, &mut row, name, value.to_vec())?,
    }
    row.ctime = draft.now();
    draft.put_any(inode, &row, standing);
    Ok(())
}

/// Removes an attribute. Removing an ACL that does not exist succeeds, as on ext4.
pub(in crate::fs) fn remove_xattr(draft: &mut Draft, inode: InodeId, name: &[u8]) -> Result<(), FsError> {
    draft.removes();
    let (mut row, standing) = draft.any_inode(inode)?;
    check(&row, name)?;
    if !sets::remove(draft, &mut row, name)? {
        return if is_acl(name) { Ok(()) } else { Err(FsError::NoAttribute) };
    }
    row.ctime = draft.now();
    draft.put_any(inode, &row, standing);
    Ok(())
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

/// Checks that an inode of this type may have an attribute of this name, by the rules of Linux.
fn check(row: &InodeRow, name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > NAME || name.contains(&0) {
        return Err(FsError::OutOfRange);
    }
    if is_acl(name) {
        return if row.file_type == FileType::Symlink { Err(FsError::Unsupported) } else { Ok(()) };
    }
    let mut prefixes = [&b"user."[..], b"trusted.", b"security."].into_iter();
    let Some(prefix) = prefixes.find(|prefix| name.starts_with(prefix)) else {
        return Err(FsError::Unsupported);
    };
    if name == prefix {
        return Err(FsError::Invalid);
    }
    if name.starts_with(VIRTUAL) {
        return Err(FsError::Unsupported);
    }
    if prefix == b"user." && !matches!(row.file_type, FileType::Regular | FileType::Directory) {
        return Err(FsError::NotPermitted);
    }
    Ok(())
}

fn decode(value: &[u8]) -> Result<Option<Acl>, FsError> {
    Acl::decode(value).map_err(|_| FsError::Invalid)
}

/// Sets the access ACL. The mode follows it (`posix_acl_update_mode`). The ACL is stored only if the mode does not say
/// it all.
fn set_access(draft: &mut Draft, row: &mut InodeRow, value: &[u8], clear_setgid: bool) -> Result<(), FsError> {
    let Some(acl) = decode(value)? else {
        return sets::remove(draft, row, acl::ACCESS).map(|_| ());
    };
    row.permissions = row.permissions & !0o777 | acl.mode();
    if clear_setgid {
        row.permissions &= !SETGID;
    }
    if acl.is_mode() {
        sets::remove(draft, row, acl::ACCESS).map(|_| ())
    } else {
        sets::put(draft, row, acl::ACCESS, acl.encode())
    }
}

fn set_default(draft: &mut Draft, row: &mut InodeRow, value: &[u8]) -> Result<(), FsError> {
    match decode(value)? {
        None => sets::remove(draft, row, acl::DEFAULT).map(|_| ()),
        Some(_) if row.file_type != FileType::Directory => Err(FsError::Denied),
        Some(acl) => sets::put(draft, row, acl::DEFAULT, acl.encode()),
    }
}

impl Live {
    /// Sets an extended attribute. An access ACL also sets the mode, and is stored only if the mode does not say it
    /// all.
    ///
    /// # Errors
    /// Fails with `OutOfRange` for a name, `AttributeTooLarge` for a value, `NoSpace` for a set that is too large;
    /// `Exists` and `NoAttribute` as the flags say; `Unsupported` for namespaces other than user, trusted, security and
    /// ACLs, and for `user.floe.*`, which is floe's own; `NotPermitted` for user attributes of anything but files and
    /// directories; `Invalid` for an ACL that is not valid; `Denied` for a default ACL of anything but a directory;
    /// `NotFound`, `ReadOnly`; `Io` if tables cannot be read.
    pub fn set_xattr(&self, inode: InodeId, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<(), FsError> {
        self.transact(|draft| set_xattr(draft, inode, name, value, flags))
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// Fails with `NoAttribute` if it does not exist; otherwise as [`Live::set_xattr`] does.
    pub fn remove_xattr(&self, inode: InodeId, name: &[u8]) -> Result<(), FsError> {
        self.transact(|draft| remove_xattr(draft, inode, name))
    }
}
