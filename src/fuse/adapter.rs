//! fuser's trait on top of [`Fs`].
//!
//! Stateless: no handles, no lookup counts, no locks, so any number of event loops may call it. The kernel's inode number
//! is the image's (snapshot 0, the head, stands in the upper 16 bits). Each handler computes behind the guard and replies
//! in one place.

use super::attr::{absent, only_type, to_fuse, to_kind};
use super::guard::{Failure, Guard};
use super::options::MountOptions;
use super::push::Pusher;
use crate::format::ids::InodeId;
use crate::format::rows::FileType;
use crate::fs::{DirEntry, Fs, FsError, SeekTo};
use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// The attribute of the mount's root that says what its working set did so far.
pub const COUNTERS_XATTR: &[u8] = b"user.floe.counters";
/// The attribute of a regular file that says where it lies in the image; it is not listed, so no copy takes it along.
pub const WHERE_XATTR: &[u8] = b"user.floe.where";

/// Inode numbers are never reused, so there is but one generation.
const GENERATION: Generation = Generation(0);

/// Cookies of the two entries that are in no table; the filesystem's own begin behind them.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// The kernel sends no writes; this only bounds what it may ask to read at once.
const MAX_REQUEST: u32 = 1 << 20;

/// Longest name.
const NAME_MAX: u32 = 255;

thread_local! {
    /// Each event loop's buffer for what `read` answers: kept, so that no read allocates.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A mounted filesystem, as fuser calls it.
pub(super) struct Adapter {
    fs: Arc<Fs>,
    guard: Guard,
    options: MountOptions,
    pusher: Option<Arc<Pusher>>,
}

impl Adapter {
    /// Serves `fs` as `options` say.
    pub(super) fn new(fs: Arc<Fs>, options: MountOptions, pusher: Option<Arc<Pusher>>) -> Self {
        Adapter { fs, guard: Guard::default(), options, pusher }
    }

    fn attr(&self, inode: InodeId) -> Result<FileAttr, FsError> {
        Ok(to_fuse(&self.fs.attr(inode)?, &self.options.disguise))
    }

    /// Hands `.`, `..` and the entries of `directory` behind `cookie` to `add` until it returns false.
    fn list(&self, directory: InodeId, cookie: u64, add: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Failure> {
        let mut dots = |inode, name, cookie| add(DirEntry { inode, file_type: FileType::Directory, name, cookie });
        if cookie < DOT && !dots(directory, b".".as_slice(), DOT) {
            return Ok(());
        }
        if cookie < DOT_DOT && !dots(self.fs.parent(directory)?, b"..", DOT_DOT) {
            return Ok(());
        }
        Ok(self.fs.read_dir(directory, cookie, add)?)
    }

    /// Where a listing broke off with entries already in hand, these are answered: the error comes with the next call.
    fn unless_begun(any: bool, result: Result<(), Failure>) -> Result<(), Failure> {
        if any { Ok(()) } else { result }
    }

    /// ACLs say nothing true of owners and permissions that are not shown as packed.
    fn is_hidden(&self, name: &[u8]) -> bool {
        name.starts_with(b"system.posix_acl_") && self.options.disguise.is_any()
    }

    /// What working set and pusher did so far, a name and a number a line.
    fn counters(&self) -> String {
        let c = self.fs.working_set().counters();
        let mut text = format!(
            "inflations {}\ninflated_bytes {}\nahead {}\nhits {}\nread_bytes {}\n",
            c.inflations, c.inflated_bytes, c.ahead, c.hits, c.read_bytes
        );
        if let Some(pusher) = &self.pusher {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "pushed {}", pusher.pushed());
        }
        text
    }

    fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, Failure> {
        if self.is_hidden(name) {
            return Err(Errno::NO_XATTR.into());
        }
        if name == COUNTERS_XATTR && inode == InodeId::ROOT {
            let text = self.counters();
            return Ok(text.into_bytes());
        }
        if name == WHERE_XATTR {
            return match self.fs.whereabouts(inode) {
                Ok(place) => Ok(place.into_bytes()),
                Err(FsError::IsDirectory | FsError::NotRegular) => Err(Errno::NO_XATTR.into()),
                Err(error) => Err(error.into()),
            };
        }
        self.fs.xattr(inode, name)?.ok_or(Failure::Errno(Errno::NO_XATTR))
    }

    /// Names, each with a NUL behind it, that `uid` may know of: trusted ones are root's.
    fn xattr_list(&self, inode: InodeId, uid: u32) -> Result<Vec<u8>, Failure> {
        let mut list = Vec::new();
        for name in self.fs.xattr_names(inode)? {
            if (uid == 0 || !name.starts_with(b"trusted.")) && !self.is_hidden(&name) {
                list.extend_from_slice(&name);
                list.push(0);
            }
        }
        Ok(list)
    }
}

fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        // The kernel enforces ACLs only where it is asked to. Without, the group's bits of a file with an ACL, which hold
        // the ACL's mask, would be taken for the group's rights.
        if self.options.default_permissions && !self.options.disguise.is_any() {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        for flag in wanted.iter() {
            // An older kernel lacks some; each only makes things faster, but for ACLs, which it then cannot enforce.
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "not known to this kernel");
            }
        }
        for result in [config.set_max_write(MAX_REQUEST), config.set_max_readahead(MAX_REQUEST)] {
            if let Err(nearest) = result {
                tracing::debug!(nearest, "the kernel allows less");
            }
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.guard.run("lookup", parent.0, || match self.fs.lookup(InodeId(parent.0), name.as_bytes()) {
            Ok(attr) => Ok(to_fuse(&attr, &self.options.disguise)),
            Err(FsError::NotFound) => Ok(absent()),
            Err(error) => Err(error.into()),
        });
        match found {
            Ok(attr) => {
                reply.entry_with_ttls(&self.options.attr_timeout, &self.options.entry_timeout, &attr, GENERATION)
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.guard.run("getattr", inode.0, || Ok(self.attr(InodeId(inode.0))?)) {
            Ok(attr) => reply.attr(&self.options.attr_timeout, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.guard.run("readlink", inode.0, || Ok(self.fs.readlink(InodeId(inode.0))?)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    // ENOSYS once, and the kernel opens files and directories by itself from then on, keeping its caches.

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
        let reading = self.pusher.as_ref().map(|pusher| pusher.reading(InodeId(inode.0)));
        let mut buffer = READ_BUFFER.take();
        buffer.clear();
        let result = self
            .guard
            .run("read", inode.0, || Ok(self.fs.read(InodeId(inode.0), offset, size as usize, &mut buffer)?));
        match result {
            Ok(()) => {
                reply.data(&buffer);
                drop(reading);
                if let Some(pusher) = &self.pusher {
                    // Nobody waits for an answer.
                    let _ = self.guard.run("push", inode.0, || {
                        pusher.was_read(InodeId(inode.0), offset);
                        Ok(())
                    });
                }
            }
            Err(errno) => reply.error(errno),
        }
        READ_BUFFER.set(buffer);
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.guard.run("readdir", inode.0, || {
            let mut any = false;
            let listed = self.list(InodeId(inode.0), offset, &mut |entry| {
                let name = OsStr::from_bytes(entry.name);
                let full = reply.add(INodeNo(entry.inode.0), entry.cookie, to_kind(entry.file_type), name);
                any |= !full;
                !full
            });
            Self::unless_begun(any, listed)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        // One time-out serves both in this reply, so the shorter counts.
        let ttl = self.options.attr_timeout.min(self.options.entry_timeout);
        let result = self.guard.run("readdirplus", inode.0, || {
            let mut any = false;
            let listed = self.list(InodeId(inode.0), offset, &mut |entry| {
                // A damaged inode does not take the listing with it: its entry is stale at once, so whoever wants more of
                // it asks again, and is told. The kernel looks at no attributes of "." and "..".
                let inode = INodeNo(entry.inode.0);
                let (attr, ttl) = match entry.cookie {
                    DOT | DOT_DOT => (only_type(inode.0, entry.file_type), ttl),
                    _ => match self.attr(entry.inode) {
                        Ok(attr) if attr.kind == to_kind(entry.file_type) => (attr, ttl),
                        Ok(_) | Err(_) => (only_type(inode.0, entry.file_type), Duration::ZERO),
                    },
                };
                let name = OsStr::from_bytes(entry.name);
                let full = reply.add(inode, entry.cookie, name, &ttl, &attr, GENERATION);
                any |= !full;
                !full
            });
            Self::unless_begun(any, listed)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _: &Request, inode: INodeNo, reply: ReplyStatfs) {
        match self.guard.run("statfs", inode.0, || Ok(self.fs.statfs())) {
            Ok(s) => reply.statfs(s.blocks, 0, 0, s.files, 0, s.block_size, NAME_MAX, s.block_size),
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.guard.run("getxattr", inode.0, || self.xattr(InodeId(inode.0), name.as_bytes()));
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let list = self.guard.run("listxattr", inode.0, || self.xattr_list(InodeId(inode.0), request.uid()));
        reply_xattr(reply, size, list);
    }

    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = self.guard.run("lseek", inode.0, || {
            let to = match whence {
                libc::SEEK_DATA => SeekTo::Data,
                libc::SEEK_HOLE => SeekTo::Hole,
                _ => return Err(Errno::EINVAL.into()),
            };
            let offset = u64::try_from(offset).map_err(|_| Failure::Errno(Errno::ENXIO))?;
            let found = self.fs.seek(InodeId(inode.0), offset, to)?;
            i64::try_from(found).map_err(|_| Failure::Errno(Errno::EOVERFLOW))
        });
        match found {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(errno),
        }
    }
}
