//! Freezes find data that is similar to what the image has, and store it as recipes: bytes, gc, damage, power cuts, and the
//! size beside that of an image that was packed at once.

mod common;
#[path = "common/memory.rs"]
mod memory;

use common::left_out::need_fuse;
use common::{Lab, Mounted, floe, floe_command, run};
use floe::care::{self, CheckOptions, CheckReport, Finding, FindingKind, LogBesideImage, Severity, check_with_log};
use floe::format::frame::FrameKind;
use floe::format::head::incompat;
use floe::format::ids::{InodeId, SubchunkId, SuperchunkId};
use floe::format::params::Params;
use floe::format::rows::{ContentRef, Extent};
use floe::fs::gc::NoReaders;
use floe::fs::{Finished, FreezeHow, FreezeReport, Live};
use floe::meta::{Heads, View};
use floe::storage::testing::{History, MemoryFolder, MemoryStorage, Remains};
use floe::storage::{Folder, Storage};
use memory::{HOUR, assert_clean, empty, files, inodes, params, write};
use serde_json::Value;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

const NEVER: &dyn Fn() -> bool = &|| false;

fn matching() -> Params {
    Params { min_match: 128, ..params() }
}

fn open(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>, session: u64) -> Arc<Live> {
    let live = memory::open(storage, folder, session);
    live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
    live
}

struct Disk {
    storage: Arc<MemoryStorage>,
    folder: Arc<MemoryFolder>,
    sessions: Cell<u64>,
}

impl Disk {
    fn new(params: Params) -> Self {
        Disk {
            storage: Arc::new(MemoryStorage::from_bytes(empty(params))),
            folder: Arc::new(MemoryFolder::new()),
            sessions: Cell::new(0),
        }
    }

    /// The filesystem, or what a crash leaves of it that loses nothing written.
    fn open(&self) -> Arc<Live> {
        self.sessions.set(self.sessions.get() + 1);
        open(self.storage.clone(), self.folder.clone(), self.sessions.get())
    }

    #[track_caller]
    fn assert_clean(&self, what: &str) {
        assert_clean(&check(self.storage.clone(), self.folder.clone()), what);
    }
}

/// Checks image and thaw log.
fn check(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>) -> CheckReport {
    let beside = LogBesideImage::Folder { folder, writer: Arc::new(|| None) };
    check_with_log(storage, &beside, &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap()
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Bytes in which one byte in 900 differs from those of every other version, and no other.
fn version(len: usize, number: usize) -> Vec<u8> {
    let mut bytes = noise(len, 1);
    bytes.iter_mut().skip(number * 97 % 900).step_by(900).for_each(|byte| *byte ^= number as u8);
    bytes
}

fn freeze(live: &Live) -> FreezeReport {
    let report = live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    assert_eq!(report.left_bytes, 0);
    report
}

fn view(live: &Live) -> View {
    live.snapshot().view().clone()
}

/// The subchunks of a file.
fn subchunks(view: &View, inode: InodeId) -> Vec<SubchunkId> {
    match view.inode(inode).unwrap().unwrap().content {
        ContentRef::Subchunk(id) => vec![id],
        ContentRef::Content(content) => {
            let (mut extents, mut out) = (view.extents(content, 0).unwrap(), Vec::new());
            while let Some((_, extent)) = extents.next(view).unwrap() {
                match extent.extent {
                    Extent::Hole => {}
                    Extent::Slice { subchunk, .. } => out.push(subchunk),
                    Extent::Run { first, lens } => out.extend((0..lens.len() as u64).map(|n| SubchunkId(first.0 + n))),
                }
            }
            out
        }
        _ => Vec::new(),
    }
}

fn inode(live: &Live, name: &str) -> InodeId {
    inodes(live).into_iter().find(|(known, _)| known == name).unwrap().1
}

/// How many subchunks of a file are composed, of how many.
fn composed(live: &Live, name: &str) -> (usize, usize) {
    let view = view(live);
    let all = subchunks(&view, inode(live, name));
    (all.iter().filter(|id| view.locate(**id).unwrap().unwrap().composed).count(), all.len())
}

/// The superchunks that the recipes of a file refer to, and those that hold its composed subchunks.
fn superchunks(live: &Live, name: &str) -> (BTreeSet<SuperchunkId>, BTreeSet<SuperchunkId>) {
    let view = view(live);
    let (mut sources, mut own) = (BTreeSet::new(), BTreeSet::new());
    let at = |id| view.locate(id).unwrap().unwrap().superchunk;
    for id in subchunks(&view, inode(live, name)) {
        if let Some(recipe) = view.recipe(id).unwrap() {
            own.insert(at(id));
            sources.extend(recipe.pieces().iter().map(|piece| at(piece.subchunk)));
        }
    }
    (&sources - &own, own)
}

/// The feature bits that all usable head slots name.
fn features(storage: Arc<dyn Storage>) -> u64 {
    Heads::read(storage).unwrap().slots().fold(u64::MAX, |bits, head| bits & head.incompat)
}

#[test]
fn what_is_similar_within_a_batch_and_across_batches_is_stored_once_and_reads_right_after_a_crash() {
    let disk = Disk::new(matching());
    let live = disk.open();
    write(&live, "v0", &version(700_000, 0));
    write(&live, "v1", &version(700_000, 1));
    assert_eq!(features(disk.storage.clone()) & incompat::RECIPES, 0);
    let within = freeze(&live);
    assert!(within.new_bytes < 800_000, "{within:?}");
    assert_ne!(features(disk.storage.clone()) & incompat::RECIPES, 0);
    let stored: Vec<_> = (2..5)
        .map(|n| {
            write(&live, &format!("v{n}"), &version(700_000, n));
            freeze(&live).new_bytes
        })
        .collect();
    assert!(stored.iter().all(|new| *new < 60_000), "{stored:?}");
    for name in ["v0", "v1", "v4"] {
        let (composed, all) = composed(&live, name);
        assert!(if name == "v0" { composed == 0 } else { composed * 10 >= all * 9 }, "{name}: {composed} of {all}");
    }
    let expected = files(&live);
    assert!((0..5).all(|n| expected[&format!("v{n}")] == version(700_000, n)));
    live.commit_now().unwrap();
    // The recipes are only in the thaw log.
    let live = disk.open();
    assert!(files(&live) == expected);
    disk.assert_clean("recipes in the thaw log");
    // The first change of a session lets a checkpoint begin.
    write(&live, "empty", b"");
    live.checkpoint_now().unwrap();
    let expected = files(&live);
    let root = *view(&live).version().root();
    let all: BTreeSet<_> = (0..5).flat_map(|n| subchunks(&view(&live), inode(&live, &format!("v{n}")))).collect();
    // As `pack` counts them: the lengths of the subchunks, not of what is stored.
    assert_eq!(root.subchunks, all.len() as u64);
    assert!((3_000_000..=3_500_000).contains(&root.unique_bytes), "{}", root.unique_bytes);
    // An index of an earlier session is not needed to read, and a later one finds new similar data.
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let live = disk.open();
    assert!(files(&live) == expected);
    disk.assert_clean("at the end");
}

#[test]
fn what_was_there_before_the_mount_is_found_by_its_first_freezes() {
    let disk = Disk::new(matching());
    let live = disk.open();
    write(&live, "a", &version(900_000, 0));
    write(&live, "b", &version(900_000, 1));
    freeze(&live);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    for number in 2..5 {
        let live = disk.open();
        let name = format!("v{number}");
        write(&live, &name, &version(900_000, number));
        let report = freeze(&live);
        assert!(report.new_bytes < 60_000, "{report:?}");
        assert!(files(&live)[&name] == version(900_000, number));
        if number == 3 {
            // The superchunks that the next mount finds have rows only in the thaw log.
            live.commit_now().unwrap();
        } else {
            assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
            disk.assert_clean(&name);
        }
    }
}

#[test]
fn without_recipes_in_the_parameters_there_are_none() {
    let disk = Disk::new(params());
    let live = disk.open();
    (0..3).for_each(|n| _ = write(&live, &format!("v{n}"), &version(300_000, n)));
    assert!(freeze(&live).new_bytes > 600_000);
    assert_eq!((composed(&live, "v2").0, features(disk.storage.clone())), (0, 0));
}

#[test]
fn what_a_recipe_uses_stays_when_its_file_is_deleted_and_goes_with_the_last_user() {
    let disk = Disk::new(matching());
    let live = disk.open();
    write(&live, "a", &version(900_000, 0));
    freeze(&live);
    write(&live, "b", &version(900_000, 1));
    freeze(&live);
    let (sources, own) = superchunks(&live, "b");
    assert!(!sources.is_empty() && sources.is_disjoint(&own), "{sources:?} {own:?}");
    let b = files(&live)["b"].clone();
    live.checkpoint_now().unwrap();
    live.unlink(InodeId::ROOT, b"a").unwrap();
    let report = live.gc_now(NEVER).unwrap();
    let has = |live: &Live, id| view(live).superchunk(id).unwrap().is_some();
    assert!(sources.iter().all(|id| has(&live, *id)), "{report:?}");
    live.checkpoint_now().unwrap();
    let live = disk.open();
    assert!(files(&live)["b"] == b);
    disk.assert_clean("after gc and a crash");
    live.unlink(InodeId::ROOT, b"b").unwrap();
    let report = live.gc_now(NEVER).unwrap();
    assert!(report.freed_bytes > 800_000, "{report:?}");
    assert!(sources.iter().chain(&own).all(|id| !has(&live, *id)));
    // What was freed is found no longer.
    write(&live, "c", &version(900_000, 2));
    let again = freeze(&live);
    assert!(again.new_bytes > 850_000, "{again:?}");
    assert!(files(&live)["c"] == version(900_000, 2));
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    disk.assert_clean("at the end");
}

#[test]
fn a_file_is_composed_of_what_only_deleted_files_had_before_gc_frees_it() {
    let disk = Disk::new(matching());
    let live = disk.open();
    write(&live, "a", &version(900_000, 0));
    freeze(&live);
    live.unlink(InodeId::ROOT, b"a").unwrap();
    live.commit_now().unwrap();
    // Dead, but not freed yet.
    write(&live, "b", &version(900_000, 1));
    assert!(freeze(&live).new_bytes < 60_000);
    let (sources, _) = superchunks(&live, "b");
    live.gc_now(NEVER).unwrap();
    assert!(sources.iter().all(|id| view(&live).superchunk(*id).unwrap().is_some()));
    let live = disk.open();
    assert!(files(&live)["b"] == version(900_000, 1));
    disk.assert_clean("after a crash");
}

#[test]
fn recipes_do_not_refer_to_composed_subchunks_whose_rows_gc_deleted() {
    let disk = Disk::new(matching());
    let live = disk.open();
    write(&live, "a", &version(400_000, 0));
    freeze(&live);
    // One superchunk holds a composed subchunk with new bytes, and a file that stays.
    let new = noise(3000, 9);
    write(&live, "b", &[&version(40_000, 1)[..], &new].concat());
    write(&live, "stays", &noise(400_000, 5));
    freeze(&live);
    let (composed, all) = composed(&live, "b");
    assert!(composed > 0, "{composed} of {all}");
    live.unlink(InodeId::ROOT, b"b").unwrap();
    live.gc_now(NEVER).unwrap();
    // The bytes are still in the superchunk, but nobody's.
    write(&live, "c", &[&noise(10_000, 6)[..], &new, &noise(300_000, 5)[..], &noise(10_000, 7)].concat());
    freeze(&live);
    let expected = files(&live);
    live.commit_now().unwrap();
    let live = disk.open();
    assert!(files(&live) == expected);
    disk.assert_clean("after a crash");
}

/// The text of [`text`], with a byte changed in every 900.
fn changed_text(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = text(len, seed);
    bytes.iter_mut().step_by(900).for_each(|byte| *byte = b'_');
    bytes
}

/// Freezes everything at the fastest level.
fn freeze_fast(live: &Live) {
    live.freeze_now(&FreezeHow { level: Some(1), ..FreezeHow::everything() }, &|_| ()).unwrap();
}

#[test]
fn superchunks_with_composed_subchunks_that_were_packed_fast_are_packed_again_and_their_recipes_stay() {
    let disk = Disk::new(matching());
    let live = disk.open();
    let (bytes, changed) = (text(900_000, 1), changed_text(900_000, 1));
    write(&live, "a", &bytes);
    freeze_fast(&live);
    let other = [&changed[..], &text(300_000, 2)].concat();
    write(&live, "b", &other);
    freeze_fast(&live);
    let before = composed(&live, "b");
    assert!(before.0 > 100, "{before:?}");
    let recipes = |live: &Live| {
        let view = view(live);
        subchunks(&view, inode(live, "b")).into_iter().map(|id| view.recipe(id).unwrap()).collect::<Vec<_>>()
    };
    let made = recipes(&live);
    let report = live.freeze_now(&FreezeHow { deep: true, ..FreezeHow::everything() }, &|_| ()).unwrap();
    assert_eq!(report.repacked, 2, "{report:?}");
    assert!(report.repacked_saved_bytes > 10_000 && recipes(&live) == made, "{report:?}");
    live.commit_now().unwrap();
    let live = disk.open();
    assert!(files(&live)["b"] == other && files(&live)["a"] == bytes);
    assert!(live.gc_now(NEVER).unwrap().frames >= 2);
    assert!(files(&live)["b"] == other && files(&live)["a"] == bytes);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    disk.assert_clean("at the end");
}

#[test]
fn what_is_composed_of_damaged_bytes_is_not_packed_again() {
    let disk = Disk::new(matching());
    let live = disk.open();
    let (bytes, changed) = (text(900_000, 1), changed_text(900_000, 1));
    write(&live, "a", &bytes);
    freeze_fast(&live);
    write(&live, "b", &changed);
    freeze_fast(&live);
    live.commit_now().unwrap();
    let place = {
        let (view, (sources, _)) = (view(&live), superchunks(&live, "b"));
        view.superchunk(*sources.first().unwrap()).unwrap().unwrap().place
    };
    disk.storage.flip(place.offset.0 + place.frame_len() - 1000, 1).unwrap();
    let live = disk.open();
    let report = live.freeze_now(&FreezeHow { deep: true, ..FreezeHow::everything() }, &|_| ()).unwrap();
    // Neither the damaged one, nor the one that needs it.
    assert_eq!(report.repacked, 0, "{report:?}");
}

#[test]
fn damaged_superchunks_are_no_sources() {
    for damaged in [false, true] {
        let disk = Disk::new(matching());
        let live = disk.open();
        write(&live, "a", &version(900_000, 0));
        freeze(&live);
        if damaged {
            let view = view(&live);
            let rows = (1..100).filter_map(|id| view.superchunk(SuperchunkId(id)).unwrap());
            let row = rows.into_iter().find(|row| row.kind == FrameKind::SUPERCHUNK).unwrap();
            let end = row.place.offset.0 + row.place.frame_len();
            disk.storage.flip(end - 1000, 1).unwrap();
        }
        write(&live, "b", &version(900_000, 1));
        let report = freeze(&live);
        assert_eq!(report.new_bytes > 800_000, damaged, "{report:?}");
        let b = inode(&live, "b");
        let fs = floe::fs::Fs::over(live.clone(), floe::fs::FsOptions::default());
        let mut bytes = Vec::new();
        fs.read(b, 0, usize::MAX >> 1, &mut bytes).unwrap();
        assert!(bytes == version(900_000, 1));
    }
}

//= format-spec.md#3.2
//= type=test
//# A head
//# slot must name every incompat bit that its root needs, or the thaw log that continues it.
#[test]
fn a_power_cut_anywhere_in_freezes_with_recipes_loses_nothing_and_old_readers_refuse_whatever_has_recipes() {
    let history = History::new(Remains { image: empty(matching()), segments: BTreeMap::new() });
    let live = open(Arc::new(history.storage()), Arc::new(history.folder()), 1);
    let mut states = vec![(0, 0, files(&live))];
    let mut commit = |live: &Arc<Live>| {
        let before = history.len();
        live.commit_now().unwrap();
        states.push((before, history.len(), files(live)));
    };
    write(&live, "a", &version(60_000, 0));
    commit(&live);
    freeze(&live);
    commit(&live);
    write(&live, "b", &version(60_000, 1));
    commit(&live);
    freeze(&live);
    assert!(composed(&live, "b").0 > 10);
    commit(&live);
    write(&live, "c", &version(60_000, 2));
    commit(&live);
    freeze(&live);
    live.checkpoint_now().unwrap();
    commit(&live);
    live.unlink(InodeId::ROOT, b"a").unwrap();
    commit(&live);
    live.gc_now(NEVER).unwrap();
    commit(&live);
    assert_eq!(live.end(HOUR).unwrap(), Finished::Removed);
    let (mut cuts, mut with_recipes) = (0, 0);
    for n in 0..=history.len() {
        history.each_cut(n, 4, |left, what| {
            cuts += 1;
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(left.image));
            let folder = Arc::new(MemoryFolder::from_segments(left.segments));
            let named = features(storage.clone());
            let live = open(storage.clone(), folder.clone(), 9);
            let found = files(&live);
            let first = states.iter().rposition(|state| state.1 <= n).unwrap();
            let mut allowed = states[first..].iter().filter(|state| state.0 <= n);
            assert!(allowed.any(|state| state.2 == found), "{what}: {:?}", found.keys());
            if found.keys().any(|name| composed(&live, name).0 > 0) {
                with_recipes += 1;
                assert_ne!(named & incompat::RECIPES, 0, "{what}");
            }
            if cuts % 7 == 0 {
                let report = check(storage.clone(), folder.clone());
                // A head slot may be torn.
                let bad = |finding: &&Finding| finding.severity > Severity::Note && finding.kind != FindingKind::Head;
                assert_eq!(report.findings.iter().find(bad), None, "{what}");
                write(&live, "more", &version(30_000, 7));
                freeze(&live);
                live.gc_now(NEVER).unwrap();
                let expected = files(&live);
                assert_eq!(live.end(HOUR).unwrap(), Finished::Removed, "{what}");
                assert!(files(&live) == expected, "{what}: ended");
                drop(live);
                assert_clean(
                    &care::check(storage, &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap(),
                    what,
                );
            }
        });
    }
    assert!(cuts > 300 && with_recipes > 100, "{cuts} {with_recipes}");
}

/// Text of words in no order.
fn text(len: usize, seed: u64) -> Vec<u8> {
    let words = noise(256 * 8, 0);
    let word = |n: u8| words.iter().skip(usize::from(n) * 8).take(3 + usize::from(n) % 6);
    noise(len, seed).iter().flat_map(|&n| word(n)).copied().take(len).collect()
}

/// Writes version `number` of a tree: in each version, a tenth of the files have an edit in the middle, and one is new.
fn write_version(dir: &Path, number: u64) {
    for n in 0..60 {
        let folder = dir.join(format!("d{}", n % 6));
        fs::create_dir_all(&folder).unwrap();
        let mut bytes = text(20_000 + n as usize * 1000, n);
        for edit in 1..=number {
            if (edit * 7 + n) % 10 == 0 {
                let at = (edit * 7919 + n * 104_729) as usize % bytes.len();
                bytes.splice(at..at, text(200, edit << 32 | n));
            }
        }
        fs::write(folder.join(format!("f{n}")), bytes).unwrap();
    }
    for n in 0..number {
        fs::write(dir.join(format!("new{n}")), text(20_000, 1000 + n)).unwrap();
    }
}

fn live_bytes(image: &Path) -> u64 {
    let info: Value = serde_json::from_slice(&floe!("info", "--json", image).exits(0).stdout).unwrap();
    let live = |name: &str| info["space"][name].as_u64().unwrap();
    live("live_data") + live("live_tables")
}

const OPTIONS: [&str; 6] = ["--min-match", "128", "--superchunk-size", "1M", "-C", "zstd:12"];

#[test]
fn versions_that_are_copied_and_frozen_one_after_another_take_little_more_than_packed_at_once() {
    need_fuse!();
    let lab = Lab::new();
    let (packed, image, point) = (lab.image("packed.floe"), lab.image("x.floe"), lab.mount_point("m"));
    let source = lab.path("source");
    (0..20).for_each(|n| write_version(&source.join(format!("v{n:02}")), n));
    let floe_on = |command, paths: &[&Path]| {
        let mut all = floe_command([command]);
        all.args(OPTIONS).args(paths);
        run(all).exits(0);
    };
    floe_on("pack", &[&source, &packed]);
    floe_on("mkfs", &[&image]);
    let mount = Mounted::as_asked(&image, &point, &[]);
    for n in 0..20 {
        let name = format!("v{n:02}");
        write_version(&point.join(&name), n);
        floe!("freeze", &point).exits(0);
    }
    let one = live_bytes(&packed);
    let batches = live_bytes(&image);
    floe!("freeze", "--deep", &point).exits(0);
    let deep = live_bytes(&image);
    drop(mount);
    floe!("check", &image).exits(0);
    println!("packed {one}, in batches {batches}, after a deep freeze {deep}");
    assert!(batches * 100 <= one * 120, "{batches} of {one}");
    assert!(deep * 100 <= one * 108, "{deep} of {one}");
    let mount = Mounted::new(&image, &point, &[]);
    assert_eq!(contents(&point), contents(&source));
    drop(mount);
}

/// Names and hashes of the files below a directory.
fn contents(dir: &Path) -> BTreeMap<String, [u8; 32]> {
    let mut out = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                out.insert(name, *blake3::hash(&fs::read(&path).unwrap()).as_bytes());
            }
        }
    }
    out
}
