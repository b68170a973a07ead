//! Takes an image apart and reassembles it, with any change made before the checksums and hashes are computed.
//!
//! [`Pieces::of`] reads a valid image: data superchunks as frames, tables as rows, root and head as bytes.
//! [`Pieces::write`] makes an image from them. It passes each row, block, clear list, header, root and head to a
//! [`Tweak`] before it computes their hash, so the image verifies everywhere, whatever it contains. Rows need not be
//! valid.
#![allow(dead_code, reason = "each test binary uses its own part")]

use floe::format::block::{Key, KeyRef, Row};
use floe::format::bytes::{put_varint, zigzag};
use floe::format::clear::{ClearList, Listed};
use floe::format::frame::{FRAME_HEADER, Flags, FrameHeader, FrameKind};
use floe::format::head::RawHeadSlot;
use floe::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use floe::format::limits::{HEAD_SLOT_SPAN, LOG_START, SYNC_BLOCK};
use floe::format::params::RawParams;
use floe::format::place::{Place, RawPlace};
use floe::format::root::{RootLogical, RootPhysical, root_hash};
use floe::format::rows::map::{SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use floe::format::rows::snapshot::SnapshotRow;
use floe::format::rows::{SubchunkRun, SuperchunkRow};
use floe::format::schema::{self, Coding, Schema, TABLES, Table};
use floe::format::sums::{Hash24, crc32, xxh3};
use floe::format::tree_ref::{RawTreeRef, TreeRef, TreeRoot};
use floe::format::view::RawView;
use floe::format::{Field, codec};
use floe::meta::{Image, ImageOptions};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use floe::table::{ChildRef, Tree};
use std::mem::offset_of;
use std::sync::Arc;

/// The points at which an image may be changed. Each does nothing by default.
pub trait Tweak {
    /// The rows of a table, in writing order. `MAP` comes last, and includes the rows for table groups.
    fn rows(&mut self, table: &'static Table, rows: &mut Vec<Row>) {
        let _ = (table, rows);
    }
    /// Raw bytes of a table block, before they are hashed.
    fn block(&mut self, table: &'static Table, level: u8, raw: &mut Vec<u8>) {
        let _ = (table, level, raw);
    }
    /// A frame before its checksums are computed. Offset and log id are always right.
    fn frame(&mut self, frame: &mut Frame) {
        let _ = frame;
    }
    /// Both parts of the root, each before it is hashed. `logical` already has the right trees, `physical` the right
    /// map.
    fn root(&mut self, logical: &mut Vec<u8>, physical: &mut Vec<u8>) {
        let _ = (logical, physical);
    }
    /// A head slot, 0 or 1, without its checksum.
    fn head(&mut self, slot: usize, head: &mut [u8]) {
        let _ = (slot, head);
    }
}

/// Changes nothing.
pub struct AsItIs;

impl Tweak for AsItIs {}

/// A frame to be written. The lengths in the header are those of `clear` and `stored`, unless they are changed later.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its kind.
    pub kind: FrameKind,
    /// Its codec.
    pub codec: u8,
    /// Its flags: parts, dictionary, filter.
    pub flags: u16,
    /// Its raw length.
    pub raw_len: u32,
    /// The clear part without its checksum, if there is one.
    pub clear: Option<Vec<u8>>,
    /// The stored bytes.
    pub stored: Vec<u8>,
}

/// An image as its content.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// Superchunks of file data, in order of their ids.
    pub superchunks: Vec<(SuperchunkId, Frame)>,
    /// Rows of each table except the map.
    pub tables: Vec<(&'static Table, Vec<Row>)>,
    /// Rows of the map for file data.
    pub map: Vec<Row>,
    /// The root's logical part.
    pub logical: Vec<u8>,
    /// The root's physical part.
    pub physical: Vec<u8>,
    /// One head slot.
    pub head: Vec<u8>,
    /// Snapshots; the snapshots table is made from them.
    pub snapshots: Vec<Snapshot>,
    /// Limit of a table block's raw bytes; small, so that a few rows make several levels.
    pub block: usize,
}

/// A snapshot as its rows.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Key of its row.
    pub ordinal: u64,
    /// Its row; the trees of its view are filled in when it is written.
    pub row: SnapshotRow,
    /// Rows of the tables of its view.
    pub tables: Vec<(&'static Table, Vec<Row>)>,
}

impl Pieces {
    /// Takes a valid image apart.
    pub fn of(bytes: &[u8]) -> Pieces {
        let storage = Arc::new(MemoryStorage::from_bytes(bytes.to_vec()));
        let image = Image::open(storage as Arc<dyn Storage>, ImageOptions::default()).expect("the image is right");
        let rows = |table: &'static Table| all_rows(&image, image.tree(table));
        let snapshots = rows(&schema::SNAPSHOTS).into_iter().map(|row| {
            let ordinal = row.key.a;
            let row = SnapshotRow::decode(&row.tail).expect("the snapshot is right");
            let view = row.view.encode();
            let tables = TABLES.iter().filter_map(|&table| {
                let at = view_offset(table)?;
                let tree = RawTreeRef::read(&zerocopy_bytes(&view)[at..], "tree").expect("it is long enough");
                let tree = tree.validate(table.id()).expect("the snapshot is right");
                Some((table, all_rows(&image, Tree::from_ref(table, &tree))))
            });
            Snapshot { ordinal, tables: tables.collect(), row }
        });
        let snapshots = snapshots.collect();
        let mut map = rows(&schema::MAP);
        let group = FrameKind::TABLE_GROUP.0;
        let of_groups: Vec<u64> = map
            .iter()
            .filter(|row| row.key.a == SPACE_SUPERCHUNKS && row.ints[0] == u64::from(group))
            .map(|row| row.key.b)
            .collect();
        map.retain(|row| match row.key.a {
            SPACE_SUPERCHUNKS => !of_groups.contains(&row.key.b),
            SPACE_SUBCHUNKS => !of_groups.contains(&row.ints[0]),
            _ => true,
        });
        let superchunks = map.iter().filter(|row| row.key.a == SPACE_SUPERCHUNKS).map(|row| {
            let place = SuperchunkRow::decode(&row.ints, &row.tail).expect("the map is right").place;
            let clear = place.offset.0 as usize + FRAME_HEADER;
            let stored = clear + place.clear_len as usize;
            let frame = Frame {
                kind: FrameKind::SUPERCHUNK,
                codec: place.codec,
                flags: place.flags.0,
                raw_len: place.raw_len,
                clear: Some(bytes[clear..stored - 4].to_vec()),
                stored: bytes[stored..][..place.stored_len as usize].to_vec(),
            };
            (SuperchunkId(row.key.b), frame)
        });
        let head = bytes[HEAD_SLOT_SPAN as usize..][..RawHeadSlot::SIZE].to_vec();
        let root = image.head().root;
        let root = &bytes[root.stored_at(root.offset) as usize..][..root.stored_len as usize];
        let len = |at: usize| u32::from_le_bytes(root[at..at + 4].try_into().expect("four bytes")) as usize;
        Pieces {
            superchunks: superchunks.collect(),
            tables: TABLES
                .iter()
                .filter(|t| ![schema::MAP.id(), schema::SNAPSHOTS.id()].contains(&t.id()))
                .map(|&t| (t, rows(t)))
                .collect(),
            snapshots,
            logical: root[8..][..len(0)].to_vec(),
            physical: root[8 + len(0)..][..len(4)].to_vec(),
            map,
            head,
            block: 600,
        }
    }

    /// Adds a superchunk of one uncompressed subchunk to frames and map.
    pub fn add(&mut self, id: SuperchunkId, subchunk: SubchunkId, raw: Vec<u8>) {
        let len = raw.len() as u32;
        let list = ClearList { superchunk: id, subchunks: vec![Listed::whole(subchunk, len)] };
        let run = SubchunkRun { first: subchunk, superchunk: id, position: 0, lens: vec![len], composed: Vec::new() };
        let (ints, tail) = run.encode();
        self.map.push(Row { key: Key::new(SPACE_SUBCHUNKS, subchunk.0), ints: ints.to_vec(), tail });
        let clear = list.encode();
        let frame = Frame {
            kind: FrameKind::SUPERCHUNK,
            codec: codec::RAW,
            flags: Flags::SHORT,
            raw_len: len,
            clear: clear.len().checked_sub(4).map(|len| clear[..len].to_vec()),
            stored: raw,
        };
        self.superchunks.push((id, frame));
    }

    /// Assembles the image, changed by `tweak`.
    pub fn write(&self, tweak: &mut dyn Tweak) -> Vec<u8> {
        let log_id = self.head[offset_of!(RawHeadSlot, log_id)..][..8].try_into().expect("eight bytes");
        let mut out = Writer {
            bytes: vec![0; LOG_START as usize],
            log_id: u64::from_le_bytes(log_id),
            sequence: 1 << 40,
            tweak,
            map: self.map.clone(),
            next_subchunk: number(&self.physical, RootPhysical::FIELDS, "next_subchunk"),
            next_superchunk: number(&self.physical, RootPhysical::FIELDS, "next_superchunk"),
            block: self.block,
        };
        for (id, frame) in &self.superchunks {
            out.superchunk(*id, frame.clone());
        }
        let (mut logical, mut physical) = (self.logical.clone(), self.physical.clone());
        let interior_offset = out.bytes.len() as u64;
        for (table, rows) in &self.tables {
            let tree = out.table(table, rows.clone());
            if let Some(at) = tree_offset(table) {
                logical[at..at + RawTreeRef::SIZE].copy_from_slice(zerocopy_bytes(&tree));
            }
        }
        let snapshots = self.snapshots.iter().map(|snapshot| out.snapshot(snapshot)).collect();
        let tree = out.table(&schema::SNAPSHOTS, snapshots);
        let at = tree_offset(&schema::SNAPSHOTS).expect("the root has them");
        logical[at..at + RawTreeRef::SIZE].copy_from_slice(zerocopy_bytes(&tree));
        let mut map = std::mem::take(&mut out.map);
        map.sort_by(|a, b| a.key.cmp(&b.key));
        out.tweak.rows(&schema::MAP, &mut map);
        let rows = map.len() as u64;
        let root = out.tree(&schema::MAP, map);
        let (place, levels) = match root {
            Some((ChildRef::Frame(place), levels)) => (Some(place), levels),
            _ => (None, 0),
        };
        let map_at = field(RootPhysical::FIELDS, "map").offset;
        physical[map_at..][..RawPlace::SIZE].copy_from_slice(zerocopy_bytes(&RawPlace::from(place)));
        physical[field(RootPhysical::FIELDS, "map_levels").offset] = levels;
        for (name, value) in [
            ("map_rows", rows),
            ("next_subchunk", out.next_subchunk),
            ("next_superchunk", out.next_superchunk),
            ("interior_offset", interior_offset),
        ] {
            let at = field(RootPhysical::FIELDS, name).offset;
            physical[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        out.root(logical, physical, &self.head)
    }
}

struct Writer<'a> {
    bytes: Vec<u8>,
    log_id: u64,
    sequence: u64,
    tweak: &'a mut dyn Tweak,
    map: Vec<Row>,
    next_subchunk: u64,
    next_superchunk: u64,
    block: usize,
}

impl Writer<'_> {
    fn append(&mut self, mut frame: Frame) -> Place {
        self.tweak.frame(&mut frame);
        let mut clear = frame.clear.unwrap_or_default();
        if !clear.is_empty() {
            let crc = crc32(&clear).to_le_bytes();
            clear.extend_from_slice(&crc);
        }
        let header = FrameHeader {
            kind: frame.kind,
            codec: frame.codec,
            flags: Flags(frame.flags),
            log_id: self.log_id,
            epoch: 1,
            clear_len: clear.len() as u32,
            sequence: self.sequence,
            offset: LogOffset(self.bytes.len() as u64),
            stored_len: frame.stored.len() as u32,
            raw_len: frame.raw_len,
            sum: xxh3(&frame.stored),
        };
        self.sequence += 1;
        self.bytes.extend_from_slice(&header.encode());
        self.bytes.extend_from_slice(&clear);
        self.bytes.extend_from_slice(&frame.stored);
        Place::of(&header)
    }

    /// Appends a superchunk, and updates its place in the map.
    fn superchunk(&mut self, id: SuperchunkId, frame: Frame) {
        let kind = frame.kind;
        let place = self.append(frame);
        let (ints, tail) = SuperchunkRow { kind, place }.encode();
        let key = Key::new(SPACE_SUPERCHUNKS, id.0);
        self.map.retain(|row| row.key != key);
        self.map.push(Row { key, ints: ints.to_vec(), tail: tail.to_vec() });
    }

    /// The row of a snapshot, whose tables are written first.
    fn snapshot(&mut self, snapshot: &Snapshot) -> Row {
        let mut view = zerocopy_bytes(&snapshot.row.view.encode()).to_vec();
        for (table, rows) in &snapshot.tables {
            let tree = self.table(table, rows.clone());
            let at = view_offset(table).expect("it is a table of a view");
            view[at..at + RawTreeRef::SIZE].copy_from_slice(zerocopy_bytes(&tree));
        }
        let view = RawView::read(&view, "view").and_then(|view| view.validate()).expect("its trees are right");
        let row = SnapshotRow { view, ..snapshot.row.clone() };
        Row { key: Key::new(snapshot.ordinal, 0), ints: Vec::new(), tail: row.encode() }
    }

    fn table(&mut self, table: &'static Table, mut rows: Vec<Row>) -> RawTreeRef {
        self.tweak.rows(table, &mut rows);
        let count = rows.len() as u64;
        let root = match self.tree(table, rows) {
            Some((ChildRef::Block { id, hash }, levels)) => Some(TreeRoot { block: id, hash, levels }),
            _ => None,
        };
        TreeRef { root, rows: count }.encode(table.id())
    }

    /// A tree of these rows, whatever they are: its root block and levels.
    fn tree(&mut self, table: &'static Table, mut rows: Vec<Row>) -> Option<(ChildRef, u8)> {
        let mut level = 0;
        loop {
            let schema = table.schema(level);
            let mut parents = Vec::new();
            for rows in cut(&rows, self.block, level) {
                let mut raw = encode_block(schema, level, rows);
                self.tweak.block(table, level, &mut raw);
                parents.push((rows[0].key.clone(), self.put(table, raw)));
            }
            match parents.len() {
                0 => return None,
                1 => return parents.pop().map(|(_, child)| (child, level + 1)),
                _ => {}
            }
            let children = parents.into_iter().map(|(key, child)| {
                let (ints, tail) = child.encode();
                Row { key, ints, tail }
            });
            rows = children.collect();
            level += 1;
        }
    }

    /// Appends a table block: alone for the map, in a group of its own for other tables.
    fn put(&mut self, table: &'static Table, raw: Vec<u8>) -> ChildRef {
        let is_map = table.id() == schema::MAP.id();
        let hash = Hash24::of(&raw);
        let mut frame = Frame {
            kind: if is_map { FrameKind::MAP_BLOCK } else { FrameKind::TABLE_GROUP },
            codec: codec::RAW,
            flags: 0,
            raw_len: raw.len() as u32,
            clear: None,
            stored: raw,
        };
        if is_map {
            return ChildRef::Frame(self.append(frame));
        }
        let (id, superchunk) = (SubchunkId(self.next_subchunk), SuperchunkId(self.next_superchunk));
        self.next_subchunk += 1;
        self.next_superchunk += 1;
        let mut clear = ClearList { superchunk, subchunks: vec![Listed::whole(id, frame.raw_len)] }.encode();
        clear.truncate(clear.len() - 4);
        frame.clear = Some(clear);
        let run = SubchunkRun { first: id, superchunk, position: 0, lens: vec![frame.raw_len], composed: Vec::new() }
            .encode();
        self.map.push(Row { key: Key::new(SPACE_SUBCHUNKS, id.0), ints: run.0.to_vec(), tail: run.1 });
        self.superchunk(superchunk, frame);
        ChildRef::Block { id, hash }
    }

    /// Writes the root twice, a pad, and both head slots.
    fn root(mut self, mut logical: Vec<u8>, mut physical: Vec<u8>, head: &[u8]) -> Vec<u8> {
        self.tweak.root(&mut logical, &mut physical);
        let mut stored = Vec::new();
        stored.extend_from_slice(&(logical.len() as u32).to_le_bytes());
        stored.extend_from_slice(&(physical.len() as u32).to_le_bytes());
        stored.extend_from_slice(&logical);
        stored.extend_from_slice(&physical);
        let raw_len = stored.len() as u32;
        let frame = Frame { kind: FrameKind::ROOT, codec: codec::RAW, flags: 0, raw_len, clear: None, stored };
        let mut place = self.append(frame.clone());
        place.copy = Some(self.append(frame).offset);
        let block = SYNC_BLOCK as usize;
        let end = (self.bytes.len() + FRAME_HEADER).next_multiple_of(block);
        let zeros = vec![0; end - self.bytes.len() - FRAME_HEADER];
        let raw_len = zeros.len() as u32;
        self.append(Frame { kind: FrameKind::PAD, codec: codec::RAW, flags: 0, raw_len, clear: None, stored: zeros });
        let end = self.bytes.len() as u64;
        for slot in 0..2 {
            let mut head = head.to_vec();
            let mut set = |name: &str, value: &[u8]| {
                let at = field(RawHeadSlot::FIELDS, name).offset;
                head[at..at + value.len()].copy_from_slice(value);
            };
            set("generation", &(slot as u64 + 1).to_le_bytes());
            set("root", zerocopy_bytes(&RawPlace::from(Some(place))));
            set("root_hash", &root_hash(&logical));
            set("log_end", &end.to_le_bytes());
            // Those of the root, so that a change there applies here, too.
            let params = field(RootLogical::FIELDS, "params").offset;
            if let Some(params) = logical.get(params..params + RawParams::SIZE) {
                set("params", params);
            }
            self.tweak.head(slot, &mut head);
            let crc = crc32(&head[..RawHeadSlot::SIZE - 4]).to_le_bytes();
            head[RawHeadSlot::SIZE - 4..].copy_from_slice(&crc);
            self.bytes[slot * HEAD_SLOT_SPAN as usize..][..head.len()].copy_from_slice(&head);
        }
        self.bytes
    }
}

fn all_rows(image: &Image, tree: Tree) -> Vec<Row> {
    let mut cursor = tree.cursor_at(image, KeyRef::new(0, 0)).expect("the table is right");
    let mut rows = Vec::new();
    while let Some(row) = cursor.row() {
        rows.push(row.to_row());
        cursor.advance(image).expect("the table is right");
    }
    rows
}

fn named(fields: &'static [Field], table: &Table) -> Option<usize> {
    let name = format!("{}_tree", table.name);
    fields.iter().find(|f| f.name == name).map(|f| f.offset)
}

/// Offset in a view of the tree reference of a table, if it has one.
pub fn view_offset(table: &Table) -> Option<usize> {
    named(RawView::FIELDS, table)
}

/// Offset in the root's logical part of the tree reference of a table; the view is its first field.
fn tree_offset(table: &Table) -> Option<usize> {
    view_offset(table).or_else(|| named(RootLogical::FIELDS, table))
}

fn zerocopy_bytes<T: zerocopy::IntoBytes + zerocopy::Immutable>(value: &T) -> &[u8] {
    value.as_bytes()
}

/// The field of a struct.
pub fn field(fields: &'static [Field], name: &str) -> &'static Field {
    fields.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("there is no field '{name}'"))
}

fn number(bytes: &[u8], fields: &'static [Field], name: &str) -> u64 {
    u64::from_le_bytes(bytes[field(fields, name).offset..][..8].try_into().expect("eight bytes"))
}

/// Distributes rows over blocks: at least one a block, at least two in interior blocks, and as many as stay below about
/// `size`.
fn cut(rows: &[Row], size: usize, level: u8) -> Vec<&[Row]> {
    let mut out = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (i, row) in rows.iter().enumerate() {
        let own = 12 + row.key.name.len() + row.tail.len() + row.ints.len();
        if bytes + own > size && i >= from + if level > 0 { 2 } else { 1 } {
            out.push(&rows[from..i]);
            (from, bytes) = (i, 0);
        }
        bytes += own;
    }
    if from < rows.len() {
        out.push(&rows[from..]);
    }
    out
}

/// A block of these rows in the given order, valid or not.
pub fn encode_block(schema: &Schema, level: u8, rows: &[Row]) -> Vec<u8> {
    let width = schema.ints.len();
    let mut streams = vec![Vec::new(); 7 + width];
    let mut last = Row { key: Key::default(), ints: vec![0; width], tail: Vec::new() };
    for (n, row) in rows.iter().enumerate() {
        let same_a = n > 0 && last.key.a == row.key.a;
        let same_ab = same_a && last.key.b == row.key.b;
        put_varint(&mut streams[0], row.key.a.wrapping_sub(last.key.a));
        if schema.has_b {
            put_varint(&mut streams[1], row.key.b.wrapping_sub(if same_a { last.key.b } else { 0 }));
        }
        if schema.has_name {
            let alike = last.key.name.iter().zip(&row.key.name).take_while(|(x, y)| x == y).count();
            let shared = if same_ab { alike } else { 0 };
            put_varint(&mut streams[2], shared as u64);
            put_varint(&mut streams[3], (row.key.name.len() - shared) as u64);
            streams[4].extend_from_slice(&row.key.name[shared..]);
        }
        for (i, coding) in schema.ints.iter().enumerate() {
            let value = row.ints.get(i).copied().unwrap_or(0);
            let difference = zigzag(value.wrapping_sub(last.ints[i]) as i64);
            match coding {
                Coding::Plain => put_varint(&mut streams[5 + i], value),
                Coding::Delta => put_varint(&mut streams[5 + i], difference),
                Coding::Nullable if value == 0 => streams[5 + i].push(0),
                Coding::Nullable => put_varint(&mut streams[5 + i], difference.wrapping_add(1)),
            }
            if *coding != Coding::Nullable || value != 0 {
                last.ints[i] = value;
            }
        }
        if schema.has_tail {
            put_varint(&mut streams[5 + width], row.tail.len() as u64);
            streams[6 + width].extend_from_slice(&row.tail);
        }
        last.key = row.key.clone();
    }
    let mut out = vec![schema.table.0, level, width as u8, 0];
    out.extend_from_slice(&(rows.len() as u32).to_le_bytes());
    for stream in &streams {
        out.extend_from_slice(&(stream.len() as u32).to_le_bytes());
    }
    out.extend(streams.concat());
    out
}
