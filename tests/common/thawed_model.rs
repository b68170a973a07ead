//! A file of random extents and thawed ranges, and the expected result for each of its bytes.

use super::forge::{Forge, noise};
use floe::format::ids::{ContentId, SubchunkId};
use floe::format::rows::{ContentRef, ContentRow, Extent};
use proptest::prelude::*;

/// The expected result of reading one byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Byte {
    Hole,
    Data(u8),
    Thawed,
}

/// A file, as rows and as bytes.
#[derive(Debug)]
pub struct Model {
    forge_rows: Vec<(u64, ContentRow)>,
    /// First byte, length, and whether it is lost.
    pub thawed: Vec<(u64, u64, bool)>,
    pub bytes: Vec<Byte>,
}

/// A content of holes and slices that ends at or before the size, under thawed ranges.
pub fn model() -> impl Strategy<Value = Model> {
    let extents = prop::collection::vec((1u64..200, any::<bool>()), 1..8);
    let thawed = prop::collection::vec((0u64..80, 1u64..150, any::<bool>()), 0..6);
    (extents, prop_oneof![Just(0), 0u64..300], thawed).prop_map(|(extents, rest, ranges)| {
        let data = noise(1, 200);
        let (mut bytes, mut forge_rows) = (Vec::new(), Vec::new());
        for (length, hole) in extents {
            let extent = if hole { Extent::Hole } else { Extent::Slice { subchunk: SubchunkId(1), skip: 0 } };
            forge_rows.push((bytes.len() as u64, ContentRow { length, extent }));
            let byte = |n: usize| if hole { Byte::Hole } else { Byte::Data(data[n]) };
            bytes.extend((0..length as usize).map(byte));
        }
        bytes.resize(bytes.len() + rest as usize, Byte::Hole);
        let (mut at, mut thawed) = (0, Vec::new());
        for (gap, length, lost) in ranges {
            let begin = at + gap;
            let end = (begin + length).min(bytes.len() as u64);
            if begin < end {
                thawed.push((begin, end - begin, lost));
                bytes[begin as usize..end as usize].fill(Byte::Thawed);
            }
            at = end;
        }
        Model { forge_rows, thawed, bytes }
    })
}

impl Model {
    /// An image with the file as inode 2.
    pub fn forge(&self) -> Forge {
        let mut forge = Forge::new();
        forge.superchunks = vec![vec![(noise(1, 200), None)]];
        forge.contents = self.forge_rows.iter().map(|(offset, row)| ((1, *offset), row.clone())).collect();
        forge.file(1, "file", 2, self.bytes.len() as u64, ContentRef::Content(ContentId(1)));
        let hole = |row: &&(u64, ContentRow)| matches!(row.1.extent, Extent::Hole);
        if self.forge_rows.iter().any(|row| hole(&row)) {
            let lengths = |rows: Vec<&(u64, ContentRow)>| rows.iter().map(|row| row.1.length).sum();
            forge.allocated(2, lengths(self.forge_rows.iter().filter(|row| !hole(row)).collect()));
        }
        for &(offset, length, lost) in &self.thawed {
            if lost { forge.lose(2, offset, length) } else { forge.thaw(2, offset, length) }
        }
        forge
    }
}
