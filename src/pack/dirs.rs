//! Directories of the sources. A bounded number stays open; the others are reopened when they are needed.
//!
//! Invariants: a directory below a source is opened by its name relative to its parent's descriptor, and no link is
//! followed. A reopened directory must have the same device and inode as before; otherwise it is an error. So paths of
//! any length work, and a directory that replaces another meanwhile is not packed. Called by the walk, and by readers
//! for the directories of their files.

use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use thiserror::Error;

/// Number of ancestors that stay open when a directory is reopened through them: the deepest ones, because they are
/// needed next.
const ON_THE_WAY: usize = 16;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why a source directory cannot be opened.
#[derive(Debug, Error)]
pub(super) enum DirError {
    #[error("{}", io::Error::from(*.0))]
    Os(Errno),
    #[error("the directory was replaced by another one while it was packed")]
    Replaced,
}

impl From<Errno> for DirError {
    fn from(error: Errno) -> Self {
        DirError::Os(error)
    }
}

impl DirError {
    /// Returns the error if descriptors ran out. Nothing is wrong with the directory then, so nothing in it may be left
    /// out.
    pub(super) fn shortage(&self) -> Option<Errno> {
        match self {
            DirError::Os(error) if is_shortage(*error) => Some(*error),
            _ => None,
        }
    }
}

/// Returns whether the error says that the process, or the system, has no descriptor left.
pub(super) fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE)
}

/// Keeps the most recently opened directories open, up to a limit.
#[derive(Debug)]
pub(super) struct Pool(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    open: VecDeque<Arc<OwnedFd>>,
    limit: usize,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Pool(Mutex::new(Kept { open: VecDeque::new(), limit })))
    }

    fn keep(&self, fd: &Arc<OwnedFd>) {
        let mut kept = self.0.lock();
        kept.open.push_back(fd.clone());
        let oldest = if kept.open.len() > kept.limit { kept.open.pop_front() } else { None };
        drop(kept);
        // Close it after the lock is released.
        drop(oldest);
    }

    /// Closes half of the kept directories and lowers the limit to the rest. Returns false if there is nothing to
    /// close.
    fn shrink(&self) -> bool {
        let mut kept = self.0.lock();
        let half = kept.open.len().div_ceil(2);
        kept.limit = kept.limit.min(kept.open.len() - half);
        let closed: Vec<_> = kept.open.drain(..half).collect();
        drop(kept);
        !closed.is_empty()
    }

    /// Calls `open`, and again as long as descriptors do not suffice and there are kept directories to close.
    pub(super) fn with_room<T>(&self, open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        loop {
            match open() {
                Err(error) if is_shortage(error) && self.shrink() => {}
                opened => return opened,
            }
        }
    }
}

/// A source directory, open or closed. It can be reopened when it is needed.
#[derive(Debug)]
pub(super) struct Directory {
    pool: Arc<Pool>,
    place: Place,
    /// Device and inode number of the directory.
    id: (u64, u64),
    fd: Mutex<Weak<OwnedFd>>,
}

#[derive(Debug)]
enum Place {
    /// The path that the user gave.
    Path { path: PathBuf, flags: OFlags },
    /// The name in a parent directory. `parent` is `None` only while the directory is dropped.
    Below { parent: Option<Arc<Directory>>, name: Box<[u8]> },
}

/// A directory just opened for the first time.
pub(super) struct Opened {
    pub(super) dir: Arc<Directory>,
    pub(super) fd: Arc<OwnedFd>,
    pub(super) stat: Stat,
}

impl Directory {
    /// Opens a directory by its path, following links.
    pub(super) fn open(pool: &Arc<Pool>, path: &Path) -> Result<Opened, Errno> {
        Self::first(pool, Place::Path { path: path.to_owned(), flags: DIRECTORY }, CWD)
    }

    /// Opens a directory by its path for access to its entries, not for listing; search permission is enough.
    pub(super) fn open_to_search(pool: &Arc<Pool>, path: &Path) -> Result<Opened, Errno> {
        Self::first(pool, Place::Path { path: path.to_owned(), flags: DIRECTORY | OFlags::PATH }, CWD)
    }

    /// Opens the directory `name` in this directory, whose descriptor is `fd`.
    pub(super) fn open_below(self: &Arc<Self>, fd: &OwnedFd, name: &[u8]) -> Result<Opened, Errno> {
        Self::first(&self.pool, Place::Below { parent: Some(self.clone()), name: name.into() }, fd)
    }

    fn first(pool: &Arc<Pool>, place: Place, parent: impl AsFd) -> Result<Opened, Errno> {
        let fd = Arc::new(pool.with_room(|| place.open(&parent))?);
        let stat = rustix::fs::fstat(&*fd)?;
        pool.keep(&fd);
        let open = Mutex::new(Arc::downgrade(&fd));
        let dir = Directory { pool: pool.clone(), place, id: (stat.st_dev, stat.st_ino), fd: open };
        Ok(Opened { dir: Arc::new(dir), fd, stat })
    }

    /// Returns the pool that keeps the directory's descriptor.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the directory's descriptor.
    ///
    /// # Errors
    /// Fails if the directory, or one of its ancestors, could not be reopened.
    pub(super) fn fd(&self) -> Result<Arc<OwnedFd>, DirError> {
        let mut closed = Vec::new();
        let mut at = self;
        let mut fd = loop {
            if let Some(fd) = at.open_fd() {
                break fd;
            }
            match &at.place {
                Place::Below { parent: Some(parent), .. } => {
                    closed.push(at);
                    at = parent;
                }
                Place::Path { .. } | Place::Below { parent: None, .. } => break at.again(CWD)?,
            }
        };
        while let Some(dir) = closed.pop() {
            fd = dir.again(&*fd)?;
            if closed.len() < ON_THE_WAY {
                dir.keep(&fd);
            }
        }
        Ok(fd)
    }

    /// Returns the directory's descriptor, given the descriptor `below` of one of its subdirectories: however deep it
    /// is, one step up (`..`) reaches it.
    pub(super) fn fd_from_below(&self, below: &OwnedFd) -> Result<Arc<OwnedFd>, DirError> {
        if let Some(fd) = self.open_fd() {
            return Ok(fd);
        }
        match self.pool.with_room(|| rustix::fs::openat(below, "..", DIRECTORY, Mode::empty())) {
            Ok(fd) if self.is(&fd)? => {
                let fd = Arc::new(fd);
                self.keep(&fd);
                Ok(fd)
            }
            // The subdirectory was moved.
            _ => self.fd(),
        }
    }

    fn open_fd(&self) -> Option<Arc<OwnedFd>> {
        self.fd.lock().upgrade()
    }

    fn keep(&self, fd: &Arc<OwnedFd>) {
        *self.fd.lock() = Arc::downgrade(fd);
        self.pool.keep(fd);
    }

    fn again(&self, parent: impl AsFd) -> Result<Arc<OwnedFd>, DirError> {
        let fd = self.pool.with_room(|| self.place.open(&parent))?;
        if self.is(&fd)? { Ok(Arc::new(fd)) } else { Err(DirError::Replaced) }
    }

    fn is(&self, fd: &OwnedFd) -> Result<bool, Errno> {
        let stat = rustix::fs::fstat(fd)?;
        Ok((stat.st_dev, stat.st_ino) == self.id)
    }

    fn take_parent(&mut self) -> Option<Arc<Directory>> {
        match &mut self.place {
            Place::Below { parent, .. } => parent.take(),
            Place::Path { .. } => None,
        }
    }
}

impl Place {
    fn open(&self, parent: impl AsFd) -> Result<OwnedFd, Errno> {
        match self {
            Place::Path { path, flags } => rustix::fs::openat(parent, path, *flags, Mode::empty()),
            Place::Below { name, .. } => {
                rustix::fs::openat(parent, OsStr::from_bytes(name), DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            }
        }
    }
}

impl Drop for Directory {
    /// Drops one parent after another, so that a deep tree needs no deep stack.
    fn drop(&mut self) {
        let mut next = self.take_parent();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut parent| parent.take_parent());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Opens each directory of `root/0/1/2/…`; the pool keeps `limit` of them open.
    fn chain(root: &Path, depth: usize, limit: usize) -> Vec<Arc<Directory>> {
        let pool = Pool::new(limit);
        let opened = Directory::open(&pool, root).unwrap();
        let (mut dirs, mut fd) = (vec![opened.dir], opened.fd);
        for n in 0..depth {
            let name = n.to_string();
            rustix::fs::mkdirat(&*fd, &name, Mode::RWXU).unwrap();
            let opened = dirs[n].open_below(&fd, name.as_bytes()).unwrap();
            dirs.push(opened.dir);
            fd = opened.fd;
        }
        dirs
    }

    fn open_ones(dirs: &[Arc<Directory>]) -> usize {
        dirs.iter().filter(|dir| dir.open_fd().is_some()).count()
    }

    #[test]
    fn of_many_directories_few_stay_open_and_each_can_be_opened_again() {
        let root = tempfile::tempdir().unwrap();
        let dirs = chain(root.path(), 200, 10);
        assert_eq!(open_ones(&dirs), 10);
        for dir in dirs.iter().rev().chain(&dirs) {
            assert!(dir.is(&dir.fd().unwrap()).unwrap());
            assert!(open_ones(&dirs) <= 10);
        }
        for pair in dirs.windows(2).rev() {
            let below = pair[1].fd().unwrap();
            assert!(pair[0].is(&pair[0].fd_from_below(&below).unwrap()).unwrap());
        }
    }

    #[test]
    fn a_chain_as_deep_as_can_be_is_dropped_without_a_deep_stack() {
        let root = tempfile::tempdir().unwrap();
        let opened = Directory::open(&Pool::new(1), root.path()).unwrap();
        let mut last = opened.dir;
        for _ in 0..500_000 {
            let place = Place::Below { parent: Some(last.clone()), name: Box::default() };
            last = Arc::new(Directory { pool: last.pool.clone(), place, id: (0, 0), fd: Mutex::default() });
        }
        drop(last);
    }

    #[test]
    fn what_was_put_in_the_place_of_a_directory_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(outside.path().join("1")).unwrap();
        // The pool keeps two, so directory 1 is closed after 2 and 3 are opened.
        let dirs = chain(root.path(), 4, 2);
        let (at, away) = (root.path().join("0"), root.path().join("away"));
        fs::rename(&at, &away).unwrap();
        assert!(matches!(dirs[2].fd(), Err(DirError::Os(Errno::NOENT))));
        symlink(outside.path(), &at).unwrap();
        assert!(matches!(dirs[2].fd(), Err(DirError::Os(Errno::NOTDIR | Errno::LOOP))));
        fs::remove_file(&at).unwrap();
        fs::create_dir_all(at.join("1")).unwrap();
        assert!(matches!(dirs[2].fd(), Err(DirError::Replaced)));
        // From below it is found wherever it is now.
        let below = dirs[4].fd().unwrap();
        let above = dirs[3].fd_from_below(&below).unwrap();
        assert!(dirs[2].fd_from_below(&above).is_ok());
        fs::remove_dir_all(&at).unwrap();
        fs::rename(&away, &at).unwrap();
        assert!(dirs[1].fd().is_ok());
    }

    #[test]
    fn directories_are_closed_when_descriptors_are_short_and_only_then_is_it_an_error() {
        let root = tempfile::tempdir().unwrap();
        let dirs = chain(root.path(), 9, 10);
        assert_eq!(open_ones(&dirs), 10);
        let pool = dirs[0].pool();
        let tried = std::cell::Cell::new(0);
        let third = || {
            tried.set(tried.get() + 1);
            if tried.get() < 3 { Err(Errno::MFILE) } else { Ok(()) }
        };
        assert_eq!(pool.with_room(third), Ok(()));
        assert_eq!(open_ones(&dirs), 2);
        assert_eq!(pool.with_room(|| Err::<(), _>(Errno::NFILE)), Err(Errno::NFILE));
        assert_eq!(open_ones(&dirs), 0);
        assert!(dirs[9].fd().is_ok());
    }
}
