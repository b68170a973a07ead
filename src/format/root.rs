//! The root: one frame that names the newest block of every table (section 9).

use super::layout::on_disk;
use super::params::{Params, RawParams};
use super::place::{Place, RawPlace};
use super::schema;
use super::tree_ref::{RawTreeRef, TreeRef};
use super::{FormatError, limits};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U32, U64};

on_disk! {
    /// The part that is hashed.
    pub struct RootLogical {
        /// Parameters.
        params: RawParams,
        /// Seconds.
        time: I64,
        /// Nanoseconds.
        time_ns: U32,
        /// Zero.
        reserved: U32,
        /// Next free inode.
        next_inode: U64,
        /// Next free content id.
        next_content: U64,
        /// Next free tiny id.
        next_tiny: U64,
        /// Next free xattr set id.
        next_xattrs: U64,
        /// Next free snapshot ordinal.
        next_ordinal: U64,
        /// Inodes of the head.
        inodes: U64,
        /// Sum of the sizes of its regular files.
        bytes: U64,
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
        /// Table 6.
        orphans_tree: RawTreeRef,
        /// Table 7.
        identities_tree: RawTreeRef,
        /// Table 9.
        snapshots_tree: RawTreeRef,
    }
}

on_disk! {
    /// The part that is not hashed: where things lie, and counts.
    pub struct RootPhysical {
        /// Root block of the map.
        map: RawPlace,
        /// Levels of the map.
        map_levels: u8,
        /// Zero.
        reserved: [u8; 7],
        /// Rows of the map.
        map_rows: U64,
        /// Next free subchunk id.
        next_subchunk: U64,
        /// Next free superchunk id.
        next_superchunk: U64,
        /// Thaw log whose transactions this root contains.
        thaw_log_id: U64,
        /// Up to which.
        thaw_transaction: U64,
        /// Where the interior blocks begin.
        interior_offset: U64,
        /// Bytes of all subchunks of file data ever stored.
        unique_bytes: U64,
        /// Bytes that deduplication saved.
        shared_bytes: U64,
        /// Subchunks of file data.
        subchunks: U64,
    }
}

/// The trees of one version of the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trees {
    /// Table 1.
    pub inodes: TreeRef,
    /// Table 2.
    pub dirents: TreeRef,
    /// Table 3.
    pub contents: TreeRef,
    /// Table 4.
    pub xattrs: TreeRef,
    /// Table 5.
    pub tiny: TreeRef,
    /// Table 6.
    pub orphans: TreeRef,
    /// Table 7.
    pub identities: TreeRef,
    /// Table 9.
    pub snapshots: TreeRef,
}

/// The map's root block and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MapRef {
    /// Root block and levels; `None` if the map is empty.
    pub root: Option<(Place, u8)>,
    /// Rows in all leaves.
    pub rows: u64,
}

/// A root that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Parameters.
    pub params: Params,
    /// Seconds.
    pub time: i64,
    /// Nanoseconds.
    pub time_ns: u32,
    /// Next free inode.
    pub next_inode: u64,
    /// Next free content id.
    pub next_content: u64,
    /// Next free tiny id.
    pub next_tiny: u64,
    /// Next free xattr set id.
    pub next_xattrs: u64,
    /// Next free snapshot ordinal.
    pub next_ordinal: u64,
    /// Inodes of the head.
    pub inodes: u64,
    /// Sum of the sizes of its regular files, bytes.
    pub bytes: u64,
    /// The trees.
    pub trees: Trees,
    /// The map.
    pub map: MapRef,
    /// Next free subchunk id.
    pub next_subchunk: u64,
    /// Next free superchunk id.
    pub next_superchunk: u64,
    /// Thaw log whose transactions this root contains, 0 none.
    pub thaw_log_id: u64,
    /// Up to which.
    pub thaw_transaction: u64,
    /// Where the interior blocks and the map begin.
    pub interior_offset: u64,
    /// Bytes of all subchunks of file data ever stored.
    pub unique_bytes: u64,
    /// Bytes that deduplication saved.
    pub shared_bytes: u64,
    /// Subchunks of file data.
    pub subchunks: u64,
}

impl Root {
    /// The stored bytes of the root's frame, and the root hash.
    pub fn encode(&self) -> (Vec<u8>, [u8; 32]) {
        let t = &self.trees;
        let logical = RootLogical {
            params: (&self.params).into(),
            time: self.time.into(),
            time_ns: self.time_ns.into(),
            reserved: 0.into(),
            next_inode: self.next_inode.into(),
            next_content: self.next_content.into(),
            next_tiny: self.next_tiny.into(),
            next_xattrs: self.next_xattrs.into(),
            next_ordinal: self.next_ordinal.into(),
            inodes: self.inodes.into(),
            bytes: self.bytes.into(),
            inodes_tree: t.inodes.encode(schema::INODES.id()),
            dirents_tree: t.dirents.encode(schema::DIRENTS.id()),
            contents_tree: t.contents.encode(schema::CONTENTS.id()),
            xattrs_tree: t.xattrs.encode(schema::XATTRS.id()),
            tiny_tree: t.tiny.encode(schema::TINY.id()),
            orphans_tree: t.orphans.encode(schema::ORPHANS.id()),
            identities_tree: t.identities.encode(schema::IDENTITIES.id()),
            snapshots_tree: t.snapshots.encode(schema::SNAPSHOTS.id()),
        };
        let physical = RootPhysical {
            map: self.map.root.map(|r| r.0).into(),
            map_levels: self.map.root.map_or(0, |r| r.1),
            reserved: [0; 7],
            map_rows: self.map.rows.into(),
            next_subchunk: self.next_subchunk.into(),
            next_superchunk: self.next_superchunk.into(),
            thaw_log_id: self.thaw_log_id.into(),
            thaw_transaction: self.thaw_transaction.into(),
            interior_offset: self.interior_offset.into(),
            unique_bytes: self.unique_bytes.into(),
            shared_bytes: self.shared_bytes.into(),
            subchunks: self.subchunks.into(),
        };
        let hash = *blake3::hash(logical.as_bytes()).as_bytes();
        let mut out = Vec::with_capacity(8 + RootLogical::SIZE + RootPhysical::SIZE);
        out.extend_from_slice(&(RootLogical::SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(RootPhysical::SIZE as u32).to_le_bytes());
        out.extend_from_slice(logical.as_bytes());
        out.extend_from_slice(physical.as_bytes());
        (out, hash)
    }

    /// The root in these stored bytes, whose logical part must hash to `root_hash`.
    ///
    /// # Errors
    /// `Hash` if it is another root; else what is wrong with it.
    pub fn decode(stored: &[u8], root_hash: &[u8; 32]) -> Result<Self, FormatError> {
        let mut cursor = super::bytes::Cursor::new(stored, "root");
        let (logical_len, physical_len) = (cursor.u32()? as usize, cursor.u32()? as usize);
        let (logical, physical) = (cursor.take(logical_len)?, cursor.take(physical_len)?);
        cursor.end()?;
        if blake3::hash(logical).as_bytes() != root_hash {
            return Err(FormatError::Hash { what: "root" });
        }
        let logical = RootLogical::read(logical, "logical part of the root")?;
        let physical = RootPhysical::read(physical, "physical part of the root")?;
        let next = |what, value: U64, limit| match value.get() {
            value if (1..=limit).contains(&value) => Ok(value),
            value => Err(FormatError::Limit { what, value, limit }),
        };
        let levels = physical.map_levels;
        if levels > limits::TREE_LEVELS {
            return Err(FormatError::Limit {
                what: "levels of the map",
                value: levels.into(),
                limit: limits::TREE_LEVELS.into(),
            });
        }
        let map = match (physical.map.validate()?, levels) {
            (None, 0) => None,
            (Some(place), 1..) => Some((place, levels)),
            _ => return Err(FormatError::invalid("root", "place and levels of the map disagree")),
        };
        Ok(Root {
            params: logical.params.validate()?,
            time: logical.time.get(),
            time_ns: logical.time_ns.get(),
            next_inode: next("next inode", logical.next_inode, limits::INODE)?,
            next_content: next("next content id", logical.next_content, limits::ID)?,
            next_tiny: next("next tiny id", logical.next_tiny, limits::ID)?,
            next_xattrs: next("next xattr set id", logical.next_xattrs, limits::ID)?,
            next_ordinal: next("next snapshot ordinal", logical.next_ordinal, 1 << 15)?,
            inodes: logical.inodes.get(),
            bytes: logical.bytes.get(),
            trees: Trees {
                inodes: logical.inodes_tree.validate(schema::INODES.id())?,
                dirents: logical.dirents_tree.validate(schema::DIRENTS.id())?,
                contents: logical.contents_tree.validate(schema::CONTENTS.id())?,
                xattrs: logical.xattrs_tree.validate(schema::XATTRS.id())?,
                tiny: logical.tiny_tree.validate(schema::TINY.id())?,
                orphans: logical.orphans_tree.validate(schema::ORPHANS.id())?,
                identities: logical.identities_tree.validate(schema::IDENTITIES.id())?,
                snapshots: logical.snapshots_tree.validate(schema::SNAPSHOTS.id())?,
            },
            map: MapRef { root: map, rows: physical.map_rows.get() },
            next_subchunk: next("next subchunk id", physical.next_subchunk, limits::ID)?,
            next_superchunk: next("next superchunk id", physical.next_superchunk, limits::ID)?,
            thaw_log_id: physical.thaw_log_id.get(),
            thaw_transaction: physical.thaw_transaction.get(),
            interior_offset: physical.interior_offset.get(),
            unique_bytes: physical.unique_bytes.get(),
            shared_bytes: physical.shared_bytes.get(),
            subchunks: physical.subchunks.get(),
        })
    }
}
