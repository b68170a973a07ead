//! FUSE_NOTIFY_STORE: puts file contents into the kernel's page cache without a request.
//!
//! fuser offers this, too, but hides whether the kernel knows the inode. [`super::push`] needs that answer.

use crate::format::ids::InodeId;
use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use zerocopy::{Immutable, IntoBytes};

/// The message that stores bytes in the page cache: `fuse_out_header` and `fuse_notify_store_out` of
/// include/uapi/linux/fuse.h.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Store {
    /// Length of the whole message in bytes.
    len: u32,
    /// Number of the notification, since `unique` is 0.
    code: i32,
    unique: u64,
    node: u64,
    offset: u64,
    size: u32,
    padding: u32,
}

const NOTIFY_STORE: i32 = 4;

/// The page cache of one mount. Do not call it from a thread that must not wait: the kernel takes the lock of each
/// page, and a READ holds that lock until it is answered.
pub(super) struct PageCache {
    device: OwnedFd,
}

impl PageCache {
    /// Makes the page cache of a mount. `device` is a descriptor of the mount's connection.
    pub(super) fn new(device: OwnedFd) -> Self {
        PageCache { device }
    }

    /// Stores the first bytes of a file. Returns whether the kernel knows the inode: it does from the answer of a
    /// look-up until its FORGET.
    ///
    /// # Errors
    /// Fails if the kernel has no memory for it, or the connection has ended.
    pub(super) fn store(&self, inode: InodeId, data: &[u8]) -> Result<bool, Errno> {
        let (Ok(size), head) = (u32::try_from(data.len()), size_of::<Store>() as u32) else {
            return Err(Errno::TOOBIG);
        };
        let len = head.checked_add(size).ok_or(Errno::TOOBIG)?;
        let message = Store { len, code: NOTIFY_STORE, unique: 0, node: inode.0, offset: 0, size, padding: 0 };
        match rustix::io::writev(&self.device, &[IoSlice::new(message.as_bytes()), IoSlice::new(data)]) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Returns whether the kernel knows the inode now.
    pub(super) fn knows(&self, inode: InodeId) -> bool {
        matches!(self.store(inode, &[]), Ok(true))
    }
}
