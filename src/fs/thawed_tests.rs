//! Reading files with thawed ranges: bytes from the thaw log, holes, and what cannot be read.

use super::read::{Fs, FsOptions};
use super::snapshot::Snapshot;
use super::source::SnapshotSource;
use super::{FsError, SeekTo};
use crate::format::block::{Key, Row};
use crate::format::ids::{InodeId, LogOffset, TinyId};
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{ContentRef, FileType, InodeRow, ThawedBytes, ThawedRow, Time};
use crate::format::schema;
use crate::meta::{Image, ImageOptions, Overlay, View};
use crate::pack::{self, PackOptions};
use crate::storage::testing::{MemoryFolder, MemoryStorage};
use crate::thaw::{Appended, Binding, ThawLog};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::sync::Arc;

const FILE: InodeId = InodeId(5);
const SEGMENT: u64 = 16 << 10;

/// A snapshot that tests change.
struct World(Mutex<Snapshot>);

impl SnapshotSource for World {
    fn snapshot(&self) -> Snapshot {
        self.0.lock().clone()
    }
}

/// One file, and a thaw log.
struct Lab {
    world: Arc<World>,
    fs: Arc<Fs>,
    log: ThawLog,
    overlay: Overlay,
    image: Arc<Image>,
}

impl Lab {
    /// A file of this size. It is tiny if `tiny` has bytes; otherwise it is a hole.
    fn new(size: u64, tiny: &[u8]) -> Self {
        let storage = Arc::new(MemoryStorage::new());
        pack::empty_into(storage.clone(), &PackOptions::default()).unwrap();
        let image = Arc::new(Image::open(storage, ImageOptions::default()).unwrap());
        let binding = Binding { uuid: [1; 16], lineage: [2; 16], generation: 3, root_hash: [4; 32] };
        let log = ThawLog::create(Arc::new(MemoryFolder::new()), binding, 7, 1, SEGMENT).unwrap();
        let world = Arc::new(World(Mutex::new(Snapshot::fixed(View::of(image.clone())))));
        let fs = Fs::over(world.clone(), FsOptions { readahead: 0, ..FsOptions::default() });
        let mut lab = Lab { world, fs, log, overlay: Overlay::default(), image };
        let content = if tiny.is_empty() { ContentRef::None } else { ContentRef::Tiny(TinyId(1)) };
        let row = Row { key: Key::new(1, 0), ints: Vec::new(), tail: tiny.to_vec() };
        lab.overlay.set(&schema::TINY, Key::new(1, 0), Some(row));
        lab.inode(size, content);
        lab
    }

    fn inode(&mut self, size: u64, content: ContentRef) {
        let row = InodeRow {
            file_type: FileType::Regular,
            permissions: 0o644,
            uid: 0,
            gid: 0,
            links: 1,
            size,
            mtime: Time::default(),
            ctime: Time::default(),
            atime: Time::default(),
            content,
            xattrs: XattrRef::None,
            parent: None,
            target: Vec::new(),
            attributes: Vec::new(),
        };
        let (ints, tail) = row.encode();
        let key = Key::new(FILE.0, 0);
        let row = Row { key: key.clone(), ints: ints.to_vec(), tail };
        self.overlay.set(&schema::INODES, key, Some(row));
    }

    fn range(&mut self, offset: u64, range: Option<ThawedRow>) {
        let key = Key::new(FILE.0, offset);
        let row = range.map(|range| {
            let (ints, tail) = range.encode();
            Row { key: key.clone(), ints: ints.to_vec(), tail: tail.to_vec() }
        });
        self.overlay.set(&schema::THAWED, key, row);
    }

    /// Shows the state that was set up so far, as the next one in order.
    fn show(&mut self) {
        let mut now = self.world.0.lock();
        now.view = View::live(self.image.clone(), None, self.overlay.clone());
        now.segments = Some(self.log.segments());
        now.stamp += 1;
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
        let mut out = Vec::new();
        self.fs.read(FILE, offset, len, &mut out)?;
        Ok(out)
    }
}

fn in_log(appended: &Appended, skip: u32, length: u64) -> ThawedRow {
    ThawedRow { length, bytes: ThawedBytes::InLog { frame: appended.frame, skip, sum: appended.sum } }
}

fn written(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|n| 1 + ((seed * 31 + n * 7) % 250) as u8).collect()
}

proptest! {
    #[test]
    fn a_file_reads_as_what_was_written_over_what_is_stored(
        size in prop_oneof![1u64..512, 1u64..6_000],
        is_tiny: bool,
        // Bytes before a range, bytes in it, and how much of its frame comes before it.
        ranges in prop::collection::vec((0u64..600, 1u64..600, 0u32..50, any::<bool>()), 0..20),
        reads in prop::collection::vec((0u64..7_000, 1usize..3_000), 1..20),
    ) {
        let is_tiny = is_tiny && size < 512;
        let stored = if is_tiny { written(99, size) } else { vec![0; size as usize] };
        let mut lab = Lab::new(size, if is_tiny { &stored } else { &[] });
        let (mut bytes, mut data) = (stored, vec![is_tiny; size as usize]);
        let mut at = 0;
        for (n, (gap, len, skip, is_zero)) in ranges.into_iter().enumerate() {
            let begin = at + gap;
            let len = len.min(size.saturating_sub(begin));
            if len == 0 {
                break;
            }
            let new = if is_zero { vec![0; len as usize] } else { written(n as u64, len) };
            let frame = [&vec![0xEE; skip as usize][..], &new[..], b"after"].concat();
            let appended = lab.log.append(&frame).unwrap();
            lab.range(begin, Some(in_log(&appended, skip, len)));
            let place = begin as usize..(begin + len) as usize;
            bytes[place.clone()].copy_from_slice(&new);
            data[place].fill(true);
            at = begin + len;
        }
        lab.show();
        for (offset, len) in reads {
            let begin = (offset as usize).min(bytes.len());
            let end = (begin + len).min(bytes.len());
            prop_assert_eq!(lab.read(offset, len).unwrap(), &bytes[begin..end]);
            let next = |wanted: bool| (begin..bytes.len()).find(|&at| data[at] == wanted).map(|at| at as u64);
            let seek = |to| lab.fs.seek(FILE, offset, to).ok();
            let inside = begin < bytes.len();
            prop_assert_eq!(seek(SeekTo::Data), next(true));
            prop_assert_eq!(seek(SeekTo::Hole), next(false).or(Some(size)).filter(|_| inside));
        }
        let allocated = data.iter().filter(|&&is_data| is_data).count() as u64;
        prop_assert_eq!(lab.fs.attr(FILE).unwrap().blocks, allocated.div_ceil(512));
    }
}

//= format-spec.md#8.9
//= type=test
//# A reader without the thaw log must answer a read that overlaps a thawed range, in the log or lost, with EIO, and
//# must not fail other reads for it.
#[test]
fn lost_bytes_and_those_of_a_log_that_is_not_there_cannot_be_read_and_all_others_can() {
    let mut lab = Lab::new(400, &[]);
    let appended = lab.log.append(&written(1, 100)).unwrap();
    lab.range(100, Some(in_log(&appended, 0, 100)));
    lab.range(300, Some(ThawedRow { length: 50, bytes: ThawedBytes::Lost }));
    lab.show();
    assert_eq!(lab.read(0, 300).unwrap()[100..200], written(1, 100));
    assert_eq!(lab.read(350, 100).unwrap(), [0; 50]);
    assert!(matches!(lab.read(299, 2), Err(FsError::Io(_))));
    assert!(matches!(lab.read(349, 1), Err(FsError::Io(_))));
    lab.world.0.lock().segments = None;
    assert!(matches!(lab.read(0, 101), Err(FsError::Io(_))));
    assert_eq!(lab.read(0, 100).unwrap(), [0; 100]);
    // A segment that the log does not have.
    let missing = Appended { frame: LogOffset(77 * SEGMENT + 64), ..appended };
    lab.range(100, Some(in_log(&missing, 0, 100)));
    lab.show();
    assert!(matches!(lab.read(199, 10), Err(FsError::Io(_))));
}

// Case 16.
#[test]
fn a_frame_older_than_the_session_is_verified_when_it_is_read_and_one_of_the_session_is_not() {
    let mut lab = Lab::new(100, &[]);
    let appended = lab.log.append(&written(1, 100)).unwrap();
    let other = Appended { sum: appended.sum ^ 1, ..appended };
    lab.range(0, Some(in_log(&other, 0, 100)));
    lab.show();
    assert_eq!(lab.read(0, 100).unwrap(), written(1, 100));
    lab.world.0.lock().session = lab.log.position();
    assert!(matches!(lab.read(0, 1), Err(FsError::Io(_))), "another checksum than its frame has");
    lab.range(0, Some(in_log(&appended, 1, 100)));
    lab.show();
    assert!(matches!(lab.read(0, 100), Err(FsError::Io(_))), "a range that goes on after its frame");
    assert_eq!(lab.read(0, 99).unwrap(), written(1, 100)[1..]);
    lab.range(0, Some(in_log(&appended, 0, 100)));
    lab.show();
    for _ in 0..2 {
        assert_eq!(lab.read(10, 20).unwrap(), written(1, 100)[10..30]);
    }
    assert!(lab.fs.verified.get(&(appended.frame, appended.sum)).is_some(), "it is verified once");
}

// Case 6.
#[test]
fn one_read_sees_one_state_though_segments_go_and_rows_change() {
    let mut lab = Lab::new(100, &[]);
    let appended = lab.log.append(&written(1, 100)).unwrap();
    lab.range(0, Some(in_log(&appended, 0, 100)));
    lab.show();
    let before = lab.world.snapshot();
    let new = lab.log.append(&written(2, 100)).unwrap();
    lab.range(0, Some(in_log(&new, 0, 100)));
    let end = lab.log.position();
    lab.log.append(&vec![0; SEGMENT as usize / 2]).unwrap();
    lab.log.append(&vec![0; SEGMENT as usize / 2]).unwrap();
    lab.log.commit(Vec::new(), 0, (0, 0)).unwrap();
    lab.show();
    assert_eq!(lab.read(0, 100).unwrap(), written(2, 100));
    lab.log.remove_before(LogOffset(end.0.next_multiple_of(SEGMENT))).unwrap();
    *lab.world.0.lock() = before;
    assert_eq!(lab.read(0, 100).unwrap(), written(1, 100), "a snapshot keeps the files of its segments open");
}

#[test]
fn blocks_of_a_file_with_very_many_ranges_are_estimated_and_follow_its_changes() {
    const RANGES: u64 = 5_000;
    let mut lab = Lab::new(RANGES * 8192, &[]);
    let appended = lab.log.append(&written(1, 4096)).unwrap();
    (0..RANGES).for_each(|n| lab.range(n * 8192, Some(in_log(&appended, 0, 4096))));
    lab.show();
    let half = RANGES * 4096 / 512;
    let blocks = lab.fs.attr(FILE).unwrap().blocks;
    assert!(blocks.abs_diff(half) < half / 100, "{blocks} blocks, {half} are right");
    (1..RANGES).for_each(|n| lab.range(n * 8192, None));
    lab.show();
    assert_eq!(lab.fs.attr(FILE).unwrap().blocks, 8);
}

#[test]
fn an_open_file_without_a_name_is_read_by_its_inode() {
    let mut lab = Lab::new(3, b"abc");
    let row = lab.overlay.get(&schema::INODES, Key::new(FILE.0, 0).as_ref()).flatten().unwrap().to_row();
    lab.overlay.set(&schema::INODES, Key::new(FILE.0, 0), None);
    lab.show();
    assert!(matches!(lab.fs.attr(FILE), Err(FsError::NotFound)));
    lab.overlay.set(&schema::ORPHANS, Key::new(FILE.0, 0), Some(row));
    lab.show();
    assert_eq!((lab.fs.attr(FILE).unwrap().size, lab.read(0, 10).unwrap()), (3, b"abc".to_vec()));
}
