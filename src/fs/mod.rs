//! The filesystem itself, in floe's own types: look-up, attributes, directories, reading. No FUSE in it.
//!
//! [`Fs`] serves one version of an image, read-only, to any number of threads. Every call is complete in itself: no
//! handles, no look-up counts. Errors carry what an application gets ([`FsError::errno`]) and what a person needs.
//! Callers: fuse, cli, care.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attr;
mod digest;
mod dir;
mod error;
pub mod extents;
pub mod extract;
mod file;
mod resumes;
mod thawed;
mod whereabouts;

pub use attr::{Attr, StatFs};
pub use digest::digest;
pub use dir::DirEntry;
pub use error::FsError;
pub use file::SeekTo;

use crate::format::ids::{ContentId, InodeId};
use crate::format::rows::{InodeRow, XattrSet};
use crate::inflate::WorkingSet;
use crate::meta::{ByteLru, Image, View};
use resumes::Resumes;
use std::sync::Arc;

/// How to serve an image.
#[derive(Debug, Clone, Copy)]
pub struct FsOptions {
    /// Bytes of memory for inflated superchunks.
    pub cache: usize,
    /// Threads that inflate ahead of sequential readers; 0 for none.
    pub readahead: usize,
    /// Every subchunk read is checked against its own identity, not only those of damaged superchunks.
    pub verify: bool,
}

impl Default for FsOptions {
    fn default() -> Self {
        FsOptions { cache: 256 << 20, readahead: 2, verify: false }
    }
}

/// As many symlinks a path may go through, as in Linux.
const SYMLINK_HOPS: usize = 40;

/// An image as a filesystem.
pub struct Fs {
    view: View,
    working_set: WorkingSet,
    resumes: Resumes,
    /// Where contents end: every stat asks for it, and many inodes may have the same content.
    content_ends: ByteLru<ContentId, u64>,
    /// Bytes in thawed ranges, of each inode that was asked for.
    thawed: ByteLru<InodeId, u64>,
}

impl Fs {
    /// Serves the image. Reads nothing yet.
    pub fn new(image: Arc<Image>, options: FsOptions) -> Arc<Self> {
        let working_set = WorkingSet::new(image.clone(), options.cache, options.readahead).verifying(options.verify);
        Arc::new(Fs {
            view: View::of(image),
            working_set,
            resumes: Resumes::new(),
            content_ends: ByteLru::new(1 << 20, 4),
            thawed: ByteLru::new(1 << 20, 4),
        })
    }

    /// The image.
    pub fn image(&self) -> &Arc<Image> {
        self.view.version()
    }

    /// What it serves.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The working set.
    pub fn working_set(&self) -> &WorkingSet {
        &self.working_set
    }

    fn row(&self, inode: InodeId) -> Result<InodeRow, FsError> {
        self.view.inode(inode)?.ok_or(FsError::NotFound)
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// `NotFound`, or `Io` if its row cannot be read.
    pub fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        self.attr_of(inode, &self.row(inode)?)
    }

    /// The attributes of what directory `parent` holds under `name`.
    ///
    /// # Errors
    /// `NotFound`, or `Io` if the tables cannot be read or contradict each other.
    pub fn lookup(&self, parent: InodeId, name: &[u8]) -> Result<Attr, FsError> {
        let entry = self.view.lookup(parent, name)?.ok_or(FsError::NotFound)?;
        let row = self.view.inode(entry.inode)?.ok_or_else(|| dangling(entry.inode))?;
        if row.file_type != entry.file_type {
            return Err(FsError::io(format!("inode {} is not of the type its directory says", entry.inode)));
        }
        self.attr_of(entry.inode, &row)
    }

    /// The attributes of a path from the root; empty components and `.` are passed over, `..` goes up, no symlink
    /// is followed.
    ///
    /// # Errors
    /// As [`Fs::lookup`], or `NotDirectory`.
    pub fn resolve(&self, path: &[u8]) -> Result<Attr, FsError> {
        let mut at = self.attr(InodeId::ROOT)?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            at = if name == b".." { self.attr(self.parent(at.inode)?)? } else { self.lookup(at.inode, name)? };
        }
        Ok(at)
    }

    /// As [`Fs::resolve`], following symlinks within the image, the last one too.
    ///
    /// # Errors
    /// As [`Fs::resolve`], or `TooManyLinks`.
    pub fn resolve_following(&self, path: &[u8]) -> Result<Attr, FsError> {
        let mut at = self.attr(InodeId::ROOT)?;
        let mut todo: Vec<Vec<u8>> = path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
        // The directories from below the root to where it is.
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

    /// The target of a symlink.
    ///
    /// # Errors
    /// `NotSymlink`, `NotFound` or `Io`.
    pub fn readlink(&self, inode: InodeId) -> Result<Vec<u8>, FsError> {
        let row = self.row(inode)?;
        if row.target.is_empty() { Err(FsError::NotSymlink) } else { Ok(row.target) }
    }

    /// The directory that holds directory `inode`.
    ///
    /// # Errors
    /// `NotDirectory`, `NotFound` or `Io`.
    pub fn parent(&self, inode: InodeId) -> Result<InodeId, FsError> {
        self.row(inode)?.parent.ok_or(FsError::NotDirectory)
    }

    /// The value of an xattr, `None` if the inode has none of that name.
    ///
    /// # Errors
    /// `NotFound` or `Io`.
    pub fn xattr(&self, inode: InodeId, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        Ok(self.view.xattrs(&self.row(inode)?)?.get(name).map(<[u8]>::to_vec))
    }

    /// All xattrs of an inode.
    ///
    /// # Errors
    /// `NotFound` or `Io`.
    pub fn xattrs(&self, inode: InodeId) -> Result<XattrSet, FsError> {
        Ok(self.view.xattrs(&self.row(inode)?)?)
    }

    /// The names of an inode's xattrs.
    ///
    /// # Errors
    /// `NotFound` or `Io`.
    pub fn xattr_names(&self, inode: InodeId) -> Result<Vec<Vec<u8>>, FsError> {
        Ok(self.view.xattrs(&self.row(inode)?)?.0.into_iter().map(|xattr| xattr.name).collect())
    }
}

fn dangling(inode: InodeId) -> FsError {
    FsError::io(format!("inode {inode} is named by a directory but does not exist"))
}
