//! Sessions of a writer without its filesystem: begin, commits, checkpoints and the end, with crashes, power cuts and
//! failing operations between them; and what the next session finds.

mod cases;
mod faults;
mod forgotten;
mod power;

use super::begin::{Beginning, Writer};
use super::finish::{Finished, finish};
use super::start::{Found, StartError, look};
use crate::format::block::{Key, KeyRef, Row};
use crate::format::ids::{InodeId, LogOffset};
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{ContentRef, DirentRow, FileType, InodeRow, ShareKey, ShareRow, ThawedBytes, Time};
use crate::format::schema::{self, Table};
use crate::format::transaction::{Counters, Operation, Thawed};
use crate::meta::{CheckpointInput, ImageOptions, ThawMark, View, write_checkpoint};
use crate::pack::{PackOptions, empty_into};
use crate::storage::testing::{FolderHome, History, MemoryFolder, MemoryStorage, Remains};
use crate::storage::{Folder, LogHome, Storage};
use crate::thaw::extents;
use crate::thaw::{Binding, Segments, ThawLog};
use std::collections::BTreeMap;
use std::sync::Arc;

const SEGMENT: u64 = 16 << 10;

/// The place of an image and of its log.
#[derive(Clone)]
struct Disk {
    storage: Arc<dyn Storage>,
    home: Arc<dyn LogHome>,
}

impl Disk {
    fn new(storage: Arc<dyn Storage>, folder: Arc<dyn Folder>) -> Self {
        Disk { storage, home: Arc::new(FolderHome::new(folder)) }
    }

    fn of(remains: Remains) -> Self {
        let folder = MemoryFolder::from_segments(remains.segments);
        Disk::new(Arc::new(MemoryStorage::from_bytes(remains.image)), Arc::new(folder))
    }

    fn recording(history: &History) -> Self {
        Disk::new(Arc::new(history.storage()), Arc::new(history.folder()))
    }

    /// The disk that a new process finds after another was killed.
    fn now(history: &History) -> Self {
        Disk::new(Arc::new(history.storage_now()), Arc::new(history.folder_now()))
    }

    fn look(&self) -> Result<Found, StartError> {
        look(Arc::clone(&self.storage), Arc::clone(&self.home), ImageOptions::default())
    }

    fn begin(&self, log_id: u64) -> Result<Session, StartError> {
        Session::begin(self, self.look()?, log_id)
    }
}

fn empty_image() -> Remains {
    let storage = Arc::new(MemoryStorage::new());
    empty_into(storage.clone(), &PackOptions::default()).unwrap();
    Remains { image: storage.to_bytes(), segments: BTreeMap::new() }
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| ((seed + 1).wrapping_mul(n / 9 + 3) >> (n % 5)) as u8).collect()
}

/// The files of the root directory by name; `None` for one with bytes that are lost.
type Files = BTreeMap<String, Option<Vec<u8>>>;

/// The files of a view. Every byte is read from the log and verified.
fn files(view: &View, segments: &Segments) -> Files {
    let mut files = Files::new();
    let mut cursor = view.cursor_at(&schema::DIRENTS, KeyRef::new(1, 0)).unwrap();
    while let Some(row) = cursor.row() {
        let entry = DirentRow::decode(row.key().name, row.ints()).unwrap();
        let name = String::from_utf8(row.key().name.to_vec()).unwrap();
        let inode = view.inode(entry.inode).unwrap().unwrap();
        let mut content = Some(vec![0; inode.size as usize]);
        let mut ranges = view.thawed(entry.inode, 0).unwrap();
        while let Some((begin, row)) = ranges.next(view).unwrap() {
            match row.bytes {
                ThawedBytes::Lost => content = None,
                ThawedBytes::InLog { frame, skip, sum } => {
                    let written = segments.get(frame).unwrap().written(frame, sum).unwrap();
                    let (begin, skip, len) = (begin as usize, skip as usize, row.length as usize);
                    if let Some(content) = &mut content {
                        content[begin..begin + len].copy_from_slice(&written[skip..skip + len]);
                    }
                }
            }
        }
        files.insert(name, content);
        cursor.advance(view).unwrap();
    }
    files
}

fn view_of(found: &Found) -> View {
    View::live(Arc::clone(found.image()), None, found.replayed().overlay.clone())
}

/// The files that were found. Checks that counters, totals and shares agree with a full scan.
fn found_files(found: &Found, what: &str) -> Files {
    let (view, replayed) = (view_of(found), found.replayed());
    let (mut inodes, mut bytes, mut users) = (0, 0, BTreeMap::new());
    for table in [&schema::INODES, &schema::ORPHANS] {
        let mut cursor = view.cursor_at(table, KeyRef::new(0, 0)).unwrap();
        while let Some(row) = cursor.row() {
            let inode = InodeRow::decode(row.ints(), row.tail()).unwrap();
            assert!(row.key().a < replayed.counters.inode, "{what}: an inode would be given out again");
            if *table == schema::INODES {
                inodes += 1;
                bytes += if inode.file_type == FileType::Regular { inode.size } else { 0 };
            }
            for key in ShareKey::used_by(&inode) {
                *users.entry(key).or_insert(0u64) += 1;
            }
            cursor.advance(&view).unwrap();
        }
    }
    assert_eq!((replayed.inodes, replayed.bytes), (inodes, bytes), "{what}: totals");
    let mut shared = BTreeMap::new();
    let mut cursor = view.cursor_at(&schema::SHARES, KeyRef::new(0, 0)).unwrap();
    while let Some(row) = cursor.row() {
        let key = ShareKey::decode(row.key().a, row.key().b).unwrap();
        shared.insert(key, ShareRow::decode(row.ints()).unwrap().users);
        cursor.advance(&view).unwrap();
    }
    users.retain(|_, &mut count| count > 1);
    assert_eq!(shared, users, "{what}: shares");
    files(&view, &found.segments())
}

/// A writer, and its pending changes.
struct Session {
    disk: Disk,
    writer: Writer,
    view: View,
    counters: Counters,
    totals: (u64, u64),
    pending: Vec<Operation>,
    /// The last durable transaction, and where it ends.
    last: (u64, LogOffset),
}

impl Session {
    fn begin(disk: &Disk, found: Found, log_id: u64) -> Result<Session, StartError> {
        let writer = found.begin(&Beginning { log_id, segment_size: Some(SEGMENT) })?;
        let replayed = writer.replayed.clone();
        Ok(Session {
            disk: disk.clone(),
            view: View::live(Arc::clone(&writer.base), None, replayed.overlay),
            counters: replayed.counters,
            totals: (replayed.inodes, replayed.bytes),
            pending: replayed.lost,
            last: (writer.log.last_transaction(), LogOffset(0)),
            writer,
        })
    }

    fn put(&mut self, table: &'static Table, row: Row) {
        self.view.active_mut().set(table, row.key.clone(), Some(row.clone()));
        self.pending.push(Operation::Put(table, row));
    }

    fn delete(&mut self, table: &'static Table, key: Key) {
        self.view.active_mut().set(table, key.clone(), None);
        self.pending.push(Operation::Delete(table, key));
    }

    fn range(&mut self, inode: InodeId, offset: u64, len: u64, put: Option<Thawed>) {
        for (key, row) in extents::replace(&self.view, inode, offset, len, put.as_ref()).unwrap() {
            self.view.active_mut().set(&schema::THAWED, key, row);
        }
        self.pending.push(put.map_or(Operation::NotThawed { inode, offset, len }, Operation::Thawed));
    }

    /// Writes a new file.
    fn create(&mut self, name: &str, data: &[u8]) {
        let inode = InodeId(self.counters.inode);
        self.counters.inode += 1;
        let row = file_row(data.len() as u64);
        let (ints, tail) = row.encode();
        self.put(&schema::INODES, Row { key: Key::new(inode.0, 0), ints: ints.to_vec(), tail });
        let entry = DirentRow { inode, file_type: FileType::Regular };
        let row = Row { key: Key::named(1, name.as_bytes()), ints: entry.encode().to_vec(), tail: Vec::new() };
        self.put(&schema::DIRENTS, row);
        self.totals = (self.totals.0 + 1, self.totals.1 + data.len() as u64);
        if !data.is_empty() {
            self.write(inode, 0, data);
        }
    }

    fn write(&mut self, inode: InodeId, offset: u64, data: &[u8]) {
        let appended = self.writer.log.append(data).unwrap();
        let thawed = Thawed { inode, offset, len: appended.len, frame: appended.frame, within: 0, sum: appended.sum };
        self.range(inode, offset, appended.len, Some(thawed));
    }

    fn remove(&mut self, name: &str) {
        let key = Key::named(1, name.as_bytes());
        let entry = self.view.lookup(InodeId(1), name.as_bytes()).unwrap().unwrap();
        let size = self.view.inode(entry.inode).unwrap().unwrap().size;
        self.delete(&schema::DIRENTS, key);
        self.delete(&schema::INODES, Key::new(entry.inode.0, 0));
        self.range(entry.inode, 0, i64::MAX as u64, None);
        self.totals = (self.totals.0 - 1, self.totals.1 - size);
    }

    fn try_commit(&mut self) -> Result<(), StartError> {
        let mut operations = std::mem::take(&mut self.pending);
        operations.push(Operation::Counters(self.counters));
        let log = &mut self.writer.log;
        let begun = match log.begin(operations, self.writer.image.end(), (5, 6)) {
            Ok(begun) => begun,
            Err(not) => {
                self.pending = not.operations;
                self.pending.pop();
                return Err(StartError::of_log(not.error));
            }
        };
        let (end, synced) = (begun.transaction_end(), begun.sync());
        self.last = (log.end(begun, synced).map_err(StartError::of_log)?, end);
        Ok(())
    }

    fn commit(&mut self) {
        self.try_commit().unwrap();
    }

    /// Makes a checkpoint of what is committed, and removes segments that nothing needs.
    fn try_checkpoint(&mut self) -> Result<(), StartError> {
        assert!(self.pending.is_empty());
        let Writer { log, image, heads, .. } = &mut self.writer;
        let version = Arc::clone(self.view.version());
        let input = CheckpointInput {
            version: &version,
            changes: self.view.active(),
            counters: self.counters,
            inodes: self.totals.0,
            bytes: self.totals.1,
            shared: 0,
            time: Time { secs: 7, nanos: 8 },
            thaw: ThawMark { log_id: log.log_id(), transaction: self.last.0, offset: self.last.1.0 },
            snapshot: None,
        };
        let written = write_checkpoint(image, input)?;
        heads.publish(|head| {
            head.root = written.place;
            head.root_hash = written.root_hash;
            head.log_end = LogOffset(written.log_end);
        })?;
        let head = heads.newest().clone();
        let Head4 { uuid, lineage, generation, root_hash } = Head4::of(&head);
        log.set_binding(Binding { uuid, lineage, generation, root_hash });
        self.view = View::of(Arc::new(version.successor(head, written.root)?));
        self.counters = written.counters;
        let mut lowest = self.last.1;
        let mut cursor = self.view.cursor_at(&schema::THAWED, KeyRef::new(0, 0))?;
        while let Some(row) = cursor.row() {
            lowest = lowest.min(LogOffset(row.ints()[1]));
            cursor.advance(&self.view)?;
        }
        log.remove_before(lowest).map_err(StartError::of_log)
    }

    fn checkpoint(&mut self) {
        self.try_checkpoint().unwrap();
    }

    fn try_end(self) -> Result<Finished, StartError> {
        let Writer { log, image, heads, home, .. } = self.writer;
        finish(log, heads, &*home, &self.disk.storage, image.end(), (9, 9))
    }

    fn end(self) -> Finished {
        self.try_end().unwrap()
    }

    fn files(&self) -> Files {
        files(&self.view, &self.writer.log.segments())
    }

    fn log(&mut self) -> &mut ThawLog {
        &mut self.writer.log
    }
}

/// The parts of a head that a segment records.
struct Head4 {
    uuid: [u8; 16],
    lineage: [u8; 16],
    generation: u64,
    root_hash: [u8; 32],
}

impl Head4 {
    fn of(head: &crate::format::head::Head) -> Self {
        Head4 { uuid: head.uuid, lineage: head.lineage, generation: head.generation, root_hash: head.root_hash }
    }
}

fn file_row(size: u64) -> InodeRow {
    InodeRow {
        file_type: FileType::Regular,
        permissions: 0o644,
        uid: 1,
        gid: 2,
        links: 1,
        size,
        mtime: Time { secs: 3, nanos: 4 },
        ctime: Time { secs: 3, nanos: 4 },
        atime: Time { secs: 3, nanos: 4 },
        content: ContentRef::None,
        xattrs: XattrRef::None,
        parent: None,
        target: Vec::new(),
        attributes: Vec::new(),
    }
}
