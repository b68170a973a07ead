//! A directory of the kernel's file system as a subject: the model is right if Linux gives the same results. Called by
//! the test of the model.

use super::bytes::Bytes;
use super::data::{Allocate, Attributes, Setting, Stamp};
use super::names::{Flags, New, NewKind};
use super::state::{Attr, Id, Kind, Model, Node, ROOT};
use super::subject::Subject;
use floe::format::rows::Time;
use imbl::OrdMap;
use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A directory and a descriptor for each inode in it.
pub struct Kernel {
    nodes: BTreeMap<Id, OwnedFd>,
    root: u64,
}

impl Kernel {
    /// An empty directory. The process's umask becomes 0.
    pub fn new(path: &Path) -> Kernel {
        rustix::process::umask(Mode::empty());
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let ino = rustix::fs::fstat(&root).unwrap().st_ino;
        Kernel { nodes: BTreeMap::from([(ROOT, root)]), root: ino }
    }

    fn id(&self, stat: &Stat) -> Id {
        if stat.st_ino == self.root { ROOT } else { stat.st_ino }
    }

    fn node(&self, id: Id) -> Result<&OwnedFd, Errno> {
        self.nodes.get(&id).ok_or(Errno::NOENT)
    }

    /// A path that leads to the inode itself, even to a symlink.
    fn path(&self, id: Id) -> Result<String, Errno> {
        Ok(format!("/proc/self/fd/{}", self.node(id)?.as_raw_fd()))
    }

    fn file(&self, id: Id) -> Result<File, Errno> {
        let file = rustix::fs::open(self.path(id)?.as_str(), OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?;
        Ok(File::from(file))
    }

    fn adopt(&mut self, dir: Id, name: &[u8]) -> Result<Id, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let found = rustix::fs::openat(self.node(dir)?, name, flags, Mode::empty())?;
        let id = self.id(&rustix::fs::fstat(&found)?);
        self.nodes.insert(id, found);
        Ok(id)
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn mode(bits: u16) -> Mode {
    Mode::from_raw_mode(bits.into())
}

fn attr_of(stat: &Stat) -> Attr {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let kind = match file_type {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice => "char device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Unknown => "unknown",
    };
    let device = match file_type {
        FileType::CharacterDevice | FileType::BlockDevice => {
            (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
        }
        _ => (0, 0),
    };
    Attr {
        kind,
        permissions: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink,
        size: if file_type == FileType::Directory { 0 } else { stat.st_size as u64 },
        device,
        mtime: Time::default(),
        ctime: Time::default(),
        atime: Time::default(),
    }
}

fn stamp(stamp: Option<Stamp>) -> Timespec {
    match stamp {
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(Stamp::Now) => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(Stamp::At(time)) => Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() },
    }
}

impl Subject for Kernel {
    fn create(&mut self, dir: Id, name: &[u8], new: &New) -> Result<Id, Errno> {
        let at = self.node(dir)?;
        let bits = mode(new.mode & !new.umask);
        let special = |kind: FileType, number: (u32, u32)| {
            rustix::fs::mknodat(at, name, kind, bits, rustix::fs::makedev(number.0, number.1))
        };
        match &new.kind {
            NewKind::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
                rustix::fs::openat(at, name, flags, bits).map(drop)?;
            }
            NewKind::Directory => rustix::fs::mkdirat(at, name, bits)?,
            NewKind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), at, name)?,
            NewKind::Device { char: true, number } => special(FileType::CharacterDevice, *number)?,
            NewKind::Device { char: false, number } => special(FileType::BlockDevice, *number)?,
            NewKind::Fifo => special(FileType::Fifo, (0, 0))?,
            NewKind::Socket => special(FileType::Socket, (0, 0))?,
        }
        let parent = rustix::fs::fstat(at)?;
        let id = self.adopt(dir, name)?;
        // Root creates files for others. chown clears setuid and setgid, which a creation does not.
        let stat = rustix::fs::fstat(self.node(id)?)?;
        let gid = (parent.st_mode & 0o2000 == 0).then(|| Gid::from_raw(new.gid));
        rustix::fs::chown(self.path(id)?.as_str(), Some(Uid::from_raw(new.uid)), gid)?;
        if !matches!(new.kind, NewKind::Symlink(_)) {
            rustix::fs::chmod(self.path(id)?.as_str(), Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        }
        Ok(id)
    }

    fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::unlinkat(self.node(dir)?, name, AtFlags::empty())
    }

    fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::unlinkat(self.node(dir)?, name, AtFlags::REMOVEDIR)
    }

    fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), flags: Flags) -> Result<(), Errno> {
        let mut how = RenameFlags::empty();
        how.set(RenameFlags::NOREPLACE, flags.no_replace);
        how.set(RenameFlags::EXCHANGE, flags.exchange);
        if !self.nodes.contains_key(&from.0) || !self.nodes.contains_key(&to.0) {
            // The kernel checks the flags first.
            return Err(if flags == (Flags { no_replace: true, exchange: true }) {
                Errno::INVAL
            } else {
                Errno::NOENT
            });
        }
        rustix::fs::renameat_with(self.node(from.0)?, from.1, self.node(to.0)?, to.1, how)
    }

    fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), Errno> {
        let from = self.path(id)?;
        rustix::fs::linkat(CWD, from.as_str(), self.node(dir)?, name, AtFlags::SYMLINK_FOLLOW)
    }

    fn write(&mut self, id: Id, offset: u64, bytes: &[u8], clear_privileges: bool) -> Result<(), Errno> {
        self.file(id)?.write_all_at(bytes, offset).map_err(errno)?;
        let bits = rustix::fs::fstat(self.node(id)?)?.st_mode & 0o7777;
        if clear_privileges && !bytes.is_empty() && bits & 0o6000 != 0 {
            // What the kernel does for a caller other than root.
            let bits = bits & !if bits & 0o010 != 0 { 0o6000 } else { 0o4000 };
            rustix::fs::chmod(self.path(id)?.as_str(), Mode::from_raw_mode(bits))?;
        }
        Ok(())
    }

    fn truncate(&mut self, id: Id, size: u64) -> Result<(), Errno> {
        self.file(id)?.set_len(size).map_err(errno)
    }

    fn set_attributes(&mut self, id: Id, changes: Attributes) -> Result<(), Errno> {
        let path = self.path(id)?;
        if changes.uid.is_some() || changes.gid.is_some() {
            rustix::fs::chown(path.as_str(), changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw))?;
        }
        if let Some(bits) = changes.mode {
            rustix::fs::chmod(path.as_str(), mode(bits))?;
        }
        let times = Timestamps { last_access: stamp(changes.atime), last_modification: stamp(changes.mtime) };
        rustix::fs::utimensat(CWD, path.as_str(), &times, AtFlags::empty())
    }

    fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], how: Setting) -> Result<(), Errno> {
        let flags = match how {
            Setting::Any => XattrFlags::empty(),
            Setting::Create => XattrFlags::CREATE,
            Setting::Replace => XattrFlags::REPLACE,
        };
        rustix::fs::setxattr(self.path(id)?.as_str(), name, value, flags)
    }

    fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::removexattr(self.path(id)?.as_str(), name)
    }

    fn fallocate(&mut self, id: Id, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        let flags = match how {
            Allocate::Grow => FallocateFlags::empty(),
            Allocate::Keep => FallocateFlags::KEEP_SIZE,
            Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Allocate::Zero => FallocateFlags::ZERO_RANGE,
            Allocate::ZeroKeep => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        rustix::fs::fallocate(&self.file(id)?, flags, offset, len)
    }

    fn copy(&mut self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<u64, Errno> {
        let (source, target) = (self.file(from.0)?, self.file(to.0)?);
        let (mut from, mut to) = (from.1, to.1);
        rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), len as usize)
            .map(|copied| copied as u64)
    }

    fn open(&mut self, id: Id, _writing: bool) -> Result<(), Errno> {
        self.node(id).map(drop)
    }

    fn release(&mut self, _id: Id, _writing: bool) {}

    fn touch(&mut self, id: Id) -> Result<(), Errno> {
        self.node(id).map(drop)
    }

    fn attributes(&mut self, id: Id) -> Result<Attr, Errno> {
        Ok(attr_of(&rustix::fs::fstat(self.node(id)?)?))
    }

    fn read(&mut self, id: Id, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
        let file = self.file(id)?;
        let size = rustix::fs::fstat(&file)?.st_size as u64;
        let mut bytes = vec![0; len.min(size.saturating_sub(offset)) as usize];
        file.read_exact_at(&mut bytes, offset).map_err(errno)?;
        Ok(bytes)
    }

    fn lookup(&mut self, dir: Id, name: &[u8]) -> Result<Id, Errno> {
        Ok(self.id(&rustix::fs::statat(self.node(dir)?, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn has_times(&self) -> bool {
        false
    }

    fn forgotten(&mut self, id: Id) {
        self.nodes.remove(&id);
    }

    fn whole(&mut self) -> Result<Model, String> {
        let mut model = Model::default();
        self.gather(ROOT, ROOT, &mut model).map_err(|errno| format!("reading: {errno:?}"))?;
        Ok(model)
    }
}

impl Kernel {
    fn gather(&mut self, id: Id, parent: Id, model: &mut Model) -> Result<(), Errno> {
        let path = self.path(id)?;
        let attr = self.attributes(id)?;
        let kind = match attr.kind {
            "file" => {
                let mut bytes = Bytes::default();
                bytes.write(0, &self.read(id, 0, attr.size)?);
                bytes.truncate(attr.size);
                Kind::Regular(bytes)
            }
            "directory" => {
                let mut names = OrdMap::new();
                let dir = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                for entry in Dir::read_from(dir)? {
                    let name = entry?.file_name().to_bytes().to_vec();
                    if name != b"." && name != b".." {
                        let child = self.lookup(id, &name)?;
                        names.insert(name, child);
                        if !model.nodes.contains_key(&child) {
                            self.gather(child, id, model)?;
                        }
                    }
                }
                Kind::Directory { names, parent }
            }
            "symlink" => Kind::Symlink(rustix::fs::readlinkat(self.node(id)?, "", Vec::new())?.into_bytes()),
            "char device" => Kind::Device { char: true, number: attr.device },
            "block device" => Kind::Device { char: false, number: attr.device },
            "fifo" => Kind::Fifo,
            _ => Kind::Socket,
        };
        let mut list = vec![0; 64 << 10];
        let n = rustix::fs::listxattr(path.as_str(), &mut list)?;
        let mut xattrs = OrdMap::new();
        for name in list[..n].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 64 << 10];
            let n = rustix::fs::getxattr(path.as_str(), name, &mut value)?;
            xattrs.insert(name.to_vec(), Arc::from(&value[..n]));
        }
        let Attr { permissions, uid, gid, links, mtime, ctime, atime, .. } = attr;
        let node = Node { kind, permissions, uid, gid, links, mtime, ctime, atime, xattrs };
        model.nodes.insert(id, Arc::new(node));
        Ok(())
    }
}
