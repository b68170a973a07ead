//! The root: one frame that names the newest block of every table (section 9).

use super::layout::on_disk;
use super::params::{Params, RawParams};
use super::place::{Place, RawPlace};
use super::schema;
use super::tree_ref::{RawTreeRef, TreeRef};
use super::view::{RawView, View};
use super::{FormatError, limits};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U32, U64};

on_disk! {
    /// The logical part of a root on disk: the part that the root hash covers.
    pub struct RootLogical {
        /// The trees that readers see.
        view: RawView,
        /// Parameters that the image was made with.
        params: RawParams,
        /// Time of the root, seconds since 1970.
        time: I64,
        /// Nanoseconds after the second `time`.
        time_ns: U32,
        /// Reserved, zero.
        reserved: U32,
        /// Next free inode number.
        next_inode: U64,
        /// Next free content id.
        next_content: U64,
        /// Next free tiny id.
        next_tiny: U64,
        /// Next free xattr set id.
        next_xattrs: U64,
        /// Next free ordinal of a snapshot.
        next_ordinal: U64,
        /// Tree of table 6, the orphans.
        orphans_tree: RawTreeRef,
        /// Tree of table 10, the thawed ranges.
        thawed_tree: RawTreeRef,
        /// Tree of table 11, the shares.
        shares_tree: RawTreeRef,
        /// Tree of table 9, the snapshots.
        snapshots_tree: RawTreeRef,
    }
}

on_disk! {
    /// The physical part of a root on disk: places and counts, which the root hash does not cover.
    pub struct RootPhysical {
        /// Place of the root block of the map.
        map: RawPlace,
        /// Number of levels of the map.
        map_levels: u8,
        /// Reserved bytes, zero.
        reserved: [u8; 7],
        /// Number of rows of the map.
        map_rows: U64,
        /// Next free subchunk id.
        next_subchunk: U64,
        /// Next free superchunk id.
        next_superchunk: U64,
        /// Id of the thaw log whose transactions this root contains, 0 for none.
        thaw_log_id: U64,
        /// Number of the last transaction that this root contains.
        thaw_transaction: U64,
        /// Offset in bytes in the thaw log of the first transaction that this root does not contain.
        thaw_offset: U64,
        /// Offset in bytes where the interior blocks and the map begin.
        interior_offset: U64,
        /// Bytes of all subchunks of file data ever stored.
        unique_bytes: U64,
        /// Bytes of file data that deduplication saved.
        shared_bytes: U64,
        /// Number of subchunks of file data.
        subchunks: U64,
        /// Time when the image was packed, seconds since 1970.
        packed_time: I64,
        /// Nanoseconds after the second `packed_time`.
        packed_time_ns: U32,
        /// Reserved, zero.
        reserved1: U32,
    }
}

/// The root block of the map, and the map's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MapRef {
    /// Place of the root block and number of levels; `None` if the map is empty.
    pub root: Option<(Place, u8)>,
    /// Number of rows in all leaves.
    pub rows: u64,
}

/// A verified root: the description of one version of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The trees that readers see.
    pub view: View,
    /// Parameters that the image was made with.
    pub params: Params,
    /// Time of the root, seconds since 1970.
    pub time: i64,
    /// Nanoseconds after the second `time`.
    pub time_ns: u32,
    /// Next free inode number.
    pub next_inode: u64,
    /// Next free content id.
    pub next_content: u64,
    /// Next free tiny id.
    pub next_tiny: u64,
    /// Next free xattr set id.
    pub next_xattrs: u64,
    /// Next free ordinal of a snapshot.
    pub next_ordinal: u64,
    /// Tree of table 6, the orphans.
    pub orphans_tree: TreeRef,
    /// Tree of table 10, the thawed ranges.
    pub thawed_tree: TreeRef,
    /// Tree of table 11, the shares.
    pub shares_tree: TreeRef,
    /// Tree of table 9, the snapshots.
    pub snapshots_tree: TreeRef,
    /// Root block of the map, which says where superchunks and subchunks are.
    pub map: MapRef,
    /// Next free subchunk id.
    pub next_subchunk: u64,
    /// Next free superchunk id.
    pub next_superchunk: u64,
    /// Id of the thaw log whose transactions this root contains, 0 for none.
    pub thaw_log_id: u64,
    /// Number of the last transaction that this root contains.
    pub thaw_transaction: u64,
    /// Offset in bytes in the thaw log of the first transaction that this root does not contain; 0 without a thaw log.
    pub thaw_offset: u64,
    /// Offset in bytes where the interior blocks and the map begin.
    pub interior_offset: u64,
    /// Bytes of all subchunks of file data ever stored.
    pub unique_bytes: u64,
    /// Bytes of file data that deduplication saved.
    pub shared_bytes: u64,
    /// Number of subchunks of file data.
    pub subchunks: u64,
    /// Time when the image was packed, seconds since 1970.
    pub packed_time: i64,
    /// Nanoseconds after the second `packed_time`.
    pub packed_time_ns: u32,
}

impl Root {
    /// Returns the stored bytes of the root's frame, and the root hash.
    pub fn encode(&self) -> (Vec<u8>, [u8; 32]) {
        let logical = RootLogical {
            view: self.view.encode(),
            params: (&self.params).into(),
            time: self.time.into(),
            time_ns: self.time_ns.into(),
            reserved: 0.into(),
            next_inode: self.next_inode.into(),
            next_content: self.next_content.into(),
            next_tiny: self.next_tiny.into(),
            next_xattrs: self.next_xattrs.into(),
            next_ordinal: self.next_ordinal.into(),
            orphans_tree: self.orphans_tree.encode(schema::ORPHANS.id()),
            thawed_tree: self.thawed_tree.encode(schema::THAWED.id()),
            shares_tree: self.shares_tree.encode(schema::SHARES.id()),
            snapshots_tree: self.snapshots_tree.encode(schema::SNAPSHOTS.id()),
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
            thaw_offset: self.thaw_offset.into(),
            interior_offset: self.interior_offset.into(),
            unique_bytes: self.unique_bytes.into(),
            shared_bytes: self.shared_bytes.into(),
            subchunks: self.subchunks.into(),
            packed_time: self.packed_time.into(),
            packed_time_ns: self.packed_time_ns.into(),
            reserved1: 0.into(),
        };
        let hash = root_hash(logical.as_bytes());
        let mut out = Vec::with_capacity(8 + RootLogical::SIZE + RootPhysical::SIZE);
        out.extend_from_slice(&(RootLogical::SIZE as u32).to_le_bytes());
        out.extend_from_slice(&(RootPhysical::SIZE as u32).to_le_bytes());
        out.extend_from_slice(logical.as_bytes());
        out.extend_from_slice(physical.as_bytes());
        (out, hash)
    }

    /// Decodes the stored bytes of a root, whose root hash must be `root_hash`.
    ///
    /// # Errors
    /// Returns `Hash` if the hash does not match; else what is wrong with the root.
    pub fn decode(stored: &[u8], root_hash: &[u8; 32]) -> Result<Self, FormatError> {
        let mut cursor = super::bytes::Cursor::new(stored, "root");
        let (logical_len, physical_len) = (cursor.u32()? as usize, cursor.u32()? as usize);
        let (logical, physical) = (cursor.take(logical_len)?, cursor.take(physical_len)?);
        cursor.end()?;
        //= format-spec.md#9
        //# A reader refuses a root whose hash is not the head's `root_hash`, in which a counter is 0 or above the limit of its ids
        //# (14), or in which the levels and the Place of the map contradict one another.
        if self::root_hash(logical) != *root_hash {
            return Err(FormatError::Hash { what: "root" });
        }
        let logical = RootLogical::read(logical, "logical part of the root")?;
        let physical = RootPhysical::read(physical, "physical part of the root")?;
        let next = |what, value: U64, limit| match value.get() {
            value if (1..=limit).contains(&value) => Ok(value),
            value => Err(FormatError::Limit { what, value, limit }),
        };
        let nanos = |what, value: U32| match value.get() {
            value if value <= limits::NANOS => Ok(value),
            value => Err(FormatError::Limit { what, value: value.into(), limit: limits::NANOS.into() }),
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
            //= format-spec.md#3.1
            //# A reader refuses the Place of a root or a map block with the dictionary flag.
            (Some(place), 1..) if place.flags.dictionary() => {
                return Err(FormatError::invalid("root", "the map's root block needs the dictionary"));
            }
            (Some(place), 1..) => Some((place, levels)),
            _ => return Err(FormatError::invalid("root", "place and levels of the map disagree")),
        };
        Ok(Root {
            view: logical.view.validate()?,
            params: logical.params.validate()?,
            time: logical.time.get(),
            time_ns: nanos("nanoseconds of the root's time", logical.time_ns)?,
            next_inode: next("next inode", logical.next_inode, limits::INODE)?,
            next_content: next("next content id", logical.next_content, limits::ID)?,
            next_tiny: next("next tiny id", logical.next_tiny, limits::ID)?,
            next_xattrs: next("next xattr set id", logical.next_xattrs, limits::ID)?,
            next_ordinal: next("next snapshot ordinal", logical.next_ordinal, limits::ID)?,
            orphans_tree: logical.orphans_tree.validate(schema::ORPHANS.id())?,
            thawed_tree: logical.thawed_tree.validate(schema::THAWED.id())?,
            shares_tree: logical.shares_tree.validate(schema::SHARES.id())?,
            snapshots_tree: logical.snapshots_tree.validate(schema::SNAPSHOTS.id())?,
            map: MapRef { root: map, rows: physical.map_rows.get() },
            next_subchunk: next("next subchunk id", physical.next_subchunk, limits::ID)?,
            next_superchunk: next("next superchunk id", physical.next_superchunk, limits::ID)?,
            thaw_log_id: physical.thaw_log_id.get(),
            thaw_transaction: physical.thaw_transaction.get(),
            thaw_offset: physical.thaw_offset.get(),
            interior_offset: physical.interior_offset.get(),
            unique_bytes: physical.unique_bytes.get(),
            shared_bytes: physical.shared_bytes.get(),
            subchunks: physical.subchunks.get(),
            packed_time: physical.packed_time.get(),
            packed_time_ns: nanos("nanoseconds of the time of packing", physical.packed_time_ns)?,
        })
    }
}

/// Returns the root hash: BLAKE3-32 of the view's hash and of all bytes of the logical part after the view, bytes of
/// later minor versions included. A part that is shorter than a view is not valid. For such a part the result is the
/// hash of no bytes, which no head names.
pub fn root_hash(logical: &[u8]) -> [u8; 32] {
    let Some((view, rest)) = logical.split_at_checked(RawView::SIZE) else {
        return *blake3::hash(&[]).as_bytes();
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3::hash(view).as_bytes()).update(rest);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::{LogOffset, SubchunkId};
    use crate::format::sums::Hash24;
    use crate::format::tree_ref::TreeRoot;

    fn root() -> Root {
        let tree = |block| TreeRef {
            root: Some(TreeRoot { block: SubchunkId(block), hash: Hash24([block as u8; 24]), levels: 1 }),
            rows: block,
        };
        let place = Place {
            offset: LogOffset(40960),
            copy: None,
            clear_len: 0,
            stored_len: 100,
            raw_len: 200,
            codec: 1,
            flags: crate::format::frame::Flags::default(),
            sum: 9,
        };
        Root {
            view: View { inodes_tree: tree(1), identities_tree: tree(7), inodes: 3, bytes: 4, ..View::default() },
            params: Params::default(),
            time: -1,
            time_ns: 2,
            next_inode: 3,
            next_content: 4,
            next_tiny: 5,
            next_xattrs: 6,
            next_ordinal: limits::ID,
            orphans_tree: tree(8),
            thawed_tree: tree(9),
            shares_tree: tree(10),
            snapshots_tree: tree(11),
            map: MapRef { root: Some((place, 2)), rows: 12 },
            next_subchunk: 13,
            next_superchunk: 14,
            thaw_log_id: 15,
            thaw_transaction: 16,
            thaw_offset: 17,
            interior_offset: 18,
            unique_bytes: 19,
            shared_bytes: 20,
            subchunks: 21,
            packed_time: 22,
            packed_time_ns: 999_999_999,
        }
    }

    #[test]
    fn a_root_comes_back() {
        let (stored, hash) = root().encode();
        assert_eq!(Root::decode(&stored, &hash), Ok(root()));
    }

    #[test]
    fn the_root_hash_is_that_of_the_view_hash_and_of_all_logical_bytes_after_the_view() {
        let (mut stored, hash) = root().encode();
        let logical = stored[8..8 + RootLogical::SIZE].to_vec();
        let rest = [&root().view.hash()[..], &logical[RawView::SIZE..]].concat();
        assert_eq!(hash, *blake3::hash(&rest).as_bytes());
        // Bytes of a later minor version are hashed, and ignored otherwise.
        stored.splice(8 + RootLogical::SIZE..8 + RootLogical::SIZE, *b"later");
        stored[..4].copy_from_slice(&(RootLogical::SIZE as u32 + 5).to_le_bytes());
        assert_eq!(Root::decode(&stored, &hash), Err(FormatError::Hash { what: "root" }));
        let later = *blake3::hash(&[&rest[..], b"later"].concat()).as_bytes();
        assert_eq!(Root::decode(&stored, &later), Ok(root()));
    }

    #[test]
    fn each_changed_bit_of_the_logical_part_is_noticed() {
        let (stored, hash) = root().encode();
        for at in 8..8 + RootLogical::SIZE {
            let mut other = stored.clone();
            other[at] ^= 1 << (at % 8);
            assert_eq!(Root::decode(&other, &hash), Err(FormatError::Hash { what: "root" }), "byte {at}");
        }
    }

    //= format-spec.md#9
    //= type=test
    //# A reader refuses a root whose hash is not the head's `root_hash`, in which a counter is 0 or above the limit of its ids
    //# (14), or in which the levels and the Place of the map contradict one another.
    #[test]
    fn another_root_impossible_counters_and_a_map_at_odds_with_itself_are_refused() {
        let decode = |change: &dyn Fn(&mut Root)| {
            let mut root = root();
            change(&mut root);
            let (stored, hash) = root.encode();
            Root::decode(&stored, &hash)
        };
        let (stored, _) = root().encode();
        assert_eq!(Root::decode(&stored, &[0; 32]), Err(FormatError::Hash { what: "root" }));
        for counter in [0, limits::ID + 1] {
            assert!(decode(&|root| root.next_inode = counter).is_err());
            assert!(decode(&|root| root.next_content = counter).is_err());
            assert!(decode(&|root| root.next_tiny = counter).is_err());
            assert!(decode(&|root| root.next_xattrs = counter).is_err());
            assert!(decode(&|root| root.next_ordinal = counter).is_err());
            assert!(decode(&|root| root.next_subchunk = counter).is_err());
            assert!(decode(&|root| root.next_superchunk = counter).is_err());
        }
        assert!(decode(&|root| root.next_inode = limits::INODE + 1).is_err());
        assert!(decode(&|root| root.next_inode = limits::INODE).is_ok());
        let place = root().map.root.map(|root| root.0);
        assert!(decode(&|root| root.map.root = place.map(|place| (place, 0))).is_err());
        assert!(decode(&|root| root.map.root = place.map(|place| (place, 13))).is_err());
        assert!(decode(&|root| root.map = MapRef::default()).is_ok());
    }

    #[test]
    fn times_beyond_a_second_are_refused() {
        for change in
            [|root: &mut Root| root.time_ns = 1_000_000_000, |root: &mut Root| root.packed_time_ns = 1_000_000_000]
        {
            let mut root = root();
            change(&mut root);
            let (stored, hash) = root.encode();
            assert!(matches!(Root::decode(&stored, &hash), Err(FormatError::Limit { .. })));
        }
    }

    #[test]
    fn a_logical_part_shorter_than_a_view_is_refused() {
        let stored = [5u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        let stored = [&stored[..], b"short"].concat();
        assert!(Root::decode(&stored, &root_hash(b"short")).is_err());
    }
}
