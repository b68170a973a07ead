//! Writing, truncating, punching, copying: which bytes a file has afterwards.

use super::super::copy::copy_range;
use super::super::fallocate::{FallocateMode, fallocate};
use super::super::setattr::{SetAttr, set_attr};
use super::super::truncate::SIZE;
use super::super::unlink::unlink;
use super::super::write::write;
use super::{ROOT, World, extent_bytes, run, subchunk_byte};
use crate::format::ids::{InodeId, SubchunkId};
use crate::format::rows::{ContentRef, ContentRow};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::claims::{Claims, Stamps};
use crate::fs::content::{hole, slice};

impl World {
    pub(super) fn truncate(&mut self, inode: InodeId, size: u64) -> Result<(), FsError> {
        let changes = SetAttr { size: Some(size), ..SetAttr::default() };
        while self.run_with(&[], |draft, append| set_attr(draft, inode, &changes, append))?.is_none() {}
        Ok(())
    }

    pub(super) fn fallocate(
        &mut self,
        inode: InodeId,
        offset: u64,
        len: u64,
        mode: FallocateMode,
    ) -> Result<(), FsError> {
        let (mut at, end) = (offset, offset.saturating_add(len));
        while let Some(next) =
            self.run_with(&[], |draft, append| fallocate(draft, inode, at, end - at, mode, append))?
        {
            at = next;
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, from: (InodeId, u64), to: (InodeId, u64), len: u64) -> Result<u64, FsError> {
        self.run_with(&[], |draft, append| copy_range(draft, from, to, len, append))
    }
}

/// Rows of every kind, 100 bytes.
fn mixed() -> Vec<ContentRow> {
    vec![run(10, &[10, 12, 8]), hole(20), slice(SubchunkId(20), 5, 15), run(30, &[9, 11]), slice(SubchunkId(40), 0, 15)]
}

fn mixed_bytes() -> Vec<u8> {
    mixed().iter().flat_map(extent_bytes).collect()
}

#[test]
fn what_was_written_is_read_and_gaps_are_zeros() {
    let mut world = World::new();
    let file = world.file("a");
    world.write(file, 3, b"hello").unwrap();
    world.write(file, 5, b"LL").unwrap();
    assert_eq!(world.read(file), b"\0\0\0heLLo");
    world.write(file, 7, &[b'x'; 2500]).unwrap();
    assert_eq!(world.read(file)[5..], [&b"LL"[..], &[b'x'; 2500]].concat());
    let row = world.row(file);
    assert_eq!((row.mtime, row.ctime, row.content), (world.now, world.now, ContentRef::None));
    world.scan();
}

#[test]
fn nothing_is_written_beyond_the_largest_size() {
    let mut world = World::new();
    let file = world.file("a");
    world.write(file, SIZE - 2, b"ab").unwrap();
    assert_eq!(world.row(file).size, SIZE);
    assert!(matches!(world.write(file, SIZE - 1, b"ab"), Err(FsError::TooLarge)));
    assert!(matches!(world.write(file, u64::MAX, b"ab"), Err(FsError::TooLarge)));
    assert!(matches!(world.truncate(file, SIZE + 1), Err(FsError::TooLarge)));
    world.truncate(file, 0).unwrap();
    world.scan();
}

// Case 19.
#[test]
fn a_tiny_file_that_changes_becomes_thawed_bytes_in_the_same_step() {
    for (offset, data, expected) in [
        (1, &b"XY"[..], &b"tXYy"[..]),
        (4, b"!", b"tiny!"),
        (6, b"!", b"tiny\0\0!"),
        (0, b"other", b"other"),
        (3, b"Y?", b"tinY?"),
    ] {
        let mut world = World::new();
        let file = world.packed_tiny("a", b"tiny");
        let twin = world.packed_twin("b", file);
        world.write(file, offset, data).unwrap();
        assert_eq!(world.read(file), expected);
        assert_eq!(world.row(file).content, ContentRef::None);
        assert_eq!(world.read(twin), b"tiny");
        world.scan();
        world.write(twin, offset, data).unwrap();
        assert_eq!(world.rows(&schema::TINY), []);
        world.scan();
    }
}

// Case 19.
#[test]
fn a_tiny_file_is_cut_in_place_or_beside_its_twin_and_grows_by_zeros() {
    let mut world = World::new();
    let file = world.packed_tiny("a", b"tiny");
    let twin = world.packed_twin("b", file);
    world.truncate(file, 2).unwrap();
    world.truncate(file, 6).unwrap();
    assert_eq!(world.read(file), b"ti\0\0\0\0");
    world.scan();
    world.truncate(twin, 3).unwrap();
    assert_eq!(world.read(twin), b"tin");
    world.fallocate(twin, 0, 1, FallocateMode::PunchHole).unwrap();
    assert_eq!(world.read(twin), b"\0in");
    world.fallocate(twin, 1, 20, FallocateMode::ZeroRange { keep_size: false }).unwrap();
    assert_eq!(world.read(twin), [0; 21]);
    world.scan();
}

// Case 19.
#[test]
fn a_single_subchunk_whose_size_changes_becomes_a_content_with_a_slice() {
    let subchunk = |len: u64| (0..len).map(|at| subchunk_byte(9, at)).collect::<Vec<_>>();
    for size in [1u64, 49, 50, 51, 90] {
        let mut world = World::new();
        let file = world.packed("a", 50, ContentRef::Subchunk(SubchunkId(9)));
        world.truncate(file, size).unwrap();
        let mut expected = subchunk(size.min(50));
        expected.resize(size as usize, 0);
        assert_eq!(world.read(file), expected);
        assert_eq!(matches!(world.row(file).content, ContentRef::Content(_)), size != 50);
        world.scan();
    }
    let mut world = World::new();
    let file = world.packed("a", 50, ContentRef::Subchunk(SubchunkId(9)));
    world.write(file, 3, b"xy").unwrap();
    assert_eq!(world.row(file).content, ContentRef::Subchunk(SubchunkId(9)));
    world.write(file, 49, b"zz").unwrap();
    let mut expected = subchunk(51);
    expected[3..5].copy_from_slice(b"xy");
    expected[49..].copy_from_slice(b"zz");
    assert_eq!(world.read(file), expected);
    world.scan();
}

// Case 19.
#[test]
fn what_was_cut_off_never_comes_back() {
    for size in 0..=100 {
        let mut world = World::new();
        let file = world.packed_rows("a", &mixed());
        let twin = world.packed_twin("b", file);
        world.write(file, 25, b"thawed").unwrap();
        let mut expected = world.read(file);
        world.truncate(file, size).unwrap();
        world.scan();
        world.truncate(file, 120).unwrap();
        expected.truncate(size as usize);
        expected.resize(120, 0);
        assert_eq!(world.read(file), expected, "cut at {size}");
        assert_eq!(world.read(twin), mixed_bytes());
        world.scan();
        // If there is only one user left, its content is changed in place.
        let before = world.row(twin).content;
        world.truncate(twin, size.max(1)).unwrap();
        assert!(size < 1 || world.row(twin).content == before);
        world.scan();
    }
}

#[test]
fn a_punched_range_reads_as_zeros_and_nothing_else_changes() {
    for from in 0..100 {
        for len in [1, 7, 30, 200] {
            let mut world = World::new();
            let file = world.packed_rows("a", &mixed());
            let twin = if from % 2 == 0 { Some(world.packed_twin("b", file)) } else { None };
            world.write(file, 40, b"thawed").unwrap();
            let mut expected = world.read(file);
            world.fallocate(file, from, len, FallocateMode::PunchHole).unwrap();
            expected.iter_mut().skip(from as usize).take(len as usize).for_each(|byte| *byte = 0);
            assert_eq!(world.read(file), expected, "punched {len} from {from}");
            assert!(twin.is_none_or(|twin| world.read(twin) == mixed_bytes()));
            world.scan();
        }
    }
}

#[test]
fn a_content_that_is_punched_in_its_middle_is_uneven() {
    let mut world = World::new();
    let file = world.packed_rows("a", &mixed());
    assert!(!world.row(file).is_uneven());
    world.fallocate(file, 5, 10, FallocateMode::PunchHole).unwrap();
    assert!(world.row(file).is_uneven());
    assert_eq!(world.row(file).allocated(), Some(70));
    // Without a content there is nothing to record about it.
    world.truncate(file, 0).unwrap();
    assert_eq!(world.row(file).attributes, []);
}

#[test]
fn allocating_changes_the_size_alone_and_zeroing_makes_holes() {
    let mut world = World::new();
    let file = world.packed_tiny("a", b"tiny");
    world.fallocate(file, 2, 98, FallocateMode::KeepSize).unwrap();
    assert_eq!(world.read(file), b"tiny");
    world.fallocate(file, 2, 98, FallocateMode::Allocate).unwrap();
    assert_eq!(world.read(file), [&b"tiny"[..], &[0; 96]].concat());
    world.fallocate(file, 1, 200, FallocateMode::ZeroRange { keep_size: true }).unwrap();
    assert_eq!(world.read(file), [&b"t"[..], &[0; 99]].concat());
    world.fallocate(file, 0, 101, FallocateMode::ZeroRange { keep_size: false }).unwrap();
    assert_eq!((world.read(file), world.rows(&schema::THAWED)), (vec![0; 101], vec![]));
    assert!(matches!(world.fallocate(file, 0, 0, FallocateMode::Allocate), Err(FsError::Invalid)));
    assert!(matches!(world.fallocate(file, SIZE, 1, FallocateMode::Allocate), Err(FsError::TooLarge)));
    let dir = world.dir(ROOT, "d");
    assert!(matches!(world.fallocate(dir, 0, 1, FallocateMode::Allocate), Err(FsError::IsDirectory)));
    world.scan();
}

#[test]
fn any_range_is_copied_between_files_of_every_kind() {
    for kind in 0..5 {
        for target_kind in 0..5 {
            for (from, to, len) in [(0, 0, 100), (0, 0, 2), (3, 50, 60), (1, 0, 3), (35, 7, 25), (0, 200, 1000)] {
                let mut world = World::new();
                let make = |world: &mut World, name: &str, kind| match kind {
                    0 => world.packed_rows(name, &mixed()),
                    1 => world.packed_tiny(name, b"tiny"),
                    2 => world.packed(name, 50, ContentRef::Subchunk(SubchunkId(9))),
                    3 => world.packed(name, 40, ContentRef::None),
                    _ => {
                        let file = world.packed_rows(name, &mixed());
                        world.write(file, 10, b"some that is thawed").unwrap();
                        world.write(file, 90, b"and more").unwrap();
                        file
                    }
                };
                let (source, target) = (make(&mut world, "a", kind), make(&mut world, "b", target_kind));
                let (bytes, mut expected) = (world.read(source), world.read(target));
                let copied = world.copy((source, from), (target, to), len).unwrap() as usize;
                assert_eq!(copied, (len as usize).min(bytes.len().saturating_sub(from as usize)));
                let end = to as usize + copied;
                if copied > 0 {
                    expected.resize(expected.len().max(end), 0);
                    expected[to as usize..end].copy_from_slice(&bytes[from as usize..][..copied]);
                }
                assert_eq!(world.read(target), expected, "{kind} to {target_kind}: {len} bytes from {from} to {to}");
                assert_eq!(world.read(source), bytes);
                world.scan();
            }
        }
    }
}

#[test]
fn a_file_that_is_copied_whole_shares_its_content() {
    let mut world = World::new();
    for (name, source) in [
        ("content", world.packed_rows("a", &mixed())),
        ("tiny", world.packed_tiny("b", b"tiny")),
        ("subchunk", world.packed("c", 50, ContentRef::Subchunk(SubchunkId(9)))),
    ] {
        let copy = world.file(name);
        let size = world.row(source).size;
        assert_eq!(world.copy((source, 0), (copy, 0), 1 << 20).unwrap(), size);
        assert_eq!(world.row(copy).content, world.row(source).content);
        assert_eq!(world.read(copy), world.read(source));
        world.scan();
    }
    let file = world.file("self");
    world.write(file, 0, b"0123456789").unwrap();
    assert!(matches!(world.copy((file, 0), (file, 5), 6), Err(FsError::Invalid)));
    assert_eq!(world.copy((file, 0), (file, 5), 5).unwrap(), 5);
    assert_eq!(world.read(file), b"0123401234");
    assert_eq!(world.copy((file, 10), (file, 0), 5).unwrap(), 0);
}

#[test]
fn lost_bytes_are_not_copied() {
    use crate::format::ids::LogOffset;
    use crate::format::transaction::Thawed;
    let mut world = World::new();
    let (file, copy) = (world.file("a"), world.file("b"));
    world.write(file, 0, &[b'x'; 30]).unwrap();
    let lost = Thawed { inode: file, offset: 10, len: 5, frame: LogOffset(0), within: 0, sum: 0 };
    world.run(|draft| draft.thaw(lost)).unwrap();
    assert_eq!(world.copy((file, 0), (copy, 0), 30).unwrap(), 10);
    assert!(matches!(world.copy((file, 10), (copy, 10), 30), Err(FsError::Io(_))));
    assert_eq!(world.copy((file, 15), (copy, 15), 30).unwrap(), 15);
    assert_eq!(world.read(copy), [&[b'x'; 10][..], &[0; 5], &[b'x'; 15]].concat());
    world.scan();
}

/// Whether a second draft may count after the first one did.
pub(super) fn both_count(first: &Claims, second: &Claims) -> bool {
    let mut stamps = Stamps::new();
    stamps.set(first, 1);
    stamps.hold(second, 0)
}

// Case 7.
#[test]
fn a_content_that_loses_its_last_user_gets_no_new_one() {
    for tiny in [false, true] {
        let mut world = World::new();
        let source = if tiny { world.packed_tiny("a", b"tiny") } else { world.packed_rows("a", &mixed()) };
        let copy = world.file("b");
        let append = |_: &[u8]| unreachable!();
        let (mut copying, mut removing) = (world.draft(), world.draft());
        copy_range(&mut copying, (source, 0), (copy, 0), 100, &append).unwrap();
        unlink(&mut removing, ROOT, b"a").unwrap();
        assert!(!both_count(&copying.claims, &removing.claims));
        assert!(!both_count(&removing.claims, &copying.claims));
        // The one that is evaluated again finds what the other did.
        world.run(|draft| unlink(draft, ROOT, b"a")).unwrap();
        assert!(matches!(world.copy((source, 0), (copy, 0), 100), Err(FsError::NotFound)));
        world.scan();
    }
}

// Case 7.
#[test]
fn of_two_users_that_change_a_content_the_last_alone_changes_it_in_place() {
    let mut world = World::new();
    let one = world.packed_rows("a", &mixed());
    let other = world.packed_twin("b", one);
    let append = |_: &[u8]| unreachable!();
    let cut = SetAttr { size: Some(50), ..SetAttr::default() };
    let (mut first, mut second) = (world.draft(), world.draft());
    set_attr(&mut first, one, &cut, &append).unwrap();
    set_attr(&mut second, other, &cut, &append).unwrap();
    assert!(!both_count(&first.claims, &second.claims) && !both_count(&second.claims, &first.claims));
    let shared = world.row(one).content;
    world.truncate(one, 50).unwrap();
    world.truncate(other, 50).unwrap();
    assert_ne!(world.row(one).content, shared);
    assert_eq!(world.row(other).content, shared);
    world.scan();
}

#[test]
fn writing_takes_privileges_away_where_it_is_asked_to() {
    let mut world = World::new();
    let file = world.file("a");
    let changes = SetAttr { mode: Some(0o6755), ..SetAttr::default() };
    world.run_with(&[], |draft, append| set_attr(draft, file, &changes, append)).unwrap();
    world.write(file, 0, b"x").unwrap();
    assert_eq!(world.row(file).permissions, 0o6755);
    world.run_with(b"y", |draft, append| write(draft, file, 0, 1, true, append)).unwrap();
    assert_eq!(world.row(file).permissions, 0o755);
}
