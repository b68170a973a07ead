//! The nasty tree: one of everything that once caused an error when a tree was packed.
//!
//! Whatever the file system cannot hold (large attributes on ext4, devices without root) is left out with a message,
//! never silently. The tree is the same each time, except for owners and for what was left out.

use super::left_out::{is_root, left_out, reduced};
use super::{noise, prose, xattrs};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, makedev, mkdirat, mknodat, openat, statat,
    utimensat,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How much of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Without the files of several MiB and the large directory.
    Small,
    /// Everything, about 45 MiB.
    Full,
}

/// Only the files with strange names, in the directory `names` of `root`; the longest names have 255 bytes.
pub fn names(root: &Path) {
    Builder { root }.names();
}

/// Lays out the nasty tree in the empty directory `root`.
pub fn build(root: &Path, extent: Extent) {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64) - 2;
    let tree = Builder { root };
    tree.sizes(extent);
    tree.sparse();
    tree.equal_and_linked();
    tree.symlinks();
    tree.special();
    tree.names();
    tree.directories(extent);
    tree.deep();
    tree.attributes();
    tree.owners_and_modes();
    tree.times();
    // Making an entry changes its directory's time, and a file with another time may be linked anywhere: so this comes
    // last.
    let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    stamp(&root.expect("the root is there"), b"root", &(began..began + 3600));
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

struct Builder<'a> {
    root: &'a Path,
}

impl Builder<'_> {
    fn folder(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        path
    }

    fn sizes(&self, extent: Extent) {
        let dir = self.folder("sizes");
        let mut sizes = vec![0, 1, 127, 128, 511, 512, 513, 4095, 4096, 4097, 32 * KIB];
        let borders: &[usize] =
            if extent == Extent::Full { &[8 * KIB, 128 * KIB, 4 * MIB] } else { &[8 * KIB, 128 * KIB] };
        sizes.extend(borders.iter().flat_map(|&b| [b - 1, b, b + 1]));
        for (i, size) in sizes.into_iter().enumerate() {
            put(&dir.join(format!("random-{size}")), &noise(i as u64, size));
            put(&dir.join(format!("prose-{size}")), &prose(i as u64, size));
            // Written zeros are data, not a hole.
            put(&dir.join(format!("zeros-{size}")), &vec![0; size]);
        }
        let large = if extent == Extent::Full { 9 * MIB } else { 900 * KIB };
        put(&dir.join("random-large"), &noise(99, large));
        put(&dir.join("pattern-of-19-bytes"), &b"nineteen bytes long".repeat(large / 4 / 19));
        let program = fs::read("/proc/self/exe").expect("the test's own program can be read");
        put(
            &dir.join("program"),
            &program[..program.len().min(if extent == Extent::Full { 3 * MIB } else { 300 * KIB })],
        );
        let packed = zstd::bulk::compress(&prose(7, MIB), 3).expect("zstd compresses");
        put(&dir.join("already-compressed.zst"), &packed);
    }

    fn sparse(&self) {
        let dir = self.folder("sparse");
        let file = |name: &str, size: u64, data: &[(u64, usize)]| {
            let file = File::create(dir.join(name)).expect("a new file");
            file.set_len(size).unwrap_or_else(|e| panic!("a sparse file of {size} bytes: {e}"));
            for &(at, len) in data {
                file.write_all_at(&noise(at ^ size, len), at).expect("a sparse file can be written");
            }
        };
        let m = MIB as u64;
        file("leading-hole", m + 5000, &[(m, 5000)]);
        file("middle-hole", 3 * m, &[(0, 70_000), (2 * m, MIB)]);
        file("trailing-hole", 2 * m, &[(0, 10_000)]);
        file("holes-at-both-ends", 2 * m, &[(m, 4096)]);
        file("all-hole", 5 * m + 3, &[]);
        file("one-byte-hole", 1, &[]);
        file("tiny-hole", 300, &[]);
        file("tiny-data-behind-hole", 8192 + 100, &[(8192, 100)]);
        file("comb", 64 * 16 * 1024, &(0..64).map(|i| (i * 16 * 1024, 4096)).collect::<Vec<_>>());
        file("hole-of-4-gib-and-a-byte", (4 << 30) + 1, &[(4 << 30, 1)]);
        file("terabyte-of-nothing", 1 << 40, &[]);
        file("byte-behind-a-terabyte", (1 << 40) + 1, &[(1 << 40, 1)]);
        // A range that was allocated but never written is a hole for SEEK_DATA.
        let file = File::create(dir.join("preallocated")).expect("a new file");
        file.write_all_at(&noise(5, 6000), 0).expect("a file can be written");
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, m) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => panic!("fallocate: {e}"),
        }
    }

    fn equal_and_linked(&self) {
        let dir = self.folder("equal");
        let bytes = noise(1234, 200 * KIB);
        for name in ["one", "two", "three"] {
            put(&dir.join(name), &bytes);
        }
        put(&dir.join("one-byte-in-front"), &[b"x", bytes.as_slice()].concat());
        put(&dir.join("one-byte-less"), &bytes[..bytes.len() - 1]);
        put(&dir.join("tiny-one"), b"the same few bytes");
        put(&dir.join("tiny-two"), b"the same few bytes");
        let dir = self.folder("links");
        let other = self.folder("links-elsewhere");
        for (name, bytes) in [("large", noise(4321, 50 * KIB)), ("tiny", b"few".to_vec()), ("empty", Vec::new())] {
            let path = dir.join(name);
            put(&path, &bytes);
            fs::hard_link(&path, dir.join(format!("{name}-again"))).expect("hard links work");
            fs::hard_link(&path, other.join(name)).expect("hard links work");
        }
        fs::hard_link(dir.join("large"), self.root.join("a-link-before-all-others")).expect("hard links work");
    }

    fn symlinks(&self) {
        let dir = self.folder("symlinks");
        let link = |target: &[u8], name: &str| {
            symlink(OsStr::from_bytes(target), dir.join(name)).unwrap_or_else(|e| panic!("symlink {name}: {e}"));
        };
        link(b"nothing/there", "dangling");
        link(b"/etc/passwd", "absolute");
        link(b"../../../../../../etc/passwd", "up-and-out");
        link(b"loop-b", "loop-a");
        link(b"loop-a", "loop-b");
        link(b".", "self");
        link(b"../sizes", "to-a-folder");
        link(b"not\xff\xfeutf-8\n", "strange-target");
        link(b"x", "short");
        link("é".repeat(60).as_bytes(), "120-bytes");
        // ext4 stores a target and a zero in one block; other file systems store less than PATH_MAX - 1.
        let longest = [4095, 4000, 1023].into_iter().find(|&n| {
            let target = [b"t/".repeat(n / 2), b"t".repeat(n % 2)].concat();
            symlink(OsStr::from_bytes(&target), dir.join("longest")).is_ok()
        });
        if longest != Some(4095) {
            reduced("the file system holds no symlink of 4095 bytes");
        }
        fs::hard_link(dir.join("short"), dir.join("short-again")).expect("hard links to symlinks work");
    }

    fn special(&self) {
        let dir = self.folder("special");
        let node = |name: &str, kind, device: (u32, u32)| {
            let made = mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o640), makedev(device.0, device.1));
            made.unwrap_or_else(|e| panic!("mknod {name}: {e}"));
        };
        node("fifo", FileType::Fifo, (0, 0));
        node("socket", FileType::Socket, (0, 0));
        fs::hard_link(dir.join("fifo"), dir.join("fifo-again")).expect("hard links to fifos work");
        if !is_root() {
            return left_out("device nodes need root");
        }
        if mknodat(CWD, dir.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).is_err()
        {
            return left_out("device nodes are not allowed here");
        }
        node("disk", FileType::BlockDevice, (8, 17));
        node("large-numbers", FileType::CharacterDevice, (4095, 1_048_575));
        node("large-minor", FileType::BlockDevice, (259, 300));
    }

    fn names(&self) {
        let dir = self.folder("names");
        let long = [b'n'; 255];
        let mut long_binary: Vec<u8> = (1..=255).filter(|&b| b != b'/').collect();
        long_binary.push(0xff);
        let names: &[&[u8]] = &[
            b"not-utf8-\xff\xfe\x80",
            b"half-a-character-\xc3",
            "zusammengesetzt-ü".as_bytes(),
            "zerlegt-u\u{308}".as_bytes(),
            b"new\nline",
            b"tab\tand\rreturn",
            b"quote\"and'quote",
            b"back\\slash",
            b"\\012",
            b"a space",
            b" ",
            b"-rf",
            b"--help",
            b"*",
            b"?",
            b"[a-z]",
            b"$HOME",
            b"`true`",
            b"#comment",
            b"!not",
            b"a,comma",
            b"a:colon",
            b"...",
            b"..dots",
            b".hidden",
            b"\x01\x1b[31m",
            b"CaSe",
            b"case",
            &long,
            &long_binary,
        ];
        for (i, name) in names.iter().enumerate() {
            put(&dir.join(OsStr::from_bytes(name)), &prose(i as u64, 20 * i));
        }
        // Names that sort differently as paths than as strings.
        for name in ["sort", "sort-", "sort.d", "sort0"] {
            fs::create_dir(dir.join(name)).expect("a new folder");
            put(&dir.join(name).join("file"), name.as_bytes());
        }
    }

    fn directories(&self, extent: Extent) {
        let dir = self.folder("directories");
        for name in ["empty", "empty-too", "one"] {
            fs::create_dir(dir.join(name)).expect("a new folder");
        }
        put(&dir.join("one/file"), b"alone");
        let many = dir.join("many");
        fs::create_dir(&many).expect("a new folder");
        for i in 0..if extent == Extent::Full { 3000 } else { 400 } {
            put(&many.join(format!("entry-with-a-long-common-name-{i:06}")), format!("{i}").as_bytes());
        }
        let folders = dir.join("many-folders");
        for i in 0..60 {
            fs::create_dir_all(folders.join(format!("{i}"))).expect("a new folder");
        }
    }

    /// A path of more than 5,000 bytes, longer than any system call accepts at once.
    fn deep(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = rustix::fs::open(self.root, flags, Mode::empty()).expect("the root is there");
        for depth in 0..26 {
            let name = format!("deep-{depth:02}-{}", "x".repeat(192));
            mkdirat(&dir, name.as_str(), Mode::from_raw_mode(0o755)).expect("a new folder");
            dir = openat(&dir, name.as_str(), flags, Mode::empty()).expect("the new folder");
        }
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&dir, "at-the-bottom", new, Mode::from_raw_mode(0o644)).expect("a new file");
        File::from(file).write_all(&prose(3, 3000)).expect("a file can be written");
        rustix::fs::symlinkat("at-the-bottom", &dir, "link").expect("a new link");
    }

    fn attributes(&self) {
        let dir = self.folder("xattrs");
        let file = |name: &str| {
            let path = dir.join(name);
            put(&path, name.as_bytes());
            path
        };
        let path = file("user");
        if xattrs::set(&path, b"user.short", b"value") == Err(Errno::OPNOTSUPP) {
            return left_out("the file system has no extended attributes");
        }
        let must = |path: &Path, name: &[u8], value: &[u8]| {
            xattrs::set(path, name, value).unwrap_or_else(|e| panic!("{}: {e}", name.escape_ascii()));
        };
        must(&path, b"user.empty", b"");
        must(&path, b"user.binary", &(0..=255).collect::<Vec<u8>>());
        must(&path, b"user.not-utf8-\xff", b"\xff\n\0");
        must(&path, format!("user.{}", "n".repeat(250)).as_bytes(), b"longest name");
        let path = file("inline");
        must(&path, b"user.x", b"at most 128 bytes in all");
        let path = file("inline-too");
        must(&path, b"user.x", b"at most 128 bytes in all");
        for name in ["shared-set-1", "shared-set-2"] {
            must(&file(name), b"user.long", &prose(1, 500));
        }
        let path = file("many");
        let held =
            (0..200).take_while(|i| xattrs::set(&path, format!("user.a{i:03}").as_bytes(), &[*i]).is_ok()).count();
        if held < 200 {
            reduced(&format!("the file system holds {held} attributes on a file, not 200"));
        }
        let path = file("large");
        let largest = [60_000, 30_000, 3_500, 1_000]
            .into_iter()
            .find(|&n| xattrs::set(&path, b"user.large", &noise(1, n)).is_ok());
        if largest != Some(60_000) {
            reduced(&format!("the file system holds attributes of {largest:?} bytes, not 60000"));
        }
        let folder = dir.join("folder");
        fs::create_dir(&folder).expect("a new folder");
        must(&folder, b"user.on-a-folder", b"yes");
        self.acls(&dir);
        if !is_root() {
            return left_out("trusted and security attributes need root");
        }
        let path = file("trusted");
        must(&path, b"trusted.overlay.opaque", b"y");
        must(&folder, b"trusted.on-a-folder", b"yes");
        let link = dir.join("link");
        symlink("nowhere", &link).expect("a new link");
        must(&link, b"trusted.on-a-link", b"yes");
        let path = file("capability");
        // vfs_cap_data, version 2, effective, cap_net_raw permitted.
        let mut capability = [0u8; 20];
        capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
        must(&path, b"security.capability", &capability);
    }

    fn acls(&self, dir: &Path) {
        // posix_acl_xattr: version 2, then tag, permissions, id.
        let acl = |entries: &[(u16, u16, u32)]| {
            let mut out = 2u32.to_le_bytes().to_vec();
            for (tag, permissions, id) in entries {
                out.extend_from_slice(&tag.to_le_bytes());
                out.extend_from_slice(&permissions.to_le_bytes());
                out.extend_from_slice(&id.to_le_bytes());
            }
            out
        };
        const NO_ID: u32 = u32::MAX;
        let wide = acl(&[
            (1, 7, NO_ID),
            (2, 5, 1234),
            (2, 6, 70_000),
            (4, 4, NO_ID),
            (8, 7, 99),
            (16, 7, NO_ID),
            (32, 1, NO_ID),
        ]);
        let path = dir.join("acl");
        put(&path, b"access for some");
        if let Err(e) = xattrs::set(&path, b"system.posix_acl_access", &wide) {
            return left_out(&format!("ACLs: {e}"));
        }
        let folder = dir.join("acl-folder");
        fs::create_dir(&folder).expect("a new folder");
        xattrs::set(&folder, b"system.posix_acl_access", &wide).expect("ACLs work");
        let default = acl(&[(1, 7, NO_ID), (4, 5, NO_ID), (8, 6, 4242), (16, 7, NO_ID), (32, 0, NO_ID)]);
        xattrs::set(&folder, b"system.posix_acl_default", &default).expect("default ACLs work");
        put(&folder.join("inherits"), b"an ACL");
    }

    fn owners_and_modes(&self) {
        let dir = self.folder("modes");
        for mode in [0, 0o001, 0o200, 0o400, 0o444, 0o644, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7000, 0o7777]
        {
            // Files that we cannot read ourselves would not be packed.
            if !is_root() && mode & 0o400 == 0 {
                continue;
            }
            let path = dir.join(format!("file-{mode:04o}"));
            put(&path, format!("{mode:o}").as_bytes());
            chmod(&path, mode);
            if is_root() || mode & 0o500 == 0o500 {
                let path = dir.join(format!("folder-{mode:04o}"));
                fs::create_dir(&path).expect("a new folder");
                chmod(&path, mode);
            }
        }
        if !is_root() {
            return left_out("other owners need root");
        }
        let dir = self.folder("owners");
        let ids = [
            (0, 0),
            (1000, 1000),
            (65_534, 65_535),
            (70_000, 1),
            (1 << 31, (1 << 31) - 1),
            (u32::MAX - 1, u32::MAX - 1),
        ];
        for (uid, gid) in ids {
            let path = dir.join(format!("{uid}-{gid}"));
            put(&path, b"owned");
            own(&path, uid, gid);
            // A change of owner clears setuid, so the mode is set after it.
            chmod(&path, 0o6755);
            let link = dir.join(format!("link-{uid}-{gid}"));
            symlink("x", &link).expect("a new link");
            own(&link, uid, gid);
            let folder = dir.join(format!("folder-{uid}-{gid}"));
            fs::create_dir(&folder).expect("a new folder");
            own(&folder, uid, gid);
            chmod(&folder, 0o3770);
        }
    }

    fn times(&self) {
        let dir = self.folder("times");
        let times: &[(i64, i64)] = &[
            (0, 0),
            (0, 1),
            (-1, 999_999_999),
            (-1, 0),
            (-86_400 * 365 * 60, 123_456_789),
            (i64::from(i32::MIN), 0),
            (i64::from(i32::MAX), 999_999_999),
            (i64::from(i32::MAX) + 1, 5),
            (i64::from(u32::MAX) + 1, 0),
            (15_032_385_535, 999_999_999), // the last second of ext4
            (1_700_000_000, 1_000),
            (253_402_300_800, 7), // the year 10000, where the file system has it
        ];
        for (seconds, nanoseconds) in times {
            let path = dir.join(format!("{seconds}.{nanoseconds:09}"));
            put(&path, b"then");
            set_times(&path, *seconds, *nanoseconds);
        }
        let link = dir.join("link");
        symlink("x", &link).expect("a new link");
        set_times(&link, -5, 5);
    }
}

/// Writes a new file with an mtime that depends only on its name.
fn put(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.as_mut().unwrap_or_else(|e| panic!("cannot create {}: {e}", path.display()));
    file.write_all(bytes).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    let (seconds, nanoseconds) = time_of(path.file_name().expect("files have names").as_bytes());
    set_times(path, seconds, nanoseconds);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap_or_else(|e| panic!("chmod {mode:o}: {e}"));
}

fn own(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap_or_else(|e| panic!("chown {uid}:{gid}: {e}"));
}

/// Sets both times of `path` itself, not of a link's target.
pub fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    set_times_at(CWD, path, seconds, nanoseconds);
}

fn set_times_at(dir: impl std::os::fd::AsFd, name: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|e| panic!("utimensat {seconds}.{nanoseconds}: {e}"));
}

/// Replaces all times of creation by times that depend on the names, the deepest first.
fn stamp(dir: &OwnedFd, name: &[u8], just_now: &Range<i64>) {
    let list = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    for entry in Dir::new(list.expect("a folder can be read")).expect("a folder can be read") {
        let entry = entry.expect("a folder entry");
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).expect("what is listed is there");
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = openat(dir, name, flags, Mode::empty()).expect("a folder opens");
            stamp(&below, name.to_bytes(), just_now);
        } else if just_now.contains(&stat.st_mtime) {
            let (seconds, nanoseconds) = time_of(name.to_bytes());
            set_times_at(dir, Path::new(OsStr::from_bytes(name.to_bytes())), seconds, nanoseconds);
        }
    }
    let (seconds, nanoseconds) = time_of(name);
    set_times_at(dir, Path::new("."), seconds, nanoseconds);
}

fn time_of(name: &[u8]) -> (i64, i64) {
    let hash = name.iter().fold(7u32, |h, &b| h.wrapping_mul(31).wrapping_add(b.into()));
    (1_400_000_000 + i64::from(hash % 300_000_000), i64::from(hash % 1_000_000_000))
}
