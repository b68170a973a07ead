//! gc and the freezer in one session: freed bytes are never taken for existing ones.

use floe::care::{self, CheckOptions, Severity};
use floe::format::head::incompat;
use floe::format::ids::InodeId;
use floe::format::params::Params;
use floe::format::rows::Time;
use floe::fs::gc::NoReaders;
use floe::fs::start::look;
use floe::fs::{FreezeHow, Fs, FsOptions, Live, LiveOptions, NewKind, NewNode, SetAttr};
use floe::meta::{Image, ImageOptions};
use floe::pack::{PackOptions, empty_into};
use floe::storage::testing::{FolderHome, MemoryFolder, MemoryStorage};
use floe::storage::{LogHome, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const NEVER: &dyn Fn() -> bool = &|| false;

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Incompressible bytes, by number.
fn piece(number: u64) -> Vec<u8> {
    let mut out = vec![0; 50_000 + (number * 7919 % 30_000) as usize];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

struct World {
    storage: Arc<dyn Storage>,
    home: Arc<dyn LogHome>,
    live: Arc<Live>,
    files: BTreeMap<String, (InodeId, Vec<u8>)>,
    sessions: u64,
}

impl World {
    fn new() -> Self {
        World::of(0)
    }

    fn of(min_match: u32) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let params = Params { superchunk_size: 1 << 20, min_match, ..PackOptions::default().params };
        empty_into(storage.clone(), &PackOptions { params, ..PackOptions::default() }).unwrap();
        let home: Arc<dyn LogHome> = Arc::new(FolderHome::new(Arc::new(MemoryFolder::new())));
        let live = open(&storage, &home, 1);
        World { storage, home, live, files: BTreeMap::new(), sessions: 1 }
    }

    fn write(&mut self, name: String, data: Vec<u8>) {
        self.remove(&name);
        let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
        let inode = self.live.create(InodeId::ROOT, name.as_bytes(), &node).unwrap().inode;
        self.live.write(inode, 0, &data, false).unwrap();
        self.files.insert(name, (inode, data));
    }

    fn remove(&mut self, name: &str) {
        if self.files.remove(name).is_some() {
            self.live.unlink(InodeId::ROOT, name.as_bytes()).unwrap();
        }
    }

    fn truncate(&mut self, name: &str, size: usize) {
        let Some((inode, data)) = self.files.get_mut(name) else { return };
        data.resize(size, 0);
        self.live.set_attr(*inode, &SetAttr { size: Some(size as u64), ..SetAttr::default() }).unwrap();
    }

    fn freeze(&self) {
        self.live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    }

    /// Remounts after a crash that lost nothing committed.
    fn crash(&mut self) {
        self.live.commit_now().unwrap();
        self.sessions += 1;
        self.live = open(&self.storage, &self.home, self.sessions);
    }

    #[track_caller]
    fn verify(&self, what: &str) {
        let fs = Fs::over(self.live.clone(), FsOptions { readahead: 0, cache: 4 << 20, ..FsOptions::default() });
        for (name, (inode, data)) in &self.files {
            let mut found = Vec::new();
            fs.read(*inode, 0, data.len(), &mut found).unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
            assert!(found == *data, "{what}: {name} has other bytes");
        }
    }

    fn punched(&self) -> u64 {
        let image = Image::open(self.storage.clone(), ImageOptions::default()).unwrap();
        image.usage().unwrap().punched
    }
}

fn open(storage: &Arc<dyn Storage>, home: &Arc<dyn LogHome>, session: u64) -> Arc<Live> {
    let found = look(storage.clone(), home.clone(), ImageOptions::default()).unwrap();
    let options = LiveOptions {
        commit: Duration::from_secs(3600),
        clock: Arc::new(|| Time { secs: 7, nanos: 0 }),
        log_id: session,
        segment_size: Some(1 << 20),
        budget: None,
    };
    let live = Live::new(storage.clone(), found, options).unwrap();
    live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
    live
}

#[track_caller]
fn assert_clean(storage: &Arc<dyn Storage>, what: &str) {
    let report = care::check(storage.clone(), &CheckOptions { jobs: 1, ..CheckOptions::default() }, &()).unwrap();
    let bad: Vec<_> = report.findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert!(bad.is_empty(), "{what}: {bad:#?}");
}

#[test]
fn bytes_that_were_freed_are_stored_anew_when_they_are_written_again() {
    let mut world = World::new();
    let data: Vec<u8> = (0..30).flat_map(piece).collect();
    world.write("first".to_owned(), data.clone());
    world.freeze();
    world.verify("frozen");
    // The index knows its subchunks again, too.
    world.write("second".to_owned(), data.clone());
    let report = world.live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    assert_eq!((report.new_bytes, report.shared_bytes), (0, data.len() as u64));
    world.remove("first");
    world.remove("second");
    let freed = world.live.gc_now(NEVER).unwrap();
    assert!(freed.freed_bytes > data.len() as u64 * 9 / 10, "{freed:?} of {}", data.len());
    world.write("third".to_owned(), data.clone());
    let report = world.live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
    assert_eq!((report.new_bytes, report.shared_bytes), (data.len() as u64, 0));
    world.verify("written again");
    world.crash();
    world.verify("after a crash");
    world.live.end(Duration::from_secs(60)).unwrap();
    assert_clean(&world.storage, "at the end");
}

#[test]
fn a_life_with_freezes_gc_and_crashes_has_the_bytes_of_a_model() {
    let (mut punched, mut composed) = (0, 0);
    for seed in 0..10 {
        let mut dice = Dice(seed);
        // With recipes, less is stored, and less becomes dead.
        let min_match = if seed < 6 { 0 } else { 128 };
        let mut world = World::of(min_match);
        for step in 0..250 {
            let name = format!("file-{}", dice.below(12));
            match dice.below(20) {
                0..6 => {
                    let mut data: Vec<u8> = (0..1 + dice.below(8)).flat_map(|_| piece(dice.below(24))).collect();
                    if dice.below(3) == 0 {
                        data.truncate(data.len() / 3);
                    }
                    world.write(name, data);
                }
                6..10 => world.remove(&name),
                10 => world.truncate(&name, dice.below(200_000) as usize),
                11..15 => world.freeze(),
                15..18 => {
                    world.live.gc_now(NEVER).unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
                    world.verify(&format!("seed {seed}, step {step}, after gc"));
                }
                18 => world.live.checkpoint_now().unwrap(),
                _ => {
                    world.crash();
                    world.verify(&format!("seed {seed}, step {step}, after a crash"));
                }
            }
        }
        world.verify(&format!("seed {seed}, at the end"));
        world.live.end(Duration::from_secs(60)).unwrap();
        assert_clean(&world.storage, &format!("seed {seed}"));
        let features = Image::open(world.storage.clone(), ImageOptions::default()).unwrap().head().incompat;
        *(if min_match == 0 { &mut punched } else { &mut composed }) += world.punched();
        assert_eq!(features & incompat::RECIPES != 0, min_match > 0);
    }
    assert!(punched > 20 << 20 && composed > 4 << 20, "{punched} and {composed} bytes were freed");
}

#[test]
fn gc_beside_freezes_writes_and_reads_of_other_threads_loses_nothing() {
    for min_match in [0, 128] {
        gc_beside_others(min_match);
    }
}

fn gc_beside_others(min_match: u32) {
    let mut world = World::of(min_match);
    for n in 0..8 {
        world.write(format!("kept-{n}"), (n..n + 6).flat_map(piece).collect());
    }
    world.freeze();
    let (live, ended) = (&world.live, &AtomicBool::new(false));
    let meanwhile = std::thread::scope(|scope| {
        let gc = scope.spawn(|| {
            let mut freed = 0;
            while !ended.load(Ordering::Relaxed) {
                freed += live.gc_now(NEVER).unwrap().freed_bytes;
            }
            freed
        });
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
            }
        });
        let writer = scope.spawn(|| {
            let node = NewNode { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
            for n in 0..60u64 {
                let name = format!("goes-{}", n % 4);
                if n >= 4 {
                    live.unlink(InodeId::ROOT, name.as_bytes()).unwrap();
                }
                let inode = live.create(InodeId::ROOT, name.as_bytes(), &node).unwrap().inode;
                // Some of it is also in files that are kept.
                let mut data = [piece(n % 12), piece(100 + n), piece(200 + n % 5), piece(300 + n)].concat();
                // What is not the same resembles other data.
                data.iter_mut().skip(n as usize).step_by(5000).for_each(|byte| *byte ^= 1);
                live.write(inode, 0, &data, false).unwrap();
                live.freeze_now(&FreezeHow::everything(), &|_| ()).unwrap();
            }
        });
        while !writer.is_finished() {
            world.verify("meanwhile");
        }
        ended.store(true, Ordering::Relaxed);
        gc.join().unwrap()
    });
    world.verify("when all have ended");
    assert!(meanwhile + live.gc_now(NEVER).unwrap().freed_bytes > 0);
    world.verify("afterwards");
    world.live.end(Duration::from_secs(60)).unwrap();
    assert_clean(&world.storage, "at the end");
}
