//! Sets owner, permissions, xattrs and times of an extracted file, in an order in which none of them undoes another.
//!
//! Owner first: changing it clears setuid bits and capabilities. Then the xattrs that need write permission, then the
//! permissions, then ACLs (which setting permissions would change) and capabilities. Times last.

use crate::format::rows::{FileType, Time, Xattr, XattrSet};
use crate::fs::Attr;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The rights of this process to set attributes, and what was refused so far.
pub(super) struct Rights {
    /// Whether owners can be set: only root can.
    pub(super) owners: bool,
    /// Attributes and error numbers that the file system or the kernel refused and that were reported: each kind once,
    /// not for each file.
    told: HashSet<(Vec<u8>, i32)>,
}

impl Rights {
    pub(super) fn new() -> Self {
        Rights { owners: rustix::process::geteuid().is_root(), told: HashSet::new() }
    }

    /// Returns whether this refusal has not been reported before.
    pub(super) fn is_new(&mut self, what: &[u8], error: Errno) -> bool {
        self.told.insert((what.to_vec(), error.raw_os_error()))
    }
}

fn timestamps(attr: &Attr) -> Timestamps {
    let spec = |time: Time| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
    Timestamps { last_access: spec(attr.atime), last_modification: spec(attr.mtime) }
}

/// A message about attributes that were not set.
pub(super) enum Remark {
    /// Only root can set the attribute. This is what users expect, so it is no warning.
    Note(String),
    /// The attribute could not be set, although it should have been possible.
    Warning(String),
}

/// The attributes that a file is to have.
pub(super) struct Attributes<'a> {
    pub(super) attr: &'a Attr,
    pub(super) xattrs: &'a XattrSet,
}

impl Attributes<'_> {
    /// Sets all attributes of the file that `fd` is open on (an `O_PATH` descriptor for links, devices and the like).
    /// Passes what could not be set to `tell`.
    pub(super) fn set(&self, fd: BorrowedFd<'_>, rights: &mut Rights, tell: &mut dyn FnMut(Remark)) {
        let attr = self.attr;
        // The link in /proc leads to whatever the descriptor is open on, and nowhere else.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let direct = matches!(attr.file_type, FileType::Regular | FileType::Directory);
        let owned = self.owner(fd, rights, tell);
        let (late, early): (Vec<&Xattr>, Vec<&Xattr>) = self.xattrs.0.iter().partition(|xattr| is_late(&xattr.name));
        let set_xattr = |xattr: &Xattr, rights: &mut Rights, tell: &mut dyn FnMut(Remark)| {
            let set = if direct {
                rustix::fs::fsetxattr(fd, xattr.name.as_slice(), &xattr.value, XattrFlags::empty())
            } else {
                rustix::fs::setxattr(path.as_str(), xattr.name.as_slice(), &xattr.value, XattrFlags::empty())
            };
            if let Err(error) = set
                && rights.is_new(&xattr.name, error)
            {
                let name = String::from_utf8_lossy(&xattr.name);
                tell(match rights.owners || !is_for_root(&xattr.name) {
                    true => Remark::Warning(format!("cannot set xattr {name}: {error}")),
                    false => Remark::Note(format!("xattrs '{name}' are not restored: that needs root")),
                });
            }
        };
        early.into_iter().for_each(|xattr| set_xattr(xattr, rights, tell));
        if attr.file_type != FileType::Symlink {
            let mut permissions = attr.permissions;
            if !owned {
                // Set-id bits were meant for the original owner.
                permissions &= 0o1777;
            }
            let mode = Mode::from_raw_mode(permissions.into());
            let set = if direct { rustix::fs::fchmod(fd, mode) } else { rustix::fs::chmod(path.as_str(), mode) };
            if let Err(error) = set {
                tell(Remark::Warning(format!("cannot set permissions: {error}")));
            }
        }
        late.into_iter().for_each(|xattr| set_xattr(xattr, rights, tell));
        let times = timestamps(attr);
        let set = if direct {
            rustix::fs::futimens(fd, &times)
        } else {
            match rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH) {
                // Before Linux 5.8.
                Err(Errno::INVAL | Errno::NOENT) => rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()),
                other => other,
            }
        };
        if let Err(error) = set {
            tell(Remark::Warning(format!("cannot set times: {error}")));
        }
    }

    /// Sets the owner. Returns whether the file then has the right one.
    fn owner(&self, fd: BorrowedFd<'_>, rights: &mut Rights, tell: &mut dyn FnMut(Remark)) -> bool {
        let (uid, gid) = (self.attr.uid, self.attr.gid);
        let has = |stat: rustix::fs::Stat| (stat.st_uid, stat.st_gid) == (uid, gid);
        if rustix::fs::fstat(fd).is_ok_and(has) {
            return true;
        }
        if !rights.owners {
            if rights.is_new(b"owner", Errno::PERM) {
                tell(Remark::Note("owners are not restored: that needs root".to_owned()));
            }
            return false;
        }
        // To the system call, the largest number means "do not change".
        let id = |id: u32| (id != u32::MAX).then_some(id);
        let uid_gid = (id(uid).map(Uid::from_raw), id(gid).map(Gid::from_raw));
        match rustix::fs::chownat(fd, "", uid_gid.0, uid_gid.1, AtFlags::EMPTY_PATH) {
            Ok(()) => uid != u32::MAX && gid != u32::MAX,
            Err(error) => {
                if rights.is_new(b"owner", error) {
                    tell(Remark::Warning(format!("cannot set owner {uid}:{gid}: {error}")));
                }
                false
            }
        }
    }
}

/// Returns whether the kernel lets only root set this attribute.
fn is_for_root(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"security.")
}

/// Returns whether the attribute is an ACL or the capabilities, which are set after the owner and mode.
fn is_late(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_") || name == b"security.capability"
}
