//! Thawed ranges, orphans, shares, and contents that end before their files: images that were written to, read by a
//! program without the thaw log.

mod common;
#[path = "common/forge.rs"]
mod forge;
#[path = "common/thawed_model.rs"]
mod thawed_model;

use common::left_out::{need_fuse, need_program};
use common::mounted::Mounted;
use common::{Lab, floe};
use floe::care::{self, CheckOptions, CheckReport, FindingKind, Severity};
use floe::format::block::KeyRef;
use floe::format::ids::{ContentId, InodeId, SubchunkId, TinyId, XattrSetId};
use floe::format::rows::inode::XattrRef;
use floe::format::rows::{
    ContentRef, ContentRow, Extent, FileType, InodeRow, ShareKey, ShareKind, ShareRow, SnapshotRow, Xattr, XattrSet,
};
use floe::format::schema;
use floe::fs::{Fs, FsError, FsOptions, SeekTo, digest};
use floe::meta::{Image, ImageOptions};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use floe::table::ChildRef;
use forge::{Forge, inode, noise};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use thawed_model::{Byte, model};

fn open(forge: &Forge) -> Arc<Fs> {
    let image = Image::open(forge.build() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() })
}

fn check(forge: &Forge) -> CheckReport {
    let storage: Arc<MemoryStorage> = forge.build();
    care::check(storage as Arc<dyn Storage>, &CheckOptions::default(), &()).unwrap()
}

/// Severity, message and paths of each finding, except findings about the heads.
fn findings(forge: &Forge) -> Vec<(Severity, String, Vec<String>)> {
    let report = check(forge);
    let path = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let findings = report.findings.iter().filter(|f| f.kind != FindingKind::Head);
    findings.map(|f| (f.severity, f.message.clone(), f.paths.iter().map(path).collect())).collect()
}

/// Exactly one finding contains these words, and it names these paths.
#[track_caller]
fn assert_one(forge: &Forge, severity: Severity, words: &str, paths: &[&str]) {
    let all = findings(forge);
    let [(found, message, named)] = &all[..] else { panic!("not one finding: {all:#?}") };
    assert!(message.contains(words), "{message}");
    assert_eq!((*found, named.iter().map(String::as_str).collect::<Vec<_>>()), (severity, paths.to_vec()), "{message}");
}

/// Files of 10,000 bytes: a content of two extents, a single subchunk, and a hole.
fn three_files() -> Forge {
    let mut forge = Forge::new();
    forge.superchunks = vec![vec![(noise(1, 6000), None), (noise(2, 4000), None), (noise(3, 10_000), None)]];
    let extent = Extent::Run { first: SubchunkId(1), lens: vec![6000, 4000] };
    forge.contents.insert((1, 0), ContentRow { length: 10_000, extent });
    forge.file(1, "content", 2, 10_000, ContentRef::Content(ContentId(1)));
    forge.file(1, "subchunk", 3, 10_000, ContentRef::Subchunk(SubchunkId(3)));
    forge.file(1, "hole", 4, 10_000, ContentRef::None);
    forge
}

fn bytes_of(id: u64) -> Vec<u8> {
    match id {
        2 => [noise(1, 6000), noise(2, 4000)].concat(),
        3 => noise(3, 10_000),
        _ => vec![0; 10_000],
    }
}

//= format-spec.md#8.9
//= type=test
//# A reader without the thaw log must answer a read that overlaps a thawed range, in the log or lost, with EIO, and
//# must not fail other reads for it.
#[test]
fn a_read_that_meets_a_thawed_range_is_an_error_and_no_other_is() {
    let mut forge = three_files();
    for id in 2..=4 {
        forge.thaw(id, 4000, 1000);
        forge.lose(id, 7000, 1);
        forge.thaw(id, 7001, 9);
    }
    let fs = open(&forge);
    let steps =
        [0, 1, 100, 3999, 4000, 4001, 4999, 5000, 5001, 6000, 6999, 7000, 7001, 7009, 7010, 9999, 10_000, 10_001];
    for id in 2..=4 {
        let bytes = bytes_of(id);
        for (n, &from) in steps.iter().enumerate() {
            for &to in &steps[n..] {
                let mut out = Vec::new();
                let read = fs.read(InodeId(id), from, (to - from) as usize, &mut out);
                let end = to.min(10_000);
                let meets = from < end && [4000..5000, 7000..7010].iter().any(|r| from < r.end && end > r.start);
                match read {
                    Ok(()) => {
                        assert!(!meets, "inode {id}, {from} to {to} was read");
                        assert!(out == bytes[(from as usize).min(10_000)..end as usize], "inode {id}, {from} to {to}");
                    }
                    Err(error) => {
                        assert!(meets, "inode {id}, {from} to {to}: {error}");
                        assert_eq!(error.errno(), rustix::io::Errno::IO);
                    }
                }
            }
        }
    }
    // An inode between two others whose thawed ranges reach their end and their beginning.
    let mut forge = three_files();
    forge.thaw(2, 0, 10_000);
    forge.lose(4, 0, 10_000);
    let fs = open(&forge);
    let mut out = Vec::new();
    fs.read(InodeId(3), 0, 20_000, &mut out).unwrap();
    assert!(out == bytes_of(3));
    assert!(fs.read(InodeId(2), 9999, 1, &mut out).is_err());
    assert!(fs.read(InodeId(4), 0, 1, &mut out).is_err());
}

#[test]
fn thawed_ranges_count_as_allocated_and_are_shown_where_a_file_lies() {
    let mut forge = three_files();
    forge.thaw(4, 4000, 1000);
    forge.lose(4, 7000, 24);
    forge.thaw(3, 0, 10_000);
    let fs = open(&forge);
    assert_eq!(fs.attr(InodeId(4)).unwrap().blocks, 2);
    assert_eq!(fs.attr(InodeId(3)).unwrap().blocks, 20);
    assert_eq!(fs.whereabouts(InodeId(4)).unwrap(), "4000 1000 thaw log\n7000 24 lost\n0 10000 hole\n");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn reading_and_seeking_go_by_thawed_ranges_first_then_by_the_content_and_a_hole_after_it(model in model()) {
        let forge = model.forge();
        let fs = open(&forge);
        let size = model.bytes.len() as u64;
        for at in 0..size {
            let next = |wanted: bool| {
                (at..size).find(|&n| (model.bytes[n as usize] == Byte::Hole) == wanted)
            };
            match fs.seek(InodeId(2), at, SeekTo::Data) {
                Ok(found) => prop_assert_eq!(Some(found), next(false)),
                Err(FsError::NoData) => prop_assert_eq!(None, next(false)),
                Err(error) => panic!("{error}"),
            }
            prop_assert_eq!(fs.seek(InodeId(2), at, SeekTo::Hole).unwrap(), next(true).unwrap_or(size));
            for len in [1, 7, 100, 1000] {
                let range = &model.bytes[at as usize..(at + len).min(size) as usize];
                let mut out = Vec::new();
                let read = fs.read(InodeId(2), at, len as usize, &mut out);
                prop_assert_eq!(read.is_err(), range.contains(&Byte::Thawed));
                if read.is_ok() {
                    let expected: Vec<u8> =
                        range.iter().map(|byte| if let Byte::Data(byte) = byte { *byte } else { 0 }).collect();
                    prop_assert!(out == expected);
                }
            }
        }
        prop_assert!(matches!(fs.seek(InodeId(2), size, SeekTo::Hole), Err(FsError::NoData)));
        let damaged = model.thawed.iter().any(|(_, _, lost)| *lost);
        let report = check(&forge);
        prop_assert_eq!(report.damaged(), damaged, "{:#?}", report.findings);
        prop_assert_eq!(digest(&fs, InodeId::ROOT).is_err(), !model.thawed.is_empty());
    }
}

//= format-spec.md#8.3
//= type=test
//# A content never ends after the size of an inode that names it. It may end before: the rest of the file is a hole.
#[test]
fn a_content_may_end_before_its_file_and_not_after_it() {
    let mut short = three_files();
    short.inodes.get_mut(&2).unwrap().size = 1 << 40;
    assert_eq!(findings(&short), []);
    let mut hole = three_files();
    hole.contents.insert((1, 10_000), ContentRow { length: (1 << 40) - 10_000, extent: Extent::Hole });
    hole.inodes.get_mut(&2).unwrap().size = 1 << 40;
    hole.allocated(2, 10_000);
    assert_eq!(findings(&hole), []);
    let (short, hole) = (open(&short), open(&hole));
    assert_eq!(digest(&short, InodeId::ROOT).unwrap(), digest(&hole, InodeId::ROOT).unwrap());
    assert_eq!(short.attr(InodeId(2)).unwrap(), hole.attr(InodeId(2)).unwrap());
    assert_eq!(short.whereabouts(InodeId(2)).unwrap(), hole.whereabouts(InodeId(2)).unwrap());
    let mut out = Vec::new();
    short.read(InodeId(2), 9_990, 20, &mut out).unwrap();
    assert!(out == [&bytes_of(2)[9_990..], &[0; 10]].concat());
    short.read(InodeId(2), (1 << 40) - 5, 20, &mut out).unwrap();
    assert_eq!(out[20..], [0; 5]);

    let mut long = three_files();
    long.inodes.get_mut(&2).unwrap().size = 9_999;
    assert_one(&long, Severity::Lost, "it has 9999 bytes, but its content 1 ends at offset 10000", &["content"]);
    // A gap is not an end.
    let mut gap = three_files();
    let extent = Extent::Slice { subchunk: SubchunkId(1), skip: 0 };
    gap.contents.insert((1, 10_001), ContentRow { length: 1, extent });
    gap.inodes.get_mut(&2).unwrap().size = 20_000;
    assert_one(&gap, Severity::Lost, "have a gap or overlap", &["content"]);
    assert!(open(&gap).read(InodeId(2), 10_000, 1, &mut out).is_err());
}

#[test]
fn a_single_subchunk_and_a_tiny_content_have_exactly_the_size_of_their_file() {
    let mut forge = three_files();
    forge.inodes.get_mut(&3).unwrap().size = 10_001;
    assert_one(&forge, Severity::Lost, "it has 10001 bytes, but its subchunk 3 has 10000", &["subchunk"]);
    let mut forge = three_files();
    forge.tiny.insert(1, b"few".to_vec());
    forge.file(1, "tiny", 5, 4, ContentRef::Tiny(TinyId(1)));
    assert_one(&forge, Severity::Lost, "it has 4 bytes, but its tiny content 1 has 3", &["tiny"]);
}

#[test]
fn check_counts_thawed_ranges_and_names_their_files() {
    let mut forge = three_files();
    forge.thaw(2, 100, 50);
    forge.thaw(4, 0, 7);
    let report = check(&forge);
    assert!(!report.damaged());
    assert_eq!((report.thawed.in_log.ranges, report.thawed.in_log.bytes), (2, 57));
    assert_one(&forge, Severity::Note, "57 bytes of files, in 2 ranges, are in the thaw log", &["content", "hole"]);
    forge.lose(4, 7, 3);
    let report = check(&forge);
    assert!(report.damaged());
    assert_eq!((report.thawed.lost.ranges, report.thawed.lost.bytes), (1, 3));
    let lost = findings(&forge).into_iter().find(|(severity, _, _)| *severity == Severity::Lost).unwrap();
    assert!(lost.1.contains("3 bytes of files, in 1 ranges, are lost"), "{}", lost.1);
    assert_eq!(lost.2, ["hole"]);
    let image = Image::open(forge.build() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    assert_eq!(image.thawed_count().unwrap(), report.thawed);
}

//= format-spec.md#8.9
//= type=test
//# Ranges of one inode never overlap.
#[test]
fn thawed_ranges_that_contradict_the_inodes_or_one_another_are_found() {
    let lose = |ranges: &[(u64, u64, u64)]| {
        let mut forge = three_files();
        ranges.iter().for_each(|&(inode, offset, length)| forge.lose(inode, offset, length));
        forge
    };
    let message = |forge: &Forge, words: &str| {
        let all = findings(forge);
        assert!(all.iter().any(|(_, message, _)| message.contains(words)), "{all:#?}");
    };
    message(&lose(&[(2, 0, 100), (2, 99, 2)]), "its thawed ranges overlap at offset 99");
    assert!(open(&lose(&[(2, 0, 100), (2, 99, 2)])).seek(InodeId(2), 0, SeekTo::Hole).is_err());
    message(&lose(&[(2, 9_999, 2)]), "inode 2: its thawed range at offset 9999 ends after the file");
    message(&lose(&[(99, 0, 2)]), "inode 99: it has thawed ranges, but does not exist");
    message(&lose(&[(1, 0, 2)]), "inode 1: it has thawed ranges, but is not a regular file");
    assert!(findings(&lose(&[(2, 9_999, 1), (3, 0, 1), (3, 1, 1)])).iter().all(|(_, m, _)| m.contains("are lost")));
}

#[test]
fn a_range_in_a_thaw_log_that_no_head_names_is_reported() {
    let mut forge = three_files();
    forge.thaw(2, 0, 10);
    forge.clean = Some(true);
    let all = findings(&forge);
    assert!(all.iter().any(|(s, m, _)| *s == Severity::Recoverable && m.contains("the head names none")));
}

fn shared() -> Forge {
    let mut forge = three_files();
    forge.tiny.insert(1, b"few".to_vec());
    forge.tiny.insert(2, b"one".to_vec());
    let value = vec![7; 200];
    forge.xattrs.insert((1, 0), XattrSet::new(vec![Xattr { name: b"user.a".to_vec(), value }]).encode());
    for id in 10..13 {
        forge.file(1, &format!("content-{id}"), id, 10_000, ContentRef::Content(ContentId(1)));
        forge.file(1, &format!("tiny-{id}"), id + 10, 3, ContentRef::Tiny(TinyId(1)));
        forge.inodes.get_mut(&id).unwrap().xattrs = XattrRef::Set(XattrSetId(1));
    }
    forge.file(1, "only", 30, 3, ContentRef::Tiny(TinyId(2)));
    forge
}

//= format-spec.md#8.10
//= type=test
//# A program that decides what is live must start from the inodes of the head, the orphans and the inodes of all
//# snapshots, and never from the rows of this table or of the tables that inodes name.
#[test]
fn check_counts_users_by_the_inodes_and_compares_them_with_the_shares() {
    let key = |kind, id| ShareKey { kind, id };
    let content = key(ShareKind::Content, 1);
    let forge = shared();
    let counted = forge.counted_shares();
    let expected = [(content, 4), (key(ShareKind::Tiny, 1), 3), (key(ShareKind::Xattrs, 1), 3)];
    assert_eq!(counted, expected.map(|(key, users)| (key, ShareRow { users })).into());
    assert_eq!(findings(&forge), []);
    let with = |change: &dyn Fn(&mut std::collections::BTreeMap<ShareKey, ShareRow>)| {
        let mut forge = shared();
        let mut shares = forge.counted_shares();
        change(&mut shares);
        forge.shares = Some(shares);
        forge
    };
    let discard = |_: Option<ShareRow>| ();
    let one = |forge: &Forge, words: &str| assert_one(forge, Severity::Recoverable, words, &[]);
    let two = ShareRow { users: 2 };
    one(&with(&|shares| discard(shares.remove(&content))), "it has no row for content 1, which has 4 users");
    one(&with(&|shares| discard(shares.insert(content, two))), "content 1 has 4 users, but its row says 2");
    let tiny = key(ShareKind::Tiny, 2);
    one(&with(&|shares| discard(shares.insert(tiny, two))), "it has a row for tiny content 2, which has 1 user");
    let nothing = key(ShareKind::Xattrs, 9);
    one(&with(&|shares| discard(shares.insert(nothing, two))), "it has a row for xattr set 9, which has no user");
    let few = ShareRow { users: 1 };
    one(&with(&|shares| discard(shares.insert(tiny, few))), "its row (2, 2) is wrong");
}

fn orphan(content: ContentRef, size: u64) -> InodeRow {
    InodeRow { links: 0, size, content, ..inode(FileType::Regular) }
}

#[test]
fn orphans_are_users_and_have_thawed_ranges_and_nobody_sees_them() {
    let mut forge = three_files();
    forge.orphans.insert(50, orphan(ContentRef::Content(ContentId(1)), 10_000));
    forge.thaw(50, 0, 100);
    forge.lose(50, 200, 100);
    let key = ShareKey { kind: ShareKind::Content, id: 1 };
    assert_eq!(forge.counted_shares(), [(key, ShareRow { users: 2 })].into());
    let report = check(&forge);
    assert_eq!(findings(&forge), [], "what an orphan has lost affects no file");
    assert_eq!((report.thawed.in_log.bytes, report.thawed.lost.bytes), (100, 100));
    let fs = open(&forge);
    assert!(matches!(fs.attr(InodeId(50)), Err(FsError::NotFound)));
    assert!(matches!(fs.read(InodeId(50), 300, 1, &mut Vec::new()), Err(FsError::NotFound)));
    assert_eq!(fs.statfs().files, 4);
    // A name that leads to an orphan leads to nothing.
    forge.name(1, "ghost", 50, FileType::Regular);
    let fs = open(&forge);
    assert!(fs.lookup(InodeId::ROOT, b"ghost").is_err());
    assert_one(&forge, Severity::Lost, "it does not exist", &["ghost"]);
}

//= format-spec.md#8.6
//= type=test
//# A number never has a row in both tables.
#[test]
fn orphans_that_are_none_are_found() {
    let with = |id, row: InodeRow| {
        let mut forge = three_files();
        forge.orphans.insert(id, row);
        forge
    };
    let one = |forge: &Forge, words: &str, paths: &[&str]| assert_one(forge, Severity::Recoverable, words, paths);
    one(&with(2, orphan(ContentRef::None, 0)), "inode 2: it is also an orphan", &["content"]);
    let linked = InodeRow { links: 1, ..orphan(ContentRef::None, 0) };
    one(&with(50, linked), "orphan 50: its link count is 1, it should be 0", &[]);
    let lost = orphan(ContentRef::Content(ContentId(7)), 5);
    one(&with(50, lost), "orphan 50: there is no content 7", &[]);
    // An inode without a name is wrong, even if it is also an orphan.
    let mut forge = three_files();
    forge.inodes.insert(50, inode(FileType::Fifo));
    assert_one(&forge, Severity::Lost, "no directory names it", &[]);
}

#[test]
fn pack_writes_the_users_of_contents_tiny_contents_and_xattr_sets() {
    let lab = Lab::new();
    let source = lab.tree("source");
    let (large, small) = (common::noise(1, 400_000), b"few".to_vec());
    for n in 0..3 {
        common::write(source.join(format!("large-{n}")), &large);
        common::write(source.join(format!("dir/small-{n}")), &small);
    }
    common::write(source.join("alone"), common::noise(2, 400_000));
    common::write(source.join("tiny alone"), b"x");
    // Another name is not another user.
    fs::hard_link(source.join("alone"), source.join("dir/again")).unwrap();
    let with_xattrs =
        ["large-0", "dir"].iter().all(|name| common::xattrs::set(&source.join(name), b"user.long", &[7; 300]).is_ok());
    let image = lab.pack(&[], &source, "shares.floe");
    let storage = MemoryStorage::from_bytes(fs::read(image).unwrap());
    let image = Image::open(Arc::new(storage) as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    let mut cursor = image.tree(&schema::SHARES).cursor_at(&image, KeyRef::new(0, 0)).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = cursor.row() {
        rows.push((ShareKey::decode(row.key().a, row.key().b).unwrap().kind, row.ints()[0]));
        cursor.advance(&image).unwrap();
    }
    let expected = [(ShareKind::Content, 3), (ShareKind::Tiny, 3), (ShareKind::Xattrs, 2)];
    assert_eq!(rows, expected[..if with_xattrs { 3 } else { 2 }]);
    floe!("check", lab.image("shares.floe")).exits(0);
}

fn write_image(lab: &Lab, forge: &Forge) -> PathBuf {
    let storage = forge.build();
    let mut bytes = vec![0; storage.len().unwrap() as usize];
    storage.read_at(0, &mut bytes).unwrap();
    let path = lab.image("thawed.floe");
    fs::write(&path, bytes).unwrap();
    path
}

/// The image in a file; one of its files has bytes in the thaw log, another has lost some.
fn in_a_file(lab: &Lab) -> PathBuf {
    let mut forge = three_files();
    forge.raw_tables = true;
    forge.thaw(2, 100, 50);
    forge.lose(3, 9_000, 1_000);
    write_image(lab, &forge)
}

#[test]
fn commands_name_what_they_cannot_read_and_go_on() {
    let lab = Lab::new();
    let image = in_a_file(&lab);
    let json = |text: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&text).unwrap();
    let expected = serde_json::json!({"in_log": {"ranges": 1, "bytes": 50}, "lost": {"ranges": 1, "bytes": 1000}});
    assert_eq!(json(floe!("info", "--json", &image).exits(0).stdout)["thawed"], expected);
    assert_eq!(json(floe!("check", "--json", &image).exits(3).stdout)["thawed"], expected);
    let info = floe!("info", &image).exits(0).out();
    for words in ["in the thaw log  50 B in 1 range", "lost             1000 B in 1 range"] {
        assert!(info.contains(words), "{info}");
    }
    let checked = floe!("check", &image).exits(3).out();
    for words in
        ["lost: 50 bytes", "  content\n", "lost: 1000 bytes", "  subchunk\n", "in the thaw log: 50 B in 1 range"]
    {
        assert!(checked.contains(words), "{checked}");
    }
    let read = floe!("cat", &image, "content", "subchunk", "hole").exits(3).says(&["'content'", "'subchunk'"]);
    assert!(read.stdout.ends_with(&[0; 10_000]));
    let out = lab.tree("out");
    floe!("extract", &image, "-C", &out).exits(3).says(&["content", "subchunk"]);
    assert!(fs::read(out.join("hole")).unwrap() == [0; 10_000]);
    assert!(!out.join("content").exists());
    floe!("digest", &image).exits(3).says(&["'content'", "thaw log"]);
    floe!("digest", &image, "hole").exits(0);
}

#[test]
fn the_reader_of_the_specification_names_files_that_are_not_whole_in_the_image() {
    need_program!("python3");
    let lab = Lab::new();
    let image = in_a_file(&lab);
    let reader = |args: &[&std::ffi::OsStr]| {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py")).args(args);
        common::run(command)
    };
    let listed = reader(&["list".as_ref(), image.as_os_str()]).exits(0).out();
    assert!(listed.contains("./content") && listed.contains("./hole"), "{listed}");
    let out = lab.tree("out");
    let done = reader(&["extract".as_ref(), image.as_os_str(), out.as_os_str()]).exits(3);
    done.says(&[
        "content cannot be read: 50 bytes at offset 100 are in the thaw log",
        "subchunk cannot be read",
        "are lost",
    ]);
    assert!(fs::read(out.join("hole")).unwrap() == [0; 10_000]);
    assert!(!out.join("content").exists() && !out.join("subchunk").exists());
}

#[test]
fn in_a_mount_only_pages_with_thawed_bytes_cannot_be_read() {
    need_fuse!();
    const PAGE: usize = 4096;
    let lab = Lab::new();
    let mut forge = Forge::new();
    let lens = vec![128 << 10; 8];
    let bytes: Vec<u8> = (0..8).flat_map(|seed| noise(seed, 128 << 10)).collect();
    forge.superchunks = vec![bytes.chunks(128 << 10).map(|part| (part.to_vec(), None)).collect()];
    let extent = Extent::Run { first: SubchunkId(1), lens };
    forge.contents.insert((1, 0), ContentRow { length: 1 << 20, extent });
    // It is longer than its content, so that there is a hole.
    forge.file(1, "file", 2, 2 << 20, ContentRef::Content(ContentId(1)));
    forge.thaw(2, 75 * PAGE as u64 + 1000, 100);
    forge.lose(2, 300 * PAGE as u64, 1);
    let mounted = Mounted::new(&write_image(&lab, &forge), &lab.mount_point("mount"), &[]);
    let file = fs::File::open(mounted.join("file")).unwrap();
    let mut failed = Vec::new();
    for page in 0..512 {
        let mut out = [0; PAGE];
        match file.read_exact_at(&mut out, (page * PAGE) as u64) {
            Ok(()) => assert!(out == bytes.get(page * PAGE..(page + 1) * PAGE).unwrap_or(&[0; PAGE]), "page {page}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                failed.push(page);
            }
        }
    }
    assert_eq!(failed, [75, 300]);
    let seek = |at: u64| rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(at));
    assert_eq!(seek(0), Ok(1 << 20));
    assert_eq!(seek(300 * PAGE as u64), Ok(300 * PAGE as u64 + 1));
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(1 << 20)), Ok(300 * PAGE as u64));
}

/// The forged image, with a bit flipped in the only leaf of a table.
fn with_damaged_leaf(forge: &Forge, table: &'static schema::Table) -> Arc<MemoryStorage> {
    let storage = forge.build();
    let image = Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    let Some((ChildRef::Block { id, .. }, 1)) = image.tree(table).root else { panic!("it has one leaf") };
    let located = image.locate(id).unwrap().unwrap();
    let place = image.superchunk(located.superchunk).unwrap().unwrap().place;
    storage.flip(place.stored_at(place.offset) + u64::from(place.stored_len) / 2, 1).unwrap();
    storage
}

#[test]
fn where_the_table_of_thawed_ranges_is_damaged_no_bytes_are_given_that_may_be_old() {
    let mut forge = three_files();
    forge.raw_tables = true;
    forge.thaw(2, 4000, 1000);
    let storage = with_damaged_leaf(&forge, &schema::THAWED) as Arc<dyn Storage>;
    let report = care::check(storage.clone(), &CheckOptions::default(), &()).unwrap();
    let lost = report.findings.iter().find(|f| f.severity == Severity::Lost).unwrap();
    assert!(lost.message.contains("which bytes of these files are not in the image is not known"), "{}", lost.message);
    assert!(lost.paths.iter().any(|path| path == b"content"));
    let image = Image::open(storage, ImageOptions::default()).unwrap();
    let fs = Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() });
    assert!(fs.read(InodeId(2), 4000, 1, &mut Vec::new()).is_err());
}

#[test]
fn damage_to_the_shares_or_the_orphans_hits_no_file() {
    let mut forge = shared();
    forge.raw_tables = true;
    forge.orphans.insert(50, orphan(ContentRef::Content(ContentId(1)), 10_000));
    for table in [&schema::SHARES, &schema::ORPHANS] {
        let storage = with_damaged_leaf(&forge, table) as Arc<dyn Storage>;
        let report = care::check(storage.clone(), &CheckOptions::default(), &()).unwrap();
        assert!(report.damaged());
        assert!(report.findings.iter().all(|f| f.paths.is_empty()), "{report:#?}");
        let table = report.findings.iter().find(|f| f.table == Some(table.name)).unwrap();
        assert_eq!(table.severity, Severity::Recoverable);
        assert!(!report.findings.iter().any(|f| f.message.contains("users")), "{report:#?}");
        let image = Image::open(storage, ImageOptions::default()).unwrap();
        let fs = Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() });
        let mut out = Vec::new();
        fs.read(InodeId(2), 0, 10_000, &mut out).unwrap();
        assert!(out == bytes_of(2));
    }
}

#[test]
fn a_forged_snapshot_shows_what_the_head_shows() {
    let mut forge = three_files();
    forge.snapshots.insert(3, ("before the thaw".to_owned(), "first snow".to_owned()));
    let image = Image::open(forge.build() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    let row = image.tree(&schema::SNAPSHOTS).get(&image, KeyRef::new(3, 0)).unwrap().unwrap();
    let snapshot = SnapshotRow::decode(row.tail()).unwrap();
    assert_eq!((snapshot.view, snapshot.name.as_slice()), (image.root().view, &b"before the thaw"[..]));
    assert!(findings(&forge).iter().all(|(severity, _, _)| *severity == Severity::Note));
}
