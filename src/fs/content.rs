//! Rows of contents as values (section 8.3): parts of rows, and what an inode's row says of its content.
//!
//! Pure: it knows rows, not tables. A part of a row says the same of its range of the file as the whole row. Callers:
//! the operations that cut, punch, copy and share contents.

use crate::format::bytes::put_varint;
use crate::format::ids::SubchunkId;
use crate::format::rows::inode::{FAST, TAG_ALLOCATED, TAG_WRITER, UNEVEN};
use crate::format::rows::{ContentRow, Extent, InodeRow};

/// Cuts a row of a content, which begins at offset `begin`, down to the range `[from, to)`. Returns the rows for what
/// is left, in order, each with the offset at which it begins. There are none if row and range do not overlap.
pub(super) fn part(begin: u64, row: &ContentRow, from: u64, to: u64) -> Vec<(u64, ContentRow)> {
    let (from, to) = (from.max(begin), to.min(begin.saturating_add(row.length)));
    if from >= to {
        return Vec::new();
    }
    let length = to - from;
    match &row.extent {
        Extent::Hole => vec![(from, hole(length))],
        Extent::Slice { subchunk, skip } => {
            // The slice lies within a subchunk, whose length fits a u32.
            vec![(from, slice(*subchunk, skip.saturating_add((from - begin) as u32), length))]
        }
        Extent::Run { first, lens } => {
            let mut out = Vec::new();
            let mut whole = Whole::default();
            let mut at = begin;
            for (id, &len) in (first.0..).map(SubchunkId).zip(lens) {
                let end = at + u64::from(len);
                let (here, until) = (at.max(from), end.min(to));
                if here == at && until == end {
                    whole.push(at, id, len);
                } else if here < until {
                    whole.finish(&mut out);
                    out.push((here, slice(id, (here - at) as u32, until - here)));
                }
                at = end;
            }
            whole.finish(&mut out);
            out
        }
    }
}

/// Collects whole subchunks with consecutive ids into a run.
#[derive(Default)]
struct Whole {
    begin: u64,
    first: SubchunkId,
    lens: Vec<u32>,
}

impl Whole {
    fn push(&mut self, at: u64, id: SubchunkId, len: u32) {
        if self.lens.is_empty() {
            (self.begin, self.first) = (at, id);
        }
        self.lens.push(len);
    }

    fn finish(&mut self, out: &mut Vec<(u64, ContentRow)>) {
        let lens = std::mem::take(&mut self.lens);
        let length = lens.iter().map(|&len| u64::from(len)).sum();
        match lens.len() {
            0 => {}
            1 => out.push((self.begin, slice(self.first, 0, length))),
            _ => out.push((self.begin, ContentRow { length, extent: Extent::Run { first: self.first, lens } })),
        }
    }
}

/// Makes the row of a hole of `length` bytes.
pub(super) fn hole(length: u64) -> ContentRow {
    ContentRow { length, extent: Extent::Hole }
}

/// Makes the row of a slice of a subchunk: `length` bytes from its byte `skip` on.
pub(super) fn slice(subchunk: SubchunkId, skip: u32, length: u64) -> ContentRow {
    ContentRow { length, extent: Extent::Slice { subchunk, skip } }
}

/// Returns the bytes of the row that are not in a hole.
pub(super) fn data_of(row: &ContentRow) -> u64 {
    if row.extent == Extent::Hole { 0 } else { row.length }
}

/// Records how many bytes of a content that ends at `end` are not in holes. The row has this number only if it is less
/// than `end`.
pub(super) fn set_allocated(row: &mut InodeRow, data: u64, end: u64) {
    set_attribute(row, TAG_ALLOCATED, (data < end).then_some(data));
}

/// Records that the content was made by changes, not by chunking it from its start.
pub(super) fn set_uneven(row: &mut InodeRow) {
    set_flags(row, row.writer_flags() | UNEVEN);
}

/// Records that the content is as if it had been chunked from its start.
pub(super) fn clear_uneven(row: &mut InodeRow) {
    set_flags(row, row.writer_flags() & !UNEVEN);
}

/// Records that some superchunks of the content were packed at a lower level than the image's own.
pub(super) fn set_fast(row: &mut InodeRow) {
    set_flags(row, row.writer_flags() | FAST);
}

/// Records that all superchunks of the content are packed at the image's own level.
pub(super) fn clear_fast(row: &mut InodeRow) {
    set_flags(row, row.writer_flags() & !FAST);
}

/// Removes the attributes of the row that describe a content that it no longer has.
pub(super) fn forget_content(row: &mut InodeRow) {
    set_attribute(row, TAG_ALLOCATED, None);
    set_flags(row, row.writer_flags() & !(UNEVEN | FAST));
}

fn set_flags(row: &mut InodeRow, flags: u64) {
    set_attribute(row, TAG_WRITER, (flags != 0).then_some(flags));
}

/// Sets or removes an attribute that is one varint. Attributes ascend by tag.
fn set_attribute(row: &mut InodeRow, tag: u64, value: Option<u64>) {
    let at = row.attributes.partition_point(|(other, _)| *other < tag);
    if row.attributes.get(at).is_some_and(|(other, _)| *other == tag) {
        row.attributes.remove(at);
    }
    if let Some(value) = value {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        row.attributes.insert(at, (tag, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// For each byte of a row its subchunk and the offset in it; `None` for a byte of a hole.
    fn bytes(begin: u64, row: &ContentRow) -> Vec<(u64, Option<(u64, u64)>)> {
        let of: Vec<Option<(u64, u64)>> = match &row.extent {
            Extent::Hole => vec![None; row.length as usize],
            Extent::Slice { subchunk, skip } => {
                (0..row.length).map(|n| Some((subchunk.0, u64::from(*skip) + n))).collect()
            }
            Extent::Run { first, lens } => {
                (first.0..).zip(lens).flat_map(|(id, &len)| (0..u64::from(len)).map(move |n| Some((id, n)))).collect()
            }
        };
        (begin..).zip(of).collect()
    }

    fn any_row() -> impl Strategy<Value = ContentRow> {
        prop_oneof![
            (1u64..60).prop_map(hole),
            (1u64..9, 0u32..40, 1u64..60).prop_map(|(id, skip, length)| slice(SubchunkId(id), skip, length)),
            (1u64..9, prop::collection::vec(1u32..12, 2..8)).prop_map(|(id, lens)| {
                let length = lens.iter().map(|&len| u64::from(len)).sum();
                ContentRow { length, extent: Extent::Run { first: SubchunkId(id), lens } }
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_part_says_of_each_byte_what_the_row_says(row in any_row(), begin in 0u64..50, from in 0u64..120, len in 0u64..120) {
            let (to, mut at) = (from + len, None);
            let rows = part(begin, &row, from, to);
            for (begin, row) in &rows {
                prop_assert!(at.is_none_or(|at| at == *begin));
                at = Some(begin + row.length);
                let (ints, tail) = row.encode();
                prop_assert_eq!(&ContentRow::decode(*begin, &ints, &tail).unwrap(), row);
            }
            let found: Vec<_> = rows.iter().flat_map(|(begin, row)| bytes(*begin, row)).collect();
            let expected: Vec<_> = bytes(begin, &row).into_iter().filter(|(at, _)| (from..to).contains(at)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
