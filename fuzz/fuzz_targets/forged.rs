//! Whole images whose checksums and hashes are right, but whose rows, blocks, clear lists, parameters, roots and heads
//! are wrong. They are opened, walked, read, digested, extracted and checked. Errors are allowed; memory must stay
//! bounded.
//!
//! The changed images are the fixtures, and some that claim far more data than they hold. [`Script`] tells how the
//! bytes of an input are used. All memory counts, also that of zstd and xz, as the address sanitizer sees it; so this
//! target needs that sanitizer, which is cargo-fuzz's default.

#![no_main]

#[path = "../../tests/common/forge.rs"]
mod forge;
#[path = "../../tests/common/reforge.rs"]
mod reforge;

use floe::care::{CheckObserver, CheckOptions, check};
use floe::format::block::Row;
use floe::format::bytes::put_varint;
use floe::format::codec::{Compression, Encoder};
use floe::format::frame::FrameKind;
use floe::format::head::RawHeadSlot;
use floe::format::ids::{ContentId, InodeId, SubchunkId};
use floe::format::params::RawParams;
use floe::format::place::RawPlace;
use floe::format::root::{RootLogical, RootPhysical};
use floe::format::rows::{ContentRef, ContentRow, Extent};
use floe::format::schema::Table;
use floe::format::tree_ref::RawTreeRef;
use floe::format::view::RawView;
use floe::format::{Field, limits};
use floe::fs::extract::{ExtractObserver, ExtractOptions, extract};
use floe::fs::{Fs, FsOptions, SeekTo, digest};
use floe::meta::{Image, ImageOptions};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use forge::Forge;
use libfuzzer_sys::fuzz_target;
use reforge::{Frame, Pieces, Tweak};
use std::ffi::c_void;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Once, OnceLock};

unsafe extern "C" {
    fn __sanitizer_install_malloc_and_free_hooks(
        malloc: extern "C" fn(*const c_void, usize),
        free: extern "C" fn(*const c_void),
    ) -> i32;
    fn __sanitizer_get_allocated_size(ptr: *const c_void) -> usize;
}

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_malloc(_: *const c_void, size: usize) {
    let live = LIVE.fetch_add(size, Relaxed).wrapping_add(size);
    // Memory allocated before the hooks were installed may be freed: then the count is slightly below zero.
    if (live as isize) > 0 {
        PEAK.fetch_max(live, Relaxed);
    }
}

extern "C" fn on_free(ptr: *const c_void) {
    if !ptr.is_null() {
        // SAFETY: the sanitizer calls this with a block that is still allocated.
        LIVE.fetch_sub(unsafe { __sanitizer_get_allocated_size(ptr) }, Relaxed);
    }
}

fn install_hooks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both functions only count, and allocate nothing.
        assert_ne!(unsafe { __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) }, 0, "no hooks are left");
    });
}

/// Runs `job`; returns its peak of allocated bytes beyond those allocated before.
fn peak_of(job: impl FnOnce()) -> usize {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    job();
    PEAK.load(Relaxed).saturating_sub(before)
}

/// The input as a script: first a fixture, then one change after another, each a few bytes. Missing bytes read as zero.
struct Script<'a> {
    rest: &'a [u8],
}

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((&byte, rest)) => {
                self.rest = rest;
                byte
            }
            None => 0,
        }
    }

    fn short(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    /// A number below `len`, which must not be 0.
    fn index(&mut self, len: usize) -> usize {
        self.short() % len
    }

    /// A value to replace `old` with.
    fn value(&mut self, old: u64) -> u64 {
        const EDGES: &[u64] = &[
            0,
            1,
            2,
            127,
            128,
            129,
            512,
            4096,
            limits::SUBCHUNK_LEN,
            limits::SUBCHUNK_LEN + 1,
            limits::RAW_LEN,
            limits::RAW_LEN + 1,
            limits::INODE - 1,
            limits::INODE,
            limits::ID - 1,
            limits::ID,
            u32::MAX as u64 - 63,
            u32::MAX as u64,
            1 << 32,
            i64::MAX as u64 - 4095,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.byte() {
            0..=63 => old.wrapping_add(1 + u64::from(self.byte() % 8)),
            64..=127 => old.wrapping_sub(1 + u64::from(self.byte() % 8)),
            128..=191 => EDGES[usize::from(self.byte()) % EDGES.len()],
            192..=207 => self.byte().into(),
            208..=223 => self.short() as u64,
            224..=239 => old ^ 1 << (self.byte() % 64),
            _ => u64::from_be_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// Changes some bytes in place, or changes the length.
    fn bytes(&mut self, bytes: &mut Vec<u8>) {
        let how = self.byte() % 8;
        if bytes.is_empty() || how == 0 {
            let at = self.index(bytes.len() + 1);
            let mut varint = Vec::new();
            put_varint(&mut varint, self.value(0));
            bytes.splice(at..at, varint);
            return;
        }
        let at = self.index(bytes.len());
        match how {
            1 => bytes.truncate(at),
            2 => {
                bytes.remove(at);
            }
            3 => {
                // Not repeatedly: an input that only grows finds nothing new.
                let end = bytes.len().min(at + 64);
                bytes.extend_from_within(at..end);
            }
            4 => bytes[at] ^= 1 << (self.byte() % 8),
            5 => bytes[at] = bytes[at].wrapping_add(1),
            6 => bytes[at] = bytes[at].wrapping_sub(1),
            _ => bytes[at] = self.byte(),
        }
    }

    /// Changes one field of a struct, or of a nested struct.
    fn field(&mut self, fields: &[(usize, usize)], bytes: &mut [u8]) {
        let (at, size) = fields[self.index(fields.len())];
        let Some(bytes) = bytes.get_mut(at..at + size) else { return };
        let width = size.min(8);
        let part = self.byte() as usize % (size / width) * width;
        let mut old = [0; 8];
        old[..width].copy_from_slice(&bytes[part..part + width]);
        let new = self.value(u64::from_le_bytes(old)).to_le_bytes();
        bytes[part..part + width].copy_from_slice(&new[..width]);
    }

    fn row(&mut self, rows: &mut Vec<Row>) {
        if rows.is_empty() {
            return;
        }
        let at = self.index(rows.len());
        let other = self.index(rows.len());
        match self.byte() % 16 {
            0 => {
                rows.remove(at);
            }
            1 => rows.swap(at, other),
            2 => rows.insert(at, rows[other].clone()),
            3 => {
                // A row that follows it.
                let mut row = rows[at].clone();
                match self.byte() % 3 {
                    0 => row.key.a = row.key.a.wrapping_add(1),
                    1 => row.key.b = row.key.b.wrapping_add(1),
                    _ => row.key.name.push(b'+'),
                }
                rows.insert(at + 1, row);
            }
            4 => rows[at].key.a = self.value(rows[at].key.a),
            5 => rows[at].key.b = self.value(rows[at].key.b),
            6 => self.bytes(&mut rows[at].key.name),
            7..=8 => self.bytes(&mut rows[at].tail),
            9 => rows[at].tail = rows[other].tail.clone(),
            10 if !rows[at].ints.is_empty() => {
                let column = self.index(rows[at].ints.len());
                rows[at].ints[column] = rows[other].ints[column];
            }
            _ if !rows[at].ints.is_empty() => {
                let column = self.index(rows[at].ints.len());
                rows[at].ints[column] = self.value(rows[at].ints[column]);
            }
            _ => self.bytes(&mut rows[at].tail),
        }
    }
}

/// Fields of a struct as (offset, size), with nested structs flattened.
fn flat(fields: &'static [Field], at: usize, out: &mut Vec<(usize, usize)>) {
    for field in fields {
        let inner = match field.name {
            "view" => RawView::FIELDS,
            "params" => RawParams::FIELDS,
            "map" | "root" => RawPlace::FIELDS,
            name if name.ends_with("_tree") => RawTreeRef::FIELDS,
            "reserved" | "crc" => continue,
            _ => {
                out.push((at + field.offset, field.size));
                continue;
            }
        };
        flat(inner, at + field.offset, out);
    }
}

fn flattened(fields: &'static [Field]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    flat(fields, 0, &mut out);
    out
}

/// One change, made to the n-th thing of its kind that is written.
struct Change<'a> {
    what: u8,
    countdown: usize,
    script: Script<'a>,
}

const CHANGES: usize = 6;
/// Bytes of the script for each change.
const STEP: usize = 16;

struct Changes<'a> {
    all: Vec<Change<'a>>,
}

impl<'a> Changes<'a> {
    fn read(script: &'a [u8]) -> Self {
        let all = script.chunks(STEP).take(CHANGES).map(|step| {
            let mut script = Script { rest: step };
            let what = script.byte() % 16;
            Change { what, countdown: usize::from(script.byte()), script }
        });
        Changes { all: all.collect() }
    }

    /// Applies each change of these kinds whose turn it is.
    fn each(&mut self, kinds: std::ops::Range<u8>, mut work: impl FnMut(u8, &mut Script<'_>)) {
        for change in self.all.iter_mut().filter(|change| kinds.contains(&change.what)) {
            if change.countdown == 0 {
                work(change.what, &mut change.script);
            }
            change.countdown = change.countdown.wrapping_sub(1);
        }
    }
}

impl Tweak for Changes<'_> {
    fn rows(&mut self, table: &'static Table, rows: &mut Vec<Row>) {
        // The change itself selects the table, not the countdown: most changes should be of rows.
        for change in self.all.iter_mut().filter(|change| change.what < 8) {
            let tables = floe::format::schema::TABLES.len();
            if change.countdown % tables + 1 == usize::from(table.id().0) {
                change.script.row(rows);
                // A block with keys out of order is refused, so usually restore the order to reach the code after that.
                if !change.script.byte().is_multiple_of(8) {
                    rows.sort_by(|a, b| a.key.cmp(&b.key));
                    rows.dedup_by(|a, b| a.key == b.key);
                }
            }
        }
    }

    fn block(&mut self, _: &'static Table, _: u8, raw: &mut Vec<u8>) {
        self.each(8..10, |_, script| script.bytes(raw));
    }

    fn frame(&mut self, frame: &mut Frame) {
        self.each(10..13, |_, script| match script.byte() % 8 {
            0 => frame.codec = script.byte() % 4,
            1 => frame.flags ^= 1 << (script.byte() % 16),
            2 => frame.raw_len = script.value(frame.raw_len.into()) as u32,
            3 => frame.kind = FrameKind(script.byte() % 20),
            4 => script.bytes(&mut frame.stored),
            _ => {
                if let Some(clear) = &mut frame.clear {
                    script.bytes(clear);
                }
            }
        });
    }

    fn root(&mut self, logical: &mut Vec<u8>, physical: &mut Vec<u8>) {
        static FIELDS: OnceLock<[Vec<(usize, usize)>; 2]> = OnceLock::new();
        let fields = FIELDS.get_or_init(|| [flattened(RootLogical::FIELDS), flattened(RootPhysical::FIELDS)]);
        for change in self.all.iter_mut().filter(|change| (13..15).contains(&change.what)) {
            match change.countdown % 8 {
                0 => change.script.bytes(logical),
                1 => change.script.bytes(physical),
                2..=5 => change.script.field(&fields[0], logical),
                _ => change.script.field(&fields[1], physical),
            }
        }
    }

    fn head(&mut self, _: usize, head: &mut [u8]) {
        static FIELDS: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
        let fields = FIELDS.get_or_init(|| flattened(RawHeadSlot::FIELDS));
        for change in self.all.iter_mut().filter(|change| change.what == 15) {
            // Both slots get the same change, so that no good slot is used instead.
            Script { rest: change.script.rest }.field(fields, head);
        }
    }
}

/// Limit of entries visited: a hostile directory may contain itself.
const ENTRIES: usize = 300;
/// Bytes read at one offset of a file.
const READ: usize = 100_000;
/// Bytes extracted and digested: a tree may claim any size.
const BYTES: u64 = 64 << 20;
const CACHE: usize = 8 << 20;
const MIB: usize = 1 << 20;

/// Memory limit of a mount: `cache`, or three superchunks, and a fixed amount.
fn mount_bound(superchunk_size: usize) -> usize {
    CACHE.max(3 * superchunk_size + 8 * MIB) + 64 * MIB
}

/// Memory limits of `check`: its buffers, and its tables and findings.
const CHECK_MEMORY: usize = 64 * MIB;
const CHECK_BESIDE: usize = 256 * MIB;

struct Bounded {
    stop: AtomicBool,
    asked: AtomicU64,
}

impl ExtractObserver for Bounded {
    fn extracted(&self, _: &[u8]) {
        self.asked.fetch_add(1, Relaxed);
    }
    fn progress(&self, files: u64, bytes: u64) {
        self.stop.fetch_or(bytes > BYTES || files > ENTRIES as u64, Relaxed);
    }
    fn warning(&self, _: &[u8], _: &str) {}
    fn error(&self, _: &[u8], _: &str) {
        self.asked.fetch_add(1, Relaxed);
    }
    fn cancelled(&self) -> bool {
        self.stop.load(Relaxed) || self.asked.load(Relaxed) > ENTRIES as u64
    }
}

struct Silent;

impl CheckObserver for Silent {}

/// What is done with an image besides walking it. Doing less gives more inputs a second.
struct Also {
    check: bool,
    whole: bool,
}

fn run(bytes: Vec<u8>, also: &Also) {
    let storage = Arc::new(MemoryStorage::from_bytes(bytes)) as Arc<dyn Storage>;
    let mut superchunk_size = 0;
    let peak = peak_of(|| {
        if let Ok(image) = Image::open(storage.clone(), ImageOptions { block_cache: 1 << 20 }) {
            superchunk_size = image.params().superchunk_size as usize;
            let options = FsOptions { cache: CACHE, readahead: 0, ..FsOptions::default() };
            look(&Fs::new(Arc::new(image), options), also.whole);
        }
    });
    let bound = mount_bound(superchunk_size);
    assert!(peak <= bound, "reading took {peak} bytes of memory at its peak, the bound is {bound}");
    if !also.check {
        return;
    }
    let peak = peak_of(|| {
        let options = CheckOptions { memory: CHECK_MEMORY as u64, ..CheckOptions::default() };
        // `check` reports each fault as a finding; this target tests that it does not panic.
        let _ = check(storage.clone(), &options, &Silent);
    });
    let bound = CHECK_MEMORY + mount_bound(superchunk_size) + CHECK_BESIDE;
    assert!(peak <= bound, "checking took {peak} bytes of memory at its peak, the bound is {bound}");
}

/// Looks at everything reachable, as a mount does. Then, if `whole` and the data is not too much, digests and extracts
/// it.
fn look(fs: &Fs, whole: bool) {
    let mut todo = vec![InodeId::ROOT];
    let (mut entries, mut blocks) = (0, 0u64);
    let mut out = Vec::new();
    while let Some(inode) = todo.pop() {
        let Ok(attr) = fs.attr(inode) else { continue };
        blocks = blocks.saturating_add(attr.blocks);
        let _ = fs.xattr_names(inode);
        let _ = fs.readlink(inode);
        let _ = fs.seek(inode, attr.size / 2, SeekTo::Hole);
        let _ = fs.seek(inode, 0, SeekTo::Data);
        for offset in [0, attr.size / 3, attr.size.saturating_sub(READ as u64)] {
            out.clear();
            let _ = fs.read(inode, offset, READ, &mut out);
            assert!(out.len() <= READ, "a read of {READ} bytes gave {}", out.len());
        }
        let _ = fs.read_dir(inode, 0, &mut |entry| {
            if !matches!(entry.name, b"." | b"..") {
                todo.push(entry.inode);
                entries += 1;
            }
            entries < ENTRIES
        });
        if entries >= ENTRIES {
            return;
        }
    }
    drop(out);
    if !whole || blocks.saturating_mul(512) > BYTES {
        return;
    }
    let _ = digest(fs, InodeId::ROOT);
    let Ok(target) = tempfile::tempdir_in(sink()) else { return };
    let observer = Bounded { stop: false.into(), asked: 0.into() };
    let _ = extract(fs, &[], target.path(), &ExtractOptions::default(), &observer);
}

/// Directory for extracted trees: in memory if possible.
fn sink() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

/// An image of `count` superchunks, each `mebibytes` MiB of zeros, in a few KB.
fn swollen(count: u64, mebibytes: u32) -> Pieces {
    let mut forge = Forge::new();
    for n in 0..count {
        let first = 1 + n * u64::from(mebibytes);
        let lens = vec![1 << 20; mebibytes as usize];
        forge.superchunks.push(vec![(vec![0; 1 << 20], None); mebibytes as usize]);
        let length = u64::from(mebibytes) << 20;
        let extent = Extent::Run { first: SubchunkId(first), lens };
        forge.contents.insert((1 + n, 0), ContentRow { length, extent });
        forge.file(1, &format!("{n}"), 2 + n, length, ContentRef::Content(ContentId(1 + n)));
    }
    let mut pieces = Pieces::of(&forge.build().to_bytes());
    for (_, frame) in &mut pieces.superchunks {
        let encoded = Encoder::new(Compression::Zstd(3), None).encode(&frame.stored).expect("zeros shrink");
        (frame.codec, frame.stored) = (encoded.codec, encoded.stored);
    }
    let params = reforge::field(RootLogical::FIELDS, "params").offset;
    let size = params + reforge::field(RawParams::FIELDS, "superchunk_size").offset;
    pieces.logical[size..size + 4].copy_from_slice(&(mebibytes << 20).to_le_bytes());
    pieces
}

/// The fixtures as pieces, and images that claim far more data than they hold.
fn bases() -> &'static [Pieces] {
    static BASES: OnceLock<Vec<Pieces>> = OnceLock::new();
    BASES.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/v1");
        let entries = std::fs::read_dir(folder).expect("the fixtures are there");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "floe"));
        paths.sort();
        assert!(!paths.is_empty(), "there are no fixtures");
        let fixtures = paths.iter().map(|path| Pieces::of(&std::fs::read(path).expect("a fixture can be read")));
        fixtures.chain([swollen(6, 2), swollen(2, 16)]).collect()
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&[which, block], script)) = data.split_first_chunk::<2>() else { return };
    let bases = bases();
    install_hooks();
    let base = &bases[usize::from(which) % bases.len()];
    let bytes = if block % 4 == 0 {
        let pieces = Pieces { block: 64 << (block / 4 % 8), ..base.clone() };
        pieces.write(&mut Changes::read(script))
    } else {
        base.write(&mut Changes::read(script))
    };
    run(bytes, &Also { check: block & 0x20 == 0, whole: block & 0x40 == 0 });
});
