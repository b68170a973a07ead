//! The target folder: opened beneath itself one name at a time, so that nothing outside of it is ever touched.
//!
//! Every name is one component, is opened relative to the descriptor of its folder, and links are not followed. Only the
//! deepest folders on the way stay open; others are opened again by going down from the target when they are needed.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Folders held open besides the target.
const OPEN: usize = 128;
/// Everything that is made is first its owner's alone.
pub(super) const PRIVATE: Mode = Mode::RWXU;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens what `dir` holds under `name`, if it is not a link.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, name, flags, mode, beneath) {
        // An old kernel, or a sandbox that does not know the call. A name from an image is one component and never `..`,
        // so not following it is enough.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(dir, name, flags, mode),
        other => other,
    }
}

/// A folder of the target that is gone into, by its name in the one above.
struct Level {
    name: Vec<u8>,
    /// Whether it is there: it is made only when something is put into it.
    exists: bool,
    /// Whether it was made by this extraction.
    made: bool,
}

/// The way from the target folder down to where things are put now.
pub(super) struct Target {
    root: OwnedFd,
    levels: Vec<Level>,
    /// Descriptors of the deepest levels, by number of the level, ascending without gap.
    open: VecDeque<(usize, OwnedFd)>,
}

impl Target {
    pub(super) fn new(root: OwnedFd) -> Self {
        Target { root, levels: Vec::new(), open: VecDeque::new() }
    }

    /// The target folder itself.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Goes into a folder, which need not be there yet.
    pub(super) fn enter(&mut self, name: &[u8]) {
        self.levels.push(Level { name: name.to_vec(), exists: false, made: false });
    }

    /// Goes back out of it.
    pub(super) fn leave(&mut self) {
        self.levels.pop();
        if self.open.back().is_some_and(|(level, _)| *level >= self.levels.len()) {
            self.open.pop_back();
        }
    }

    /// Whether the folder it is in is there by now, and whether it was made by this extraction.
    pub(super) fn state(&self) -> (bool, bool) {
        self.levels.last().map_or((true, false), |level| (level.exists, level.made))
    }

    /// The folder it is in; makes it, and those above it, if they are not there. If something else stands there, it is
    /// removed if `replace` is true.
    pub(super) fn here(&mut self, replace: bool) -> Result<BorrowedFd<'_>> {
        let depth = self.levels.len();
        if self.open.back().is_some_and(|(level, _)| *level + 1 == depth) || depth == 0 {
            return Ok(self.open.back().filter(|_| depth > 0).map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()));
        }
        // What is open is above; from its deepest on down, or from the target.
        for number in self.open.back().map_or(0, |(level, _)| level + 1)..depth {
            let above = self.open.back().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let Some(level) = self.levels.get_mut(number) else { break };
            let fd = if level.exists {
                open_beneath(above, &level.name, DIRECTORY, Mode::empty())?
            } else {
                let (fd, made) = make(above, &level.name, replace)?;
                (level.exists, level.made) = (true, made);
                fd
            };
            self.open.push_back((number, fd));
            if self.open.len() > OPEN {
                self.open.pop_front();
            }
        }
        Ok(self.open.back().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// The names from the target down to where it is.
    pub(super) fn names(&self) -> Vec<Vec<u8>> {
        self.levels.iter().map(|level| level.name.clone()).collect()
    }

    /// Opens a folder by the names that lead to it; `None` stands for the target itself.
    pub(super) fn open_names(&self, names: &[Vec<u8>]) -> Result<Option<OwnedFd>> {
        let mut at: Option<OwnedFd> = None;
        for name in names {
            let above = at.as_ref().map_or(self.root.as_fd(), |fd| fd.as_fd());
            at = Some(open_beneath(above, name, DIRECTORY, Mode::empty())?);
        }
        Ok(at)
    }
}

/// Makes a folder, or takes the one that is there. Says whether it was made.
fn make(above: BorrowedFd<'_>, name: &[u8], replace: bool) -> Result<(OwnedFd, bool)> {
    let made = match rustix::fs::mkdirat(above, name, PRIVATE) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    match open_beneath(above, name, DIRECTORY, Mode::empty()) {
        // Something that is no folder, or a link.
        Err(Errno::NOTDIR | Errno::LOOP) if replace && !made => {
            rustix::fs::unlinkat(above, name, rustix::fs::AtFlags::empty())?;
            rustix::fs::mkdirat(above, name, PRIVATE)?;
            Ok((open_beneath(above, name, DIRECTORY, Mode::empty())?, true))
        }
        Err(Errno::LOOP) => Err(Errno::NOTDIR),
        other => other.map(|fd| (fd, made)),
    }
}
