//! Reads directories, from the beginning or from where a reader stopped.

use super::read::{Fs, Moment};
use super::{Attr, FsError};
use crate::format::ids::InodeId;
use crate::format::rows::FileType;

/// An entry of a directory, as a listing returns it.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Number of the inode.
    pub inode: InodeId,
    /// Type of the inode.
    pub file_type: FileType,
    /// Name of the entry.
    pub name: &'a [u8],
    /// Cookie with which the entries after this one are read.
    pub cookie: u64,
}

/// Cookies from 0 to this one mean the beginning, `.` and `..`. The entry of rank r (from 0) has the cookie this + 1 +
/// r.
pub const FIRST_COOKIES: u64 = 2;

impl Fs {
    /// Passes the entries of `dir` after `cookie` to `each`, in the byte order of their names, until it returns false.
    /// The entry for which it returned false comes first again in a call with the cookie before it. `.` and `..` are
    /// left out. Cookies are ranks; for a directory that changes, use a [`DirHandle`](super::DirHandle).
    ///
    /// # Errors
    /// `NotDirectory`, `NotFound` or `Io`.
    pub fn read_dir(
        &self,
        dir: InodeId,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), FsError> {
        self.now().read_dir(dir, cookie, each)
    }

    /// Passes entries with the attributes of each, otherwise like [`Fs::read_dir`].
    ///
    /// # Errors
    /// Fails as [`Fs::read_dir`] does. An inode that cannot be read is passed as its error.
    pub fn read_dir_plus(
        &self,
        dir: InodeId,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry<'_>, Result<Attr, FsError>) -> bool,
    ) -> Result<(), FsError> {
        let now = self.now();
        now.read_dir(dir, cookie, &mut |entry| each(entry, now.attr(entry.inode)))
    }
}

impl Moment<'_> {
    fn read_dir(&self, dir: InodeId, cookie: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), FsError> {
        let mut at = cookie.max(FIRST_COOKIES);
        let mut entries = match self.fs.resumes.0.get(&(dir, at)) {
            Some(name) => self.view().dirents(dir, Some(&name))?,
            None => {
                if self.row(dir)?.parent.is_none() {
                    return Err(FsError::NotDirectory);
                }
                let mut entries = self.view().dirents(dir, None)?;
                for _ in FIRST_COOKIES..at {
                    if entries.peek()?.is_none() {
                        return Ok(());
                    }
                    entries.advance(self.view())?;
                }
                entries
            }
        };
        // The name of the last entry that was passed, to go on from.
        let mut last: Vec<u8> = Vec::new();
        while let Some((name, row)) = entries.peek()? {
            let entry = DirEntry { inode: row.inode, file_type: row.file_type, name, cookie: at + 1 };
            if !each(entry) {
                if !last.is_empty() {
                    let weight = 64 + last.len();
                    self.fs.resumes.0.insert((dir, at), last.into(), weight);
                }
                return Ok(());
            }
            last.clear();
            last.extend_from_slice(name);
            at += 1;
            entries.advance(self.view())?;
        }
        // A reader asks once more at the end: it shall find the end without a walk.
        if !last.is_empty() {
            let weight = 64 + last.len();
            self.fs.resumes.0.insert((dir, at), last.into(), weight);
        }
        Ok(())
    }
}
