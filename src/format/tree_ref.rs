//! The reference to the newest root block of a table (section 7.4).

use super::ids::SubchunkId;
use super::layout::on_disk;
use super::schema::TableId;
use super::sums::Hash24;
use super::{FormatError, limits};
use zerocopy::little_endian::U64;

on_disk! {
    /// A [`TreeRef`] as roots and snapshots hold it, not verified yet.
    pub struct RawTreeRef {
        /// Number of the table.
        table: u8,
        /// Number of levels: 0 if the tree is empty, 1 if the root block is a leaf.
        levels: u8,
        /// Reserved bytes, zero.
        reserved: [u8; 6],
        /// Subchunk id of the root block.
        block: U64,
        /// Content hash of the root block: BLAKE3-24 of its raw bytes.
        hash: [u8; 24],
        /// Number of rows in all leaves.
        rows: U64,
    }
}

/// Reference to the tree of a table: its root block, or that the table is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeRef {
    /// Root block and number of levels; `None` if the tree is empty.
    pub root: Option<TreeRoot>,
    /// Number of rows in all leaves.
    pub rows: u64,
}

/// The root block of a tree that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeRoot {
    /// Subchunk id of the root block.
    pub block: SubchunkId,
    /// Content hash of the block's raw bytes.
    pub hash: Hash24,
    /// Number of levels: 1 if the root block is a leaf.
    pub levels: u8,
}

impl TreeRef {
    /// Encodes a reference to the tree of `table`.
    pub fn encode(&self, table: TableId) -> RawTreeRef {
        RawTreeRef {
            table: table.0,
            levels: self.root.map_or(0, |r| r.levels),
            reserved: [0; 6],
            block: self.root.map_or(0, |r| r.block.0).into(),
            hash: self.root.map_or([0; 24], |r| r.hash.0),
            rows: self.rows.into(),
        }
    }
}

impl RawTreeRef {
    /// Returns the reference, if it refers to `table`.
    ///
    /// # Errors
    /// Returns `Invalid` for another table; `Limit` for too many levels or a block id out of bounds.
    pub fn validate(&self, table: TableId) -> Result<TreeRef, FormatError> {
        //= format-spec.md#7.4
        //# A reader refuses a TreeRef with a table number other than that of its field, one with more than 12 levels,
        //# and one with levels and a block that is 0 or not below 2^62.
        if self.table != table.0 {
            return Err(FormatError::invalid("tree reference", "it names another table"));
        }
        if self.levels > limits::TREE_LEVELS {
            return Err(FormatError::Limit {
                what: "levels of a tree",
                value: self.levels.into(),
                limit: limits::TREE_LEVELS.into(),
            });
        }
        let block = self.block.get();
        let root = match self.levels {
            0 => None,
            _ if block == 0 || block >= limits::ID => {
                return Err(FormatError::Limit { what: "block of a tree", value: block, limit: limits::ID });
            }
            levels => Some(TreeRoot { block: SubchunkId(block), hash: Hash24(self.hash), levels }),
        };
        Ok(TreeRef { root, rows: self.rows.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::schema;

    //= format-spec.md#7.4
    //= type=test
    //# A reader refuses a TreeRef with a table number other than that of its field, one with more than 12 levels, and
    //# one with levels and a block that is 0 or not below 2^62.
    #[test]
    fn a_reference_to_another_table_too_deep_or_without_a_block_is_refused() {
        let table = schema::INODES.id();
        let root = TreeRoot { block: SubchunkId(limits::ID - 1), hash: Hash24([1; 24]), levels: limits::TREE_LEVELS };
        let good = TreeRef { root: Some(root), rows: 5 };
        assert_eq!(good.encode(table).validate(table), Ok(good));
        assert_eq!(TreeRef::default().encode(table).validate(table), Ok(TreeRef::default()));
        assert!(good.encode(table).validate(schema::DIRENTS.id()).is_err());
        let changes: [fn(&mut RawTreeRef); 3] =
            [|raw| raw.levels += 1, |raw| raw.block = 0.into(), |raw| raw.block = limits::ID.into()];
        for change in changes {
            let mut raw = good.encode(table);
            change(&mut raw);
            assert!(raw.validate(table).is_err());
        }
    }
}
