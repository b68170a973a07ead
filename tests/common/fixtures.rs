//! The small images in `tests/fixtures/v1/`, which every later version reads: how each was made, and what is expected
//! of it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use super::forge::{self, Forge};
use super::reforge::{self, AsItIs, Pieces, Snapshot, field};
use super::{Lab, nasty, noise, prose, write, xattrs};
use floe::care::{CheckOptions, Severity, check};
use floe::format::Field;
use floe::format::block::{Key, Row};
use floe::format::codec::{self, FILTER_X86};
use floe::format::frame::Flags;
use floe::format::head::{RawHeadSlot, incompat};
use floe::format::ids::{ContentId, InodeId, SubchunkId, SuperchunkId};
use floe::format::params::{HashKind, RawParams};
use floe::format::root::{RootLogical, RootPhysical};
use floe::format::rows::{ContentRef, ContentRow, Extent, FileType, Identity, SnapshotRow, Time, identity};
use floe::format::schema::{self, Table};
use floe::format::view::RawView;
use floe::fs::{Fs, FsOptions, digest};
use floe::meta::{Image, ImageOptions};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bit of `ro_compat` (section 3.2).
const SNAPSHOTS_EXIST: u64 = 1 << 1;

/// Their directory.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// How a fixture is made.
pub enum Made {
    /// By `floe pack` with these options, from a tree.
    Packed(Tree, &'static [&'static str]),
    /// By hand, for features that no program writes yet.
    Forged(fn(&Lab) -> Vec<u8>),
}

/// A function that lays out a tree, and the upper limit of mtimes.
type Tree = (fn(&Path), &'static str);

const PLAIN: Tree = (plain, "1000000100");
const ODD: Tree = (odd, "10000000000");

/// All fixtures, by name.
pub const FIXTURES: &[(&str, Made)] = &[
    ("zstd", Made::Packed(PLAIN, &["-C", "zstd:3"])),
    ("xz", Made::Packed(PLAIN, &["-C", "xz:1"])),
    ("raw", Made::Packed(PLAIN, &["-C", "none"])),
    ("parts", Made::Packed(PLAIN, &["-C", "zstd:3", "--part-size", "4K"])),
    ("fixed", Made::Packed(PLAIN, &["-C", "none", "--chunker", "fixed:4K"])),
    ("xxh3", Made::Packed(PLAIN, &["-C", "xz:1", "--hash", "xxh3"])),
    ("nasty", Made::Packed(ODD, &["-C", "xz:1"])),
    ("composed", Made::Forged(|_| forge::with_recipe().build().to_bytes())),
    ("dictionary", Made::Forged(dictionary)),
    ("filter", Made::Forged(filter)),
    ("snapshot", Made::Forged(snapshot)),
    ("orphan", Made::Forged(orphan)),
    ("thawed", Made::Forged(thawed)),
    ("dead", Made::Forged(|_| Forge { in_dead: 2, ..forge::with_recipe() }.build().to_bytes())),
];

/// Makes the image of a fixture again. Needs root, to keep owners and devices.
pub fn make(made: &Made, lab: &Lab, name: &str) -> Vec<u8> {
    match made {
        Made::Packed(tree, options) => packed(lab, *tree, options, name),
        Made::Forged(forge) => forge(lab),
    }
}

fn packed(lab: &Lab, (lay_out, newest): Tree, options: &[&str], name: &str) -> Vec<u8> {
    let tree = lab.tree(name);
    lay_out(&tree);
    let options = [options, &["--timestamp", newest]].concat();
    std::fs::read(lab.pack(&options, &tree, &format!("{name}.floe"))).expect("the image is there")
}

/// Some files that share data, some that compress, one of machine code.
fn plain(root: &Path) {
    let text = prose(1, 12_000);
    write(root.join("docs/text"), &text);
    write(root.join("docs/the same"), &text);
    write(root.join("docs/longer"), [&text[..], &noise(2, 700)].concat());
    write(root.join("noise"), noise(3, 3000));
    write(root.join("few"), "few\n");
    write(root.join("none"), "");
    let calls =
        (0..400u32).flat_map(|n| [&[0x55, 0x89, 0xe5, 0xe8][..], &(9 * n).to_le_bytes(), &[0xc9, 0xc3]].concat());
    write(root.join("code"), calls.collect::<Vec<u8>>());
    std::fs::hard_link(root.join("noise"), root.join("noise-again")).expect("a hard link");
    std::os::unix::fs::symlink("docs/text", root.join("link")).expect("a symlink");
    stamp(root);
}

/// One of each type; names, modes, times, attributes and holes that once caused errors.
fn odd(root: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let name = |bytes: &'static [u8]| root.join(std::ffi::OsStr::from_bytes(bytes));
    write(name(b"new\nline"), "1");
    write(name(b"\xff\xfe"), prose(4, 600));
    write(name(&[b'n'; 255]), "long name");
    write(root.join("deep/er/and/deeper"), prose(5, 9000));
    let hole = std::fs::File::create(root.join("hole")).expect("a file");
    std::os::unix::fs::FileExt::write_all_at(&hole, &prose(6, 5000), 1 << 20).expect("it can be written");
    hole.set_len(3 << 20).expect("it can be longer");
    std::fs::File::create(root.join("only hole")).and_then(|f| f.set_len(1 << 40)).expect("a file");
    std::os::unix::fs::symlink("nothing/there", root.join("dangling")).expect("a symlink");
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("tty", FileType::CharacterDevice, makedev(5, 0)),
        ("loop", FileType::BlockDevice, makedev(7, 300)),
    ] {
        mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), device).expect("fixtures are made by root");
    }
    for (name, value) in [("user.short", &b"value"[..]), ("user.none", b""), ("user.long", &prose(7, 1500))] {
        xattrs::set(&root.join("deep/er"), name.as_bytes(), value).expect("the file system holds it");
    }
    xattrs::set(&root.join("hole"), b"user.short", b"value").expect("the file system holds it");
    rustix::fs::chown(root.join("deep"), Some(rustix::process::Uid::from_raw(12)), None).expect("we are root");
    for (name, mode) in [("hole", 0o4755), ("deep/er", 0o1777), ("deep/er/and", 0o2711), ("deep/er/and/deeper", 0)] {
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
    stamp(root);
    nasty::set_times(&root.join("hole"), -5_000_000_000, 1);
    nasty::set_times(&root.join("fifo"), 1 << 33, 999_999_999);
}

/// Gives everything the same times, bottom up.
fn stamp(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("it has a type").is_dir() {
            stamp(&entry.path());
        } else {
            nasty::set_times(&entry.path(), 1_000_000_000, 500);
        }
    }
    nasty::set_times(dir, 1_000_000_001, 0);
}

fn pieces(lab: &Lab, name: &str) -> Pieces {
    Pieces::of(&packed(lab, PLAIN, &["-C", "none"], name))
}

fn number(bytes: &mut [u8], fields: &'static [Field], name: &str, change: impl FnOnce(u64) -> u64) -> u64 {
    let at = field(fields, name).offset;
    let value = change(u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")));
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    value
}

/// zstd with a dictionary, which has a superchunk of its own.
fn dictionary(lab: &Lab) -> Vec<u8> {
    let mut pieces = pieces(lab, "dictionary");
    let words = prose(8, 2000);
    let mut zstd = zstd::bulk::Compressor::with_dictionary(3, &words).expect("a compressor");
    for (_, frame) in &mut pieces.superchunks {
        frame.stored = zstd.compress(&frame.stored).expect("it can be compressed");
        frame.codec = codec::ZSTD;
        frame.flags |= Flags::DICTIONARY;
    }
    let id = SuperchunkId(number(&mut pieces.physical, RootPhysical::FIELDS, "next_superchunk", |id| id + 1) - 1);
    let subchunk = SubchunkId(number(&mut pieces.physical, RootPhysical::FIELDS, "next_subchunk", |id| id + 1) - 1);
    number(&mut pieces.physical, RootPhysical::FIELDS, "subchunks", |n| n + 1);
    number(&mut pieces.physical, RootPhysical::FIELDS, "unique_bytes", |n| n + words.len() as u64);
    let dictionary = field(RootLogical::FIELDS, "params").offset + field(RawParams::FIELDS, "dictionary").offset;
    pieces.logical[dictionary..][..8].copy_from_slice(&id.0.to_le_bytes());
    number(&mut pieces.head, RawHeadSlot::FIELDS, "incompat", |bits| bits | incompat::DICTIONARY);
    let identity = identity::encode_run(HashKind::Blake3, &[Identity::of(HashKind::Blake3, &words)]);
    rows(&mut pieces.tables, &schema::IDENTITIES).push(Row {
        key: Key::new(subchunk.0, 0),
        ints: vec![1],
        tail: identity,
    });
    pieces.add(id, subchunk, words);
    pieces.write(&mut AsItIs)
}

/// Machine code through the x86 filter.
fn filter(lab: &Lab) -> Vec<u8> {
    let mut pieces = pieces(lab, "filter");
    for (_, frame) in &mut pieces.superchunks {
        let bytes = &mut frame.stored;
        // SAFETY: pointer and length are those of a mutable slice, and the filter stays within them.
        unsafe { liblzma_sys::lzma_bcj_x86_encode(0, bytes.as_mut_ptr(), bytes.len()) };
        frame.flags |= u16::from(FILTER_X86) << 8;
    }
    number(&mut pieces.head, RawHeadSlot::FIELDS, "incompat", |bits| bits | incompat::FILTERS);
    pieces.write(&mut AsItIs)
}

fn rows<'a>(tables: &'a mut [(&'static Table, Vec<Row>)], table: &Table) -> &'a mut Vec<Row> {
    &mut tables.iter_mut().find(|t| t.0.id() == table.id()).expect("it has the table").1
}

/// A snapshot of the tree before a file and a directory were removed; and the rest.
fn snapshot(lab: &Lab) -> Vec<u8> {
    let mut pieces = pieces(lab, "snapshot");
    let view = RawView::read(&pieces.logical, "view").and_then(|view| view.validate()).expect("the image is right");
    let row = SnapshotRow {
        name: b"before".to_vec(),
        comment: "all of it \u{2744}".into(),
        time: Time { secs: 1_000_000_002, nanos: 7 },
        view,
    };
    let of_view = pieces.tables.iter().filter(|(table, _)| reforge::view_offset(table).is_some()).cloned().collect();
    pieces.snapshots.push(Snapshot { ordinal: 1, row, tables: of_view });
    // A tiny file, which shares nothing with others.
    let names = rows(&mut pieces.tables, &schema::DIRENTS);
    let at = names.iter().position(|row| row.key.name == b"few").expect("the tree has it");
    let inode = names.remove(at).ints[0];
    rows(&mut pieces.tables, &schema::INODES).retain(|row| row.key.a != inode);
    number(&mut pieces.logical, RawView::FIELDS, "inodes", |n| n - 1);
    number(&mut pieces.logical, RawView::FIELDS, "bytes", |n| n - 4);
    number(&mut pieces.logical, RootLogical::FIELDS, "next_ordinal", |_| 2);
    number(&mut pieces.head, RawHeadSlot::FIELDS, "ro_compat", |bits| bits | SNAPSHOTS_EXIST);
    pieces.write(&mut AsItIs)
}

/// An inode that lost its name while it was open.
fn orphan(lab: &Lab) -> Vec<u8> {
    let mut pieces = pieces(lab, "orphan");
    let names = rows(&mut pieces.tables, &schema::DIRENTS);
    let at = names.iter().position(|row| row.key.name == b"few").expect("the tree has it");
    let inode = names.remove(at).ints[0];
    let inodes = rows(&mut pieces.tables, &schema::INODES);
    let at = inodes.iter().position(|row| row.key.a == inode).expect("the tree has it");
    let mut row = inodes.remove(at);
    row.ints[3] = 0;
    rows(&mut pieces.tables, &schema::ORPHANS).push(row);
    number(&mut pieces.logical, RawView::FIELDS, "inodes", |n| n - 1);
    number(&mut pieces.logical, RawView::FIELDS, "bytes", |n| n - 4);
    pieces.write(&mut AsItIs)
}

/// Files with ranges in the thaw log, and one with a lost range.
fn thawed(_: &Lab) -> Vec<u8> {
    let mut forge = Forge::new();
    forge.superchunks = vec![vec![(noise(1, 3000), None), (noise(2, 2000), None)]];
    let extent = Extent::Run { first: SubchunkId(1), lens: vec![3000, 2000] };
    forge.contents.insert((1, 0), ContentRow { length: 5000, extent });
    forge.file(1, "content", 2, 9000, ContentRef::Content(ContentId(1)));
    forge.file(1, "subchunk", 3, 2000, ContentRef::Subchunk(SubchunkId(2)));
    forge.file(1, "whole", 4, 2000, ContentRef::Subchunk(SubchunkId(2)));
    forge.file(1, "hole", 5, 10_000, ContentRef::None);
    forge.thaw(2, 6000, 500);
    forge.thaw(3, 0, 1);
    forge.lose(5, 7000, 100);
    forge.build().to_bytes()
}

fn letter(file_type: FileType) -> char {
    match file_type {
        FileType::Regular => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
    }
}

/// Bytes as one word, escaped as in `tests/reader.py`.
fn escaped(bytes: &[u8]) -> String {
    let word = bytes.iter().map(|&b| match b {
        0x21..0x7f if b != b'\\' => char::from(b).to_string(),
        _ => format!("\\x{b:02x}"),
    });
    word.collect()
}

/// One line for each path, as `tests/reader.py list` prints it.
pub fn list(fs: &Fs) -> String {
    let mut out = String::new();
    let mut todo = vec![(b".".to_vec(), InodeId::ROOT)];
    while let Some((path, inode)) = todo.pop() {
        let attr = fs.attr(inode).expect("a fixture can be read");
        let size = match attr.file_type {
            FileType::CharDevice | FileType::BlockDevice => format!("{},{}", attr.device.0, attr.device.1),
            // The row's size; a symlink's size is the length of its target.
            _ => attr.size.to_string(),
        };
        let _ = write!(
            out,
            "{} {:04o} {} {} {size} {}.{:09} {}",
            letter(attr.file_type),
            attr.permissions,
            attr.uid,
            attr.gid,
            attr.mtime.secs,
            attr.mtime.nanos,
            escaped(&path)
        );
        if attr.file_type == FileType::Symlink {
            let _ = write!(out, " -> {}", escaped(&fs.readlink(inode).expect("a fixture can be read")));
        }
        out.push('\n');
        let mut below = BTreeMap::new();
        if attr.file_type == FileType::Directory {
            fs.read_dir(inode, 0, &mut |entry| {
                if !matches!(entry.name, b"." | b"..") {
                    below.insert([&path[..], b"/", entry.name].concat(), entry.inode);
                }
                true
            })
            .expect("a fixture can be read");
        }
        todo.extend(below.into_iter().rev());
    }
    out
}

/// Everything that must stay the same: the digest, the findings of `check`, and the list.
pub fn describe(image: &[u8]) -> String {
    let storage = Arc::new(MemoryStorage::from_bytes(image.to_vec())) as Arc<dyn Storage>;
    let report = check(storage.clone(), &CheckOptions::default(), &()).expect("a fixture can be checked");
    let image = Image::open(storage, ImageOptions::default()).expect("a fixture can be opened");
    assert_eq!(image.warnings(), [] as [String; 0]);
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |out, b| out + &format!("{b:02x}"));
    let root_hash = hex(&image.head().root_hash);
    let fs = Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() });
    let digest = digest(&fs, InodeId::ROOT).map_or("none: not all of it can be read".to_owned(), |d| hex(&d));
    let mut out = format!("root hash {root_hash}\ndigest {digest}\n");
    // Notes report what a program does not or cannot check; a later version may.
    for finding in report.findings.iter().filter(|finding| finding.severity != Severity::Note) {
        let _ = writeln!(out, "finding {} {}", finding.kind.name(), finding.severity.name());
    }
    let state = if report.damaged() { "damaged" } else { "whole" };
    let _ = writeln!(out, "checked {} inodes, {} names: {state}\n", report.inodes, report.names);
    out + &list(&fs)
}
