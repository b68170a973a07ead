//! Names and attributes in memory: hash maps, and no bytes of any file.
//!
//! Invariants: every name's inode is in `nodes`; a name has one position in its directory's order, which is never
//! reused. Called by `main.rs` under one mutex.

use fuser::{Errno, FileAttr, FileType, INodeNo};
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// Cookies of entries begin after those of `.` and `..`.
const FIRST_COOKIE: u64 = 3;

/// A name of a directory.
#[derive(Clone, Copy)]
struct Entry {
    inode: u64,
    cookie: u64,
}

/// The names of a directory.
pub struct Names {
    pub parent: u64,
    by_name: HashMap<Box<[u8]>, Entry>,
    by_cookie: BTreeMap<u64, (Box<[u8]>, u64)>,
    next_cookie: u64,
}

/// A file of any type.
pub struct Node {
    pub attr: FileAttr,
    pub target: Box<[u8]>,
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    pub names: Option<Names>,
    /// Number of open handles: an unlinked file stays until it is closed.
    opens: u32,
}

/// The whole filesystem.
pub struct Tree {
    nodes: HashMap<u64, Node>,
    next_inode: u64,
}

fn names_of(parent: u64) -> Names {
    Names { parent, by_name: HashMap::new(), by_cookie: BTreeMap::new(), next_cookie: FIRST_COOKIE }
}

impl Names {
    /// Cookie, name and inode of the entries after `cookie`.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &[u8], u64)> {
        self.by_cookie.range(cookie + 1..).map(|(cookie, (name, inode))| (*cookie, &**name, *inode))
    }

    fn insert(&mut self, name: &[u8], inode: u64) {
        self.remove(name);
        self.by_name.insert(name.into(), Entry { inode, cookie: self.next_cookie });
        self.by_cookie.insert(self.next_cookie, (name.into(), inode));
        self.next_cookie += 1;
    }

    fn remove(&mut self, name: &[u8]) -> Option<u64> {
        let entry = self.by_name.remove(name)?;
        self.by_cookie.remove(&entry.cookie);
        Some(entry.inode)
    }
}

impl Tree {
    /// An empty root.
    pub fn new() -> Self {
        let mut tree = Tree { nodes: HashMap::new(), next_inode: 2 };
        let root = tree.node(1, FileType::Directory, 0o755, (0, 0), 0, b"");
        tree.nodes.insert(1, Node { names: Some(names_of(1)), ..root });
        tree
    }

    fn node(&self, inode: u64, kind: FileType, perm: u16, owner: (u32, u32), rdev: u32, target: &[u8]) -> Node {
        let now = SystemTime::now();
        let attr = FileAttr {
            ino: INodeNo(inode),
            size: target.len() as u64,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: owner.0,
            gid: owner.1,
            rdev,
            blksize: 4096,
            flags: 0,
        };
        Node { attr, target: target.into(), xattrs: BTreeMap::new(), names: None, opens: 0 }
    }

    pub fn get(&mut self, inode: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)
    }

    fn names(&mut self, directory: u64) -> Result<&mut Names, Errno> {
        self.get(directory)?.names.as_mut().ok_or(Errno::ENOTDIR)
    }

    pub fn lookup(&mut self, directory: u64, name: &[u8]) -> Result<FileAttr, Errno> {
        let inode = self.names(directory)?.by_name.get(name).ok_or(Errno::ENOENT)?.inode;
        Ok(self.get(inode)?.attr)
    }

    fn touch(&mut self, inode: u64) -> Result<(), Errno> {
        let attr = &mut self.get(inode)?.attr;
        attr.mtime = SystemTime::now();
        attr.ctime = attr.mtime;
        Ok(())
    }

    /// A new file under `name`.
    pub fn create(
        &mut self,
        directory: u64,
        name: &[u8],
        kind: FileType,
        perm: u16,
        owner: (u32, u32),
        rdev: u32,
        target: &[u8],
    ) -> Result<FileAttr, Errno> {
        if self.names(directory)?.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        let mut node = self.node(inode, kind, perm, owner, rdev, target);
        node.names = (kind == FileType::Directory).then(|| names_of(directory));
        let attr = node.attr;
        self.nodes.insert(inode, node);
        self.names(directory)?.insert(name, inode);
        if kind == FileType::Directory {
            self.get(directory)?.attr.nlink += 1;
        }
        self.touch(directory)?;
        Ok(attr)
    }

    pub fn link(&mut self, inode: u64, directory: u64, name: &[u8]) -> Result<FileAttr, Errno> {
        if self.names(directory)?.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let attr = &mut self.get(inode)?.attr;
        attr.nlink += 1;
        let attr = *attr;
        self.names(directory)?.insert(name, inode);
        self.touch(directory)?;
        Ok(attr)
    }

    /// Removes a name, and with the last name the file, unless it is open.
    pub fn unlink(&mut self, directory: u64, name: &[u8], is_directory: bool) -> Result<(), Errno> {
        let inode = self.names(directory)?.by_name.get(name).ok_or(Errno::ENOENT)?.inode;
        let node = self.get(inode)?;
        match (&node.names, is_directory) {
            (Some(names), true) if !names.by_name.is_empty() => return Err(Errno::ENOTEMPTY),
            (Some(_), true) | (None, false) => {}
            (None, true) => return Err(Errno::ENOTDIR),
            (Some(_), false) => return Err(Errno::EISDIR),
        }
        node.attr.nlink -= if is_directory { 2 } else { 1 };
        self.names(directory)?.remove(name);
        if is_directory {
            self.get(directory)?.attr.nlink -= 1;
        }
        self.touch(directory)?;
        self.drop_unused(inode);
        Ok(())
    }

    /// Moves a name, replacing another if there is one. The kernel refuses loops.
    pub fn rename(&mut self, from: u64, name: &[u8], to: u64, new_name: &[u8]) -> Result<(), Errno> {
        let inode = self.names(from)?.by_name.get(name).ok_or(Errno::ENOENT)?.inode;
        let is_directory = self.get(inode)?.names.is_some();
        match self.names(to)?.by_name.get(new_name).map(|entry| entry.inode) {
            Some(other) if other == inode => return Ok(()),
            Some(_) => self.unlink(to, new_name, is_directory)?,
            None => {}
        }
        self.names(from)?.remove(name);
        self.names(to)?.insert(new_name, inode);
        if let Some(names) = &mut self.get(inode)?.names {
            names.parent = to;
            self.get(from)?.attr.nlink -= 1;
            self.get(to)?.attr.nlink += 1;
        }
        self.touch(from)?;
        self.touch(to)
    }

    pub fn open(&mut self, inode: u64) {
        if let Ok(node) = self.get(inode) {
            node.opens += 1;
        }
    }

    pub fn release(&mut self, inode: u64) {
        if let Ok(node) = self.get(inode) {
            node.opens = node.opens.saturating_sub(1);
        }
        self.drop_unused(inode);
    }

    fn drop_unused(&mut self, inode: u64) {
        if self.nodes.get(&inode).is_some_and(|node| node.attr.nlink == 0 && node.opens == 0) {
            self.nodes.remove(&inode);
        }
    }

    /// Number of files.
    pub fn len(&self) -> u64 {
        self.nodes.len() as u64
    }
}
