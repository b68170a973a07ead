//! Directories that change while they are read.

use floe::format::block::{Key, Row};
use floe::format::ids::InodeId;
use floe::format::rows::{DirentRow, FileType};
use floe::format::schema;
use floe::fs::{DirHandle, Fs, FsOptions, Snapshot, SnapshotSource};
use floe::meta::{Image, ImageOptions, Overlay, View};
use floe::pack::{self, PackOptions};
use floe::storage::testing::MemoryStorage;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An image's root directory, whose names change.
struct World {
    image: Arc<Image>,
    overlay: Mutex<Overlay>,
}

impl SnapshotSource for World {
    fn snapshot(&self) -> Snapshot {
        Snapshot::fixed(View::live(self.image.clone(), None, self.overlay.lock().unwrap().clone()))
    }
}

impl World {
    fn new() -> (Arc<World>, Arc<Fs>) {
        let storage = Arc::new(MemoryStorage::new());
        pack::empty_into(storage.clone(), &PackOptions::default()).unwrap();
        let image = Arc::new(Image::open(storage, ImageOptions::default()).unwrap());
        let world = Arc::new(World { image, overlay: Mutex::default() });
        let fs = Fs::over(world.clone(), FsOptions { readahead: 0, ..FsOptions::default() });
        (world, fs)
    }

    fn set(&self, name: &[u8], there: bool) {
        let key = Key::named(InodeId::ROOT.0, name);
        let ints = DirentRow { inode: InodeId(2), file_type: FileType::Regular }.encode().to_vec();
        let row = there.then(|| Row { key: key.clone(), ints, tail: Vec::new() });
        self.overlay.lock().unwrap().set(&schema::DIRENTS, key, row);
    }
}

/// At most `most` names after `cookie`, with their numbers.
fn reply(fs: &Fs, handle: &mut DirHandle, cookie: u64, most: usize) -> Vec<(u64, Vec<u8>)> {
    let mut names = Vec::new();
    handle
        .read(fs, cookie, &mut |entry| {
            let room = names.len() < most;
            if room {
                names.push((entry.cookie, entry.name.to_vec()));
            }
            room
        })
        .unwrap();
    names
}

fn name(n: u16) -> Vec<u8> {
    format!("{n:03}").into_bytes()
}

#[derive(Debug, Clone)]
enum Step {
    /// Reads this many more names.
    Read(usize),
    /// Adds or removes a name.
    Set(u16, bool),
    /// Goes to a number that was returned before, and reads this many names.
    Seek(prop::sample::Index, usize),
}

fn steps(seeks: u32) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..40).prop_map(Step::Read),
        6 => (0u16..400, any::<bool>()).prop_map(|(n, there)| Step::Set(n, there)),
        seeks => (any::<prop::sample::Index>(), 1usize..40).prop_map(|(at, most)| Step::Seek(at, most)),
    ];
    prop::collection::vec(step, 1..80)
}

/// A directory with these names, and the results of reading it.
struct Reading {
    world: Arc<World>,
    fs: Arc<Fs>,
    handle: DirHandle,
    there: BTreeSet<Vec<u8>>,
    /// Names that exist from the beginning on.
    lasting: BTreeSet<Vec<u8>>,
    given: Vec<Vec<u8>>,
    /// The name of each number.
    numbers: BTreeMap<u64, Vec<u8>>,
    at: u64,
}

impl Reading {
    fn new(begin: &BTreeSet<u16>) -> Self {
        let (world, fs) = World::new();
        let there: BTreeSet<_> = begin.iter().map(|&n| name(n)).collect();
        there.iter().for_each(|name| world.set(name, true));
        let handle = DirHandle::new(InodeId::ROOT);
        let lasting = there.clone();
        Reading { world, fs, handle, there, lasting, given: Vec::new(), numbers: [(2, Vec::new())].into(), at: 0 }
    }

    /// Reads on; returns whether there was anything.
    fn read(&mut self, most: usize) -> bool {
        let names = reply(&self.fs, &mut self.handle, self.at, most);
        for (number, name) in &names {
            assert!(self.there.contains(name), "a name that was removed is given");
            assert!(self.numbers.insert(*number, name.clone()).is_none(), "number {number} is given twice");
            self.given.push(name.clone());
            self.at = *number;
        }
        most == 0 || !names.is_empty()
    }

    fn set(&mut self, n: u16, there: bool) {
        let name = name(n);
        self.world.set(&name, there);
        if there {
            self.there.insert(name);
        } else {
            self.there.remove(&name);
            self.lasting.remove(&name);
        }
    }

    fn seek(&mut self, at: &prop::sample::Index) {
        let numbers: Vec<u64> = self.numbers.keys().copied().collect();
        self.at = *at.get(&numbers);
    }
}

proptest! {
    // Case 17.
    #[test]
    fn a_name_that_is_there_from_begin_to_end_is_given_once_and_a_removed_one_not_again(
        begin in prop::collection::btree_set(0u16..400, 0..300),
        steps in steps(0),
        last in 1usize..50,
    ) {
        let mut reading = Reading::new(&begin);
        for step in steps {
            match step {
                Step::Read(most) => { reading.read(most); }
                Step::Set(n, there) => reading.set(n, there),
                Step::Seek(..) => {}
            }
        }
        while reading.read(last) {}
        for name in &reading.lasting {
            prop_assert_eq!(reading.given.iter().filter(|given| *given == name).count(), 1);
        }
        prop_assert!(reading.given.is_sorted_by(|a, b| a < b));
    }

    // Case 17.
    #[test]
    fn after_a_seek_no_name_after_it_is_left_out(
        begin in prop::collection::btree_set(0u16..400, 0..300),
        steps in steps(2),
        last in 1usize..50,
    ) {
        let mut reading = Reading::new(&begin);
        for step in steps {
            match step {
                Step::Read(most) => { reading.read(most); }
                Step::Set(n, there) => reading.set(n, there),
                Step::Seek(at, most) => {
                    reading.seek(&at);
                    reading.read(most);
                }
            }
        }
        let numbers: Vec<_> = reading.numbers.clone().into_iter().collect();
        for (number, from) in numbers.iter().rev().step_by(7) {
            (reading.at, reading.given) = (*number, Vec::new());
            while reading.read(last) {}
            let after: Vec<_> = reading.lasting.iter().filter(|name| *name > from).collect();
            let given: BTreeSet<_> = reading.given.iter().collect();
            prop_assert!(after.iter().all(|name| given.contains(name)), "names are left out after {}", number);
        }
    }

    // Case 17.
    #[test]
    fn a_seek_in_a_directory_that_does_not_change_finds_the_very_place(
        begin in prop::collection::btree_set(0u16..1000, 1..900),
        reads in prop::collection::vec(1usize..200, 1..20),
        seeks in prop::collection::vec((any::<prop::sample::Index>(), 0usize..100), 1..30),
    ) {
        let mut reading = Reading::new(&begin);
        reads.into_iter().for_each(|most| { reading.read(most); });
        for (at, most) in seeks {
            reading.seek(&at);
            let from = reading.numbers[&reading.at].clone();
            reading.given.clear();
            reading.read(most);
            let want: Vec<_> = reading.there.iter().filter(|name| **name > from).take(most).cloned().collect();
            prop_assert_eq!(&reading.given, &want);
        }
    }
}

// Case 17.
#[test]
fn a_reply_that_is_asked_for_again_is_given_again() {
    let mut reading = Reading::new(&(0..300).collect());
    reading.read(100);
    let at = reading.at;
    reading.read(100);
    for _ in 0..3 {
        reading.world.set(b"150", false);
        let names = reply(&reading.fs, &mut reading.handle, at, 100);
        assert_eq!(names.first().map(|(_, name)| name.as_slice()), Some(&b"100"[..]));
        assert_eq!(names.last().map(|(_, name)| name.as_slice()), Some(&b"200"[..]));
    }
    assert!(
        reply(&reading.fs, &mut reading.handle, 1 << 40, 100).is_empty(),
        "a number that was never given is the end"
    );
    assert_eq!(reply(&reading.fs, &mut reading.handle, 0, 1)[0].1, b"000");
}

// Case 17.
#[test]
fn a_very_large_directory_is_read_in_linear_time_and_little_memory() {
    const NAMES: u32 = 300_000;
    let (world, fs) = World::new();
    (0..NAMES).for_each(|n| world.set(format!("a file of some name {n:07}").as_bytes(), true));
    let mut handle = DirHandle::new(InodeId::ROOT);
    let begin = Instant::now();
    let (mut at, mut count, mut middle) = (0, 0, 0);
    loop {
        let names = reply(&fs, &mut handle, at, 100);
        let Some((last, _)) = names.last() else { break };
        (at, count) = (*last, count + names.len());
        middle = if count == NAMES as usize / 2 { at } else { middle };
        assert!(handle.memory() < 400 << 10, "{} bytes after {count} names", handle.memory());
    }
    assert_eq!(count, NAMES as usize);
    // A walk from the beginning for each reply would be 450 million steps.
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(reply(&fs, &mut handle, middle, 1)[0].1, format!("a file of some name {:07}", NAMES / 2).as_bytes());
    // Many jumps do not make it grow either.
    for n in 0..20_000 {
        at = reply(&fs, &mut handle, if n % 2 == 0 { middle } else { 3 }, 2).last().map_or(0, |last| last.0);
        assert!(handle.memory() < 400 << 10, "{} bytes after {n} jumps", handle.memory());
    }
    assert!(at > u64::from(NAMES));
}
