//! Splicing of what was cut, into files that may have changed meanwhile.

use super::super::fallocate::{FallocateMode, fallocate};
use super::super::freeze::{Frozen, Piece, Spliced, freeze};
use super::super::setattr::{SetAttr, set_attr};
use super::super::unlink::{STEP_ROWS, unlink};
use super::{FROZEN, ROOT, SUBCHUNKS, World, run};
use crate::format::ids::{InodeId, LogOffset, SubchunkId};
use crate::format::rows::{ContentRef, ContentRow, Extent, InodeRow};
use crate::format::schema;
use crate::format::transaction::Thawed;
use crate::freeze::{Span, SpanSource};
use crate::fs::content::{hole, slice};
use crate::fs::layout;
use proptest::prelude::*;

impl World {
    /// Cuts all data of `[from, to)` into pieces with these lengths, used in turn. Pieces end at holes.
    fn cut(&self, inode: InodeId, from: u64, to: u64, lens: &[u32]) -> Frozen {
        let (row, bytes) = (self.row(inode), self.read(inode));
        let sources = layout::spans(self.view(), inode, &row, (from, to), &|_| Ok(0)).unwrap();
        let mut pieces = Vec::new();
        let mut lens = lens.iter().copied().cycle();
        let is_data = |span: &Span| span.source != SpanSource::Hole;
        for stretch in sources.chunk_by(|a, b| is_data(a) == is_data(b)) {
            if !is_data(&stretch[0]) {
                continue;
            }
            let (mut at, end) = (stretch[0].begin, stretch.last().map(Span::end).unwrap());
            while at < end {
                let len = lens.next().unwrap().min((end - at) as u32);
                let subchunk = SUBCHUNKS.with_borrow_mut(|all| {
                    let id = FROZEN + all.len() as u64;
                    all.insert(id, bytes[at as usize..at as usize + len as usize].to_vec());
                    SubchunkId(id)
                });
                pieces.push(Piece { begin: at, len, subchunk, saved: false });
                at += u64::from(len);
            }
        }
        let whole = (from, to) == (0, row.size);
        let (deep, uneven, fast) = (false, false, false);
        Frozen { inode, size: row.size, sources, pieces, whole, deep, uneven, fast, tiny: None, was_tiny: None }
    }

    /// Splices it, in as many steps as that takes. Returns the number of bytes that left the log.
    fn splice(&mut self, frozen: &Frozen) -> u64 {
        let (mut next, mut bytes) = (Some(0), 0);
        while let Some(first) = next {
            let done = self.run(|draft| freeze(draft, frozen, first)).unwrap();
            (next, bytes) = (done.next, bytes + done.bytes);
            self.scan();
        }
        bytes
    }

    fn punch_out(&mut self, inode: InodeId, at: u64, len: u64) {
        self.run_with(&[], |draft, append| fallocate(draft, inode, at, len, FallocateMode::PunchHole, append)).unwrap();
    }

    fn thawed_bytes(&self, inode: InodeId) -> u64 {
        let mut ranges = self.view().thawed(inode, 0).unwrap();
        let mut bytes = 0;
        while let Some((_, range)) = ranges.next(self.view()).unwrap() {
            bytes += range.length;
        }
        bytes
    }

    fn content_rows(&self, inode: InodeId) -> Vec<ContentRow> {
        let ContentRef::Content(id) = self.row(inode).content else { return Vec::new() };
        let mut extents = self.view().extents(id, 0).unwrap();
        let mut rows = Vec::new();
        while let Some((_, row)) = extents.next(self.view()).unwrap() {
            rows.push(row);
        }
        rows
    }
}

/// A file of 1100 bytes, 100 of them a hole.
fn written(world: &mut World) -> InodeId {
    let file = world.file("a");
    world.write(file, 0, &[b'a'; 500]).unwrap();
    world.write(file, 600, &[b'b'; 500]).unwrap();
    file
}

// Case 4.
#[test]
fn only_the_columns_of_the_content_change() {
    let mut world = World::new();
    let file = written(&mut world);
    let frozen = world.cut(file, 0, 1100, &[100, 70]);
    let changes = SetAttr { mode: Some(0o4711), uid: Some(77), ..SetAttr::default() };
    world.run_with(&[], |draft, append| set_attr(draft, file, &changes, append)).unwrap();
    let (before, bytes) = (world.row(file), world.read(file));
    assert_eq!(world.splice(&frozen), 1000);
    let after = world.row(file);
    let columns = |row: &InodeRow| InodeRow { content: ContentRef::None, attributes: Vec::new(), ..row.clone() };
    assert_eq!(columns(&after), columns(&before));
    assert_eq!((world.read(file), world.thawed_bytes(file), after.allocated()), (bytes, 0, Some(1000)));
    assert!(!after.is_uneven());
}

#[test]
fn runs_holes_and_single_subchunks_become_what_a_packer_makes_of_them() {
    let mut world = World::new();
    let file = written(&mut world);
    let first = SUBCHUNKS.with_borrow(|all| FROZEN + all.len() as u64);
    let frozen = world.cut(file, 0, 1100, &[300]);
    world.splice(&frozen);
    let expected = [run(first, &[300, 200]), hole(100), run(first + 2, &[300, 200])];
    assert_eq!(world.content_rows(file), expected);
    let single = world.file("b");
    world.write(single, 0, &[b'x'; 700]).unwrap();
    let frozen = world.cut(single, 0, 700, &[1000]);
    world.splice(&frozen);
    assert_eq!(world.row(single).content, ContentRef::Subchunk(frozen.pieces[0].subchunk));
    let tiny = world.file("c");
    world.write(tiny, 0, b"tiny").unwrap();
    let frozen = Frozen { pieces: Vec::new(), tiny: Some(b"tiny".to_vec()), ..world.cut(tiny, 0, 4, &[9]) };
    assert_eq!(world.splice(&frozen), 4);
    assert!(matches!(world.row(tiny).content, ContentRef::Tiny(_)));
    // It is written to again, cut, and changed before it is spliced: nothing is spliced.
    world.write(tiny, 2, b"me").unwrap();
    let frozen = Frozen { pieces: Vec::new(), tiny: Some(b"time".to_vec()), ..world.cut(tiny, 0, 4, &[9]) };
    world.write(tiny, 0, b"l").unwrap();
    assert_eq!((world.splice(&frozen), world.read(tiny)), (0, b"lime".to_vec()));
}

#[test]
fn a_change_inside_frozen_data_leaves_the_content_even_where_only_whole_subchunks_meet() {
    let mut world = World::new();
    let file = world.packed_rows("a", &[run(10, &[100, 100, 100, 100])]);
    world.write(file, 150, &[b'x'; 20]).unwrap();
    let bytes = world.read(file);
    let frozen = world.cut(file, 100, 300, &[120, 80]);
    assert_eq!(world.splice(&frozen), 20);
    assert!(!world.row(file).is_uneven());
    let first = frozen.pieces[0].subchunk.0;
    let middle = run(first, &[120, 80]);
    assert_eq!(world.content_rows(file), [slice(SubchunkId(10), 0, 100), middle, slice(SubchunkId(13), 0, 100)]);
    // In the middle of a subchunk, a part of the subchunk is left.
    world.write(file, 350, &[b'y'; 20]).unwrap();
    let frozen = world.cut(file, 340, 400, &[60]);
    assert_eq!(world.splice(&frozen), 20);
    assert!(world.row(file).is_uneven());
    assert_eq!(world.read(file)[..340], bytes[..340]);
    // If everything is cut again, it is no longer uneven.
    let frozen = world.cut(file, 0, 400, &[90]);
    world.write(file, 0, b"z").unwrap();
    assert_eq!(world.splice(&frozen), 0);
    let frozen = world.cut(file, 0, 400, &[90]);
    assert_eq!(world.splice(&frozen), 1);
    assert!(!world.row(file).is_uneven());
}

#[test]
fn a_content_that_others_have_too_stays_theirs() {
    let mut world = World::new();
    let file = world.packed_rows("a", &[run(10, &[100, 100, 100])]);
    let twin = world.packed_twin("b", file);
    world.write(file, 120, &[b'x'; 20]).unwrap();
    let (bytes, of_twin) = (world.read(file), world.read(twin));
    let frozen = world.cut(file, 100, 200, &[100]);
    assert_eq!(world.splice(&frozen), 20);
    assert_eq!((world.read(file), world.read(twin)), (bytes, of_twin));
}

#[test]
fn what_is_gone_is_dropped() {
    let mut world = World::new();
    let file = written(&mut world);
    let frozen = world.cut(file, 0, 1100, &[100]);
    world.open(file);
    world.run(|draft| unlink(draft, ROOT, b"a")).unwrap();
    let bytes = world.read(file);
    assert_eq!((world.splice(&frozen), world.read(file)), (1000, bytes));
    let file = written(&mut world);
    let frozen = world.cut(file, 0, 1100, &[100]);
    world.run(|draft| unlink(draft, ROOT, b"a")).unwrap();
    let done = world.run(|draft| freeze(draft, &frozen, 0)).unwrap();
    assert_eq!(done, Spliced { gone: true, ..Spliced::default() });
}

// Case 27.
#[test]
fn many_thawed_ranges_are_spliced_in_steps() {
    let mut world = World::new();
    let file = world.file("a");
    let rows = 2 * STEP_ROWS as u64 + 50;
    world.write(file, 0, &vec![b'x'; 3 * rows as usize]).unwrap();
    world
        .run(|draft| {
            for n in 0..rows {
                draft.thaw(Thawed {
                    inode: file,
                    offset: 3 * n,
                    len: 1,
                    frame: LogOffset(super::FRAME),
                    within: 0,
                    sum: 1,
                })?;
            }
            Ok(())
        })
        .unwrap();
    let bytes = world.read(file);
    let frozen = world.cut(file, 0, 3 * rows, &[700]);
    let (mut next, mut steps) = (Some(0), 0);
    while let Some(first) = next {
        let done = world
            .run(|draft| {
                let done = freeze(draft, &frozen, first)?;
                let changed = draft.rows.iter().filter(|row| row.table.id() == schema::THAWED.id()).count();
                assert!(changed <= STEP_ROWS + 2 * 700, "{changed} thawed ranges");
                Ok(done)
            })
            .unwrap();
        (next, steps) = (done.next, steps + 1);
    }
    world.scan();
    assert!(steps > 2, "{steps}");
    assert_eq!((world.read(file), world.thawed_bytes(file), world.row(file).is_uneven()), (bytes, 0, false));
}

/// An operation on one of two files.
#[derive(Debug, Clone)]
enum Step {
    Write(u64, u16),
    Truncate(u64),
    Punch(u64, u16),
    Copy(u64, u64, u16),
    Freeze(Vec<u32>),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..4000, 1u16..900).prop_map(|(at, len)| Step::Write(at, len)),
        1 => (0u64..4500).prop_map(Step::Truncate),
        1 => (0u64..4000, 1u16..900).prop_map(|(at, len)| Step::Punch(at, len)),
        1 => (0u64..4000, 0u64..4000, 1u16..900).prop_map(|(from, to, len)| Step::Copy(from, to, len)),
        1 => prop::collection::vec(1u32..400, 1..5).prop_map(Step::Freeze),
    ]
}

fn carry_out(world: &mut World, (file, other): (InodeId, InodeId), step: &Step, seed: u8) {
    match step {
        Step::Write(at, len) => world.write(file, *at, &vec![seed | 1; usize::from(*len)]).unwrap(),
        Step::Truncate(size) => world.truncate(file, *size).unwrap(),
        Step::Punch(at, len) => world.punch_out(file, *at, (*len).into()),
        Step::Copy(from, to, len) => _ = world.copy((other, *from), (file, *to), (*len).into()),
        Step::Freeze(lens) => {
            let frozen = world.cut(file, 0, world.row(file).size, lens);
            world.splice(&frozen);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    // Case 5.
    #[test]
    fn whatever_happens_between_cut_and_splice_no_byte_of_the_file_changes(
        before in prop::collection::vec((any::<bool>(), any_step()), 1..8),
        after in prop::collection::vec(any_step(), 0..4),
        lens in prop::collection::vec(1u32..500, 1..5),
        range in (0u64..4500, 0u64..4500),
    ) {
        let mut world = World::new();
        let (a, b) = (world.file("a"), world.packed_rows("b", &[run(10, &[700, 900, 500]), hole(300), run(20, &[400, 800])]));
        for (n, (second, step)) in before.iter().enumerate() {
            let files = if *second { (b, a) } else { (a, b) };
            carry_out(&mut world, files, step, n as u8);
        }
        let size = world.row(a).size;
        let (from, to) = (range.0.min(range.1).min(size), range.0.max(range.1).min(size));
        let frozen = if range.0 % 2 == 0 { world.cut(a, 0, size, &lens) } else { world.cut(a, from, to, &lens) };
        for (n, step) in after.iter().enumerate() {
            carry_out(&mut world, (a, b), step, 100 + n as u8);
        }
        let (bytes, other, thawed) = (world.read(a), world.read(b), world.thawed_bytes(a));
        let done = world.splice(&frozen);
        prop_assert!(world.read(a) == bytes, "bytes changed");
        prop_assert!(world.read(b) == other);
        prop_assert_eq!(world.thawed_bytes(a), thawed - done);
        if after.is_empty() && frozen.whole {
            prop_assert_eq!(world.thawed_bytes(a), 0);
        }
        // If a file was cut off, or punched up to its end, the freezer cuts the end again when something comes after
        // it.
        let cuts_off = before.iter().map(|(_, step)| step).chain(&after).any(|step| matches!(step, Step::Truncate(_) | Step::Punch(..)));
        if !cuts_off && !world.row(a).is_uneven() {
            // No part of a frozen subchunk is left.
            for row in world.content_rows(a) {
                if let Extent::Slice { subchunk, skip } = row.extent && subchunk.0 >= FROZEN {
                    let whole = SUBCHUNKS.with_borrow(|all| all[&subchunk.0].len() as u64);
                    prop_assert_eq!((skip, row.length), (0, whole));
                }
            }
        }
    }
}
