//! What can go wrong for an application, and what it is told.

use crate::inflate::InflateError;
use crate::meta::MetaError;
use rustix::io::Errno;
use thiserror::Error;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum FsError {
    /// No such inode or name.
    #[error("no such file or directory")]
    NotFound,
    /// It is no directory.
    #[error("not a directory")]
    NotDirectory,
    /// It is a directory.
    #[error("is a directory")]
    IsDirectory,
    /// It is no symlink.
    #[error("not a symbolic link")]
    NotSymlink,
    /// It is no regular file.
    #[error("not a regular file")]
    NotRegular,
    /// A path goes through too many symlinks.
    #[error("too many levels of symbolic links")]
    TooManyLinks,
    /// No data (or no hole) at or behind the offset.
    #[error("no data at or behind that offset")]
    NoData,
    /// The image cannot give it.
    #[error("{0}")]
    Io(String),
}

impl FsError {
    /// An `Io` error that says `why`.
    pub fn io(why: impl Into<String>) -> Self {
        FsError::Io(why.into())
    }

    /// What an application is told.
    pub fn errno(&self) -> Errno {
        match self {
            FsError::NotFound => Errno::NOENT,
            FsError::NotDirectory => Errno::NOTDIR,
            FsError::IsDirectory => Errno::ISDIR,
            FsError::NotSymlink | FsError::NotRegular => Errno::INVAL,
            FsError::TooManyLinks => Errno::LOOP,
            FsError::NoData => Errno::NXIO,
            FsError::Io(_) => Errno::IO,
        }
    }
}

impl From<MetaError> for FsError {
    fn from(error: MetaError) -> Self {
        FsError::io(error.to_string())
    }
}

impl From<InflateError> for FsError {
    fn from(error: InflateError) -> Self {
        FsError::io(error.to_string())
    }
}
