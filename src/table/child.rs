//! How a parent names a child (section 7.3).

use crate::format::FormatError;
use crate::format::ids::SubchunkId;
use crate::format::limits;
use crate::format::place::Place;
use crate::format::rows::map;
use crate::format::schema::{self, Table};
use crate::format::sums::Hash24;
use std::fmt;

/// The reference to a child block in a row of an interior block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildRef {
    /// Reference in all tables except the map: id and content hash.
    Block {
        /// Subchunk id of the block.
        id: SubchunkId,
        /// Hash of the block's raw bytes.
        hash: Hash24,
    },
    /// Reference in the map: the place of a frame without clear part.
    Frame(Place),
}

impl ChildRef {
    /// Returns the integers and the tail of the parent's row.
    pub fn encode(&self) -> (Vec<u64>, Vec<u8>) {
        match self {
            ChildRef::Block { id, hash } => (vec![id.0], hash.0.to_vec()),
            ChildRef::Frame(p) => (
                vec![
                    p.offset.0,
                    p.copy.map_or(0, |copy| copy.0),
                    p.stored_len.into(),
                    p.raw_len.into(),
                    p.codec.into(),
                    p.flags.0.into(),
                ],
                p.sum.to_le_bytes().to_vec(),
            ),
        }
    }

    /// Decodes the integers and the tail of a row in an interior block of `table`.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode(table: &'static Table, ints: &[u64], tail: &[u8]) -> Result<ChildRef, FormatError> {
        const WHAT: &str = "child of a table block";
        match *ints {
            [offset, copy, stored_len, raw_len, codec, flags] if is_map(table) => {
                if raw_len > limits::TABLE_BLOCK {
                    return Err(FormatError::Limit { what: WHAT, value: raw_len, limit: limits::TABLE_BLOCK });
                }
                let place = map::place(offset, copy, 0, [stored_len, raw_len, codec, flags], tail)?;
                //= format-spec.md#3.1
                //# A reader refuses the Place of a root or a map block with the dictionary flag.
                if place.flags.dictionary() {
                    return Err(FormatError::invalid(WHAT, "a block of the map needs the dictionary"));
                }
                Ok(ChildRef::Frame(place))
            }
            [id] if !is_map(table) => {
                if id == 0 || id >= limits::ID {
                    return Err(FormatError::Limit { what: WHAT, value: id, limit: limits::ID });
                }
                let hash = tail.try_into().map_err(|_| FormatError::invalid(WHAT, "its hash is not 24 bytes"))?;
                Ok(ChildRef::Block { id: SubchunkId(id), hash: Hash24(hash) })
            }
            _ => Err(FormatError::invalid(WHAT, "wrong number of columns")),
        }
    }

    /// Returns whether an interior row of `table` can hold this reference.
    pub(super) fn fits(&self, table: &'static Table) -> bool {
        match self {
            ChildRef::Block { id, .. } => !is_map(table) && (1..limits::ID).contains(&id.0),
            ChildRef::Frame(place) => is_map(table) && place.clear_len == 0 && !place.flags.dictionary(),
        }
    }
}

fn is_map(table: &'static Table) -> bool {
    table.id() == schema::MAP.id()
}

impl fmt::Display for ChildRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildRef::Block { id, .. } => write!(f, "subchunk {id}"),
            ChildRef::Frame(place) => write!(f, "frame at {}", place.offset),
        }
    }
}
