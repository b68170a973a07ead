//! What Linux does with bytes, attributes and xattrs, and the errno it returns. Called by the runner.

use super::bytes::Bytes;
use super::state::{Id, Kind, Model, Node};
use floe::format::rows::Time;
use rustix::io::Errno;
use std::sync::Arc;

/// The largest size of a file, as in the kernel.
pub const MAX_SIZE: u64 = i64::MAX as u64;

const SETUID: u16 = 0o4000;
const SETGID: u16 = 0o2000;
const GROUP_EXECUTES: u16 = 0o010;

/// fallocate(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// The size may grow.
    Grow,
    /// FALLOC_FL_KEEP_SIZE.
    Keep,
    /// FALLOC_FL_PUNCH_HOLE.
    Punch,
    /// FALLOC_FL_ZERO_RANGE.
    Zero,
    /// FALLOC_FL_ZERO_RANGE with FALLOC_FL_KEEP_SIZE.
    ZeroKeep,
}

/// How an xattr is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Whether or not it exists.
    Any,
    /// XATTR_CREATE.
    Create,
    /// XATTR_REPLACE.
    Replace,
}

/// Changes of attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// chmod.
    pub mode: Option<u16>,
    /// chown.
    pub uid: Option<u32>,
    /// chgrp.
    pub gid: Option<u32>,
    /// utimens: the last read.
    pub atime: Option<Stamp>,
    /// utimens: the last change.
    pub mtime: Option<Stamp>,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// UTIME_NOW.
    Now,
    /// A given time.
    At(Time),
}

impl Stamp {
    fn resolve(self, now: Time) -> Time {
        match self {
            Stamp::Now => now,
            Stamp::At(time) => time,
        }
    }
}

const XATTR_NAME_MAX: usize = 255;
const XATTR_VALUE_MAX: usize = 64 << 10;

impl Model {
    /// The bytes of a file.
    pub fn bytes(&self, id: Id) -> Result<&Bytes, Errno> {
        match &self.node(id)?.kind {
            Kind::Regular(bytes) => Ok(bytes),
            Kind::Directory { .. } => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    fn bytes_mut(&mut self, id: Id) -> &mut Bytes {
        let Kind::Regular(bytes) = &mut self.node_mut(id).kind else { panic!("{id} is no file") };
        bytes
    }

    fn changed(&mut self, id: Id, now: Time) {
        let node = self.node_mut(id);
        (node.mtime, node.ctime) = (now, now);
    }

    /// pwrite(2).
    pub fn write(&mut self, id: Id, offset: u64, bytes: &[u8], clear: bool, now: Time) -> Result<(), Errno> {
        self.bytes(id)?;
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= MAX_SIZE).ok_or(Errno::FBIG)?;
        if bytes.is_empty() {
            return Ok(());
        }
        assert!(end <= MAX_SIZE);
        self.bytes_mut(id).write(offset, bytes);
        self.changed(id, now);
        if clear {
            clear_privileges(self.node_mut(id));
        }
        Ok(())
    }

    /// ftruncate(2).
    pub fn truncate(&mut self, id: Id, size: u64, now: Time) -> Result<(), Errno> {
        self.bytes(id)?;
        if size > MAX_SIZE {
            return Err(Errno::FBIG);
        }
        self.bytes_mut(id).truncate(size);
        self.changed(id, now);
        Ok(())
    }

    /// chmod(2), chown(2), utimensat(2), one or several at once.
    pub fn set_attributes(&mut self, id: Id, changes: Attributes, now: Time) -> Result<(), Errno> {
        self.node(id)?;
        let node = self.node_mut(id);
        if changes.uid.is_some() || changes.gid.is_some() {
            node.uid = changes.uid.unwrap_or(node.uid);
            node.gid = changes.gid.unwrap_or(node.gid);
            if !node.is_dir() {
                clear_privileges(node);
            }
        }
        if let Some(mode) = changes.mode {
            node.permissions = mode;
        }
        if let Some(atime) = changes.atime {
            node.atime = atime.resolve(now);
        }
        if let Some(mtime) = changes.mtime {
            node.mtime = mtime.resolve(now);
        }
        node.ctime = now;
        Ok(())
    }

    /// setxattr(2).
    pub fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], how: Setting, now: Time) -> Result<(), Errno> {
        let node = self.node(id)?;
        if name.is_empty() || name.len() > XATTR_NAME_MAX {
            return Err(Errno::RANGE);
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(Errno::TOOBIG);
        }
        match (node.xattrs.contains_key(name), how) {
            (true, Setting::Create) => return Err(Errno::EXIST),
            (false, Setting::Replace) => return Err(Errno::NODATA),
            _ => {}
        }
        let node = self.node_mut(id);
        node.xattrs.insert(name.to_vec(), Arc::from(value));
        node.ctime = now;
        Ok(())
    }

    /// removexattr(2).
    pub fn remove_xattr(&mut self, id: Id, name: &[u8], now: Time) -> Result<(), Errno> {
        if !self.node(id)?.xattrs.contains_key(name) {
            return Err(Errno::NODATA);
        }
        let node = self.node_mut(id);
        node.xattrs.remove(name);
        node.ctime = now;
        Ok(())
    }

    /// fallocate(2).
    pub fn fallocate(&mut self, id: Id, how: Allocate, offset: u64, len: u64, now: Time) -> Result<(), Errno> {
        let size = match &self.node(id)?.kind {
            Kind::Regular(bytes) => bytes.size(),
            Kind::Directory { .. } => return Err(Errno::ISDIR),
            _ => return Err(Errno::NODEV),
        };
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let end = offset.checked_add(len).filter(|&end| end <= MAX_SIZE).ok_or(Errno::FBIG)?;
        let bytes = self.bytes_mut(id);
        match how {
            Allocate::Grow => bytes.truncate(size.max(end)),
            Allocate::Keep => {}
            Allocate::Punch | Allocate::ZeroKeep => bytes.zero(offset, len),
            Allocate::Zero => {
                bytes.zero(offset, len);
                bytes.truncate(size.max(end));
            }
        }
        self.changed(id, now);
        Ok(())
    }

    /// How many bytes copy_file_range(2) may copy; call [`Model::copied`] with the number that it did copy.
    pub fn may_copy(&self, (from, from_offset): (Id, u64), (to, to_offset): (Id, u64), len: u64) -> Result<u64, Errno> {
        let size = self.bytes(from)?.size();
        self.bytes(to)?;
        let len = len.min(size.saturating_sub(from_offset));
        if len > 0 && to_offset.checked_add(len).is_none_or(|end| end > MAX_SIZE) {
            return Err(Errno::FBIG);
        }
        if from == to && from_offset < to_offset + len && to_offset < from_offset + len {
            return Err(Errno::INVAL);
        }
        Ok(len)
    }

    /// Copies `len` bytes, after [`Model::may_copy`].
    pub fn copied(&mut self, (from, from_offset): (Id, u64), (to, to_offset): (Id, u64), len: u64, now: Time) {
        if len > 0 {
            let bytes = self.bytes(from).expect("the caller has looked").read(from_offset, len);
            self.bytes_mut(to).write(to_offset, &bytes);
            self.changed(to, now);
        }
    }
}

/// What Linux does for a caller with permission: setgid without group execute permission has another meaning.
fn clear_privileges(node: &mut Node) {
    node.permissions &= !SETUID;
    if node.permissions & GROUP_EXECUTES != 0 {
        node.permissions &= !SETGID;
    }
}
