//! Simulates power cuts: a storage and a folder that record every change.
//!
//! For the tests of every layer above, like [`FaultyStorage`](super::FaultyStorage). A change is settled when the sync
//! that covers it has returned: the sync of its file for bytes and lengths, that of the folder for names. A change that
//! is not settled may be there, missing, or there in part. The model is that of ALICE (Pillai et al., OSDI 2014):
//! sectors of 512 bytes are written in any order, and lengths separately from bytes. In addition, if a torn write
//! touches a block of 4 KiB, the other sectors of the block may be lost with it, synced or not, as in drives that write
//! whole blocks.

use super::{MemoryFolder, MemoryStorage};
use crate::format::sums::xxh3;
use crate::storage::{Folder, HeadBytes, HeadIndex, Space, Storage, StorageError, head_block};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// Byte value of lost sectors; nobody writes it.
const LOST: u8 = 0xd5;

/// A file of a simulated disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileId {
    /// The image.
    Image,
    /// A segment of the thaw log.
    Segment(u64),
}

#[derive(Debug, Clone)]
enum Event {
    Write {
        file: FileId,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        file: FileId,
        len: u64,
    },
    Punch {
        file: FileId,
        offset: u64,
        len: u64,
    },
    /// An allocation. It changes neither bytes nor lengths, so a power cut cannot lose it; but power may be cut after
    /// it.
    Allocate,
    Sync(FileId),
    /// A sync that failed. The kernel then marks the bytes written before as clean: no later sync covers them.
    FailedSync(FileId),
    Create(u64),
    Remove(u64),
    SyncFolder,
}

impl Event {
    /// Returns the file whose sync settles the event; `None` for the folder.
    fn settled_by(&self) -> Option<FileId> {
        match self {
            Event::Write { file, .. } | Event::Truncate { file, .. } | Event::Punch { file, .. } => Some(*file),
            _ => None,
        }
    }
}

/// What a power cut leaves of a change that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The whole change is kept.
    Kept,
    /// The whole change is lost.
    Dropped,
    /// A part of the change is kept. Of a write: the sectors whose bits are set (counted from the write's first, modulo
    /// 64) are written; with `length` the file has its new length; with `block` the other sectors of touched blocks are
    /// lost. Of a punched hole: the blocks whose bits are set are zero. Any other change is kept if bit 0 is set, else
    /// dropped.
    Torn {
        /// Sectors that are written.
        sectors: u64,
        /// Whether the new length is kept.
        length: bool,
        /// Whether the other sectors of torn blocks are lost.
        block: bool,
    },
}

/// The files that are left after a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Bytes of the image.
    pub image: Vec<u8>,
    /// Bytes of the segments of the thaw log.
    pub segments: BTreeMap<u64, Vec<u8>>,
}

/// All changes of a simulated disk since the beginning, in order.
#[derive(Clone)]
pub struct History {
    image: Arc<Vec<u8>>,
    segments: Arc<BTreeMap<u64, Vec<u8>>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl History {
    /// Begins a history with these files, all durable.
    pub fn new(start: Remains) -> Self {
        History { image: Arc::new(start.image), segments: Arc::new(start.segments), events: Arc::default() }
    }

    /// Returns the image; its changes are recorded.
    pub fn storage(&self) -> RecordingStorage {
        let inner = Arc::new(MemoryStorage::from_bytes((*self.image).clone()));
        RecordingStorage { inner, file: FileId::Image, events: Arc::clone(&self.events) }
    }

    /// Returns the folder of segments; its changes are recorded.
    pub fn folder(&self) -> RecordingFolder {
        let inner = MemoryFolder::from_segments((*self.segments).clone());
        RecordingFolder { inner, events: Arc::clone(&self.events) }
    }

    /// Calls `each` with states that a power cut after the first `n` events can leave, and with a description of each:
    /// all changes kept, all dropped, each unsettled change alone kept, each alone dropped, and `random` subsets of
    /// them with torn writes.
    pub fn each_cut(&self, n: usize, random: u64, mut each: impl FnMut(Remains, &str)) {
        each(self.cut(n, || Fate::Kept), &format!("after event {n}, all kept"));
        each(self.cut(n, || Fate::Dropped), &format!("after event {n}, all dropped"));
        for alone in 0..self.loose(n) {
            for (one, others) in [(Fate::Kept, Fate::Dropped), (Fate::Dropped, Fate::Kept)] {
                let mut turn = 0;
                let left = self.cut(n, || {
                    turn += 1;
                    if turn - 1 == alone { one } else { others }
                });
                each(left, &format!("after event {n}, change {alone} is {one:?}"));
            }
        }
        for seed in 0..random {
            let mut turn = 0u64;
            let left = self.cut(n, || {
                turn += 1;
                let random = xxh3(&[seed, turn, n as u64].map(u64::to_le_bytes).concat());
                match random % 4 {
                    0 => Fate::Kept,
                    1 => Fate::Dropped,
                    _ => Fate::Torn { sectors: random >> 3, length: random & 4 != 0, block: random >> 63 == 1 },
                }
            });
            each(left, &format!("after event {n}, seed {seed}"));
        }
    }

    /// Returns the files as they are now.
    pub fn now(&self) -> Remains {
        self.cut(self.len(), || Fate::Kept)
    }

    /// Returns the folder as it is now; its changes are recorded. A process finds this after another process was
    /// killed.
    pub fn folder_now(&self) -> RecordingFolder {
        let now = self.cut(self.len(), || Fate::Kept);
        RecordingFolder { inner: MemoryFolder::from_segments(now.segments), events: Arc::clone(&self.events) }
    }

    /// Returns the image as it is now; its changes are recorded.
    pub fn storage_now(&self) -> RecordingStorage {
        let now = self.cut(self.len(), || Fate::Kept);
        let inner = Arc::new(MemoryStorage::from_bytes(now.image));
        RecordingStorage { inner, file: FileId::Image, events: Arc::clone(&self.events) }
    }

    /// Lets a sync of this file fail now, which the kernel reports once: bytes written before it stay unsettled for
    /// ever.
    pub fn fail_sync(&self, file: FileId) {
        self.events.lock().push(Event::FailedSync(file));
    }

    /// Returns the number of changes and syncs so far: power may be cut after each of them.
    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// Returns whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many segments were removed.
    pub fn removed_segments(&self) -> usize {
        self.events.lock().iter().filter(|event| matches!(event, Event::Remove(_))).count()
    }

    /// Returns how many of the first `n` changes are not settled after event `n`.
    pub fn loose(&self, n: usize) -> usize {
        let events = self.events.lock();
        unsettled(&events[..n.min(events.len())]).len()
    }

    /// Returns, for each of the first `n` changes that is not settled after event `n`, in order, how many sectors it
    /// writes; 1 if it is not a write.
    pub fn loose_sectors(&self, n: usize) -> Vec<u64> {
        let events = self.events.lock();
        let events = &events[..n.min(events.len())];
        let sectors = |event: &Event| match event {
            Event::Write { offset, bytes, .. } => {
                let (from, to) = (*offset as usize / SECTOR, (*offset as usize + bytes.len()).div_ceil(SECTOR));
                to.saturating_sub(from).max(1) as u64
            }
            _ => 1,
        };
        unsettled(events).into_iter().map(|n| sectors(&events[n])).collect()
    }

    /// Returns the files if power is cut after the first `n` changes. `fate` is called for each unsettled change, in
    /// order.
    pub fn cut(&self, n: usize, mut fate: impl FnMut() -> Fate) -> Remains {
        let events = self.events.lock();
        let events = &events[..n.min(events.len())];
        let loose = unsettled(events);
        let mut files =
            Files { image: (*self.image).clone(), segments: (*self.segments).clone(), hidden: BTreeMap::new() };
        for (n, event) in events.iter().enumerate() {
            files.apply(event, if loose.contains(&n) { fate() } else { Fate::Kept });
        }
        Remains { image: files.image, segments: files.segments }
    }
}

/// Returns the events that no later sync covers.
fn unsettled(events: &[Event]) -> BTreeSet<usize> {
    let mut synced = BTreeSet::new();
    let mut folder_synced = false;
    let mut loose = BTreeSet::new();
    for (n, event) in events.iter().enumerate().rev() {
        match event {
            Event::Sync(file) => {
                synced.insert(*file);
            }
            // A sync after it does not settle changes before it.
            Event::FailedSync(file) => {
                synced.remove(file);
            }
            Event::SyncFolder => folder_synced = true,
            Event::Allocate => {}
            other => {
                let settled = other.settled_by().map_or(folder_synced, |file| synced.contains(&file));
                if !settled {
                    loose.insert(n);
                }
            }
        }
    }
    loose
}

struct Files {
    image: Vec<u8>,
    segments: BTreeMap<u64, Vec<u8>>,
    /// Bytes of segments that were created and whose names were lost.
    hidden: BTreeMap<u64, Vec<u8>>,
}

impl Files {
    fn file(&mut self, file: FileId) -> &mut Vec<u8> {
        match file {
            FileId::Image => &mut self.image,
            FileId::Segment(number) => match self.segments.get_mut(&number) {
                Some(bytes) => bytes,
                None => self.hidden.entry(number).or_default(),
            },
        }
    }

    fn apply(&mut self, event: &Event, fate: Fate) {
        let kept = match fate {
            Fate::Kept => true,
            Fate::Dropped => false,
            Fate::Torn { sectors, .. } => sectors & 1 == 1,
        };
        match event {
            Event::Sync(_) | Event::FailedSync(_) | Event::SyncFolder | Event::Allocate => {}
            Event::Create(number) if kept => {
                self.segments.insert(*number, Vec::new());
            }
            Event::Create(number) => {
                self.hidden.insert(*number, Vec::new());
            }
            Event::Remove(number) if kept => {
                self.segments.remove(number);
            }
            Event::Remove(_) => {}
            Event::Truncate { file, len } if kept => self.file(*file).resize(*len as usize, 0),
            Event::Punch { file, offset, len } if fate == Fate::Kept => {
                let bytes = self.file(*file);
                let end = (offset.saturating_add(*len) as usize).min(bytes.len());
                if let Some(range) = bytes.get_mut(*offset as usize..end) {
                    range.fill(0);
                }
            }
            Event::Punch { file, offset, len } => {
                let Fate::Torn { sectors, .. } = fate else { return };
                let bytes = self.file(*file);
                let end = (offset.saturating_add(*len) as usize).min(bytes.len());
                let first = *offset as usize / BLOCK;
                for block in (first..end.div_ceil(BLOCK)).filter(|block| sectors >> ((block - first) % 64) & 1 == 1) {
                    bytes[(block * BLOCK).max(*offset as usize)..((block + 1) * BLOCK).min(end)].fill(0);
                }
            }
            Event::Truncate { .. } => {}
            Event::Write { file, offset, bytes } => write(self.file(*file), *offset as usize, bytes, fate),
        }
    }
}

fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8], fate: Fate) {
    let end = offset + bytes.len();
    let (sectors, length, block) = match fate {
        Fate::Dropped => return,
        Fate::Kept => (u64::MAX, true, false),
        Fate::Torn { sectors, length, block } => (sectors, length, block),
    };
    // Without the new length, only overwritten bytes can change.
    let before = file.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    if block && sectors != u64::MAX {
        let blocks = offset / BLOCK * BLOCK..end.next_multiple_of(BLOCK).min(file.len());
        file[blocks].fill(LOST);
    }
    let first = offset / SECTOR;
    for sector in first..end.div_ceil(SECTOR) {
        if sectors >> ((sector - first) % 64) & 1 == 1 {
            let range = (sector * SECTOR).max(offset)..((sector + 1) * SECTOR).min(end);
            file[range.clone()].copy_from_slice(&bytes[range.start - offset..range.end - offset]);
        }
    }
    if !length {
        file.truncate(before);
    }
}

/// The image of a [`History`], whose changes are recorded.
pub struct RecordingStorage {
    inner: Arc<dyn Storage>,
    file: FileId,
    events: Arc<Mutex<Vec<Event>>>,
}

impl RecordingStorage {
    fn record(&self, event: Event) {
        self.events.lock().push(event);
    }
}

impl Storage for RecordingStorage {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.inner.read_at(offset, buf)
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.inner.len()
    }

    fn append(&self, parts: &[&[u8]]) -> Result<u64, StorageError> {
        let offset = self.inner.append(parts)?;
        self.record(Event::Write { file: self.file, offset, bytes: parts.concat() });
        Ok(offset)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()?;
        self.record(Event::Sync(self.file));
        Ok(())
    }

    fn truncate(&self, len: u64) -> Result<(), StorageError> {
        self.inner.truncate(len)?;
        self.record(Event::Truncate { file: self.file, len });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.punch(offset, len)?;
        self.record(Event::Punch { file: self.file, offset, len });
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        self.inner.allocate(offset, len)?;
        self.record(Event::Allocate);
        Ok(())
    }

    fn start_writeback(&self, offset: u64, len: u64) -> Result<(), StorageError> {
        // The kernel may write at any time, so this does not change what a power cut can leave.
        self.inner.start_writeback(offset, len)
    }

    fn space(&self) -> Result<Space, StorageError> {
        self.inner.space()
    }

    fn read_head(&self, slot: HeadIndex) -> Result<HeadBytes, StorageError> {
        self.inner.read_head(slot)
    }

    fn replace_head(&self, slot: HeadIndex, expected: &HeadBytes, new: &HeadBytes) -> Result<(), StorageError> {
        self.inner.replace_head(slot, expected, new)?;
        self.record(Event::Write { file: self.file, offset: slot.offset(), bytes: head_block(new).to_vec() });
        Ok(())
    }
}

/// The folder of segments of a [`History`], whose changes are recorded.
pub struct RecordingFolder {
    inner: MemoryFolder,
    events: Arc<Mutex<Vec<Event>>>,
}

impl RecordingFolder {
    fn segment(&self, number: u64, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(RecordingStorage { inner, file: FileId::Segment(number), events: Arc::clone(&self.events) })
    }

    fn record(&self, event: Event) {
        self.events.lock().push(event);
    }
}

impl Folder for RecordingFolder {
    fn list(&self) -> Result<Vec<u64>, StorageError> {
        self.inner.list()
    }

    fn open(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(self.segment(number, self.inner.open(number)?))
    }

    fn create(&self, number: u64) -> Result<Arc<dyn Storage>, StorageError> {
        let inner = self.inner.create(number)?;
        self.record(Event::Create(number));
        Ok(self.segment(number, inner))
    }

    fn remove(&self, number: u64) -> Result<(), StorageError> {
        self.inner.remove(number)?;
        self.record(Event::Remove(number));
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()?;
        self.record(Event::SyncFolder);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Remains {
        Remains { image: Vec::new(), segments: BTreeMap::new() }
    }

    #[test]
    fn synced_changes_stay_and_each_other_change_has_its_fate() {
        let history = History::new(empty());
        let image = history.storage();
        image.append(&[&[1; 600]]).unwrap();
        image.sync().unwrap();
        image.append(&[&[2; 1000]]).unwrap();
        assert_eq!((history.len(), history.loose(1), history.loose(2), history.loose(3)), (3, 1, 0, 1));
        assert_eq!(history.cut(1, || Fate::Dropped).image, [0u8; 0]);
        let dropped = history.cut(3, || Fate::Dropped);
        assert_eq!(dropped.image, [1; 600]);
        // The write begins within the second sector and ends within the fourth.
        let sectors = [1, 2, 3].map(|n| history.loose_sectors(n));
        assert_eq!(sectors, [vec![2], vec![], vec![3]]);
        let kept = history.cut(3, || Fate::Kept);
        assert_eq!(kept.image, [[1; 600].as_slice(), &[2; 1000]].concat());
        // The write begins in sector 1, which is in the block of the synced bytes.
        let torn = history.cut(3, || Fate::Torn { sectors: 0b10, length: true, block: false }).image;
        assert_eq!((torn.len(), torn[599], torn[600], torn[1024], torn[1536]), (1600, 1, 0, 2, 0));
        let lost = history.cut(3, || Fate::Torn { sectors: 0b10, length: true, block: true }).image;
        assert_eq!((lost[0], lost[600], lost[1024]), (LOST, LOST, 2));
        let short = history.cut(3, || Fate::Torn { sectors: u64::MAX, length: false, block: false }).image;
        assert_eq!(short, [1; 600]);
    }

    #[test]
    fn a_name_is_lost_without_the_folders_sync_however_well_its_bytes_are_synced() {
        let history = History::new(empty());
        let folder = history.folder();
        let segment = folder.create(0).unwrap();
        segment.append(&[b"bytes"]).unwrap();
        segment.sync().unwrap();
        assert!(history.cut(3, || Fate::Dropped).segments.is_empty());
        assert_eq!(history.cut(3, || Fate::Kept).segments[&0], b"bytes");
        folder.sync().unwrap();
        assert_eq!(history.cut(4, || Fate::Dropped).segments[&0], b"bytes");
        folder.remove(0).unwrap();
        assert_eq!(history.removed_segments(), 1);
        assert_eq!(history.cut(5, || Fate::Dropped).segments[&0], b"bytes");
        assert!(history.cut(5, || Fate::Kept).segments.is_empty());
    }
}
