//! What Linux does with names (create, unlink, rmdir, rename, link), and the errno it returns, in the kernel's order of
//! checks. Called by the runner.

use super::bytes::Bytes;
use super::state::{Id, Kind, Model, Node, ROOT};
use floe::format::rows::Time;
use imbl::OrdMap;
use rustix::io::Errno;
use std::sync::Arc;

/// The inode to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Its kind, without bytes and names.
    pub kind: NewKind,
    /// Requested permission bits.
    pub mode: u16,
    /// Bits that are removed.
    pub umask: u16,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory passes on its own.
    pub gid: u32,
}

/// Kinds of inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewKind {
    /// An empty file.
    Regular,
    /// An empty directory.
    Directory,
    /// A symlink to this.
    Symlink(Vec<u8>),
    /// A device.
    Device {
        /// Whether of characters.
        char: bool,
        /// Major and minor number.
        number: (u32, u32),
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Flags of a rename.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// RENAME_NOREPLACE.
    pub no_replace: bool,
    /// RENAME_EXCHANGE.
    pub exchange: bool,
}

const NAME_MAX: usize = 255;
const SETGID: u16 = 0o2000;

impl Model {
    /// An empty file system whose root was made at `now`.
    pub fn new(root: Node) -> Model {
        Model { nodes: OrdMap::unit(ROOT, Arc::new(root)), ..Model::default() }
    }

    /// The inode.
    pub fn node(&self, id: Id) -> Result<&Node, Errno> {
        self.nodes.get(&id).map(|node| &**node).ok_or(Errno::NOENT)
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&id).expect("the caller has looked"))
    }

    /// The names of a directory that exists.
    pub fn names(&self, dir: Id) -> Result<&OrdMap<Vec<u8>, Id>, Errno> {
        match &self.node(dir)?.kind {
            Kind::Directory { names, .. } => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// The inode that a name refers to.
    pub fn lookup(&self, dir: Id, name: &[u8]) -> Result<Id, Errno> {
        self.find(dir, name)?.ok_or(Errno::NOENT)
    }

    fn find(&self, dir: Id, name: &[u8]) -> Result<Option<Id>, Errno> {
        let names = self.names(dir)?;
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(names.get(name).copied())
    }

    /// Whether the name can be created; the caller learns its inode number only afterwards.
    pub fn may_create(&self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        if self.find(dir, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        // A removed directory that is still open.
        if self.node(dir)?.links == 0 { Err(Errno::NOENT) } else { Ok(()) }
    }

    /// Creates, after [`Model::may_create`].
    pub fn create(&mut self, dir: Id, name: &[u8], new: &New, id: Id, now: Time) {
        let parent = self.node(dir).expect("the caller has looked");
        let mut permissions = new.mode & !new.umask;
        let mut gid = new.gid;
        if parent.permissions & SETGID != 0 {
            gid = parent.gid;
            if new.kind == NewKind::Directory {
                permissions |= SETGID;
            }
        }
        let kind = match &new.kind {
            NewKind::Regular => Kind::Regular(Bytes::default()),
            NewKind::Directory => Kind::Directory { names: OrdMap::new(), parent: dir },
            NewKind::Symlink(target) => Kind::Symlink(target.clone()),
            NewKind::Device { char, number } => Kind::Device { char: *char, number: *number },
            NewKind::Fifo => Kind::Fifo,
            NewKind::Socket => Kind::Socket,
        };
        if let Kind::Symlink(_) = kind {
            permissions = 0o777;
        }
        let links = if new.kind == NewKind::Directory { 2 } else { 1 };
        let xattrs = OrdMap::new();
        let node = Node { kind, permissions, uid: new.uid, gid, links, mtime: now, ctime: now, atime: now, xattrs };
        self.nodes.insert(id, Arc::new(node));
        self.put_name(dir, name, id, now);
    }

    fn put_name(&mut self, dir: Id, name: &[u8], id: Id, now: Time) {
        let is_dir = self.node(id).expect("it is there").is_dir();
        let parent = self.node_mut(dir);
        (parent.mtime, parent.ctime) = (now, now);
        let Kind::Directory { names, .. } = &mut parent.kind else { panic!("{dir} is no directory") };
        names.insert(name.to_vec(), id);
        parent.links += u64::from(is_dir);
        if let Kind::Directory { parent, .. } = &mut self.node_mut(id).kind {
            *parent = dir;
        }
    }

    fn take_name(&mut self, dir: Id, name: &[u8], now: Time) -> Id {
        let parent = self.node_mut(dir);
        (parent.mtime, parent.ctime) = (now, now);
        let Kind::Directory { names, .. } = &mut parent.kind else { panic!("{dir} is no directory") };
        let id = names.remove(name).expect("the caller has looked");
        let is_dir = self.node(id).expect("what has a name is there").is_dir();
        self.node_mut(dir).links -= u64::from(is_dir);
        id
    }

    /// Removes one name; the inode goes if it was the last and nobody has it open.
    fn drop_link(&mut self, id: Id, now: Time) {
        let node = self.node_mut(id);
        node.ctime = now;
        node.links = if node.is_dir() { 0 } else { node.links - 1 };
        self.forget(id);
    }

    /// Removes an inode that has neither names nor handles.
    pub fn forget(&mut self, id: Id) {
        if self.nodes.get(&id).is_some_and(|node| node.links == 0) && !self.open.contains_key(&id) {
            self.nodes.remove(&id);
        }
    }

    /// unlink(2).
    pub fn unlink(&mut self, dir: Id, name: &[u8], now: Time) -> Result<(), Errno> {
        let id = self.lookup(dir, name)?;
        if self.node(id)?.is_dir() {
            return Err(Errno::ISDIR);
        }
        self.take_name(dir, name, now);
        self.drop_link(id, now);
        Ok(())
    }

    /// rmdir(2).
    pub fn rmdir(&mut self, dir: Id, name: &[u8], now: Time) -> Result<(), Errno> {
        let id = self.lookup(dir, name)?;
        if !self.names(id)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.take_name(dir, name, now);
        self.drop_link(id, now);
        Ok(())
    }

    /// link(2).
    pub fn link(&mut self, id: Id, dir: Id, name: &[u8], now: Time) -> Result<(), Errno> {
        let node = self.node(id)?;
        self.may_create(dir, name)?;
        if node.is_dir() {
            return Err(Errno::PERM);
        }
        if node.links == 0 {
            return Err(Errno::NOENT);
        }
        let node = self.node_mut(id);
        node.links += 1;
        node.ctime = now;
        self.put_name(dir, name, id, now);
        Ok(())
    }

    /// rename(2), renameat2(2).
    pub fn rename(
        &mut self,
        (dir, name): (Id, &[u8]),
        (to_dir, to_name): (Id, &[u8]),
        flags: Flags,
        now: Time,
    ) -> Result<(), Errno> {
        if flags.no_replace && flags.exchange {
            return Err(Errno::INVAL);
        }
        self.names(dir)?;
        self.names(to_dir)?;
        let source = self.find(dir, name)?.ok_or(Errno::NOENT)?;
        let target = self.find(to_dir, to_name)?;
        if flags.no_replace && target.is_some() {
            return Err(Errno::EXIST);
        }
        if flags.exchange && target.is_none() {
            return Err(Errno::NOENT);
        }
        if self.contains(source, to_dir) {
            return Err(Errno::INVAL);
        }
        if let Some(target) = target
            && self.contains(target, dir)
        {
            return Err(if flags.exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if target == Some(source) {
            return Ok(());
        }
        if target.is_none() && self.node(to_dir)?.links == 0 {
            return Err(Errno::NOENT);
        }
        match target {
            Some(target) if flags.exchange => {
                self.take_name(dir, name, now);
                self.take_name(to_dir, to_name, now);
                self.put_name(dir, name, target, now);
                self.put_name(to_dir, to_name, source, now);
                self.node_mut(target).ctime = now;
            }
            Some(target) => {
                match (self.node(source)?.is_dir(), self.node(target)?.is_dir()) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !self.names(target)?.is_empty() => return Err(Errno::NOTEMPTY),
                    _ => {}
                }
                self.take_name(dir, name, now);
                self.take_name(to_dir, to_name, now);
                self.put_name(to_dir, to_name, source, now);
                self.drop_link(target, now);
            }
            None => {
                self.take_name(dir, name, now);
                self.put_name(to_dir, to_name, source, now);
            }
        }
        self.node_mut(source).ctime = now;
        Ok(())
    }

    /// Whether `dir` is `ancestor` or lies in it.
    fn contains(&self, ancestor: Id, mut dir: Id) -> bool {
        loop {
            if dir == ancestor {
                return true;
            }
            match self.nodes.get(&dir).map(|node| &node.kind) {
                Some(Kind::Directory { parent, .. }) if dir != ROOT => dir = *parent,
                _ => return false,
            }
        }
    }

    /// Opens an existing inode.
    pub fn open(&mut self, id: Id, writing: bool) -> Result<(), Errno> {
        self.node(id)?;
        let (readers, writers) = self.open.get(&id).copied().unwrap_or_default();
        self.open.insert(id, if writing { (readers, writers + 1) } else { (readers + 1, writers) });
        Ok(())
    }

    /// The open inodes, and whether for writing, once each.
    pub fn open_ones(&self) -> Vec<(Id, bool)> {
        let each = |(&id, &(readers, writers)): (&Id, &(u32, u32))| {
            (readers > 0).then_some((id, false)).into_iter().chain((writers > 0).then_some((id, true)))
        };
        self.open.iter().flat_map(each).collect()
    }

    /// Closes an open inode.
    pub fn release(&mut self, id: Id, writing: bool) {
        let (readers, writers) = self.open.get(&id).copied().unwrap_or_default();
        let left = if writing { (readers, writers.saturating_sub(1)) } else { (readers.saturating_sub(1), writers) };
        if left == (0, 0) {
            self.open.remove(&id);
            self.forget(id);
        } else {
            self.open.insert(id, left);
        }
    }
}
