//! What read-only and writable mounts answer in the same way: look-up, attributes, reading, listing, xattrs.
//!
//! Stateless: no handles, no look-up counts, no locks; so any number of event loops may call it. The kernel's inode
//! number is the image's (its upper 16 bits are 0, which means the head and no snapshot). Each function computes within
//! the guard and replies in one place. Called by `adapter` (read-only mounts) and `writing`.

use super::attr::{absent, only_type, to_fuse, to_kind};
use super::guard::{Failure, Guard};
use super::options::MountOptions;
use super::push::Pusher;
use crate::format::ids::InodeId;
use crate::format::rows::FileType;
use crate::fs::{Attr, DirEntry, Fs, FsError, SeekTo};
use fuser::{
    Errno, FileAttr, Generation, INodeNo, InitFlags, KernelConfig, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyXattr,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// Name of the xattr of the mount's root with counters of the working set.
pub const COUNTERS_XATTR: &[u8] = b"user.floe.counters";
/// Name of the xattr of a regular file that says where it is stored in the image. It is not listed, so copying a file
/// does not copy it.
pub const WHERE_XATTR: &[u8] = b"user.floe.where";

/// The only generation of inode numbers, which are never reused.
pub(super) const GENERATION: Generation = Generation(0);

/// Cookie of the entry `.`, which is in no table. The filesystem's own cookies begin after those of `.` and `..`.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Most bytes that the kernel may read or write in one request.
const MAX_REQUEST: u32 = 1 << 20;

/// Length of the longest name in bytes.
pub(super) const NAME_MAX: u32 = 255;

thread_local! {
    /// Buffer of an event loop for the answers to `read`. It is kept, so that reads need not allocate.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A callback that adds an entry to a listing. It returns false if there is no room for it.
pub(super) type Add<'a> = &'a mut dyn FnMut(DirEntry<'_>) -> bool;

/// A callback as [`Add`], with the entry's attributes if they are known.
pub(super) type AddPlus<'a> = &'a mut dyn FnMut(DirEntry<'_>, Option<Attr>) -> bool;

/// Answers the requests of a mounted filesystem that only read; used by read-only and by writable mounts.
pub(super) struct Reading {
    pub(super) fs: Arc<Fs>,
    pub(super) guard: Guard,
    pub(super) options: MountOptions,
    pub(super) pusher: Option<Arc<Pusher>>,
}

impl Reading {
    pub(super) fn attr(&self, inode: InodeId) -> Result<FileAttr, FsError> {
        Ok(to_fuse(&self.fs.attr(inode)?, &self.options.disguise))
    }

    /// Passes `.` and `..` of `directory` to `add`, if they are after `cookie`. Returns whether there is room for more.
    pub(super) fn list_dots(&self, directory: InodeId, cookie: u64, add: Add<'_>) -> Result<bool, Failure> {
        let mut dots = |inode, name, cookie| add(DirEntry { inode, file_type: FileType::Directory, name, cookie });
        if cookie < DOT && !dots(directory, b".".as_slice(), DOT) {
            return Ok(false);
        }
        Ok(cookie >= DOT_DOT || dots(self.fs.parent(directory)?, b"..", DOT_DOT))
    }

    /// Returns the result of a listing, but no error after some entries: these are the answer, and the next call
    /// returns the error.
    fn unless_begun(any: bool, result: Result<(), Failure>) -> Result<(), Failure> {
        if any { Ok(()) } else { result }
    }

    /// Returns whether an xattr is hidden: if owners and permissions are not shown as packed, ACLs would be wrong.
    fn is_hidden(&self, name: &[u8]) -> bool {
        name.starts_with(b"system.posix_acl_") && self.options.disguise.is_any()
    }

    /// Returns the counters of the working set and of files stored in the page cache ahead: a name and a number on each
    /// line.
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

    pub(super) fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Vec<u8>, Failure> {
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

    /// Returns the names of xattrs that `uid` may see, each with a NUL after it. Only root sees trusted ones.
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

    /// Agrees with the kernel on the flags that both kinds of mount need, and on `more`.
    pub(super) fn init(&self, config: &mut KernelConfig, more: InitFlags) {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | more;
        // The kernel enforces ACLs only if it is asked to. Otherwise it would take the group bits of a file with an
        // ACL, which are the ACL's mask, for the group's permissions.
        if self.options.default_permissions && !self.options.disguise.is_any() {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        for flag in wanted.iter() {
            // An older kernel lacks some flags. Each only makes things faster, except ACLs, which such a kernel cannot
            // enforce.
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "unknown to this kernel");
            }
        }
        for result in [config.set_max_write(MAX_REQUEST), config.set_max_readahead(MAX_REQUEST)] {
            if let Err(nearest) = result {
                tracing::debug!(nearest, "the kernel allows less");
            }
        }
    }

    pub(super) fn lookup(&self, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // The kernel may ask for names that are too long.
        if name.len() > NAME_MAX as usize {
            return reply.error(Errno::ENAMETOOLONG);
        }
        let found = self.guard.run("lookup", parent.0, || match self.fs.lookup(InodeId(parent.0), name.as_bytes()) {
            Ok(attr) => Ok(to_fuse(&attr, &self.options.disguise)),
            Err(FsError::NotFound) => Ok(absent()),
            Err(error) => Err(error.into()),
        });
        self.reply_entry(reply, found);
    }

    /// Answers with an entry. The kernel may cache it for the time in the options.
    pub(super) fn reply_entry(&self, reply: ReplyEntry, found: Result<FileAttr, Errno>) {
        match found {
            Ok(attr) => {
                reply.entry_with_ttls(&self.options.attr_timeout, &self.options.entry_timeout, &attr, GENERATION)
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers with attributes. The kernel may cache them for the time in the options.
    pub(super) fn reply_attr(&self, reply: ReplyAttr, attr: Result<FileAttr, Errno>) {
        match attr {
            Ok(attr) => reply.attr(&self.options.attr_timeout, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn getattr(&self, inode: INodeNo, reply: ReplyAttr) {
        let attr = self.guard.run("getattr", inode.0, || Ok(self.attr(InodeId(inode.0))?));
        self.reply_attr(reply, attr);
    }

    pub(super) fn readlink(&self, inode: INodeNo, reply: ReplyData) {
        match self.guard.run("readlink", inode.0, || Ok(self.fs.readlink(InodeId(inode.0))?)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn read(&self, inode: INodeNo, offset: u64, size: u32, reply: ReplyData) {
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
                    // Nobody waits for a result.
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

    /// Answers with the entries that `list` passes.
    pub(super) fn readdir(
        &self,
        inode: INodeNo,
        mut reply: ReplyDirectory,
        list: impl FnOnce(Add<'_>) -> Result<(), Failure>,
    ) {
        let result = self.guard.run("readdir", inode.0, || {
            let mut any = false;
            let listed = list(&mut |entry| {
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

    /// Answers with the entries that `list` passes, with the attributes of each.
    pub(super) fn readdirplus(
        &self,
        inode: INodeNo,
        mut reply: ReplyDirectoryPlus,
        list: impl FnOnce(AddPlus<'_>) -> Result<(), Failure>,
    ) {
        // In this reply one time-out covers both, so the shorter one counts.
        let ttl = self.options.attr_timeout.min(self.options.entry_timeout);
        let result = self.guard.run("readdirplus", inode.0, || {
            let mut any = false;
            let listed = list(&mut |entry, attr| {
                // A damaged inode does not make the listing fail. Its entry expires at once, so whoever needs more asks
                // again and gets the error. The kernel ignores the attributes of "." and "..".
                let inode = INodeNo(entry.inode.0);
                let (attr, ttl) = match attr {
                    Some(attr) if attr.file_type == entry.file_type => (to_fuse(&attr, &self.options.disguise), ttl),
                    _ => (only_type(inode.0, entry.file_type), Duration::ZERO),
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

    pub(super) fn listxattr(&self, uid: u32, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let list = self.guard.run("listxattr", inode.0, || self.xattr_list(InodeId(inode.0), uid));
        reply_xattr(reply, size, list);
    }

    pub(super) fn lseek(&self, inode: INodeNo, offset: i64, whence: i32, reply: ReplyLseek) {
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

/// Answers with a value, or with its length if the kernel asks for that.
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}
