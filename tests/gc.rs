//! gc of an image that nobody has mounted: nothing live is ever freed, whatever happens in between.

mod common;
#[path = "common/forge.rs"]
mod forge;
#[path = "common/liveness.rs"]
mod liveness;

use common::{Lab, floe};
use floe::care::{self, CheckOptions, FindingKind, Severity};
use floe::format::block::KeyRef;
use floe::format::frame::FrameKind;
use floe::format::ids::{InodeId, LogOffset, SubchunkId};
use floe::format::limits::{LOG_START, SYNC_BLOCK};
use floe::format::rows::{ContentRef, FileType, Time};
use floe::format::schema;
use floe::fs::gc::{GcError, GcHow, GcReport, gc_image};
use floe::fs::{Fs, FsOptions, Live, NewKind, NewNode, digest};
use floe::meta::{Image, ImageOptions, space};
use floe::storage::testing::{Fault, FaultyStorage, FolderHome, History, MemoryFolder, MemoryStorage, Remains};
use floe::storage::{Access, FileStorage, LockError, LogHome, Operation, ReaderLock, Storage};
use forge::Forge;
use liveness::{Dice, random_image, writable, writable_with};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// A random image from which about two thirds of the files were deleted.
fn thinned(seed: u64) -> Forge {
    let mut forge = random_image(seed);
    let mut dice = Dice(seed + 77);
    let gone: Vec<u64> = (10..40).filter(|_| dice.below(3) > 0).collect();
    forge.inodes.retain(|id, _| !gone.contains(id));
    forge.dirents.retain(|_, entry| !gone.contains(&entry.inode.0));
    // Contents that no inode uses must have no rows.
    forge.contents.retain(|(id, _), _| *id < 40 && !gone.contains(id));
    forge
}

fn home() -> Arc<dyn LogHome> {
    Arc::new(FolderHome::new(Arc::new(MemoryFolder::new())))
}

fn open(storage: &Arc<dyn Storage>) -> Arc<Image> {
    Arc::new(Image::open(storage.clone(), ImageOptions::default()).unwrap())
}

/// It covers every byte of every file.
fn digest_of(storage: &Arc<dyn Storage>) -> [u8; 32] {
    let fs = Fs::new(open(storage), FsOptions { readahead: 0, ..FsOptions::default() });
    digest(&fs, InodeId::ROOT).unwrap()
}

fn free(storage: &Arc<dyn Storage>, dry_run: bool) -> Result<GcReport, GcError> {
    free_with(storage, &home(), dry_run)
}

fn free_with(storage: &Arc<dyn Storage>, home: &Arc<dyn LogHome>, dry_run: bool) -> Result<GcReport, GcError> {
    let time = Time { secs: 9, nanos: 0 };
    gc_image(storage, home, &GcHow { dry_run, time, no_readers: &|| Ok(Box::new(())), stop: &|| false })
}

/// The findings of `check` beyond notes, including those about the head slots if `heads`.
#[track_caller]
fn assert_clean(storage: &Arc<dyn Storage>, heads: bool, what: &str) {
    let report = care::check(storage.clone(), &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap();
    let bad = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
    let bad: Vec<_> = bad.filter(|finding| heads || finding.kind != FindingKind::Head).collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

/// Unlinks files.
fn unlink(live: &Live, which: impl Fn(InodeId) -> bool) {
    for parent in (1..5).map(InodeId) {
        let view = live.snapshot().view().clone();
        let mut entries = view.dirents(parent, None).unwrap();
        while let Some((name, entry)) = entries.next(&view).unwrap() {
            if entry.file_type == FileType::Regular && which(entry.inode) {
                live.unlink(parent, &name).unwrap();
            }
        }
    }
}

fn dead(storage: &Arc<dyn Storage>) -> (u64, u64) {
    let image = open(storage);
    let usage = image.usage().unwrap();
    (space(&image, &usage).unwrap().wholly_dead, usage.punched)
}

#[test]
fn what_is_dead_is_freed_and_what_is_live_reads_as_before() {
    let (mut freed, mut left) = (0, 0);
    for seed in 0..40 {
        let storage: Arc<dyn Storage> = thinned(seed).build();
        let before = digest_of(&storage);
        let (wholly_dead, _) = dead(&storage);
        let report = free(&storage, false).unwrap();
        assert_eq!(digest_of(&storage), before, "seed {seed}");
        assert_clean(&storage, true, &format!("seed {seed}"));
        let (_, punched) = dead(&storage);
        assert_eq!(report.freed_bytes, punched);
        assert_eq!(wholly_dead > 0, report.superchunks > 0);
        assert!(report.freed_bytes + 2 * SYNC_BLOCK * (report.frames + 4) >= wholly_dead, "{report:?} {wholly_dead}");
        freed += report.superchunks;
        left += u64::from(report.left_bytes > 0);
        // A second gc has nothing to free.
        let image = open(&storage);
        let generation = image.head().generation;
        let last = free(&storage, false).unwrap();
        assert_eq!((last.superchunks, last.frames, last.freed_bytes), (0, 0, 0));
        assert_eq!(open(&storage).head().generation, generation, "where nothing is dead, nothing is written");
        assert_eq!(digest_of(&storage), before);
        assert_clean(&storage, true, &format!("seed {seed}, again"));
    }
    assert!(freed > 20 && left > 20, "{freed} {left}");
}

#[test]
fn no_row_of_map_or_identities_has_what_was_freed() {
    for seed in 0..20 {
        let forge = thinned(seed);
        let storage: Arc<dyn Storage> = forge.build();
        let before = open(&storage);
        let report = free(&storage, false).unwrap();
        let image = open(&storage);
        let all: u64 = forge.superchunks.iter().map(|superchunk| superchunk.len() as u64).sum();
        let mut gone = 0;
        for id in (1..=all).map(SubchunkId) {
            let located = image.locate(id).unwrap();
            assert_eq!(located.is_some(), image.identity(id).unwrap().is_some(), "subchunk {id}");
            match located {
                Some(located) => {
                    assert_eq!(Some(located), before.locate(id).unwrap());
                    assert_eq!(image.identity(id).unwrap(), before.identity(id).unwrap());
                    assert_eq!(image.recipe(id).unwrap(), before.recipe(id).unwrap());
                }
                None => {
                    assert_eq!(image.recipe(id).unwrap(), None);
                    gone += 1;
                }
            }
        }
        assert_eq!(gone > 0, report.superchunks > 0);
        let mut rows = 0;
        let mut cursor = image.tree(&schema::IDENTITIES).cursor_at(&*image, KeyRef::new(0, 0)).unwrap();
        while let Some(row) = cursor.row() {
            rows += row.ints()[0];
            cursor.advance(&*image).unwrap();
        }
        assert_eq!(rows, all - gone);
        // Ids are never reused.
        assert!(image.root().next_subchunk >= before.root().next_subchunk);
        assert!(image.root().next_superchunk >= before.root().next_superchunk);
    }
}

#[test]
fn a_dry_run_writes_nothing_and_says_no_more_than_is_freed() {
    for seed in 0..10 {
        let memory = thinned(seed).build();
        let storage: Arc<dyn Storage> = memory.clone();
        let before = memory.to_bytes();
        let said = free(&storage, true).unwrap();
        assert!(memory.to_bytes() == before);
        let did = free(&storage, false).unwrap();
        assert_eq!(said.left_bytes, did.left_bytes);
        assert!(said.superchunks <= did.superchunks, "it does not count what gc itself replaces");
        assert!(
            said.freed_bytes <= did.freed_bytes && did.freed_bytes <= said.freed_bytes + (64 << 10),
            "{said:?} {did:?}"
        );
    }
}

//= format-spec.md#2.3
//= type=test
//# A frame must be punched only if the durable roots of both head slots do not lead to it, and while byte 1 is locked
//# exclusively (16).
//= format-spec.md#2.3
//= type=test
//# The first block of a payload must be durably punched before the others: so a scan takes a partly punched frame for a
//# punched one.
#[test]
fn a_power_cut_anywhere_leaves_an_image_that_lacks_nothing() {
    let has_many_dead = |seed: &u64| {
        let report = free(&(thinned(*seed).build() as Arc<dyn Storage>), true).unwrap();
        report.frames >= 2
    };
    let forge = thinned((0..200).find(has_many_dead).unwrap());
    let start = Remains { image: forge.build().to_bytes(), segments: BTreeMap::new() };
    let history = History::new(start.clone());
    let storage: Arc<dyn Storage> = Arc::new(history.storage());
    let before = digest_of(&storage);
    let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(Arc::new(history.folder())));
    let report = free_with(&storage, &home, false).unwrap();
    assert!(report.superchunks > 2 && report.frames >= 2, "{report:?}");
    let mut count = 0u64;
    for n in 0..=history.len() {
        history.each_cut(n, 26, |left, what| {
            count += 1;
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(left.image));
            // A torn slot stays damaged until the next writer; everything else is as if nothing had happened.
            assert_clean(&storage, false, what);
            assert!(digest_of(&storage) == before, "{what}");
            if count.is_multiple_of(5) {
                free(&storage, false).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_clean(&storage, true, &format!("{what}, and gone on with"));
                assert!(digest_of(&storage) == before, "{what}, and gone on with");
                let last = free(&storage, false).unwrap();
                assert_eq!((last.superchunks, last.frames), (0, 0), "{what}: all that is dead was freed");
            }
        });
    }
    assert!(count > 1000, "only {count} cuts");
}

#[test]
fn whichever_operation_fails_nothing_is_lost_and_the_next_gc_goes_on() {
    let bytes = thinned(2).build().to_bytes();
    let whole: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes.clone()));
    let before = digest_of(&whole);
    let mut failed = 0;
    for n in 0.. {
        let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(bytes.clone())));
        let storage: Arc<dyn Storage> = faulty.clone();
        faulty.fail_nth(n, Fault::Eio);
        let done = free(&storage, false);
        failed += u64::from(done.is_err());
        let happened = faulty.count() > n;
        faulty.fail_no_more();
        let what = format!("operation {n}");
        assert_clean(&storage, true, &what);
        assert!(digest_of(&storage) == before, "{what}");
        free(&storage, false).unwrap();
        assert_clean(&storage, true, &what);
        assert!(digest_of(&storage) == before, "{what}");
        if !happened {
            break;
        }
    }
    assert!(failed > 30, "{failed}");
}

#[test]
fn on_a_full_disk_what_has_no_rows_any_more_makes_room() {
    // The first gc is cut off before it punches, so its frames have no rows.
    let memory = thinned(3).build();
    let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(memory.to_bytes())));
    let storage: Arc<dyn Storage> = faulty.clone();
    let refuse = || Err(LockError::Read);
    let how = GcHow { dry_run: false, time: Time::default(), no_readers: &refuse, stop: &|| false };
    assert!(matches!(gc_image(&storage, &home(), &how), Err(GcError::Readers(LockError::Read))));
    assert_clean(&storage, true, "readers were there");
    assert_eq!(dead(&storage).1, 0, "nothing is punched while somebody reads");
    // More files are deleted.
    let live = writable(&storage);
    unlink(&live, |_| true);
    live.end(Duration::ZERO).unwrap();
    let before = digest_of(&storage);
    // Now there is no space for the next checkpoint until something is punched.
    faulty.fail_nth_of(Operation::Append, 0, Fault::Enospc);
    let report = free(&storage, false).unwrap();
    assert!(report.superchunks > 0 && report.frames > 0, "{report:?}");
    assert_clean(&storage, true, "after a full disk");
    assert_eq!(digest_of(&storage), before);
}

#[test]
fn where_a_table_is_damaged_or_contradicts_another_nothing_is_freed() {
    let forge = thinned(4);
    let whole = forge.build();
    let image = open(&(whole.clone() as Arc<dyn Storage>));
    let mut refused = 0;
    for frame in image.log().scan(LogOffset(LOG_START)).map(Result::unwrap) {
        if ![FrameKind::TABLE_GROUP, FrameKind::MAP_BLOCK].contains(&frame.kind) {
            continue;
        }
        let damaged = Arc::new(MemoryStorage::from_bytes(whole.to_bytes()));
        damaged.flip(frame.offset.0 + frame.frame_len() - u64::from(frame.stored_len) + 5, 0x40).unwrap();
        let storage: Arc<dyn Storage> = damaged.clone();
        let before = damaged.to_bytes();
        match free(&storage, false) {
            Err(GcError::Unknown(_) | GcError::Start(_)) => {
                assert!(damaged.to_bytes() == before, "nothing is written");
                refused += 1;
            }
            // The frame has a copy, or holds nothing that gc needs.
            Ok(_) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused >= 3, "{refused}");
    let mut forge = thinned(4);
    forge.file(1, "lost", 41, 10, ContentRef::Subchunk(SubchunkId(100_000)));
    let storage: Arc<dyn Storage> = forge.build();
    assert!(matches!(free(&storage, false), Err(GcError::Damaged { subchunks: 1 })));
}

#[test]
fn frames_in_a_dead_one_and_the_dead_one_are_left_alone() {
    let mut forge = Forge::new();
    forge.in_dead = 5;
    for n in 1..=8u8 {
        forge.superchunks.push(vec![(forge::noise(n, 2000 * usize::from(n)), None)]);
        // The third, which lies in the dead one, and the seventh are dead.
        if ![3, 7].contains(&n) {
            let id = u64::from(n);
            forge.file(1, &format!("file-{n}"), 1 + id, 2000 * id, ContentRef::Subchunk(SubchunkId(id)));
        }
    }
    let storage: Arc<dyn Storage> = forge.build();
    let before = digest_of(&storage);
    let report = free(&storage, false).unwrap();
    assert_eq!(digest_of(&storage), before);
    assert!(report.superchunks >= 2 && report.freed_bytes >= 8192, "the seventh: {report:?}");
    assert_clean(&storage, true, "after gc");
}

#[test]
fn an_image_with_something_in_its_thaw_log_alone_is_refused() {
    let memory = thinned(5).build();
    let storage: Arc<dyn Storage> = memory.clone();
    let folder = Arc::new(MemoryFolder::new());
    let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(folder));
    let live = writable_with(&storage, home.clone());
    let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
    live.create(InodeId::ROOT, b"new", &node).unwrap();
    live.commit_now().unwrap();
    drop(live);
    let before = memory.to_bytes();
    assert!(matches!(free_with(&storage, &home, false), Err(GcError::ThawLog { .. })));
    assert!(memory.to_bytes() == before);
    // After it has ended, everything is in the image.
    let live = writable_with(&storage, home.clone());
    live.end(Duration::ZERO).unwrap();
    let before = digest_of(&storage);
    free_with(&storage, &home, false).unwrap();
    assert_eq!(digest_of(&storage), before);
    assert_clean(&storage, true, "after the end and gc");
}

#[test]
fn what_is_deleted_in_a_writable_filesystem_is_freed_after_its_end() {
    let forge = random_image(6);
    let storage: Arc<dyn Storage> = forge.build();
    let live = writable(&storage);
    unlink(&live, |inode| !inode.0.is_multiple_of(4));
    live.end(Duration::ZERO).unwrap();
    let before = digest_of(&storage);
    let report = free(&storage, false).unwrap();
    assert!(report.superchunks > 0, "{report:?}");
    assert_eq!(digest_of(&storage), before);
    assert_clean(&storage, true, "after gc");
    // It is written to again.
    let live = writable(&storage);
    unlink(&live, |inode| inode.0.is_multiple_of(8));
    live.end(Duration::ZERO).unwrap();
    assert_clean(&storage, true, "after gc and another session");
}

#[test]
fn it_stops_when_it_is_told_to_and_lacks_nothing() {
    let bytes = thinned(7).build().to_bytes();
    let mut stopped = 0;
    for after in (0..400).step_by(3) {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes.clone()));
        let before = digest_of(&storage);
        let asked = Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) >= after;
        let how = GcHow { dry_run: false, time: Time::default(), no_readers: &|| Ok(Box::new(())), stop: &stop };
        match gc_image(&storage, &home(), &how) {
            Ok(_) => {}
            Err(GcError::Stopped) => stopped += 1,
            Err(error) => panic!("{error}"),
        }
        assert_eq!(digest_of(&storage), before, "after {after}");
    }
    assert!(stopped > 20, "{stopped}");
}

#[test]
fn the_command_frees_waits_for_readers_and_says_who_they_are() {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let lab = Lab::new();
    let image = lab.image("x.floe");
    std::fs::write(&image, thinned(8).build().to_bytes()).unwrap();
    let digest = floe!("digest", &image).exits(0).out();
    let said = json(&floe!("gc", "-n", "--json", &image).exits(0).stdout);
    assert_eq!((&said["message_type"], &said["dry_run"]), (&"summary".into(), &true.into()));
    assert!(said["freed_bytes"].as_u64().unwrap() > 8192, "{said}");

    let reader = FileStorage::open(&image, Access::ReadOnly).unwrap();
    let lock = ReaderLock::shared(reader.file()).unwrap();
    let me = format!("process {}", std::process::id());
    floe!("gc", "--no-wait", &image).exits(11).says(&[&me, "nothing is freed until they have ended"]);
    let mut waiting = common::floe_command(["gc".as_ref(), image.as_os_str()]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with(&format!("note: waiting until {me} read")), "{line}");
    // Until now nothing was punched: the reader reads what it opened.
    let punched = json(&floe!("info", "--json", &image).exits(0).stdout)["space"]["punched"].clone();
    assert_eq!(punched, 0);
    drop(lock);
    assert!(waiting.wait().unwrap().success());
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with("freed "), "{line}");
    let space = json(&floe!("info", "--json", &image).exits(0).stdout)["space"].clone();
    assert!(space["punched"].as_u64() >= said["freed_bytes"].as_u64(), "{space}");
    assert_eq!(floe!("digest", &image).exits(0).out(), digest);
    floe!("check", &image).exits(0);

    floe!("gc", lab.image("none")).exits(10);
    std::fs::write(lab.image("other"), vec![7; 100_000]).unwrap();
    floe!("gc", lab.image("other")).exits(10);
}
