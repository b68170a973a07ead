//! Superchunks that are in no root yet, read by the rows of overlays.

#[path = "common/forge.rs"]
mod forge;
#[path = "common/rows.rs"]
mod rows;

use floe::care::{CheckOptions, CheckReport, LogBesideImage, Severity, check_with_log};
use floe::format::block::{Key, Row};
use floe::format::clear::{ClearList, Listed};
use floe::format::codec::RAW;
use floe::format::frame::{Flags, FrameKind};
use floe::format::ids::{ContentId, InodeId, SubchunkId, SuperchunkId};
use floe::format::params::HashKind;
use floe::format::recipe::Recipe;
use floe::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use floe::format::rows::{ContentRef, ContentRow, Extent, Identity, Time, identity};
use floe::format::transaction::{Counters, Operation};
use floe::format::{limits, schema, sums};
use floe::fs::begin::Beginning;
use floe::fs::start::look;
use floe::fs::{Fs, FsOptions, Live, LiveOptions};
use floe::inflate::WorkingSet;
use floe::log::{LogWriter, NewFrame};
use floe::meta::{ImageOptions, MapRows, Overlay, View};
use floe::storage::testing::{FolderHome, MemoryFolder, MemoryStorage};
use floe::storage::{Folder, LogHome, Storage};
use forge::{Forge, Subchunk, noise, piece};
use proptest::prelude::*;
use rows::Writer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const UNKNOWN: &str = "the map does not know it";

/// Appends a superchunk of these subchunks to the image's log, and adds its rows only to the overlay. Returns the first
/// subchunk's id.
fn freeze(writer: &mut Writer, overlay: &mut Overlay, subchunks: &[Subchunk]) -> u64 {
    freeze_into(&mut writer.log, &mut writer.counters, overlay, subchunks)
}

/// Like [`freeze`]; `counters` are the next free ids.
fn freeze_into(log: &mut LogWriter, counters: &mut Counters, overlay: &mut Overlay, subchunks: &[Subchunk]) -> u64 {
    let (first, superchunk) = (counters.subchunk, SuperchunkId(counters.superchunk));
    counters.subchunk += subchunks.len() as u64;
    counters.superchunk += 1;
    let (mut raw, mut identities, mut recipes) = (Vec::new(), Vec::new(), Vec::new());
    let mut list = ClearList { superchunk, subchunks: Vec::new() };
    for (id, (stored, recipe)) in (first..).map(SubchunkId).zip(subchunks) {
        raw.extend_from_slice(stored);
        list.subchunks.push(Listed { id, len: stored.len() as u32, composed: recipe.is_some() });
        identities.push(Identity::of(HashKind::Blake3, recipe.as_ref().map_or(stored, |(_, bytes)| bytes)));
        recipes.extend(recipe.as_ref().map(|(recipe, _)| (id, recipe.clone())));
    }
    let frame = NewFrame {
        kind: FrameKind::SUPERCHUNK,
        codec: RAW,
        flags: Flags::default().with_short(true),
        clear: &list.encode(),
        stored: &raw,
        raw_len: raw.len() as u32,
        sum: sums::xxh3(&raw),
    };
    let place = log.append(frame).unwrap();
    log.sync().unwrap();
    let mut map = MapRows::default();
    map.add(FrameKind::SUPERCHUNK, place, &list, recipes);
    map.rows().for_each(|row| overlay.set(&schema::MAP, row.key.clone(), Some(row)));
    for (n, run) in identities.chunks(limits::IDENTITY_RUN as usize).enumerate() {
        let key = Key::new(first + limits::IDENTITY_RUN * n as u64, 0);
        let tail = identity::encode_run(HashKind::Blake3, run);
        overlay.set(&schema::IDENTITIES, key.clone(), Some(Row { key, ints: vec![run.len() as u64], tail }));
    }
    first
}

/// Subchunks that are stored, not composed.
fn plain(seed: u8, count: usize, len: usize) -> Vec<Subchunk> {
    noise(seed, count * len).chunks(len).map(|bytes| (bytes.to_vec(), None)).collect()
}

fn read(set: &WorkingSet, view: &View, id: u64, skip: u32, len: usize) -> Result<Vec<u8>, String> {
    let mut out = vec![0; len];
    set.read_subchunk(view, SubchunkId(id), skip, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

fn open(forge: &Forge) -> (Arc<MemoryStorage>, Writer) {
    let storage = forge.build();
    let mut writer = Writer::open(storage.clone() as Arc<dyn Storage>).unwrap();
    writer.counters = Counters::of(writer.version.root());
    (storage, writer)
}

/// An image with three subchunks of 1000 bytes, in two superchunks.
fn image() -> Forge {
    let mut forge = Forge::new();
    forge.superchunks = vec![plain(1, 2, 1000), plain(2, 1, 1000)];
    for id in 1..=3 {
        forge.file(1, &format!("file {id}"), 1 + id, 1000, ContentRef::Subchunk(SubchunkId(id)));
    }
    forge
}

#[test]
fn what_no_root_has_is_read_by_the_rows_of_both_overlays_and_only_by_views_that_have_them() {
    let (_, mut writer) = open(&image());
    let before = View::of(writer.version.clone());
    let (mut sealed, mut active) = (Overlay::default(), Overlay::default());
    // Runs of the map have 128 ids: three runs, then one of another superchunk.
    let many = plain(3, 300, 50);
    let first = freeze(&mut writer, &mut sealed, &many);
    let between = View::live(writer.version.clone(), Some(sealed.clone()), Overlay::default());
    // A frame without rows takes ids, too: a freeze that was abandoned after the ids were assigned.
    writer.counters.subchunk += 5;
    let more = plain(4, 2, 700);
    let second = freeze(&mut writer, &mut active, &more);
    let now = View::live(writer.version.clone(), Some(sealed), active);
    writer.version.raise_end(writer.log.end());
    assert_eq!(second, first + 305);

    let set = WorkingSet::new(writer.version.clone(), 1, 0);
    for (n, (bytes, _)) in many.iter().enumerate() {
        let id = first + n as u64;
        for view in [&between, &now] {
            assert_eq!(&read(&set, view, id, 0, 50).unwrap(), bytes);
            assert_eq!(read(&set, view, id, 13, 30).unwrap(), bytes[13..43]);
            assert!(read(&set, view, id, 21, 30).unwrap_err().contains("shorter"));
        }
        assert!(read(&set, &before, id, 0, 50).unwrap_err().contains(UNKNOWN));
    }
    for (id, (bytes, _)) in (second..).zip(&more) {
        assert_eq!(&read(&set, &now, id, 0, 700).unwrap(), bytes);
        assert!(read(&set, &between, id, 0, 700).unwrap_err().contains(UNKNOWN));
    }
    for view in [&before, &between, &now] {
        for (id, bytes) in [(1, &noise(1, 2000)[..1000]), (2, &noise(1, 2000)[1000..]), (3, &noise(2, 1000)[..])] {
            assert_eq!(read(&set, view, id, 0, 1000).unwrap(), bytes);
        }
        for id in [0, first - 1, first + 300, second - 1, second + 2, 1 << 60] {
            assert!(read(&set, view, id, 0, 1).is_err(), "{id}");
            assert_eq!(view.identity(SubchunkId(id)).unwrap(), None, "{id}");
        }
        for id in first + 300..second {
            assert_eq!(view.locate(SubchunkId(id)).unwrap(), None);
        }
    }
}

#[test]
fn frames_beyond_the_readable_end_are_refused_until_it_is_raised_for_all_versions_together() {
    let (_, mut writer) = open(&image());
    let old = writer.version.clone();
    writer.checkpoint(&Overlay::default()).unwrap();
    let mut overlay = Overlay::default();
    let bytes = plain(5, 1, 5000);
    let id = freeze(&mut writer, &mut overlay, &bytes);
    let views = [&old, &writer.version].map(|version| View::live(version.clone(), None, overlay.clone()));
    let sets = [&old, &writer.version].map(|version| WorkingSet::new(version.clone(), 1, 0));
    let refused = || {
        for (view, set) in views.iter().flat_map(|view| sets.iter().map(move |set| (view, set))) {
            let error = read(set, view, id, 0, 5000).unwrap_err();
            assert!(error.contains("cannot read superchunk") && error.contains("bytes"), "{error}");
        }
    };
    refused();
    // Up to the last byte of the frame, and never back.
    let superchunk = views[0].locate(SubchunkId(id)).unwrap().unwrap().superchunk;
    let place = views[0].superchunk(superchunk).unwrap().unwrap().place;
    old.raise_end(place.offset.0 + place.frame_len() - 1);
    refused();
    writer.version.raise_end(place.offset.0 + place.frame_len());
    old.raise_end(0);
    for (view, set) in views.iter().flat_map(|view| sets.iter().map(move |set| (view, set))) {
        assert_eq!(read(set, view, id, 0, 5000).unwrap(), bytes[0].0);
    }
}

#[test]
fn a_checkpoint_takes_the_rows_into_its_root_and_old_views_read_on() {
    let (storage, mut writer) = open(&image());
    let old = writer.version.clone();
    let mut overlay = Overlay::default();
    let bytes = plain(6, 200, 100);
    let first = freeze(&mut writer, &mut overlay, &bytes);
    let before = View::live(old.clone(), None, overlay.clone());
    writer.checkpoint(&overlay).unwrap();
    let (sealed, after) =
        (View::live(old.clone(), Some(overlay), Overlay::default()), View::of(writer.version.clone()));
    // The old version shares them with the new root; a new reader of the file finds them only in the root.
    let set = WorkingSet::new(old, 1, 0);
    let anew = Writer::open(Arc::new(MemoryStorage::from_bytes(storage.to_bytes())) as Arc<dyn Storage>).unwrap();
    let (set_anew, view_anew) = (WorkingSet::new(anew.version.clone(), 1, 0), View::of(anew.version.clone()));
    for (id, (bytes, _)) in (first..).zip(&bytes) {
        for view in [&before, &sealed, &after] {
            assert_eq!(&read(&set, view, id, 0, 100).unwrap(), bytes);
            assert_eq!(view.identity(SubchunkId(id)).unwrap(), Some(Identity::of(HashKind::Blake3, bytes)));
        }
        assert_eq!(&read(&set_anew, &view_anew, id, 0, 100).unwrap(), bytes);
    }
}

#[test]
fn subchunks_of_a_damaged_superchunk_that_no_root_has_are_judged_by_the_identities_of_the_overlay() {
    let (storage, mut writer) = open(&image());
    let mut overlay = Overlay::default();
    let bytes = plain(7, 3, 1000);
    let first = freeze(&mut writer, &mut overlay, &bytes);
    writer.version.raise_end(writer.log.end());
    let view = View::live(writer.version.clone(), None, overlay);
    let superchunk = view.locate(SubchunkId(first)).unwrap().unwrap().superchunk;
    let place = view.superchunk(superchunk).unwrap().unwrap().place;
    storage.flip(place.stored_at(place.offset) + 1500, 1).unwrap();
    let set = WorkingSet::new(writer.version.clone(), 1, 0);
    assert_eq!(read(&set, &view, first, 10, 900).unwrap(), bytes[0].0[10..910]);
    assert!(read(&set, &view, first + 1, 0, 10).unwrap_err().contains("content hash mismatch"));
    assert_eq!(read(&set, &view, first + 2, 0, 1000).unwrap(), bytes[2].0);
}

#[test]
fn recipes_of_an_overlay_name_what_the_version_has_and_what_only_overlays_have() {
    let (_, mut writer) = open(&image());
    let (mut sealed, mut active) = (Overlay::default(), Overlay::default());
    let one = plain(8, 1, 1000);
    let first = freeze(&mut writer, &mut sealed, &one);
    let composed = [&noise(2, 1000)[100..200], &one[0].0[..500]].concat();
    let recipe = Recipe::new(vec![piece(3, 100, 100), piece(first, 0, 500)]).unwrap();
    let id =
        freeze(&mut writer, &mut active, &[(noise(9, 10), None), (Vec::new(), Some((recipe, composed.clone())))]) + 1;
    writer.version.raise_end(writer.log.end());
    let set = WorkingSet::new(writer.version.clone(), 1, 0);
    let view = View::live(writer.version.clone(), Some(sealed.clone()), active.clone());
    assert_eq!(read(&set, &view, id, 0, 600).unwrap(), composed);
    assert_eq!(read(&set, &view, id, 90, 20).unwrap(), composed[90..110]);
    assert_eq!(view.recipe(SubchunkId(id - 1)).unwrap(), None);
    assert_eq!(view.recipe(SubchunkId(3)).unwrap(), None);
    // Without the sealed overlay, its source does not exist.
    let view = View::live(writer.version.clone(), None, active);
    assert!(read(&set, &view, id, 90, 20).unwrap_err().contains("names a subchunk that does not exist"));
    assert_eq!(read(&set, &view, id, 90, 10).unwrap(), composed[90..100]);
}

#[test]
fn read_ahead_goes_by_the_view_of_the_reader() {
    let (_, mut writer) = open(&image());
    let before = View::of(writer.version.clone());
    let mut overlay = Overlay::default();
    let bytes: Vec<_> = (0..8).map(|n| plain(20 + n, 20, 5000)).collect();
    let ids: Vec<_> = bytes.iter().map(|bytes| freeze(&mut writer, &mut overlay, bytes)).collect();
    writer.version.raise_end(writer.log.end());
    let view = View::live(writer.version.clone(), None, overlay);
    let set = WorkingSet::new(writer.version.clone(), 16 << 20, 1);
    let read_all = |first: u64, bytes: &[Subchunk]| {
        for (id, (bytes, _)) in (first..).zip(bytes) {
            assert_eq!(&read(&set, &view, id, 0, 5000).unwrap(), bytes);
        }
    };
    read_all(ids[0], &bytes[0]);
    while set.counters().ahead == 0 {
        // The reader stays in its superchunk, so the next one is inflated ahead.
        read_all(ids[0] + 19, &bytes[0][19..]);
    }
    // Superchunks inflated ahead are readable only through a view that has their rows.
    assert!(read(&set, &before, ids[1], 0, 10).unwrap_err().contains(UNKNOWN));
    ids.iter().zip(&bytes).for_each(|(first, bytes)| read_all(*first, bytes));
}

/// An image, and its thaw log after a crash. After the last checkpoint, file 1 was frozen to one subchunk of 3000
/// bytes, and file 2 to a hole and two subchunks.
struct Crashed {
    storage: Arc<MemoryStorage>,
    folder: Arc<MemoryFolder>,
    /// The current content of the files.
    files: [Vec<u8>; 2],
    /// Offset of the superchunk's stored bytes.
    stored: u64,
}

impl Crashed {
    fn new() -> Self {
        let storage = image().build();
        let crashed =
            Crashed { storage, folder: Arc::new(MemoryFolder::new()), files: [const { Vec::new() }; 2], stored: 0 };
        let beginning = Beginning { log_id: 0x77, segment_size: Some(16 << 10) };
        let mut writer = crashed.found().begin(&beginning).unwrap();
        let mut counters = Counters::of(writer.base.root());
        let mut overlay = Overlay::default();
        let bytes = plain(40, 3, 3000);
        let first = freeze_into(&mut writer.image, &mut counters, &mut overlay, &bytes);
        let content = ContentId(counters.content);
        counters.content += 1;
        let mut put = |table, row: Row| overlay.set(table, row.key.clone(), Some(row));
        let extents = [(0, Extent::Hole), (1000, Extent::Run { first: SubchunkId(first + 1), lens: vec![3000; 2] })];
        for ((offset, extent), length) in extents.into_iter().zip([1000, 6000]) {
            let (ints, tail) = ContentRow { length, extent }.encode();
            put(&schema::CONTENTS, Row { key: Key::new(content.0, offset), ints: ints.to_vec(), tail });
        }
        let contents = [(2, 3000, ContentRef::Subchunk(SubchunkId(first))), (3, 7000, ContentRef::Content(content))];
        for (inode, size, content) in contents {
            let mut forge = Forge::new();
            forge.file(1, "file", inode, size, content);
            if inode == 3 {
                forge.allocated(inode, 6000);
            }
            let (ints, tail) = forge.inodes[&inode].encode();
            put(&schema::INODES, Row { key: Key::new(inode, 0), ints: ints.to_vec(), tail });
        }
        let rows =
            schema::TABLES.into_iter().flat_map(|table| overlay.changes(table).map(move |change| (table, change)));
        let mut operations: Vec<_> = rows
            .map(|(table, change)| match change {
                floe::table::Change::Put(row) => Operation::Put(table, row),
                floe::table::Change::Delete(key) => Operation::Delete(table, key),
            })
            .collect();
        operations.push(Operation::Counters(counters));
        writer.log.commit(operations, writer.image.end(), (5, 6)).unwrap();
        let view = View::live(writer.base.clone(), None, overlay);
        let superchunk = view.locate(SubchunkId(first)).unwrap().unwrap().superchunk;
        let place = view.superchunk(superchunk).unwrap().unwrap().place;
        let bytes: Vec<_> = bytes.into_iter().map(|(bytes, _)| bytes).collect();
        let files = [bytes[0].clone(), [&[0; 1000], &bytes[1][..], &bytes[2]].concat()];
        Crashed { files, stored: place.stored_at(place.offset), ..crashed }
    }

    fn found(&self) -> floe::fs::start::Found {
        let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(self.folder.clone() as Arc<dyn Folder>));
        look(self.storage.clone(), home, ImageOptions::default()).unwrap()
    }

    fn mount(&self) -> Arc<Fs> {
        let clock = Arc::new(|| Time { secs: 1000, nanos: 0 });
        let commit = Duration::from_secs(3600);
        let options = LiveOptions { commit, clock, log_id: 0x78, segment_size: Some(16 << 10), budget: None };
        let live = Live::new(self.storage.clone(), self.found(), options).unwrap();
        Fs::over(live, FsOptions { cache: 8 << 20, readahead: 0, verify: false })
    }

    fn read(&self, fs: &Fs, inode: u64) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        fs.read(InodeId(inode), 0, 1 << 20, &mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    fn check(&self, options: &CheckOptions) -> CheckReport {
        let beside = LogBesideImage::Folder { folder: self.folder.clone(), writer: Arc::new(|| None) };
        check_with_log(self.storage.clone(), &beside, options, &()).unwrap()
    }
}

#[test]
fn after_a_crash_what_was_frozen_is_read_and_checked_by_the_rows_of_the_thaw_log() {
    let crashed = Crashed::new();
    let fs = crashed.mount();
    for (inode, bytes) in (2..).zip(&crashed.files) {
        assert_eq!(&crashed.read(&fs, inode).unwrap(), bytes);
        assert!(
            fs.whereabouts(InodeId(inode)).unwrap().contains("superchunk"),
            "{}",
            fs.whereabouts(InodeId(inode)).unwrap()
        );
    }
    assert_eq!(crashed.read(&fs, 4).unwrap(), noise(2, 1000));
    let report = crashed.check(&CheckOptions::default());
    assert!(report.findings.iter().all(|finding| finding.severity == Severity::Note), "{:#?}", report.findings);
    assert!(!report.findings.iter().any(|finding| finding.message.contains("are ignored")), "{:#?}", report.findings);
    // Three in the image, and the three frozen ones.
    assert_eq!((report.superchunks_read, report.subchunks_verified), (3, 6));
}

#[test]
fn damage_of_what_was_frozen_is_found_and_told_with_the_files_it_hits() {
    let crashed = Crashed::new();
    crashed.storage.flip(crashed.stored + 4000, 1).unwrap();
    let fs = crashed.mount();
    assert_eq!(crashed.read(&fs, 2).unwrap(), crashed.files[0]);
    assert!(crashed.read(&fs, 3).is_err());
    let report = crashed.check(&CheckOptions::default());
    let lost: Vec<_> = report.findings.iter().filter(|finding| finding.severity == Severity::Lost).collect();
    assert_eq!(lost.len(), 1, "{:#?}", report.findings);
    assert!(lost[0].message.starts_with("1 of 3 subchunks that were frozen"), "{}", lost[0].message);
    assert_eq!(lost[0].paths, [b"file 2"]);
    assert_eq!((report.subchunks_verified, report.subchunks_lost), (5, 1));
    // A quick check reads only headers.
    let quick = CheckOptions { quick: true, ..CheckOptions::default() };
    assert!(!crashed.check(&quick).damaged());
    crashed.storage.flip(crashed.stored - 4, 1).unwrap();
    let report = crashed.check(&quick);
    assert!(
        report.findings.iter().any(|finding| finding.message.starts_with("1 frames that were written after")),
        "{:#?}",
        report.findings
    );
}

/// A layer's change: it deletes a run of the version, or adds one.
#[derive(Debug, Clone)]
enum Change {
    /// The run, its superchunk and identities are deleted.
    Delete(usize),
    /// A superchunk of this many subchunks (second) is frozen, after this many unused ids (first).
    Freeze(u64, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        any::<usize>().prop_map(Change::Delete),
        (0u64..4, 1usize..200).prop_map(|(gap, n)| Change::Freeze(gap, n))
    ];
    prop::collection::vec(change, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_view_knows_the_ids_that_its_layers_leave_and_no_others(layers in prop::array::uniform3(changes())) {
        let (_, mut writer) = open(&image());
        // Id of a superchunk, first id of its subchunks, their number.
        let mut alive: Vec<(u64, u64, usize)> = Vec::new();
        let mut overlays = Vec::new();
        let mut gone = Vec::new();
        for (at, changes) in layers.iter().enumerate() {
            let mut overlay = Overlay::default();
            for change in changes {
                match *change {
                    Change::Delete(n) if !alive.is_empty() => {
                        let (superchunk, first, count) = alive.remove(n % alive.len());
                        gone.push((superchunk, first, count));
                        overlay.set(&schema::MAP, Key::new(SPACE_SUPERCHUNKS, superchunk), None);
                        for id in (first..first + count as u64).step_by(limits::RUN as usize) {
                            overlay.set(&schema::MAP, Key::new(SPACE_SUBCHUNKS, id), None);
                        }
                        for id in (first..first + count as u64).step_by(limits::IDENTITY_RUN as usize) {
                            overlay.set(&schema::IDENTITIES, Key::new(id, 0), None);
                        }
                    }
                    Change::Delete(_) => {}
                    Change::Freeze(gap, count) => {
                        writer.counters.subchunk += gap;
                        let first = freeze(&mut writer, &mut overlay, &plain(30, count, 20));
                        alive.push((writer.counters.superchunk - 1, first, count));
                    }
                }
            }
            if at == 0 { writer.checkpoint(&overlay).unwrap() ; } else { overlays.push(overlay); }
        }
        let view = View::live(writer.version.clone(), Some(overlays.remove(0)), overlays.remove(0));
        let mut expected: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
        for (superchunk, first, count) in &alive {
            expected.extend((0..*count as u64).map(|n| (first + n, (*superchunk, 20 * n as u32))));
            prop_assert!(view.superchunk(SuperchunkId(*superchunk)).unwrap().is_some());
        }
        for (superchunk, ..) in &gone {
            prop_assert_eq!(view.superchunk(SuperchunkId(*superchunk)).unwrap(), None);
        }
        let ids = alive.iter().chain(&gone).flat_map(|(_, first, count)| first.saturating_sub(6)..first + *count as u64 + 6);
        let identities: BTreeMap<usize, Identity> =
            plain(30, 200, 20).iter().enumerate().map(|(n, (bytes, _))| (n, Identity::of(HashKind::Blake3, bytes))).collect();
        let tables = writer.version.root().next_superchunk;
        for id in ids {
            let located = view.locate(SubchunkId(id)).unwrap();
            // Table blocks of the checkpoint have ids, too; they lie in groups.
            let is_table = |superchunk: u64| superchunk < tables && !alive.iter().chain(&gone).any(|(own, ..)| *own == superchunk);
            let located = located.filter(|located| !is_table(located.superchunk.0));
            prop_assert_eq!(located.map(|l| (l.superchunk.0, l.position)), expected.get(&id).copied(), "{}", id);
            let identity = expected.get(&id).map(|(_, position)| identities[&(*position as usize / 20)]);
            if id > 3 {
                prop_assert_eq!(view.identity(SubchunkId(id)).unwrap(), identity);
            }
            prop_assert_eq!(view.recipe(SubchunkId(id)).unwrap(), None);
        }
        prop_assert!(view.floor_within(&schema::MAP, Key::new(SPACE_RECIPES, 1 << 60).as_ref()).unwrap().is_none());
    }
}
