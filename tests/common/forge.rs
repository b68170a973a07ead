//! Forged images, written from their intended content: every checksum is right, whatever the rest is.
#![allow(dead_code, reason = "each test binary uses its own part")]

use floe::format::block::{Key, Row};
use floe::format::bytes::put_varint;
use floe::format::clear::{ClearList, Listed};
use floe::format::codec::{Compression, Encoder, RAW};
use floe::format::frame::{Flags, FrameHeader, FrameKind};
use floe::format::head::{Head, RawHeadSlot, incompat};
use floe::format::ids::{InodeId, LogOffset, SubchunkId, SuperchunkId};
use floe::format::limits::{LOG_START, first_sequence};
use floe::format::params::{Chunker, HashKind, Params};
use floe::format::place::Place;
use floe::format::recipe::{Piece, Recipe};
use floe::format::root::Root;
use floe::format::rows::inode::{TAG_ALLOCATED, XattrRef};
use floe::format::rows::{
    ContentRef, ContentRow, DirentRow, FileType, Identity, InodeRow, ShareKey, ShareRow, SnapshotRow, ThawedBytes,
    ThawedRow, Time, identity,
};
use floe::format::schema::{self, Table};
use floe::format::sums;
use floe::format::view::View;
use floe::log::{LogWriter, NewFrame};
use floe::meta::{MapRows, TableWriter, append_twice};
use floe::storage::testing::MemoryStorage;
use floe::storage::{HeadIndex, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A subchunk: its stored part, and its recipe with the resulting bytes.
pub type Subchunk = (Vec<u8>, Option<(Recipe, Vec<u8>)>);

/// The second frame that the map names for each superchunk.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum SecondCopy {
    #[default]
    None,
    Written,
    /// A place without a frame.
    Unreadable,
}

/// The content of an image, written exactly as given.
#[derive(Default)]
pub struct Forge {
    /// Whether table blocks are uncompressed, for a reader without zstd.
    pub raw_tables: bool,
    pub max_sources: u8,
    /// Raw bytes of a part; `None`: superchunks are whole.
    pub part_size: Option<u32>,
    pub second_copy: SecondCopy,
    /// Number of superchunks, from the first, that lie in the punched payload of a dead frame, which was superchunk 1
    /// before.
    pub in_dead: usize,
    /// Shortest subchunk that is allowed everywhere.
    pub chunk_min: u32,
    /// Whether superchunks that are not full have the `short` bit.
    pub says_short: bool,
    pub superchunks: Vec<Vec<Subchunk>>,
    pub inodes: BTreeMap<u64, InodeRow>,
    pub dirents: BTreeMap<(u64, Vec<u8>), DirentRow>,
    pub contents: BTreeMap<(u64, u64), ContentRow>,
    /// Tiny contents by id.
    pub tiny: BTreeMap<u64, Vec<u8>>,
    /// Pieces of xattr sets.
    pub xattrs: BTreeMap<(u64, u64), Vec<u8>>,
    /// Inodes that lost their last name while they were open.
    pub orphans: BTreeMap<u64, InodeRow>,
    /// Thawed ranges by inode and offset. If one is in the thaw log, root and heads name a log.
    pub thawed: BTreeMap<(u64, u64), ThawedRow>,
    /// Users of shared contents; `None`: counted from inodes and orphans.
    pub shares: Option<BTreeMap<ShareKey, ShareRow>>,
    /// Whether the heads are clean; `None`: they are clean if nothing is in the thaw log.
    pub clean: Option<bool>,
    /// Names and comments of snapshots of the head's state, by ordinal.
    pub snapshots: BTreeMap<u64, (String, String)>,
}

pub fn inode(file_type: FileType) -> InodeRow {
    InodeRow {
        file_type,
        permissions: 0o755,
        uid: 0,
        gid: 0,
        links: if file_type == FileType::Directory { 2 } else { 1 },
        size: 0,
        mtime: Time::default(),
        ctime: Time::default(),
        atime: Time::default(),
        content: ContentRef::None,
        xattrs: XattrRef::None,
        parent: None,
        target: Vec::new(),
        attributes: Vec::new(),
    }
}

impl Forge {
    /// An image with an empty root directory.
    pub fn new() -> Self {
        let mut forge = Forge { max_sources: 8, chunk_min: 1, says_short: true, ..Forge::default() };
        forge.inodes.insert(1, InodeRow { parent: Some(InodeId::ROOT), ..inode(FileType::Directory) });
        forge
    }

    pub fn name(&mut self, dir: u64, name: &str, inode: u64, file_type: FileType) {
        self.dirents.insert((dir, name.into()), DirentRow { inode: InodeId(inode), file_type });
    }

    pub fn directory(&mut self, parent: u64, name: &str, id: u64) {
        self.inodes.insert(id, InodeRow { parent: Some(InodeId(parent)), ..inode(FileType::Directory) });
        self.name(parent, name, id, FileType::Directory);
        if let Some(parent) = self.inodes.get_mut(&parent) {
            parent.links += 1;
        }
    }

    pub fn file(&mut self, parent: u64, name: &str, id: u64, size: u64, content: ContentRef) {
        self.inodes.insert(id, InodeRow { size, content, ..inode(FileType::Regular) });
        self.name(parent, name, id, FileType::Regular);
    }

    /// Records in an inode's row how many bytes of its content are outside holes, as a row must if the content has
    /// holes.
    pub fn allocated(&mut self, inode: u64, bytes: u64) {
        let mut value = Vec::new();
        put_varint(&mut value, bytes);
        if let Some(row) = self.inodes.get_mut(&inode) {
            row.attributes.push((TAG_ALLOCATED, value));
        }
    }

    /// A thawed range whose bytes are in the thaw log.
    pub fn thaw(&mut self, inode: u64, offset: u64, length: u64) {
        let bytes = ThawedBytes::InLog { frame: LogOffset(4096 + offset), skip: 0, sum: 7 };
        self.thawed.insert((inode, offset), ThawedRow { length, bytes });
    }

    /// A thawed range whose bytes are lost.
    pub fn lose(&mut self, inode: u64, offset: u64, length: u64) {
        self.thawed.insert((inode, offset), ThawedRow { length, bytes: ThawedBytes::Lost });
    }

    /// The right number of users of everything that inodes and orphans share.
    pub fn counted_shares(&self) -> BTreeMap<ShareKey, ShareRow> {
        let mut users: BTreeMap<ShareKey, ShareRow> = BTreeMap::new();
        for key in self.inodes.values().chain(self.orphans.values()).flat_map(ShareKey::used_by) {
            users.entry(key).or_insert(ShareRow { users: 0 }).users += 1;
        }
        users.retain(|_, row| row.users > 1);
        users
    }

    /// Appends a superchunk that no row of the map names, and punches it; returns the offset of its payload.
    fn dead_frame(&self, log: &mut LogWriter, storage: &MemoryStorage) -> u64 {
        let inside = self.superchunks.iter().take(self.in_dead);
        let bytes = |superchunk: &Vec<Subchunk>| superchunk.iter().map(|(stored, _)| stored.len()).sum::<usize>();
        let len: usize = inside.map(|superchunk| bytes(superchunk).next_multiple_of(4096) + 4096).sum();
        if len == 0 {
            return 0;
        }
        let stored = noise(77, len + 8192);
        let subchunks = vec![Listed::whole(SubchunkId(1), stored.len() as u32)];
        let frame = NewFrame {
            kind: FrameKind::SUPERCHUNK,
            codec: RAW,
            flags: Flags::default().with_short(true),
            clear: &ClearList { superchunk: SuperchunkId(1), subchunks }.encode(),
            stored: &stored,
            raw_len: stored.len() as u32,
            sum: sums::xxh3(&stored),
        };
        let place = log.append(frame).unwrap();
        let begin = place.stored_at(place.offset).next_multiple_of(4096);
        storage.punch(begin, log.end() / 4096 * 4096 - begin).unwrap();
        begin
    }

    pub fn build(&self) -> Arc<MemoryStorage> {
        let storage = Arc::new(MemoryStorage::from_bytes(vec![0; LOG_START as usize]));
        let mut log = LogWriter::new(storage.clone() as Arc<dyn Storage>, 7, 1, first_sequence(1), LOG_START).unwrap();
        let chunker = Chunker::FastCdc { min: self.chunk_min, avg: 32 << 10, max: 128 << 10 };
        let params = Params { max_sources: self.max_sources, table_block: 1024, chunker, ..Params::default() };
        let mut map = MapRows::default();
        let mut identities = Vec::new();
        let (mut next_subchunk, mut next_superchunk) = (1, 1);
        let mut payload = self.dead_frame(&mut log, &storage);
        for (n, superchunk) in self.superchunks.iter().enumerate() {
            let mut list = ClearList { superchunk: SuperchunkId(next_superchunk), subchunks: Vec::new() };
            let mut recipes = Vec::new();
            let mut raw = Vec::new();
            for (stored, recipe) in superchunk {
                let id = SubchunkId(next_subchunk);
                next_subchunk += 1;
                list.subchunks.push(Listed { id, len: stored.len() as u32, composed: recipe.is_some() });
                raw.extend_from_slice(stored);
                let bytes = recipe.as_ref().map_or(stored, |(_, bytes)| bytes);
                identities.push(Identity::of(HashKind::Blake3, bytes));
                recipes.extend(recipe.as_ref().map(|(recipe, _)| (id, recipe.clone())));
            }
            next_superchunk += 1;
            let encoded = Encoder::new(Compression::None, self.part_size).encode(&raw).unwrap();
            let frame = NewFrame {
                kind: FrameKind::SUPERCHUNK,
                codec: encoded.codec,
                flags: encoded.flags.with_short(self.says_short && !params.is_full(raw.len() as u32)),
                clear: &list.encode(),
                stored: &encoded.stored,
                raw_len: raw.len() as u32,
                sum: encoded.sum,
            };
            let mut place = if n < self.in_dead {
                let sequence = first_sequence(1) + (1 << 20) + n as u64;
                write_into(&storage, &mut payload, sequence, frame)
            } else {
                log.append(frame).unwrap()
            };
            place.copy = match self.second_copy {
                SecondCopy::None => None,
                SecondCopy::Written => Some(log.append(frame).unwrap().offset),
                SecondCopy::Unreadable => Some(LogOffset(1 << 40)),
            };
            map.add(FrameKind::SUPERCHUNK, place, &list, recipes);
        }
        let target = params.table_block as usize;
        let compression = if self.raw_tables { Compression::None } else { Compression::Zstd(3) };
        let mut writer =
            TableWriter::new(&mut log, &mut map, &mut next_subchunk, &mut next_superchunk, compression, target);
        let mut load = |table: &'static Table, rows: Vec<Row>| {
            writer.load(table, rows.into_iter().map(Ok)).unwrap().to_ref().unwrap()
        };
        let row = |a: u64, b: u64, name: &[u8], ints: &[u64], tail: Vec<u8>| Row {
            key: Key { a, b, name: name.to_vec() },
            ints: ints.to_vec(),
            tail,
        };
        let runs = identities.chunks(64).enumerate().map(|(n, run)| {
            row(1 + 64 * n as u64, 0, b"", &[run.len() as u64], identity::encode_run(HashKind::Blake3, run))
        });
        let files = self.inodes.values().filter(|inode| inode.file_type == FileType::Regular);
        let view = View {
            identities_tree: load(&schema::IDENTITIES, runs.collect()),
            contents_tree: load(
                &schema::CONTENTS,
                self.contents
                    .iter()
                    .map(|((a, b), content)| {
                        let (ints, tail) = content.encode();
                        row(*a, *b, b"", &ints, tail)
                    })
                    .collect(),
            ),
            inodes_tree: load(
                &schema::INODES,
                self.inodes
                    .iter()
                    .map(|(a, inode)| {
                        let (ints, tail) = inode.encode();
                        row(*a, 0, b"", &ints, tail)
                    })
                    .collect(),
            ),
            dirents_tree: load(
                &schema::DIRENTS,
                self.dirents.iter().map(|((a, name), entry)| row(*a, 0, name, &entry.encode(), Vec::new())).collect(),
            ),
            inodes: self.inodes.len() as u64,
            bytes: files.map(|inode| inode.size).sum(),
            tiny_tree: load(
                &schema::TINY,
                self.tiny.iter().map(|(a, bytes)| row(*a, 0, b"", &[], bytes.clone())).collect(),
            ),
            xattrs_tree: load(
                &schema::XATTRS,
                self.xattrs.iter().map(|((a, b), bytes)| row(*a, *b, b"", &[], bytes.clone())).collect(),
            ),
        };
        let orphans_tree = load(
            &schema::ORPHANS,
            self.orphans
                .iter()
                .map(|(a, inode)| {
                    let (ints, tail) = inode.encode();
                    row(*a, 0, b"", &ints, tail)
                })
                .collect(),
        );
        let thawed_tree = load(
            &schema::THAWED,
            self.thawed
                .iter()
                .map(|((a, b), range)| {
                    let (ints, tail) = range.encode();
                    row(*a, *b, b"", &ints, tail.to_vec())
                })
                .collect(),
        );
        let shares = self.shares.clone().unwrap_or_else(|| self.counted_shares());
        let shares_tree = load(
            &schema::SHARES,
            shares
                .iter()
                .map(|(key, share)| {
                    let (a, b) = key.encode();
                    row(a, b, b"", &share.encode(), Vec::new())
                })
                .collect(),
        );
        let snapshots_tree = load(
            &schema::SNAPSHOTS,
            self.snapshots
                .iter()
                .map(|(a, (name, comment))| {
                    let time = Time { secs: *a as i64, nanos: 0 };
                    let snapshot =
                        SnapshotRow { name: name.clone().into(), comment: comment.clone().into(), time, view };
                    row(*a, 0, b"", &[], snapshot.encode())
                })
                .collect(),
        );
        let thaw_log_id = if self.thawed.values().any(|range| !range.is_lost()) { 9 } else { 0 };
        let interior_offset = writer.flush_interior().unwrap();
        let (map, _) = writer.finish_map().unwrap();
        let root = Root {
            view,
            params,
            time: 0,
            time_ns: 0,
            next_inode: self.inodes.keys().chain(self.orphans.keys()).max().unwrap() + 1,
            next_content: self.contents.keys().map(|(id, _)| *id).max().unwrap_or(0) + 1,
            next_tiny: self.tiny.keys().max().unwrap_or(&0) + 1,
            next_xattrs: self.xattrs.keys().map(|(id, _)| *id).max().unwrap_or(0) + 1,
            next_ordinal: self.snapshots.keys().max().unwrap_or(&0) + 1,
            orphans_tree,
            thawed_tree,
            shares_tree,
            snapshots_tree,
            map: map.to_map_ref().unwrap(),
            next_subchunk,
            next_superchunk,
            thaw_log_id,
            thaw_transaction: u64::from(thaw_log_id != 0),
            thaw_offset: if thaw_log_id != 0 { 8192 } else { 0 },
            interior_offset,
            unique_bytes: 0,
            shared_bytes: 0,
            subchunks: identities.len() as u64,
            packed_time: 0,
            packed_time_ns: 0,
        };
        let (stored, root_hash) = root.encode();
        let place = append_twice(&mut log, FrameKind::ROOT, &stored).unwrap();
        log.sync().unwrap();
        let has_recipes = self.superchunks.iter().flatten().any(|(_, recipe)| recipe.is_some());
        for (slot, generation) in [(HeadIndex::A, 1), (HeadIndex::B, 2)] {
            let head = Head {
                compat: 0,
                // Bit 1: snapshots exist.
                ro_compat: u64::from(!self.snapshots.is_empty()) << 1,
                incompat: if has_recipes { incompat::RECIPES } else { 0 },
                uuid: [1; 16],
                lineage: [2; 16],
                generation,
                root: place,
                root_hash,
                log_id: 7,
                epoch: 1,
                clean: self.clean.unwrap_or(thaw_log_id == 0),
                log_end: LogOffset(log.end()),
                thaw_log_id,
                params,
            };
            storage.replace_head(slot, &[0; RawHeadSlot::SIZE], &head.encode()).unwrap();
        }
        storage
    }
}

/// Writes a frame over zeros, and moves `at` to the next block.
fn write_into(storage: &MemoryStorage, at: &mut u64, sequence: u64, frame: NewFrame<'_>) -> Place {
    let header = FrameHeader {
        kind: frame.kind,
        codec: frame.codec,
        flags: frame.flags,
        log_id: 7,
        epoch: 1,
        clear_len: frame.clear.len() as u32,
        sequence,
        offset: LogOffset(*at),
        stored_len: frame.stored.len() as u32,
        raw_len: frame.raw_len,
        sum: frame.sum,
    };
    for (offset, byte) in (*at..).zip([&header.encode(), frame.clear, frame.stored].concat()) {
        storage.flip(offset, byte).unwrap();
    }
    *at = (*at + header.frame_len()).next_multiple_of(4096);
    Place::of(&header)
}

pub fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

pub fn piece(subchunk: u64, offset: u32, len: u32) -> Piece {
    Piece { subchunk: SubchunkId(subchunk), offset, len }
}

/// Three superchunks: the third one's second subchunk is composed of its own bytes and of bytes of the other two.
pub fn with_recipe() -> Forge {
    let mut forge = Forge::new();
    let (one, two, own) = (noise(1, 5000), noise(2, 6000), noise(3, 100));
    let composed = [&one[1000..3000], &own[..50], &two[..6000], &own[50..]].concat();
    let pieces = vec![piece(1, 1000, 2000), piece(4, 0, 50), piece(2, 0, 6000), piece(4, 50, 50)];
    forge.superchunks = vec![
        vec![(one, None)],
        vec![(two, None)],
        vec![(noise(4, 10), None), (own, Some((Recipe::new(pieces).unwrap(), composed)))],
    ];
    for id in 1..=3 {
        let size = [0, 5000, 6000, 10][id as usize];
        forge.file(1, &format!("plain-{id}"), 10 + id, size, ContentRef::Subchunk(SubchunkId(id)));
    }
    forge.file(1, "composed", 20, 8100, ContentRef::Subchunk(SubchunkId(4)));
    forge
}
