//! `pack --verify` compares the finished image with its sources: it finds what is wrong with the image, and does not
//! take a changed source for that.
//!
//! Faults are put into an image between packing and verifying, through the library; files that change between their two
//! readings lie in a FUSE file system served by this test. No test depends on timing.

mod common;

use common::left_out::{need_fuse, reduced};
use common::{Lab, floe, floe_command, noise, prose, run, write, xattrs};
use floe::fs::verify::{Verified, VerifyError, verify};
use floe::pack::{self, PackError, PackObserver, PackOptions};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Packs with `--verify` through the real binary; the status has to be 0. Returns the summary.
fn verified(lab: &Lab, args: &[&OsStr], image: &str) -> serde_json::Value {
    let mut command = floe_command(["pack", "--verify", "--json", "--quiet"]);
    command.args(args).arg(lab.image(image));
    let done = run(command).exits(0);
    let line = done.out().lines().last().expect("a summary").to_owned();
    let summary: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(summary["message_type"], "summary");
    let number = |name: &str| summary[name].as_u64().expect(name);
    let names = ["files", "directories", "symlinks", "specials", "hard_links"].map(number).iter().sum::<u64>() - 1;
    let checked = &summary["verified"];
    assert_eq!(checked["names"], names, "{summary}");
    assert_eq!((&checked["files"], &checked["bytes"]), (&summary["files"], &summary["bytes"]), "{summary}");
    assert_eq!((&checked["warnings"], &summary["warnings"]), (&0.into(), &0.into()), "{summary}");
    summary
}

#[test]
fn the_nasty_tree_is_verified_without_a_finding_whatever_the_options() {
    let lab = Lab::new();
    let tree = lab.small_nasty_tree();
    let variants: &[&[&str]] = &[
        &[],
        &["-j", "1", "--all-root", "--timestamp", "1000000000", "-C", "none"],
        &["--owner", "7:8", "--chunker", "fixed:4K", "--hash", "xxh3", "-C", "zstd:1"],
        &["--exclude", "*large*", "--exclude-larger-than", "100K", "--part-size", "64K", "-C", "zstd:1"],
        &["--include", "random-*", "-x", "--superchunk-size", "1M", "-C", "zstd:1"],
    ];
    for (n, options) in variants.iter().enumerate() {
        let args: Vec<&OsStr> = options.iter().map(OsStr::new).chain([tree.as_os_str()]).collect();
        let summary = verified(&lab, &args, &format!("{n}.floe"));
        assert!(summary["files"].as_u64() > Some(10), "{options:?}: {summary}");
    }
}

#[test]
fn an_image_with_recipes_is_verified() {
    let lab = Lab::new();
    let source = lab.tree("source");
    let mut bytes = noise(1, 2 << 20);
    for n in 0..8 {
        // Each file nearly repeats the one before.
        bytes.iter_mut().step_by(10_000).for_each(|byte| *byte = byte.wrapping_add(1));
        write(source.join(n.to_string()), &bytes);
    }
    let options = ["--min-match", "256", "--superchunk-size", "1M", "-C", "zstd:1"];
    let args: Vec<&OsStr> = options.iter().map(OsStr::new).chain([source.as_os_str()]).collect();
    verified(&lab, &args, "recipes.floe");
    let info = floe!("info", "--json", lab.image("recipes.floe")).exits(0).stdout;
    let info: serde_json::Value = serde_json::from_slice(&info).expect("one document");
    assert!(info["matching"]["matched"].as_u64() > Some(4 << 20), "{}", info["matching"]);
    assert_eq!(info["params"]["min_match"], 256);
}

#[test]
fn several_sources_links_to_them_and_a_list_of_names_are_verified() {
    let lab = Lab::new();
    let (one, two) = (lab.tree("one"), lab.tree("two"));
    write(one.join("a/file"), prose(1, 100_000));
    write(one.join("b/file"), prose(2, 1000));
    write(two.join("file"), noise(3, 100_000));
    symlink(two.join("file"), lab.path("trees/link")).expect("a link");
    let link = lab.path("trees/link");
    let file = two.join("file");
    let several = [one.as_os_str(), file.as_os_str(), link.as_os_str()];
    assert_eq!(verified(&lab, &several, "several.floe")["symlinks"], 1);
    let followed = [&[OsStr::new("-H")], &several[..]].concat();
    assert_eq!(verified(&lab, &followed, "followed.floe")["symlinks"], 0);
    assert_eq!(verified(&lab, &[link.as_os_str()], "alone.floe")["symlinks"], 1);
    write(lab.path("list"), "a/file\n");
    let list = lab.path("list");
    let listed = [OsStr::new("--files-from"), list.as_os_str(), one.as_os_str()];
    assert_eq!(verified(&lab, &listed, "listed.floe")["files"], 1);
}

#[test]
fn an_image_in_its_own_source_is_no_finding() {
    let lab = Lab::new();
    write(lab.image("file"), prose(1, 10_000));
    let mut command = floe_command(["pack", "--verify", ".", "./own.floe"]);
    command.current_dir(lab.path("images"));
    run(command).exits(0).says(&["compared with the sources: 1 file, 9.77 KiB"]);
    // The image that is replaced, too.
    let mut command = floe_command(["pack", "--verify", "-f", ".", "own.floe"]);
    command.current_dir(lab.path("images"));
    run(command).exits(0);
}

/// Keeps warnings; asks to stop once `stop` is set.
#[derive(Default)]
struct Observer {
    warnings: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl PackObserver for Observer {
    fn warning(&self, path: &[u8], message: &str) {
        let line = format!("{}: {message}", String::from_utf8_lossy(path));
        self.warnings.lock().expect("nobody panicked").push(line);
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Observer {
    fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().expect("nobody panicked"))
    }
}

/// Writes an image of `source`, calls `meanwhile` with the path of its file, and verifies it. If that succeeds, the
/// image gets its name; otherwise nothing may be left of it.
fn verify_after(
    lab: &Lab,
    source: &Path,
    meanwhile: impl FnOnce(&Path),
    observer: &Observer,
) -> Result<Verified, VerifyError> {
    let (sources, options) = ([source.to_owned()], PackOptions::default());
    let image = lab.image("verified.floe");
    let written = pack::write(&sources, &image, &options, observer).expect("it can be packed");
    assert!(!image.exists() && written.temporary_path().exists());
    meanwhile(&written.temporary_path());
    let verified = verify(&written, observer);
    match &verified {
        Ok(_) => {
            written.finish().expect("it gets its name");
            assert_eq!(lab.image_folder(), ["verified.floe"]);
        }
        Err(_) => {
            drop(written);
            assert_eq!(lab.image_folder(), [""; 0]);
        }
    }
    verified
}

/// One of each kind of file, with the same times wherever it is laid out.
fn lay_out(root: &Path) {
    write(root.join("a"), prose(1, 200_000));
    write(root.join("b"), noise(2, 5000));
    write(root.join("c/tiny"), "few bytes");
    symlink("a", root.join("link")).expect("a link");
    fs::hard_link(root.join("a"), root.join("x")).expect("a hard link");
    write(root.join("z"), "the last one");
    settle(root);
}

/// Gives everything the same times.
fn settle(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).expect("a directory").for_each(|entry| settle(&entry.expect("an entry").path()));
    }
    set_time(path, 1_000_000_000);
}

fn set_time(path: &Path, secs: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times can be set");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// A change of a tree that makes it differ at one path.
type Change = fn(&Path);

/// Path, words of the error, and a change of the tree that is packed into the image.
const DIFFERENCES: &[(&str, &str, Change)] = &[
    ("a", "its bytes from offset 123456 on", |t| {
        fs::File::options().write(true).open(t.join("a")).unwrap().write_all_at(b"#", 123_456).unwrap();
    }),
    ("a", "more bytes than the 199999 bytes in the image", |t| {
        fs::File::options().write(true).open(t.join("a")).unwrap().set_len(199_999).unwrap();
    }),
    ("a", "it has 200000 bytes, and 200001 in the image", |t| {
        fs::File::options().write(true).open(t.join("a")).unwrap().set_len(200_001).unwrap();
    }),
    ("c/tiny", "its bytes from offset 3 on", |t| write(t.join("c/tiny"), "few\0bytes")),
    ("b", "its permissions are 644, and 600 in the image", |t| chmod(&t.join("b"), 0o600)),
    ("c", "its permissions are 755, and 700 in the image", |t| chmod(&t.join("c"), 0o700)),
    ("b", "its time of modification is another one", |t| set_time(&t.join("b"), 1_000_000_001)),
    (".", "its time of modification is another one", |t| set_time(t, 1_000_000_001)),
    ("b", "its extended attributes are other ones", |t| xattrs::set(&t.join("b"), b"user.x", b"y").unwrap()),
    ("link", "its target is another one", |t| {
        fs::remove_file(t.join("link")).unwrap();
        symlink("b", t.join("link")).unwrap();
    }),
    ("link", "it is of another type", |t| {
        fs::remove_file(t.join("link")).unwrap();
        write(t.join("link"), "a");
    }),
    ("x", "it is no hard link to the file of its earlier names", |t| {
        let bytes = fs::read(t.join("x")).unwrap();
        fs::remove_file(t.join("x")).unwrap();
        write(t.join("x"), bytes);
    }),
    ("z", "it is not in the image", |t| fs::remove_file(t.join("z")).unwrap()),
];

/// Puts the image of `tree` in the place of the image at `path`.
fn replace_by_image_of(lab: &Lab, tree: &Path, path: &Path) {
    let other = lab.path("other.floe");
    floe!("pack", "-f", "-C", "zstd:1", tree, &other).exits(0);
    fs::write(path, fs::read(&other).expect("an image")).expect("the file can be written");
}

#[test]
fn whatever_the_image_has_otherwise_than_an_unchanged_source_is_an_error_and_no_image_is_left() {
    let lab = Lab::new();
    let source = lab.tree("source");
    lay_out(&source);
    let has_xattrs = xattrs::set(&source.join("z"), b"user.test", b"").is_ok();
    for (n, (path, words, change)) in DIFFERENCES.iter().enumerate() {
        if words.contains("extended") && !has_xattrs {
            reduced("this file system has no user attributes");
            continue;
        }
        let changed = lab.tree(&format!("changed-{n}"));
        lay_out(&changed);
        if has_xattrs {
            xattrs::set(&changed.join("z"), b"user.test", b"").expect("an attribute");
        }
        change(&changed);
        if !words.contains("time") {
            settle(&changed);
        }
        let observer = Observer::default();
        let verified = verify_after(&lab, &source, |image| replace_by_image_of(&lab, &changed, image), &observer);
        let error = verified.expect_err(words).to_string();
        let begin = format!("the image differs from '{path}': ");
        assert!(error.starts_with(&begin) && error.contains(words), "{words}: {error}");
        assert_eq!(observer.warnings(), [""; 0], "{words}");
    }
    // The same tree is no difference.
    let same = lab.tree("same");
    lay_out(&same);
    if has_xattrs {
        xattrs::set(&same.join("z"), b"user.test", b"").expect("an attribute");
    }
    let observer = Observer::default();
    let verified = verify_after(&lab, &source, |image| replace_by_image_of(&lab, &same, image), &observer);
    let verified = verified.expect("nothing differs");
    assert_eq!((verified.names, verified.files, verified.bytes), (7, 4, 200_000 + 5000 + 9 + 12));
    assert_eq!(observer.warnings(), [""; 0]);
}

#[test]
fn a_byte_that_changes_in_the_image_is_an_error_and_no_image_is_left() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("file"), noise(1, 900_000));
    let flip = |image: &Path| {
        let file = fs::File::options().read(true).write(true).open(image).expect("it opens");
        let (at, mut byte) = (500_000, [0]);
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[!byte[0]], at).expect("a byte");
    };
    let observer = Observer::default();
    let error = verify_after(&lab, &source, flip, &observer).expect_err("a byte differs");
    assert!(matches!(error, VerifyError::Unreadable { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot read 'file' back from the image: "), "{error}");
    // All of the image.
    let error = verify_after(&lab, &source, |image| fs::write(image, [0; 40_000]).expect("zeros"), &observer);
    assert!(matches!(error, Err(VerifyError::Image(_))), "{error:?}");
}

#[test]
fn what_changes_after_it_was_packed_is_a_warning_that_names_it_and_the_image_is_kept() {
    let lab = Lab::new();
    let source = lab.tree("source");
    lay_out(&source);
    write(source.join("c/removed"), "x");
    write(source.join("d/only-touched"), "x");
    write(source.join("e/was-a-file"), "x");
    let observer = Observer::default();
    let change = |_: &Path| {
        write(source.join("a"), prose(7, 200_000));
        set_time(&source.join("a"), 1_100_000_000);
        chmod(&source.join("b"), 0o600);
        fs::remove_file(source.join("c/removed")).expect("it can be removed");
        write(source.join("c/tiny"), "more bytes than before");
        // The times are as before: only ctime tells. Nothing that is packed differs.
        let metadata = fs::metadata(source.join("d/only-touched")).expect("it is there");
        fs::hard_link(source.join("d/only-touched"), lab.path("aside")).expect("a hard link");
        assert_eq!(
            fs::metadata(source.join("d/only-touched")).unwrap().modified().unwrap(),
            metadata.modified().unwrap()
        );
        fs::remove_file(source.join("e/was-a-file")).expect("it can be removed");
        write(source.join("e/was-a-file/inside"), "x");
        write(source.join("f/new"), "x");
    };
    let verified = verify_after(&lab, &source, change, &observer).expect("the image is as the sources were");
    assert_eq!(verified.files, 5, "a, b, c/tiny, d/only-touched, z");
    let said = observer.warnings();
    let changed = "it has changed since it was packed: ";
    let expected = [
        (".", "its time of modification"),
        ("a", "its time of modification"),
        ("b", "its permissions are 600, and 644 in the image"),
        ("c", "its time of modification"),
        ("c/tiny", "its time of modification"),
        ("e", "its time of modification"),
        ("e/was-a-file", "it is of another type"),
    ];
    for (path, what) in expected {
        let begin = format!("{}: {changed}{what}", path.trim_matches('.'));
        assert!(said.iter().any(|line| line.starts_with(&begin)), "{begin} in {said:#?}");
    }
    assert!(said.contains(&"c/removed: the image has it, but the sources do not have it any more".to_owned()));
    assert!(
        said.contains(&"f: it is not in the image: it was made or changed since the sources were packed".to_owned())
    );
    assert_eq!(said.len(), expected.len() + 2, "{said:#?}");
}

#[test]
fn sources_that_are_gone_are_a_warning_and_the_image_is_kept() {
    let lab = Lab::new();
    let source = lab.tree("source");
    lay_out(&source);
    let observer = Observer::default();
    let remove = |_: &Path| fs::rename(&source, lab.path("trees/elsewhere")).expect("it can be renamed");
    assert_eq!(verify_after(&lab, &source, remove, &observer).expect("it is kept"), Verified::default());
    let said = observer.warnings();
    assert!(said.len() == 1 && said[0].starts_with(": the image is not verified to its end: cannot read"), "{said:?}");
}

#[test]
fn a_verification_that_is_stopped_leaves_no_image() {
    let lab = Lab::new();
    let source = lab.tree("source");
    lay_out(&source);
    let observer = Observer::default();
    let stopped = verify_after(&lab, &source, |_| observer.stop.store(true, Ordering::SeqCst), &observer);
    assert!(matches!(stopped, Err(VerifyError::Pack(PackError::Cancelled))), "{stopped:?}");
}

#[test]
fn files_that_change_without_a_trace_as_in_proc_are_a_warning() {
    let lab = Lab::new();
    let mut command = floe_command(["pack", "--verify", "/proc/uptime", "/proc/version", "/proc/self/stat"]);
    command.arg(lab.image("proc.floe"));
    let done = run(command).exits(3).says(&["stat: it has changed since it was packed"]);
    assert!(!done.stderr.contains("version: "), "{}", done.stderr);
    floe!("check", lab.image("proc.floe")).exits(0);
}

/// What a file does when it is opened a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    /// Nothing.
    Steady,
    /// It has other bytes, and its times and size are those of before.
    Lies,
    /// It has other bytes and another mtime.
    Changes,
    /// It cannot be opened a second time.
    Vanishes,
    /// It can only be opened a second time.
    Appears,
}

const SIZE: usize = 100_000;

struct Tricks {
    files: &'static [(&'static str, Trick)],
    opened: Vec<AtomicU32>,
}

impl Tricks {
    fn file(&self, ino: INodeNo) -> Option<(usize, Trick)> {
        let index = u64::from(ino).checked_sub(2)? as usize;
        self.files.get(index).map(|file| (index, file.1))
    }

    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let mut attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH + Duration::from_secs(1_000_000_000),
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            flags: 0,
            blksize: 4096,
        };
        if ino != INodeNo::ROOT {
            let (index, trick) = self.file(ino)?;
            (attr.kind, attr.perm, attr.nlink) = (FileType::RegularFile, 0o644, 1);
            (attr.size, attr.blocks) = (SIZE as u64, SIZE.div_ceil(512) as u64);
            if trick == Trick::Changes && self.opened[index].load(Ordering::SeqCst) > 1 {
                attr.mtime += Duration::from_secs(1);
            }
        }
        Some(attr)
    }
}

impl Filesystem for Tricks {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|file| name == file.0);
        match found.and_then(|index| self.attr(INodeNo(index as u64 + 2))) {
            Some(attr) => reply.entry(&Duration::ZERO, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&Duration::ZERO, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let Some((index, trick)) = self.file(ino) else { return reply.error(Errno::ENOENT) };
        let before = self.opened[index].fetch_add(1, Ordering::SeqCst);
        match (trick, before) {
            (Trick::Vanishes, 1..) | (Trick::Appears, 0) => reply.error(Errno::EACCES),
            _ => reply.opened(FileHandle(before.into()), FopenFlags::FOPEN_DIRECT_IO),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((index, trick)) = self.file(ino) else { return reply.error(Errno::ENOENT) };
        let mut bytes = noise(index as u64, SIZE);
        if matches!(trick, Trick::Lies | Trick::Changes) && u64::from(fh) > 0 {
            bytes[SIZE - 1] ^= 1;
        }
        let start = (offset as usize).min(SIZE);
        reply.data(&bytes[start..(start + size as usize).min(SIZE)]);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let files = self.files.iter().enumerate().map(|(i, f)| (INodeNo(i as u64 + 2), FileType::RegularFile, f.0));
        for (i, (ino, kind, name)) in dots.into_iter().chain(files).enumerate().skip(offset as usize) {
            if reply.add(ino, i as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn serve(at: &Path, files: &'static [(&'static str, Trick)]) -> BackgroundSession {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("floe-tricks".to_owned())];
    let tricks = Tricks { files, opened: files.iter().map(|_| AtomicU32::new(0)).collect() };
    fuser::spawn_mount(tricks, at, &config).expect("the test's own file system can be mounted")
}

/// Packs a file system of tricks with `--verify`.
fn pack_tricks(lab: &Lab, files: &'static [(&'static str, Trick)], options: &[&str]) -> (common::Run, PathBuf) {
    let at = lab.mount_point("tricks");
    let session = serve(&at, files);
    let image = lab.image("tricks.floe");
    let mut command = floe_command(["pack", "--verify"]);
    command.args(options).arg(&at).arg(&image);
    let done = run(command);
    session.umount_and_join().expect("it can be unmounted");
    (done, image)
}

#[test]
fn other_bytes_of_a_file_whose_size_and_times_are_the_same_end_it_with_status_1_and_without_an_image() {
    need_fuse!();
    let lab = Lab::new();
    let (done, _) = pack_tricks(&lab, &[("a", Trick::Steady), ("b", Trick::Lies), ("c", Trick::Lies)], &[]);
    done.exits(1).says(&["error: the image differs from 'b': its bytes from offset 99999 on", "no image was written"]);
    assert_eq!(lab.image_folder(), [""; 0]);
}

#[test]
fn a_file_that_changes_between_its_two_readings_is_a_finding_and_one_that_was_left_out_is_named_once() {
    need_fuse!();
    const FILES: &[(&str, Trick)] = &[
        ("a-steady", Trick::Steady),
        ("b-changes", Trick::Changes),
        ("c-vanishes", Trick::Vanishes),
        ("d-appears", Trick::Appears),
        ("e-steady", Trick::Steady),
    ];
    let lab = Lab::new();
    let (done, image) = pack_tricks(&lab, FILES, &["--json"]);
    let done = done.exits(3);
    let lines: Vec<serde_json::Value> =
        done.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let items: Vec<_> = lines.iter().map(|line| line["item"].as_str().unwrap_or_default()).collect();
    assert_eq!(items, ["d-appears", "b-changes", "c-vanishes"], "{}", done.stderr);
    let summary = done.out().lines().last().expect("a summary").to_owned();
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!((&summary["warnings"], &summary["verified"]["warnings"]), (&3.into(), &2.into()));
    assert_eq!(summary["verified"]["files"], 3);
    assert_eq!(floe!("ls", &image).exits(0).out().lines().count(), 4);
    floe!("check", &image).exits(0);
}
