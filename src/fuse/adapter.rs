//! fuser's trait for read-only mounts.
//!
//! Nothing ever changes below the kernel's caches, so opening is left to the kernel. Everything else is in
//! [`Reading`](super::reading::Reading). Called by `session`.

use super::guard::{Failure, Guard};
use super::options::MountOptions;
use super::push::Pusher;
use super::reading::{Add, NAME_MAX, Reading, reply_xattr};
use crate::format::ids::InodeId;
use crate::fs::Fs;
use fuser::{
    Errno, FileHandle, Filesystem, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr,
    Request,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A filesystem mounted read-only, as fuser calls it.
pub(super) struct Adapter {
    reading: Reading,
}

impl Adapter {
    /// Makes the adapter that serves `fs` with these options.
    pub(super) fn new(fs: Arc<Fs>, options: MountOptions, pusher: Option<Arc<Pusher>>) -> Self {
        Adapter { reading: Reading { fs, guard: Guard::default(), options, pusher } }
    }

    /// Passes `.`, `..` and the entries of `directory` after `cookie` to `add`, until it returns false.
    fn list(&self, directory: InodeId, cookie: u64, add: Add<'_>) -> Result<(), Failure> {
        if self.reading.list_dots(directory, cookie, add)? {
            self.reading.fs.read_dir(directory, cookie, add)?;
        }
        Ok(())
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.reading.init(config, InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.reading.lookup(parent, name, reply);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.reading.getattr(inode, reply);
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        self.reading.readlink(inode, reply);
    }

    // After one ENOSYS, the kernel opens files and directories by itself, and keeps its caches.

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.reading.read(inode, offset, size, reply);
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.reading.readdir(inode, reply, |add| self.list(InodeId(inode.0), offset, add));
    }

    fn readdirplus(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let directory = InodeId(inode.0);
        self.reading.readdirplus(inode, reply, |add| {
            if self.reading.list_dots(directory, offset, &mut |entry| add(entry, None))? {
                self.reading.fs.read_dir_plus(directory, offset, &mut |entry, attr| add(entry, attr.ok()))?;
            }
            Ok(())
        });
    }

    fn statfs(&self, _: &Request, inode: INodeNo, reply: ReplyStatfs) {
        match self.reading.guard.run("statfs", inode.0, || Ok(self.reading.fs.statfs())) {
            Ok(s) => reply.statfs(s.blocks, 0, 0, s.files, 0, s.block_size, NAME_MAX, s.block_size),
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let reading = &self.reading;
        let value = reading.guard.run("getxattr", inode.0, || reading.xattr(InodeId(inode.0), name.as_bytes()));
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        self.reading.listxattr(request.uid(), inode, size, reply);
    }

    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.reading.lseek(inode, offset, whence, reply);
    }
}
