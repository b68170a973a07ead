//! The sources named on the command line, found and opened.

use super::PackError;
use super::dirs::{Directory, Pool};
use crate::format::rows::FileType;
use rustix::fs::{AtFlags, Stat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A source of packing: a file or directory named on the command line.
pub(super) struct Source {
    /// Name that the source gets in the image's root directory, if there are several sources or the source is not a
    /// directory.
    pub(super) name: Vec<u8>,
    pub(super) path: PathBuf,
    /// Name of the source in `dir`, if it is not a directory.
    pub(super) at: Vec<u8>,
    /// The source itself if it is a directory, otherwise the directory that holds it.
    pub(super) dir: Arc<Directory>,
    pub(super) stat: Stat,
}

impl Source {
    /// Opens all sources; links to files are followed with `dereference`. Their directories are reopened from `pool`.
    pub(super) fn open_all(paths: &[PathBuf], dereference: bool, pool: &Arc<Pool>) -> Result<Vec<Source>, PackError> {
        if paths.is_empty() {
            return Err(PackError::NoSource);
        }
        let (mut names, mut parents) = (HashSet::new(), HashMap::new());
        paths
            .iter()
            .map(|path| {
                let source = Source::open(path, dereference, pool, &mut parents)?;
                if !names.insert(source.name.clone()) {
                    return Err(PackError::SameName { name: String::from_utf8_lossy(&source.name).into_owned() });
                }
                Ok(source)
            })
            .collect()
    }

    fn open(
        path: &Path,
        dereference: bool,
        pool: &Arc<Pool>,
        parents: &mut HashMap<PathBuf, Arc<Directory>>,
    ) -> Result<Source, PackError> {
        // A source that is a link to a directory means the directory, as with tar and rsync's trailing slash.
        let followed = rustix::fs::stat(path).map_err(|error| PackError::io("read", path, error.into()))?;
        let is_dir = FileType::of_mode(followed.st_mode) == Some(FileType::Directory);
        if let (false, Some(name)) = (is_dir, path.file_name()) {
            // The names above may be links anyway; at the end of them all is the file itself.
            let real = if dereference { path.canonicalize() } else { Ok(path.to_owned()) };
            let real = real.map_err(|error| PackError::io("read", path, error))?;
            let (parent, at) = (real.parent().unwrap_or(Path::new("")), real.file_name().unwrap_or(name));
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let failed = |error: std::io::Error| PackError::io("open", parent, error);
            let dir = match parents.get(parent) {
                Some(dir) => dir.clone(),
                None => Directory::open_to_search(pool, parent).map_err(|error| failed(error.into()))?.dir,
            };
            parents.insert(parent.to_owned(), dir.clone());
            let fd = dir.fd().map_err(|error| failed(std::io::Error::other(error)))?;
            let stat = rustix::fs::statat(&*fd, at, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| PackError::io("stat", path, error.into()))?;
            let (name, at) = (name.as_bytes().to_vec(), at.as_bytes().to_vec());
            return Ok(Source { name, path: path.to_owned(), at, dir, stat });
        }
        let opened = Directory::open(pool, path).map_err(|error| PackError::io("open", path, error.into()))?;
        // `.` and `..` are named as what they are.
        let real = if path.file_name().is_none() { path.canonicalize().ok() } else { None };
        let name = real.as_deref().unwrap_or(path).file_name().unwrap_or(OsStr::new("root"));
        Ok(Source {
            name: name.as_bytes().to_vec(),
            path: path.to_owned(),
            at: Vec::new(),
            dir: opened.dir,
            stat: opened.stat,
        })
    }

    /// Returns whether the source is a file that is not a directory and has the device and inode numbers `id`.
    pub(super) fn is_inode(&self, id: Option<(u64, u64)>) -> bool {
        !self.is_dir() && id == Some((self.stat.st_dev, self.stat.st_ino))
    }

    pub(super) fn is_dir(&self) -> bool {
        FileType::of_mode(self.stat.st_mode) == Some(FileType::Directory)
    }
}
