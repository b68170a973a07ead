//! floe's writable filesystem as a subject, without a kernel: operations go to [`Live`], reading goes through [`Fs`].
//! Called by the runner and by the tests of faults and threads.

use super::bytes::Bytes;
use super::data::{Allocate, Attributes, Setting, Stamp};
use super::names::{Flags, New, NewKind};
use super::state::{Attr, Id, Kind, Model, Node, ROOT};
use super::subject::Subject;
use floe::care::{self, CheckOptions, Finding, FindingKind, Severity};
use floe::format::ids::InodeId;
use floe::format::rows::{FileType, Time};
use floe::fs::gc::NoReaders;
use floe::fs::{self, Fs, FsError, FsOptions, Live, LiveOptions, SeekTo};
use floe::meta::{Image, ImageOptions, MetaError, View};
use floe::storage::{LogHome, Storage};
use imbl::OrdMap;
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a segment of the thaw log: small, so that segments are created and removed often.
pub const SEGMENT: u64 = 64 << 10;
/// Number of names read from a directory at once.
const PAGE: usize = 3;
/// Limit of one piece of data: no test has more.
const DATA: u64 = 128 << 20;

/// Ids of thaw logs: each gets a new one.
static LOG_ID: AtomicU64 = AtomicU64::new(1);

/// A mounted image.
pub struct Machine {
    /// The writing side.
    pub live: Arc<Live>,
    /// The reading side.
    pub fs: Arc<Fs>,
    /// How the last change failed, if it did.
    pub failed: Option<Errno>,
    /// The inode that was created last.
    pub created: Id,
    clock: Arc<AtomicI64>,
}

/// Storage of image and thaw log.
#[derive(Clone)]
pub struct Disks {
    /// The image.
    pub image: Arc<dyn Storage>,
    /// The thaw log.
    pub home: Arc<dyn LogHome>,
}

impl Machine {
    /// Opens for writing.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(disks: &Disks, segment: u64) -> Result<Machine, String> {
        let options = ImageOptions { block_cache: 1 << 20 };
        let found = fs::start::look(Arc::clone(&disks.image), Arc::clone(&disks.home), options)
            .map_err(|error| format!("opening: {error}"))?;
        if let Some(reason) = found.set_aside_reason() {
            return Err(format!("the thaw log does not fit: {reason}"));
        }
        let clock = Arc::new(AtomicI64::new(0));
        let hands = Arc::clone(&clock);
        let options = LiveOptions {
            commit: Duration::from_secs(5),
            clock: Arc::new(move || Time { secs: hands.load(Ordering::Relaxed), nanos: 7 }),
            log_id: LOG_ID.fetch_add(1, Ordering::Relaxed),
            segment_size: Some(segment),
            budget: None,
        };
        let live = Live::new(Arc::clone(&disks.image), found, options).map_err(|error| format!("opening: {error}"))?;
        // Nobody else reads the image.
        live.set_keep_out(Arc::new(|| Ok(Box::new(()) as NoReaders)));
        let fs = Fs::over(live.clone(), FsOptions { cache: 16 << 20, readahead: 0, verify: true });
        Ok(Machine { live, fs, failed: None, created: 0, clock })
    }

    /// Another handle on the same filesystem, for another thread.
    pub fn share(&self) -> Machine {
        let (live, fs) = (Arc::clone(&self.live), Arc::clone(&self.fs));
        Machine { live, fs, failed: None, created: 0, clock: Arc::clone(&self.clock) }
    }

    /// Sets the clock.
    pub fn set_time(&self, now: Time) {
        self.clock.store(now.secs, Ordering::Relaxed);
    }
}

/// Checks that `check` has no finding for an image.
///
/// # Errors
/// What it found.
pub fn check(image: Arc<dyn Storage>) -> Result<(), String> {
    checked(image, |_| true)
}

/// Checks that `check` has no finding for an image after a power cut, except a torn head slot: the other slot counts.
///
/// # Errors
/// What it found.
pub fn check_after_cut(image: Arc<dyn Storage>) -> Result<(), String> {
    checked(image, |finding| finding.kind != FindingKind::Head || finding.severity > Severity::Recoverable)
}

fn checked(image: Arc<dyn Storage>, counts: impl Fn(&Finding) -> bool) -> Result<(), String> {
    let options = CheckOptions { memory: 64 << 20, ..CheckOptions::default() };
    let report = care::check(image, &options, &()).map_err(|error| format!("check: {error}"))?;
    let findings = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
    let bad: Vec<_> = findings.filter(|finding| counts(finding)).collect();
    if bad.is_empty() { Ok(()) } else { Err(format!("check found {bad:#?}")) }
}

/// Reads the image alone. Names and attributes must be those of the model, and so must all bytes, except those that the
/// image's own rows place in the thaw log: these must be errors.
///
/// # Errors
/// What it reads differently.
pub fn read_alone(image: Arc<dyn Storage>, model: &Model) -> Result<(), String> {
    const PIECE: u64 = 4096;
    const MOST: u64 = 4 << 20;
    let image = Image::open(image, ImageOptions { block_cache: 1 << 20 }).map_err(|error| format!("alone: {error}"))?;
    let image = Arc::new(image);
    let view = View::of(Arc::clone(&image));
    let fs = Fs::new(image, FsOptions { cache: 16 << 20, readahead: 0, verify: true });
    for (&id, node) in &model.nodes {
        let attr = fs.attr(inode(id)).map_err(|error| format!("alone, inode {id}: {error}"))?;
        if attr_of(&attr) != Attr::of(node) {
            return Err(format!("alone, inode {id}: expected {:?}, found {attr:?}", Attr::of(node)));
        }
        match &node.kind {
            Kind::Directory { names, .. } => {
                let found = entries(&fs, inode(id)).map_err(|error| format!("alone, names in {id}: {error}"))?;
                if !found.into_iter().eq(names.iter().map(|(name, child)| (name.clone(), inode(*child)))) {
                    return Err(format!("alone, inode {id} has other names"));
                }
            }
            Kind::Regular(bytes) => {
                let thawed = thawed(&view, inode(id))?;
                for from in (0..bytes.size().min(MOST)).step_by(PIECE as usize) {
                    let is_thawed = thawed.iter().any(|range| range.0 < from + PIECE && from < range.1);
                    let mut found = Vec::new();
                    match fs.read(inode(id), from, PIECE as usize, &mut found) {
                        Ok(()) if found == bytes.read(from, PIECE) => {}
                        Err(error) if is_thawed && error.errno() == Errno::IO => {}
                        other => {
                            return Err(format!("alone, bytes of {id} at {from}: {other:?}, {} bytes", found.len()));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ranges of a file that are in the thaw log.
fn thawed(view: &View, id: InodeId) -> Result<Vec<(u64, u64)>, String> {
    let wrong = |error: MetaError| format!("alone, thawed ranges of {id}: {error}");
    let (mut all, mut ranges) = (Vec::new(), view.thawed(id, 0).map_err(wrong)?);
    while let Some((begin, range)) = ranges.next(view).map_err(wrong)? {
        all.push((begin, begin + range.length));
    }
    Ok(all)
}

/// The time of operations at the runner's step `n`.
pub fn time(n: u64) -> Time {
    Time { secs: 2_000_000_000 + n as i64, nanos: 7 }
}

fn errno(error: FsError) -> Errno {
    error.errno()
}

impl Machine {
    fn done<T>(&mut self, result: Result<T, FsError>) -> Result<T, Errno> {
        let result = result.map_err(errno);
        self.failed = result.as_ref().err().copied();
        result
    }
}

fn inode(id: Id) -> InodeId {
    InodeId(id)
}

fn stamp(stamp: Stamp) -> fs::NewTime {
    match stamp {
        Stamp::Now => fs::NewTime::Now,
        Stamp::At(time) => fs::NewTime::At(time),
    }
}

fn mode(how: Allocate) -> fs::FallocateMode {
    match how {
        Allocate::Grow => fs::FallocateMode::Allocate,
        Allocate::Keep => fs::FallocateMode::KeepSize,
        Allocate::Punch => fs::FallocateMode::PunchHole,
        Allocate::Zero => fs::FallocateMode::ZeroRange { keep_size: false },
        Allocate::ZeroKeep => fs::FallocateMode::ZeroRange { keep_size: true },
    }
}

fn attr_of(attr: &fs::Attr) -> Attr {
    let kind = match attr.file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char device",
        FileType::BlockDevice => "block device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    };
    Attr {
        kind,
        permissions: attr.permissions,
        uid: attr.uid,
        gid: attr.gid,
        links: attr.links,
        // A directory's size in stat(2) means nothing.
        size: if attr.is_dir() { 0 } else { attr.size },
        device: attr.device,
        mtime: attr.mtime,
        ctime: attr.ctime,
        atime: attr.atime,
    }
}

impl Subject for Machine {
    fn create(&mut self, dir: Id, name: &[u8], new: &New) -> Result<Id, Errno> {
        let kind = match &new.kind {
            NewKind::Regular => fs::NewKind::Regular,
            NewKind::Directory => fs::NewKind::Directory,
            NewKind::Symlink(target) => fs::NewKind::Symlink(target.clone()),
            NewKind::Device { char, number: (major, minor) } => fs::NewKind::Device {
                file_type: if *char { FileType::CharDevice } else { FileType::BlockDevice },
                major: *major,
                minor: *minor,
            },
            NewKind::Fifo => fs::NewKind::Fifo,
            NewKind::Socket => fs::NewKind::Socket,
        };
        let node = fs::NewNode { kind, mode: new.mode, umask: new.umask, uid: new.uid, gid: new.gid };
        let done = self.live.create(inode(dir), name, &node);
        let created = self.done(done).map(|attr| attr.inode.0)?;
        self.created = created;
        Ok(created)
    }

    fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        let done = self.live.unlink(inode(dir), name);
        self.done(done)
    }

    fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), Errno> {
        let done = self.live.rmdir(inode(dir), name);
        self.done(done)
    }

    fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), flags: Flags) -> Result<(), Errno> {
        let flags = fs::RenameFlags { no_replace: flags.no_replace, exchange: flags.exchange };
        let done = self.live.rename(inode(from.0), from.1, inode(to.0), to.1, flags);
        self.done(done)
    }

    fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), Errno> {
        let done = self.live.link(inode(id), inode(dir), name);
        self.done(done).map(drop)
    }

    fn write(&mut self, id: Id, offset: u64, bytes: &[u8], clear_privileges: bool) -> Result<(), Errno> {
        let done = self.live.write(inode(id), offset, bytes, clear_privileges);
        self.done(done)
    }

    fn truncate(&mut self, id: Id, size: u64) -> Result<(), Errno> {
        let changes = fs::SetAttr { size: Some(size), ..fs::SetAttr::default() };
        let done = self.live.set_attr(inode(id), &changes);
        self.done(done).map(drop)
    }

    fn set_attributes(&mut self, id: Id, changes: Attributes) -> Result<(), Errno> {
        let changes = fs::SetAttr {
            mode: changes.mode,
            uid: changes.uid,
            gid: changes.gid,
            atime: changes.atime.map(stamp),
            mtime: changes.mtime.map(stamp),
            ..fs::SetAttr::default()
        };
        let done = self.live.set_attr(inode(id), &changes);
        self.done(done).map(drop)
    }

    fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], how: Setting) -> Result<(), Errno> {
        let flags =
            fs::XattrFlags { create: how == Setting::Create, replace: how == Setting::Replace, clear_setgid: false };
        let done = self.live.set_xattr(inode(id), name, value, flags);
        self.done(done)
    }

    fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<(), Errno> {
        let done = self.live.remove_xattr(inode(id), name);
        self.done(done)
    }

    fn fallocate(&mut self, id: Id, how: Allocate, offset: u64, len: u64) -> Result<(), Errno> {
        let done = self.live.fallocate(inode(id), offset, len, mode(how));
        self.done(done)
    }

    fn copy(&mut self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<u64, Errno> {
        let done = self.live.copy_range(inode(from.0), from.1, inode(to.0), to.1, len);
        self.done(done)
    }

    fn open(&mut self, id: Id, writing: bool) -> Result<(), Errno> {
        let done = self.live.open(inode(id), writing);
        self.done(done)
    }

    fn release(&mut self, id: Id, writing: bool) {
        self.live.release(inode(id), writing);
    }

    fn touch(&mut self, id: Id) -> Result<(), Errno> {
        let done = self.live.touch_atime(inode(id), false);
        self.done(done)
    }

    fn attributes(&mut self, id: Id) -> Result<Attr, Errno> {
        self.fs.attr(inode(id)).map(|attr| attr_of(&attr)).map_err(errno)
    }

    fn read(&mut self, id: Id, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        self.fs.read(inode(id), offset, len as usize, &mut bytes).map_err(errno)?;
        Ok(bytes)
    }

    fn lookup(&mut self, dir: Id, name: &[u8]) -> Result<Id, Errno> {
        self.fs.lookup(inode(dir), name).map(|attr| attr.inode.0).map_err(errno)
    }

    fn whole(&mut self) -> Result<Model, String> {
        whole(&self.fs)
    }
}

/// Everything in a filesystem, found from the root down.
///
/// # Errors
/// What cannot be read, or contradicts itself.
pub fn whole(fs: &Fs) -> Result<Model, String> {
    let mut model = Model::default();
    gather(fs, InodeId::ROOT, InodeId::ROOT, &mut model)?;
    Ok(model)
}

/// Everything in one directory, which then counts as the root.
///
/// # Errors
/// Those of [`whole`].
pub fn whole_of(fs: &Fs, root: InodeId) -> Result<Model, String> {
    let mut model = Model::default();
    let parent = fs.parent(root).map_err(|error| format!("parent of {root}: {error}"))?;
    gather(fs, root, parent, &mut model)?;
    let mut nodes = OrdMap::new();
    for (&id, node) in &model.nodes {
        let mut node = (**node).clone();
        if let Kind::Directory { parent, .. } = &mut node.kind
            && (id == root.0 || *parent == root.0)
        {
            *parent = ROOT;
        }
        nodes.insert(if id == root.0 { ROOT } else { id }, Arc::new(node));
    }
    Ok(Model { nodes, ..Model::default() })
}

fn gather(fs: &Fs, id: InodeId, parent: InodeId, model: &mut Model) -> Result<(), String> {
    let told = |what: &str| {
        let what = what.to_owned();
        move |error: FsError| format!("{what} of inode {id}: {error}")
    };
    let attr = fs.attr(id).map_err(told("attributes"))?;
    let kind = match attr.file_type {
        FileType::Regular => Kind::Regular(bytes(fs, &attr)?),
        FileType::Directory => {
            let found = fs.parent(id).map_err(told("parent"))?;
            if found != parent {
                return Err(format!("directory {id} lies in {parent} and says {found}"));
            }
            let mut names = OrdMap::new();
            for (name, child) in entries(fs, id).map_err(told("names"))? {
                let looked_up = fs.lookup(id, &name).map_err(told("look-up"))?;
                if looked_up.inode != child {
                    return Err(format!("directory {id} lists {child} and looks up {}", looked_up.inode));
                }
                if names.insert(name, child.0).is_some() {
                    return Err(format!("directory {id} lists a name twice"));
                }
                if !model.nodes.contains_key(&child.0) {
                    gather(fs, child, id, model)?;
                }
            }
            Kind::Directory { names, parent: parent.0 }
        }
        FileType::Symlink => Kind::Symlink(fs.readlink(id).map_err(told("target"))?),
        FileType::CharDevice => Kind::Device { char: true, number: attr.device },
        FileType::BlockDevice => Kind::Device { char: false, number: attr.device },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
    };
    let set = fs.xattrs(id).map_err(told("xattrs"))?;
    let xattrs = set.0.into_iter().map(|xattr| (xattr.name, Arc::<[u8]>::from(xattr.value))).collect();
    let fs::Attr { permissions, uid, gid, links, mtime, ctime, atime, .. } = attr;
    let node = Node { kind, permissions, uid, gid, links, mtime, ctime, atime, xattrs };
    model.nodes.insert(id.0, Arc::new(node));
    Ok(())
}

/// The names of a directory, read a few at a time.
fn entries(fs: &Fs, dir: InodeId) -> Result<Vec<(Vec<u8>, InodeId)>, FsError> {
    let mut names = Vec::new();
    let mut cookie = 0;
    loop {
        let mut page = 0;
        fs.read_dir(dir, cookie, &mut |entry| {
            if page == PAGE {
                return false;
            }
            page += 1;
            cookie = entry.cookie;
            names.push((entry.name.to_vec(), entry.inode));
            true
        })?;
        if page < PAGE {
            return Ok(names);
        }
    }
}

/// A file's bytes where it reports data; the rest must read as zeros.
fn bytes(fs: &Fs, attr: &fs::Attr) -> Result<Bytes, String> {
    let id = attr.inode;
    let mut bytes = Bytes::default();
    bytes.truncate(attr.size);
    let mut at = 0;
    while at < attr.size {
        let begin = match fs.seek(id, at, SeekTo::Data) {
            Ok(begin) => begin,
            Err(FsError::NoData) => attr.size,
            Err(error) => return Err(format!("seeking data in inode {id} from {at}: {error}")),
        };
        if begin < at || begin > attr.size {
            return Err(format!("data of inode {id} from {at} is said to be at {begin}"));
        }
        zeros(fs, id, at, begin)?;
        if begin == attr.size {
            break;
        }
        let end = fs.seek(id, begin, SeekTo::Hole).map_err(|error| format!("hole of inode {id}: {error}"))?;
        if end <= begin || end > attr.size || end - begin > DATA {
            return Err(format!("inode {id} has data from {begin} to {end} of {}", attr.size));
        }
        let mut part = Vec::new();
        fs.read(id, begin, (end - begin) as usize, &mut part)
            .map_err(|error| format!("reading inode {id}: {error}"))?;
        if part.len() as u64 != end - begin {
            return Err(format!("inode {id} has {} bytes from {begin} to {end}", part.len()));
        }
        bytes.write(begin, &part);
        at = end;
    }
    Ok(bytes)
}

/// The beginning and the end of a hole must read as zeros.
fn zeros(fs: &Fs, id: InodeId, from: u64, to: u64) -> Result<(), String> {
    const SOME: u64 = 70_000;
    for (from, to) in [(from, to.min(from.saturating_add(SOME))), (to.saturating_sub(SOME).max(from), to)] {
        let mut part = Vec::new();
        fs.read(id, from, (to - from) as usize, &mut part).map_err(|error| format!("reading inode {id}: {error}"))?;
        if part.len() as u64 != to - from || part.iter().any(|&byte| byte != 0) {
            return Err(format!("the hole of inode {id} from {from} to {to} is none"));
        }
    }
    Ok(())
}

/// The root's number.
pub const fn root() -> InodeId {
    InodeId(ROOT)
}
