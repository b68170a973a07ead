//! Damage, one byte at a time, in process over storage in memory. Whichever byte is flipped, `check` reports it and
//! names the affected files. Reads fail only where a subchunk's content hash does not match, and are right everywhere
//! else.
//!
//! By default it uses small images, and only some of the head slots' zeros and of the lengths. Every byte and length,
//! and also a larger image: `FLOE_LONG=1 cargo test --test damage`.

use floe::care::{self, CheckError, CheckOptions, CheckReport, Severity};
use floe::format::clear::ClearList;
use floe::format::codec::{Compression, Decoder};
use floe::format::frame::{FRAME_HEADER, FrameHeader, FrameKind};
use floe::format::head::RawHeadSlot;
use floe::format::ids::{InodeId, LogOffset, SubchunkId};
use floe::format::limits::{HEAD_SLOT_SPAN, LOG_START};
use floe::format::params::{Chunker, Params};
use floe::format::rows::{ContentRef, Extent, FileType, Identity};
use floe::fs::{Fs, FsOptions};
use floe::meta::{Image, ImageOptions};
use floe::pack::{PackObserver, PackOptions, pack};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Step through a head slot's zeros and through the image's lengths, unless all are tested.
const STRIDE: usize = 199;
/// Step through the data in bytes.
const PAYLOAD_STEP: usize = 4096;

fn long() -> bool {
    std::env::var_os("FLOE_LONG").is_some_and(|value| value == "1")
}

struct NoWarnings;

impl PackObserver for NoWarnings {
    fn warning(&self, path: &[u8], message: &str) {
        panic!("{}: {message}", String::from_utf8_lossy(path));
    }
}

/// Words in an order that is the same every time.
fn prose(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = ["snow ", "ice ", "drift ", "floe ", "is pressed ", "freezes\n", "thaws ", "and "];
    let mut out = Vec::with_capacity(len + 16);
    for byte in noise(seed, len) {
        if out.len() >= len {
            break;
        }
        out.extend_from_slice(WORDS[usize::from(byte % 8)].as_bytes());
    }
    out.truncate(len);
    out
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A small tree with one of everything: large, tiny, empty, sparse and equal files, links, directories, xattrs.
fn build(root: &Path, scale: usize) {
    let put = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put("a/prose", &prose(1, 20_000 * scale));
    put("a/noise", &noise(2, 9_000 * scale));
    put("a/noise-again", &noise(2, 9_000 * scale));
    put("a/short", &prose(3, 3_000));
    put("b/deep/deeper/file", &prose(4, 11_000 * scale));
    put("b/empty", b"");
    put("zeros", &vec![0; 40_000 * scale]);
    for n in 0..12 * scale {
        put(&format!("many/tiny-file-with-a-name-{n:03}"), &prose(n as u64, 20 + 30 * (n % 12)));
    }
    for n in 0..4 * scale {
        put(&format!("many/small-file-{n:03}"), &noise(100 + n as u64, 600 + 10 * n));
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(300_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(5, 5_000), 100_000).unwrap();
    fs::hard_link(root.join("a/prose"), root.join("b/linked")).unwrap();
    std::os::unix::fs::symlink("a/prose", root.join("link")).unwrap();
    for (name, len) in [("a/short", 20), ("a/noise", 1500), ("b", 900)] {
        let flags = rustix::fs::XattrFlags::empty();
        // If the file system has no xattrs, the xattr tables are just smaller.
        let _ = rustix::fs::setxattr(root.join(name), "user.test", &noise(len as u64, len), flags);
    }
}

/// One name in the good image.
struct Entry {
    inode: InodeId,
    file_type: FileType,
    size: u64,
    target: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: Vec<u8>,
    /// For each piece of the bytes: its range in the file, and its subchunk.
    pieces: Vec<(Range<u64>, Option<SubchunkId>)>,
}

/// A good image and everything that can be read from it.
struct Sample {
    bytes: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Entry>,
    frames: Vec<FrameHeader>,
    identities: BTreeMap<u64, Identity>,
    params: Params,
}

fn open(storage: &Arc<MemoryStorage>) -> Result<Arc<Fs>, floe::meta::MetaError> {
    let image = Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions { block_cache: 4 << 20 })?;
    Ok(Fs::new(Arc::new(image), FsOptions { cache: 64 << 20, readahead: 0, ..FsOptions::default() }))
}

fn sample(compression: Compression, part_size: Option<u32>, scale: usize) -> Sample {
    let lab = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tree = lab.path().join("tree");
    fs::create_dir(&tree).unwrap();
    build(&tree, scale);
    let image = lab.path().join("image.floe");
    let params = Params {
        superchunk_size: 1 << 20,
        part_size,
        chunker: Chunker::FastCdc { min: 1 << 10, avg: 4 << 10, max: 16 << 10 },
        table_block: 1024,
        ..Params::default()
    };
    let options = PackOptions { params, compression, timestamp: Some(1_700_000_000), ..PackOptions::default() };
    pack(&[tree], &image, &options, &NoWarnings).unwrap();
    read_sample(fs::read(&image).unwrap())
}

fn read_sample(bytes: Vec<u8>) -> Sample {
    let storage = Arc::new(MemoryStorage::from_bytes(bytes.clone()));
    let fs = open(&storage).unwrap();
    let mut entries = BTreeMap::new();
    let mut todo = vec![(b".".to_vec(), InodeId::ROOT)];
    while let Some((path, dir)) = todo.pop() {
        entries.insert(path.clone(), entry(&fs, dir));
        fs.read_dir(dir, 0, &mut |found| {
            let path = if path == b"." { found.name.to_vec() } else { [&path, &b"/"[..], found.name].concat() };
            if found.file_type == FileType::Directory {
                todo.push((path, found.inode));
            } else {
                entries.insert(path, entry(&fs, found.inode));
            }
            true
        })
        .unwrap();
    }
    let image = fs.image();
    let frames: Vec<_> = image.log().scan(LogOffset(LOG_START)).map(Result::unwrap).collect();
    let mut identities = BTreeMap::new();
    for frame in frames.iter().filter(|frame| frame.kind == FrameKind::SUPERCHUNK) {
        let list = ClearList::decode(&image.log().clear_part(frame).unwrap(), frame.raw_len).unwrap();
        for listed in list.subchunks {
            identities.insert(listed.id.0, image.identity(listed.id).unwrap().unwrap());
        }
    }
    Sample { bytes, entries, frames, identities, params: *image.params() }
}

fn entry(fs: &Fs, inode: InodeId) -> Entry {
    let attr = fs.attr(inode).unwrap();
    let row = fs.image().inode(inode).unwrap().unwrap();
    let mut bytes = Vec::new();
    let mut pieces = Vec::new();
    if attr.file_type == FileType::Regular {
        fs.read(inode, 0, attr.size as usize, &mut bytes).unwrap();
        match row.content {
            ContentRef::None | ContentRef::Tiny(_) => pieces.push((0..attr.size, None)),
            ContentRef::Subchunk(id) => pieces.push((0..attr.size, Some(id))),
            ContentRef::Content(content) => {
                let snapshot = fs.snapshot();
                let mut extents = snapshot.view().extents(content, 0).unwrap();
                while let Some((at, row)) = extents.next(snapshot.view()).unwrap() {
                    match row.extent {
                        Extent::Hole => pieces.push((at..at + row.length, None)),
                        Extent::Slice { subchunk, .. } => pieces.push((at..at + row.length, Some(subchunk))),
                        Extent::Run { first, lens } => {
                            let mut at = at;
                            for (n, len) in lens.into_iter().enumerate() {
                                let end = at + u64::from(len);
                                pieces.push((at..end, Some(SubchunkId(first.0 + n as u64))));
                                at = end;
                            }
                        }
                    }
                }
            }
        }
    }
    let xattrs = fs.xattr_names(inode).unwrap();
    let xattrs = xattrs.into_iter().map(|name| (name.clone(), fs.xattr(inode, &name).unwrap().unwrap())).collect();
    let target = row.target;
    Entry { inode, file_type: attr.file_type, size: attr.size, target, xattrs, bytes, pieces }
}

fn check(storage: &Arc<MemoryStorage>) -> Result<CheckReport, CheckError> {
    care::check(storage.clone() as Arc<dyn Storage>, &CheckOptions::default(), &())
}

/// Paths that the report names as lost.
fn named(report: &CheckReport) -> HashSet<&[u8]> {
    let lost = report.findings.iter().filter(|finding| finding.severity == Severity::Lost);
    lost.flat_map(|finding| finding.paths.iter().map(Vec::as_slice)).collect()
}

/// Whether the path, or a directory above it, is among those.
fn is_named(named: &HashSet<&[u8]>, path: &[u8]) -> bool {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    named.contains(&b"."[..]) || named.contains(path) || slashes.into_iter().any(|at| named.contains(&path[..at]))
}

impl Sample {
    /// Reads everything from a damaged image. Readable data must be right, and unreadable data must be named. With
    /// `lost`, reads fail exactly on these subchunks.
    fn read_back(&self, storage: &Arc<MemoryStorage>, report: &CheckReport, lost: Option<&HashSet<u64>>, what: &str) {
        let named = named(report);
        let fs = open(storage).unwrap_or_else(|error| panic!("{what}: {error}"));
        for (path, entry) in &self.entries {
            let text = String::from_utf8_lossy(path);
            let failed = |error: &dyn std::fmt::Display| {
                assert!(is_named(&named, path), "{what}: {text} is not named, though: {error}; {report:#?}");
            };
            let attr = match fs.resolve(path) {
                Ok(attr) => attr,
                Err(error) => {
                    failed(&error);
                    continue;
                }
            };
            assert_eq!(
                (attr.inode, attr.file_type, attr.size),
                (entry.inode, entry.file_type, entry.size),
                "{what}: {text}"
            );
            match fs.xattr_names(entry.inode) {
                Ok(names) => {
                    let found: Vec<_> = names
                        .into_iter()
                        .map(|name| (name.clone(), fs.xattr(entry.inode, &name).unwrap().unwrap()))
                        .collect();
                    assert_eq!(found, entry.xattrs, "{what}: {text}");
                }
                Err(error) => failed(&error),
            }
            if entry.file_type == FileType::Symlink {
                assert_eq!(fs.readlink(entry.inode).unwrap(), entry.target, "{what}: {text}");
            }
            for (range, subchunk) in &entry.pieces {
                let mut bytes = Vec::new();
                let is_lost = lost.zip(*subchunk).map(|(lost, id)| lost.contains(&id.0));
                match fs.read(entry.inode, range.start, (range.end - range.start) as usize, &mut bytes) {
                    Ok(()) => {
                        let want = &entry.bytes[range.start as usize..range.end as usize];
                        assert!(bytes == want, "{what}: {text} has wrong bytes at {range:?}");
                        assert_ne!(is_lost, Some(true), "{what}: {text} at {range:?} is lost and can be read");
                    }
                    Err(error) => {
                        assert_ne!(is_lost, Some(false), "{what}: {text} at {range:?} is good: {error}; {report:#?}");
                        failed(&error);
                    }
                }
            }
            if lost.is_some() && !is_named(&named, path) {
                assert!(
                    entry.pieces.iter().all(|(_, id)| !id.is_some_and(|id| lost.unwrap().contains(&id.0))),
                    "{what}: {text} is hit, and not named"
                );
            }
            if let Some(lost) = lost
                && named.contains(path.as_slice())
            {
                let hit = entry.pieces.iter().any(|(_, id)| id.is_some_and(|id| lost.contains(&id.0)));
                assert!(hit, "{what}: {text} is named, and not hit");
            }
        }
    }

    /// The subchunks of a damaged superchunk that have the wrong content hash; bytes that cannot be decoded are zero.
    fn lost(&self, frame: &FrameHeader, image: &[u8]) -> HashSet<u64> {
        let at = frame.offset.0 as usize + FRAME_HEADER;
        let (clear, stored) = image[at..].split_at(frame.clear_len as usize);
        let stored = &stored[..frame.stored_len as usize];
        let mut raw = Vec::new();
        Decoder::new().decode_damaged(frame.codec, frame.flags, stored, frame.raw_len, None, &mut raw);
        raw.resize(frame.raw_len as usize, 0);
        let mut begin = 0;
        let list = ClearList::decode(clear, frame.raw_len).unwrap();
        let lost = list.subchunks.iter().filter(|listed| {
            let range = begin..begin + listed.len as usize;
            begin = range.end;
            let bytes = raw.get(range);
            bytes.is_none_or(|bytes| Identity::of(self.params.hash, bytes) != self.identities[&listed.id.0])
        });
        lost.map(|listed| listed.id.0).collect()
    }

    /// Flips bytes of `range`, one after another, and tests `check` and reading each time.
    fn flip(&self, name: &str, range: Range<u64>, step: usize, frame: Option<&FrameHeader>) {
        let storage = Arc::new(MemoryStorage::from_bytes(self.bytes.clone()));
        for at in range.step_by(step) {
            let what = format!("{name}, byte {at}");
            let mask = 1 << (at % 8);
            storage.flip(at, mask).unwrap();
            let report = check(&storage).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(report.damaged(), "{what} is turned over, and check says nothing");
            assert!(report.readable, "{what}: {report:#?}");
            let lost = frame.map(|frame| self.lost(frame, &storage.to_bytes()));
            self.read_back(&storage, &report, lost.as_ref(), &what);
            storage.flip(at, mask).unwrap();
        }
        let report = check(&storage).unwrap();
        assert_eq!(report.findings, [], "{name}: all bytes are back");
    }

    fn flip_everything(&self) {
        let head = RawHeadSlot::SIZE as u64;
        let stride = if long() { 1 } else { STRIDE };
        for slot in [0, HEAD_SLOT_SPAN] {
            self.flip("head slot", slot..slot + head, 1, None);
            self.flip("behind a head slot", slot + head..slot + HEAD_SLOT_SPAN, stride, None);
        }
        for frame in &self.frames {
            let kind = frame.kind.name();
            let clear = frame.offset.0 + FRAME_HEADER as u64;
            let stored = clear + u64::from(frame.clear_len);
            let end = stored + u64::from(frame.stored_len);
            self.flip(&format!("header of a {kind}"), frame.offset.0..clear, 1, None);
            self.flip(&format!("clear list of a {kind}"), clear..stored, 1, None);
            if frame.kind == FrameKind::SUPERCHUNK {
                // Not always the same byte of a page, and also the very last byte.
                self.flip("data", stored + frame.sequence % 7..end, PAYLOAD_STEP, Some(frame));
                self.flip("the last byte of data", end - 1..end, 1, Some(frame));
            } else {
                self.flip(&format!("stored bytes of a {kind}"), stored..end, 1, None);
            }
        }
    }

    fn has_two_copies_of_interior_blocks(&self) -> bool {
        self.frames.iter().filter(|frame| frame.kind == FrameKind::ROOT).count() == 2
            && self.frames.iter().filter(|frame| frame.kind == FrameKind::TABLE_GROUP).count() > 5
    }
}

#[test]
fn every_byte_turned_over_is_found_in_an_image_without_compression() {
    let sample = sample(Compression::None, None, 1);
    assert!(sample.has_two_copies_of_interior_blocks());
    sample.flip_everything();
}

#[test]
fn every_byte_turned_over_is_found_in_an_image_of_zstd() {
    sample(Compression::Zstd(12), None, 1).flip_everything();
}

#[test]
fn every_byte_turned_over_is_found_in_an_image_of_xz() {
    sample(Compression::Xz(6), None, 1).flip_everything();
}

#[test]
fn every_byte_turned_over_is_found_in_an_image_of_parts() {
    sample(Compression::Zstd(3), Some(16 << 10), 1).flip_everything();
}

#[test]
fn every_truncation_is_found() {
    let sample = sample(Compression::Zstd(12), None, 1);
    let len = sample.bytes.len();
    let mut lengths: Vec<usize> = (0..len).step_by(if long() { 1 } else { STRIDE }).collect();
    lengths.extend(len.saturating_sub(if long() { 0 } else { 700 })..len);
    for border in sample.frames.iter().map(|frame| frame.offset.0 as usize).chain([0, 512, 16384, 16896, 32768]) {
        lengths.extend(border.saturating_sub(1)..=border + 1);
    }
    for length in lengths.into_iter().filter(|length| *length < len) {
        let storage = Arc::new(MemoryStorage::from_bytes(sample.bytes[..length].to_vec()));
        match check(&storage) {
            Err(CheckError::NotAnImage) => assert!(length < 4, "{length} bytes are an image"),
            Err(error) => panic!("cut to {length} bytes: {error}"),
            Ok(report) => {
                assert!(report.damaged(), "cut to {length} bytes, and check says nothing");
                if report.readable {
                    sample.read_back(&storage, &report, None, &format!("cut to {length} bytes"));
                }
            }
        }
    }
}

#[test]
fn bytes_behind_the_end_are_told_of_and_are_no_damage() {
    let sample = sample(Compression::None, None, 1);
    let storage = Arc::new(MemoryStorage::from_bytes([sample.bytes.as_slice(), b"more"].concat()));
    let report = check(&storage).unwrap();
    assert!(!report.damaged());
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
}

#[test]
fn a_larger_image_survives_the_same() {
    if !long() {
        return eprintln!("left out: takes a minute; FLOE_LONG=1 cargo test --test damage");
    }
    sample(Compression::Zstd(12), None, 3).flip_everything();
}

#[test]
fn what_is_no_image_is_called_so() {
    for bytes in [Vec::new(), vec![0; 100_000], noise(1, 50_000)] {
        let storage = Arc::new(MemoryStorage::from_bytes(bytes));
        assert!(matches!(check(&storage), Err(CheckError::NotAnImage)));
    }
}

/// Noise, and flipped ranges of an image: whatever they hold, there is a report or an error, and reading never panics.
#[test]
fn large_damage_gives_a_report_and_no_panic() {
    let sample = sample(Compression::Zstd(12), None, 1);
    let rounds = if long() { 2000 } else { 60 };
    for round in 0..rounds {
        let random = noise(1000 + round, 32);
        let number =
            |at: usize| u32::from_le_bytes([random[at], random[at + 1], random[at + 2], random[at + 3]]) as usize;
        let mut bytes = sample.bytes.clone();
        let start = LOG_START as usize + number(0) % (bytes.len() - LOG_START as usize);
        let end = bytes.len().min(start + 1 + number(4) % 6000);
        bytes[start..end].copy_from_slice(&noise(round, end - start));
        let storage = Arc::new(MemoryStorage::from_bytes(bytes));
        let report = check(&storage).unwrap();
        assert!(report.damaged(), "noise in {start}..{end}");
        if report.readable {
            sample.read_back(&storage, &report, None, &format!("noise in {start}..{end}"));
        }
    }
}
