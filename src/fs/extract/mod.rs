//! Extracts files from an image into a directory. Nothing in the image can lead out of it.
//!
//! The image may be hostile. Its names are single components (that is checked when rows are decoded). Each is opened
//! beneath the directory that contains it. Links are made but never followed, and each directory is entered at most
//! once. A file is made private, then gets its bytes, then owner, xattrs, permissions and times; a directory gets these
//! after its contents. Failures are reported and counted, and the rest goes on. Called by cli.

mod attributes;
mod make;
mod options;
mod target;

pub use options::{ExtractError, ExtractFilter, ExtractObserver, ExtractOptions, ExtractSummary, Overwrite, Pick};

use super::{Attr, Fs, FsError};
use crate::format::ids::InodeId;
use crate::format::rows::FileType;
use crate::meta::{Dirents, View};
use attributes::{Attributes, Remark, Rights};
use make::MakeError;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::Path;
use target::{PlaceId, Target, TargetError, is_shortage};

/// Largest depth of directories. Only an image made to keep a program busy has more.
const MAX_DEPTH: usize = 1 << 15;

/// Extracts `paths` of the image (from its root; all of it if there are none) into the directory `target`, which is
/// made if it does not exist. Symlinks in `paths` are not followed. The target itself gets the attributes of the
/// image's root if everything is extracted, and the target was new or empty or existing files may be overwritten.
///
/// # Errors
/// Fails if the target cannot be used, there are no descriptors left, or the observer cancelled. Failures of single
/// files are reported to the observer and counted.
pub fn extract(
    fs: &Fs,
    paths: &[Vec<u8>],
    target: &Path,
    options: &ExtractOptions<'_>,
    observer: &dyn ExtractObserver,
) -> Result<ExtractSummary, ExtractError> {
    let failed = |error: Errno| ExtractError::Target { path: target.to_owned(), source: error.into() };
    std::fs::create_dir_all(target).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => failed(Errno::NOTDIR),
        _ => ExtractError::Target { path: target.to_owned(), source: error },
    })?;
    // The user named the target, so a link there is followed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(target, flags, Mode::empty()).map_err(failed)?;
    let is_empty = is_empty(&root).map_err(failed)?;
    let mut extraction = Extraction {
        fs,
        view: fs.snapshot().view().clone(),
        options,
        observer,
        target: Target::new(root, options.open_directories, options.own.clone()).map_err(failed)?,
        rights: Rights::new(),
        summary: ExtractSummary::default(),
        first_names: HashMap::new(),
        directories: HashSet::new(),
        above: Vec::new(),
        path: Vec::new(),
    };
    let wanted = wanted(paths);
    for path in &wanted {
        extraction.one(path)?;
    }
    extraction.leave_to(&[])?;
    if (is_empty || options.overwrite != Overwrite::Never)
        && options.strip_components == 0
        && wanted.iter().any(Vec::is_empty)
    {
        extraction.root()?;
    }
    Ok(extraction.summary)
}

fn is_empty(dir: impl AsFd) -> Result<bool, Errno> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the paths as lists of names, without those that lie within others.
fn wanted(paths: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    if paths.is_empty() {
        return vec![Vec::new()];
    }
    let split = |path: &Vec<u8>| {
        let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        names.map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let mut all: Vec<Vec<Vec<u8>>> = paths.iter().map(split).collect();
    all.sort();
    all.dedup_by(|later, first| later.starts_with(first));
    all
}

/// A directory that is being walked.
struct Level {
    attr: Attr,
    entries: Dirents,
    path_len: usize,
    /// Whether the target has this directory; a stripped directory is not in the target.
    in_target: bool,
}

/// The place where the first name of a file with several names was made, and how many names are still to come.
struct FirstName {
    place: Option<PlaceId>,
    name: Vec<u8>,
    left: u64,
}

struct Extraction<'a> {
    fs: &'a Fs,
    view: View,
    options: &'a ExtractOptions<'a>,
    observer: &'a dyn ExtractObserver,
    target: Target,
    rights: Rights,
    summary: ExtractSummary,
    first_names: HashMap<InodeId, FirstName>,
    /// Directories entered so far: in a hostile image a directory may have several names, or lie within itself.
    directories: HashSet<InodeId>,
    /// Names and attributes of the directories above the path that is being extracted.
    above: Vec<(Vec<u8>, Attr)>,
    /// Path of the current file in the image.
    path: Vec<u8>,
}

impl Extraction<'_> {
    fn warn(&mut self, message: String) {
        self.summary.warnings += 1;
        self.observer.warning(&self.path, &message);
    }

    fn error(&mut self, message: String) {
        self.summary.errors += 1;
        self.observer.error(&self.path, &message);
    }

    /// Returns an error that ends the extraction, if every further file would meet it too.
    fn unless_fatal(&self, error: Option<Errno>) -> Result<(), ExtractError> {
        let path = || String::from_utf8_lossy(&self.path).into_owned();
        match error {
            Some(error) if is_shortage(error) => Err(ExtractError::Descriptors { path: path(), source: error.into() }),
            Some(error) => Err(ExtractError::Refused { path: path(), source: error.into() }),
            None => Ok(()),
        }
    }

    /// Extracts the file or directory at a path, with the directories above it.
    fn one(&mut self, names: &[Vec<u8>]) -> Result<(), ExtractError> {
        self.leave_to(names.split_last().map_or(&[][..], |(_, above)| above))?;
        self.path = names.join(&b'/');
        match self.enter_above(names) {
            Ok(attr) => self.tree(names, attr),
            Err(error) => {
                self.error(error.to_string());
                Ok(())
            }
        }
    }

    /// Enters the directories above a path, and looks up the path itself.
    fn enter_above(&mut self, names: &[Vec<u8>]) -> Result<Attr, FsError> {
        let mut attr = match self.above.last() {
            Some((_, attr)) => *attr,
            None => self.fs.attr(InodeId::ROOT)?,
        };
        for (n, name) in names.iter().enumerate().skip(self.above.len()) {
            attr = self.fs.lookup(attr.inode, name)?;
            if n + 1 < names.len() {
                if n >= self.options.strip_components {
                    self.target.enter(name);
                }
                self.above.push((name.clone(), attr));
            }
        }
        Ok(attr)
    }

    /// Leaves the directories above the last path that are not above the next one.
    fn leave_to(&mut self, next: &[Vec<u8>]) -> Result<(), ExtractError> {
        let shared = self.above.iter().zip(next).take_while(|((name, _), next)| name == *next).count();
        self.path = self.above.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>().join(&b'/');
        while self.above.len() > shared {
            let Some((name, attr)) = self.above.pop() else { break };
            if self.above.len() >= self.options.strip_components {
                self.finish_directory(&attr)?;
                self.target.leave();
            }
            // Removes the name, and the slash before it unless the name is at the root.
            self.path.truncate(self.path.len().saturating_sub(name.len() + 1));
        }
        Ok(())
    }

    /// Extracts a file, or a directory with everything in it.
    fn tree(&mut self, names: &[Vec<u8>], attr: Attr) -> Result<(), ExtractError> {
        let mut levels = Vec::new();
        self.entry(names.last().map_or(&[], Vec::as_slice), names.len(), attr, &mut levels)?;
        while let Some(level) = levels.last_mut() {
            let path_len = level.path_len;
            let next = level.entries.next(&self.view);
            self.path.truncate(path_len);
            let (name, row) = match next {
                Ok(Some(entry)) => entry,
                other => {
                    if let Err(error) = other {
                        self.error(format!("names in this directory are lost: {error}"));
                    }
                    let Some(level) = levels.pop() else { break };
                    if level.in_target {
                        self.finish_directory(&level.attr)?;
                        self.target.leave();
                    }
                    continue;
                }
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            let depth = names.len() + levels.len();
            match self.fs.attr(row.inode) {
                Ok(attr) if attr.file_type == row.file_type => self.entry(&name, depth, attr, &mut levels)?,
                Ok(_) => self.error("its type differs from the one in its directory".to_owned()),
                Err(error) => self.error(error.to_string()),
            }
        }
        Ok(())
    }

    /// Extracts a file, or begins to walk a directory. `depth` is the number of names in its path.
    fn entry(&mut self, name: &[u8], depth: usize, attr: Attr, levels: &mut Vec<Level>) -> Result<(), ExtractError> {
        if self.observer.cancelled() {
            return Err(ExtractError::Cancelled);
        }
        let pick = if depth == 0 { Pick::Take } else { (self.options.filter)(&self.path, attr.file_type) };
        if pick == Pick::Skip {
            return Ok(());
        }
        let in_target = depth > self.options.strip_components;
        if !attr.is_dir() {
            if pick == Pick::Take && in_target {
                self.leaf(name, &attr)?;
            }
            return Ok(());
        }
        if depth > MAX_DEPTH {
            self.error(format!("directories are not extracted below a depth of {MAX_DEPTH}"));
            return Ok(());
        }
        if !self.directories.insert(attr.inode) {
            self.error("the directory has more than one name".to_owned());
            return Ok(());
        }
        let entries = match self.view.dirents(attr.inode, None) {
            Ok(entries) => entries,
            Err(error) => {
                self.error(error.to_string());
                return Ok(());
            }
        };
        if in_target {
            self.target.enter(name);
            if pick == Pick::Take
                && let Err(error) = self.target.here(self.options.overwrite != Overwrite::Never)
            {
                self.unless_fatal(error.fatal())?;
                self.error(format!("cannot make the directory: {error}"));
                self.target.leave();
                return Ok(());
            }
        }
        levels.push(Level { attr, entries, path_len: self.path.len(), in_target });
        Ok(())
    }

    /// Sets the attributes of the current directory, if this extraction made it or existing ones may be overwritten.
    fn finish_directory(&mut self, attr: &Attr) -> Result<(), ExtractError> {
        let (exists, made) = self.target.state();
        if exists && (made || self.options.overwrite != Overwrite::Never) {
            match self.target.here_owned() {
                Ok(fd) => self.attributes(&fd, attr),
                Err(error) => {
                    self.unless_fatal(error.fatal())?;
                    self.warn(format!("cannot open the directory again: {error}"));
                }
            }
        }
        if made {
            self.summary.directories += 1;
            self.observer.extracted(&self.path);
        }
        Ok(())
    }

    /// Gives the target the attributes of the image's root. All directories have been left, so the target is the
    /// current one.
    fn root(&mut self) -> Result<(), ExtractError> {
        self.path.clear();
        match (self.fs.attr(InodeId::ROOT), self.target.here_owned()) {
            (Ok(attr), Ok(fd)) => {
                self.attributes(&fd, &attr);
                self.summary.directories += 1;
            }
            (Err(error), _) => self.error(error.to_string()),
            (_, Err(error)) => {
                self.unless_fatal(error.fatal())?;
                self.error(error.to_string());
            }
        }
        Ok(())
    }

    fn attributes(&mut self, fd: &std::os::fd::OwnedFd, attr: &Attr) {
        let xattrs = match self.fs.xattrs(attr.inode) {
            Ok(xattrs) => xattrs,
            Err(error) => {
                self.error(format!("its xattrs cannot be read: {error}"));
                Default::default()
            }
        };
        let mut remarks = Vec::new();
        let attributes = Attributes { attr, xattrs: &xattrs };
        attributes.set(fd.as_fd(), &mut self.rights, &mut |remark| remarks.push(remark));
        for remark in remarks {
            match remark {
                Remark::Note(message) => self.observer.note(&self.path, &message),
                Remark::Warning(message) => self.warn(message),
            }
        }
    }

    /// Makes a file of any type but a directory, or links it to its first name.
    fn leaf(&mut self, name: &[u8], attr: &Attr) -> Result<(), ExtractError> {
        let replace = self.options.overwrite != Overwrite::Never;
        if let Err(error) = self.target.here(replace) {
            self.unless_fatal(error.fatal())?;
            self.error(format!("cannot make its directory: {error}"));
            return Ok(());
        }
        match self.try_leaf(name, attr) {
            Err(MakeError::Exists) => match self.options.overwrite {
                Overwrite::Never => self.skip(),
                Overwrite::Changed => match self.is_unchanged(name, attr) {
                    Ok(true) => {
                        self.remember(name, attr);
                        self.skip();
                    }
                    Ok(false) => return self.replace(name, attr),
                    Err(error) => return self.unless_fatal(Some(error)),
                },
                Overwrite::Always => return self.replace(name, attr),
            },
            made => return self.made(made, name, attr),
        }
        Ok(())
    }

    fn replace(&mut self, name: &[u8], attr: &Attr) -> Result<(), ExtractError> {
        let removed = self.target.remove(name).map_err(MakeError::from);
        let made = removed.and_then(|()| self.try_leaf(name, attr));
        self.made(made, name, attr)
    }

    fn skip(&mut self) {
        self.summary.skipped += 1;
        self.observer.skipped(&self.path);
    }

    fn made(&mut self, made: Result<(), MakeError>, name: &[u8], attr: &Attr) -> Result<(), ExtractError> {
        let device = matches!(attr.file_type, FileType::BlockDevice | FileType::CharDevice);
        let is_other = attr.file_type != FileType::Regular || self.first_names.contains_key(&attr.inode);
        match made {
            Ok(()) => {
                self.remember(name, attr);
                self.summary.files += 1;
                self.summary.others += u64::from(is_other);
                self.observer.extracted(&self.path);
                self.observer.progress(self.summary.files, self.summary.bytes);
            }
            Err(MakeError::Cancelled) => return Err(ExtractError::Cancelled),
            Err(MakeError::Own) => self.error(TargetError::Own.to_string()),
            Err(error) if error.fatal().is_some() => return self.unless_fatal(error.fatal()),
            // An error, as in tar. For an ordinary user every file lacks its owner, but here the device itself is
            // missing.
            Err(MakeError::Write(error)) if device && error.kind() == std::io::ErrorKind::PermissionDenied => {
                self.error(format!("cannot make the device: {error} (only root can)"));
            }
            Err(MakeError::Exists) => self.error("it is there again as soon as it is removed".to_owned()),
            Err(MakeError::Read(error)) => self.error(format!("cannot read: {error}")),
            Err(MakeError::Write(error)) => self.error(format!("cannot write: {error}")),
        }
        Ok(())
    }

    fn try_leaf(&mut self, name: &[u8], attr: &Attr) -> Result<(), MakeError> {
        if self.first_names.contains_key(&attr.inode) && self.link(name, attr)? {
            return Ok(());
        }
        let (observer, mut bytes) = (self.observer, self.summary.bytes);
        let files = self.summary.files;
        let fd = loop {
            let dir = self.target.here(false)?;
            let made = make::make(self.fs, attr, dir, name, &mut |written| {
                bytes += written;
                observer.progress(files, bytes);
                !observer.cancelled()
            });
            match made {
                Err(error) if error.shortage().is_some() && self.target.shrink() => {}
                made => break made?,
            }
        };
        self.summary.bytes = bytes;
        self.attributes(&fd, attr);
        Ok(())
    }

    /// Makes a further name of a file. Returns false if that fails and the file must be made again.
    fn link(&mut self, name: &[u8], attr: &Attr) -> Result<bool, MakeError> {
        let Some(first) = self.first_names.get(&attr.inode) else { return Ok(false) };
        let target = &mut self.target;
        let linked = target.open(first.place).map_err(TargetError::from).and_then(|from| {
            let dir = target.here(false)?;
            Ok(rustix::fs::linkat(from, first.name.as_slice(), dir, name, AtFlags::empty())?)
        });
        match linked {
            Ok(()) => Ok(true),
            Err(TargetError::Os(Errno::EXIST)) => Err(MakeError::Exists),
            Err(error) if error.fatal().is_some() => Err(error.into()),
            Err(TargetError::Os(error)) => {
                if self.rights.is_new(b"link", error) {
                    self.warn(format!("cannot link it to its other name, so it is made again as a copy: {error}"));
                }
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers the first name of a file that has several names; forgets it when all names are made.
    fn remember(&mut self, name: &[u8], attr: &Attr) {
        if attr.links < 2 {
            return;
        }
        let target = &mut self.target;
        let first = self.first_names.entry(attr.inode).or_insert_with(|| FirstName {
            place: target.place(),
            name: name.to_vec(),
            left: attr.links,
        });
        first.left = first.left.saturating_sub(1);
        if first.left == 0 {
            self.first_names.remove(&attr.inode);
        }
    }

    /// Returns whether the existing file is what would be made. Fails only if there are no descriptors left.
    fn is_unchanged(&mut self, name: &[u8], attr: &Attr) -> Result<bool, Errno> {
        let dir = match self.target.here(false) {
            Ok(dir) => dir,
            Err(error) => return error.shortage().map_or(Ok(false), Err),
        };
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(false) };
        if let Some(first) = self.first_names.get(&attr.inode) {
            // A further name is right only if it is a link to the file of the first name.
            let from = match self.target.open(first.place) {
                Err(error) if is_shortage(error) => return Err(error),
                Err(_) => return Ok(false),
                Ok(from) => from,
            };
            let other = rustix::fs::statat(from, first.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
            return Ok(other.is_ok_and(|other| (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino)));
        }
        let same_time = (stat.st_mtime, stat.st_mtime_nsec as u32) == (attr.mtime.secs, attr.mtime.nanos);
        let same = FileType::of_mode(stat.st_mode) == Some(attr.file_type)
            && same_time
            && match attr.file_type {
                FileType::Regular => stat.st_size as u64 == attr.size,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(dir, name, Vec::new());
                    let wanted = self.fs.readlink(attr.inode);
                    matches!((target, wanted), (Ok(a), Ok(b)) if a.to_bytes() == b.as_slice())
                }
                FileType::BlockDevice | FileType::CharDevice => {
                    stat.st_rdev == rustix::fs::makedev(attr.device.0, attr.device.1)
                }
                _ => true,
            };
        Ok(same)
    }
}
