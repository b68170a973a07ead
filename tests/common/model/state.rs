//! The state of the model: inodes with names, bytes, attributes and xattrs, and their open handles.
//!
//! Every state is a value and cheap to clone. So a test keeps the state at each commit, and finds which of them a crash
//! left. Called by the model's operations and by the runner.

use super::bytes::Bytes;
use floe::format::rows::Time;
use imbl::OrdMap;
use std::sync::Arc;

/// An inode's number, as the file system under test gives it.
pub type Id = u64;
/// The root.
pub const ROOT: Id = floe::format::ids::InodeId::ROOT.0;

/// The kind of an inode, with the data of that kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Regular(Bytes),
    /// A directory: names, and the directory that holds it.
    Directory {
        /// Names.
        names: OrdMap<Vec<u8>, Id>,
        /// Where it lies; the root in itself.
        parent: Id,
    },
    /// A symlink with its target.
    Symlink(Vec<u8>),
    /// A character device (else a block device), major and minor number.
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

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, setuid, setgid and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names; for a directory 2 plus one for each subdirectory.
    pub links: u64,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Last read.
    pub atime: Time,
    /// Extended attributes.
    pub xattrs: OrdMap<Vec<u8>, Arc<[u8]>>,
}

impl Node {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// Bytes of a file or of a symlink's target, else 0.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Regular(bytes) => bytes.size(),
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }
}

/// The result of stat(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// One word.
    pub kind: &'static str,
    /// Permission bits.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links.
    pub links: u64,
    /// Bytes; 0 of a directory.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Last read.
    pub atime: Time,
}

impl Attr {
    /// From the model's inode.
    pub fn of(node: &Node) -> Attr {
        let (kind, device) = match &node.kind {
            Kind::Regular(_) => ("file", (0, 0)),
            Kind::Directory { .. } => ("directory", (0, 0)),
            Kind::Symlink(_) => ("symlink", (0, 0)),
            Kind::Device { char: true, number } => ("char device", *number),
            Kind::Device { char: false, number } => ("block device", *number),
            Kind::Fifo => ("fifo", (0, 0)),
            Kind::Socket => ("socket", (0, 0)),
        };
        let Node { permissions, uid, gid, links, mtime, ctime, atime, .. } = *node;
        Attr { kind, permissions, uid, gid, links, size: node.size(), device, mtime, ctime, atime }
    }

    /// The same without times.
    pub fn timeless(mut self) -> Attr {
        (self.mtime, self.ctime, self.atime) = (Time::default(), Time::default(), Time::default());
        self
    }
}

/// A whole file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// All inodes, including open unlinked ones.
    pub nodes: OrdMap<Id, Arc<Node>>,
    /// How often an inode is open for reading, and for writing.
    pub open: OrdMap<Id, (u32, u32)>,
}

impl Model {
    /// The state after all handles are closed at once: unlinked inodes are gone.
    pub fn closed(&self) -> Model {
        let nodes = self.nodes.iter().filter(|(_, node)| node.links > 0).map(|(&id, node)| (id, Arc::clone(node)));
        Model { nodes: nodes.collect(), open: OrdMap::new() }
    }

    /// All directories that have a name, ascending.
    pub fn directories(&self) -> Vec<Id> {
        self.nodes.iter().filter(|(_, node)| node.is_dir() && node.links > 0).map(|(&id, _)| id).collect()
    }

    /// All files, ascending.
    pub fn files(&self) -> Vec<Id> {
        self.nodes.iter().filter(|(_, node)| matches!(node.kind, Kind::Regular(_))).map(|(&id, _)| id).collect()
    }

    /// Number of inodes with a name, and the bytes of the files among them.
    pub fn totals(&self) -> (u64, u64) {
        let named = self.nodes.values().filter(|node| node.links > 0);
        named.fold((0, 0), |(inodes, bytes), node| {
            let size = if let Kind::Regular(file) = &node.kind { file.size() } else { 0 };
            (inodes + 1, u64::wrapping_add(bytes, size))
        })
    }

    /// The same without times, for a file system whose clock the test does not set.
    pub fn timeless(&self) -> Model {
        let nodes = self.nodes.iter().map(|(&id, node)| {
            let mut node = (**node).clone();
            (node.mtime, node.ctime, node.atime) = (Time::default(), Time::default(), Time::default());
            (id, Arc::new(node))
        });
        Model { nodes: nodes.collect(), open: self.open.clone() }
    }

    /// Pages of all files.
    pub fn pages(&self) -> usize {
        let files = self.nodes.values();
        files.map(|node| if let Kind::Regular(bytes) = &node.kind { bytes.pages() } else { 0 }).sum()
    }

    /// Describes the first difference; `self` is the expected state.
    pub fn difference(&self, found: &Model) -> Option<String> {
        let ids = self.nodes.keys().chain(found.nodes.keys()).copied();
        let id = ids.filter(|id| self.nodes.get(id) != found.nodes.get(id)).min()?;
        let what = match (self.nodes.get(&id), found.nodes.get(&id)) {
            (Some(_), None) => "is missing".to_owned(),
            (None, Some(node)) => format!("is there and should not be: {}", summary(node)),
            (Some(expected), Some(node)) => node_difference(expected, node),
            (None, None) => String::new(),
        };
        Some(format!("inode {id} {what}"))
    }
}

/// One line without the bytes.
pub fn summary(node: &Node) -> String {
    let kind = match &node.kind {
        Kind::Regular(bytes) => format!("file of {} bytes", bytes.size()),
        Kind::Directory { names, parent } => {
            let names: Vec<_> = names.iter().map(|(name, id)| (short(name), *id)).collect();
            format!("directory in {parent} with {names:?}")
        }
        Kind::Symlink(target) => format!("symlink to {}", short(target)),
        other => format!("{other:?}"),
    };
    let xattrs: Vec<_> = node.xattrs.iter().map(|(name, value)| (short(name), value.len())).collect();
    let Node { permissions, uid, gid, links, mtime, ctime, atime, .. } = node;
    format!(
        "{kind}, mode {permissions:o}, owner {uid}:{gid}, {links} links, m {mtime:?} c {ctime:?} a {atime:?}, xattrs {xattrs:?}"
    )
}

fn short(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(&name[..name.len().min(12)]).into_owned();
    if name.len() > 12 { format!("{text}…{}", name.len()) } else { text }
}

fn node_difference(expected: &Node, found: &Node) -> String {
    if let (Kind::Regular(ours), Kind::Regular(theirs)) = (&expected.kind, &found.kind)
        && let Some(difference) = ours.difference(theirs)
    {
        return format!("expected and found: {difference}");
    }
    format!("\n  expected {}\n  found    {}", summary(expected), summary(found))
}
