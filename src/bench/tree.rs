//! Walks a tree, the source or a mounted one, in path order: the names of a directory sorted by their bytes, a
//! subdirectory at its name's place.
//!
//! No link is followed, and visitors open files relative to the directory's descriptor. One descriptor stays open for
//! each level. Called by `survey` and `reading`.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An entry of a directory that a walk found.
pub(super) struct Found<'a> {
    /// Descriptor of the directory.
    pub(super) directory: BorrowedFd<'a>,
    /// Name of the entry in the directory.
    pub(super) name: &'a CStr,
    /// Path of the entry from the root.
    pub(super) path: &'a [u8],
    /// Type of the entry.
    pub(super) kind: FileType,
}

impl Found<'_> {
    /// Returns the attributes of the entry.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(statat(self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens a regular file for reading.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        // If a FIFO replaced it, opening must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(openat(self.directory, self.name, flags, Mode::empty())?)
    }
}

/// Receives the entries of the walk.
pub(super) trait Visitor {
    /// Receives an entry; a directory comes before its entries.
    fn entry(&mut self, found: &Found<'_>) -> io::Result<()>;
    /// Called when all entries of the directory last entered were visited.
    fn left(&mut self) {}
    /// Called when something cannot be read. If it returns an error, the walk ends.
    fn unreadable(&mut self, path: &[u8], error: io::Error) -> io::Result<()>;
}

struct Level {
    directory: OwnedFd,
    names: std::vec::IntoIter<(CString, FileType)>,
    /// Length of the directory's path in bytes.
    path: usize,
}

/// Visits everything below `root`, but not `root` itself.
pub(super) fn walk(root: &Path, visitor: &mut dyn Visitor) -> io::Result<()> {
    let directory = rustix::fs::open(root, LIST, Mode::empty())?;
    let mut path = Vec::new();
    let mut levels = vec![Level { names: names(&directory)?, directory, path: 0 }];
    while let Some(level) = levels.last_mut() {
        path.truncate(level.path);
        let Some((name, kind)) = level.names.next() else {
            levels.pop();
            if !levels.is_empty() {
                visitor.left();
            }
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name.to_bytes());
        match step(level, &name, kind, &path, visitor) {
            Ok(below) => levels.extend(below),
            Err(Failed::Visitor(error)) => return Err(error),
            Err(Failed::Entry(error)) => visitor.unreadable(&path, error)?,
        }
    }
    Ok(())
}

enum Failed {
    Visitor(io::Error),
    Entry(io::Error),
}

impl From<rustix::io::Errno> for Failed {
    fn from(errno: rustix::io::Errno) -> Self {
        Failed::Entry(errno.into())
    }
}

fn step(
    level: &Level,
    name: &CStr,
    kind: FileType,
    path: &[u8],
    visitor: &mut dyn Visitor,
) -> Result<Option<Level>, Failed> {
    use std::os::fd::AsFd;
    let directory = level.directory.as_fd();
    let kind = match kind {
        FileType::Unknown => FileType::from_raw_mode(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
        known => known,
    };
    let found = Found { directory, name, path, kind };
    visitor.entry(&found).map_err(Failed::Visitor)?;
    if kind != FileType::Directory {
        return Ok(None);
    }
    let opened = openat(directory, name, LIST, Mode::empty()).map_err(io::Error::from);
    match opened.and_then(|below| Ok(Level { names: names(&below)?, directory: below, path: path.len() })) {
        Ok(below) => Ok(Some(below)),
        Err(error) => {
            visitor.left();
            Err(Failed::Entry(error))
        }
    }
}

fn names(directory: &OwnedFd) -> io::Result<std::vec::IntoIter<(CString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Visitor for Notes {
        fn entry(&mut self, found: &Found<'_>) -> io::Result<()> {
            self.0.push(String::from_utf8_lossy(found.path).into_owned());
            Ok(())
        }

        fn left(&mut self) {
            self.0.push("..".to_owned());
        }

        fn unreadable(&mut self, _: &[u8], error: io::Error) -> io::Result<()> {
            Err(error)
        }
    }

    #[test]
    fn names_come_by_their_bytes_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["b/c", "a"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for file in ["b/c/1", "b/z", "b.txt", "a/x"] {
            std::fs::write(root.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("b", root.path().join("link")).unwrap();
        let mut notes = Notes::default();
        walk(root.path(), &mut notes).unwrap();
        assert_eq!(notes.0.join(" "), "a a/x .. b b/c b/c/1 .. b/z .. b.txt link");
    }
}
