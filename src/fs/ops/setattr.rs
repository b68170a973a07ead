//! Sets mode, owner, size and times.

use super::thaw::{Append, Source};
use super::{attributes, names, privileges, sets, truncate};
use crate::format::ids::InodeId;
use crate::format::limits;
use crate::format::rows::{FileType, InodeRow, Time};
use crate::fs::acl::{self, Acl};
use crate::fs::draft::Draft;
use crate::fs::live::Live;
use crate::fs::{Attr, FsError};

/// A time of an inode to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTime {
    /// The time of the operation.
    Now,
    /// The time given here.
    At(Time),
}

/// Attributes to set. Whatever is `None` stays. The inode's ctime becomes the time of the operation, even if nothing
/// else is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits, setuid, setgid and sticky.
    pub mode: Option<u16>,
    /// User id of the owner. Without `mode`, anything but a directory loses setuid, setgid and capabilities, even if
    /// the owner stays the same.
    pub uid: Option<u32>,
    /// Id of the group. Privileges are lost as with `uid`.
    pub gid: Option<u32>,
    /// Size of a regular file in bytes. Setting it sets mtime, too.
    pub size: Option<u64>,
    /// Time of the last read.
    pub atime: Option<NewTime>,
    /// Time of the last change of the contents.
    pub mtime: Option<NewTime>,
    /// Time of the last change of the inode, if the kernel keeps it.
    pub ctime: Option<Time>,
    /// Whether the file loses setuid, setgid and capabilities, as when it is written to.
    pub clear_privileges: bool,
}

/// Sets attributes. Returns `None` if only a part of the bytes is cut off so far; the caller then calls again.
pub(in crate::fs) fn set_attr(
    draft: &mut Draft,
    inode: InodeId,
    changes: &SetAttr,
    append: Append<'_>,
) -> Result<Option<InodeRow>, FsError> {
    let (mut row, standing) = draft.any_inode(inode)?;
    let now = draft.now();
    let time = |new: Option<NewTime>, old: Time| match new {
        None => Ok(old),
        Some(NewTime::Now) => Ok(now),
        Some(NewTime::At(time)) if time.nanos <= limits::NANOS => Ok(time),
        Some(NewTime::At(_)) => Err(FsError::Invalid),
    };
    if let Some(size) = changes.size {
        truncate::regular(&row)?;
        let step = truncate::step(draft, inode, &row, size)?;
        truncate::resize(draft, inode, &mut row, standing, step, append)?;
        names::changed(&mut row, now);
        if step != size {
            draft.put_any(inode, &row, standing);
            return Ok(None);
        }
    }
    row.uid = changes.uid.unwrap_or(row.uid);
    row.gid = changes.gid.unwrap_or(row.gid);
    let new_owner = changes.uid.is_some() || changes.gid.is_some();
    if changes.clear_privileges || (new_owner && changes.mode.is_none()) {
        privileges::clear(draft, &mut row)?;
    }
    if let Some(mode) = changes.mode {
        chmod(draft, &mut row, mode)?;
    }
    row.atime = time(changes.atime, row.atime)?;
    row.mtime = time(changes.mtime, row.mtime)?;
    row.ctime = time(changes.ctime.map(NewTime::At), now)?;
    draft.put_any(inode, &row, standing);
    Ok(Some(row))
}

/// Changes the permission bits, and the access ACL with them.
fn chmod(draft: &mut Draft, row: &mut InodeRow, mode: u16) -> Result<(), FsError> {
    row.permissions = mode & 0o7777;
    if row.file_type == FileType::Symlink {
        return Ok(());
    }
    let value = draft.view().xattrs(row)?.get(acl::ACCESS).map(<[u8]>::to_vec);
    // An image may contain a value that no kernel would have set. It stays as it is.
    if let Some(mut acl) = value.and_then(|value| Acl::decode(&value).ok().flatten()) {
        acl.chmod(mode);
        sets::put(draft, row, acl::ACCESS, acl.encode())?;
    }
    Ok(())
}

impl Live {
    /// Sets attributes of an inode, which may have lost its names.
    ///
    /// # Errors
    /// Fails with `NotFound`; for a size with `IsDirectory`, `NotRegular` or `TooLarge`; with `Invalid` for a time that
    /// is not valid; with `NoSpace` or `ReadOnly`; with `Io` if tables cannot be read.
    pub fn set_attr(&self, inode: InodeId, changes: &SetAttr) -> Result<Attr, FsError> {
        let source = Source::new(self, &[]);
        let append = |before: &[u8]| source.append(before);
        loop {
            let attr = self.transact(|draft| match set_attr(draft, inode, changes, &append)? {
                Some(row) => attributes::of(draft.view(), inode, &row).map(Some),
                None => Ok(None),
            })?;
            if let Some(attr) = attr {
                return Ok(attr);
            }
        }
    }
}
