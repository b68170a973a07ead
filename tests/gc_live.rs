//! gc in a filesystem that is being written: beside changes, readers and crashes nothing live is ever freed.

#[path = "common/forge.rs"]
mod forge;
#[path = "common/liveness.rs"]
mod liveness;

use floe::care::{self, CheckOptions, FindingKind, Severity};
use floe::format::ids::{InodeId, SuperchunkId};
use floe::format::rows::FileType;
use floe::fs::gc::{GcError, NoReaders};
use floe::fs::{Fs, FsOptions, Live, SetAttr, digest};
use floe::meta::{Image, ImageOptions};
use floe::storage::testing::{Fault, FaultyStorage, FolderHome, History, MemoryFolder, MemoryStorage, Remains};
use floe::storage::{LockError, LogHome, Storage};
use liveness::{random_image, writable_with};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NEVER: &dyn Fn() -> bool = &|| false;

struct Disk {
    storage: Arc<dyn Storage>,
    home: Arc<dyn LogHome>,
}

impl Disk {
    fn new(image: Vec<u8>) -> Self {
        Disk {
            storage: Arc::new(MemoryStorage::from_bytes(image)),
            home: Arc::new(FolderHome::new(Arc::new(MemoryFolder::new()))),
        }
    }

    fn of(remains: Remains) -> Self {
        let folder = MemoryFolder::from_segments(remains.segments);
        Disk {
            storage: Arc::new(MemoryStorage::from_bytes(remains.image)),
            home: Arc::new(FolderHome::new(Arc::new(folder))),
        }
    }

    fn open(&self) -> Arc<Live> {
        let live = writable_with(&self.storage, self.home.clone());
        live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
        live
    }

    fn punched(&self) -> u64 {
        let image = Image::open(self.storage.clone(), ImageOptions::default()).unwrap();
        image.usage().unwrap().punched
    }

    #[track_caller]
    fn assert_clean(&self, heads: bool, what: &str) {
        let options = CheckOptions { jobs: 1, ..CheckOptions::default() };
        let report = care::check(self.storage.clone(), &options, &()).unwrap();
        let bad = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
        let bad: Vec<_> = bad.filter(|finding| heads || finding.kind != FindingKind::Head).collect();
        assert!(bad.is_empty(), "{what}: {bad:#?}");
    }
}

/// It covers every byte of every file.
fn digest_of(live: &Arc<Live>) -> [u8; 32] {
    let fs = Fs::over(live.clone(), FsOptions { readahead: 0, ..FsOptions::default() });
    digest(&fs, InodeId::ROOT).unwrap()
}

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

fn image(seed: u64) -> Vec<u8> {
    let mut forge = random_image(seed);
    // Contents that no inode uses must have no rows.
    forge.contents.retain(|(id, _), _| *id < 40);
    forge.build().to_bytes()
}

/// Number of superchunks in the current map.
fn superchunks(live: &Live) -> usize {
    let view = live.snapshot().view().clone();
    (1..40).filter(|&id| view.superchunk(SuperchunkId(id)).unwrap().is_some()).count()
}

#[test]
fn what_is_deleted_is_freed_beside_what_is_written_and_nothing_else() {
    let (mut freed, mut frames) = (0, 0);
    for seed in 0..25 {
        let disk = Disk::new(image(seed));
        let live = disk.open();
        unlink(&live, |inode| !inode.0.is_multiple_of(4));
        live.set_attr(InodeId::ROOT, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
        let before = digest_of(&live);
        let report = live.gc_now(NEVER).unwrap();
        assert_eq!(digest_of(&live), before, "seed {seed}");
        disk.assert_clean(true, &format!("seed {seed}"));
        assert_eq!(report.freed_bytes, disk.punched());
        (freed, frames) = (freed + report.superchunks, frames + report.frames);
        // It continues, also after a crash.
        unlink(&live, |inode| inode.0.is_multiple_of(8));
        live.commit_now().unwrap();
        let after = digest_of(&live);
        drop(live);
        let live = disk.open();
        assert_eq!(digest_of(&live), after, "seed {seed}");
        live.gc_now(NEVER).unwrap();
        assert_eq!(digest_of(&live), after, "seed {seed}");
        end(&live);
        disk.assert_clean(true, &format!("seed {seed}, ended"));
        assert_eq!(digest_of(&disk.open()), after, "seed {seed}");
    }
    assert!(freed > 20 && frames > 20, "{freed} {frames}");
}

fn end(live: &Live) {
    live.end(Duration::ZERO).unwrap();
}

#[test]
fn a_power_cut_anywhere_in_a_life_with_gc_loses_nothing_that_is_live() {
    let history = History::new(Remains { image: image(11), segments: BTreeMap::new() });
    let disk =
        Disk { storage: Arc::new(history.storage()), home: Arc::new(FolderHome::new(Arc::new(history.folder()))) };
    let live = disk.open();
    // The state after each step, and the first event after which it may be found.
    let mut states = vec![digest_of(&live)];
    let mut step = |live: &Arc<Live>, do_it: &dyn Fn(&Live)| {
        do_it(live);
        states.push(digest_of(live));
    };
    step(&live, &|live| unlink(live, |inode| !inode.0.is_multiple_of(6)));
    step(&live, &|live| live.commit_now().unwrap());
    let report = live.gc_now(NEVER).unwrap();
    step(&live, &|live| unlink(live, |_| true));
    let again = live.gc_now(NEVER).unwrap();
    step(&live, &|live| {
        live.set_attr(InodeId::ROOT, &SetAttr { mode: Some(0o711), ..SetAttr::default() }).map(drop).unwrap()
    });
    end(&live);
    assert!(report.frames > 0 && again.frames > 0, "{report:?} {again:?}");
    let mut count = 0u64;
    for n in 0..=history.len() {
        history.each_cut(n, 6, |left, what| {
            count += 1;
            let disk = Disk::of(left);
            disk.assert_clean(false, what);
            let live = disk.open();
            let found = digest_of(&live);
            assert!(states.contains(&found), "{what}: a state that never was");
            if count.is_multiple_of(7) {
                live.gc_now(NEVER).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(digest_of(&live), found, "{what}, and gone on with");
                end(&live);
                disk.assert_clean(true, &format!("{what}, and ended"));
            }
        });
    }
    assert!(count > 1000, "only {count} cuts");
}

#[test]
fn while_somebody_has_an_old_snapshot_nothing_of_it_is_freed() {
    let disk = Disk::new(image(3));
    let live = disk.open();
    let before = digest_of(&live);
    let snapshot = live.snapshot();
    let has = superchunks(&live);
    unlink(&live, |_| true);
    // When the head has no more rows of dead superchunks, gc waits for the snapshot.
    let is_checkpointed = || {
        let view = live.snapshot().view().clone();
        let version = view.version();
        (1..40).filter(|&id| version.superchunk(SuperchunkId(id)).unwrap().is_some()).count() < has
    };
    let looks = Cell::new(0);
    let stop = || {
        looks.set(if is_checkpointed() { looks.get() + 1 } else { 0 });
        looks.get() > 200
    };
    assert!(matches!(live.gc_now(&stop), Err(GcError::Stopped)));
    assert_eq!(disk.punched(), 0);
    assert!(superchunks(&live) < has, "the rows are gone all the same");
    // The old snapshot still reads everything.
    let image = snapshot.view().version().clone();
    let fs = Fs::new(image, FsOptions { readahead: 0, ..FsOptions::default() });
    assert_eq!(digest(&fs, InodeId::ROOT).unwrap(), before);
    drop((snapshot, fs));
    let report = live.gc_now(NEVER).unwrap();
    assert!(report.freed_bytes > 0 && disk.punched() == report.freed_bytes);
    end(&live);
    disk.assert_clean(true, "at the end");
}

#[test]
fn while_others_read_the_image_nothing_is_freed_and_later_it_is() {
    let disk = Disk::new(image(4));
    let live = disk.open();
    live.set_keep_out(Arc::new(|| Err(LockError::Read)));
    unlink(&live, |_| true);
    assert!(matches!(live.gc_now(NEVER), Err(GcError::Readers(LockError::Read))));
    assert_eq!(disk.punched(), 0);
    disk.assert_clean(true, "rows are deleted, bytes are there");
    live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
    let report = live.gc_now(NEVER).unwrap();
    assert!(report.freed_bytes > 0);
    assert_eq!(live.gc_now(NEVER).unwrap().frames, 0);
    end(&live);
}

#[test]
fn whichever_operation_of_the_image_fails_nothing_that_is_live_is_lost() {
    let bytes = image(5);
    let mut failed = 0;
    for n in 0.. {
        let faulty = Arc::new(FaultyStorage::new(MemoryStorage::from_bytes(bytes.clone())));
        let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(Arc::new(MemoryFolder::new())));
        let disk = Disk { storage: faulty.clone(), home };
        let live = disk.open();
        unlink(&live, |inode| !inode.0.is_multiple_of(5));
        live.commit_now().unwrap();
        let before = digest_of(&live);
        let asked = faulty.count();
        faulty.fail_nth(n, if n.is_multiple_of(2) { Fault::Eio } else { Fault::Enospc });
        failed += u64::from(live.gc_now(NEVER).is_err());
        let happened = faulty.count() - asked > n;
        faulty.fail_no_more();
        disk.assert_clean(true, &format!("operation {n}"));
        assert_eq!(digest_of(&live), before, "operation {n}");
        drop(live);
        let live = disk.open();
        assert_eq!(digest_of(&live), before, "operation {n}, after a crash");
        live.gc_now(NEVER).unwrap();
        assert_eq!(digest_of(&live), before, "operation {n}, and again");
        end(&live);
        disk.assert_clean(true, &format!("operation {n}, ended"));
        if !happened {
            break;
        }
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn the_thread_frees_when_it_is_asked_and_says_what_it_did() {
    let disk = Disk::new(image(6));
    let live = disk.open();
    let running = live.start_threads().unwrap();
    unlink(&live, |_| true);
    let before = digest_of(&live);
    let ticket = live.request_gc();
    let status = loop {
        let status = live.gc_status();
        if status.ticket_done >= ticket {
            break status;
        }
        std::thread::yield_now();
    };
    let report = status.last.unwrap();
    assert!(!status.running && status.error.is_none() && report.freed_bytes > 0, "{status:?}");
    assert_eq!(disk.punched(), report.freed_bytes);
    // A failure is reported, and the thread continues.
    live.set_keep_out(Arc::new(|| Err(LockError::Read)));
    live.set_attr(InodeId::ROOT, &SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
    live.checkpoint_now().unwrap();
    let ticket = live.request_gc();
    while live.gc_status().ticket_done < ticket {
        std::thread::yield_now();
    }
    running.stop();
    assert_ne!(digest_of(&live), before, "the mode of the root");
    end(&live);
    disk.assert_clean(true, "at the end");
}
