//! The walk of the sources in path order: names of a directory sorted by their bytes, each subdirectory at its name's
//! place.
//!
//! It always works with descriptors of directories, so no path is too long and no link is followed. Neither the stack
//! nor the number of open descriptors grows with the depth. If something cannot be read, it warns and goes on; a
//! shortage of descriptors ends it.

use super::dirs::{DirError, Directory, Opened, is_shortage};
use super::files::{Entry, FileJob, Meta, ctime, mtime, stamp};
use super::filter::{Contents, Filter, FilterDir, FilterEntry};
use super::own::Own;
use super::source::Source;
use super::xattrs::{At, xattrs_of};
use super::{PackError, PackObserver, PackOptions};
use crate::format::rows::{FileType, Time, XattrSet};
use crate::format::sums;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Number of bytes of directory entries read at once.
const LISTING: usize = 32 << 10;
const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why the walk ended early.
pub(super) enum Stop {
    /// Nobody wants entries any more: the observer asked to stop, or the thread that receives entries has ended.
    Gone,
    /// Continuing would leave out something that can be read.
    Failed(PackError),
}

/// Receives the entries of a walk.
pub(super) trait Sink {
    /// Takes the next entry.
    fn entry(&mut self, entry: Entry) -> Result<(), Stop>;
}

/// Rules of a walk over sources: filter and options, and the observer.
pub(super) struct Rules<'a> {
    pub(super) filter: &'a dyn Filter,
    pub(super) options: &'a PackOptions,
    pub(super) own: &'a Own,
    pub(super) observer: &'a dyn PackObserver,
    pub(super) warnings: AtomicU64,
    /// Whether packing is over, so that every walk ends.
    pub(super) over: AtomicBool,
    /// Whether this is the walk after packing, with which the image is verified.
    pub(super) again: bool,
}

/// A directory whose entries are being walked.
struct Level {
    dir: Arc<Directory>,
    /// Descriptor of the directory; only the deepest directory that is being walked has one.
    fd: Option<Arc<OwnedFd>>,
    names: std::vec::IntoIter<Box<[u8]>>,
    /// Length of the path of the current entry ([`Walk::path`]) without this directory's name.
    before: usize,
}

/// A walk over the sources.
pub(super) struct Walk<'a> {
    rules: &'a Rules<'a>,
    sink: &'a mut dyn Sink,
    /// Whether warnings are reported. The counting walk is silent, otherwise every warning would come twice.
    aloud: bool,
    /// Path of the current entry within the image, for messages and filters.
    path: Vec<u8>,
    levels: Vec<Level>,
    /// Device and inode numbers of inodes with several links that were passed on already.
    seen: HashSet<(u64, u64)>,
    device: u64,
    /// Offset in `path` where the part that is relative to the source begins.
    relative: usize,
    listing: Vec<u8>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(rules: &'a Rules<'a>, sink: &'a mut dyn Sink, aloud: bool) -> Self {
        let (path, levels, seen) = (Vec::new(), Vec::new(), HashSet::new());
        let listing = Vec::with_capacity(LISTING);
        Walk { rules, sink, aloud, path, levels, seen, device: 0, relative: 0, listing }
    }

    /// Walks over all sources.
    pub(super) fn run(mut self, sources: &[Source]) -> Result<(), Stop> {
        if let [source] = sources
            && source.is_dir()
        {
            return self.source(b"", source);
        }
        let mut sources: Vec<&Source> = sources.iter().collect();
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        let newest = sources.iter().map(|source| mtime(&source.stat)).max().unwrap_or_default();
        let meta = root_of_several(newest, &sources, self.rules.options);
        self.sink.entry(Entry::Enter { name: Box::default(), meta })?;
        for source in sources {
            self.relative = if source.is_dir() { source.name.len() + 1 } else { 0 };
            self.source(&source.name, source)?;
        }
        self.sink.entry(Entry::Leave)
    }

    fn source(&mut self, name: &[u8], source: &Source) -> Result<(), Stop> {
        self.device = source.stat.st_dev;
        let failed = |error| Stop::Failed(PackError::io("open", &source.path, io::Error::other(error)));
        let fd = source.dir.fd().map_err(|error| match error.shortage() {
            Some(error) => shortage(source.path.as_os_str().as_bytes(), error),
            None => failed(error),
        })?;
        let before = self.push(name);
        if source.is_dir() {
            let opened = Opened { dir: source.dir.clone(), fd, stat: source.stat };
            self.enter(before, name, opened)?;
            return self.entries();
        }
        let own = self.is_own(&source.stat);
        let done = if own { Ok(()) } else { self.leaf((name, &source.at), &source.dir, &fd, source.stat) };
        self.path.truncate(before);
        done
    }

    fn entries(&mut self) -> Result<(), Stop> {
        while let Some(level) = self.levels.last_mut() {
            match level.names.next() {
                Some(name) => self.entry(&name)?,
                None => self.leave()?,
            }
        }
        Ok(())
    }

    /// Appends a name to the path, and returns the previous length.
    fn push(&mut self, name: &[u8]) -> usize {
        let before = self.path.len();
        if before > 0 && !name.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        before
    }

    fn warn(&self, message: &str) {
        if self.aloud {
            self.rules.warnings.fetch_add(1, Ordering::Relaxed);
            self.rules.observer.warning(&self.path, message);
        }
    }

    /// Reports that something cannot be read, and what that means for the image.
    fn unread(&self, what: &str, consequence: &str, error: &dyn Display) {
        let consequence = if self.rules.again { "it is not verified" } else { consequence };
        self.warn(&format!("{what}, {consequence}: {error}"));
    }

    /// Returns whether the entry belongs to the image that is being written.
    fn is_own(&self, stat: &Stat) -> bool {
        let left_out = self.rules.own.left_out(stat.st_dev, stat.st_ino);
        if let (Some(Some(note)), true) = (left_out, self.aloud) {
            self.rules.observer.note(&self.path, note);
        }
        left_out.is_some()
    }

    fn meta(&self, stat: &Stat, xattrs: XattrSet) -> Meta {
        let options = self.rules.options;
        let (uid, gid) = options.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let is_dir = FileType::of_mode(stat.st_mode) == Some(FileType::Directory);
        // The size that stat(2) reports for a directory differs between file systems, so a reproducible image leaves it
        // out.
        let size = if is_dir && options.timestamp.is_some() { 0 } else { stat.st_size as u64 };
        Meta {
            mode: stat.st_mode,
            uid,
            gid,
            size,
            rdev: stat.st_rdev,
            mtime: clamp(mtime(stat), options.timestamp),
            xattrs,
            link_key: (stat.st_nlink > 1 && !is_dir).then_some((stat.st_dev, stat.st_ino)),
            changed: ctime(stat),
            stamp: stamp(stat),
        }
    }

    fn xattrs(&self, at: At<'_>) -> XattrSet {
        if !self.aloud {
            return XattrSet::default();
        }
        xattrs_of(at, &|message| self.warn(message))
    }

    /// Enters a directory. The path ends with its name; without the name it is `before` bytes long.
    fn enter(&mut self, before: usize, name: &[u8], opened: Opened) -> Result<(), Stop> {
        let Opened { dir, fd, stat } = opened;
        let xattrs = self.xattrs(At::Open(fd.as_fd()));
        self.sink.entry(Entry::Enter { name: name.into(), meta: self.meta(&stat, xattrs) })?;
        let elsewhere = self.rules.options.one_file_system && stat.st_dev != self.device;
        let names = if elsewhere { Vec::new() } else { self.names(&dir, &fd)? };
        if let Some(above) = self.levels.last_mut() {
            above.fd = None;
        }
        self.levels.push(Level { dir, fd: Some(fd), names: names.into_iter(), before });
        Ok(())
    }

    /// Returns the names of a directory's entries that may be packed, sorted by their bytes.
    fn names(&mut self, dir: &Directory, fd: &OwnedFd) -> Result<Vec<Box<[u8]>>, Stop> {
        // Open a separate descriptor: the counting walk shares a source's descriptor, and would share its read
        // position.
        let listed = dir.pool().with_room(|| rustix::fs::openat(fd, ".", LIST, Mode::empty()));
        let mut names = match listed.and_then(|listed| list(&listed, &mut self.listing)) {
            Ok(names) => names,
            Err(error) if is_shortage(error) => return Err(shortage(&self.path, error)),
            Err(error) => {
                self.unread("cannot list it", "packed empty", &io::Error::from(error));
                Vec::new()
            }
        };
        let short = Cell::new(None);
        let contents = self.rules.filter.enter(&FilterDir {
            path: self.path.get(self.relative..).unwrap_or(&[]),
            has: &|wanted| names.binary_search_by(|name| (**name).cmp(wanted)).is_ok(),
            head: &|name, len| {
                let read = dir.pool().with_room(|| head(fd, name, len));
                short.set(short.get().or(read.as_ref().err().copied().filter(|error| is_shortage(*error))));
                read.ok()
            },
        });
        let only = match contents {
            Contents::All => None,
            Contents::Only(name) => Some(name),
        };
        if let Some(error) = short.get() {
            return Err(shortage(&self.path, error));
        }
        if let Some(only) = only {
            names.retain(|name| **name == *only);
        }
        Ok(names)
    }

    /// Leaves a directory, back to its parent.
    fn leave(&mut self) -> Result<(), Stop> {
        let Some(left) = self.levels.pop() else { return Ok(()) };
        self.sink.entry(Entry::Leave)?;
        self.path.truncate(left.before);
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let fd = match &left.fd {
            Some(below) => level.dir.fd_from_below(below),
            None => level.dir.fd(),
        };
        match fd {
            Ok(fd) => level.fd = Some(fd),
            // Nothing more is needed from it.
            Err(_) if level.names.len() == 0 => {}
            Err(error) => {
                level.names = Vec::new().into_iter();
                self.unreadable("cannot open it again", "the rest of it is left out", &error)?;
            }
        }
        Ok(())
    }

    /// Reports a warning, or ends the walk if descriptors ran out.
    fn unreadable(&self, what: &str, consequence: &str, error: &DirError) -> Result<(), Stop> {
        match error.shortage() {
            Some(error) => Err(shortage(&self.path, error)),
            None => {
                self.unread(what, consequence, error);
                Ok(())
            }
        }
    }

    fn entry(&mut self, name: &[u8]) -> Result<(), Stop> {
        // Checked here: a walk in which everything is left out, and a counting walk, learn of the end from nothing
        // else.
        if self.rules.over.load(Ordering::Relaxed) || self.rules.observer.cancelled() {
            return Err(Stop::Gone);
        }
        let Some((dir, fd)) = self.levels.last().and_then(|level| Some((level.dir.clone(), level.fd.clone()?))) else {
            return Ok(());
        };
        let before = self.push(name);
        let taken = match rustix::fs::statat(&*fd, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.takes(&stat).then_some(stat),
            Err(error) => {
                self.unread("cannot stat it", "left out", &io::Error::from(error));
                None
            }
        };
        let done = match taken {
            Some(stat) if FileType::of_mode(stat.st_mode) == Some(FileType::Directory) => {
                match dir.open_below(&fd, name) {
                    Ok(opened) => return self.enter(before, name, opened),
                    Err(error) => self.unopened(name, &fd, &stat, error),
                }
            }
            Some(stat) => self.leaf((name, name), &dir, &fd, stat),
            None => Ok(()),
        };
        self.path.truncate(before);
        done
    }

    fn takes(&self, stat: &Stat) -> bool {
        if self.is_own(stat) {
            return false;
        }
        let file_type = FileType::of_mode(stat.st_mode);
        let size = if file_type == Some(FileType::Regular) { stat.st_size as u64 } else { 0 };
        let path = self.path.get(self.relative..).unwrap_or(&[]);
        let is_dir = file_type == Some(FileType::Directory);
        self.rules.filter.decide(&FilterEntry { path, is_dir, size }).is_take()
    }

    /// Packs a directory that cannot be opened: in the image it is empty.
    fn unopened(&mut self, name: &[u8], above: &OwnedFd, stat: &Stat, error: Errno) -> Result<(), Stop> {
        self.unreadable("cannot open the directory", "packed empty", &error.into())?;
        let xattrs = self.xattrs(At::Path(&path_of(above, name)));
        self.sink.entry(Entry::Enter { name: name.into(), meta: self.meta(stat, xattrs) })?;
        self.sink.entry(Entry::Leave)
    }

    /// Passes on a file of any type but a directory. `at` is its name in `dir`, and `name` the one that it gets in the
    /// image.
    fn leaf(&mut self, (name, at): (&[u8], &[u8]), dir: &Arc<Directory>, fd: &OwnedFd, stat: Stat) -> Result<(), Stop> {
        let key = (stat.st_dev, stat.st_ino);
        let other = (name != at).then(|| at.into());
        let job = || FileJob { dir: dir.clone(), name: name.into(), at: other.clone(), stat, start: 0 };
        if stat.st_nlink > 1 && !self.seen.insert(key) {
            let alone = FileType::of_mode(stat.st_mode) == Some(FileType::Regular) && self.aloud;
            let alone = alone.then(|| {
                // Problems with its attributes were reported at its first name.
                let xattrs = xattrs_of(At::Path(&path_of(fd, at)), &|_| ());
                Box::new((self.meta(&stat, xattrs), job()))
            });
            return self.sink.entry(Entry::Link { name: name.into(), key, alone });
        }
        let meta = self.meta(&stat, self.xattrs(At::Path(&path_of(fd, at))));
        match FileType::of_mode(stat.st_mode) {
            Some(FileType::Regular) => self.sink.entry(Entry::File { meta, job: job() }),
            Some(FileType::Symlink) => match rustix::fs::readlinkat(fd, OsStr::from_bytes(at), Vec::new()) {
                Ok(target) => {
                    let target = target.into_bytes().into_boxed_slice();
                    self.sink.entry(Entry::Other { name: name.into(), meta, target })
                }
                Err(error) => {
                    self.unread("cannot read the link", "left out", &io::Error::from(error));
                    Ok(())
                }
            },
            Some(_) => self.sink.entry(Entry::Other { name: name.into(), meta, target: Box::default() }),
            None => {
                self.warn("it is of a type this system does not know, left out");
                Ok(())
            }
        }
    }
}

fn shortage(path: &[u8], error: Errno) -> Stop {
    Stop::Failed(PackError::descriptors(path, error.into()))
}

fn root_of_several(newest: Time, sources: &[&Source], options: &PackOptions) -> Meta {
    let (uid, gid) =
        options.owner.unwrap_or_else(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    Meta {
        mode: 0o040755,
        uid,
        gid,
        size: 0,
        rdev: 0,
        mtime: clamp(newest, options.timestamp),
        xattrs: XattrSet::default(),
        link_key: None,
        changed: sources.iter().map(|source| ctime(&source.stat)).max().unwrap_or_default(),
        // The root has no inode in the sources: it changes with them.
        stamp: sums::xxh3(&sources.iter().flat_map(|source| stamp(&source.stat).to_le_bytes()).collect::<Vec<_>>()),
    }
}

/// Limits a time to the requested timestamp, which is in seconds since 1970.
fn clamp(time: Time, timestamp: Option<i64>) -> Time {
    match timestamp {
        Some(secs) => time.min(Time { secs, nanos: 0 }),
        None => time,
    }
}

/// Returns a path to `name` in the directory, for calls that accept only paths.
fn path_of(dir: &OwnedFd, name: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(OsStr::from_bytes(name));
    path
}

/// Lists the names in a directory that was just opened, sorted by their bytes.
fn list(dir: &OwnedFd, buffer: &mut Vec<u8>) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads the first bytes of a regular file.
fn head(dir: &OwnedFd, name: &[u8], len: usize) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::of_mode(stat.st_mode) != Some(FileType::Regular) {
        return Err(Errno::INVAL);
    }
    let mut out = vec![0; len];
    let got = rustix::io::pread(&file, &mut out, 0)?;
    out.truncate(got);
    Ok(out)
}
