//! The view: everything a reader of one version of the filesystem can see (section 9). Roots and snapshots hold one.

use super::FormatError;
use super::layout::on_disk;
use super::schema;
use super::tree_ref::{RawTreeRef, TreeRef};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

on_disk! {
    /// A [`View`] as roots and snapshots hold it, not verified yet.
    pub struct RawView {
        /// Tree of table 1, the inodes.
        inodes_tree: RawTreeRef,
        /// Tree of table 2, the directory entries.
        dirents_tree: RawTreeRef,
        /// Tree of table 3, the contents.
        contents_tree: RawTreeRef,
        /// Tree of table 4, the xattrs.
        xattrs_tree: RawTreeRef,
        /// Tree of table 5, the tiny contents.
        tiny_tree: RawTreeRef,
        /// Tree of table 7, the identities.
        identities_tree: RawTreeRef,
        /// Number of inodes.
        inodes: U64,
        /// Sum of the sizes of the regular files in bytes, each inode counted once.
        bytes: U64,
    }
}

/// The trees of one version of the filesystem, and totals. An empty tree is an empty [`TreeRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// Tree of table 1, the inodes.
    pub inodes_tree: TreeRef,
    /// Tree of table 2, the directory entries.
    pub dirents_tree: TreeRef,
    /// Tree of table 3, the contents.
    pub contents_tree: TreeRef,
    /// Tree of table 4, the xattrs.
    pub xattrs_tree: TreeRef,
    /// Tree of table 5, the tiny contents.
    pub tiny_tree: TreeRef,
    /// Tree of table 7, the identities. Its hash covers the bytes of all files.
    pub identities_tree: TreeRef,
    /// Number of inodes.
    pub inodes: u64,
    /// Sum of the sizes of the regular files in bytes, each inode counted once.
    pub bytes: u64,
}

impl View {
    /// Encodes the view.
    pub fn encode(&self) -> RawView {
        RawView {
            inodes_tree: self.inodes_tree.encode(schema::INODES.id()),
            dirents_tree: self.dirents_tree.encode(schema::DIRENTS.id()),
            contents_tree: self.contents_tree.encode(schema::CONTENTS.id()),
            xattrs_tree: self.xattrs_tree.encode(schema::XATTRS.id()),
            tiny_tree: self.tiny_tree.encode(schema::TINY.id()),
            identities_tree: self.identities_tree.encode(schema::IDENTITIES.id()),
            inodes: self.inodes.into(),
            bytes: self.bytes.into(),
        }
    }

    /// Returns the view hash: BLAKE3-32 of the encoded view. A signature of a snapshot signs this hash.
    pub fn hash(&self) -> [u8; 32] {
        self.encode().hash()
    }
}

impl RawView {
    /// Returns the view hash: BLAKE3-32 of the encoded view.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.as_bytes()).as_bytes()
    }

    /// Returns the view, if each tree reference names the right table.
    ///
    /// # Errors
    /// Fails if a tree reference is not valid or is that of another table; says what is wrong with the first such one.
    pub fn validate(&self) -> Result<View, FormatError> {
        Ok(View {
            inodes_tree: self.inodes_tree.validate(schema::INODES.id())?,
            dirents_tree: self.dirents_tree.validate(schema::DIRENTS.id())?,
            contents_tree: self.contents_tree.validate(schema::CONTENTS.id())?,
            xattrs_tree: self.xattrs_tree.validate(schema::XATTRS.id())?,
            tiny_tree: self.tiny_tree.validate(schema::TINY.id())?,
            identities_tree: self.identities_tree.validate(schema::IDENTITIES.id())?,
            inodes: self.inodes.get(),
            bytes: self.bytes.get(),
        })
    }
}
