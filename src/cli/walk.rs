//! Over the directories of an image in path order, for commands that list or print.
//!
//! An image made by a stranger may name one directory twice, or within itself: each is gone into once.

use crate::format::ids::InodeId;
use crate::fs::{Attr, Fs, FsError};
use std::collections::HashSet;

/// Number of entries read from a directory at once.
const BATCH: usize = 1024;

/// A callback that is given the path and attributes of an entry, and returns whether to go into it if it is a
/// directory.
pub type Visit<'a> = dyn FnMut(&[u8], &Attr) -> anyhow::Result<bool> + 'a;

/// A walk over the directories of a filesystem.
pub struct Walk<'a> {
    fs: &'a Fs,
    entered: HashSet<InodeId>,
}

/// A directory that is being walked.
struct Level {
    dir: InodeId,
    /// Length of the path up to the directory's own name, in bytes.
    path: usize,
    cookie: u64,
    batch: std::vec::IntoIter<(InodeId, Vec<u8>)>,
}

impl<'a> Walk<'a> {
    /// Makes a walk that has not begun.
    pub fn new(fs: &'a Fs) -> Self {
        Walk { fs, entered: HashSet::new() }
    }

    /// Visits everything in the directory `dir`; paths begin with `path`, its own.
    ///
    /// # Errors
    /// Fails as the image or the visitor does; the walk ends there.
    pub fn below(&mut self, dir: InodeId, path: &[u8], visit: &mut Visit<'_>) -> anyhow::Result<()> {
        let mut path = path.to_vec();
        let mut levels = Vec::new();
        self.enter(dir, &path, &mut levels);
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            let Some((inode, name)) = level.next(self.fs)? else {
                levels.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let attr = self.fs.attr(inode)?;
            if visit(&path, &attr)? && attr.is_dir() {
                self.enter(inode, &path, &mut levels);
            }
        }
        Ok(())
    }

    fn enter(&mut self, dir: InodeId, path: &[u8], levels: &mut Vec<Level>) {
        if self.entered.insert(dir) {
            levels.push(Level { dir, path: path.len(), cookie: 0, batch: Vec::new().into_iter() });
        }
    }
}

impl Level {
    fn next(&mut self, fs: &Fs) -> Result<Option<(InodeId, Vec<u8>)>, FsError> {
        if let Some(entry) = self.batch.next() {
            return Ok(Some(entry));
        }
        let mut batch = Vec::new();
        let mut cookie = self.cookie;
        fs.read_dir(self.dir, cookie, &mut |entry| {
            let wanted = batch.len() < BATCH;
            if wanted {
                batch.push((entry.inode, entry.name.to_vec()));
                cookie = entry.cookie;
            }
            wanted
        })?;
        self.cookie = cookie;
        self.batch = batch.into_iter();
        Ok(self.batch.next())
    }
}
