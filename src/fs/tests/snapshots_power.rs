//! Power cuts while a snapshot is made and after it; and the effects of gc and damage on a snapshot.

use super::snapshots::{between, file, fs_of, head, params, seen};
use super::world::{self, noise};
use crate::care::{self, CheckOptions, FindingKind, Severity};
use crate::format::frame::FrameKind;
use crate::format::ids::{InodeId, SuperchunkId};
use crate::fs::freezing::control::Step;
use crate::fs::gc::NoReaders;
use crate::fs::{FreezeHow, Live, SetAttr, SnapshotError};
use crate::meta::{Image, ImageOptions};
use crate::pack::{PackOptions, empty_into};
use crate::storage::testing::{History, MemoryFolder, MemoryStorage, Remains};
use crate::storage::{Folder, Storage};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const NEVER: &dyn Fn() -> bool = &|| false;

fn empty() -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new());
    empty_into(storage.clone(), &PackOptions { params: params(), ..PackOptions::default() }).unwrap();
    storage.to_bytes()
}

fn open(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>, session: u64) -> Arc<Live> {
    let live = world::open(storage, folder, HOUR, None, session);
    live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
    live
}

/// Heads that may exist after a cut, each with the number of events at which it was acknowledged.
#[derive(Default)]
struct Heads(Vec<([u8; 32], usize)>);

impl Heads {
    fn add(&mut self, live: &Arc<Live>) {
        self.0.push((head(live).0, usize::MAX));
    }

    fn acknowledge(&mut self, events: usize) {
        if let Some(last) = self.0.last_mut() {
            last.1 = events;
        }
    }

    fn allows(&self, n: usize, found: &[u8; 32]) -> bool {
        let first = self.0.iter().rposition(|(_, at)| *at <= n).unwrap_or(0);
        self.0[first..].iter().any(|(state, _)| state == found)
    }
}

fn snapshots(image: &Image) -> usize {
    image.snapshots().unwrap().len()
}

#[track_caller]
fn assert_clean(storage: &Arc<dyn Storage>, after_cut: bool, what: &str) {
    let options = CheckOptions { jobs: 1, ..CheckOptions::default() };
    let report = care::check(storage.clone(), &options, &()).unwrap();
    let is_bad = |kind, severity| {
        severity > Severity::Note && (!after_cut || kind != FindingKind::Head || severity > Severity::Recoverable)
    };
    let bad: Vec<_> = report.findings.iter().filter(|found| is_bad(found.kind, found.severity)).collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

// Case 18.
#[test]
fn a_power_cut_anywhere_leaves_the_whole_snapshot_or_none_and_a_head_that_was_committed() {
    let history = History::new(Remains { image: empty(), segments: BTreeMap::new() });
    let live = open(Arc::new(history.storage()), Arc::new(history.folder()), 1);
    let heads = Arc::new(Mutex::new(Heads::default()));
    heads.lock().add(&live);
    heads.lock().acknowledge(0);
    let a = file(&live, "a", &noise(20_000, 1));
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    let b = file(&live, "b", &noise(30_000, 2));
    let nameless = file(&live, "nameless", &noise(9000, 3));
    live.write(a, 5000, &noise(3000, 4), false).unwrap();
    live.open(nameless, true).unwrap();
    live.unlink(InodeId::ROOT, b"nameless").unwrap();
    file(&live, "c", b"tiny");
    heads.lock().add(&live);
    live.commit_now().unwrap();
    heads.lock().acknowledge(history.len());
    let moment = head(&live);
    let (began, told, events) = (history.len(), heads.clone(), history.clone());
    let mut n = 0;
    between(&live, move |live, step| {
        n += 1;
        live.write(b, n * 1000, &noise(2000, 10 + n), false).unwrap();
        if n == 1 {
            live.unlink(InodeId::ROOT, b"a").unwrap();
        }
        file(live, &format!("new {n}"), &noise(3000, 20 + n));
        told.lock().add(live);
        if step == Step::Taken {
            live.commit_now().unwrap();
            told.lock().acknowledge(events.len());
        }
    });
    live.snapshot_now(b"s", b"", &FreezeHow::default()).unwrap();
    let made = history.len();
    between(&live, |_, _| ());
    // The last change came after the sealing: no commit contains it yet.
    live.commit_now().unwrap();
    heads.lock().acknowledge(history.len());
    live.release(nameless, true);
    live.unlink(InodeId::ROOT, b"b").unwrap();
    live.set_attr(InodeId::ROOT, &SetAttr { mode: Some(0o711), ..SetAttr::default() }).unwrap();
    heads.lock().add(&live);
    live.reap_now().unwrap();
    live.checkpoint_now().unwrap();
    heads.lock().acknowledge(history.len());
    live.gc_now(NEVER).unwrap();
    live.end(HOUR).unwrap();
    let (heads, mut count, mut before, mut whole) = (heads.lock(), 0u64, 0, 0);
    for n in began..=history.len() {
        history.each_cut(n, 8, |left, what| {
            count += 1;
            let folder: Arc<dyn Folder> = Arc::new(MemoryFolder::from_segments(left.segments));
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(left.image));
            assert_clean(&storage, true, what);
            let image = Image::open(storage.clone(), ImageOptions::default()).unwrap();
            let there = snapshots(&image);
            assert!(there == 1 || there == 0 && n < made, "{what}: {there} snapshots");
            *(if there == 1 { &mut whole } else { &mut before }) += 1;
            if there == 1 {
                assert!(seen(&fs_of(&image, "s")) == moment, "{what}: the snapshot");
            }
            let live = open(storage.clone(), folder, 2);
            let found = head(&live);
            assert!(heads.allows(n, &found.0), "{what}: a head that never was");
            if !count.is_multiple_of(5) {
                return;
            }
            // It can continue: with another snapshot, and after deleting what the head had.
            match live.snapshot_now(b"s", b"", &FreezeHow::default()) {
                Ok(ordinal) => assert!(there == 0 && ordinal <= 2, "{what}: {ordinal}"),
                Err(error) => assert!(there == 1 && matches!(error, SnapshotError::Exists { .. }), "{what}: {error}"),
            }
            live.snapshot_now(b"t", b"", &FreezeHow::default()).unwrap();
            for name in [&b"a"[..], b"b", b"c"] {
                let _ = live.unlink(InodeId::ROOT, name);
            }
            live.gc_now(NEVER).unwrap_or_else(|error| panic!("{what}: {error}"));
            live.end(HOUR).unwrap();
            let image = Image::open(storage.clone(), ImageOptions::default()).unwrap();
            assert!(seen(&fs_of(&image, "s")) == if there == 1 { moment.clone() } else { found.clone() }, "{what}");
            assert!(seen(&fs_of(&image, "t")) == found, "{what}");
            assert_clean(&storage, false, what);
        });
    }
    assert!(before > 100 && whole > 100, "{before} cuts before, {whole} after");
}

#[test]
fn gc_frees_what_no_snapshot_needs_and_check_names_the_files_of_a_snapshot_that_damage_hits() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(empty()));
    let folder = Arc::new(MemoryFolder::new());
    let live = open(storage.clone(), folder.clone(), 1);
    // Each file fills a superchunk of its own.
    file(&live, "kept", &noise(1500 << 10, 1));
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    file(&live, "freed", &noise(1500 << 10, 2));
    live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    live.unlink(InodeId::ROOT, b"freed").unwrap();
    let moment = head(&live);
    live.snapshot_now(b"s", b"", &FreezeHow::default()).unwrap();
    live.unlink(InodeId::ROOT, b"kept").unwrap();
    let freed = live.gc_now(NEVER).unwrap();
    assert!((1400 << 10..1700 << 10).contains(&freed.freed_bytes), "{freed:?}");
    live.end(HOUR).unwrap();
    assert_clean(&storage, false, "at the end");
    let image = Image::open(storage.clone(), ImageOptions::default()).unwrap();
    assert!(seen(&fs_of(&image, "s")) == moment);
    // Only the snapshot still has the file.
    let rows = (1..100).filter_map(|id| image.superchunk(SuperchunkId(id)).unwrap());
    let place = rows.into_iter().find(|row| row.kind == FrameKind::SUPERCHUNK).unwrap().place;
    let mut bytes = vec![0; storage.len().unwrap() as usize];
    storage.read_at(0, &mut bytes).unwrap();
    bytes[(place.offset.0 + place.frame_len() / 2) as usize] ^= 1;
    let damaged: Arc<dyn Storage> = Arc::new(MemoryStorage::from_bytes(bytes));
    let report = care::check(damaged, &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap();
    let told = report.findings.iter().find(|finding| finding.message.starts_with("snapshot 's': "));
    assert_eq!(told.map(|finding| finding.paths.clone()), Some(vec![b"kept".to_vec()]), "{:#?}", report.findings);
}
