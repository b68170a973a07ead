//! Reads extended attributes of the files to pack.

use crate::format::limits;
use crate::format::rows::{Xattr, XattrSet};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Prefixes of the attributes that are packed. Of `system.` only [`ACLS`] are packed, which the kernel returns raw.
const SPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// The file whose attributes are read.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// An open file.
    Open(BorrowedFd<'a>),
    /// The file at a path; links are not followed.
    Path(&'a Path),
}

/// Reads the extended attributes of a file. An attribute that cannot be read is reported to `warn` and left out.
pub(super) fn xattrs_of(at: At<'_>, warn: &dyn Fn(&str)) -> XattrSet {
    let names = match list(at) {
        Ok(names) => names,
        // File systems without attributes, and files that can have none.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return XattrSet::default(),
        Err(error) => {
            warn(&format!("cannot list its extended attributes: {}", std::io::Error::from(error)));
            return XattrSet::default();
        }
    };
    let mut set = Vec::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
        let name = c_name.to_bytes();
        if !(SPACES.iter().any(|space| name.starts_with(space)) || ACLS.contains(&name)) {
            continue;
        }
        match value(at, c_name) {
            Ok(value) => set.push(Xattr { name: name.to_vec(), value }),
            // Removed between list and get.
            Err(Errno::NODATA) => {}
            Err(error) => warn(&format!(
                "cannot read its extended attribute {}: {}",
                String::from_utf8_lossy(name),
                std::io::Error::from(error)
            )),
        }
    }
    let set = XattrSet::new(set);
    if set.encode().len() > limits::XATTR_SET {
        warn("its extended attributes are too large together, left out");
        return XattrSet::default();
    }
    set
}

fn list(at: At<'_>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0u8; 1024];
    loop {
        let listed = match at {
            At::Open(fd) => rustix::fs::flistxattr(fd, &mut buffer[..]),
            At::Path(path) => rustix::fs::llistxattr(path, &mut buffer[..]),
        };
        match listed {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

fn value(at: At<'_>, name: &CStr) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0u8; 512];
    loop {
        let read = match at {
            At::Open(fd) => rustix::fs::fgetxattr(fd, name, &mut buffer[..]),
            At::Path(path) => rustix::fs::lgetxattr(path, name, &mut buffer[..]),
        };
        match read {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < limits::XATTR_VALUE => buffer.resize(limits::XATTR_VALUE, 0),
            Err(error) => return Err(error),
        }
    }
}
