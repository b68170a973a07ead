//! Interval arithmetic on thawed ranges: which rows of table `thawed` change when a range of a file changes.
//!
//! [`splice`] is pure: it takes rows and returns changes of rows. Ranges of one inode never overlap, before and after.
//! Called by everything that changes rows of `thawed`: replay, and each operation that writes, truncates or punches.

use crate::format::block::{Key, Row};
use crate::format::ids::InodeId;
use crate::format::rows::{ThawedBytes, ThawedRow};
use crate::format::transaction::Thawed;
use crate::meta::{MetaError, View};

/// Returns the part of a row of `thawed` that says where an operation's bytes are.
pub fn bytes_of(thawed: &Thawed) -> ThawedBytes {
    match thawed.frame {
        Thawed::LOST => ThawedBytes::Lost,
        // Within a frame of 64 MiB at most.
        frame => ThawedBytes::InLog { frame, skip: u32::try_from(thawed.within).unwrap_or(u32::MAX), sum: thawed.sum },
    }
}

/// Computes the changes as [`splice`] does, with the ranges of a view.
///
/// # Errors
/// Fails if the table cannot be read, or a row is not valid.
pub fn replace(
    view: &View,
    inode: InodeId,
    offset: u64,
    len: u64,
    put: Option<&Thawed>,
) -> Result<Vec<(Key, Option<Row>)>, MetaError> {
    let end = offset.saturating_add(len);
    let mut existing = Vec::new();
    let mut ranges = view.thawed_within(inode, offset, end)?;
    while let Some(range) = ranges.next(view)? {
        existing.push(range);
    }
    Ok(splice(&existing, inode, offset, len, put.map(bytes_of)))
}

/// Returns the changes of rows after which the bytes `[offset, offset + len)` of `inode` are those of `put`, or not
/// thawed if `put` is `None`. `existing` has the inode's ranges that overlap these bytes, as (offset, row), in order;
/// other ranges are ignored. The changes are in key order with each key once; `None` deletes a row.
///
/// An empty range changes nothing.
pub fn splice(
    existing: &[(u64, ThawedRow)],
    inode: InodeId,
    offset: u64,
    len: u64,
    put: Option<ThawedBytes>,
) -> Vec<(Key, Option<Row>)> {
    let end = offset.saturating_add(len);
    if offset == end {
        return Vec::new();
    }
    let mut changes = Vec::new();
    let mut rest = None;
    let mut gone = Vec::new();
    for &(begin, row) in existing {
        let stop = begin.saturating_add(row.length);
        if stop <= offset || begin >= end {
            continue;
        }
        if begin < offset {
            changes.push(change(inode, begin, ThawedRow { length: offset.saturating_sub(begin), ..row }));
        } else if begin > offset || put.is_none() {
            gone.push((Key::new(inode.0, begin), None));
        }
        if stop > end {
            rest = Some(change(inode, end, after(row, end.saturating_sub(begin))));
        }
    }
    changes.extend(put.map(|bytes| change(inode, offset, ThawedRow { length: end.saturating_sub(offset), bytes })));
    changes.extend(gone);
    changes.extend(rest);
    changes
}

/// Returns a range without its first `cut` bytes; it has more bytes than that.
fn after(row: ThawedRow, cut: u64) -> ThawedRow {
    let bytes = match row.bytes {
        // A range in the log ends within the 64 MiB of its frame.
        ThawedBytes::InLog { frame, skip, sum } => {
            ThawedBytes::InLog { frame, skip: skip.saturating_add(u32::try_from(cut).unwrap_or(u32::MAX)), sum }
        }
        ThawedBytes::Lost => ThawedBytes::Lost,
    };
    ThawedRow { length: row.length.saturating_sub(cut), bytes }
}

fn change(inode: InodeId, offset: u64, row: ThawedRow) -> (Key, Option<Row>) {
    let (ints, tail) = row.encode();
    let key = Key::new(inode.0, offset);
    (key.clone(), Some(Row { key, ints: ints.to_vec(), tail: tail.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::LogOffset;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const INODE: InodeId = InodeId(7);

    fn in_log(frame: u64, skip: u32) -> ThawedBytes {
        ThawedBytes::InLog { frame: LogOffset(frame), skip, sum: frame ^ 5 }
    }

    /// Applies changes to rows by key.
    fn apply(rows: &mut BTreeMap<u64, ThawedRow>, changes: Vec<(Key, Option<Row>)>) {
        for (key, row) in changes {
            assert_eq!(key.a, INODE.0);
            match row {
                Some(row) => {
                    assert_eq!(row.key, key);
                    rows.insert(key.b, ThawedRow::decode(key.b, &row.ints, &row.tail).unwrap());
                }
                None => assert!(rows.remove(&key.b).is_some(), "a row is deleted that was not there"),
            }
        }
    }

    fn list(rows: &BTreeMap<u64, ThawedRow>) -> Vec<(u64, ThawedRow)> {
        rows.iter().map(|(&begin, &row)| (begin, row)).collect()
    }

    /// For each byte of the file, its frame and its offset in the frame; a lost byte is byte 0 of frame 0.
    fn bytes(rows: &BTreeMap<u64, ThawedRow>) -> BTreeMap<u64, (u64, u64)> {
        let mut all = BTreeMap::new();
        for (&begin, row) in rows {
            for n in 0..row.length {
                let byte = match row.bytes {
                    ThawedBytes::InLog { frame, skip, .. } => (frame.0, u64::from(skip) + n),
                    ThawedBytes::Lost => (0, 0),
                };
                assert!(all.insert(begin + n, byte).is_none(), "two ranges have byte {}", begin + n);
            }
        }
        all
    }

    #[test]
    fn a_range_in_the_middle_of_another_leaves_two_pieces_of_it() {
        let whole = [(10, ThawedRow { length: 100, bytes: in_log(64, 5) })];
        let changes = splice(&whole, INODE, 40, 10, Some(in_log(640, 0)));
        let mut rows = BTreeMap::from(whole);
        apply(&mut rows, changes);
        let expected = [
            (10, ThawedRow { length: 30, bytes: in_log(64, 5) }),
            (40, ThawedRow { length: 10, bytes: in_log(640, 0) }),
            (50, ThawedRow { length: 60, bytes: in_log(64, 45) }),
        ];
        assert_eq!(list(&rows), expected);
        // Up to the end of the largest possible file, as for a truncation.
        apply(&mut rows, splice(&expected, INODE, 45, u64::MAX, None));
        assert_eq!(rows.last_key_value(), Some((&40, &ThawedRow { length: 5, bytes: in_log(640, 0) })));
        assert_eq!(splice(&list(&rows), INODE, 41, 0, Some(ThawedBytes::Lost)), []);
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_a_map_byte_by_byte(
            steps in prop::collection::vec((0..80u64, 1..40u64, 0..4u64), 1..60),
        ) {
            let mut rows = BTreeMap::new();
            let mut model: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            for (n, (offset, len, what)) in steps.into_iter().enumerate() {
                let frame = 64 * (n as u64 + 1);
                let put = match what {
                    0 => None,
                    1 => Some(ThawedBytes::Lost),
                    _ => Some(in_log(frame, 3)),
                };
                let changes = splice(&list(&rows), INODE, offset, len, put);
                prop_assert!(changes.windows(2).all(|pair| pair[0].0 < pair[1].0), "keys ascend: {:?}", changes);
                // `splice` needs only the overlapping ranges.
                let touched: Vec<_> =
                    list(&rows).into_iter().filter(|(b, row)| b + row.length > offset && *b < offset + len).collect();
                prop_assert_eq!(&changes, &splice(&touched, INODE, offset, len, put));
                apply(&mut rows, changes);
                for n in 0..len {
                    match put {
                        None => drop(model.remove(&(offset + n))),
                        Some(ThawedBytes::Lost) => drop(model.insert(offset + n, (0, 0))),
                        Some(_) => drop(model.insert(offset + n, (frame, 3 + n))),
                    }
                }
                prop_assert_eq!(bytes(&rows), model.clone());
            }
        }
    }
}
