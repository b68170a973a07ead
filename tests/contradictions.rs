//! Forged images: every checksum in them is right, but their content is wrong, or made to keep a program busy. `check`
//! reports what is wrong; `check`, extraction and digest all come to an end.

#[path = "common/forge.rs"]
mod forge;

use floe::care::{self, CheckOptions, CheckReport, Severity};
use floe::format::clear::ClearList;
use floe::format::frame::FrameKind;
use floe::format::ids::{ContentId, InodeId, LogOffset, SubchunkId, SuperchunkId};
use floe::format::limits::LOG_START;
use floe::format::params::Params;
use floe::format::recipe::Recipe;
use floe::format::rows::{ContentRef, ContentRow, Extent, FileType};
use floe::fs::extract::{ExtractObserver, ExtractOptions, extract};
use floe::fs::{Fs, FsOptions, digest};
use floe::meta::{Image, ImageOptions};
use floe::pack::{PackObserver, PackOptions, pack};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use forge::{Forge, inode, noise, piece, with_recipe};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Far more than any of these needs, and far less than following them would take.
const SOON: Duration = Duration::from_secs(60);

fn check(storage: &Arc<MemoryStorage>) -> CheckReport {
    let began = Instant::now();
    let options = CheckOptions { jobs: 2, ..CheckOptions::default() };
    let report = care::check(storage.clone() as Arc<dyn Storage>, &options, &()).unwrap();
    assert!(began.elapsed() < SOON, "check took {:?}", began.elapsed());
    report
}

fn open(storage: &Arc<MemoryStorage>) -> Arc<Fs> {
    let image = Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    Fs::new(Arc::new(image), FsOptions { readahead: 0, ..FsOptions::default() })
}

struct NoWarnings;

impl PackObserver for NoWarnings {
    fn warning(&self, path: &[u8], message: &str) {
        panic!("{}: {message}", String::from_utf8_lossy(path));
    }
}

struct Silent;

impl ExtractObserver for Silent {
    fn warning(&self, _: &[u8], _: &str) {}
    fn error(&self, _: &[u8], _: &str) {}
}

/// Extracts and digests; both must end. Returns whether each succeeded.
fn go_through(storage: &Arc<MemoryStorage>) -> (bool, bool) {
    let began = Instant::now();
    let fs = open(storage);
    let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let summary = extract(&fs, &[], target.path(), &ExtractOptions::default(), &Silent).unwrap();
    let digest = digest(&fs, InodeId::ROOT);
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    (summary.errors == 0, digest.is_ok())
}

/// Exactly one finding contains these words, and it names these paths.
#[track_caller]
fn assert_one(report: &CheckReport, words: &str, paths: &[&str]) {
    let all: Vec<_> = report.findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0].message.contains(words), "{}", all[0].message);
    let named: Vec<_> = all[0].paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(named, paths);
}

//= format-spec.md#5.2
//= type=test
//# A piece never names the composed bytes of another subchunk, but always bytes of its stored part, so the depth is
//# one.
#[test]
fn a_forged_image_that_is_right_has_no_findings() {
    let storage = with_recipe().build();
    let report = check(&storage);
    assert_eq!(report.findings, []);
    assert_eq!((report.subchunks_verified, report.superchunks_read, report.names), (4, 3, 4));
    assert_eq!(go_through(&storage), (true, true));
}

#[test]
fn a_composed_subchunk_is_lost_with_what_it_is_made_of() {
    let storage = with_recipe().build();
    // The first byte of the second superchunk's data.
    let image = Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    let place = image.superchunk(SuperchunkId(2)).unwrap().unwrap().place;
    storage.flip(place.stored_at(place.offset), 1).unwrap();
    let report = check(&storage);
    let named: Vec<_> = report.findings.iter().flat_map(|f| &f.paths).map(|p| String::from_utf8_lossy(p)).collect();
    assert_eq!(named, ["plain-2", "composed"], "{:#?}", report.findings);
    // What is composed of the damaged superchunk is lost, too, and is counted.
    assert_eq!((report.subchunks_verified, report.subchunks_lost), (2, 2));
}

//= format-spec.md#5.2
//= type=test
//# A piece never names the composed bytes of another subchunk, but always bytes of its stored part, so the depth is
//# one.
#[test]
fn a_piece_of_a_composed_subchunk_is_of_what_is_stored_of_it() {
    let mut forge = with_recipe();
    // Subchunk 4 is composed of 8100 bytes, of which it stores 100.
    let stored = forge.superchunks[2][1].0.clone();
    let recipe = Recipe::new(vec![piece(4, 20, 80), piece(5, 0, 3)]).unwrap();
    let bytes = [&stored[20..], b"own"].concat();
    forge.superchunks[2].push((b"own".to_vec(), Some((recipe, bytes.clone()))));
    forge.file(1, "of-composed", 21, 83, ContentRef::Subchunk(SubchunkId(5)));
    let storage = forge.build();
    assert_eq!(check(&storage).findings, []);
    let fs = open(&storage);
    let mut read = Vec::new();
    fs.read(fs.resolve(b"of-composed").unwrap().inode, 0, 83, &mut read).unwrap();
    assert_eq!(read, bytes);
    // A piece cannot refer to bytes after the stored part, although the composed subchunk is longer.
    let recipe = Recipe::new(vec![piece(4, 21, 80), piece(5, 0, 3)]).unwrap();
    forge.superchunks[2][2].1.as_mut().unwrap().0 = recipe;
    assert_one(&check(&forge.build()), "1 of 3 subchunks in superchunk 3", &["of-composed"]);
}

#[test]
fn a_recipe_that_gives_other_bytes_is_found() {
    let mut forge = with_recipe();
    let pieces = vec![piece(1, 1001, 2000), piece(2, 0, 6000), piece(4, 0, 100)];
    forge.superchunks[2][1].1.as_mut().unwrap().0 = Recipe::new(pieces).unwrap();
    assert_one(&check(&forge.build()), "1 of 2 subchunks in superchunk 3 have the wrong content hash", &["composed"]);
    let pieces = vec![piece(1, 4000, 2000), piece(2, 0, 6000), piece(4, 0, 100)];
    forge.superchunks[2][1].1.as_mut().unwrap().0 = Recipe::new(pieces).unwrap();
    assert_one(&check(&forge.build()), "1 of 2 subchunks", &["composed"]);
}

#[test]
fn recipes_refer_to_no_more_superchunks_than_the_image_allows() {
    let mut forge = with_recipe();
    forge.max_sources = 1;
    let report = check(&forge.build());
    let all: Vec<_> = report.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert!(all.iter().any(|message| message.contains("refer to more than 1 other superchunks")), "{all:?}");
}

//= format-spec.md#5.2
//= type=test
//# The recipes of one superchunk must not refer to more than `max_sources` other superchunks, and must not make more
//# than 256 MiB.
#[test]
fn composed_subchunks_of_more_than_256_mib_in_a_superchunk_are_found() {
    let mut forge = Forge::new();
    let small = noise(9, 1024);
    let recipe = Recipe::new(vec![piece(1, 0, 1024); 1024]).unwrap();
    let composed = (Vec::new(), Some((recipe, small.repeat(1024))));
    forge.superchunks = vec![vec![(small, None)], vec![composed; 257]];
    let report = check(&forge.build());
    let all: Vec<_> = report.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert!(all[0].contains("more than 268435456 bytes"), "{all:?}");
    assert!(all[1].contains("1 of 257 subchunks"), "{all:?}");
}

/// Offsets of the first stored byte of the map's frames.
fn map_frames(storage: &Arc<MemoryStorage>) -> Vec<u64> {
    let image = Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    let frames = image.log().scan(LogOffset(LOG_START)).map(Result::unwrap);
    frames.filter(|frame| frame.kind == FrameKind::MAP_BLOCK).map(|frame| frame.offset.0 + 64).collect()
}

#[test]
fn a_lost_leaf_of_the_map_loses_its_composed_subchunks_and_nothing_else() {
    let mut forge = with_recipe();
    // Enough superchunks and recipes for leaves that hold only one kind.
    let part = noise(7, 600);
    for n in 0..300u32 {
        let pieces = vec![piece(1, n, 100), piece(2, 7 * n, 900)];
        let composed =
            [&forge.superchunks[0][0].0[n as usize..][..100], &forge.superchunks[1][0].0[7 * n as usize..][..900]];
        let recipe = Some((Recipe::new(pieces).unwrap(), composed.concat()));
        forge.superchunks.push(vec![(part[..n as usize + 1].to_vec(), None), (Vec::new(), recipe)]);
        let (plain, made) = (u64::from(5 + 2 * n), u64::from(6 + 2 * n));
        forge.file(1, &format!("whole-{n}"), 1000 + plain, u64::from(n) + 1, ContentRef::Subchunk(SubchunkId(plain)));
        forge.file(1, &format!("made-{n}"), 1000 + made, 1000, ContentRef::Subchunk(SubchunkId(made)));
    }
    let storage = forge.build();
    assert_eq!(check(&storage).findings, []);
    let (mut lost_none, mut lost_some) = (0, 0);
    for at in map_frames(&storage) {
        storage.flip(at, 1).unwrap();
        let report = check(&storage);
        assert!(report.damaged());
        let lost: Vec<_> = report.findings.iter().filter(|finding| finding.severity == Severity::Lost).collect();
        let named: Vec<_> = lost.iter().flat_map(|f| &f.paths).map(|p| String::from_utf8_lossy(p)).collect();
        assert!(named.iter().all(|path| path.starts_with("made-") || path == "composed"), "{named:?}");
        assert!(lost.iter().all(|f| f.message.contains("in a block of the map that is lost")), "{lost:#?}");
        let fs = open(&storage);
        for n in 0..300 {
            let read = |path: &str| {
                let attr = fs.resolve(path.as_bytes()).unwrap();
                fs.read(attr.inode, 0, attr.size as usize, &mut Vec::new())
            };
            read(&format!("whole-{n}")).unwrap();
            let path = format!("made-{n}");
            assert_eq!(read(&path).is_err(), named.iter().any(|named| *named == path), "{path}");
        }
        *(if named.is_empty() { &mut lost_none } else { &mut lost_some }) += 1;
        storage.flip(at, 1).unwrap();
    }
    assert!(lost_none > 2 && lost_some > 2, "{lost_none} {lost_some}");
}

#[test]
fn a_leaf_of_the_map_with_recipes_is_written_twice_where_that_costs_little() {
    let mut forge = with_recipe();
    let storage = forge.build();
    let frames = map_frames(&storage);
    assert_eq!(frames.len(), 2);
    for at in frames {
        storage.flip(at, 1).unwrap();
        let report = check(&storage);
        assert!(report.damaged() && report.findings.iter().all(|f| f.severity < Severity::Lost), "{report:#?}");
        storage.flip(at, 1).unwrap();
    }
    // Without recipes the clear lists have all information of the leaf.
    forge.superchunks[2].truncate(1);
    forge.inodes.remove(&20);
    forge.dirents.remove(&(1, b"composed".to_vec()));
    assert_eq!(map_frames(&forge.build()).len(), 1);
}

#[test]
fn a_reader_written_from_the_specification_puts_composed_subchunks_together() {
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        return;
    }
    let mut forge = with_recipe();
    forge.raw_tables = true;
    // Rows of several recipes, with pieces that continue one another, go back, and change between sources.
    for n in 0..200u32 {
        let id = 5 + u64::from(n);
        let own = noise(n as u8, 30 + n as usize % 3);
        let (one, two) = (&forge.superchunks[0][0].0, &forge.superchunks[1][0].0);
        let at = (7 * n % 900) as usize;
        let bytes =
            [&own[..10], &one[at..at + 200], &two[at..at + 90], &one[at + 200..at + 300], &own[10..30], &two[..9]];
        let pieces = vec![
            piece(id, 0, 10),
            piece(1, at as u32, 200),
            piece(2, at as u32, 90),
            piece(1, at as u32 + 200, 100),
            piece(id, 10, 20),
            piece(2, 0, 9),
        ];
        let recipe = (Recipe::new(pieces).unwrap(), bytes.concat());
        forge.superchunks[2].push((own, Some(recipe)));
        forge.file(1, &format!("made-{n}"), 100 + id, 429, ContentRef::Subchunk(SubchunkId(id)));
    }
    let storage = forge.build();
    assert_eq!(check(&storage).findings, []);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (image, out) = (dir.path().join("image"), dir.path().join("out"));
    std::fs::write(&image, storage.to_bytes()).unwrap();
    std::fs::create_dir(&out).unwrap();
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py");
    let done = std::process::Command::new("python3").arg(reader).arg("extract").args([&image, &out]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let made = |n: usize| &forge.superchunks[2][2 + n].1.as_ref().unwrap().1;
    for n in 0..200 {
        assert!(&std::fs::read(out.join(format!("made-{n}"))).unwrap() == made(n), "made-{n}");
    }
    assert!(std::fs::read(out.join("composed")).unwrap() == forge.superchunks[2][1].1.as_ref().unwrap().1);
}

#[test]
fn recipes_that_multiply_end_soon() {
    let mut forge = Forge::new();
    // Each of these two hundred is a megabyte made from one kilobyte, and takes little more than its entry in a clear
    // list.
    let small = noise(9, 1024);
    let recipe = Recipe::new(vec![piece(1, 0, 1024); 1024]).unwrap();
    let composed = small.repeat(1024);
    forge.superchunks = vec![vec![(small, None)], Vec::new()];
    forge.superchunks[1] = vec![(Vec::new(), Some((recipe, composed))); 200];
    forge.file(1, "one", 2, 1 << 20, ContentRef::Subchunk(SubchunkId(3)));
    let report = check(&forge.build());
    assert_eq!(report.findings, []);
    assert_eq!(report.subchunks_verified, 201);
}

#[test]
fn directories_that_lie_in_one_another_are_found() {
    let mut forge = Forge::new();
    forge.directory(1, "good", 2);
    forge.directory(4, "up", 3);
    forge.directory(3, "down", 4);
    // Directory 4 was made before 3 existed, so 3 was not counted in it.
    forge.inodes.get_mut(&4).unwrap().links = 3;
    let storage = forge.build();
    let report = check(&storage);
    assert!(report.findings.iter().any(|f| f.message.contains("is its own ancestor")), "{:#?}", report.findings);
    assert_eq!(go_through(&storage), (true, true), "no path leads there");
}

#[test]
fn a_directory_that_holds_the_root_is_no_way_round() {
    let mut forge = Forge::new();
    forge.directory(1, "a", 2);
    forge.name(2, "back", 1, FileType::Directory);
    let storage = forge.build();
    assert!(check(&storage).damaged());
    assert_eq!(go_through(&storage), (false, false));
}

#[test]
fn directories_with_two_names_each_do_not_double_the_work() {
    let mut forge = Forge::new();
    for level in 1..60 {
        forge.directory(level, "a", level + 1);
        forge.name(level, "b", level + 1, FileType::Directory);
    }
    forge.file(60, "deep", 100, 0, ContentRef::None);
    let storage = forge.build();
    let report = check(&storage);
    assert!(report.damaged());
    assert_eq!(go_through(&storage), (false, false));
}

#[test]
fn a_content_shared_by_many_is_gone_over_once() {
    let mut forge = Forge::new();
    forge.superchunks = vec![(0..100).map(|seed| (noise(seed, 10), None)).collect()];
    for n in 0..20_000 {
        let extent = Extent::Slice { subchunk: SubchunkId(1 + n % 100), skip: 0 };
        forge.contents.insert((1, 10 * n), ContentRow { length: 10, extent });
    }
    for n in 0..20_000 {
        forge.file(1, &format!("{n}"), 2 + n, 200_000, ContentRef::Content(ContentId(1)));
    }
    assert_eq!(check(&forge.build()).findings, []);
    // A gap in it is one finding that affects all of them, although it lists only some.
    forge.contents.remove(&(1, 500));
    let report = check(&forge.build());
    assert_eq!(report.findings.len(), 1, "{:#?}", &report.findings[..2]);
    assert_eq!(report.findings[0].paths.len() as u64 + report.findings[0].more_paths, 20_000);
    assert_eq!(report.findings[0].paths.len(), care::MAX_PATHS);
}

/// Messages and paths of all findings worse than a note.
fn told(report: &CheckReport) -> Vec<(String, Vec<String>)> {
    let findings = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
    let path = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    findings.map(|f| (f.message.clone(), f.paths.iter().map(path).collect())).collect()
}

//= format-spec.md#5
//= type=test
//# Every superchunk without the bit must be full.
#[test]
fn a_superchunk_that_is_not_full_and_does_not_say_so_is_found() {
    let mut forge = Forge::new();
    forge.says_short = false;
    // With 128 KiB more the first superchunk would have no room for the longest subchunk; the second still would.
    let full = (4 << 20) - (128 << 10) + 1;
    forge.superchunks = vec![vec![(noise(1, 1 << 20), None); 3], vec![(noise(1, 1 << 20), None); 3]];
    forge.superchunks[0].push((noise(2, full - (3 << 20)), None));
    forge.superchunks[1].push((noise(2, full - (3 << 20) - 1), None));
    let told = told(&check(&forge.build()));
    assert!(told.len() == 1 && told[0].0.contains("4063232 of 4194304 bytes"), "{told:?}");
}

#[test]
fn a_file_with_holes_whose_row_does_not_say_how_many_bytes_are_in_none_is_found() {
    let mut forge = Forge::new();
    forge.contents.insert((1, 0), ContentRow { length: 5000, extent: Extent::Hole });
    forge.file(1, "sparse", 2, 5000, ContentRef::Content(ContentId(1)));
    assert_one(&check(&forge.build()), "0 of its bytes are outside holes, but its row says 5000", &["sparse"]);
    forge.inodes.get_mut(&2).unwrap().attributes = vec![(7, vec![0])];
    assert_eq!(told(&check(&forge.build())), []);
}

//= format-spec.md#15
//= type=test
//# A subchunk shorter than chunk_min must end a file, or data before a hole, except in an
//# uneven content (8.1, tag 6).
#[test]
fn a_short_subchunk_within_data_is_found_unless_the_content_is_uneven() {
    let mut forge = Forge::new();
    forge.superchunks = vec![(1..=3).map(|seed| (noise(seed, 1000), None)).collect()];
    let row = |subchunk, length| (length, Extent::Slice { subchunk: SubchunkId(subchunk), skip: 0 });
    for (content, rows) in [(1, [row(1, 1000), row(2, 999)]), (2, [(5, Extent::Hole), row(3, 1000)])] {
        let mut at = 0;
        for (length, extent) in rows {
            forge.contents.insert((content, at), ContentRow { length, extent });
            at += length;
        }
    }
    forge.file(1, "one", 2, 1999, ContentRef::Content(ContentId(1)));
    forge.file(1, "two", 3, 1005, ContentRef::Content(ContentId(2)));
    // 1000 of its bytes are outside holes.
    forge.inodes.get_mut(&3).unwrap().attributes = vec![(7, vec![0xe8, 0x07])];
    forge.chunk_min = 1000;
    assert_eq!(told(&check(&forge.build())), []);
    forge.chunk_min = 1001;
    assert_one(&check(&forge.build()), "content 1: the subchunk at offset 0 is shorter", &["one"]);
    forge.inodes.get_mut(&2).unwrap().attributes = vec![(6, vec![1])];
    assert_eq!(told(&check(&forge.build())), []);
}

//= format-spec.md#5
//= type=test
//# Ids of subchunks and superchunks are ≥ 1 and < 2^62; both ascend, and are never used twice; a
//# superchunk written a second time (3.1, copy) keeps its id.
#[test]
fn pack_fills_every_superchunk_but_the_last_and_marks_that_one() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (tree, path) = (dir.path().join("tree"), dir.path().join("image"));
    std::fs::create_dir(&tree).unwrap();
    for n in 0..40 {
        std::fs::write(tree.join(n.to_string()), noise(n, 10_000 * usize::from(n))).unwrap();
    }
    let params = Params { superchunk_size: 1 << 20, ..Params::default() };
    pack(&[tree], &path, &PackOptions { params, ..PackOptions::default() }, &NoWarnings).unwrap();
    let storage = Arc::new(MemoryStorage::from_bytes(std::fs::read(&path).unwrap()));
    assert_eq!(told(&check(&storage)), []);
    let image = Image::open(storage as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    let frames = image.log().scan(LogOffset(LOG_START)).map(Result::unwrap);
    let supers: Vec<_> = frames.filter(|frame| frame.kind == FrameKind::SUPERCHUNK).collect();
    assert!(supers.len() > 5);
    for (n, frame) in supers.iter().enumerate() {
        assert_eq!(frame.flags.short(), n + 1 == supers.len(), "{n}");
        assert!(frame.flags.short() != params.is_full(frame.raw_len), "{n}");
    }
    let (mut next_superchunk, mut next_subchunk) = (1, 1);
    let mut last = None;
    for frame in image.log().scan(LogOffset(LOG_START)).map(Result::unwrap).filter(|f| f.kind.has_clear_list()) {
        let list = ClearList::decode(&image.log().clear_part(&frame).unwrap(), frame.raw_len).unwrap();
        let copy = last.as_ref() == Some(&list);
        if !copy {
            assert_eq!(list.superchunk.0, next_superchunk);
            next_superchunk += 1;
            for listed in &list.subchunks {
                assert_eq!(listed.id.0, next_subchunk);
                next_subchunk += 1;
            }
        }
        last = Some(list);
    }
    assert_eq!((image.root().next_superchunk, image.root().next_subchunk), (next_superchunk, next_subchunk));
}

#[test]
fn contradictions_between_names_and_inodes_are_found() {
    let one = |change: &dyn Fn(&mut Forge), words: &str, paths: &[&str]| {
        let mut forge = with_recipe();
        forge.directory(1, "folder", 30);
        forge.directory(30, "inner", 31);
        forge.file(31, "file", 32, 0, ContentRef::None);
        change(&mut forge);
        assert_one(&check(&forge.build()), words, paths);
    };
    one(&|f| f.name(30, "ghost", 29, FileType::Regular), "it does not exist", &["folder/ghost"]);
    one(&|f| f.inodes.get_mut(&32).unwrap().links = 2, "link count is 2, it should be 1", &["folder/inner/file"]);
    one(&|f| f.inodes.get_mut(&30).unwrap().links = 2, "link count is 2, it should be 3", &["folder"]);
    one(
        &|f| f.name(31, "file", 32, FileType::Symlink),
        "its type differs from the one in its directory",
        &["folder/inner/file"],
    );
    one(
        &|f| f.inodes.get_mut(&31).unwrap().parent = Some(InodeId(1)),
        "named in directory 30, but its parent is 1",
        &["folder/inner"],
    );
    one(
        &|f| {
            f.inodes.insert(40, inode(FileType::Fifo));
        },
        "no directory names it",
        &[],
    );
    one(
        &|f| f.inodes.get_mut(&11).unwrap().size = 4999,
        "it has 4999 bytes, but its subchunk 1 has 5000",
        &["plain-1"],
    );
    one(
        &|f| f.file(1, "nowhere", 50, 5, ContentRef::Subchunk(SubchunkId(999))),
        "subchunk 999 does not exist",
        &["nowhere"],
    );
    one(
        &|f| f.file(1, "no-content", 50, 5, ContentRef::Content(ContentId(7))),
        "there is no content 7",
        &["no-content"],
    );
    one(
        &|f| {
            let extent = Extent::Run { first: SubchunkId(1), lens: vec![5000, 5999] };
            f.contents.insert((1, 0), ContentRow { length: 10_999, extent });
            f.file(1, "run", 50, 10_999, ContentRef::Content(ContentId(1)));
        },
        "subchunk 2 has 6000 bytes, not 5999",
        &["run"],
    );
}
