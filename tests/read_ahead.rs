//! Read-ahead: what a reader in order needs next is inflated by the threads `ahead-N`, also the sources of recipes and
//! the parts of a superchunk, and nothing is inflated twice.

#[path = "common/forge.rs"]
mod forge;

use floe::format::ids::{SubchunkId, SuperchunkId};
use floe::format::recipe::{Piece, Recipe};
use floe::format::rows::ContentRef;
use floe::inflate::WorkingSet;
use floe::meta::{Image, ImageOptions, View};
use floe::storage::testing::MemoryStorage;
use floe::storage::{HeadBytes, HeadIndex, Space, Storage, StorageError};
use forge::{Forge, Subchunk, noise, piece};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// So long a test waits for a thread at most.
const LONG: Duration = Duration::from_secs(120);

/// Superchunk and number of each unit that was read, and whether a thread `ahead-N` read it.
type Units = Vec<((u64, usize), bool)>;

/// Tells of each read at which offset it was, and in which thread.
struct Watched {
    inner: Arc<MemoryStorage>,
    reads: Sender<(u64, String)>,
}

impl Storage for Watched {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        // The test may have ended.
        let _ = self.reads.send((offset, thread));
        self.inner.read_at(offset, buf)
    }
    fn len(&self) -> Result<u64, StorageError> {
        self.inner.len()
    }
    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        self.inner.append(parts)
    }
    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }
    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        self.inner.truncate(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.punch(offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.allocate(offset, len)
    }
    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.start_writeback(offset, len)
    }
    fn space(&self) -> Result<Space, StorageError> {
        self.inner.space()
    }
    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        self.inner.read_head(slot)
    }
    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        self.inner.replace_head(slot, expected, new)
    }
}

/// A working set, and the reads of superchunks and parts behind it.
struct Rig {
    set: WorkingSet,
    view: View,
    reads: Receiver<(u64, String)>,
    /// Offsets of the stored bytes of each superchunk, or of each of its parts, by superchunk and number.
    units: Vec<(u64, (u64, usize))>,
}

impl Rig {
    fn new(forge: &Forge, bytes: usize, ahead: usize) -> Rig {
        let (send, reads) = channel();
        let storage = Arc::new(Watched { inner: forge.build(), reads: send });
        let image = Arc::new(Image::open(storage as Arc<dyn Storage>, ImageOptions::default()).unwrap());
        let mut units = Vec::new();
        for id in 1..=forge.superchunks.len() as u64 {
            let place = image.superchunk(SuperchunkId(id)).unwrap().unwrap().place;
            let begin = place.stored_at(place.offset);
            if place.flags.parts() {
                let table = image.part_table(&place).unwrap().unwrap();
                units.extend(table.parts.iter().enumerate().map(|(n, part)| (begin + u64::from(part.offset), (id, n))));
            } else {
                units.push((begin, (id, 0)));
            }
        }
        let set = WorkingSet::new(image.clone(), bytes, ahead);
        let rig = Rig { set, view: View::of(image), reads, units };
        rig.reads.try_iter().for_each(drop);
        rig
    }

    fn read(&self, id: u64, skip: u32, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.set.read_subchunk(&self.view, SubchunkId(id), skip, &mut out).unwrap();
        out
    }

    /// Superchunk and number of the unit at an offset, and whether a thread `ahead-N` read it; `None` if nothing of
    /// file data begins there.
    fn unit(&self, (offset, thread): (u64, String)) -> Option<((u64, usize), bool)> {
        let (_, unit) = self.units.iter().find(|(begin, _)| *begin == offset)?;
        Some((*unit, thread.starts_with("ahead-")))
    }

    /// Adds units that are read to `found` until they are enough. Meanwhile the reader stays at subchunk `id`.
    fn wait(&self, id: u64, found: &mut Units, is_enough: impl Fn(&Units) -> bool) {
        let begun = Instant::now();
        while !is_enough(found) {
            assert!(begun.elapsed() < LONG, "nothing more is read ahead: {found:?}");
            // A stretch that was not looked at because the one before was is asked for again.
            self.read(id, 0, 1);
            found.extend(self.reads.recv_timeout(Duration::from_millis(1)).ok().and_then(|read| self.unit(read)));
        }
    }

    /// Ends the threads, and returns the units that were read since.
    fn end(self) -> Units {
        let Rig { set, view, reads, units } = self;
        drop((set, view));
        let reads: Vec<_> = reads.try_iter().collect();
        let found = |(offset, thread): (u64, String)| {
            let (_, unit) = units.iter().find(|(begin, _)| *begin == offset)?;
            Some((*unit, thread.starts_with("ahead-")))
        };
        reads.into_iter().filter_map(found).collect()
    }
}

/// Plain subchunks of `len` bytes each; their bytes differ by `seed`.
fn plain(seed: u8, count: usize, len: usize) -> Vec<Subchunk> {
    noise(seed, count * len).chunks(len).map(|bytes| (bytes.to_vec(), None)).collect()
}

/// A subchunk with a stored part and these pieces of what is stored so far and of its own.
fn composed(stored: &[Vec<u8>], own: Vec<u8>, pieces: Vec<Piece>) -> Subchunk {
    let of = |piece: &Piece| {
        let part = stored.get(piece.subchunk.0 as usize - 1).unwrap_or(&own);
        part[piece.offset as usize..][..piece.len as usize].to_vec()
    };
    let bytes = pieces.iter().flat_map(of).collect();
    (own, Some((Recipe::new(pieces).unwrap(), bytes)))
}

/// The bytes of every subchunk, by id from 1.
fn bytes(forge: &Forge) -> Vec<Vec<u8>> {
    let of = |(stored, recipe): &Subchunk| recipe.as_ref().map_or(stored, |(_, bytes)| bytes).clone();
    forge.superchunks.iter().flatten().map(of).collect()
}

/// Superchunks 1 to 4 of one subchunk each. Superchunk 5: forty plain subchunks, 5 to 44. Superchunk 6: plain ones, 45
/// to 49, then 50 composed of its own bytes and of superchunks 3 and 1, then 51 composed of superchunk 4 alone.
fn with_sources() -> Forge {
    let mut forge = Forge::new();
    forge.superchunks = (1..=4).map(|n| plain(n, 1, 100_000)).collect();
    forge.superchunks.push(plain(5, 40, 1000));
    let mut last = plain(6, 5, 1000);
    let stored: Vec<Vec<u8>> =
        forge.superchunks.iter().flatten().chain(&last).map(|(bytes, _)| bytes.clone()).collect();
    let pieces = vec![piece(3, 90_000, 300), piece(50, 0, 100), piece(1, 7, 500), piece(3, 0, 300)];
    last.push(composed(&stored, noise(7, 100), pieces));
    last.push(composed(&stored, Vec::new(), vec![piece(4, 1000, 2000)]));
    forge.superchunks.push(last);
    let len = bytes(&forge).last().map_or(0, Vec::len) as u64;
    forge.file(1, "file", 2, len, ContentRef::Subchunk(SubchunkId(51)));
    forge
}

#[test]
fn sources_of_what_comes_next_are_inflated_ahead_in_the_order_of_their_first_use() {
    let forge = with_sources();
    let right = bytes(&forge);
    let rig = Rig::new(&forge, 64 * MIB, 1);
    let read = |ids: Range<u64>| ids.for_each(|id| assert!(rig.read(id, 0, 1000) == right[id as usize - 1][..1000]));
    read(5..35);
    // Superchunk 5 is that of the reader; 2 is nobody's source.
    let mut found = Units::new();
    rig.wait(34, &mut found, |found| found.len() == 5);
    assert_eq!(found, [((5, 0), false), ((6, 0), true), ((3, 0), true), ((1, 0), true), ((4, 0), true)]);
    read(35..52);
    assert_eq!(rig.set.counters().inflations, 5);
    assert_eq!(rig.end(), []);
}

#[test]
fn sources_do_not_count_as_a_way_through_the_image() {
    let forge = with_sources();
    let rig = Rig::new(&forge, 64 * MIB, 1);
    // These reads need superchunks 1, 3 and 6, and 4, which follows 3.
    (0..100).for_each(|n| drop((rig.read(50, n, 1000), rig.read(51, n, 1000))));
    assert_eq!(rig.set.counters().ahead, 0);
    assert!(rig.end().iter().all(|(_, ahead)| !ahead));
}

#[test]
fn sources_beyond_what_the_image_allows_are_not_inflated_ahead() {
    let mut forge = with_sources();
    forge.max_sources = 1;
    forge.superchunks[5].pop();
    let rig = Rig::new(&forge, 64 * MIB, 1);
    (5..45).for_each(|id| drop(rig.read(id, 0, 1000)));
    let mut found = Units::new();
    rig.wait(44, &mut found, |found| found.len() == 3);
    assert_eq!(found, [((5, 0), false), ((6, 0), true), ((3, 0), true)]);
    assert_eq!(rig.end(), []);
}

/// One superchunk of 64 subchunks of 16 KiB, in 16 parts of 64 KiB.
fn with_parts() -> Forge {
    let mut forge = Forge::new();
    forge.part_size = Some(64 << 10);
    forge.superchunks = vec![plain(1, 64, 16 << 10)];
    forge.file(1, "file", 2, 16 << 10, ContentRef::Subchunk(SubchunkId(1)));
    forge
}

#[test]
fn parts_are_inflated_ahead_of_a_reader_in_order_and_each_once() {
    let forge = with_parts();
    let right = bytes(&forge);
    let rig = Rig::new(&forge, 64 * MIB, 2);
    let read = |ids: Range<u64>| ids.for_each(|id| assert!(rig.read(id, 0, 16 << 10) == right[id as usize - 1]));
    // Four subchunks are in a part. After 16 subchunks as many are looked at: those of parts 4 to 7.
    read(1..25);
    let mut found = Units::new();
    rig.wait(24, &mut found, |found| [6, 7].iter().all(|n| found.contains(&((1, *n), true))));
    read(25..65);
    let counters = rig.set.counters();
    assert_eq!((counters.inflations, counters.inflated_bytes), (16, MIB as u64));
    found.extend(rig.end());
    found.retain(|(unit, ahead)| !ahead && [6, 7].contains(&unit.1));
    assert_eq!(found, [], "the reader inflated what was inflated ahead");
}

#[test]
fn a_read_here_and_there_inflates_its_parts_and_no_more() {
    let forge = with_parts();
    let right = bytes(&forge);
    let rig = Rig::new(&forge, 64 * MIB, 2);
    for n in 0..16u64 {
        let id = 1 + n * 37 % 64;
        assert!(rig.read(id, 4096, 4096) == right[id as usize - 1][4096..8192]);
    }
    let parts: std::collections::BTreeSet<u64> = (0..16).map(|n| n * 37 % 64 / 4).collect();
    let counters = rig.set.counters();
    assert_eq!((counters.inflations, counters.ahead), (parts.len() as u64, 0));
    assert!(rig.end().iter().all(|(_, ahead)| !ahead));
}

/// Twelve superchunks of forty subchunks. From the fourth on, every other one is composed of its own bytes and of bytes
/// of up to three superchunks before.
fn tangled(part_size: Option<u32>) -> Forge {
    let mut forge = Forge { part_size, ..Forge::new() };
    let mut stored: Vec<Vec<u8>> = Vec::new();
    for n in 0..12u64 {
        let mut superchunk = Vec::new();
        for k in 0..40u64 {
            let id = stored.len() as u64 + 1;
            let own = noise((n * 40 + k) as u8, 500 + (id as usize * 977) % 9000);
            if n < 3 || k % 2 == 0 {
                stored.push(own.clone());
                superchunk.push((own, None));
                continue;
            }
            let sources = (0..3).map(|s| 1 + (n - 1 - s) * 40 + (k * 7 + s) % 40);
            let plain = sources.filter(|source| *source <= 120 || (source - 1) % 2 == 0);
            let mut pieces = vec![piece(id, 0, 200)];
            pieces.extend(plain.map(|source| piece(source, 13, stored[source as usize - 1].len() as u32 - 13)));
            pieces.push(piece(id, 200, 300));
            superchunk.push(composed(&stored, own.clone(), pieces));
            stored.push(own);
        }
        forge.superchunks.push(superchunk);
    }
    forge
}

#[test]
fn readers_in_order_side_by_side_get_the_right_bytes_within_the_budget() {
    for part_size in [None, Some(16 << 10)] {
        let forge = tangled(part_size);
        let right = bytes(&forge);
        for budget in [1, 700_000, 2 * MIB, 64 * MIB] {
            let rig = Rig::new(&forge, budget, 2);
            let Rig { set, view, .. } = &rig;
            std::thread::scope(|scope| {
                for n in 0..4usize {
                    let right = &right;
                    scope.spawn(move || {
                        for k in 0..right.len() {
                            let id = (k + n * right.len() / 4) % right.len();
                            let mut out = vec![0; right[id].len()];
                            set.read_subchunk(view, SubchunkId(id as u64 + 1), 0, &mut out).unwrap();
                            assert!(out == right[id], "subchunk {}", id + 1);
                            // A budget below one superchunk lets one thread at a time have more.
                            assert!(budget < MIB || set.bytes() <= budget, "{} of {budget}", set.bytes());
                        }
                    });
                }
            });
            let counters = rig.set.counters();
            let raw: usize = forge.superchunks.iter().flatten().map(|(stored, _)| stored.len()).sum();
            if budget == 64 * MIB {
                assert!(counters.inflated_bytes <= raw as u64, "something was inflated twice");
            }
        }
    }
}
