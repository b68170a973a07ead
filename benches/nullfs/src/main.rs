//! `nullfs DIR`: a FUSE filesystem with names and attributes in memory. It discards all written data; files read as
//! zeros.
//!
//! It shows the minimum cost of any FUSE daemon. It answers from memory each request that the kernel sends to floe's
//! writable mount, and requests the same features from the kernel as floe (event loops, time-outs, open and flush, no
//! writeback cache). It runs in the foreground until it is unmounted. Called by `benches/writing.sh`.

mod tree;

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, SessionACL,
    TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tree::Tree;

/// As in floe: the kernel may cache replies for ever, since every change goes through it.
const TTL: Duration = Duration::from_secs(1 << 31);
const GENERATION: Generation = Generation(0);
/// As in floe: the largest write and read.
const MAX_REQUEST: u32 = 1 << 20;
/// As in floe: the limit of background requests.
const MAX_BACKGROUND: u16 = 64;
/// As in floe: the least number of event loops. More are slower: the kernel wakes them in turn, usually on another
/// core.
const MIN_LOOPS: usize = 2;
const BLOCK: u32 = 4096;

struct NullFs {
    tree: Mutex<Tree>,
    /// Whether close(2) sends a FLUSH.
    flush: bool,
    /// Whether the kernel keeps written pages and sends them later.
    writeback: bool,
    /// Whether the kernel leaves clearing setuid bits to the daemon, and so never asks for `security.capability`.
    killpriv: bool,
    zeros: Box<[u8]>,
}

fn now_or(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

impl NullFs {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_node(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, rdev: u32) -> Result<FileAttr, Errno> {
        let (owner, perm) = ((req.uid(), req.gid()), (mode & 0o7777) as u16);
        self.tree().create(parent.0, name.as_bytes(), kind_of(mode), perm, owner, rdev, b"")
    }

    fn open_flags(&self) -> FopenFlags {
        let mut flags = FopenFlags::FOPEN_KEEP_CACHE;
        flags.set(FopenFlags::FOPEN_NOFLUSH, !self.flush);
        flags
    }

    /// Passes cookie, name and attributes of the entries after `cookie` to `add` until it returns true.
    fn list(
        &self,
        directory: INodeNo,
        cookie: u64,
        add: &mut dyn FnMut(u64, &[u8], &FileAttr) -> bool,
    ) -> Result<(), Errno> {
        let mut tree = self.tree();
        let node = tree.get(directory.0)?;
        let own = node.attr;
        let names = node.names.as_ref().ok_or(Errno::ENOTDIR)?;
        let parent = names.parent;
        // As many entries as a reply of 128 KiB can hold.
        let entries: Vec<_> =
            names.after(cookie.max(2)).take(4096).map(|(c, name, inode)| (c, name.to_vec(), inode)).collect();
        if cookie < 1 && add(1, b".", &own) {
            return Ok(());
        }
        if cookie < 2 && add(2, b"..", &tree.get(parent)?.attr) {
            return Ok(());
        }
        for (cookie, name, inode) in entries {
            if add(cookie, &name, &tree.get(inode)?.attr) {
                break;
            }
        }
        Ok(())
    }
}

impl Filesystem for NullFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_BIG_WRITES
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_POSIX_ACL;
        wanted.set(InitFlags::FUSE_WRITEBACK_CACHE, self.writeback);
        wanted.set(InitFlags::FUSE_HANDLE_KILLPRIV_V2, self.killpriv);
        for flag in wanted.iter() {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_readahead(MAX_REQUEST);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.tree().lookup(parent.0, name.as_bytes());
        entry(reply, found);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let attr = self.tree().get(inode.0).map(|node| node.attr);
        match attr {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        let changed = tree.get(inode.0).map(|node| {
            let attr = &mut node.attr;
            attr.ctime = SystemTime::now();
            attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
            attr.uid = uid.unwrap_or(attr.uid);
            attr.gid = gid.unwrap_or(attr.gid);
            if let Some(size) = size {
                attr.size = size;
                attr.mtime = attr.ctime;
            }
            attr.atime = atime.map_or(attr.atime, now_or);
            attr.mtime = mtime.map_or(attr.mtime, now_or);
            *attr
        });
        drop(tree);
        match changed {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        let target = self.tree().get(inode.0).map(|node| node.target.clone());
        match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        entry(reply, self.new_node(req, parent, name, mode & !umask, rdev));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        entry(reply, self.new_node(req, parent, name, (mode & !umask & 0o7777) | libc::S_IFDIR, 0));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.tree().unlink(parent.0, name.as_bytes(), false);
        empty(reply, done);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.tree().unlink(parent.0, name.as_bytes(), true);
        empty(reply, done);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (owner, target) = ((req.uid(), req.gid()), target.as_os_str().as_bytes());
        let made = self.tree().create(parent.0, name.as_bytes(), FileType::Symlink, 0o777, owner, 0, target);
        entry(reply, made);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let mut tree = self.tree();
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && tree.lookup(new_parent.0, new_name.as_bytes()).is_ok() {
            return reply.error(Errno::EEXIST);
        }
        let done = tree.rename(parent.0, name.as_bytes(), new_parent.0, new_name.as_bytes());
        drop(tree);
        empty(reply, done);
    }

    fn link(&self, _: &Request, inode: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let made = self.tree().link(inode.0, new_parent.0, new_name.as_bytes());
        entry(reply, made);
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.tree().open(inode.0);
        reply.opened(FileHandle(0), self.open_flags());
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.new_node(req, parent, name, mode & !umask, 0) {
            Ok(attr) => {
                self.tree().open(attr.ino.0);
                reply.created(&TTL, &attr, GENERATION, FileHandle(0), self.open_flags());
            }
            Err(errno) => reply.error(errno),
        }
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
        let length = self.tree().get(inode.0).map(|node| node.attr.size);
        match length {
            Ok(length) => {
                let len = length.saturating_sub(offset).min(size.into()).min(self.zeros.len() as u64) as usize;
                reply.data(&self.zeros[..len]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut tree = self.tree();
        let done = tree.get(inode.0).map(|node| {
            let attr = &mut node.attr;
            attr.size = attr.size.max(offset + data.len() as u64);
            attr.blocks = attr.size.div_ceil(512);
            attr.mtime = SystemTime::now();
            attr.ctime = attr.mtime;
        });
        drop(tree);
        match done {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.tree().release(inode.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let done = self.list(inode, offset, &mut |cookie, name, attr| {
            reply.add(attr.ino, cookie, attr.kind, OsStr::from_bytes(name))
        });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let done = self.list(inode, offset, &mut |cookie, name, attr| {
            reply.add(attr.ino, cookie, OsStr::from_bytes(name), &TTL, attr, GENERATION)
        });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let files = self.tree().len();
        reply.statfs(1 << 30, 1 << 30, 1 << 30, files + (1 << 30), 1 << 30, BLOCK, 255, BLOCK);
    }

    fn setxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, value: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        let mut tree = self.tree();
        let done = tree.get(inode.0).map(|node| {
            node.xattrs.insert(name.as_bytes().into(), value.into());
        });
        drop(tree);
        empty(reply, done);
    }

    // The kernel asks for `security.capability` before each write(2). As in floe, this is answered and not refused
    // permanently.
    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let mut tree = self.tree();
        let value = tree
            .get(inode.0)
            .and_then(|node| node.xattrs.get(name.as_bytes()).map(|value| value.to_vec()).ok_or(Errno::NO_XATTR));
        drop(tree);
        xattr(reply, size, value);
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let mut tree = self.tree();
        let list = tree.get(inode.0).map(|node| {
            let mut list = Vec::new();
            for name in node.xattrs.keys() {
                list.extend_from_slice(name);
                list.push(0);
            }
            list
        });
        drop(tree);
        xattr(reply, size, list);
    }

    fn removexattr(&self, _: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut tree = self.tree();
        let done = tree
            .get(inode.0)
            .and_then(|node| node.xattrs.remove(name.as_bytes()).map(drop).ok_or(Errno::NO_XATTR));
        drop(tree);
        empty(reply, done);
    }
}

fn main() -> std::io::Result<()> {
    let (mut flush, mut writeback, mut killpriv, mut loops, mut dir) = (true, false, false, None, None);
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--noflush") => flush = false,
            Some("--writeback") => writeback = true,
            Some("--killpriv") => killpriv = true,
            Some("--threads") => loops = args.next().and_then(|n| n.to_str()?.parse().ok()),
            _ => dir = Some(arg),
        }
    }
    let Some(dir) = dir else {
        eprintln!("usage: nullfs [--noflush] [--writeback] [--killpriv] [--threads N] DIR");
        std::process::exit(2);
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("nullfs".into()),
        MountOption::Subtype("nullfs".into()),
        MountOption::DefaultPermissions,
        MountOption::Dev,
        MountOption::Suid,
        MountOption::NoAtime,
    ];
    config.acl = SessionACL::All;
    let cores = std::thread::available_parallelism().map_or(MIN_LOOPS, usize::from);
    config.n_threads = Some(loops.unwrap_or(cores.max(MIN_LOOPS)));
    config.clone_fd = true;
    let zeros = vec![0; MAX_REQUEST as usize].into();
    fuser::mount(NullFs { tree: Mutex::new(Tree::new()), flush, writeback, killpriv, zeros }, dir, &config)
}
