//! Large files: operations delete their rows in steps of a bounded number.

use super::super::fallocate::{FallocateMode, fallocate};
use super::super::reap::reap_step;
use super::super::setattr::{SetAttr, set_attr};
use super::super::unlink::STEP_ROWS;
use super::{ROOT, World};
use crate::format::ids::{InodeId, LogOffset, SubchunkId};
use crate::format::rows::ContentRow;
use crate::format::schema;
use crate::format::transaction::Thawed;
use crate::fs::content::{hole, slice};
use crate::fs::draft::Draft;

const ROWS: usize = 2 * STEP_ROWS + 100;
/// Rows that a step may write in addition to those that it deletes of each kind: their replacements, and the inode's
/// row.
const MORE: usize = 10;

/// A content of many rows: slices of 3 bytes, and every third row a hole.
fn many() -> Vec<ContentRow> {
    let row = |n| if n % 3 == 1 { hole(3) } else { slice(SubchunkId(n), 1, 3) };
    (1..=ROWS as u64 + 1).map(|n| row(n + 1)).collect()
}

fn thaw_many(world: &mut World, inode: InodeId) {
    world.write(inode, 0, b"x").unwrap();
    world
        .run(|draft| {
            for n in 0..ROWS as u64 {
                let (frame, sum) = (LogOffset(super::FRAME), 1);
                draft.thaw(Thawed { inode, offset: 3 * n, len: 1, frame, within: 0, sum })?;
            }
            Ok(())
        })
        .unwrap();
}

fn bounded(draft: &Draft) {
    let changed = |table: &'static schema::Table| draft.rows.iter().filter(|row| row.table.id() == table.id()).count();
    assert!(changed(&schema::THAWED) <= STEP_ROWS + MORE, "{} thawed ranges", changed(&schema::THAWED));
    assert!(changed(&schema::CONTENTS) <= STEP_ROWS + MORE, "{} rows of contents", changed(&schema::CONTENTS));
    assert!(draft.removes);
}

// Case 27.
#[test]
fn a_large_file_that_lost_its_name_is_reaped_in_steps_from_rows_that_agree() {
    for thawed in [false, true] {
        let mut world = World::new();
        let file = world.packed_rows("a", &many());
        if thawed {
            thaw_many(&mut world, file);
        }
        // Nobody has it open. It is an orphan because one step cannot delete it.
        world.run(|draft| super::super::unlink::unlink(draft, ROOT, b"a").inspect(|()| bounded(draft))).unwrap();
        assert!(world.view().orphan(file).unwrap().is_some());
        world.scan();
        let mut steps = 1;
        while !world.run(|draft| reap_step(draft, file).inspect(|_| bounded(draft))).unwrap() {
            steps += 1;
            world.scan();
        }
        assert_eq!(steps, 3);
        for table in [&schema::ORPHANS, &schema::CONTENTS, &schema::THAWED] {
            assert_eq!(world.rows(table), []);
        }
        world.scan();
    }
}

// Case 27.
#[test]
fn a_small_file_that_nobody_has_open_goes_at_once() {
    let mut world = World::new();
    let file = world.packed_rows("a", &many()[..STEP_ROWS - 10]);
    world.run(|draft| super::super::unlink::unlink(draft, ROOT, b"a")).unwrap();
    assert_eq!((world.view().orphan(file).unwrap(), world.rows(&schema::CONTENTS)), (None, vec![]));
    // Of a content with other users, nothing is deleted, however large it is.
    let file = world.packed_rows("a", &many());
    world.packed_twin("b", file);
    world.run(|draft| super::super::unlink::unlink(draft, ROOT, b"a")).unwrap();
    assert_eq!(world.view().orphan(file).unwrap(), None);
    world.scan();
}

// Case 27.
#[test]
fn a_large_file_is_cut_off_and_punched_in_steps() {
    let bytes = |world: &World, file| world.read(file);
    for size in [0, 5000] {
        let mut world = World::new();
        let file = world.packed_rows("a", &many());
        thaw_many(&mut world, file);
        let mut expected = bytes(&world, file);
        expected.truncate(size as usize);
        let changes = SetAttr { size: Some(size), ..SetAttr::default() };
        let mut steps = 1;
        let step = |draft: &mut Draft, append: &dyn Fn(&[u8]) -> _| {
            set_attr(draft, file, &changes, append).inspect(|_| bounded(draft))
        };
        while world.run_with(&[], step).unwrap().is_none() {
            steps += 1;
            world.scan();
        }
        assert_eq!((steps, bytes(&world, file)), (if size == 0 { 3 } else { 2 }, expected));
        world.scan();
    }
    let mut world = World::new();
    let file = world.packed_rows("a", &many());
    thaw_many(&mut world, file);
    let mut expected = bytes(&world, file);
    let (mut at, end) = (100, 20_000);
    expected[at as usize..end as usize].fill(0);
    let mut steps = 1;
    while let Some(next) = world
        .run_with(&[], |draft, append| {
            fallocate(draft, file, at, end - at, FallocateMode::PunchHole, append).inspect(|_| bounded(draft))
        })
        .unwrap()
    {
        at = next;
        steps += 1;
        world.scan();
    }
    assert_eq!((steps, bytes(&world, file)), (2, expected));
    world.scan();
}

// Case 27.
#[test]
fn a_copy_of_part_of_a_large_file_goes_as_far_as_one_step_may() {
    let mut world = World::new();
    let file = world.packed_rows("a", &many());
    let copy = world.file("b");
    let len = world.row(file).size - 1;
    let mut at = 0;
    while at < len {
        let copied = world.copy((file, at), (copy, at), len - at).unwrap();
        assert!(copied > 0 && copied <= 3 * (STEP_ROWS as u64 + 1));
        at += copied;
        world.scan();
    }
    assert_eq!(world.read(copy), world.read(file)[..len as usize]);
}
