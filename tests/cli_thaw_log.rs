//! `check` and `info` of an image that was written to: what is in the thaw log, what is lost with it, and what is
//! reported while somebody writes.

mod common;
#[path = "common/forge.rs"]
mod forge;

use common::{Lab, Run, floe, write};
use floe::care::{self, CheckOptions, LogBesideImage, Severity};
use floe::format::block::{Key, Row};
use floe::format::ids::InodeId;
use floe::format::rows::{ContentRef, DirentRow, FileType, InodeRow};
use floe::format::schema::{DIRENTS, INODES};
use floe::format::transaction::{Counters, Operation, Thawed};
use floe::meta::{Heads, Image, ImageOptions};
use floe::storage::{Access, DirectoryFolder, FileStorage, Owner, Storage, WriterLock};
use floe::thaw::{Appended, Binding, ThawLog};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOG: u64 = 0x5eed;
const SEGMENT: u64 = 16 << 10;
const TIME: (i64, u32) = (1_700_000_000, 0);

/// An image that was written to and not closed: `dir/new` has 600 bytes in the log, `old` has 10 in its middle.
struct Open {
    lab: Lab,
    image: PathBuf,
    log: PathBuf,
    new: Appended,
}

fn thawed(inode: u64, offset: u64, len: u64, bytes: Appended) -> Operation {
    let Appended { frame, sum, .. } = bytes;
    Operation::Thawed(Thawed { inode: InodeId(inode), offset, len, frame, within: 0, sum })
}

fn named(inode: u64, dir: u64, name: &[u8], file_type: FileType, size: u64) -> [Operation; 2] {
    let parent = (file_type == FileType::Directory).then_some(InodeId(dir));
    let row = InodeRow { size, parent, content: ContentRef::None, ..forge::inode(file_type) };
    let (ints, tail) = row.encode();
    let entry = DirentRow { inode: InodeId(inode), file_type };
    [
        Operation::Put(&INODES, Row { key: Key::new(inode, 0), ints: ints.to_vec(), tail }),
        Operation::Put(&DIRENTS, Row { key: Key::named(dir, name), ints: entry.encode().to_vec(), tail: Vec::new() }),
    ]
}

fn open() -> Open {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("old"), common::prose(1, 5000));
    let image = lab.pack(&[], &source, "x.floe");
    let log = lab.image("x.floe.thaw");
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(&image, Access::ReadWrite).expect("an image"));
    let image_at_first = Image::open(storage.clone(), ImageOptions::default()).expect("an image");
    let mut heads = Heads::read(storage.clone()).expect("heads");
    heads
        .publish(|head| {
            head.epoch += 1;
            head.clean = false;
            head.thaw_log_id = LOG;
        })
        .expect("it can be written");
    let head = heads.newest().clone();
    let binding =
        Binding { uuid: head.uuid, lineage: head.lineage, generation: head.generation, root_hash: head.root_hash };
    let folder = Arc::new(DirectoryFolder::create(&log).expect("a new directory"));
    let mut thaw = ThawLog::create(folder, binding, LOG, head.epoch, SEGMENT).expect("a log");
    let new = thaw.append(&[b'n'; 600]).expect("it fits");
    let middle = thaw.append(&[b'm'; 10]).expect("it fits");
    let dir = image_at_first.root().next_inode;
    let file = dir + 1;
    let mut operations = Vec::from(named(dir, 1, b"dir", FileType::Directory, 0));
    operations.extend(named(file, dir, b"new", FileType::Regular, 600));
    operations.push(thawed(file, 0, 600, new));
    operations.push(Operation::Counters(Counters { inode: file + 1, ..Counters::of(image_at_first.root()) }));
    let end = storage.len().expect("a length");
    thaw.commit(operations, end, TIME).expect("it can be written");
    thaw.commit(vec![thawed(2, 100, 10, middle)], end, TIME).expect("it can be written");
    // This shows that everything before it is durable.
    thaw.commit(Vec::new(), end, TIME).expect("it can be written");
    Open { lab, image, log, new }
}

fn json(run: Run) -> Value {
    serde_json::from_slice(&run.stdout).expect("one document")
}

fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).expect("it opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("it is there");
    file.write_all_at(&[byte[0] ^ 0x40], at).expect("it can be written");
}

#[test]
fn a_whole_log_is_verified_and_the_files_in_it_are_named_by_the_names_it_gives_them() {
    let open = open();
    let segments = || fs::read_dir(&open.log).expect("a log").count();
    let before = segments();
    let out = floe!("check", &open.image).exits(0).out();
    assert!(out.contains("note: 610 bytes of files, in 2 ranges, are in the thaw log"), "{out}");
    assert!(out.contains("\n  dir/new\n  old\n") && out.contains("thaw log: verified"), "{out}");
    floe!("ls", &open.image).exits(0).says(&["note: ", "a writable mount shows the rest"]);
    assert_eq!(floe!("ls", "-q", &open.image).exits(0).stderr, "");
    let report = json(floe!("check", "--json", &open.image).exits(0));
    assert_eq!(report["transactions"], 3);
    assert_eq!(report["thawed"]["in_log"], serde_json::json!({ "ranges": 2, "bytes": 610 }));
    assert_eq!(report["thawed"]["lost"], serde_json::json!({ "ranges": 0, "bytes": 0 }));
    let info = floe!("info", &open.image).exits(0).out();
    assert!(info.contains("not complete without its thaw log"), "{info}");
    assert!(info.contains("thaw log         ") && info.contains("x.floe.thaw'"), "{info}");
    assert_eq!(segments(), before, "nothing was made or removed");
}

#[test]
fn written_bytes_that_are_damaged_are_lost_and_hit_their_file_alone() {
    let open = open();
    flip(&open.log.join("0000000000000000"), open.new.frame.0 + 64 + 100);
    let out = floe!("check", &open.image).exits(3).out();
    assert!(out.contains("lost: 600 bytes of files, in 1 ranges, are lost"), "{out}");
    assert!(out.contains("cut off\n  dir/new\n") && out.contains("note: 10 bytes of files"), "{out}");
    let report = json(floe!("check", "--json", &open.image).exits(3));
    assert_eq!((&report["thawed"]["lost"]["bytes"], &report["thawed"]["in_log"]["bytes"]), (&600.into(), &10.into()));
}

#[test]
fn a_damaged_transaction_is_damage_of_the_whole_log() {
    let open = open();
    let segment = open.log.join("0000000000000000");
    let bytes = fs::read(&segment).expect("a segment");
    let name = bytes.windows(3).position(|window| window == b"new").expect("the name is in a transaction");
    flip(&segment, name as u64);
    let out = floe!("check", &open.image).exits(3).out();
    assert!(out.contains("lost: the thaw log is damaged at offset"), "{out}");
}

#[test]
fn a_log_that_is_missing_or_of_another_image_is_told() {
    let open = open();
    let mine = open.lab.path("mine");
    fs::rename(&open.log, &mine).expect("another place");
    let out = floe!("check", &open.image).exits(0).out();
    assert!(out.contains("the thaw log is missing: what was written after the last checkpoint is missing"), "{out}");
    let info = floe!("info", &open.image).exits(0).out();
    assert!(info.contains("not complete: its thaw log is missing"), "{info}");
    floe!("ls", &open.image).exits(0).says(&["warning: the thaw log of", "is missing"]);

    let other = self::open();
    fs::rename(&other.log, &open.log).expect("another place");
    let out = floe!("check", &open.image).exits(0).out();
    assert!(out.contains("does not fit it: it is the log of another image"), "{out}");
    assert!(out.contains("no thaw log fits: what was written after the last checkpoint is missing"), "{out}");

    // A mode that a log must not have.
    fs::remove_dir_all(&open.log).expect("a log");
    fs::create_dir(&open.log).expect("a directory");
    let out = floe!("check", &open.image).exits(0).out();
    assert!(out.contains("is not checked here") && out.contains("mode is not 0700"), "{out}");
}

#[test]
fn while_somebody_writes_the_last_checkpoint_is_checked_and_said_to_be() {
    let open = open();
    // The log is not examined: a checker beside a writer cannot tell damage from change.
    flip(&open.log.join("0000000000000000"), open.new.frame.0 + 64 + 100);
    let file = File::options().read(true).write(true).open(&open.image).expect("it opens");
    let owner = Owner { host: "north".into(), boot: "b00t".into(), pid: 4711 };
    let writer = WriterLock::try_acquire(&file, &open.image, &owner).expect("it can be locked");
    let out = floe!("check", &open.image).exits(0).out();
    assert!(out.contains("process 4711 on host north writes the image: this is its last checkpoint"), "{out}");
    let report = json(floe!("check", "--json", &open.image).exits(0));
    assert_eq!((&report["writer"], &report["transactions"]), (&"process 4711 on host north".into(), &Value::Null));
    let info = json(floe!("info", "--json", &open.image).exits(0));
    assert_eq!(info["writer"], "process 4711 on host north");
    let info = floe!("info", &open.image).exits(0).out();
    assert!(info.contains("process 4711 on host north writes it; this is its last checkpoint"), "{info}");
    let listed = floe!("ls", &open.image).exits(0).says(&["process 4711 on host north", "its last checkpoint"]);
    assert_eq!(listed.out(), "old\n");
    floe!("cat", &open.image, "old").exits(0).says(&["its last checkpoint"]);
    drop(writer);
    floe!("check", &open.image).exits(3);
}

#[test]
fn ranges_in_a_log_that_is_missing_are_damage_and_name_their_files() {
    let mut forge = forge::Forge::new();
    forge.file(1, "file", 2, 10_000, ContentRef::None);
    forge.thaw(2, 4000, 1000);
    forge.lose(2, 7000, 1);
    let check = |beside: &LogBesideImage| {
        let storage = forge.build() as Arc<dyn Storage>;
        care::check_with_log(storage, beside, &CheckOptions::default(), &()).expect("it can be checked")
    };
    let told = |beside: &LogBesideImage, words: &str| {
        let report = check(beside);
        let found = report.findings.iter().find(|finding| finding.message.contains(words)).cloned();
        let found = found.unwrap_or_else(|| panic!("'{words}' is not in {:#?}", report.findings));
        assert_eq!(report.thawed.in_log.bytes, 1000);
        assert_eq!(found.paths, [b"file".to_vec()]);
        found.severity
    };
    assert_eq!(told(&LogBesideImage::None, "in a missing thaw log"), Severity::Lost);
    assert_eq!(told(&LogBesideImage::Unknown, "are in the thaw log"), Severity::Note);
    assert_eq!(told(&LogBesideImage::Writer("process 7".into()), "are in the thaw log"), Severity::Note);
}
