//! What was packed fast under pressure is packed again by a deep freeze: files, snapshots, old readers, gc, `check`, damage
//! and power cuts.

#[path = "common/memory.rs"]
mod memory;

use floe::care::{self, CheckOptions, CheckReport, FindingKind, LogBesideImage, Severity, check_with_log};
use floe::format::frame::{FRAME_HEADER, FrameKind};
use floe::format::ids::{InodeId, LogOffset, SubchunkId, SuperchunkId};
use floe::format::limits::LOG_START;
use floe::format::params::Params;
use floe::format::place::Place;
use floe::format::rows::{ContentRef, Extent};
use floe::fs::gc::NoReaders;
use floe::fs::{Finished, FreezeHow, FreezeReport, Fs, FsError, FsOptions, Live};
use floe::inflate::WorkingSet;
use floe::meta::{Image, ImageOptions, View};
use floe::storage::testing::{Fault, FaultyStorage, History, MemoryFolder, MemoryStorage, Remains};
use floe::storage::{Folder, Operation, Storage};
use memory::{Files, HOUR, assert_clean, empty, files, inodes, params, write};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NEVER: &dyn Fn() -> bool = &|| false;

fn open(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>, session: u64) -> Arc<Live> {
    let live = memory::open(storage, folder, session);
    live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
    live
}

struct Disk {
    storage: Arc<FaultyStorage<MemoryStorage>>,
    folder: Arc<MemoryFolder>,
    sessions: Cell<u64>,
}

impl Disk {
    fn new() -> Self {
        Disk::of(params())
    }

    fn of(params: Params) -> Self {
        Disk {
            storage: Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(empty(params)))),
            folder: Arc::new(MemoryFolder::new()),
            sessions: Cell::new(0),
        }
    }

    fn open(&self) -> Arc<Live> {
        self.sessions.set(self.sessions.get() + 1);
        open(self.storage.clone(), self.folder.clone(), self.sessions.get())
    }

    fn image(&self) -> Image {
        Image::open(self.storage.clone(), ImageOptions::default()).unwrap()
    }

    fn len(&self) -> u64 {
        self.storage.len().unwrap()
    }

    fn flip(&self, at: u64) {
        self.storage.inner().flip(at, 1).unwrap();
    }
}

/// Text of words in no order, which a higher level compresses better.
fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut dice = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut words = blake3::Hasher::new().update(b"words").finalize_xof();
    let words: Vec<Vec<u8>> = (0..512)
        .map(|n| {
            let mut word = vec![0; 3 + n % 7];
            words.fill(&mut word);
            word.iter().map(|byte| b'a' + byte % 26).chain([b' ']).collect()
        })
        .collect();
    let mut out = Vec::with_capacity(len + 10);
    while out.len() < len {
        let mut two = [0; 2];
        dice.fill(&mut two);
        // Some words are more frequent than others.
        let n = (usize::from(two[0]) * usize::from(two[1])) >> 7;
        out.extend_from_slice(&words[n.min(511)]);
    }
    out.truncate(len);
    out
}

/// The files that are marked as packed fast.
fn fast(live: &Live) -> BTreeSet<String> {
    let view = view(live);
    let is_fast = |inode| view.inode(inode).unwrap().unwrap().is_fast();
    inodes(live).into_iter().filter(|(_, inode)| is_fast(*inode)).map(|(name, _)| name).collect()
}

fn freeze(live: &Live, level: Option<i32>) -> FreezeReport {
    let report = live.freeze_now(&FreezeHow { level, ..FreezeHow::everything() }, &|_| ()).unwrap();
    assert_eq!(report.left_bytes, 0);
    report
}

fn deep(live: &Live) -> FreezeReport {
    live.freeze_now(&FreezeHow { deep: true, ..FreezeHow::everything() }, &|_| ()).unwrap()
}

/// The places of all superchunks of file data in a view, by id.
fn places(view: &View) -> BTreeMap<u64, Place> {
    let end = view.version().root().next_superchunk + 100;
    let rows = (1..end).filter_map(|id| Some((id, view.superchunk(SuperchunkId(id)).unwrap()?)));
    rows.filter(|(_, row)| row.kind == FrameKind::SUPERCHUNK).map(|(id, row)| (id, row.place)).collect()
}

fn stored(view: &View) -> u64 {
    places(view).values().map(|place| u64::from(place.stored_len)).sum()
}

fn view(live: &Live) -> View {
    live.snapshot().view().clone()
}

fn check(storage: &Arc<FaultyStorage<MemoryStorage>>) -> CheckReport {
    care::check(storage.clone(), &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap()
}

/// Three files in several superchunks, and their bytes.
fn some(live: &Live) -> Files {
    let mut files = Files::new();
    for (name, len, seed) in [("large", 3_500_000, 1), ("small", 3000, 2), ("other", 60_000, 3)] {
        files.insert(name.into(), text(len, seed));
        write(live, name, &files[name]);
    }
    files.insert("tiny".into(), b"tiny".to_vec());
    write(live, "tiny", b"tiny");
    files
}

#[test]
fn what_was_packed_fast_takes_as_much_after_a_deep_freeze_as_if_it_had_been_packed_at_the_images_level() {
    let (own, disk) = (Disk::new(), Disk::new());
    let (packed, live) = (own.open(), disk.open());
    let expected = some(&packed);
    freeze(&packed, None);
    assert_eq!((fast(&packed), deep(&packed).repacked), (BTreeSet::new(), 0));
    some(&live);
    freeze(&live, Some(1));
    assert_eq!(fast(&live), ["large", "other", "small"].map(String::from).into());
    let (before, wanted) = (stored(&view(&live)), stored(&view(&packed)));
    assert!(before > wanted + wanted / 10, "{before} {wanted}");
    let old = view(&live);
    let report = deep(&live);
    let (now, count) = (view(&live), places(&view(&live)).len() as u64);
    assert_eq!((report.repacked, report.superchunks, report.new_bytes), (count, 0, 0));
    assert_eq!(report.repacked_saved_bytes, before - stored(&now));
    assert_eq!((stored(&now), fast(&live)), (wanted, BTreeSet::new()));
    assert_eq!(files(&live), expected);
    // Ids and lists stay, only the places differ.
    assert_eq!(places(&old).keys().collect::<Vec<_>>(), places(&now).keys().collect::<Vec<_>>());
    let log = now.version().log().clone();
    let list = |place: &Place| log.clear_part(&log.header(place.offset).unwrap()).unwrap();
    assert!(places(&old).values().zip(places(&now).values()).all(|(a, b)| a.offset != b.offset && list(a) == list(b)));
    // Nothing more to do: nothing is written.
    live.checkpoint_now().unwrap();
    let len = disk.len();
    assert_eq!((deep(&live).repacked, disk.len()), (0, len));
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_clean(&check(&disk.storage), "ended");
    assert_eq!(files(&disk.open()), expected);
}

#[test]
fn gc_frees_the_old_frames_and_brings_the_new_ones_into_the_root_before() {
    let disk = Disk::new();
    let live = disk.open();
    let expected = some(&live);
    freeze(&live, Some(1));
    // No root has these superchunks, but a commit names their first places.
    live.commit_now().unwrap();
    let (old, before) = (view(&live), places(&view(&live)));
    assert!(before.len() > 3);
    deep(&live);
    let payload = |place: &Place| {
        let end = place.offset.0 + place.frame_len();
        let begin = (end - u64::from(place.stored_len)).next_multiple_of(4096);
        (end / 4096 * 4096).saturating_sub(begin)
    };
    let report = live.gc_now(NEVER).unwrap();
    let wanted: u64 = before.values().map(payload).sum();
    assert!(report.freed_bytes >= wanted && wanted > 100_000, "{report:?} {wanted}");
    // A crash without a commit after it: the root has the new places.
    let crashed = disk.open();
    assert_eq!((files(&crashed), fast(&crashed)), (expected.clone(), BTreeSet::new()));
    assert_eq!(places(&view(&crashed)), places(&view(&live)));
    drop(crashed);
    // A reader with an old view cannot read, and does not disturb others that use the same working set.
    let set = WorkingSet::new(Arc::clone(old.version()), 16 << 20, 0);
    let now = view(&live);
    let large = now.lookup(InodeId::ROOT, b"large").unwrap().unwrap().inode;
    let ContentRef::Content(id) = now.inode(large).unwrap().unwrap().content else { panic!() };
    let (_, row) = now.extents(id, 0).unwrap().next(&now).unwrap().unwrap();
    let Extent::Run { first, lens } = row.extent else { panic!() };
    let mut bytes = vec![0; lens[0] as usize];
    set.read_subchunk(&old, first, 0, &mut bytes).unwrap_err();
    set.read_subchunk(&now, first, 0, &mut bytes).unwrap();
    assert_eq!(bytes, expected["large"][..bytes.len()]);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    assert_clean(&check(&disk.storage), "after gc");
    assert_eq!(files(&disk.open()), expected);
}

#[test]
fn a_reader_of_an_earlier_state_reads_on_also_where_superchunks_have_parts() {
    for part_size in [None, Some(8192)] {
        let disk = Disk::of(Params { part_size, ..params() });
        let live = disk.open();
        let expected = some(&live);
        let large = live.snapshot().view().lookup(InodeId::ROOT, b"large").unwrap().unwrap().inode;
        freeze(&live, Some(1));
        live.checkpoint_now().unwrap();
        let (snapshot, old) = (live.snapshot(), view(&live));
        let set = WorkingSet::new(Arc::clone(old.version()), 16 << 20, 0);
        let ContentRef::Content(id) = old.inode(large).unwrap().unwrap().content else { panic!() };
        let read = |view: &View, every: usize| {
            let mut extents = view.extents(id, 0).unwrap();
            while let Some((mut at, row)) = extents.next(view).unwrap() {
                let Extent::Run { first, lens } = row.extent else { continue };
                for (n, &len) in lens.iter().enumerate() {
                    let mut bytes = vec![0; len as usize];
                    if n % every == 0 {
                        set.read_subchunk(view, SubchunkId(first.0 + n as u64), 0, &mut bytes).unwrap();
                        assert!(bytes == expected["large"][at as usize..][..len as usize], "{part_size:?}, at {at}");
                    }
                    at += u64::from(len);
                }
            }
        };
        // The working set knows the old part tables, and some parts.
        read(&old, 7);
        assert!(deep(&live).repacked > 3);
        let now = view(&live);
        assert_ne!(places(&old), places(&now));
        read(&now, 1);
        read(&old, 1);
        let fresh = WorkingSet::new(Arc::clone(old.version()), 16 << 20, 0);
        let mut bytes = vec![0; 100];
        fresh.read_subchunk(&old, SubchunkId(places_first(&old)), 0, &mut bytes).unwrap();
        drop(snapshot);
        assert_eq!(files(&live), expected);
        assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
        assert_clean(&check(&disk.storage), "with parts");
    }
}

/// The id of the first subchunk of the first superchunk of file data.
fn places_first(view: &View) -> u64 {
    (1..).find(|&id| view.identity(SubchunkId(id)).unwrap().is_some()).unwrap()
}

#[test]
fn a_superchunk_with_damaged_bytes_stays_as_it_is_and_its_file_stays_marked() {
    let disk = Disk::new();
    let live = disk.open();
    some(&live);
    freeze(&live, Some(1));
    live.checkpoint_now().unwrap();
    let before = places(&view(&live));
    let (&bad, place) = before.iter().nth(1).unwrap();
    disk.flip(place.offset.0 + place.frame_len() - 100);
    // Another session: nothing of it is in a cache.
    live.end(HOUR).unwrap();
    let live = disk.open();
    let report = deep(&live);
    assert_eq!(report.repacked, before.len() as u64 - 1);
    let after = places(&view(&live));
    for (id, place) in &before {
        assert_eq!(after[id] == *place, *id == bad, "superchunk {id}");
    }
    assert_eq!(fast(&live), ["large".to_owned()].into());
    live.end(HOUR).unwrap();
    let found = check(&disk.storage);
    let lost = found.findings.iter().filter(|finding| finding.severity == Severity::Lost);
    assert!(lost.clone().count() > 0 && lost.clone().all(|f| f.paths.iter().all(|path| path.ends_with(b"large"))));
}

#[test]
fn without_space_a_deep_freeze_is_given_up_and_leaves_nothing() {
    for (operation, fault) in
        [(Operation::Append, Fault::Enospc), (Operation::Append, Fault::Eio), (Operation::Allocate, Fault::Enospc)]
    {
        let disk = Disk::new();
        let live = disk.open();
        let expected = some(&live);
        freeze(&live, Some(1));
        live.checkpoint_now().unwrap();
        let (before, len, marked) = (places(&view(&live)), disk.len(), fast(&live));
        disk.storage.fail_nth_of(operation, 0, fault);
        let how = FreezeHow { deep: true, ..FreezeHow::everything() };
        let error = live.freeze_now(&how, &|_| ()).unwrap_err();
        assert_eq!(matches!(error, FsError::NoSpace), fault == Fault::Enospc, "{error}");
        assert_eq!((live.latched(), disk.len(), places(&view(&live))), (None, len, before));
        assert_eq!((fast(&live), files(&live)), (marked, expected.clone()));
        assert!(deep(&live).repacked > 3);
        assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
        assert_clean(&check(&disk.storage), "after the fault");
        assert_eq!(files(&disk.open()), expected);
    }
}

#[test]
fn a_deep_freeze_that_is_stopped_changes_nothing_and_the_next_one_does_it() {
    let disk = Disk::new();
    let live = disk.open();
    let expected = some(&live);
    freeze(&live, Some(1));
    let (before, marked) = (places(&view(&live)), fast(&live));
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 60
    };
    let how = FreezeHow { deep: true, stop: &stop, ..FreezeHow::everything() };
    assert_eq!(live.freeze_now(&how, &|_| ()).unwrap().repacked, 0);
    assert!(asked.get() > 60);
    assert_eq!((places(&view(&live)), fast(&live)), (before, marked));
    assert!(deep(&live).repacked > 3);
    assert_eq!((files(&live), fast(&live)), (expected, BTreeSet::new()));
}

#[test]
fn the_mark_goes_with_the_content_and_along_with_copies() {
    let disk = Disk::new();
    let live = disk.open();
    let (a, b, c) = (write(&live, "a", &text(30_000, 1)), write(&live, "b", &[]), write(&live, "c", &text(9000, 2)));
    freeze(&live, Some(1));
    assert_eq!(fast(&live), ["a", "c"].map(String::from).into());
    live.copy_range(a, 0, b, 0, 30_000).unwrap();
    assert_eq!(fast(&live), ["a", "b", "c"].map(String::from).into());
    // What is written at the image's own level does not remove the mark; a new content does.
    live.write(a, 10_000, &text(500, 3), false).unwrap();
    live.write(c, 0, &text(9000, 4), false).unwrap();
    freeze(&live, None);
    assert_eq!(fast(&live), ["a", "b"].map(String::from).into());
    live.set_attr(b, &floe::fs::SetAttr { size: Some(0), ..Default::default() }).unwrap();
    let target = write(&live, "d", &text(20_000, 5));
    live.copy_range(a, 1000, target, 4000, 5000).unwrap();
    assert_eq!(fast(&live), ["a", "d"].map(String::from).into());
    let before = files(&live);
    freeze(&live, None);
    deep(&live);
    assert_eq!((files(&live), fast(&live)), (before, BTreeSet::new()));
}

//= format-spec.md#13
//= type=test
//# Of two frames with the same superchunk id, the one with the higher sequence counts; the same holds for two frames
//# that name the same subchunk id.
#[test]
fn with_the_map_lost_the_new_frames_count_also_after_gc() {
    for gc in [false, true] {
        let disk = Disk::new();
        let live = disk.open();
        let expected = some(&live);
        freeze(&live, Some(1));
        live.checkpoint_now().unwrap();
        let old = places(&view(&live));
        deep(&live);
        live.checkpoint_now().unwrap();
        if gc {
            assert!(live.gc_now(NEVER).unwrap().freed_bytes > 100_000);
        }
        assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
        if !gc {
            // The old frames must not be used.
            for place in old.values() {
                disk.flip(place.offset.0 + place.frame_len() - 100);
            }
        }
        let image = disk.image();
        for header in image.log().scan(LogOffset(LOG_START)) {
            let header = header.unwrap();
            if header.kind == FrameKind::MAP_BLOCK {
                disk.flip(header.offset.0 + FRAME_HEADER as u64 + 20);
            }
        }
        let found = check(&disk.storage);
        assert!(found.damaged());
        assert!(found.findings.iter().all(|f| f.severity < Severity::Lost), "{gc}: {:#?}", found.findings);
        let fs = Fs::new(Arc::new(disk.image()), FsOptions { readahead: 0, ..FsOptions::default() });
        for (name, bytes) in &expected {
            let (attr, mut found) = (fs.resolve(name.as_bytes()).unwrap(), Vec::new());
            fs.read(attr.inode, 0, usize::MAX >> 1, &mut found).unwrap();
            assert!(found == *bytes, "{gc}: {name}");
        }
    }
}

#[test]
fn check_reads_what_the_thaw_log_says_was_packed_again() {
    let disk = Disk::new();
    let live = disk.open();
    some(&live);
    freeze(&live, Some(1));
    live.checkpoint_now().unwrap();
    deep(&live);
    live.commit_now().unwrap();
    let (count, place) = (places(&view(&live)).len() as u64, *places(&view(&live)).values().nth(1).unwrap());
    drop(live);
    let check = || {
        let beside = LogBesideImage::Folder { folder: disk.folder.clone(), writer: Arc::new(|| None) };
        let options = CheckOptions { jobs: 1, ..CheckOptions::default() };
        check_with_log(disk.storage.clone(), &beside, &options, &()).unwrap()
    };
    let report = check();
    assert!(report.findings.iter().all(|f| f.severity <= Severity::Note), "{:#?}", report.findings);
    assert!(report.superchunks_read >= 2 * count);
    disk.flip(place.offset.0 + place.frame_len() - 100);
    let report = check();
    let lost: Vec<_> = report.findings.iter().filter(|f| f.severity == Severity::Lost).collect();
    assert!(!lost.is_empty() && lost.iter().all(|f| f.kind != FindingKind::Head), "{:#?}", report.findings);
}

#[test]
fn a_crash_after_gc_brings_back_nothing_that_was_freed_though_a_checkpoint_was_given_up_before() {
    for is_deep in [true, false] {
        let disk = Disk::new();
        let live = disk.open();
        write(&live, "first", &text(1000, 20));
        // Sealed, and given up: the next checkpoint publishes only what was sealed. The frames come before its end.
        disk.storage.fail_nth_of(Operation::Append, 0, Fault::Enospc);
        assert!(live.checkpoint_now().is_err() && live.latched().is_none());
        some(&live);
        freeze(&live, Some(1));
        live.commit_now().unwrap();
        let before = files(&live);
        if is_deep {
            assert!(deep(&live).repacked > 3);
        } else {
            ["large", "other", "small"].iter().for_each(|name| live.unlink(InodeId::ROOT, name.as_bytes()).unwrap());
            live.reap_now().unwrap();
        }
        let after = files(&live);
        assert!(live.gc_now(NEVER).unwrap().freed_bytes > 500_000);
        drop(live);
        let found = files(&disk.open());
        assert!(found == before || found == after, "deep: {is_deep}: {:?}", found.keys());
        assert_clean(&check(&disk.storage), "after the crash");
    }
}

#[test]
fn a_power_cut_anywhere_in_a_deep_freeze_that_packs_again_and_in_a_gc_after_it_loses_nothing() {
    let history = History::new(Remains { image: empty(params()), segments: BTreeMap::new() });
    let live = open(Arc::new(history.storage()), Arc::new(history.folder()), 1);
    let mut states = Vec::new();
    write(&live, "rooted", &text(150_000, 7));
    freeze(&live, Some(1));
    live.checkpoint_now().unwrap();
    // These are in the log only when they are packed again.
    write(&live, "committed", &text(150_000, 8));
    freeze(&live, Some(1));
    live.commit_now().unwrap();
    let expected = files(&live);
    let begin = history.len();
    let report = deep(&live);
    assert_eq!(report.repacked, 2, "{report:?}");
    // gc before any commit of the new places.
    assert!(live.gc_now(NEVER).unwrap().freed_bytes > 50_000);
    states.push((history.len(), expected.clone()));
    write(&live, "later", &text(20_000, 9));
    freeze(&live, Some(1));
    live.commit_now().unwrap();
    let later = files(&live);
    let committed = history.len();
    deep(&live);
    live.commit_now().unwrap();
    live.gc_now(NEVER).unwrap();
    assert_eq!((fast(&live), files(&live)), (BTreeSet::new(), later.clone()));
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let mut cuts = 0;
    for n in begin..=history.len() {
        history.each_cut(n, 4, |left, what| {
            cuts += 1;
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(left.image));
            let live = open(storage.clone(), Arc::new(MemoryFolder::from_segments(left.segments)), 9);
            let found = files(&live);
            let allowed = if n < committed { found == expected || found == later } else { found == later };
            assert!(allowed, "{what}: {:?}", found.keys());
            if cuts % 4 == 0 {
                deep(&live);
                live.gc_now(NEVER).unwrap();
                assert_eq!((files(&live), fast(&live)), (found, BTreeSet::new()), "{what}");
                live.end(HOUR).unwrap();
                drop(live);
                let options = CheckOptions { jobs: 1, ..CheckOptions::default() };
                assert_clean(&care::check(storage, &options, &()).unwrap(), what);
            }
        });
    }
    assert!(cuts > 100, "{cuts}");
}
