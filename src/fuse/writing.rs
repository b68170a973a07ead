//! fuser's trait for writable mounts, on top of [`Live`].
//!
//! Everything goes by inode. If the kernel writes back a mapped file, the write may come after its handle is closed,
//! and with a guessed handle [30]. Handles are only counted, so that an unlinked file lives as long as it is open.
//! Nothing waits in here: replies that need a commit are parked. All changes come through the kernel, so its caches
//! have no time limit. Called by `session`.

use super::attr::{from_system, kind_of, to_fuse};
use super::gc::{GC_XATTR, ask_for_gc};
use super::guard::{Failure, Guard};
use super::handles::DirHandles;
use super::near::Traffic;
use super::opened::{WRITING, opened, writes};
use super::options::{Atime, MountOptions};
use super::parked::{Late, Parked};
use super::reading::{GENERATION, NAME_MAX, Reading, reply_xattr};
use super::state::{FREEZE_XATTR, ask_to_freeze, state_text};
use crate::format::ids::InodeId;
use crate::fs::{
    DirHandle, FallocateMode, Fs, FsError, Live, NewKind, NewNode, NewTime, RenameFlags, SetAttr, XattrFlags,
};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Most requests that the kernel may send without anybody waiting for them: read-ahead and write-back.
const MAX_BACKGROUND: u16 = 64;

/// Mask of permission bits, with setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o7777;

/// Longest copy in one request, in bytes: the reply has 32 bits for the length.
const MAX_COPY: u64 = u32::MAX as u64 & !0xfff;

thread_local! {
    /// Whether this event loop is in the list of event loops whose requests are counted.
    static KNOWN: Cell<bool> = const { Cell::new(false) };
}

/// A filesystem mounted writable, as fuser calls it.
pub(super) struct Writing {
    reading: Reading,
    live: Arc<Live>,
    parked: Arc<Parked<Late>>,
    dirs: DirHandles,
    atime: Atime,
    traffic: Arc<Traffic>,
}

impl Writing {
    /// Makes the adapter that serves `live`. `fs` answers requests that only read, and `parked` has replies that wait.
    pub(super) fn new(live: Arc<Live>, fs: Arc<Fs>, options: MountOptions, parked: Arc<Parked<Late>>) -> Self {
        let (of_guard, to_drain) = (Arc::clone(&live), Arc::clone(&parked));
        // What a handler left half done must not be committed.
        let guard = Guard::telling(move |message| {
            of_guard.latch(message);
            to_drain.drain();
        });
        let atime = options.atime.unwrap_or_default();
        let reading = Reading { fs, guard, options, pusher: None };
        Writing { reading, live, parked, dirs: DirHandles::default(), atime, traffic: Arc::default() }
    }

    /// Returns the counts of requests. They tell on which CPU event loops should run.
    pub(super) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// Counts a request that moves `bytes` bytes.
    fn note(&self, request: &Request, bytes: usize) {
        if !KNOWN.replace(true) {
            self.traffic.add_loop(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
        }
        self.traffic.note(request.pid(), bytes);
    }

    fn run<T>(
        &self,
        operation: &'static str,
        inode: INodeNo,
        handler: impl FnOnce() -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        self.reading.guard.run(operation, inode.0, || Ok(handler()?))
    }

    /// Answers when all changes so far are durable. After a write of `written` bytes, also waits for room in the thaw
    /// log.
    fn reply_when_durable(&self, inode: INodeNo, reply: Late, written: u64) {
        let ticket = self.parked.park(reply);
        let live = Arc::clone(&self.live);
        // If this fails or panics, the ticket is dropped, and its caller gets EIO.
        let _ = self.run("sync", inode, || {
            self.live.sync(Box::new(move |result| match result {
                Ok(()) if written > 0 => live.after_write(written, Box::new(move |_| ticket.answer(Ok(())))),
                result => ticket.answer(result.map_err(errno_of)),
            }));
            Ok(())
        });
    }

    /// Answers as soon as the thaw log has room.
    fn reply_when_there_is_room(&self, inode: INodeNo, reply: Late, written: u64) {
        let ticket = self.parked.park(reply);
        let _ = self.run("wait", inode, || {
            self.live.after_write(written, Box::new(move |result| ticket.answer(result.map_err(errno_of))));
            Ok(())
        });
    }

    /// Called for each read: updates the time of the last access if that is due. A failure is not reported.
    fn touch(&self, inode: InodeId, flags: i32) {
        if self.atime == Atime::Never || flags & libc::O_NOATIME != 0 {
            return;
        }
        let _ = self.run("atime", INodeNo(inode.0), || self.live.touch_atime(inode, self.atime == Atime::Always));
    }

    /// Returns an open directory.
    fn handle(&self, handle: FileHandle) -> Result<Arc<Mutex<DirHandle>>, Failure> {
        self.dirs.get(handle.0).ok_or(Failure::Errno(Errno::EBADF))
    }

    fn make(&self, request: &Request, parent: INodeNo, name: &OsStr, new: (NewKind, u32, u32), reply: ReplyEntry) {
        self.note(request, 0);
        let made = self.run("make", parent, || {
            let attr = self.live.create(InodeId(parent.0), name.as_bytes(), &new_node(request, new))?;
            Ok(to_fuse(&attr, &self.reading.options.disguise))
        });
        self.reading.reply_entry(reply, made);
    }

    fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }
}

fn errno_of(error: FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

fn new_node(request: &Request, (kind, mode, umask): (NewKind, u32, u32)) -> NewNode {
    let bits = |mode: u32| (mode & PERMISSIONS) as u16;
    NewNode { kind, mode: bits(mode), umask: bits(umask), uid: request.uid(), gid: request.gid() }
}

fn new_time(time: TimeOrNow) -> NewTime {
    match time {
        TimeOrNow::Now => NewTime::Now,
        TimeOrNow::SpecificTime(time) => NewTime::At(from_system(time)),
    }
}

impl Filesystem for Writing {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // `create` gets the umask: a default ACL may replace it.
        self.reading.init(config, InitFlags::FUSE_BIG_WRITES | InitFlags::FUSE_DONT_MASK);
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            tracing::debug!(nearest, "the kernel allows less");
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.note(request, 0);
        self.reading.lookup(parent, name, reply);
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.note(request, 0);
        self.reading.getattr(inode, reply);
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.note(request, 0);
        let change = SetAttr {
            mode: mode.map(|mode| (mode & PERMISSIONS) as u16),
            uid,
            gid,
            size,
            atime: atime.map(new_time),
            mtime: mtime.map(new_time),
            ctime: ctime.map(from_system),
            // The kernel itself sends a mode without these bits.
            clear_privileges: false,
        };
        let attr = self.run("setattr", inode, || {
            Ok(to_fuse(&self.live.set_attr(InodeId(inode.0), &change)?, &self.reading.options.disguise))
        });
        self.reading.reply_attr(reply, attr);
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        self.note(request, 0);
        self.touch(InodeId(inode.0), 0);
        self.reading.readlink(inode, reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match kind_of(mode, rdev) {
            Some(kind) => self.make(request, parent, name, (kind, mode, umask), reply),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.make(request, parent, name, (NewKind::Directory, mode, umask), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = NewKind::Symlink(target.as_os_str().as_bytes().to_vec());
        self.make(request, parent, name, (kind, 0o777, 0), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.note(request, 0);
        let done = self.run("unlink", parent, || self.live.unlink(InodeId(parent.0), name.as_bytes()));
        Self::reply_empty(reply, done);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.note(request, 0);
        let done = self.run("rmdir", parent, || self.live.rmdir(InodeId(parent.0), name.as_bytes()));
        Self::reply_empty(reply, done);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.note(request, 0);
        let known = fuser::RenameFlags::RENAME_NOREPLACE | fuser::RenameFlags::RENAME_EXCHANGE;
        if flags.bits() & !known.bits() != 0 || flags.contains(known) {
            return reply.error(Errno::EINVAL);
        }
        let flags = RenameFlags {
            no_replace: flags.contains(fuser::RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(fuser::RenameFlags::RENAME_EXCHANGE),
        };
        let (from, to) = (InodeId(parent.0), InodeId(new_parent.0));
        let done =
            self.run("rename", parent, || self.live.rename(from, name.as_bytes(), to, new_name.as_bytes(), flags));
        Self::reply_empty(reply, done);
    }

    fn link(&self, request: &Request, inode: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        self.note(request, 0);
        let linked = self.run("link", inode, || {
            let attr = self.live.link(InodeId(inode.0), InodeId(new_parent.0), new_name.as_bytes())?;
            Ok(to_fuse(&attr, &self.reading.options.disguise))
        });
        self.reading.reply_entry(reply, linked);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.note(request, 0);
        let created = self.run("create", parent, || {
            let (parent, name) = (InodeId(parent.0), name.as_bytes());
            let attr = match self.live.create(parent, name, &new_node(request, (NewKind::Regular, mode, umask))) {
                // The kernel looks a name up before it creates it, so this one was created just now.
                Err(FsError::Exists) if flags & libc::O_EXCL == 0 => self.reading.fs.lookup(parent, name)?,
                made => made?,
            };
            self.live.open(attr.inode, writes(flags))?;
            Ok(to_fuse(&attr, &self.reading.options.disguise))
        });
        match created {
            Ok(attr) => {
                let (handle, how) = opened(flags);
                // In this reply one time-out covers both, so the shorter one counts.
                let ttl = self.reading.options.attr_timeout.min(self.reading.options.entry_timeout);
                reply.created(&ttl, &attr, GENERATION, handle, how);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.note(request, 0);
        match self.run("open", inode, || self.live.open(InodeId(inode.0), writes(flags.0))) {
            Ok(()) => {
                let (handle, how) = opened(flags.0);
                reply.opened(handle, how);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let done = self.run("release", inode, || {
            self.live.release(InodeId(inode.0), handle == WRITING);
            Ok(())
        });
        Self::reply_empty(reply, done);
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.note(request, size as usize);
        self.touch(InodeId(inode.0), flags.0);
        self.reading.read(inode, offset, size, reply);
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        how: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.note(request, data.len());
        let written = self.run("write", inode, || {
            let clear_privileges = how.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            self.live.write(InodeId(inode.0), offset, data, clear_privileges)
        });
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        match written {
            // Writes from the page cache have the flags of a guessed handle. Their O_SYNC callers wait for an fsync
            // instead.
            Ok(()) if flags.0 & libc::O_DSYNC != 0 && !how.contains(WriteFlags::FUSE_WRITE_CACHE) => {
                self.reply_when_durable(inode, Late::Write(reply, len), len.into());
            }
            // The write is done. Its caller goes on when the freezer has caught up.
            Ok(()) if self.live.holds_replies_back() => {
                self.reply_when_there_is_room(inode, Late::Write(reply, len), len.into());
            }
            Ok(()) => reply.written(len),
            Err(errno) => reply.error(errno),
        }
    }

    /// Answers close(2): returns an error if it is known by now that written data may never become durable.
    fn flush(&self, request: &Request, inode: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.note(request, 0);
        let flushed = self.run("flush", inode, || match self.live.latched() {
            Some(why) => Err(FsError::io(why)),
            None => Ok(()),
        });
        Self::reply_empty(reply, flushed);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.reply_when_durable(inode, Late::Empty(reply), 0);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.reply_when_durable(inode, Late::Empty(reply), 0);
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.note(request, 0);
        let inode_id = InodeId(inode.0);
        match self.run("opendir", inode, || self.live.open(inode_id, false)) {
            Ok(()) => {
                let number = self.dirs.open(DirHandle::new(inode_id));
                reply.opened(FileHandle(number), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(&self, request: &Request, inode: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.note(request, 0);
        let done = self.run("releasedir", inode, || {
            self.dirs.close(handle.0);
            self.live.release(InodeId(inode.0), false);
            Ok(())
        });
        Self::reply_empty(reply, done);
    }

    fn readdir(&self, request: &Request, inode: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.note(request, 0);
        if offset == 0 && !self.reading.options.nodiratime {
            self.touch(InodeId(inode.0), 0);
        }
        self.reading.readdir(inode, reply, |add| {
            if self.reading.list_dots(InodeId(inode.0), offset, add)? {
                self.handle(handle)?.lock().read(&self.reading.fs, offset, add)?;
            }
            Ok(())
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.note(request, 0);
        if offset == 0 && !self.reading.options.nodiratime {
            self.touch(InodeId(inode.0), 0);
        }
        let directory = InodeId(inode.0);
        self.reading.readdirplus(inode, reply, |add| {
            if self.reading.list_dots(directory, offset, &mut |entry| add(entry, None))? {
                let handle = self.handle(handle)?;
                handle.lock().read_plus(&self.reading.fs, offset, &mut |entry, attr| add(entry, attr.ok()))?;
            }
            Ok(())
        });
    }

    fn statfs(&self, _: &Request, inode: INodeNo, reply: ReplyStatfs) {
        match self.run("statfs", inode, || self.live.statfs()) {
            Ok(s) => {
                reply.statfs(s.blocks, s.free, s.free, s.files, s.free_files, s.block_size, NAME_MAX, s.block_size);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        self.note(request, 0);
        let name = name.as_bytes();
        if name == FREEZE_XATTR {
            let ask = || ask_to_freeze(&self.live, InodeId(inode.0), request.uid(), value);
            return Self::reply_empty(reply, self.reading.guard.run("freeze", inode.0, ask));
        }
        if name == GC_XATTR {
            let ask = || ask_for_gc(&self.live, InodeId(inode.0), request.uid(), value);
            return Self::reply_empty(reply, self.reading.guard.run("gc", inode.0, ask));
        }
        let flags = XattrFlags {
            create: flags & libc::XATTR_CREATE != 0,
            replace: flags & libc::XATTR_REPLACE != 0,
            // The kernel sends this only with SETXATTR_EXT, which fuser does not support.
            clear_setgid: false,
        };
        let done = self.run("setxattr", inode, || self.live.set_xattr(InodeId(inode.0), name, value, flags));
        Self::reply_empty(reply, done);
    }

    /// Answers getxattr(2). The kernel asks for `security.capability` before each write(2), so this must be fast if
    /// there are no xattrs.
    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.note(request, 0);
        let (reading, id, name) = (&self.reading, InodeId(inode.0), name.as_bytes());
        let value = reading.guard.run("getxattr", inode.0, || match state_text(&self.live, &reading.fs, id, name)? {
            Some(text) => Ok(text.into_bytes()),
            None => reading.xattr(id, name),
        });
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        self.reading.listxattr(request.uid(), inode, size, reply);
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.note(request, 0);
        let name = name.as_bytes();
        let done = self.run("removexattr", inode, || self.live.remove_xattr(InodeId(inode.0), name));
        Self::reply_empty(reply, done);
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = fallocate_mode(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let done = self.run("fallocate", inode, || self.live.fallocate(InodeId(inode.0), offset, length, mode));
        Self::reply_empty(reply, done);
    }

    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.reading.lseek(inode, offset, whence, reply);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if flags.bits() != 0 {
            return reply.error(Errno::EINVAL);
        }
        let copied = self.run("copy_file_range", to, || {
            self.live.copy_range(InodeId(from.0), from_offset, InodeId(to.0), to_offset, len.min(MAX_COPY))
        });
        match copied {
            Ok(len) => reply.written(u32::try_from(len).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }
}

/// Returns the mode for fallocate(2); `None` if it is not supported.
fn fallocate_mode(mode: i32) -> Option<FallocateMode> {
    let (keep_size, punch, zero) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
    match mode {
        0 => Some(FallocateMode::Allocate),
        _ if mode == keep_size => Some(FallocateMode::KeepSize),
        _ if mode == punch | keep_size => Some(FallocateMode::PunchHole),
        _ if mode & !keep_size == zero => Some(FallocateMode::ZeroRange { keep_size: mode & keep_size != 0 }),
        _ => None,
    }
}
