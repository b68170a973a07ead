//! Walking the sources in path order: the names of a directory by their bytes, a subdirectory where its name stands.
//!
//! Works with directory descriptors all the way, so no path is too long and no link is followed. What cannot be read is
//! a warning; the walk goes on.

use super::files::{Batch, Entry, FileJob, Meta, Segment, mtime};
use super::filter::{Contents, Filter, FilterDir, FilterEntry};
use super::own::Own;
use super::read::ReadJob;
use super::xattrs::xattrs_of;
use super::{PackError, PackObserver, PackOptions};
use crate::format::rows::{FileType, Time, XattrSet};
use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A batch ends with so many entries, or when its files have so many bytes.
const BATCH_ENTRIES: usize = 128;
const BATCH_BYTES: u64 = 1 << 20;
/// Segments a reader may be ahead of the filler within one batch.
const SEGMENTS: usize = 2;

/// Something named on the command line, opened.
pub(super) struct Source {
    /// Its name in the root, if there are several or it is no directory.
    name: Vec<u8>,
    path: PathBuf,
    parent: Arc<OwnedFd>,
    parent_name: PathBuf,
    stat: Stat,
}

impl Source {
    pub(super) fn open_all(paths: &[PathBuf]) -> Result<Vec<Source>, PackError> {
        if paths.is_empty() {
            return Err(PackError::NoSource);
        }
        let mut names = HashSet::new();
        paths
            .iter()
            .map(|path| {
                let source = Source::open(path)?;
                if !names.insert(source.name.clone()) {
                    return Err(PackError::SameName { name: String::from_utf8_lossy(&source.name).into_owned() });
                }
                Ok(source)
            })
            .collect()
    }

    fn open(path: &Path) -> Result<Source, PackError> {
        // A source given as a link to a directory means the directory, as with tar and rsync's trailing slash.
        let followed = rustix::fs::stat(path).map_err(|error| PackError::io("read", path, error.into()))?;
        let is_dir = FileType::of_mode(followed.st_mode) == Some(FileType::Directory);
        let (parent_name, name) = match (is_dir, path.parent(), path.file_name()) {
            (false, Some(parent), Some(name)) => (parent, name),
            (_, _, name) => (path, name.unwrap_or(OsStr::new("root"))),
        };
        let parent_path = if parent_name.as_os_str().is_empty() { Path::new(".") } else { parent_name };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent_path, flags, Mode::empty())
            .map_err(|error| PackError::io("open", parent_path, error.into()))?;
        let stat = if is_dir {
            followed
        } else {
            rustix::fs::lstat(path).map_err(|error| PackError::io("stat", path, error.into()))?
        };
        Ok(Source {
            name: name.as_bytes().to_vec(),
            path: path.to_owned(),
            parent: Arc::new(parent),
            parent_name: parent_path.to_owned(),
            stat,
        })
    }

    /// Whether it is no directory but this file, by device and inode.
    pub(super) fn is_inode(&self, id: Option<(u64, u64)>) -> bool {
        !self.is_dir() && id == Some((self.stat.st_dev, self.stat.st_ino))
    }

    fn is_dir(&self) -> bool {
        FileType::of_mode(self.stat.st_mode) == Some(FileType::Directory)
    }
}

/// A walk over sources.
pub(super) struct Scan<'a> {
    sources: &'a [Source],
    filter: &'a dyn Filter,
    options: &'a PackOptions,
    own: &'a Own,
    observer: &'a dyn PackObserver,
    pub(super) warnings: AtomicU64,
}

/// The other side of the queue has gone.
struct Gone;

/// Where entries go.
trait Sink {
    fn entry(&mut self, entry: Entry) -> Result<(), Gone>;
}

/// Only counts.
#[derive(Default)]
struct Count {
    files: u64,
    bytes: u64,
}

impl Sink for Count {
    fn entry(&mut self, entry: Entry) -> Result<(), Gone> {
        if let Entry::File { meta, .. } = entry {
            self.files += 1;
            self.bytes += meta.size;
        }
        Ok(())
    }
}

/// Makes batches for readers and filler.
struct Batches<'a> {
    batch: Batch,
    bytes: u64,
    readers: &'a Sender<ReadJob>,
    filler: &'a Sender<(Arc<Batch>, Receiver<Segment>)>,
}

impl Sink for Batches<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), Gone> {
        if let Entry::File { meta, .. } = &entry {
            self.bytes += meta.size;
        }
        self.batch.entries.push(entry);
        if self.batch.entries.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }
}

impl Batches<'_> {
    fn flush(&mut self) -> Result<(), Gone> {
        let batch = Arc::new(std::mem::take(&mut self.batch));
        self.bytes = 0;
        let (segments, received) = crossbeam_channel::bounded(SEGMENTS);
        if batch.entries.iter().any(|entry| matches!(entry, Entry::File { .. })) {
            self.readers.send((batch.clone(), segments)).map_err(|_| Gone)?;
        }
        self.filler.send((batch, received)).map_err(|_| Gone)
    }
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        sources: &'a [Source],
        options: &'a PackOptions,
        own: &'a Own,
        observer: &'a dyn PackObserver,
    ) -> Self {
        Scan { sources, filter: &*options.filter, options, own, observer, warnings: AtomicU64::new(0) }
    }

    /// Walks, handing batches to readers and filler in path order, until the end or until nobody takes them.
    pub(super) fn run(&self, readers: &Sender<ReadJob>, filler: &Sender<(Arc<Batch>, Receiver<Segment>)>) {
        let mut batches = Batches { batch: Batch::default(), bytes: 0, readers, filler };
        if self.walk(&mut batches, true).is_ok() {
            // Who no longer takes the last batch has failed, and says so itself.
            let _ = batches.flush();
        }
    }

    /// Walks only to tell the observer how much there is.
    pub(super) fn count(&self, aloud: bool) {
        let mut count = Count::default();
        if self.walk(&mut count, aloud).is_ok() {
            self.observer.total(count.files, count.bytes);
        }
    }

    fn walk(&self, sink: &mut dyn Sink, aloud: bool) -> Result<(), Gone> {
        let mut walk = Walk { scan: self, sink, aloud, path: Vec::new(), seen: HashSet::new(), device: 0, relative: 0 };
        if let [source] = self.sources
            && source.is_dir()
        {
            walk.device = source.stat.st_dev;
            return walk.directory(b"", source.parent.clone(), &source.stat, &source.path.join("."));
        }
        let mut sources: Vec<&Source> = self.sources.iter().collect();
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        let newest = sources.iter().map(|source| mtime(&source.stat)).max().unwrap_or_default();
        walk.sink.entry(Entry::Enter { name: Box::default(), meta: root_of_several(newest, self.options) })?;
        for source in sources {
            walk.device = source.stat.st_dev;
            if source.is_dir() {
                walk.relative = source.name.len() + 1;
                walk.directory(&source.name, source.parent.clone(), &source.stat, &source.path.join("."))?;
            } else {
                walk.relative = 0;
                walk.leaf(&source.name, &source.parent, source.stat, &source.parent_name)?;
            }
        }
        walk.sink.entry(Entry::Leave)
    }

    fn warn(&self, path: &[u8], message: &str) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
        self.observer.warning(path, message);
    }
}

fn root_of_several(newest: Time, options: &PackOptions) -> Meta {
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
    }
}

/// No file is younger than the timestamp that was asked for.
fn clamp(time: Time, timestamp: Option<i64>) -> Time {
    match timestamp {
        Some(secs) => time.min(Time { secs, nanos: 0 }),
        None => time,
    }
}

struct Walk<'a> {
    scan: &'a Scan<'a>,
    sink: &'a mut dyn Sink,
    /// Whether warnings are told: the counting walk keeps quiet, or everything would be said twice.
    aloud: bool,
    /// Path of the entry at hand within the image, for messages and filters.
    path: Vec<u8>,
    /// Inodes with several links that were handed on.
    seen: HashSet<(u64, u64)>,
    device: u64,
    /// Where in `path` the part begins that is relative to the source.
    relative: usize,
}

impl Walk<'_> {
    fn warn(&self, message: &str) {
        if self.aloud {
            self.scan.warn(&self.path, message);
        }
    }

    /// Whether it belongs to the image that is being written.
    fn is_own(&self, stat: &Stat) -> bool {
        let left_out = self.scan.own.left_out(stat.st_dev, stat.st_ino);
        if let (Some(Some(note)), true) = (left_out, self.aloud) {
            self.scan.observer.note(&self.path, note);
        }
        left_out.is_some()
    }

    fn meta(&self, stat: &Stat, xattrs: XattrSet) -> Meta {
        let options = self.scan.options;
        let (uid, gid) = options.owner.unwrap_or((stat.st_uid, stat.st_gid));
        Meta {
            mode: stat.st_mode,
            uid,
            gid,
            size: self.size(stat),
            rdev: stat.st_rdev,
            mtime: clamp(mtime(stat), options.timestamp),
            xattrs,
            link_key: (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino)),
        }
    }

    /// What stat(2) says of a directory differs between file systems: it is left out where a reproducible image is wanted.
    fn size(&self, stat: &Stat) -> u64 {
        let is_dir = FileType::of_mode(stat.st_mode) == Some(FileType::Directory);
        if is_dir && self.scan.options.timestamp.is_some() { 0 } else { stat.st_size as u64 }
    }

    fn xattrs(&self, at: &Path) -> XattrSet {
        if !self.aloud {
            return XattrSet::default();
        }
        xattrs_of(at, &|message| self.warn(message))
    }

    /// A directory and everything in it. `dir` is its own descriptor.
    fn directory(&mut self, name: &[u8], dir: Arc<OwnedFd>, stat: &Stat, at: &Path) -> Result<(), Gone> {
        let before = self.path.len();
        if !name.is_empty() {
            if before > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
        }
        let names = match names(&dir) {
            Ok(names) => names,
            Err(error) => {
                self.warn(&format!("cannot list it, packed empty: {error}"));
                Vec::new()
            }
        };
        let mut meta = self.meta(stat, self.xattrs(at));
        meta.link_key = None;
        self.sink.entry(Entry::Enter { name: name.into(), meta })?;
        let elsewhere = self.scan.options.one_file_system && stat.st_dev != self.device;
        if !elsewhere {
            let contents = self.scan.filter.enter(&FilterDir {
                path: self.path.get(self.relative..).unwrap_or(&[]),
                has: &|wanted| names.binary_search_by(|name| (**name).cmp(wanted)).is_ok(),
                head: &|name, len| head(&dir, name, len),
            });
            let only = match contents {
                Contents::All => None,
                Contents::Only(name) => Some(name),
            };
            let prefix = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*dir)));
            for name in names.iter().filter(|name| only.is_none_or(|only| ***name == *only)) {
                self.entry(name, &dir, &prefix)?;
            }
        }
        self.sink.entry(Entry::Leave)?;
        self.path.truncate(before);
        Ok(())
    }

    fn entry(&mut self, name: &[u8], dir: &Arc<OwnedFd>, prefix: &Path) -> Result<(), Gone> {
        let os_name = OsStr::from_bytes(name);
        let stat = rustix::fs::statat(&**dir, os_name, AtFlags::SYMLINK_NOFOLLOW);
        let before = self.path.len();
        if before > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let taken = match stat {
            Err(error) => {
                self.warn(&format!("cannot stat it, left out: {}", io::Error::from(error)));
                None
            }
            Ok(stat) if self.is_own(&stat) => None,
            Ok(stat) => {
                let file_type = FileType::of_mode(stat.st_mode);
                let size = if file_type == Some(FileType::Regular) { stat.st_size as u64 } else { 0 };
                let entry = FilterEntry {
                    path: self.path.get(self.relative..).unwrap_or(&[]),
                    is_dir: file_type == Some(FileType::Directory),
                    size,
                };
                self.scan.filter.decide(&entry).is_take().then_some(stat)
            }
        };
        self.path.truncate(before);
        match taken {
            Some(stat) if FileType::of_mode(stat.st_mode) == Some(FileType::Directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(&**dir, os_name, flags, Mode::empty()) {
                    Ok(child) => self.directory(name, Arc::new(child), &stat, &prefix.join(os_name)),
                    Err(error) => self.unopened(name, &stat, prefix, error.into()),
                }
            }
            Some(stat) => self.leaf(name, dir, stat, prefix),
            None => Ok(()),
        }
    }

    /// A directory that cannot be opened is packed without what is in it.
    fn unopened(&mut self, name: &[u8], stat: &Stat, prefix: &Path, error: io::Error) -> Result<(), Gone> {
        let before = self.path.len();
        if before > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.warn(&format!("cannot open the directory, packed empty: {error}"));
        let mut meta = self.meta(stat, self.xattrs(&prefix.join(OsStr::from_bytes(name))));
        meta.link_key = None;
        self.path.truncate(before);
        self.sink.entry(Entry::Enter { name: name.into(), meta })?;
        self.sink.entry(Entry::Leave)
    }

    /// Anything but a directory.
    fn leaf(&mut self, name: &[u8], dir: &Arc<OwnedFd>, stat: Stat, prefix: &Path) -> Result<(), Gone> {
        let before = self.path.len();
        if before > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let result = self.leaf_at(name, dir, stat, prefix);
        self.path.truncate(before);
        result
    }

    fn leaf_at(&mut self, name: &[u8], dir: &Arc<OwnedFd>, stat: Stat, prefix: &Path) -> Result<(), Gone> {
        if self.is_own(&stat) {
            return Ok(());
        }
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 && !self.seen.insert(key) {
            return self.sink.entry(Entry::Link { name: name.into(), key });
        }
        let os_name = OsStr::from_bytes(name);
        let meta = self.meta(&stat, self.xattrs(&prefix.join(os_name)));
        match FileType::of_mode(stat.st_mode) {
            Some(FileType::Regular) => {
                let job = FileJob { dir: dir.clone(), name: name.into(), stat };
                self.sink.entry(Entry::File { meta, job })
            }
            Some(FileType::Symlink) => match rustix::fs::readlinkat(&**dir, os_name, Vec::new()) {
                Ok(target) => {
                    let target = target.into_bytes().into_boxed_slice();
                    self.sink.entry(Entry::Other { name: name.into(), meta, target })
                }
                Err(error) => {
                    self.warn(&format!("cannot read the link, left out: {}", io::Error::from(error)));
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

/// The names in a directory, in order of their bytes.
fn names(dir: &OwnedFd) -> io::Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The first bytes of a regular file.
fn head(dir: &OwnedFd, name: &[u8], len: usize) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::of_mode(stat.st_mode) != Some(FileType::Regular) {
        return None;
    }
    let mut out = vec![0; len];
    let got = rustix::io::pread(&file, &mut out, 0).ok()?;
    out.truncate(got);
    Some(out)
}
