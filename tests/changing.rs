//! Files that shrink, grow, change or vanish while they are packed, and unreadable files.
//!
//! They lie in a FUSE file system served by this test, so that each event happens at the same point of the packing each
//! time: no test depends on timing.

mod common;

use common::left_out::need_fuse;
use common::{Lab, floe, floe_command, noise, prose, run, write};
use floe::pack::filter::{Contents, Decision, Filter, FilterDir, FilterEntry, Why};
use floe::pack::{PackObserver, PackOptions};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a file does after it is opened (or before, where noted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    /// Nothing.
    Steady,
    /// Ends earlier than its size says.
    Shrinks,
    /// Has more bytes than its size says.
    Grows,
    /// Its mtime changes after it is read.
    Changes,
    /// It is listed, but does not exist.
    IsGone,
    /// It exists for stat, and no longer for open.
    Vanishes,
    /// It must not be opened.
    Forbidden,
    /// Reading fails at its second 64 KiB.
    Breaks,
    /// Has bytes although its size is 0, as in /proc.
    SaysNothing,
    /// Has more bytes than its size, before and after it is read.
    SaysLess,
    /// Its size is 0 until it is read.
    SaysLater,
    /// It is empty, and its size says so.
    Empty,
}

impl Trick {
    /// Whether no warning is expected, because all its bytes are packed and do not change.
    fn is_quiet(self) -> bool {
        matches!(self, Trick::Steady | Trick::SaysNothing | Trick::SaysLess | Trick::Empty)
    }
}

const FILES: &[(&str, Trick)] = &[
    ("a-steady", Trick::Steady),
    ("b-shrinks", Trick::Shrinks),
    ("c-grows", Trick::Grows),
    ("d-changes", Trick::Changes),
    ("e-is-gone", Trick::IsGone),
    ("f-vanishes", Trick::Vanishes),
    ("g-forbidden", Trick::Forbidden),
    ("h-breaks", Trick::Breaks),
    ("i-says-nothing", Trick::SaysNothing),
    ("j-says-less", Trick::SaysLess),
    ("k-says-later", Trick::SaysLater),
    ("l-empty", Trick::Empty),
    ("m-says-nothing", Trick::SaysNothing),
    ("z-steady-too", Trick::Steady),
];
const SIZE: usize = 300_000;
const SHORT: usize = 100_000;
const BREAK: u64 = 65_536;

struct Tricks {
    opened: Vec<AtomicBool>,
}

fn bytes(file: usize) -> Vec<u8> {
    if file.is_multiple_of(2) { noise(file as u64, SIZE) } else { prose(file as u64, SIZE) }
}

impl Tricks {
    fn file(ino: INodeNo) -> Option<(usize, Trick)> {
        let index = u64::from(ino).checked_sub(2)? as usize;
        FILES.get(index).map(|f| (index, f.1))
    }

    /// The current length of the file.
    fn size(&self, index: usize) -> usize {
        let opened = self.opened[index].load(Ordering::SeqCst);
        match (FILES[index].1, opened) {
            (Trick::Shrinks, true) | (Trick::Grows, false) => SHORT,
            (Trick::Empty, _) => 0,
            _ => SIZE,
        }
    }

    /// The size that stat reports.
    fn said_size(&self, index: usize) -> usize {
        let opened = self.opened[index].load(Ordering::SeqCst);
        match (FILES[index].1, opened) {
            (Trick::SaysNothing, _) | (Trick::SaysLater, false) => 0,
            (Trick::SaysLess, _) => SHORT,
            _ => self.size(index),
        }
    }

    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let mut attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH + Duration::from_secs(1_000_000_000),
            ctime: UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            flags: 0,
            blksize: 4096,
        };
        if ino == INodeNo::ROOT {
            return Some(attr);
        }
        let (index, trick) = Self::file(ino)?;
        attr.kind = FileType::RegularFile;
        attr.perm = 0o644;
        attr.nlink = 1;
        attr.size = self.said_size(index) as u64;
        attr.blocks = attr.size.div_ceil(512);
        if trick == Trick::Changes && self.opened[index].load(Ordering::SeqCst) {
            attr.mtime += Duration::from_secs(1);
        }
        Some(attr)
    }
}

impl Filesystem for Tricks {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = FILES.iter().position(|f| name == f.0).filter(|&i| FILES[i].1 != Trick::IsGone);
        match found.and_then(|i| self.attr(INodeNo(i as u64 + 2))) {
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
        match Self::file(ino) {
            None | Some((_, Trick::Vanishes)) => reply.error(Errno::ENOENT),
            Some((_, Trick::Forbidden)) => reply.error(Errno::EACCES),
            // The kernel must not cache, nor truncate reads to a size it remembers.
            Some(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((index, trick)) = Self::file(ino) else {
            return reply.error(Errno::ENOENT);
        };
        // From the first read on: a reader that stats between open and read still gets the old size.
        self.opened[index].store(true, Ordering::SeqCst);
        if trick == Trick::Breaks && offset + u64::from(size) > BREAK {
            if offset >= BREAK {
                return reply.error(Errno::EIO);
            }
            return reply.data(&bytes(index)[offset as usize..BREAK as usize]);
        }
        let all = bytes(index);
        let now = &all[..self.size(index)];
        let start = (offset as usize).min(now.len());
        let end = (start + size as usize).min(now.len());
        reply.data(&now[start..end]);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let files = FILES.iter().enumerate().map(|(i, f)| (INodeNo(i as u64 + 2), FileType::RegularFile, f.0));
        for (i, (ino, kind, name)) in dots.into_iter().chain(files).enumerate().skip(offset as usize) {
            if reply.add(ino, i as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn serve(at: &Path) -> BackgroundSession {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("floe-tricks".to_owned())];
    let tricks = Tricks { opened: FILES.iter().map(|_| AtomicBool::new(false)).collect() };
    fuser::spawn_mount(tricks, at, &config).expect("the test's own file system can be mounted")
}

/// Packs a fresh file system of tricks; returns standard error, and the directory it was extracted to.
fn pack_tricks(lab: &Lab, options: &[&str]) -> (String, std::path::PathBuf) {
    let at = lab.mount_point("tricks");
    let session = serve(&at);
    let image = lab.image("tricks.floe");
    let mut command = floe_command(["pack"]);
    command.args(options).arg(&at).arg(&image);
    let done = run(command);
    session.umount_and_join().expect("it can be unmounted");
    let done = done.exits(3);
    floe!("check", &image).exits(0);
    let out = lab.tree("out");
    floe!("extract", &image, "-C", &out).exits(0);
    (format!("{}{}", done.out(), done.stderr), out)
}

#[test]
fn each_file_that_changes_is_named_and_no_other() {
    need_fuse!();
    for options in [&["-j", "1"][..], &["-j", "4", "-C", "zstd:1"]] {
        let lab = Lab::new();
        let (said, _) = pack_tricks(&lab, options);
        for (name, trick) in FILES {
            assert_eq!(said.contains(name), !trick.is_quiet(), "{name} ({trick:?}) in:\n{said}");
        }
    }
}

#[test]
fn what_is_packed_of_a_changing_file_are_bytes_it_had() {
    need_fuse!();
    let lab = Lab::new();
    let (_, out) = pack_tricks(&lab, &[]);
    for (index, (name, trick)) in FILES.iter().enumerate() {
        let packed = fs::read(out.join(name));
        let all = bytes(index);
        match trick {
            Trick::Steady | Trick::Changes | Trick::SaysNothing | Trick::SaysLess | Trick::SaysLater => {
                assert!(packed.expect("it is there") == all, "{name}")
            }
            Trick::Empty => assert!(packed.expect("it is there").is_empty(), "{name}"),
            Trick::Shrinks | Trick::Grows => {
                let packed = packed.expect("it is there");
                assert!(packed.len() >= SHORT && packed == all[..packed.len()], "{name}: {} bytes", packed.len());
            }
            // Either nothing is packed of these, or only bytes that could be read.
            Trick::IsGone | Trick::Vanishes | Trick::Forbidden | Trick::Breaks => {
                if let Ok(packed) = packed {
                    assert!(packed.len() <= BREAK as usize && packed == all[..packed.len()], "{name}");
                }
            }
        }
    }
}

#[test]
fn json_names_each_file_in_an_error_and_still_ends_with_a_summary() {
    need_fuse!();
    let lab = Lab::new();
    let (said, _) = pack_tricks(&lab, &["--json"]);
    let lines: Vec<serde_json::Value> = said.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let items: Vec<_> =
        lines.iter().filter(|l| l["message_type"] == "error").filter_map(|l| l["item"].as_str()).collect();
    for (name, trick) in FILES.iter().filter(|f| !f.1.is_quiet()) {
        assert!(items.iter().any(|i| i.contains(name)), "{name} ({trick:?}) in {items:?}");
    }
    assert!(lines.iter().any(|l| l["message_type"] == "summary"));
}

#[test]
fn a_folder_that_may_not_be_read_is_named_and_the_rest_is_packed() {
    if common::is_root() {
        // The file system of tricks covers what even root cannot read.
        return common::left_out::reduced("root may read every folder");
    }
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("closed/file"), "x");
    write(source.join("open"), "x");
    let close = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    close(0);
    let done = floe!("pack", &source, lab.image("x.floe"));
    close(0o755);
    done.exits(3).says(&["closed"]);
    assert!(floe!("ls", lab.image("x.floe")).exits(0).out().contains("open"));
}

#[test]
fn files_of_proc_that_say_they_are_empty_are_packed_with_their_bytes() {
    let lab = Lab::new();
    let files = ["/proc/version", "/proc/filesystems", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/ostype"];
    let image = lab.image("proc.floe");
    let mut command = floe_command(["pack"]);
    command.args(files).arg(&image);
    run(command).exits(0);
    for file in files {
        let name = file.rsplit('/').next().expect("a name");
        let packed = floe!("cat", &image, name).exits(0).stdout;
        assert!(!packed.is_empty() && packed == fs::read(file).expect("it can be read"), "{file}");
    }
}

/// Replaces a directory by a link to elsewhere after it was seen and before it is opened.
struct Swap {
    victim: PathBuf,
    aside: PathBuf,
    elsewhere: PathBuf,
}

impl Filter for Swap {
    fn decide(&self, entry: &FilterEntry<'_>) -> Decision<'_> {
        if entry.path == b"victim" {
            fs::rename(&self.victim, &self.aside).expect("it can be renamed");
            symlink(&self.elsewhere, &self.victim).expect("a link");
        }
        Decision::Take(Why::Default)
    }

    fn enter(&self, _: &FilterDir<'_>) -> Contents<'_> {
        Contents::All
    }
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl PackObserver for Warnings {
    fn warning(&self, path: &[u8], message: &str) {
        self.0.lock().expect("nobody panicked").push(format!("{}: {message}", String::from_utf8_lossy(path)));
    }
}

#[test]
fn a_directory_that_becomes_a_link_before_it_is_opened_is_not_followed() {
    let lab = Lab::new();
    let (source, elsewhere) = (lab.tree("source"), lab.tree("elsewhere"));
    write(source.join("victim/inside"), "inside");
    write(source.join("z"), "z");
    write(elsewhere.join("secret"), "secret");
    let (victim, aside) = (source.join("victim"), lab.path("trees/aside"));
    let filter = Arc::new(Swap { victim, aside, elsewhere });
    let options = PackOptions { filter, ..PackOptions::default() };
    let warnings = Warnings::default();
    let image = lab.image("x.floe");
    floe::pack::pack(&[source], &image, &options, &warnings).expect("it is packed");
    let said = warnings.0.into_inner().expect("nobody panicked");
    assert!(said.len() == 1 && said[0].starts_with("victim: cannot open the directory"), "{said:?}");
    let listed = floe!("ls", "-R", &image).exits(0).out();
    assert!(listed.contains("victim") && !listed.contains("secret") && !listed.contains("inside"), "{listed}");
}

/// Calls `F` when the last name of the source was seen and before any file is opened. The source is so small that it is
/// one batch, and readers start with it only after the walk has ended.
struct AtLast<F>(F);

impl<F: Fn() + Send + Sync> Filter for AtLast<F> {
    fn decide(&self, entry: &FilterEntry<'_>) -> Decision<'_> {
        if entry.path == b"z-last" {
            (self.0)();
        }
        Decision::Take(Why::Default)
    }

    fn enter(&self, _: &FilterDir<'_>) -> Contents<'_> {
        Contents::All
    }
}

/// Packs, and calls `change` between the walk and the reading; returns the image and the warnings.
fn packed_while(lab: &Lab, source: &Path, change: impl Fn() + Send + Sync + 'static) -> (PathBuf, Vec<String>) {
    write(source.join("z-last"), "z");
    let options = PackOptions { filter: Arc::new(AtLast(change)), ..PackOptions::default() };
    let (image, warnings) = (lab.image("x.floe"), Warnings::default());
    floe::pack::pack(&[source.to_owned()], &image, &options, &warnings).expect("it is packed");
    (image, warnings.0.into_inner().expect("nobody panicked"))
}

#[test]
fn a_name_keeps_no_bytes_of_a_file_that_took_another_name_of_the_same_file() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("a"), "the file with two names");
    fs::hard_link(source.join("a"), source.join("b")).expect("a second name");
    let (a, new) = (source.join("a"), lab.path("trees/new"));
    write(&new, "another file, saved over the first name");
    let (image, said) = packed_while(&lab, &source, move || fs::rename(&new, &a).expect("it can be renamed"));
    assert!(said.iter().any(|line| line.starts_with("a: another file has its name by now")), "{said:?}");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(floe!("cat", &image, "b").exits(0).out(), "the file with two names");
}

#[test]
fn a_file_whose_first_name_is_gone_when_it_is_read_is_packed_by_its_other_names() {
    let lab = Lab::new();
    let source = lab.tree("source");
    // All its names together are smaller than a batch (1 MiB), so no reader starts before the walk has ended.
    let bytes = noise(1, 200 << 10);
    write(source.join("a"), &bytes);
    fs::hard_link(source.join("a"), source.join("b")).expect("a second name");
    fs::hard_link(source.join("a"), source.join("c")).expect("a third name");
    let a = source.join("a");
    let (image, said) = packed_while(&lab, &source, move || fs::remove_file(&a).expect("it can be removed"));
    assert!(said.len() == 1 && said[0].starts_with("a: cannot open it"), "{said:?}");
    let out = lab.path("out");
    floe!("extract", &image, "-C", &out).exits(0);
    use std::os::unix::fs::MetadataExt;
    let inode = |name: &str| out.join(name).metadata().expect("it is there").ino();
    assert_eq!(inode("b"), inode("c"));
    assert!(fs::read(out.join("c")).expect("it can be read") == bytes);
}

#[test]
fn bytes_of_a_private_file_that_took_the_name_of_a_public_one_are_not_packed() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("a"), "for everybody");
    let (a, new) = (source.join("a"), lab.path("trees/new"));
    write(&new, "my secret");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("chmod");
    let (image, said) = packed_while(&lab, &source, move || fs::rename(&new, &a).expect("it can be renamed"));
    assert!(said.len() == 1 && said[0].starts_with("a: another file has its name by now"), "{said:?}");
    let out = floe!("extract", &image, "--stdout").exits(0).out();
    assert_eq!(out, "z");
}

#[test]
fn a_file_that_was_saved_anew_after_it_was_seen_is_packed_and_told_of() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("a"), "the old text");
    let (a, new) = (source.join("a"), lab.path("trees/new"));
    write(&new, "the new text, which is longer");
    let (image, said) = packed_while(&lab, &source, move || fs::rename(&new, &a).expect("it can be renamed"));
    assert!(said.len() == 1 && said[0].starts_with("a: it changed while it was read"), "{said:?}");
    assert_eq!(floe!("cat", &image, "a").exits(0).out(), "the new text, which is longer");
}
