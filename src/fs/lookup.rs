//! Answers about one inode or name: attributes, look-ups, paths, link targets, extended attributes.

use super::read::{Fs, Moment};
use super::{Attr, FsError};
use crate::format::ids::InodeId;
use crate::format::limits;
use crate::format::rows::XattrSet;

/// Most symlinks that a path may go through, as in Linux.
const SYMLINK_HOPS: usize = 40;

impl Moment<'_> {
    pub(super) fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        let row = self.row(inode)?;
        Ok(Attr::of(inode, &row, self.allocated(inode, &row)?))
    }

    fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        if name.len() > limits::NAME_LEN {
            return Err(FsError::NameTooLong);
        }
        let entry = self.view().lookup(parent, name)?.ok_or(FsError::NotFound)?;
        let row = self.view().inode(entry.inode)?.ok_or_else(|| dangling(entry.inode))?;
        if row.file_type != entry.file_type {
            return Err(FsError::io(format!("inode {}: its type differs from the one in its directory", entry.inode)));
        }
        Ok(Attr::of(entry.inode, &row, self.allocated(entry.inode, &row)?))
    }

    fn resolve(&self, path: &[u8]) -> Result<Attr, FsError> {
        let mut at = self.attr(InodeId::ROOT)?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            at = if name == b".." { self.attr(self.parent(at.inode)?)? } else { self.lookup(at.inode, name)? };
        }
        Ok(at)
    }

    fn resolve_following(&self, path: &[u8]) -> Result<Attr, FsError> {
        let mut at = self.attr(InodeId::ROOT)?;
        let mut todo: Vec<Vec<u8>> = path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
        // The directories from below the root to the current one.
        let root = at;
        let mut dirs: Vec<Attr> = Vec::new();
        let mut hops = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => {}
                b".." => {
                    dirs.pop();
                    at = *dirs.last().unwrap_or(&root);
                }
                _ => {
                    at = self.lookup(dirs.last().unwrap_or(&root).inode, &name)?;
                    if at.is_symlink() {
                        hops += 1;
                        if hops > SYMLINK_HOPS {
                            return Err(FsError::TooManyLinks);
                        }
                        let target = self.readlink(at.inode)?;
                        if target.starts_with(b"/") {
                            dirs.clear();
                        }
                        todo.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                        at = *dirs.last().unwrap_or(&root);
                    } else if at.is_dir() {
                        dirs.push(at);
                    } else if todo.iter().any(|rest| !rest.is_empty()) {
                        return Err(FsError::NotDirectory);
                    }
                }
            }
        }
        Ok(at)
    }

    pub(super) fn readlink(&self, inode: InodeId) -> Result<Vec<u8>, FsError> {
        let row = self.row(inode)?;
        if row.target.is_empty() { Err(FsError::NotSymlink) } else { Ok(row.target) }
    }

    fn parent(&self, inode: InodeId) -> Result<InodeId, FsError> {
        self.row(inode)?.parent.ok_or(FsError::NotDirectory)
    }

    pub(super) fn xattrs(&self, inode: InodeId) -> Result<XattrSet, FsError> {
        Ok(self.view().xattrs(&self.row(inode)?)?)
    }
}

impl Fs {
    /// Returns the attributes of an inode.
    ///
    /// # Errors
    /// Fails with `NotFound`, or with `Io` if its row cannot be read.
    pub fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        self.now().attr(inode)
    }

    /// Returns the attributes of the entry `name` of directory `parent`.
    ///
    /// # Errors
    /// Fails with `NotFound` or `NameTooLong`, or with `Io` if the tables cannot be read or contradict each other.
    pub fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        self.now().lookup(parent, name)
    }

    /// Returns the attributes of the file at a path from the root. Empty components and `.` are skipped, `..` goes up,
    /// and no symlink is followed.
    ///
    /// # Errors
    /// Fails as [`Fs::lookup`] does, or with `NotDirectory`.
    pub fn resolve(&self, path: &[u8]) -> Result<Attr, FsError> {
        self.now().resolve(path)
    }

    /// Returns the attributes of the file at a path, following symlinks within the image, also the last one.
    ///
    /// # Errors
    /// Fails as [`Fs::resolve`] does, or with `TooManyLinks`.
    pub fn resolve_following(&self, path: &[u8]) -> Result<Attr, FsError> {
        self.now().resolve_following(path)
    }

    /// Returns the target of a symlink.
    ///
    /// # Errors
    /// Fails with `NotSymlink`, `NotFound` or `Io`.
    pub fn readlink(&self, inode: InodeId) -> Result<Vec<u8>, FsError> {
        self.now().readlink(inode)
    }

    /// Returns the parent directory of directory `inode`.
    ///
    /// # Errors
    /// Fails with `NotDirectory`, `NotFound` or `Io`.
    pub fn parent(&self, inode: InodeId) -> Result<InodeId, FsError> {
        self.now().parent(inode)
    }

    /// Returns the value of an xattr; `None` if the inode has none of that name.
    ///
    /// # Errors
    /// Fails with `NotFound` or `Io`.
    pub fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        Ok(self.xattrs(inode)?.get(name).map(<[u8]>::to_vec))
    }

    /// Returns all xattrs of an inode.
    ///
    /// # Errors
    /// Fails with `NotFound` or `Io`.
    pub fn xattrs(&self, inode: InodeId) -> Result<XattrSet, FsError> {
        self.now().xattrs(inode)
    }

    /// Returns the names of an inode's xattrs.
    ///
    /// # Errors
    /// Fails with `NotFound` or `Io`.
    pub fn xattr_names(&self, inode: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
        Ok(self.xattrs(inode)?.0.into_iter().map(|xattr| xattr.name).collect())
    }
}

fn dangling(inode: InodeId) -> FsError {
    FsError::io(format!("inode {inode} is named by a directory but does not exist"))
}
