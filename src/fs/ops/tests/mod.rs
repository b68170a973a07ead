//! Operations without disk, logs and kernel: on an empty image in memory, one draft after another. After each program,
//! all rows are checked.

mod attributes;
mod bytes;
mod freeze;
mod names;
mod random;
mod scan;
mod steps;
mod threads;

use super::create::create;
use super::write::write;
use super::{NewKind, NewNode};
use crate::format::block::{Key, Row};
use crate::format::ids::{ContentId, InodeId, LogOffset, SubchunkId};
use crate::format::rows::inode::XattrRef;
use crate::format::rows::{ContentRef, ContentRow, Extent, FileType, InodeRow, ThawedBytes, ThawedRow, Time};
use crate::format::schema::{self, TableId};
use crate::format::transaction::{Counters, Operation, Thawed};
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::ids::Ids;
use crate::fs::pending::Pending;
use crate::fs::snapshot::{Handles, Snapshot};
use crate::meta::{Image, ImageOptions, View};
use crate::pack::{PackOptions, empty_into};
use crate::storage::testing::MemoryStorage;
use crate::thaw::Appended;
use crate::thaw::extents;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

const ROOT: InodeId = InodeId::ROOT;
/// Distance between two frames.
const FRAME: u64 = 1 << 30;

/// The first subchunk that a test freezes. The bytes of those before it follow from their ids.
const FROZEN: u64 = 1 << 40;

thread_local! {
    /// Bytes of the subchunks that this test froze.
    static SUBCHUNKS: RefCell<BTreeMap<u64, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The byte of a subchunk at an offset: never 0 unless the subchunk was frozen by a test.
fn subchunk_byte(id: u64, at: u64) -> u8 {
    if id >= FROZEN {
        return SUBCHUNKS.with_borrow(|all| all[&id][at as usize]);
    }
    ((id * 31 + at * 7) % 251) as u8 + 1
}

/// A filesystem in which every operation counts at once.
pub(in crate::fs::ops) struct World {
    snapshot: Snapshot,
    ids: Arc<Ids>,
    inodes: i64,
    bytes: i64,
    /// All rows, as a replay of the log would make them.
    replayed: BTreeMap<(TableId, Key), Row>,
    /// What was appended, by frame.
    frames: RefCell<Vec<Vec<u8>>>,
    now: Time,
}

impl World {
    pub(in crate::fs::ops) fn new() -> Self {
        let storage = Arc::new(MemoryStorage::new());
        empty_into(storage.clone(), &PackOptions::default()).unwrap();
        let image = Arc::new(Image::open(storage, ImageOptions::default()).unwrap());
        let counters = Counters { inode: 2, content: 1, tiny: 1, xattrs: 1, ordinal: 1, subchunk: 1, superchunk: 1 };
        let mut world = World {
            snapshot: Snapshot::fixed(View::of(image)),
            ids: Arc::new(Ids::new(&counters)),
            inodes: 1,
            bytes: 0,
            replayed: BTreeMap::new(),
            frames: RefCell::new(Vec::new()),
            now: Time { secs: 1000, nanos: 0 },
        };
        world.replay_is_here();
        world
    }

    /// Makes the present rows the beginning of the replay.
    fn replay_is_here(&mut self) {
        for table in schema::TABLES.into_iter().filter(|table| table.id() != schema::MAP.id()) {
            let rows = self.rows(table).into_iter().map(|row| ((table.id(), row.key.clone()), row));
            self.replayed.extend(rows.collect::<Vec<_>>());
        }
    }

    pub(in crate::fs::ops) fn view(&self) -> &View {
        self.snapshot.view()
    }

    /// A draft on the present state. It does not count yet.
    fn draft(&self) -> Draft {
        Draft::new(self.snapshot.clone(), self.ids.clone(), self.now)
    }

    /// Appends like the thaw log.
    fn append(&self, before: &[u8], data: &[u8]) -> Result<Vec<Appended>, FsError> {
        let mut frames = self.frames.borrow_mut();
        let bytes = [before, data].concat();
        let mut pieces = Vec::new();
        for piece in bytes.chunks(1000) {
            frames.push(piece.to_vec());
            let frame = frames.len() as u64;
            pieces.push(Appended { frame: LogOffset(frame * FRAME), len: piece.len() as u64, sum: frame });
        }
        Ok(pieces)
    }

    /// Runs an operation that was called with `data`.
    fn run_with<T>(
        &mut self,
        data: &[u8],
        operation: impl FnOnce(&mut Draft, &dyn Fn(&[u8]) -> Result<Vec<Appended>, FsError>) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        self.now.secs += 1;
        let mut draft = self.draft();
        let value = operation(&mut draft, &|before| self.append(before, data))?;
        self.inodes += draft.inodes;
        self.bytes += draft.bytes;
        self.replay(&draft);
        self.snapshot = draft.into_snapshot();
        Ok(value)
    }

    /// Applies to `replayed` what the log would have for a commit of this draft alone.
    fn replay(&mut self, draft: &Draft) {
        let mut pending = Pending::default();
        for (table, from, to) in &draft.ranges {
            pending.delete_range(table, from.clone(), to.clone());
        }
        for change in draft.rows.iter().filter(|change| change.logged) {
            pending.row(change.table, change.key.clone(), change.row.clone());
        }
        draft.thawed.iter().for_each(|operation| pending.thawed(operation.clone()));
        for operation in pending.into_group(self.ids.counters()) {
            match operation {
                Operation::Put(table, row) => _ = self.replayed.insert((table.id(), row.key.clone()), row),
                Operation::Delete(table, key) => _ = self.replayed.remove(&(table.id(), key)),
                Operation::DeleteRange(table, from, to) => {
                    self.replayed.retain(|(id, key), _| *id != table.id() || *key < from || *key >= to);
                }
                Operation::Thawed(Thawed { inode, offset, len, frame, within, sum }) => {
                    let bytes = match frame {
                        Thawed::LOST => ThawedBytes::Lost,
                        frame => ThawedBytes::InLog { frame, skip: within as u32, sum },
                    };
                    self.replay_thawed(inode, offset, len, Some(bytes));
                }
                Operation::NotThawed { inode, offset, len } => self.replay_thawed(inode, offset, len, None),
                Operation::Counters(_) | Operation::Checkpoint { .. } => {}
            }
        }
    }

    fn replay_thawed(&mut self, inode: InodeId, offset: u64, len: u64, bytes: Option<ThawedBytes>) {
        let table = schema::THAWED.id();
        let rows = self.replayed.range((table, Key::new(inode.0, 0))..(table, Key::new(inode.0 + 1, 0)));
        let decode = |row: &Row| (row.key.b, ThawedRow::decode(row.key.b, &row.ints, &row.tail).unwrap());
        let existing: Vec<_> = rows.map(|(_, row)| decode(row)).collect();
        for (key, row) in extents::splice(&existing, inode, offset, len, bytes) {
            match row {
                Some(row) => _ = self.replayed.insert((table, key), row),
                None => _ = self.replayed.remove(&(table, key)),
            }
        }
    }

    fn run<T>(&mut self, operation: impl FnOnce(&mut Draft) -> Result<T, FsError>) -> Result<T, FsError> {
        self.run_with(&[], |draft, _| operation(draft))
    }

    fn make(&mut self, parent: InodeId, name: &str, kind: NewKind) -> InodeId {
        let node = NewNode { kind, mode: 0o644, umask: 0o022, uid: 5, gid: 6 };
        self.run(|draft| create(draft, parent, name.as_bytes(), &node)).unwrap().0
    }

    pub(in crate::fs::ops) fn file(&mut self, name: &str) -> InodeId {
        self.make(ROOT, name, NewKind::Regular)
    }

    fn dir(&mut self, parent: InodeId, name: &str) -> InodeId {
        self.make(parent, name, NewKind::Directory)
    }

    pub(in crate::fs::ops) fn write(&mut self, inode: InodeId, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let len = data.len() as u64;
        self.run_with(data, |draft, append| write(draft, inode, offset, len, false, append))
    }

    fn open(&mut self, inode: InodeId) {
        self.snapshot.opens.insert(inode, Handles { all: 1, writing: 0 });
    }

    fn close(&mut self, inode: InodeId) {
        self.snapshot.opens.remove(&inode);
    }

    /// The row of an inode, with or without a name.
    pub(in crate::fs::ops) fn row(&self, inode: InodeId) -> InodeRow {
        self.view().inode(inode).unwrap().or_else(|| self.view().orphan(inode).unwrap()).unwrap()
    }

    /// A file with `content`, as `pack` would have made it.
    fn packed(&mut self, name: &str, size: u64, content: ContentRef) -> InodeId {
        let inode = self.file(name);
        let mut row = self.row(inode);
        (row.size, row.content) = (size, content);
        self.run(|draft| {
            draft.put_inode(inode, &row);
            draft.count(0, size as i64);
            Ok(())
        })
        .unwrap();
        inode
    }

    /// A content with these rows.
    fn content(&mut self, rows: &[ContentRow]) -> (ContentId, u64) {
        self.run(|draft| {
            let (id, mut at) = (draft.new_content()?, 0);
            for row in rows {
                let (ints, tail) = row.encode();
                draft.put(&schema::CONTENTS, Row { key: Key::new(id.0, at), ints: ints.to_vec(), tail });
                at += row.length;
            }
            Ok((id, at))
        })
        .unwrap()
    }

    /// A file with a content of these rows, and as long as that content.
    fn packed_rows(&mut self, name: &str, rows: &[ContentRow]) -> InodeId {
        let (id, end) = self.content(rows);
        let inode = self.packed(name, end, ContentRef::Content(id));
        let data = rows.iter().map(crate::fs::content::data_of).sum();
        let mut row = self.row(inode);
        crate::fs::content::set_allocated(&mut row, data, end);
        self.run(|draft| {
            draft.put_inode(inode, &row);
            Ok(())
        })
        .unwrap();
        inode
    }

    /// A tiny file.
    fn packed_tiny(&mut self, name: &str, bytes: &[u8]) -> InodeId {
        let id = self
            .run(|draft| {
                let id = draft.new_tiny()?;
                let row = Row { key: Key::new(id.0, 0), ints: Vec::new(), tail: bytes.to_vec() };
                draft.put(&schema::TINY, row);
                Ok(id)
            })
            .unwrap();
        self.packed(name, bytes.len() as u64, ContentRef::Tiny(id))
    }

    /// Another file with the content of `inode`.
    fn packed_twin(&mut self, name: &str, inode: InodeId) -> InodeId {
        let row = self.row(inode);
        let twin = self.packed(name, row.size, row.content);
        self.run(|draft| {
            let row = InodeRow { xattrs: XattrRef::None, ..row };
            let own = draft.inode(twin)?;
            draft.put_inode(twin, &InodeRow { attributes: row.attributes.clone(), ..own });
            for key in crate::format::rows::ShareKey::used_by(&row).collect::<Vec<_>>() {
                super::shares::add_user(draft, key)?;
            }
            Ok(())
        })
        .unwrap();
        twin
    }

    /// All bytes of a regular file.
    fn read(&self, inode: InodeId) -> Vec<u8> {
        let (view, row) = (self.view(), self.row(inode));
        assert_eq!(row.file_type, FileType::Regular);
        let mut out = vec![0; row.size as usize];
        match row.content {
            ContentRef::None => {}
            ContentRef::Tiny(id) => out.copy_from_slice(&view.tiny(id).unwrap()),
            ContentRef::Subchunk(id) => {
                (0..).zip(&mut out).for_each(|(at, byte)| *byte = subchunk_byte(id.0, at));
            }
            ContentRef::Content(id) => {
                let mut extents = view.extents(id, 0).unwrap();
                while let Some((begin, extent)) = extents.next(view).unwrap() {
                    let range = begin as usize..(begin + extent.length) as usize;
                    out[range].copy_from_slice(&extent_bytes(&extent));
                }
            }
        }
        let mut ranges = view.thawed(inode, 0).unwrap();
        while let Some((begin, range)) = ranges.next(view).unwrap() {
            let to = &mut out[begin as usize..(begin + range.length) as usize];
            match range.bytes {
                ThawedBytes::Lost => to.fill(b'?'),
                ThawedBytes::InLog { frame, skip, sum } => {
                    assert_eq!(frame.0, sum * FRAME);
                    let frame = &self.frames.borrow()[sum as usize - 1];
                    to.copy_from_slice(&frame[skip as usize..][..to.len()]);
                }
            }
        }
        out
    }

    /// Rows of a table.
    fn rows(&self, table: &'static schema::Table) -> Vec<Row> {
        let mut cursor = self.view().cursor_at(table, crate::format::block::KeyRef::new(0, 0)).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = cursor.row() {
            rows.push(row.to_row());
            cursor.advance(self.view()).unwrap();
        }
        rows
    }
}

fn extent_bytes(row: &ContentRow) -> Vec<u8> {
    match &row.extent {
        Extent::Hole => vec![0; row.length as usize],
        Extent::Slice { subchunk, skip } => {
            (0..row.length).map(|at| subchunk_byte(subchunk.0, u64::from(*skip) + at)).collect()
        }
        Extent::Run { first, lens } => (first.0..)
            .zip(lens)
            .flat_map(|(id, &len)| (0..u64::from(len)).map(move |at| subchunk_byte(id, at)))
            .collect(),
    }
}

/// Whole subchunks from `first` on with these lengths.
fn run(first: u64, lens: &[u32]) -> ContentRow {
    let length = lens.iter().map(|&len| u64::from(len)).sum();
    ContentRow { length, extent: Extent::Run { first: SubchunkId(first), lens: lens.to_vec() } }
}
