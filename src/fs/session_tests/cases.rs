//! The numbered cases of the start and of recovery.

use super::*;
use crate::format::frame::{Flags, FrameKind};
use crate::format::limits;
use crate::log::NewFrame;
use crate::meta::{Heads, MetaError};
use crate::storage::Operation as Op;
use crate::storage::testing::FaultyStorage;

/// A disk in memory whose parts can be examined.
struct Parts {
    image: Arc<MemoryStorage>,
    folder: Arc<MemoryFolder>,
    home: Arc<FolderHome>,
}

impl Parts {
    fn new(remains: Remains) -> Self {
        let folder = Arc::new(MemoryFolder::from_segments(remains.segments));
        let home = Arc::new(FolderHome::new(folder.clone()));
        Parts { image: Arc::new(MemoryStorage::from_bytes(remains.image)), folder, home }
    }

    fn disk(&self) -> Disk {
        Disk { storage: self.image.clone(), home: self.home.clone() }
    }

    fn remains(&self) -> Remains {
        Remains { image: self.image.to_bytes(), segments: self.folder.to_segments() }
    }
}

/// Files a and b are committed, and the log records that they are durable. With `contained`, there is a checkpoint
/// between.
fn two_files(contained: bool) -> Parts {
    let parts = Parts::new(empty_image());
    let mut session = parts.disk().begin(0x11).unwrap();
    session.create("a", &bytes(1, 3000));
    session.commit();
    if contained {
        session.checkpoint();
    }
    session.create("b", &bytes(2, 2000));
    session.commit();
    session.log().commit(Vec::new(), 0, (0, 0)).unwrap();
    parts
}

/// The frame with the first written bytes of a file.
fn frame_of(found: &Found, inode: u64) -> u64 {
    let view = view_of(found);
    let (_, row) = view.thawed(InodeId(inode), 0).unwrap().next(&view).unwrap().unwrap();
    let ThawedBytes::InLog { frame, .. } = row.bytes else { panic!("it is lost") };
    frame.0
}

fn flip(parts: &Parts, offset: u64) -> Parts {
    let mut remains = parts.remains();
    remains.segments.get_mut(&(offset / SEGMENT)).unwrap()[(offset % SEGMENT) as usize] ^= 4;
    Parts::new(remains)
}

// Case 1.
#[test]
fn only_what_the_root_does_not_contain_is_replayed() {
    for contained in [false, true] {
        let disk = two_files(contained).disk();
        let found = disk.look().unwrap();
        let back = found.brought_back().unwrap();
        let expected = if contained { (1, 2000, 1) } else { (2, 5000, 2) };
        assert_eq!((back.files, back.bytes, back.commits), expected);
        let files = found_files(&found, "");
        assert_eq!((files["a"].as_ref(), files["b"].as_ref()), (Some(&bytes(1, 3000)), Some(&bytes(2, 2000))));
    }
}

// Case 1.
#[test]
fn a_root_that_names_another_end_of_its_last_transaction_is_not_built_upon() {
    let parts = Parts::new(empty_image());
    let mut session = parts.disk().begin(0x11).unwrap();
    session.create("a", &bytes(1, 3000));
    session.commit();
    session.last.1.0 += 64;
    session.checkpoint();
    drop(session);
    let before = parts.remains();
    assert!(matches!(parts.disk().look(), Err(StartError::Damaged { .. })));
    assert_eq!(parts.remains(), before);
}

// Case 9.
//= format-spec.md#11.3
//= type=test
//# After a replay each counter is above the last keys of the tables with its ids (9).
#[test]
fn counters_only_grow_and_are_above_all_ids_after_a_replay() {
    let parts = Parts::new(empty_image());
    let mut session = parts.disk().begin(0x11).unwrap();
    session.create("a", b"a");
    session.counters.content = 70;
    session.commit();
    // A smaller counter in a later transaction is ignored.
    let small = Counters { inode: session.counters.inode, ..Counters::default() };
    session.log().commit(vec![Operation::Counters(small)], 0, (0, 0)).unwrap();
    drop(session);
    let counters = parts.disk().look().unwrap().replayed().counters;
    assert_eq!((counters.inode, counters.content), (small.inode, 70));
    let mut session = parts.disk().begin(0x11).unwrap();
    session.create("b", b"b");
    session.counters.inode -= 1;
    session.commit();
    drop(session);
    let refused = parts.disk().look().err().unwrap();
    assert!(matches!(refused, StartError::Meta(MetaError::Unfit { .. })), "{refused}");
}

//= format-spec.md#11.3
//= type=test
//# The operations on rows apply to all tables, also to the map; only operations 3 and 4 change rows of table `thawed`.
#[test]
fn a_transaction_that_changes_a_thawed_range_as_a_row_is_not_replayed() {
    let parts = two_files(false);
    let row = Row { key: Key::new(2, 0), ints: vec![5, 0, 0], tail: vec![0; 8] };
    for operation in [
        Operation::Put(&schema::THAWED, row),
        Operation::Delete(&schema::THAWED, Key::new(2, 0)),
        Operation::DeleteRange(&schema::THAWED, Key::new(2, 0), Key::new(3, 0)),
    ] {
        let parts = Parts::new(parts.remains());
        let mut session = parts.disk().begin(0x11).unwrap();
        session.pending.push(operation);
        session.commit();
        drop(session);
        assert!(matches!(parts.disk().look(), Err(StartError::Damaged { .. })));
    }
}

#[test]
fn a_range_of_keys_that_is_deleted_goes_from_version_and_overlay() {
    let parts = Parts::new(empty_image());
    let mut session = parts.disk().begin(0x11).unwrap();
    for name in ["a", "b", "c"] {
        session.create(name, name.as_bytes());
    }
    session.commit();
    session.checkpoint();
    session.create("bb", b"bb");
    session.commit();
    let view = session.view.clone();
    let gone = ["b", "bb"].map(|name| view.lookup(InodeId(1), name.as_bytes()).unwrap().unwrap().inode);
    let (from, to) = (Key::named(1, b"b"), Key::named(1, b"c"));
    session.pending.push(Operation::DeleteRange(&schema::DIRENTS, from, to));
    for inode in gone {
        session.delete(&schema::INODES, Key::new(inode.0, 0));
        session.range(inode, 0, 9, None);
    }
    session.commit();
    drop(session);
    let files = found_files(&parts.disk().look().unwrap(), "");
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "c"]);
}

// Case 15.
//= format-spec.md#11.6
//= type=test
//# A log that does not fit is set aside and reported; it must never be replayed.
#[test]
fn a_log_that_does_not_fit_is_set_aside_where_nothing_needs_it_and_else_refused() {
    let log = two_files(true).remains();
    // Another image, which is clean.
    let storage = Arc::new(MemoryStorage::new());
    empty_into(storage.clone(), &PackOptions { seed: Some([9; 32]), ..PackOptions::default() }).unwrap();
    let another = storage.to_bytes();
    // And this one, as it was before the log was begun.
    for image in [another, empty_image().image] {
        let parts = Parts::new(Remains { image, segments: log.segments.clone() });
        let found = parts.disk().look().unwrap();
        assert!(found.set_aside_reason().unwrap().contains("does not fit"));
        assert_eq!((found_files(&found, "").len(), found.brought_back()), (0, None));
        assert_eq!(parts.folder.to_segments(), log.segments, "looking changes nothing");
        let session = Session::begin(&parts.disk(), found, 0x77).unwrap();
        assert!(session.writer.set_aside.is_some());
        assert_eq!(parts.home.aside(), std::slice::from_ref(&log.segments));
    }
    // A log that ends before what the root contains, and an image that is shorter than the log says.
    let parts = Parts::new(empty_image());
    let mut session = parts.disk().begin(0x11).unwrap();
    session.create("a", b"a");
    session.commit();
    let early = parts.folder.to_segments();
    session.create("b", b"b");
    session.commit();
    session.checkpoint();
    let len = parts.image.to_bytes().len() as u64;
    session.log().commit(vec![Operation::Checkpoint { generation: 1 }], len + 4096, (0, 0)).unwrap();
    drop(session);
    let old = Remains { image: parts.image.to_bytes(), segments: early };
    for remains in [old, parts.remains()] {
        let parts = Parts::new(remains);
        let before = parts.remains();
        let refused = parts.disk().look().err().unwrap();
        assert!(matches!(refused, StartError::LogMissing { misfit: Some(_), .. }), "{refused}");
        assert_eq!(parts.remains(), before);
    }
}

// Case 20.
#[test]
fn a_log_with_commits_is_never_passed_over_whatever_the_slots_say() {
    for keep_id in [true, false] {
        let parts = two_files(false);
        let mut heads = Heads::read(parts.image.clone()).unwrap();
        heads
            .publish(|head| {
                head.clean = true;
                head.thaw_log_id = if keep_id { head.thaw_log_id } else { 0 };
            })
            .unwrap();
        let found = parts.disk().look().unwrap();
        assert_eq!(found.brought_back().is_some(), keep_id);
        assert_eq!(found.set_aside_reason().is_some(), !keep_id);
    }
    // Nor does anybody miss the log if it is gone.
    for contained in [false, true] {
        let image = two_files(contained).image.to_bytes();
        let refused = Disk::of(Remains { image, segments: BTreeMap::new() }).look().err().unwrap();
        assert!(matches!(refused, StartError::LogMissing { misfit: None, .. }), "{refused}");
    }
}

// Case 20.
#[test]
fn a_log_that_no_root_needs_goes_after_both_slots_are_clean() {
    // As a crash leaves it: with one slot clean, with both clean, and before anything was committed.
    let complete = || {
        let parts = Parts::new(empty_image());
        let mut session = parts.disk().begin(0x11).unwrap();
        session.create("a", b"");
        session.commit();
        session.checkpoint();
        drop(session);
        parts
    };
    let with_slots_clean = |index: Option<usize>| {
        let parts = complete();
        let before = parts.image.to_bytes();
        let mut heads = Heads::read(parts.image.clone()).unwrap();
        heads
            .publish(|head| {
                head.clean = true;
                head.thaw_log_id = 0;
            })
            .unwrap();
        let mut image = parts.image.to_bytes();
        if let Some(slot) = index {
            let range = slot * 16384..(slot + 1) * 16384;
            image[range.clone()].copy_from_slice(&before[range]);
        }
        Remains { image, segments: parts.folder.to_segments() }
    };
    let empty = Parts::new(empty_image());
    drop(empty.disk().begin(0x11).unwrap());
    let left = [
        complete().remains(),
        with_slots_clean(None),
        with_slots_clean(Some(0)),
        with_slots_clean(Some(1)),
        empty.remains(),
    ];
    for (n, remains) in left.into_iter().enumerate() {
        assert!(!remains.segments.is_empty());
        let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(remains.image)));
        let folder = Arc::new(faulty.folder(MemoryFolder::from_segments(remains.segments)));
        let disk = Disk::new(faulty.clone(), folder);
        let found = disk.look().unwrap_or_else(|e| panic!("{n}: {e}"));
        assert_eq!((found.brought_back(), found.set_aside_reason()), (None, None), "{n}");
        let files = found_files(&found, "");
        let from = faulty.records().len();
        let session = Session::begin(&disk, found, 0x12).unwrap();
        assert_eq!(session.files(), files);
        let records: Vec<_> = faulty.records()[from..].iter().map(|record| record.operation).collect();
        let removal = records.iter().position(|&op| op == Op::Remove).unwrap();
        let slots = records[..removal].iter().filter(|&&op| op == Op::ReplaceHead).count();
        let synced = records[..removal].iter().filter(|&&op| op == Op::Sync).count();
        assert!(slots == 2 && synced >= 2, "{n}: {records:?}");
        assert!(session.writer.heads.slots().all(|head| !head.clean && head.thaw_log_id == 0x12));
    }
}

#[test]
fn looking_writes_nothing_and_no_log_id_is_used_twice() {
    let history = History::new(two_files(true).remains());
    let disk = Disk::recording(&history);
    drop(disk.look().unwrap());
    assert!(history.is_empty());
    let parts = Parts::new(empty_image());
    // A log into which nothing came is removed at the end. The second session does not end properly.
    assert_eq!(Parts::new(empty_image()).disk().begin(0x11).unwrap().end(), Finished::Removed);
    drop(parts.disk().begin(0x11).unwrap());
    // The slots name its log, though nothing was committed to it.
    let image = Heads::read(parts.image.clone()).unwrap().newest().log_id;
    for random in [0, 0x11, image] {
        let session = Parts::new(parts.remains()).disk().begin(random).unwrap();
        let log_id = session.writer.heads.newest().thaw_log_id;
        assert_eq!(session.writer.log.log_id(), log_id);
        assert!(![0, 0x11, image].contains(&log_id));
    }
    assert_eq!(parts.disk().begin(0x12).unwrap().writer.log.log_id(), 0x12);
}

// Case 22.
//= format-spec.md#11.5
//= type=test
//# A range is lost if it names a frame in such bytes, or a frame at an offset where the log has no bytes. No other
//# range is lost.
#[test]
fn a_damaged_frame_of_written_bytes_costs_the_ranges_that_name_it() {
    for contained in [false, true] {
        let parts = two_files(contained);
        let found = parts.disk().look().unwrap();
        let parts = flip(&parts, frame_of(&found, 2) + 9);
        let found = parts.disk().look().unwrap();
        let lost = Thawed { inode: InodeId(2), offset: 0, len: 3000, frame: Thawed::LOST, within: 0, sum: 0 };
        assert_eq!(found.replayed().lost, [Operation::Thawed(lost)]);
        let files = found_files(&found, "");
        assert_eq!((&files["a"], files["b"].as_ref()), (&None, Some(&bytes(2, 2000))));
        // The next commit records them as lost, and they stay lost.
        let mut session = Session::begin(&parts.disk(), found, 0x12).unwrap();
        session.commit();
        drop(session);
        assert_eq!(found_files(&parts.disk().look().unwrap(), ""), files);
        let mut session = parts.disk().begin(0x12).unwrap();
        session.create("c", b"c");
        session.commit();
        session.checkpoint();
        assert!(matches!(session.end(), Finished::Kept { .. }));
        let found = parts.disk().look().unwrap();
        let version = View::of(Arc::clone(found.image()));
        assert_eq!(files_lost(&version), [2]);
        // After they are overwritten, the file is whole again.
        let mut session = Session::begin(&parts.disk(), found, 0x12).unwrap();
        session.write(InodeId(2), 0, &bytes(5, 3000));
        session.commit();
        drop(session);
        assert_eq!(found_files(&parts.disk().look().unwrap(), "")["a"], Some(bytes(5, 3000)));
    }
}

/// The inodes with lost ranges.
fn files_lost(view: &View) -> Vec<u64> {
    let mut lost = Vec::new();
    let mut cursor = view.cursor_at(&schema::THAWED, KeyRef::new(0, 0)).unwrap();
    while let Some(row) = cursor.row() {
        if row.ints()[1] == 0 {
            lost.push(row.key().a);
        }
        cursor.advance(view).unwrap();
    }
    lost
}

// Case 22.
#[test]
fn a_log_with_a_damaged_transaction_is_refused_and_nothing_is_overwritten() {
    let parts = two_files(false);
    let found = parts.disk().look().unwrap();
    // The transaction after the written bytes of file a.
    let parts = flip(&parts, frame_of(&found, 2) + 64 + 3000 + 70);
    let before = parts.remains();
    let refused = parts.disk().look().err().unwrap();
    assert!(matches!(refused, StartError::Damaged { .. }), "{refused}");
    assert_eq!(parts.remains(), before);
}

// Case 25.
#[test]
fn a_writer_goes_on_after_the_last_frame_that_counts_and_cuts_off_what_is_after_it() {
    let parts = Parts::new(empty_image());
    let mut session = parts.disk().begin(0x11).unwrap();
    let head = session.writer.heads.newest().clone();
    assert_eq!(session.writer.image.next_sequence(), u64::from(head.epoch) << 40);
    let pad = |session: &mut Session| {
        let frame = NewFrame {
            kind: FrameKind::PAD,
            codec: 0,
            flags: Flags::default(),
            clear: &[],
            stored: &[0; 5000],
            raw_len: 5000,
            sum: crate::format::sums::xxh3(&[0; 5000]),
        };
        session.writer.image.append(frame).unwrap();
        session.writer.image.sync().unwrap();
    };
    // Frames that a commit counts, followed by frames that none counts.
    pad(&mut session);
    let counted = session.writer.image.end();
    session.create("a", b"a");
    session.commit();
    pad(&mut session);
    drop(session);
    assert!(parts.image.to_bytes().len() as u64 > counted && counted > head.log_end.0);
    let session = parts.disk().begin(0x12).unwrap();
    assert_eq!((session.writer.image.end(), parts.image.to_bytes().len() as u64), (counted, counted));
    let again = session.writer.heads.newest();
    assert_eq!((again.epoch, again.log_end), (head.epoch + 1, head.log_end));
    assert!(session.writer.heads.slots().all(|slot| slot.epoch == again.epoch));
    assert_eq!(session.writer.image.next_sequence(), u64::from(again.epoch) << 40);
    // Without a log, no frames are counted.
    let mut image = empty_image().image;
    let end = image.len();
    image.extend_from_slice(&[7; 5000]);
    let parts = Parts::new(Remains { image, segments: BTreeMap::new() });
    parts.disk().begin(0x11).unwrap();
    assert_eq!(parts.image.to_bytes().len(), end);
}

// Case 25.
#[test]
fn the_last_epoch_is_not_passed() {
    let parts = Parts::new(empty_image());
    let mut heads = Heads::read(parts.image.clone()).unwrap();
    heads.publish(|head| head.epoch = limits::EPOCH - 2).unwrap();
    drop(parts.disk().begin(0x11).unwrap());
    assert_eq!(Heads::read(parts.image.clone()).unwrap().newest().epoch, limits::EPOCH - 1);
    let before = parts.remains();
    assert!(matches!(parts.disk().look(), Err(StartError::NoEpoch { .. })));
    assert_eq!(parts.remains(), before);
}

#[test]
fn on_a_real_disk_a_log_is_begun_gone_on_with_and_leaves_nothing_but_the_image() {
    use crate::storage::{Access, DirectoryHome, FileStorage, HomeOptions};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.floe");
    std::fs::write(&path, empty_image().image).unwrap();
    let names = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let open = |elsewhere: Option<&str>| {
        let elsewhere = elsewhere.map(|name| dir.path().join(name));
        let home = DirectoryHome::new(&path, HomeOptions { elsewhere, volatile: true }).unwrap();
        Disk { storage: Arc::new(FileStorage::open(&path, Access::ReadWrite).unwrap()), home: Arc::new(home) }
    };
    for elsewhere in [None, Some("log")] {
        drop(open(elsewhere).look().unwrap());
        assert_eq!(names(), ["a.floe"]);
        let mut session = open(elsewhere).begin(0x11).unwrap();
        session.create("a", &bytes(1, 9000));
        session.commit();
        session.checkpoint();
        let expected = session.files();
        let Finished::Kept { bytes, place } = session.end() else { panic!("bytes are in the log alone") };
        assert!(bytes > 9000 && place.ends_with(elsewhere.unwrap_or("a.floe.thaw")), "{place}");
        // Without the place of the log.
        let mut session = open(None).begin(0x12).unwrap();
        assert_eq!(session.files(), expected);
        session.remove("a");
        session.commit();
        session.checkpoint();
        assert_eq!(session.end(), Finished::Removed);
        assert_eq!(names(), ["a.floe"]);
    }
}
