//! The target directory. Names are opened beneath it one at a time, so that nothing outside is ever touched.
//!
//! Every name is one component and is opened relative to the descriptor of its directory. Links are not followed. Only
//! the deepest directories on the way stay open; others are reopened from the target when they are needed. If the
//! process has no descriptors left, some of them are closed first; only if that does not help, it is an error.

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// Mode of everything that is made: private to its owner at first.
pub(super) const PRIVATE: Mode = Mode::RWXU;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Why a directory or name of the target cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum TargetError {
    /// The operating system refuses the call.
    #[error("{0}")]
    Os(#[from] Errno),
    /// The file or directory is the image that is being extracted, or belongs to it, and would be removed or written
    /// into.
    #[error("it is not extracted: it would replace the image that is read, its thaw log or its lock")]
    Own,
}

impl TargetError {
    /// Returns the error, if the process has run out of descriptors: such an error is not about a single file.
    pub(super) fn shortage(&self) -> Option<Errno> {
        match self {
            TargetError::Os(error) if is_shortage(*error) => Some(*error),
            _ => None,
        }
    }
}

impl TargetError {
    /// Returns the error, if it concerns the whole target: see [`is_fatal`].
    pub(super) fn fatal(&self) -> Option<Errno> {
        match self {
            TargetError::Os(error) if is_fatal(*error) => Some(*error),
            _ => None,
        }
    }
}

type Result<T, E = TargetError> = std::result::Result<T, E>;

/// Returns whether the error says that the process or the system has no descriptors left.
pub(super) fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE)
}

/// Returns whether every further file would meet this error too: no descriptors, no space, nothing may be written.
pub(super) fn is_fatal(error: Errno) -> bool {
    is_shortage(error) || matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::ROFS)
}

/// Device and inode number of a file.
pub(super) type FileId = (u64, u64);

/// Opens `name` in `dir`, unless it is a symbolic link.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, name, flags, mode, beneath) {
        // An old kernel, or a sandbox that does not know the call. A name from an image is one component and never
        // `..`, so it is enough not to follow links.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(dir, name, flags, mode),
        other => other,
    }
}

/// A directory of the target that was entered, by its name in the parent.
struct Level {
    name: Vec<u8>,
    /// Whether the directory exists: it is made only when something is put into it.
    exists: bool,
    /// Whether this extraction made the directory.
    made: bool,
    /// Id with which the directory can be opened again later, if somebody has asked for one.
    place: Option<PlaceId>,
}

/// Id of a directory that can be opened again after it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlaceId(usize);

/// A directory that can be opened again, by its name in the parent. Each is kept once, however many files have their
/// first name in it.
struct Place {
    above: Option<PlaceId>,
    name: Vec<u8>,
    /// Number of directories above this one, not counting the target.
    depth: usize,
}

/// The way from the target directory down to the current one.
pub(super) struct Target {
    root: OwnedFd,
    levels: Vec<Level>,
    /// Descriptors of the deepest levels with the number of the level, ascending without gaps.
    open: VecDeque<(usize, OwnedFd)>,
    places: Vec<Place>,
    /// Descriptors of the directories that were last opened again.
    recent: VecDeque<(PlaceId, OwnedFd)>,
    /// Most entries of `open`, and of `recent`. It shrinks when descriptors are short.
    limit: usize,
    /// Ids of the image's own files. They are never removed, and nothing is put into them.
    own: Vec<FileId>,
    /// Number of directories opened by name, not counting those that were made.
    #[cfg(test)]
    opened: usize,
}

impl Target {
    /// Makes the walk through a target. At most `limit` directories are held open on the way down, and as many that
    /// contain first names of files with several.
    ///
    /// # Errors
    /// Fails if the target itself is a directory of the image.
    pub(super) fn new(root: OwnedFd, limit: usize, own: Vec<FileId>) -> Result<Self, Errno> {
        if is_own(root.as_fd(), &own)? {
            return Err(Errno::BUSY);
        }
        Ok(Target {
            root,
            limit: limit.max(1),
            own,
            levels: Vec::new(),
            open: VecDeque::new(),
            places: Vec::new(),
            recent: VecDeque::new(),
            #[cfg(test)]
            opened: 0,
        })
    }

    /// Enters a directory, which need not exist yet.
    pub(super) fn enter(&mut self, name: &[u8]) {
        self.levels.push(Level { name: name.to_vec(), exists: false, made: false, place: None });
    }

    /// Leaves the current directory.
    pub(super) fn leave(&mut self) {
        self.levels.pop();
        if self.open.back().is_some_and(|(level, _)| *level >= self.levels.len()) {
            self.open.pop_back();
        }
    }

    /// Returns whether the current directory exists by now, and whether this extraction made it.
    pub(super) fn state(&self) -> (bool, bool) {
        self.levels.last().map_or((true, false), |level| (level.exists, level.made))
    }

    /// Closes half of the open directories, but not the deepest, and lowers the limit to what is left. Returns false if
    /// there is nothing to close.
    pub(super) fn shrink(&mut self) -> bool {
        let most = self.open.len().max(self.recent.len());
        self.limit = self.limit.min((most / 2).max(1));
        let before = self.open.len() + self.recent.len();
        self.open.drain(..self.open.len().saturating_sub(self.limit));
        self.recent.drain(..self.recent.len().min(self.recent.len().div_ceil(2)));
        self.open.len() + self.recent.len() < before
    }

    /// Returns the current directory. It and those above it are made if they do not exist. If something else has their
    /// name, it is removed if `replace` is true.
    pub(super) fn here(&mut self, replace: bool) -> Result<BorrowedFd<'_>> {
        // Go down from the deepest open directory, or from the target.
        let mut number = self.open.back().map_or(0, |(level, _)| level + 1);
        while number < self.levels.len() {
            match self.go_down(number, replace) {
                Err(error) if error.shortage().is_some() && self.shrink() => {}
                other => {
                    other?;
                    number += 1;
                }
            }
        }
        Ok(self.deepest())
    }

    /// Returns the current directory as [`Target::here`] does, with a descriptor of its own.
    pub(super) fn here_owned(&mut self) -> Result<OwnedFd> {
        loop {
            let cloned = clone(self.here(false)?);
            match cloned {
                Err(error) if is_shortage(error) && self.shrink() => {}
                other => return Ok(other?),
            }
        }
    }

    fn deepest(&self) -> BorrowedFd<'_> {
        self.open.back().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Opens or makes directory number `number` on the way from the target down. Its parent is the deepest directory
    /// that is open.
    fn go_down(&mut self, number: usize, replace: bool) -> Result<()> {
        let above = self.open.back().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        let Some(level) = self.levels.get_mut(number) else { return Ok(()) };
        let fd = if level.exists {
            #[cfg(test)]
            (self.opened += 1);
            open_beneath(above, &level.name, DIRECTORY, Mode::empty())?
        } else {
            // Note what was made even if no descriptor is left to open it.
            level.made |= make(above, &level.name, replace, &self.own)?;
            let fd = open_beneath(above, &level.name, DIRECTORY, Mode::empty()).map_err(not_followed)?;
            if !level.made && is_own(fd.as_fd(), &self.own)? {
                return Err(TargetError::Own);
            }
            level.exists = true;
            fd
        };
        self.open.push_back((number, fd));
        if self.open.len() > self.limit {
            self.open.pop_front();
        }
        Ok(())
    }

    /// Removes a name from the current directory, unless it is a directory.
    pub(super) fn remove(&mut self, name: &[u8]) -> Result<()> {
        self.here(false)?;
        remove(self.deepest(), name, &self.own)
    }

    /// Returns an id with which the current directory can be opened again later; `None` for the target itself.
    pub(super) fn place(&mut self) -> Option<PlaceId> {
        let known = self.levels.iter().rposition(|level| level.place.is_some());
        let mut above = known.and_then(|number| self.levels.get(number)?.place);
        for (depth, level) in self.levels.iter_mut().enumerate().skip(known.map_or(0, |number| number + 1)) {
            let place = PlaceId(self.places.len());
            self.places.push(Place { above, name: level.name.clone(), depth });
            level.place = Some(place);
            above = level.place;
        }
        above
    }

    /// Opens a directory again, by the id from [`Target::place`], without following symbolic links.
    pub(super) fn open(&mut self, place: Option<PlaceId>) -> Result<OwnedFd, Errno> {
        loop {
            match self.try_open(place) {
                Err(error) if is_shortage(error) && self.shrink() => {}
                other => return other,
            }
        }
    }

    fn try_open(&mut self, place: Option<PlaceId>) -> Result<OwnedFd, Errno> {
        // Go up to a directory that is open, and down again from there.
        let mut names = Vec::new();
        let mut at = place;
        let from = loop {
            let Some((id, row)) = at.and_then(|id| Some((id, self.places.get(id.0)?))) else {
                break self.root.as_fd();
            };
            if let Some(fd) = self.descriptor(id, row.depth) {
                break fd;
            }
            names.push(row.name.as_slice());
            at = row.above;
        };
        let mut fd = clone(from)?;
        for name in names.iter().rev() {
            fd = open_beneath(fd.as_fd(), name, DIRECTORY, Mode::empty())?;
        }
        #[cfg(test)]
        (self.opened += names.len());
        if let (Some(place), false, Ok(fd)) = (place, names.is_empty(), fd.try_clone()) {
            self.recent.push_back((place, fd));
            if self.recent.len() > self.limit {
                self.recent.pop_front();
            }
        }
        Ok(fd)
    }

    /// Returns the descriptor of a directory with an id from [`Target::place`], if it is open.
    fn descriptor(&self, place: PlaceId, depth: usize) -> Option<BorrowedFd<'_>> {
        let on_the_way = || {
            let level = self.levels.get(depth).filter(|level| level.place == Some(place));
            let first = self.open.front().map_or(0, |(number, _)| *number);
            level.and_then(|_| self.open.get(depth.checked_sub(first)?)).map(|(_, fd)| fd.as_fd())
        };
        let recent = self.recent.iter().find(|(recent, _)| *recent == place);
        recent.map(|(_, fd)| fd.as_fd()).or_else(on_the_way)
    }
}

fn clone(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fd.try_clone_to_owned().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))
}

/// Makes a directory, or leaves the existing one. Returns whether it was made.
fn make(above: BorrowedFd<'_>, name: &[u8], replace: bool, own: &[FileId]) -> Result<bool> {
    match rustix::fs::mkdirat(above, name, PRIVATE) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let there = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if rustix::fs::FileType::from_raw_mode(there.st_mode) == rustix::fs::FileType::Directory || !replace {
        return Ok(false);
    }
    remove(above, name, own)?;
    rustix::fs::mkdirat(above, name, PRIVATE)?;
    Ok(true)
}

/// Returns whether a directory is one of the image's own.
fn is_own(dir: BorrowedFd<'_>, own: &[FileId]) -> Result<bool, Errno> {
    if own.is_empty() {
        return Ok(false);
    }
    let there = rustix::fs::fstat(dir)?;
    Ok(own.contains(&(there.st_dev, there.st_ino)))
}

/// Removes a name that is neither a directory nor a file of the image.
fn remove(above: BorrowedFd<'_>, name: &[u8], own: &[FileId]) -> Result<()> {
    if !own.is_empty() {
        let there = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if own.contains(&(there.st_dev, there.st_ino)) {
            return Err(TargetError::Own);
        }
    }
    Ok(rustix::fs::unlinkat(above, name, AtFlags::empty())?)
}

/// Changes the error of opening a symbolic link as a directory to "not a directory".
fn not_followed(error: Errno) -> Errno {
    if error == Errno::LOOP { Errno::NOTDIR } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories held open.
    const OPEN: usize = 64;

    fn target(folder: &tempfile::TempDir) -> Target {
        Target::new(rustix::fs::open(folder.path(), DIRECTORY, Mode::empty()).unwrap(), OPEN, Vec::new()).unwrap()
    }

    fn same(one: impl AsFd, other: impl AsFd) -> bool {
        let (one, other) = (rustix::fs::fstat(one).unwrap(), rustix::fs::fstat(other).unwrap());
        (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
    }

    #[test]
    fn a_place_is_kept_once_and_opened_once_for_all_that_is_linked_to_it() {
        const LEVELS: usize = 300;
        let folder = tempfile::tempdir().unwrap();
        let mut target = target(&folder);
        (0..LEVELS).for_each(|_| target.enter(b"level"));
        let deepest = target.here(false).unwrap().try_clone_to_owned().unwrap();
        let place = target.place();
        assert!((0..10_000).all(|_| target.place() == place));
        assert_eq!(target.places.len(), LEVELS);
        (0..LEVELS).for_each(|_| target.leave());
        assert_eq!(target.place(), None);
        target.enter(b"other");
        target.here(false).unwrap();
        let before = target.opened;
        for _ in 0..1000 {
            assert!(same(target.open(place).unwrap(), &deepest));
        }
        assert_eq!(target.opened - before, LEVELS);
        // The current directory and those above it are open already.
        let here = target.place();
        assert!(same(target.open(here).unwrap(), target.here(false).unwrap()));
        assert!(same(target.open(None).unwrap(), &target.root));
        assert_eq!(target.opened - before, LEVELS);
    }

    #[test]
    fn coming_back_up_from_the_depth_opens_few_directories_for_each_level() {
        const LEVELS: usize = 1000;
        let folder = tempfile::tempdir().unwrap();
        let mut target = target(&folder);
        for _ in 0..LEVELS {
            target.enter(b"level");
            target.here(false).unwrap();
        }
        for _ in 0..LEVELS {
            target.here(false).unwrap();
            target.leave();
            assert!(target.open.len() <= OPEN);
        }
        assert!(target.opened <= LEVELS * LEVELS / OPEN, "{} opened", target.opened);
    }

    #[test]
    fn a_place_that_became_a_link_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let mut target = target(&folder);
        target.enter(b"a");
        target.enter(b"b");
        target.here(false).unwrap();
        let place = target.place();
        (0..2).for_each(|_| target.leave());
        std::fs::rename(folder.path().join("a"), folder.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("a")).unwrap();
        std::fs::create_dir(outside.path().join("b")).unwrap();
        assert!(target.open(place).is_err());
        target.enter(b"a");
        assert_eq!(target.here(false).unwrap_err(), TargetError::Os(Errno::NOTDIR));
    }

    #[test]
    fn directories_are_closed_when_descriptors_are_short_but_not_the_deepest() {
        let folder = tempfile::tempdir().unwrap();
        let mut target = target(&folder);
        (0..100).for_each(|_| target.enter(b"level"));
        let deepest = target.here(false).unwrap().try_clone_to_owned().unwrap();
        for expected in [32, 16, 8, 4, 2, 1] {
            assert!(target.shrink());
            assert_eq!(target.open.len(), expected);
        }
        assert!(!target.shrink());
        assert!(same(target.here_owned().unwrap(), &deepest));
        for _ in 0..50 {
            target.leave();
        }
        target.here(false).unwrap();
        assert_eq!(target.open.len(), 1, "no more are held from then on");
    }
}
