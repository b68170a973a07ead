//! The view: everything a reader of one version of the filesystem can see (section 9). Roots and snapshots hold one.

use super::FormatError;
use super::layout::on_disk;
use super::schema;
use super::tree_ref::{RawTreeRef, TreeRef};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

on_disk! {
    /// A [`View`] as roots and snapshots hold it.
    pub struct RawView {
        /// Table 1.
        inodes_tree: RawTreeRef,
        /// Table 2.
        dirents_tree: RawTreeRef,
        /// Table 3.
        contents_tree: RawTreeRef,
        /// Table 4.
        xattrs_tree: RawTreeRef,
        /// Table 5.
        tiny_tree: RawTreeRef,
        /// Table 7.
        identities_tree: RawTreeRef,
        /// Inodes.
        inodes: U64,
        /// Sum of the sizes of the regular files.
        bytes: U64,
    }
}

/// The trees of one version of the filesystem, and totals. An empty tree is an empty [`TreeRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// Table 1.
    pub inodes_tree: TreeRef,
    /// Table 2.
    pub dirents_tree: TreeRef,
    /// Table 3.
    pub contents_tree: TreeRef,
    /// Table 4.
    pub xattrs_tree: TreeRef,
    /// Table 5.
    pub tiny_tree: TreeRef,
    /// Table 7: its hash covers the bytes of all files.
    pub identities_tree: TreeRef,
    /// How many inodes it has.
    pub inodes: u64,
    /// Sum of the sizes of its regular files, each inode once, bytes.
    pub bytes: u64,
}

impl View {
    /// The view's bytes.
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

    /// The view hash: BLAKE3-32 of its bytes. A signature of a snapshot signs this hash.
    pub fn hash(&self) -> [u8; 32] {
        self.encode().hash()
    }
}

impl RawView {
    /// BLAKE3-32 of the bytes.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.as_bytes()).as_bytes()
    }

    /// The view, if each tree reference names the right table.
    ///
    /// # Errors
    /// What is wrong with the first tree reference that does not.
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
