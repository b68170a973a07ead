//! A writer of an image in any storage, and rows for it: random rows of every table, and consistent files.
#![allow(dead_code, reason = "each test binary uses its own part")]

use floe::format::block::{Key, Row};
use floe::format::ids::{InodeId, LogOffset, TinyId};
use floe::format::limits::first_sequence;
use floe::format::params::Params;
use floe::format::rows::inode::XattrRef;
use floe::format::rows::{ContentRef, DirentRow, FileType, InodeRow, ThawedBytes, ThawedRow, Time};
use floe::format::schema::{self, Table};
use floe::format::transaction::Counters;
use floe::log::LogWriter;
use floe::meta::{CheckpointInput, Heads, Image, ImageOptions, Overlay, ThawMark, Written, write_checkpoint};
use floe::pack::{PackOptions, empty_into};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use proptest::prelude::*;
use std::sync::Arc;

/// The bytes of an empty image with table blocks of `table_block` bytes.
pub fn empty_image(table_block: u32) -> Vec<u8> {
    let storage = Arc::new(MemoryStorage::new());
    let params = Params { table_block, ..Params::default() };
    empty_into(storage.clone(), &PackOptions { params, ..PackOptions::default() }).expect("memory takes it");
    storage.to_bytes()
}

/// An image that is open for writing.
pub struct Writer {
    pub storage: Arc<dyn Storage>,
    pub version: Arc<Image>,
    pub heads: Heads,
    pub log: LogWriter,
    pub counters: Counters,
    pub inodes: u64,
    pub bytes: u64,
}

/// Any error as text.
pub fn said<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

impl Writer {
    /// Opens the image, raises its epoch, and cuts off everything after its log.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Writer, String> {
        let writer = Writer::open_any(storage)?;
        writer.version.fit_for_writing().map_err(said)?;
        Ok(writer)
    }

    /// Like [`Writer::open`], but accepts inconsistent rows and counters.
    pub fn open_any(storage: Arc<dyn Storage>) -> Result<Writer, String> {
        let image = Image::open(storage.clone(), ImageOptions::default()).map_err(said)?;
        let mut heads = Heads::read(storage.clone()).map_err(said)?;
        heads
            .publish(|head| {
                head.epoch += 1;
                head.thaw_log_id = 3;
                head.clean = false;
            })
            .map_err(said)?;
        let head = heads.newest().clone();
        if storage.len().map_err(said)? > head.log_end.0 {
            storage.truncate(head.log_end.0).map_err(said)?;
            storage.sync().map_err(said)?;
        }
        let log = LogWriter::new(storage.clone(), head.log_id, head.epoch, first_sequence(head.epoch), head.log_end.0)
            .map_err(said)?;
        let view = image.root().view;
        let version = Arc::new(image);
        let counters = Counters::default();
        Ok(Writer { storage, version, heads, log, counters, inodes: view.inodes, bytes: view.bytes })
    }

    /// Writes a checkpoint, publishes it, and continues from it.
    pub fn checkpoint(&mut self, changes: &Overlay) -> Result<Written, String> {
        let input = CheckpointInput {
            version: &self.version,
            changes,
            counters: self.counters,
            inodes: self.inodes,
            bytes: self.bytes,
            shared: 0,
            time: Time { secs: 1_800_000_000, nanos: 7 },
            thaw: ThawMark { log_id: 3, transaction: 4, offset: 5 },
            snapshot: None,
        };
        let written = write_checkpoint(&mut self.log, input).map_err(said)?;
        self.publish(&written)?;
        Ok(written)
    }

    /// Publishes a checkpoint, and continues from it.
    pub fn publish(&mut self, written: &Written) -> Result<(), String> {
        self.heads
            .publish(|head| {
                head.root = written.place;
                head.root_hash = written.root_hash;
                head.log_end = LogOffset(written.log_end);
            })
            .map_err(said)?;
        self.counters = written.counters;
        self.version = Arc::new(self.version.successor(self.heads.newest().clone(), written.root).map_err(said)?);
        Ok(())
    }
}

/// A key of the table: usually one of `few`, rarely any. For the map only keys after those of its spaces.
pub fn key_of(table: &'static Table, few: u64) -> BoxedStrategy<Key> {
    let is_map = table.id() == schema::MAP.id();
    let a = if is_map { (100u64..103).boxed() } else { prop_oneof![9 => 0..few, 1 => 0..1u64 << 61].boxed() };
    let b = if table.leaf.has_b { prop_oneof![9 => 0..few, 1 => any::<u64>()].boxed() } else { Just(0).boxed() };
    let name = if table.leaf.has_name { 0..=12usize } else { 0..=0 };
    let name = prop::collection::vec(prop_oneof![97u8..100, any::<u8>()], name);
    (a, b, name).prop_map(|(a, b, name)| Key { a, b, name }).boxed()
}

/// A row of the table with any integers and bytes.
pub fn row_of(table: &'static Table, few: u64, tail: usize) -> BoxedStrategy<Row> {
    let ints = prop::collection::vec(prop_oneof![4 => 0u64..300, 1 => 0..1u64 << 61], table.leaf.ints.len());
    let tail = prop::collection::vec(any::<u8>(), 0..=tail * usize::from(table.leaf.has_tail));
    (key_of(table, few), ints, tail).prop_map(|(key, ints, tail)| Row { key, ints, tail }).boxed()
}

/// The row of a directory or file of the root directory.
pub fn inode_row(file_type: FileType, links: u64, size: u64, content: ContentRef) -> InodeRow {
    let time = Time { secs: 1_700_000_000, nanos: 123_456_789 };
    InodeRow {
        file_type,
        permissions: 0o644,
        uid: 1000,
        gid: 1000,
        links,
        size,
        mtime: time,
        ctime: time,
        atime: time,
        content,
        xattrs: XattrRef::None,
        parent: (file_type == FileType::Directory).then_some(InodeId::ROOT),
        target: Vec::new(),
        attributes: Vec::new(),
    }
}

fn set(changes: &mut Overlay, table: &'static Table, key: Key, ints: &[u64], tail: &[u8]) {
    let row = Row { key: key.clone(), ints: ints.to_vec(), tail: tail.to_vec() };
    changes.set(table, key, Some(row));
}

/// Puts the row of an inode.
pub fn put_inode(changes: &mut Overlay, inode: u64, row: &InodeRow) {
    let (ints, tail) = row.encode();
    set(changes, &schema::INODES, Key::new(inode, 0), &ints, &tail);
}

/// Files and directories of the root directory, as a mount would make them.
impl Writer {
    /// Allocates the next inode.
    fn new_inode(&mut self) -> u64 {
        self.counters = self.counters.larger(Counters { inode: self.version.root().next_inode, ..Counters::default() });
        let inode = self.counters.inode;
        self.counters.inode += 1;
        self.inodes += 1;
        inode
    }

    fn name(changes: &mut Overlay, name: &str, inode: u64, file_type: FileType) {
        let ints = [inode, file_type.number()];
        set(changes, &schema::DIRENTS, Key::named(InodeId::ROOT.0, name.as_bytes()), &ints, &[]);
    }

    /// A file of a few bytes, which are in the table of tiny contents.
    pub fn tiny_file(&mut self, changes: &mut Overlay, name: &str, bytes: &[u8]) -> u64 {
        let inode = self.new_inode();
        self.counters = self.counters.larger(Counters { tiny: self.version.root().next_tiny, ..Counters::default() });
        let tiny = self.counters.tiny;
        self.counters.tiny += 1;
        self.bytes += bytes.len() as u64;
        let content = ContentRef::Tiny(TinyId(tiny));
        put_inode(changes, inode, &inode_row(FileType::Regular, 1, bytes.len() as u64, content));
        set(changes, &schema::TINY, Key::new(tiny, 0), &[], bytes);
        Self::name(changes, name, inode, FileType::Regular);
        inode
    }

    /// A file whose bytes are in the thaw log.
    pub fn thawed_file(&mut self, changes: &mut Overlay, name: &str, len: u64) -> u64 {
        let inode = self.new_inode();
        self.bytes += len;
        put_inode(changes, inode, &inode_row(FileType::Regular, 1, len, ContentRef::None));
        let bytes =
            ThawedBytes::InLog { frame: LogOffset(4096 * inode), skip: 0, sum: inode.wrapping_mul(u64::MAX / 7) };
        let (ints, tail) = ThawedRow { length: len, bytes }.encode();
        set(changes, &schema::THAWED, Key::new(inode, 0), &ints, &tail);
        Self::name(changes, name, inode, FileType::Regular);
        inode
    }

    /// Removes a file of [`Writer::tiny_file`] that the version has.
    pub fn remove_tiny(&mut self, changes: &mut Overlay, name: &str) {
        let DirentRow { inode, .. } = self.version.lookup(InodeId::ROOT, name.as_bytes()).unwrap().unwrap();
        let row = self.version.inode(inode).unwrap().unwrap();
        let ContentRef::Tiny(tiny) = row.content else { panic!("{name} is no tiny file") };
        changes.set(&schema::DIRENTS, Key::named(InodeId::ROOT.0, name.as_bytes()), None);
        changes.set(&schema::INODES, Key::new(inode.0, 0), None);
        changes.set(&schema::TINY, Key::new(tiny.0, 0), None);
        self.inodes -= 1;
        self.bytes -= row.size;
    }
}
