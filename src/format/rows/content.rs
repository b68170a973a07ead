//! Extents of contents (section 8.3).

use crate::format::bytes::{Cursor, put_varint};
use crate::format::ids::SubchunkId;
use crate::format::{FormatError, limits};

/// Where the bytes of a range of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// Nothing is stored: the range reads as zeros.
    Hole,
    /// The bytes are the range `[skip, skip + length)` of one subchunk.
    Slice {
        /// Id of the subchunk.
        subchunk: SubchunkId,
        /// Offset of the first byte in the subchunk.
        skip: u32,
    },
    /// The bytes are whole subchunks with consecutive ids.
    Run {
        /// Id of the first subchunk; the ids ascend by one.
        first: SubchunkId,
        /// Lengths of the subchunks in bytes; 2 to [`limits::RUN`] of them.
        lens: Vec<u32>,
    },
}

/// A row of the contents table, without its key: one extent of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRow {
    /// Bytes of the file that the extent covers, at least 1.
    pub length: u64,
    /// Where the bytes of the extent are.
    pub extent: Extent,
}

impl ContentRow {
    /// Returns the integers and the tail of the row.
    pub fn encode(&self) -> ([u64; 4], Vec<u8>) {
        let mut tail = Vec::new();
        let ints = match &self.extent {
            Extent::Hole => [0, 0, 0, self.length],
            Extent::Slice { subchunk, skip } => [subchunk.0, 1, (*skip).into(), self.length],
            Extent::Run { first, lens } => {
                for &len in lens.split_last().map_or(&[][..], |(_, before)| before) {
                    put_varint(&mut tail, len.into());
                }
                [first.0, lens.len() as u64, 0, self.length]
            }
        };
        (ints, tail)
    }

    /// Decodes a row that begins at byte `offset` of its file from its integers and tail.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode(offset: u64, ints: &[u64], tail: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "extent of a content";
        let &[subchunk, count, skip, length] = ints else {
            return Err(FormatError::invalid(WHAT, "wrong number of columns"));
        };
        if length == 0 || offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(FormatError::Limit { what: WHAT, value: length, limit: i64::MAX as u64 });
        }
        let extent = match (subchunk, count) {
            (0, 0) if skip == 0 && tail.is_empty() => Extent::Hole,
            (1.., 1) if tail.is_empty() => {
                if skip.checked_add(length).is_none_or(|end| end > limits::SUBCHUNK_LEN) {
                    return Err(FormatError::Limit { what: WHAT, value: length, limit: limits::SUBCHUNK_LEN });
                }
                Extent::Slice { subchunk: SubchunkId(subchunk), skip: skip as u32 }
            }
            (1.., 2..=limits::RUN) if skip == 0 => {
                if subchunk.saturating_add(count) > limits::ID {
                    return Err(FormatError::Limit { what: WHAT, value: subchunk, limit: limits::ID });
                }
                let mut cursor = Cursor::new(tail, WHAT);
                let mut lens = Vec::with_capacity(count as usize);
                let mut left = length;
                for _ in 1..count {
                    let len = cursor.varint_to(limits::SUBCHUNK_LEN.min(left), "length of a subchunk")?;
                    if len == 0 {
                        return Err(FormatError::invalid(WHAT, "an empty subchunk"));
                    }
                    left -= len;
                    lens.push(len as u32);
                }
                cursor.end()?;
                if left == 0 || left > limits::SUBCHUNK_LEN {
                    return Err(FormatError::Limit { what: WHAT, value: left, limit: limits::SUBCHUNK_LEN });
                }
                lens.push(left as u32);
                Extent::Run { first: SubchunkId(subchunk), lens }
            }
            _ => return Err(FormatError::invalid(WHAT, "neither hole, slice nor run")),
        };
        Ok(ContentRow { length, extent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_integers_and_tail_give_an_extent_or_an_error(
            offset in prop_oneof![0u64..10, any::<u64>()],
            ints in prop::collection::vec(prop_oneof![0u64..4, 0u64..200, any::<u64>()], 3..6),
            tail in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            if let Ok(row) = ContentRow::decode(offset, &ints, &tail) {
                prop_assert!(offset + row.length <= i64::MAX as u64);
                let (again, same_tail) = row.encode();
                prop_assert_eq!((again.to_vec(), same_tail), (ints, tail));
            }
        }

        #[test]
        fn extents_come_back_as_they_went_in(first in 1u64..1 << 40, lens in prop::collection::vec(1u32..1 << 17, 2..128), skip in 0u32..1000) {
            let length = lens.iter().map(|&l| u64::from(l)).sum();
            for row in [
                ContentRow { length, extent: Extent::Hole },
                ContentRow { length: lens[0].into(), extent: Extent::Slice { subchunk: SubchunkId(first), skip } },
                ContentRow { length, extent: Extent::Run { first: SubchunkId(first), lens: lens.clone() } },
            ] {
                let (ints, tail) = row.encode();
                prop_assert_eq!(ContentRow::decode(7, &ints, &tail).unwrap(), row);
            }
        }
    }
}
