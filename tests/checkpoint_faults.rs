//! Checkpoints that fail, and those ended by a power cut. The previous state stays, and the checkpoint can be retried
//! unless it is unknown what is durable.

#[path = "common/rows.rs"]
mod rows;

use floe::care::{CheckObserver, CheckOptions, check};
use floe::format::block::Key;
use floe::format::ids::InodeId;
use floe::format::rows::{ContentRef, FileType, Time};
use floe::meta::{CheckpointError, Image, ImageOptions, Overlay, estimate, write_checkpoint};
use floe::storage::testing::{Fate, Fault, FaultyStorage, History, MemoryStorage, Remains};
use floe::storage::{Operation, Storage};
use rows::{Writer, empty_image};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

const BLOCK: u32 = 4096;

struct Silent;
impl CheckObserver for Silent {}

/// The report must be clean.
fn is_sound(bytes: Vec<u8>, what: &str) {
    let report = check(Arc::new(MemoryStorage::from_bytes(bytes)), &CheckOptions::default(), &Silent).expect(what);
    assert!(report.readable && !report.damaged(), "{what}: {:?}", &report.findings[..2.min(report.findings.len())]);
}

/// The number of names in the root directory; the image must be sound.
fn names(bytes: &[u8], what: &str) -> usize {
    is_sound(bytes.to_vec(), what);
    let image = Image::open(Arc::new(MemoryStorage::from_bytes(bytes.to_vec())), ImageOptions::default());
    let image = image.unwrap_or_else(|error| panic!("{what}: {error}"));
    image.tree(&floe::format::schema::DIRENTS).rows as usize
}

fn files(writer: &mut Writer, from: usize, count: usize) -> Overlay {
    let mut changes = Overlay::default();
    for n in from..from + count {
        writer.tiny_file(&mut changes, &format!("file {n:06}"), format!("the bytes of file {n}").as_bytes());
    }
    changes
}

// Case 12.
#[test]
fn checkpoints_follow_one_another_and_each_image_is_sound() {
    let storage = Arc::new(MemoryStorage::from_bytes(empty_image(BLOCK)));
    let mut writer = Writer::open(storage.clone()).unwrap();
    let mut count = 0;
    for round in 0..6 {
        let mut changes = files(&mut writer, 1000 * round, 200);
        writer.thawed_file(&mut changes, &format!("thawed {round}"), 100_000);
        count += 201;
        if round > 0 {
            for n in 0..150 {
                writer.remove_tiny(&mut changes, &format!("file {:06}", 1000 * (round - 1) + n));
            }
            count -= 150;
        }
        let written = writer.checkpoint(&changes).unwrap();
        let root = writer.version.root();
        assert_eq!((root.thaw_log_id, root.thaw_transaction, root.thaw_offset), (3, 4, 5));
        assert_eq!((root.time, root.time_ns), (1_800_000_000, 7));
        assert!(root.interior_offset < written.place.offset.0);
        assert_eq!(written.counters.subchunk, root.next_subchunk);
        assert_eq!(names(&storage.to_bytes(), "after a checkpoint"), count);
        writer.version.fit_for_writing().unwrap();
    }
    // Another writer continues from it.
    let mut writer = Writer::open(Arc::new(MemoryStorage::from_bytes(storage.to_bytes()))).unwrap();
    let changes = files(&mut writer, 90_000, 10);
    writer.checkpoint(&changes).unwrap();
    assert_eq!(writer.version.tree(&floe::format::schema::DIRENTS).rows as usize, count + 10);
}

#[test]
fn a_checkpoint_of_no_changes_is_a_root_with_the_trees_of_the_one_before() {
    let storage = Arc::new(MemoryStorage::from_bytes(empty_image(BLOCK)));
    let mut writer = Writer::open(storage.clone()).unwrap();
    let before = *writer.version.root();
    writer.checkpoint(&Overlay::default()).unwrap();
    let root = writer.version.root();
    assert_eq!((root.view, root.map, root.next_subchunk), (before.view, before.map, before.next_subchunk));
    assert_eq!((root.packed_time, root.unique_bytes), (before.packed_time, before.unique_bytes));
    names(&storage.to_bytes(), "after a checkpoint of nothing");
}

// Cases 2 and 12.
#[test]
fn a_power_cut_at_any_event_around_two_checkpoints_leaves_a_state_that_was_published() {
    let history = History::new(Remains { image: empty_image(BLOCK), segments: BTreeMap::new() });
    let storage: Arc<dyn Storage> = Arc::new(history.storage());
    let mut writer = Writer::open(storage).unwrap();
    let mut published = vec![(0, 0)];
    for round in 0..2 {
        let changes = files(&mut writer, 1000 * round, 60);
        writer.checkpoint(&changes).unwrap();
        // The new root is durable from the sync of its first slot on: two events before the end.
        published.push((history.len() - 2, 60 * (round + 1)));
    }
    let torn = (0..8).flat_map(|sector| [1u64 << sector, !(1 << sector)]);
    let torn = torn.flat_map(|sectors| [(sectors, true, false), (sectors, false, true)]);
    let torn = torn.map(|(sectors, length, block)| Fate::Torn { sectors, length, block });
    let fates: Vec<Fate> = [Fate::Kept, Fate::Dropped].into_iter().chain(torn).collect();
    for n in 0..=history.len() {
        let durable = published.iter().rev().find(|(at, _)| *at <= n).unwrap().1;
        let mut seen = Vec::new();
        for fates in subsets(&fates, history.loose(n), n as u64) {
            let mut each = fates.iter().copied();
            let remains = history.cut(n, || each.next().unwrap_or(Fate::Kept)).image;
            if seen.contains(&remains) {
                continue;
            }
            let what = format!("{fates:?} after {n} events");
            let image = Image::open(Arc::new(MemoryStorage::from_bytes(remains.clone())), ImageOptions::default());
            let image = image.unwrap_or_else(|error| panic!("{what}: {error}"));
            let now = image.tree(&floe::format::schema::DIRENTS).rows as usize;
            assert!(published.iter().any(|(_, count)| *count == now) && now >= durable, "{what}: {now} names");
            // All of it is readable, and a writer can continue.
            for name in 0..now {
                let name = format!("file {:06}", 1000 * (name / 60) + name % 60);
                let entry = image.lookup(InodeId::ROOT, name.as_bytes()).unwrap().expect(&name);
                assert!(image.inode(entry.inode).unwrap().is_some(), "{what}");
            }
            let storage = Arc::new(MemoryStorage::from_bytes(remains.clone()));
            let mut writer = Writer::open(storage.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
            let changes = files(&mut writer, 50_000, 3);
            writer.checkpoint(&changes).unwrap();
            assert_eq!(names(&storage.to_bytes(), &what), now + 3);
            seen.push(remains);
        }
    }
}

/// Fates of `loose` changes: all the same; each alone kept, dropped or torn while the others are kept or dropped; and
/// arbitrary ones, by seed.
fn subsets(fates: &[Fate], loose: usize, seed: u64) -> Vec<Vec<Fate>> {
    let mut all: Vec<Vec<Fate>> = fates.iter().map(|&fate| vec![fate; loose]).collect();
    for others in [Fate::Kept, Fate::Dropped] {
        for alone in 0..loose {
            all.extend(fates.iter().map(|&fate| {
                let mut each = vec![others; loose];
                each[alone] = fate;
                each
            }));
        }
    }
    for round in 0..32 {
        let any = |at: u64| fates[(mixed(seed << 32 | round << 16 | at) % fates.len() as u64) as usize];
        all.push((0..loose as u64).map(any).collect());
    }
    all
}

// Case 24.
#[test]
fn a_checkpoint_that_fails_in_a_write_leaves_nothing_and_succeeds_later() {
    let start = empty_image(BLOCK);
    let appends = {
        let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(start.clone())));
        let mut writer = Writer::open(faulty.clone()).unwrap();
        let changes = files(&mut writer, 0, 100);
        let before = faulty.records().iter().filter(|record| record.operation == Operation::Append).count();
        writer.checkpoint(&changes).unwrap();
        faulty.records().iter().filter(|record| record.operation == Operation::Append).count() - before
    };
    assert!(appends > 5, "{appends} appends");
    for n in 0..appends as u64 {
        let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(start.clone())));
        let mut writer = Writer::open(faulty.clone()).unwrap();
        let changes = files(&mut writer, 0, 100);
        let (before, end) = (faulty.inner().to_bytes(), writer.log.end());
        // Some bytes of the frame reach the disk. The pad at the end, too, may find no space.
        faulty.fail_short(n, 100, Fault::Enospc);
        let mut log = writer.log;
        let input = floe::meta::CheckpointInput {
            version: &writer.version,
            changes: &changes,
            counters: writer.counters,
            inodes: writer.inodes,
            bytes: writer.bytes,
            shared: 0,
            time: Default::default(),
            thaw: Default::default(),
            snapshot: None,
        };
        let error = write_checkpoint(&mut log, input).unwrap_err();
        assert!(matches!(error, CheckpointError::GivenUp(_)) && !error.is_final(), "append {n}: {error}");
        assert_eq!(error.storage_kind(), Some(ErrorKind::StorageFull), "append {n}: {error}");
        assert!(faulty.inner().to_bytes() == before, "append {n}: bytes are left");
        assert_eq!(log.end(), end);
        writer.log = log;
        writer.checkpoint(&changes).unwrap();
        assert_eq!(names(&faulty.inner().to_bytes(), "after the second try"), 100);
    }
}

// Case 24.
#[test]
fn a_checkpoint_whose_frames_cannot_be_cut_off_or_whose_sync_fails_is_the_last() {
    for operation in [Operation::Truncate, Operation::Sync] {
        let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(empty_image(BLOCK))));
        let mut writer = Writer::open(faulty.clone()).unwrap();
        let changes = files(&mut writer, 0, 100);
        if operation == Operation::Truncate {
            faulty.fail_nth_of(Operation::Append, 5, Fault::Eio);
        }
        faulty.fail_nth_of(operation, 0, Fault::Eio);
        let (version, counters) = (writer.version.clone(), writer.counters);
        let input = floe::meta::CheckpointInput {
            version: &version,
            changes: &changes,
            counters,
            inodes: writer.inodes,
            bytes: writer.bytes,
            shared: 0,
            time: Default::default(),
            thaw: Default::default(),
            snapshot: None,
        };
        let error = write_checkpoint(&mut writer.log, input).unwrap_err();
        assert!(error.is_final(), "{operation}: {error}");
        match operation {
            Operation::Truncate => assert!(matches!(error, CheckpointError::NotCutOff { .. }), "{error}"),
            _ => assert!(matches!(error, CheckpointError::NotDurable(_)), "{error}"),
        }
        // Nothing is written any more, and the image is what it was.
        let operations = faulty.count();
        assert!(write_checkpoint(&mut writer.log, input).unwrap_err().is_final());
        let appends = faulty.records().split_off(operations as usize);
        assert!(appends.iter().all(|record| record.operation != Operation::Append), "{appends:?}");
        let image =
            Image::open(Arc::new(MemoryStorage::from_bytes(faulty.inner().to_bytes())), ImageOptions::default());
        assert_eq!(image.unwrap().root().view.inodes, 1);
    }
}

/// A number that has nothing to do with those beside it (splitmix64).
fn mixed(n: u64) -> u64 {
    let z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Files as an archive has them: words for names, times of their own, bytes in the thaw log.
fn usual_files(writer: &mut Writer, from: u64, count: u64) -> Overlay {
    const WORDS: [&str; 12] =
        ["src", "test", "index", "main", "lib", "README", "config", "data", "util", "parse", "node", "image"];
    let mut changes = Overlay::default();
    for n in from..from + count {
        let word = |of: u64| WORDS[(mixed(n * 7 + of) % 12) as usize];
        let name = format!("{}_{}{}-{n}.{}", word(0), word(1), mixed(n) % 10_000, ["rs", "c", "txt"][n as usize % 3]);
        let inode = writer.thawed_file(&mut changes, &name, mixed(n + 1) % 60_000 + 512);
        let (row_of, mut row) =
            (&floe::format::schema::INODES, rows::inode_row(FileType::Regular, 1, 0, ContentRef::None));
        let old = changes.get(row_of, Key::new(inode, 0).as_ref()).unwrap().unwrap();
        row.size = old.ints()[4];
        row.mtime = Time { secs: 1_600_000_000 + (mixed(n + 2) % 100_000_000) as i64, nanos: 0 };
        row.ctime = Time { secs: 1_800_000_000 + n as i64 / 3000, nanos: (mixed(n + 3) % 1_000_000_000) as u32 };
        row.atime = row.mtime;
        rows::put_inode(&mut changes, inode, &row);
    }
    changes
}

/// `chmod` of files here and there.
fn touched(writer: &Writer, count: u64) -> Overlay {
    let mut changes = Overlay::default();
    for n in 0..count {
        let inode = 2 + mixed(n) % (writer.inodes - 1);
        if let Some(mut row) = writer.version.inode(InodeId(inode)).unwrap() {
            row.permissions = (mixed(n + 1) % 0o1000) as u16;
            row.ctime = Time { secs: 1_800_100_000, nanos: (mixed(n + 3) % 1_000_000_000) as u32 };
            rows::put_inode(&mut changes, inode, &row);
        }
    }
    changes
}

#[test]
fn no_usual_checkpoint_takes_more_than_was_estimated_nor_less_than_a_ninth_of_it() {
    let storage = Arc::new(MemoryStorage::from_bytes(empty_image(64 << 10)));
    let mut writer = Writer::open(storage.clone()).unwrap();
    let mut from = 0;
    let compare = |writer: &mut Writer, changes: &Overlay, what: &str| {
        let (bound, begin) = (estimate(changes, &writer.version), writer.log.end());
        writer.checkpoint(changes).unwrap();
        let took = writer.log.end() - begin;
        assert!(took <= bound, "{what} took {took}, at most {bound} were expected");
        // What a small one takes is mostly the pad at its end.
        assert!(bound <= 9 * took || bound <= 64 << 10, "{what} took {took}, {bound} were expected");
    };
    for count in [1, 10, 100, 1000, 10_000, 10_000, 30_000, 1000, 100, 1] {
        let changes = usual_files(&mut writer, from, count);
        from += count;
        compare(&mut writer, &changes, &format!("{count} files"));
    }
    for count in [1, 10, 100, 1000, 10_000] {
        let changes = touched(&writer, count);
        compare(&mut writer, &changes, &format!("chmod of {count} files"));
    }
    is_sound(storage.to_bytes(), "at the end");
}
