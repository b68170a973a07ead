//! What can go wrong for an application, and what it is told.

use crate::format::FormatError;
use crate::inflate::InflateError;
use crate::meta::{CheckpointError, MetaError};
use crate::thaw::ThawError;
use rustix::io::Errno;
use std::io::ErrorKind;
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
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The file system below has no space for it.
    #[error("no space left on device")]
    NoSpace,
    /// The file system is mounted read-only, or changes are refused after a failure.
    #[error("read-only file system")]
    ReadOnly,
    /// A name or a target is too long.
    #[error("file name too long")]
    NameTooLong,
    /// An inode has as many names as it may have.
    #[error("too many links")]
    TooManyNames,
    /// The operation is not permitted on this inode.
    #[error("operation not permitted")]
    NotPermitted,
    /// An argument makes no sense.
    #[error("invalid argument")]
    Invalid,
    /// A file would be larger than it may be.
    #[error("file too large")]
    TooLarge,
    /// This file system does not offer it.
    #[error("operation not supported")]
    Unsupported,
    /// The inode has no extended attribute of this name.
    #[error("no such attribute")]
    NoAttribute,
    /// An extended attribute, or a list of them, is too large.
    #[error("argument list too long")]
    AttributeTooLarge,
    /// An argument is outside its range.
    #[error("numerical result out of range")]
    OutOfRange,
    /// Nobody may do this to this inode.
    #[error("permission denied")]
    Denied,
    /// It is in use.
    #[error("device or resource busy")]
    Busy,
    /// The image cannot give it.
    #[error("{0}")]
    Io(String),
}

impl FsError {
    /// An `Io` error that says `why`.
    pub fn io(why: impl Into<String>) -> Self {
        FsError::Io(why.into())
    }

    /// What those are told who wait for a commit that will never be.
    pub(super) fn latched() -> Self {
        FsError::io("the file system is read-only after a failure")
    }

    /// The same error for somebody else.
    pub(super) fn again(&self) -> Self {
        match self {
            FsError::NoSpace => FsError::NoSpace,
            error => FsError::io(error.to_string()),
        }
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
            FsError::Exists => Errno::EXIST,
            FsError::NotEmpty => Errno::NOTEMPTY,
            FsError::NoSpace => Errno::NOSPC,
            FsError::ReadOnly => Errno::ROFS,
            FsError::NameTooLong => Errno::NAMETOOLONG,
            FsError::TooManyNames => Errno::MLINK,
            FsError::NotPermitted => Errno::PERM,
            FsError::Invalid => Errno::INVAL,
            FsError::TooLarge => Errno::FBIG,
            FsError::Unsupported => Errno::OPNOTSUPP,
            FsError::NoAttribute => Errno::NODATA,
            FsError::AttributeTooLarge => Errno::TOOBIG,
            FsError::OutOfRange => Errno::RANGE,
            FsError::Denied => Errno::ACCESS,
            FsError::Busy => Errno::BUSY,
            FsError::Io(_) => Errno::IO,
        }
    }
}

impl FsError {
    /// What an application is told of a failure of the thaw log.
    pub(super) fn from_log(error: &ThawError) -> Self {
        match error {
            ThawError::Storage(source) if is_full(source.kind()) => FsError::NoSpace,
            _ => FsError::io(error.to_string()),
        }
    }

    /// What an application is told of a checkpoint that failed.
    pub(super) fn of_checkpoint(error: &CheckpointError) -> Self {
        match error.storage_kind() {
            Some(kind) if is_full(kind) => FsError::NoSpace,
            _ => FsError::io(error.to_string()),
        }
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl From<ThawError> for FsError {
    fn from(error: ThawError) -> Self {
        FsError::from_log(&error)
    }
}

impl From<MetaError> for FsError {
    fn from(error: MetaError) -> Self {
        FsError::io(error.to_string())
    }
}

impl From<FormatError> for FsError {
    fn from(error: FormatError) -> Self {
        FsError::io(error.to_string())
    }
}

impl From<InflateError> for FsError {
    fn from(error: InflateError) -> Self {
        FsError::io(error.to_string())
    }
}
