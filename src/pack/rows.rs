//! The rows of the tree: inodes, directories, contents, tiny contents and xattr sets, in the order of the walk.

use super::files::Meta;
use super::plan::Plan;
use super::shares::{ShareRows, UserCounts};
use super::spool::{Rows, Spool};
use super::stamps::Stamps;
use super::{PackError, PackSummary};
use crate::format::bytes::put_varint;
use crate::format::ids::{ContentId, InodeId, SubchunkId, TinyId, XattrSetId};
use crate::format::limits;
use crate::format::params::HashKind;
use crate::format::rows::inode::{TAG_ALLOCATED, TAG_WRITER, UNEVEN, XattrRef};
use crate::format::rows::{ContentRef, ContentRow, Extent, FileType, Identity, InodeRow, ShareKey, Time, XattrSet};
use crate::table::TableError;
use std::collections::HashMap;

/// Index of the column of the link count, which is known only at the end.
const LINKS: usize = 3;

/// A directory that is being walked.
struct OpenDir {
    inode: InodeId,
    entries: Vec<(Box<[u8]>, InodeId, FileType)>,
    subdirectories: u64,
}

/// The properties of an inode that are not in its [`Meta`].
pub(super) struct Node<'a> {
    pub(super) file_type: FileType,
    pub(super) content: ContentRef,
    pub(super) size: u64,
    /// Target of a symlink; else empty.
    pub(super) target: &'a [u8],
    /// Bytes outside holes, if the file has holes.
    pub(super) allocated: Option<u64>,
    /// Whether the content was not cut from its start (a short subchunk is followed by data).
    pub(super) uneven: bool,
}

impl Node<'_> {
    /// Makes the properties of an inode without content.
    pub(super) fn bare(file_type: FileType, size: u64) -> Self {
        Node { file_type, content: ContentRef::None, size, target: &[], allocated: None, uneven: false }
    }
}

/// Collects the rows of all tables that describe the tree.
pub(super) struct TreeRows {
    inodes: Spool,
    dirents: Spool,
    contents: Spool,
    tiny: Spool,
    xattrs: Spool,
    users: UserCounts,
    /// Inode number of each directory, and the range of its entries among the collected rows. Directories are not left
    /// in the order of their numbers.
    directories: Vec<(u64, u64, u64)>,
    open: Vec<OpenDir>,
    /// Link counts by inode, if they are not 1 (2 for directories).
    links: HashMap<u64, u64>,
    linked: HashMap<(u64, u64), (InodeId, FileType)>,
    tiny_index: HashMap<Identity, TinyId>,
    content_index: HashMap<ContentHash, ContentId>,
    xattr_index: HashMap<Identity, XattrSetId>,
    pub(super) next_inode: u64,
    pub(super) next_content: u64,
    pub(super) next_tiny: u64,
    pub(super) next_xattrs: u64,
    /// Whether something is packed that not everybody may read.
    pub(super) private: bool,
    /// The newest modification time of all entries.
    pub(super) newest: Time,
    /// The stamps of the inodes, if they are kept.
    pub(super) stamps: Option<Stamps>,
}

impl TreeRows {
    pub(super) fn new(plan: &Plan) -> Self {
        let spool = || Spool::new(plan.spill_after / 6, &plan.temp_dir);
        TreeRows {
            inodes: spool(),
            dirents: spool(),
            contents: spool(),
            tiny: spool(),
            xattrs: spool(),
            users: UserCounts::new(plan.spill_after / 6, &plan.temp_dir),
            directories: Vec::new(),
            open: Vec::new(),
            links: HashMap::new(),
            linked: HashMap::new(),
            tiny_index: HashMap::new(),
            content_index: HashMap::new(),
            xattr_index: HashMap::new(),
            next_inode: InodeId::ROOT.0,
            next_content: 1,
            next_tiny: 1,
            next_xattrs: 1,
            private: false,
            newest: Time { secs: i64::MIN, nanos: 0 },
            stamps: plan.stamps.then(|| Stamps::new(&plan.temp_dir)),
        }
    }

    /// Enters a directory and adds its inode. The first directory entered is the root.
    pub(super) fn enter(&mut self, name: &[u8], meta: &Meta) -> Result<(), PackError> {
        let parent = self.open.last().map_or(InodeId::ROOT, |dir| dir.inode);
        let inode = self.inode(meta, &Node::bare(FileType::Directory, meta.size), Some(parent))?;
        if let Some(dir) = self.open.last_mut() {
            dir.entries.push((name.into(), inode, FileType::Directory));
            dir.subdirectories += 1;
        }
        self.private |= meta.mode & 0o005 != 0o005;
        self.open.push(OpenDir { inode, entries: Vec::new(), subdirectories: 0 });
        Ok(())
    }

    /// Leaves the directory that was entered last, after all its entries were added.
    pub(super) fn leave(&mut self) -> Result<(), PackError> {
        let Some(dir) = self.open.pop() else { return Ok(()) };
        if dir.subdirectories > 0 {
            self.links.insert(dir.inode.0, 2 + dir.subdirectories);
        }
        if dir.entries.is_empty() {
            return Ok(());
        }
        let from = self.dirents.end();
        for (name, inode, file_type) in &dir.entries {
            self.dirents.push(dir.inode.0, 0, name, &[inode.0, file_type.number()], &[])?;
        }
        self.directories.push((dir.inode.0, from, self.dirents.end()));
        Ok(())
    }

    /// Adds a file of any type but a directory.
    pub(super) fn leaf(&mut self, name: &[u8], meta: &Meta, node: &Node<'_>) -> Result<(), PackError> {
        let inode = self.inode(meta, node, None)?;
        self.private |= node.file_type == FileType::Regular && meta.mode & 0o004 == 0;
        self.name(name, inode, node.file_type);
        if let Some(key) = meta.link_key {
            self.linked.insert(key, (inode, node.file_type));
        }
        Ok(())
    }

    /// Adds another name of an inode. Returns false if the inode was left out.
    pub(super) fn link(&mut self, name: &[u8], key: (u64, u64)) -> bool {
        let Some(&(inode, file_type)) = self.linked.get(&key) else {
            return false;
        };
        *self.links.entry(inode.0).or_insert(1) += 1;
        self.name(name, inode, file_type);
        true
    }

    fn name(&mut self, name: &[u8], inode: InodeId, file_type: FileType) {
        if let Some(dir) = self.open.last_mut() {
            dir.entries.push((name.into(), inode, file_type));
        }
    }

    fn inode(&mut self, meta: &Meta, node: &Node<'_>, parent: Option<InodeId>) -> Result<InodeId, PackError> {
        let attribute = |tag, number| {
            let mut value = Vec::new();
            put_varint(&mut value, number);
            (tag, value)
        };
        let uneven = node.uneven.then(|| attribute(TAG_WRITER, UNEVEN));
        let allocated = node.allocated.map(|bytes| attribute(TAG_ALLOCATED, bytes));
        let xattrs = self.xattr_set(&meta.xattrs)?;
        let row = InodeRow {
            file_type: node.file_type,
            permissions: (meta.mode & 0o7777) as u16,
            uid: meta.uid,
            gid: meta.gid,
            links: if node.file_type == FileType::Directory { 2 } else { 1 },
            size: node.size,
            mtime: meta.mtime,
            ctime: meta.mtime,
            atime: meta.mtime,
            content: node.content,
            xattrs,
            parent,
            target: node.target.to_vec(),
            attributes: uneven.into_iter().chain(allocated).collect(),
        };
        let inode = InodeId(self.next_inode);
        self.next_inode += 1;
        self.newest = self.newest.max(meta.mtime);
        if let Some(stamps) = &mut self.stamps {
            stamps.push(meta.stamp)?;
        }
        ShareKey::used_by(&row).try_for_each(|key| self.users.add(key))?;
        let (ints, tail) = row.encode();
        self.inodes.push(inode.0, 0, &[], &ints, &tail)?;
        Ok(inode)
    }

    fn xattr_set(&mut self, set: &XattrSet) -> Result<XattrRef, PackError> {
        if set.0.is_empty() {
            return Ok(XattrRef::None);
        }
        self.private |= set.0.iter().any(|xattr| xattr.name.starts_with(b"trusted."));
        let bytes = set.encode();
        if bytes.len() <= limits::XATTR_INLINE {
            return Ok(XattrRef::Inline(bytes));
        }
        let identity = Identity::of(HashKind::Blake3, &bytes);
        if let Some(id) = self.xattr_index.get(&identity) {
            return Ok(XattrRef::Set(*id));
        }
        let id = XattrSetId(self.next_xattrs);
        self.next_xattrs += 1;
        for (n, piece) in bytes.chunks(limits::XATTR_PIECE).enumerate() {
            self.xattrs.push(id.0, n as u64, &[], &[], piece)?;
        }
        self.xattr_index.insert(identity, id);
        Ok(XattrRef::Set(id))
    }

    /// Adds a content of less than 512 bytes, and returns its id and whether it is new. Equal contents are recognized
    /// by BLAKE3, whatever the image's hash is, because BLAKE3 proves equality.
    pub(super) fn tiny(&mut self, bytes: &[u8]) -> Result<(TinyId, bool), PackError> {
        let identity = Identity::of(HashKind::Blake3, bytes);
        if let Some(id) = self.tiny_index.get(&identity) {
            return Ok((*id, true));
        }
        let id = TinyId(self.next_tiny);
        self.next_tiny += 1;
        self.tiny.push(id.0, 0, &[], &[], bytes)?;
        self.tiny_index.insert(identity, id);
        Ok((id, false))
    }

    /// Adds a content of several extents, and returns its id. Equal contents (by the hash of their extent lists) are
    /// stored once.
    pub(super) fn content(&mut self, hash: ContentHash, rows: &[ContentRow]) -> Result<ContentId, PackError> {
        if let Some(id) = self.content_index.get(&hash) {
            return Ok(*id);
        }
        let id = ContentId(self.next_content);
        self.next_content += 1;
        let mut offset = 0;
        for row in rows {
            let (ints, tail) = row.encode();
            self.contents.push(id.0, offset, &[], &ints, &tail)?;
            offset += row.length;
        }
        self.content_index.insert(hash, id);
        Ok(id)
    }

    /// Iterates over the rows of the inodes table.
    pub(super) fn inode_rows(&self) -> impl Iterator<Item = Result<crate::format::block::Row, TableError>> {
        self.inodes.all().map(|row| {
            let mut row = row?;
            if let Some(&links) = self.links.get(&row.key.a)
                && let Some(slot) = row.ints.get_mut(LINKS)
            {
                *slot = links;
            }
            Ok(row)
        })
    }

    /// Iterates over the rows of the dirents table.
    pub(super) fn dirent_rows(&mut self) -> impl Iterator<Item = Result<crate::format::block::Row, TableError>> {
        self.directories.sort_unstable();
        let dirents = &self.dirents;
        self.directories.iter().flat_map(move |&(_, from, to)| dirents.rows(from, to))
    }

    /// Iterates over the rows of the contents table.
    pub(super) fn content_rows(&self) -> Rows<'_> {
        self.contents.all()
    }

    /// Iterates over the rows of the tiny table.
    pub(super) fn tiny_rows(&self) -> Rows<'_> {
        self.tiny.all()
    }

    /// Iterates over the rows of the xattrs table.
    pub(super) fn xattr_rows(&self) -> Rows<'_> {
        self.xattrs.all()
    }

    /// Iterates over the rows of the shares table. No users may be added after this.
    pub(super) fn share_rows(&mut self) -> Result<ShareRows<'_>, PackError> {
        self.users.rows()
    }

    /// Counts an inode in the summary.
    pub(super) fn count(summary: &mut PackSummary, file_type: FileType) {
        *match file_type {
            FileType::Regular => &mut summary.files,
            FileType::Directory => &mut summary.directories,
            FileType::Symlink => &mut summary.symlinks,
            _ => &mut summary.specials,
        } += 1;
    }
}

/// A BLAKE3 hash of a content's extent list, as wide as an identity: equal hashes are taken for equal lists.
pub(super) type ContentHash = [u8; 24];

/// Builds the rows of a content, extent by extent.
#[derive(Default)]
pub(super) struct ContentBuilder {
    pub(super) rows: Vec<ContentRow>,
    hasher: blake3::Hasher,
    pub(super) size: u64,
    pub(super) allocated: u64,
}

impl ContentBuilder {
    pub(super) fn hole(&mut self, len: u64) {
        self.hasher.update(&[0]).update(&len.to_le_bytes());
        self.size += len;
        self.rows.push(ContentRow { length: len, extent: Extent::Hole });
    }

    /// Appends a subchunk. The hash covers its id, because different subchunks may share an identity (XXH3-128).
    pub(super) fn subchunk(&mut self, id: SubchunkId, len: u32) {
        self.hasher.update(&[1]).update(&len.to_le_bytes()).update(&id.0.to_le_bytes());
        self.size += u64::from(len);
        self.allocated += u64::from(len);
        if let Some(row) = self.rows.last_mut() {
            match &mut row.extent {
                Extent::Slice { subchunk, skip: 0 } if subchunk.0 + 1 == id.0 => {
                    row.extent = Extent::Run { first: *subchunk, lens: vec![row.length as u32, len] };
                    row.length += u64::from(len);
                    return;
                }
                Extent::Run { first, lens }
                    if first.0 + lens.len() as u64 == id.0 && (lens.len() as u64) < limits::RUN =>
                {
                    lens.push(len);
                    row.length += u64::from(len);
                    return;
                }
                _ => {}
            }
        }
        self.rows.push(ContentRow { length: len.into(), extent: Extent::Slice { subchunk: id, skip: 0 } });
    }

    /// Returns the hash of the extent list.
    pub(super) fn hash(&self) -> ContentHash {
        let mut out = [0; 24];
        self.hasher.finalize_xof().fill(&mut out);
        out
    }
}
