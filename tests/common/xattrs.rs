//! Extended attributes of any file named by a descriptor (also an `O_PATH` one) or by a path without following links.

use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// Largest value and largest list that the kernel returns.
const LARGEST: usize = 64 << 10;

/// Sets an attribute of `path` itself, even of a link.
pub fn set(path: &Path, name: &[u8], value: &[u8]) -> Result<()> {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
}

/// All attributes, sorted by name.
pub fn all(fd: impl AsFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // The f…xattr calls refuse O_PATH descriptors; the link in /proc leads to the same inode, even if that is a
    // symlink.
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let mut list = vec![0; LARGEST];
    let len = match rustix::fs::listxattr(path.as_str(), list.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e),
    };
    let mut out = Vec::new();
    for name in list[..len].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; LARGEST];
        match rustix::fs::getxattr(path.as_str(), name, value.as_mut_slice()) {
            Ok(len) => out.push((name.to_vec(), value[..len].to_vec())),
            Err(Errno::NODATA) => out.push((name.to_vec(), b"(listed, but not there)".to_vec())),
            Err(e) => return Err(e),
        }
    }
    out.sort();
    Ok(out)
}
