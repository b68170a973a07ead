//! Compares a finished image with the sources that it was packed from, before the image gets its name.
//!
//! The sources are walked again, with the same filter and options, and what they hold now is compared with the image,
//! name by name. The image is read as every reader reads it, and each subchunk's content hash is checked. Invariant: a
//! difference in something that has not changed since it was packed is an error; any other difference is a warning, and
//! so is what cannot be read again. Memory is bounded, except for 16 bytes for each inode with several names, and for
//! each warning. Called by cli (`floe pack --verify`).

use super::read::{Fs, FsOptions, Moment};
use super::{Attr, FsError, SeekTo};
use crate::format::ids::InodeId;
use crate::format::rows::{DirentRow, FileType, Time};
use crate::meta::{Dirents, Image, ImageOptions, MetaError};
use crate::pack::{Entry, FileJob, Meta, PackError, PackObserver, SourceFile, Unreadable, Written};
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;

/// Number of bytes that are read at once.
const READ: u64 = 1 << 20;
/// Divisor of the memory limit: the part that inflated superchunks may take.
const CACHE_SHARE: u64 = 2;

/// Why an image is not verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The image does not hold what the sources hold, and they have not changed.
    #[error("the image differs from '{}': {what}; the source has not changed since it was packed (no image was written)", path.escape_debug())]
    Differs {
        /// Path in the image.
        path: String,
        /// How the image differs.
        what: String,
    },
    /// Something in the image cannot be read back.
    #[error("cannot read '{}' back from the image: {source} (no image was written)", path.escape_debug())]
    Unreadable {
        /// Path in the image.
        path: String,
        /// Why it cannot be read.
        #[source]
        source: FsError,
    },
    /// The image cannot be opened.
    #[error("cannot open the image that was just written: {0} (no image was written)")]
    Image(#[from] MetaError),
    /// Walking the sources failed, or the observer asked to stop.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Number of names that the image and the sources have in common.
    pub names: u64,
    /// Number of regular files whose bytes were compared, each inode counted once.
    pub files: u64,
    /// Bytes of these files, holes included.
    pub bytes: u64,
}

/// Compares the image with its sources as they are now.
///
/// # Errors
/// Fails at the first difference in something that has not changed since it was packed; if the image cannot be read
/// back, descriptors run out, or the observer asks to stop.
pub fn verify(image: &Written<'_>, observer: &dyn PackObserver) -> Result<Verified, VerifyError> {
    let opened = Arc::new(Image::open(image.storage().clone(), ImageOptions::default())?);
    let options = FsOptions::suiting(opened.params());
    let share = usize::try_from(image.options().memory / CACHE_SHARE).unwrap_or(usize::MAX);
    let fs = Fs::new(opened, FsOptions { cache: options.cache.min(share), verify: true, ..options });
    let mut comparison = Comparison {
        image,
        observer,
        now: fs.now(),
        levels: Vec::new(),
        skipped: 0,
        path: Vec::new(),
        told: Cell::new(false),
        linked: HashMap::new(),
        buffers: Buffers::default(),
        done: Verified::default(),
    };
    let mut failed = None;
    let walked = image.walk(observer, &mut |entry| match comparison.entry(&entry) {
        Ok(()) => true,
        Err(error) => {
            failed = Some(error);
            false
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if observer.cancelled() {
        return Err(PackError::Cancelled.into());
    }
    match walked {
        Ok(()) => {}
        // The image may be all that is left of such a source, so it is no reason to throw the image away.
        Err(error @ PackError::Io { .. }) => {
            observer.warning(b"", &format!("the image is not verified to its end: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(comparison.done)
}

/// A directory that is being walked, in the image and in the sources.
struct Level {
    /// The entries of the directory in the image that were not met yet.
    entries: Dirents,
    /// Length of the path of the directory, and of the path without its name.
    path_len: usize,
    before: usize,
    /// Whether the directory has changed since it was packed.
    changed: bool,
}

#[derive(Default)]
struct Buffers {
    source: Vec<u8>,
    image: Vec<u8>,
}

struct Comparison<'a> {
    image: &'a Written<'a>,
    observer: &'a dyn PackObserver,
    now: Moment<'a>,
    levels: Vec<Level>,
    /// Number of open directories of the sources that the image does not have, or has as another type.
    skipped: u64,
    /// Path of the current entry within the image, and whether the observer was warned of it.
    path: Vec<u8>,
    told: Cell<bool>,
    /// Inode in the image of each source inode with several names.
    linked: HashMap<(u64, u64), InodeId>,
    buffers: Buffers,
    done: Verified,
}

/// Why the bytes of a file were not compared to the end.
enum Trouble {
    /// The source cannot be read.
    Source(Unreadable),
    /// The verification has failed.
    Fatal(VerifyError),
}

impl From<Unreadable> for Trouble {
    fn from(error: Unreadable) -> Self {
        Trouble::Source(error)
    }
}

impl Comparison<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), VerifyError> {
        let name: &[u8] = match entry {
            Entry::Enter { name, meta } => return self.enter(name, meta),
            Entry::Leave => return self.leave(),
            Entry::File { job, .. } => job.name(),
            Entry::Other { name, .. } | Entry::Link { name, .. } => name,
        };
        if self.skipped > 0 {
            return Ok(());
        }
        let before = self.push(name);
        let compared = match entry {
            Entry::File { meta, job } => self.file(meta, job),
            Entry::Other { meta, target, .. } => self.other(name, meta, target),
            Entry::Link { key, alone, .. } => self.link(name, *key, alone.as_deref()),
            Entry::Enter { .. } | Entry::Leave => Ok(()),
        };
        self.path.truncate(before);
        compared
    }

    /// Appends a name to the path, and returns the previous length.
    fn push(&mut self, name: &[u8]) -> usize {
        self.told.set(false);
        let before = self.path.len();
        if before > 0 && !name.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        before
    }

    fn shown(&self) -> String {
        if self.path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(&self.path).into_owned() }
    }

    /// Adds the path to an error of reading the image.
    fn read<T>(&self, read: Result<T, impl Into<FsError>>) -> Result<T, VerifyError> {
        read.map_err(|error| VerifyError::Unreadable { path: self.shown(), source: error.into() })
    }

    fn is_changed(&self, inode: InodeId, stamp: u64) -> Result<bool, VerifyError> {
        Ok(self.image.stamp(inode)? != Some(stamp))
    }

    /// Reports a difference at the current path: an error, or a warning if the source has changed.
    fn differs(&self, what: String, changed: bool) -> Result<(), VerifyError> {
        if !changed {
            return Err(VerifyError::Differs { path: self.shown(), what });
        }
        self.warn(&format!("it has changed since it was packed: {what}"));
        Ok(())
    }

    /// Warns of the current path, unless that was done before.
    fn warn(&self, message: &str) {
        if !self.told.replace(true) && !self.image.is_warned(&self.path) {
            self.observer.warning(&self.path, message);
        }
    }

    fn enter(&mut self, name: &[u8], meta: &Meta) -> Result<(), VerifyError> {
        if self.skipped > 0 {
            self.skipped += 1;
            return Ok(());
        }
        let before = self.push(name);
        let attr = if self.levels.is_empty() {
            Some(self.read(self.now.attr(InodeId::ROOT))?)
        } else {
            self.find(name, Some(meta.changed))?
        };
        let mut entered = None;
        if let Some(attr) = attr {
            let changed = self.is_changed(attr.inode, meta.stamp)?;
            if self.attributes(&attr, meta, changed)? {
                entered = Some((self.read(self.now.view().dirents(attr.inode, None))?, changed));
            }
        }
        match entered {
            Some((entries, changed)) => {
                self.levels.push(Level { entries, path_len: self.path.len(), before, changed });
            }
            None => {
                self.path.truncate(before);
                self.skipped = 1;
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), VerifyError> {
        if self.skipped > 0 {
            self.skipped -= 1;
            return Ok(());
        }
        self.advance_to(None)?;
        if let Some(left) = self.levels.pop() {
            self.path.truncate(left.before);
        }
        Ok(())
    }

    /// Steps over the entries of the current directory of the image whose names come before `name`: the sources do not
    /// have them any more. Returns the entry of this name, if there is one.
    fn advance_to(&mut self, name: Option<&[u8]>) -> Result<Option<DirentRow>, VerifyError> {
        while let Some(level) = self.levels.last_mut() {
            let (gone, row) = match level.entries.peek() {
                Ok(None) => return Ok(None),
                Ok(Some((found, row))) => match name.map_or(Ordering::Less, |name| found.cmp(name)) {
                    Ordering::Less => (Some(found.to_vec()), row),
                    Ordering::Equal => (None, row),
                    Ordering::Greater => return Ok(None),
                },
                Err(error) => return self.read(Err(error)),
            };
            let advanced = level.entries.advance(self.now.view());
            let path_len = level.path_len;
            self.read(advanced)?;
            match gone {
                None => return Ok(Some(row)),
                Some(gone) => self.gone(path_len, &gone),
            }
        }
        Ok(None)
    }

    /// Reports that the sources do not have an entry of the image any more. `path_len` is the length of the path of its
    /// directory.
    fn gone(&self, path_len: usize, name: &[u8]) {
        let dir = self.path.get(..path_len).unwrap_or_default();
        let between: &[u8] = if dir.is_empty() { b"" } else { b"/" };
        let path = [dir, between, name].concat();
        // A directory that could not be listed is not empty.
        if !self.image.is_warned(dir) && !self.image.is_warned(&path) {
            self.observer.warning(&path, "the image has it, but the sources do not have it any more");
        }
    }

    /// Returns the attributes of the entry `name` of the current directory of the image. If there is none, that is
    /// reported, unless the entry was left out with a warning. `changed` is the time of the last change of the entry in
    /// its source, if it is known.
    fn find(&mut self, name: &[u8], changed: Option<Time>) -> Result<Option<Attr>, VerifyError> {
        if let Some(row) = self.advance_to(Some(name))? {
            let attr = self.read(self.now.attr(row.inode))?;
            if attr.file_type != row.file_type {
                let why = FsError::io(format!("inode {}: its type differs from the one in its directory", row.inode));
                return self.read(Err(why));
            }
            self.done.names += 1;
            return Ok(Some(attr));
        }
        let (dir, dir_changed) = self.levels.last().map_or((0, false), |level| (level.path_len, level.changed));
        let dir = self.path.get(..dir).unwrap_or_default();
        if self.image.is_warned(&self.path) || self.image.is_warned(dir) {
            return Ok(None);
        }
        // Its size may have decided whether it is packed.
        if !dir_changed && changed.is_none_or(|changed| changed <= self.image.begun()) {
            return Err(VerifyError::Differs { path: self.shown(), what: "it is not in the image".to_owned() });
        }
        self.warn("it is not in the image: it was made or changed since the sources were packed");
        Ok(None)
    }

    /// Compares what all types of files have, and returns whether the types are equal.
    fn attributes(&self, attr: &Attr, meta: &Meta, changed: bool) -> Result<bool, VerifyError> {
        let same_type = FileType::of_mode(meta.mode) == Some(attr.file_type);
        let permissions = meta.mode & 0o7777;
        let xattrs = self.read(self.now.xattrs(attr.inode))?;
        let what = if !same_type {
            Some("it is of another type".to_owned())
        } else if u32::from(attr.permissions) != permissions {
            Some(format!("its permissions are {permissions:o}, and {:o} in the image", attr.permissions))
        } else if (attr.uid, attr.gid) != (meta.uid, meta.gid) {
            let (uid, gid) = (meta.uid, meta.gid);
            Some(format!("its owner is {uid}:{gid}, and {}:{} in the image", attr.uid, attr.gid))
        } else if attr.mtime != meta.mtime {
            Some("its time of modification is another one".to_owned())
        } else if xattrs != meta.xattrs && !self.image.is_warned(&self.path) {
            Some("its extended attributes are other ones".to_owned())
        } else {
            None
        };
        if let Some(what) = what {
            self.differs(what, changed)?;
        }
        Ok(same_type)
    }

    fn file(&mut self, meta: &Meta, job: &FileJob) -> Result<(), VerifyError> {
        let Some(attr) = self.find(job.name(), Some(meta.changed))? else { return Ok(()) };
        self.regular(&attr, meta, job)
    }

    /// Compares a regular file by the first of its names that is in the image.
    fn regular(&mut self, attr: &Attr, meta: &Meta, job: &FileJob) -> Result<(), VerifyError> {
        self.linked.extend(meta.link_key.map(|key| (key, attr.inode)));
        let changed = self.is_changed(attr.inode, meta.stamp)?;
        if !self.attributes(attr, meta, changed)? {
            return Ok(());
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        let compared = self.bytes(attr, job, changed, &mut buffers);
        self.buffers = buffers;
        match compared {
            Ok(()) => {}
            Err(Trouble::Source(Unreadable::Because(why))) => {
                self.warn(&format!("its bytes are not verified: {why}"));
                return Ok(());
            }
            Err(Trouble::Source(Unreadable::Shortage(error))) => {
                return Err(PackError::Descriptors { path: self.shown(), source: error.into() }.into());
            }
            Err(Trouble::Fatal(error)) => return Err(error),
        }
        self.done.files += 1;
        self.done.bytes = self.done.bytes.saturating_add(attr.size);
        self.observer.verified(self.done.files, self.done.bytes);
        Ok(())
    }

    /// Compares the bytes of a regular file.
    fn bytes(&self, attr: &Attr, job: &FileJob, changed: bool, buffers: &mut Buffers) -> Result<(), Trouble> {
        let file = job.open()?;
        let Some(what) = self.difference(attr, &file, buffers)? else { return Ok(()) };
        // It may have changed since the walk saw it, or without any trace, as files in /proc do.
        let changed =
            changed || self.is_changed(attr.inode, file.stamp()?).map_err(Trouble::Fatal)? || !tells_its_size(&file)?;
        self.differs(what, changed).map_err(Trouble::Fatal)
    }

    /// Returns how the bytes of a file differ; `None` if they are equal.
    fn difference(&self, attr: &Attr, file: &SourceFile, buffers: &mut Buffers) -> Result<Option<String>, Trouble> {
        let (size, mut at) = (attr.size, 0u64);
        let differs = |at: u64| Ok(Some(format!("its bytes from offset {at} on are other ones")));
        loop {
            if self.observer.cancelled() {
                return Err(Trouble::Fatal(PackError::Cancelled.into()));
            }
            if file.may_have_holes() {
                let data = file.next_data(at)?.min(size);
                if let Some(found) = self.first_nonzero(attr, at, data, &mut buffers.image)? {
                    return differs(found);
                }
                at = at.max(data);
            }
            // One byte more tells whether the source ends here, too.
            let wanted = (size - at).saturating_add(1).min(READ) as usize;
            buffers.source.resize(wanted, 0);
            let got = file.read_at(at, &mut buffers.source)?;
            let source = buffers.source.get(..got).unwrap_or_default();
            let packed = source.get(..(size - at).min(got as u64) as usize).unwrap_or_default();
            self.image_bytes(attr, at, packed.len(), &mut buffers.image)?;
            if *packed != *buffers.image {
                let same = packed.iter().zip(&buffers.image).take_while(|(a, b)| a == b).count();
                return differs(at + same as u64);
            }
            if packed.len() < got {
                return Ok(Some(format!("it has more bytes than the {size} bytes in the image")));
            }
            at += got as u64;
            if got < wanted {
                break;
            }
            self.observer.verified(self.done.files, self.done.bytes.saturating_add(at));
        }
        Ok((at < size).then(|| format!("it has {at} bytes, and {size} in the image")))
    }

    /// Returns the offset of the first byte of the image's file in `[from, to)` that is not zero.
    fn first_nonzero(&self, attr: &Attr, from: u64, to: u64, out: &mut Vec<u8>) -> Result<Option<u64>, Trouble> {
        let mut at = from;
        while at < to {
            at = match self.now.seek(attr.inode, at, SeekTo::Data) {
                Ok(data) if data < to => data,
                Ok(_) | Err(FsError::NoData) => break,
                Err(error) => return self.read(Err(error)).map_err(Trouble::Fatal),
            };
            let len = (to - at).min(READ) as usize;
            self.image_bytes(attr, at, len, out)?;
            if let Some(found) = out.iter().position(|&byte| byte != 0) {
                return Ok(Some(at + found as u64));
            }
            at += len as u64;
        }
        Ok(None)
    }

    fn image_bytes(&self, attr: &Attr, at: u64, len: usize, out: &mut Vec<u8>) -> Result<(), Trouble> {
        out.clear();
        self.read(self.now.read(attr.inode, at, len, out)).map_err(Trouble::Fatal)
    }

    /// Compares a symlink, device, fifo or socket.
    fn other(&mut self, name: &[u8], meta: &Meta, target: &[u8]) -> Result<(), VerifyError> {
        let Some(attr) = self.find(name, Some(meta.changed))? else { return Ok(()) };
        self.linked.extend(meta.link_key.map(|key| (key, attr.inode)));
        let changed = self.is_changed(attr.inode, meta.stamp)?;
        if !self.attributes(&attr, meta, changed)? {
            return Ok(());
        }
        match attr.file_type {
            FileType::Symlink if self.read(self.now.readlink(attr.inode))? != target => {
                self.differs("its target is another one".to_owned(), changed)
            }
            FileType::BlockDevice | FileType::CharDevice
                if attr.device != (rustix::fs::major(meta.rdev), rustix::fs::minor(meta.rdev)) =>
            {
                self.differs("its device number is another one".to_owned(), changed)
            }
            _ => Ok(()),
        }
    }

    /// Compares a further name of an inode.
    fn link(&mut self, name: &[u8], key: (u64, u64), alone: Option<&(Meta, FileJob)>) -> Result<(), VerifyError> {
        let Some(attr) = self.find(name, alone.map(|(meta, _)| meta.changed))? else { return Ok(()) };
        match (self.linked.get(&key), alone) {
            (Some(first), _) if *first == attr.inode => Ok(()),
            (Some(first), _) => {
                let changed = alone.map(|(meta, _)| self.is_changed(*first, meta.stamp)).transpose()?;
                let changed = changed.unwrap_or(false) || self.levels.last().is_some_and(|level| level.changed);
                self.differs("it is no hard link to the file of its earlier names".to_owned(), changed)
            }
            // The earlier names are not in the image.
            (None, Some((meta, job))) => self.regular(&attr, meta, job),
            (None, None) => Ok(()),
        }
    }
}

/// Returns whether the file has as many bytes as stat(2) says. Other files, as in /proc, change without any trace.
fn tells_its_size(file: &SourceFile) -> Result<bool, Unreadable> {
    let (size, mut byte) = (file.size(), [0]);
    let reaches = size == 0 || file.read_at(size - 1, &mut byte)? == 1;
    Ok(reaches && file.read_at(size, &mut byte)? == 0)
}
