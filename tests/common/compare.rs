//! Compares two trees in everything that floe keeps: types, modes, owners, links, sizes, times, targets, devices,
//! bytes, attributes, holes and hard links. It walks by descriptors, so paths beyond PATH_MAX and any name work.

use super::xattrs;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, openat, readlinkat, seek, statat};
use rustix::io::{Errno, pread};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// What is compared besides type, size, target, bytes and hard links.
#[derive(Debug, Clone, Copy)]
pub struct What {
    /// Owner and group.
    pub owner: bool,
    /// Permission bits.
    pub mode: bool,
    /// Times of modification.
    pub mtime: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// Positions of data and holes.
    pub holes: bool,
    /// Which names are links to the same inode, and link counts.
    pub links: bool,
}

impl What {
    /// Everything.
    pub const ALL: What = What { owner: true, mode: true, mtime: true, xattrs: true, holes: true, links: true };
    /// Names, types, sizes, targets and bytes.
    pub const BYTES: What = What { owner: false, mode: false, mtime: false, xattrs: false, holes: false, links: false };
}

/// Files up to this size are read completely, holes too.
const READ_WHOLE: u64 = 32 << 20;
/// Limit of differences collected.
const ENOUGH: usize = 60;

/// Compares everything in two trees; each difference is one line.
pub fn compare(left: &Path, right: &Path) -> Vec<String> {
    compare_only(left, right, What::ALL)
}

/// Compares some properties.
pub fn compare_only(left: &Path, right: &Path, what: What) -> Vec<String> {
    let open = |path: &Path| match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(e) => panic!("cannot open {}: {e}", path.display()),
    };
    let (left, right) = (open(left), open(right));
    let mut walk = Walk { what, differences: Vec::new(), links: [BTreeMap::new(), BTreeMap::new()] };
    walk.node(&left, &right, &mut b".".to_vec());
    walk.compare_links();
    walk.differences
}

/// Panics with the differences, if there are any.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    assert_same_only(left, right, What::ALL);
}

/// Like [`assert_same`], for some properties.
#[track_caller]
pub fn assert_same_only(left: &Path, right: &Path, what: What) {
    let found = compare_only(left, right, what);
    assert!(found.is_empty(), "{} and {} differ:\n{}", left.display(), right.display(), found.join("\n"));
}

type Groups = BTreeMap<(u64, u64), BTreeSet<Vec<u8>>>;

struct Walk {
    what: What,
    differences: Vec<String>,
    links: [Groups; 2],
}

fn stat(fd: &OwnedFd) -> Result<Stat, Errno> {
    statat(fd, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
}

fn shown(path: &[u8]) -> String {
    let text = path.escape_ascii().to_string();
    if text.len() > 300 { format!("{} … ({} bytes)", &text[..300], path.len()) } else { text }
}

impl Walk {
    fn differ(&mut self, path: &[u8], why: String) {
        if self.differences.len() < ENOUGH {
            self.differences.push(format!("{}: {why}", shown(path)));
        }
    }

    fn field<T: PartialEq + std::fmt::Debug>(&mut self, path: &[u8], name: &str, left: T, right: T) {
        if left != right {
            self.differ(path, format!("{name} {left:?} became {right:?}"));
        }
    }

    fn node(&mut self, left: &OwnedFd, right: &OwnedFd, path: &mut Vec<u8>) {
        let (l, r) = match (stat(left), stat(right)) {
            (Ok(l), Ok(r)) => (l, r),
            (l, r) => return self.differ(path, format!("stat: {:?} and {:?}", l.err(), r.err())),
        };
        let kind = FileType::from_raw_mode(l.st_mode);
        if kind != FileType::from_raw_mode(r.st_mode) {
            return self.differ(path, format!("type {:o} became {:o}", l.st_mode, r.st_mode));
        }
        self.attributes(path, &l, &r);
        if self.what.xattrs {
            self.compare_xattrs(path, left, right);
        }
        match kind {
            FileType::Directory => self.directory(left, right, path),
            FileType::RegularFile => self.file(left, right, path, l.st_size as u64, r.st_size as u64),
            FileType::Symlink => {
                self.field(path, "size", l.st_size, r.st_size);
                let target = |fd| readlinkat(fd, "", Vec::new()).map(|t| t.as_bytes().escape_ascii().to_string());
                self.field(path, "target", target(left), target(right));
            }
            FileType::CharacterDevice | FileType::BlockDevice => self.field(path, "device", l.st_rdev, r.st_rdev),
            _ => {}
        }
        if kind != FileType::Directory {
            for (groups, stat) in self.links.iter_mut().zip([&l, &r]) {
                #[allow(clippy::unnecessary_cast, reason = "types of these fields depend on the architecture")]
                groups.entry((stat.st_dev as u64, stat.st_ino as u64)).or_default().insert(path.clone());
            }
        }
    }

    #[allow(clippy::unnecessary_cast, reason = "types of these fields depend on the architecture")]
    fn attributes(&mut self, path: &[u8], l: &Stat, r: &Stat) {
        let what = self.what;
        if what.mode {
            self.field(path, "mode", format!("{:o}", l.st_mode), format!("{:o}", r.st_mode));
        }
        if what.owner {
            self.field(path, "owner", (l.st_uid, l.st_gid), (r.st_uid, r.st_gid));
        }
        if what.mtime {
            let time = |s: &Stat| (s.st_mtime as i64, s.st_mtime_nsec as u32);
            self.field(path, "mtime", time(l), time(r));
        }
        // File systems that do not count subdirectories report 1 for every directory.
        let counted = |s: &Stat| FileType::from_raw_mode(s.st_mode) != FileType::Directory || s.st_nlink > 1;
        if what.links && counted(l) && counted(r) {
            self.field(path, "link count", l.st_nlink as u64, r.st_nlink as u64);
        }
    }

    fn compare_xattrs(&mut self, path: &[u8], left: &OwnedFd, right: &OwnedFd) {
        // floe's virtual attributes are not attributes of the file; SELinux's depends on where a file is.
        let kept = |name: &[u8]| !name.starts_with(b"user.floe.") && name != b"security.selinux";
        let read = |fd| {
            xattrs::all(fd).map(|mut all| {
                all.retain(|a| kept(&a.0));
                all.into_iter().collect::<BTreeMap<_, _>>()
            })
        };
        let (left, right) = match (read(left), read(right)) {
            (Ok(l), Ok(r)) => (l, r),
            (l, r) => return self.differ(path, format!("xattrs: {:?} and {:?}", l.err(), r.err())),
        };
        for name in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
            let (l, r) = (left.get(name), right.get(name));
            if l != r {
                let brief = |v: Option<&Vec<u8>>| v.map(|v| (v.len(), v[..v.len().min(32)].escape_ascii().to_string()));
                self.differ(path, format!("xattr {}: {:?} became {:?}", name.escape_ascii(), brief(l), brief(r)));
            }
        }
    }

    fn directory(&mut self, left: &OwnedFd, right: &OwnedFd, path: &mut Vec<u8>) {
        let (l, r) = match (names(left), names(right)) {
            (Ok(l), Ok(r)) => (l, r),
            (l, r) => return self.differ(path, format!("reading the directory: {:?} and {:?}", l.err(), r.err())),
        };
        for name in l.union(&r) {
            let before = path.len();
            path.push(b'/');
            path.extend_from_slice(name);
            let open =
                |dir| openat(dir, name.as_slice(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            match (l.contains(name), r.contains(name)) {
                (true, false) => self.differ(path, "is missing".to_owned()),
                (false, true) => self.differ(path, "is there, but should not be".to_owned()),
                _ => match (open(left), open(right)) {
                    (Ok(l), Ok(r)) => self.node(&l, &r, path),
                    (l, r) => self.differ(path, format!("cannot be opened: {:?} and {:?}", l.err(), r.err())),
                },
            }
            path.truncate(before);
        }
    }

    fn file(&mut self, left: &OwnedFd, right: &OwnedFd, path: &[u8], l_size: u64, r_size: u64) {
        self.field(path, "size", l_size, r_size);
        if l_size != r_size || l_size == 0 {
            return;
        }
        let (left, right) = match (reopen(left), reopen(right)) {
            (Ok(l), Ok(r)) => (l, r),
            (l, r) => return self.differ(path, format!("cannot be opened: {:?} and {:?}", l.err(), r.err())),
        };
        let (l_map, r_map) = match (data_ranges(&left), data_ranges(&right)) {
            (Ok(l), Ok(r)) => (l, r),
            (l, r) => return self.differ(path, format!("SEEK_DATA: {:?} and {:?}", l.err(), r.err())),
        };
        if self.what.holes {
            let shown = |map: &[(u64, u64)]| format!("{:x?} ({} ranges)", &map[..map.len().min(8)], map.len());
            self.field(path, "data ranges", shown(&l_map), shown(&r_map));
        }
        let ranges = if l_size <= READ_WHOLE { vec![(0, l_size)] } else { [l_map, r_map].concat() };
        for range in ranges {
            if let Err(why) = same_bytes(&left, &right, range) {
                return self.differ(path, why);
            }
        }
    }

    fn compare_links(&mut self) {
        if !self.what.links {
            return;
        }
        let [left, right] = std::mem::take(&mut self.links);
        let sets = |groups: Groups| groups.into_values().filter(|paths| paths.len() > 1).collect::<BTreeSet<_>>();
        let (left, right) = (sets(left), sets(right));
        for (set, why) in
            left.difference(&right).map(|s| (s, "are not")).chain(right.difference(&left).map(|s| (s, "are")))
        {
            let names: Vec<_> = set.iter().map(|p| shown(p)).collect();
            self.differ(b"hard links", format!("on the right, these {why} exactly the names of one file: {names:?}"));
        }
    }
}

/// Opens the file of an `O_PATH` descriptor for reading.
fn reopen(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME, Mode::empty()).or_else(|_| {
        rustix::fs::open(format!("/proc/self/fd/{}", fd.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    })
}

fn names(fd: &OwnedFd) -> Result<BTreeSet<Vec<u8>>, Errno> {
    let mut out = BTreeSet::new();
    let dir = openat(fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::new(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." && !out.insert(name) {
            return Err(Errno::EXIST);
        }
    }
    Ok(out)
}

/// The ranges `[start, end)` that SEEK_DATA and SEEK_HOLE report as data.
pub fn data_ranges(fd: &OwnedFd) -> Result<Vec<(u64, u64)>, Errno> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(out),
            Err(e) => return Err(e),
        };
        let end = seek(fd, SeekFrom::Hole(start))?;
        if end <= start {
            return Err(Errno::IO);
        }
        out.push((start, end));
        at = end;
    }
}

fn read_full(fd: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        match pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn same_bytes(left: &OwnedFd, right: &OwnedFd, (start, end): (u64, u64)) -> Result<(), String> {
    let (mut l, mut r) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = start;
    while at < end {
        let want = (end - at).min(1 << 20) as usize;
        let read = |fd, buffer: &mut [u8], side| {
            let got = read_full(fd, buffer, at).map_err(|e| format!("reading the {side} one at {at}: {e}"))?;
            if got == want {
                Ok(())
            } else {
                Err(format!("the {side} one ends at {}, not at its size", at + got as u64))
            }
        };
        read(left, &mut l[..want], "left")?;
        read(right, &mut r[..want], "right")?;
        if let Some(i) = (0..want).find(|&i| l[i] != r[i]) {
            return Err(format!("byte {} is {:#04x}, became {:#04x}", at + i as u64, l[i], r[i]));
        }
        at += want as u64;
    }
    Ok(())
}
