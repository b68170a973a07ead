//! What can fail, and which error number the application gets.

use super::start::StartError;
use crate::format::FormatError;
use crate::inflate::InflateError;
use crate::meta::{CheckpointError, MetaError};
use crate::storage::StorageError;
use crate::thaw::ThawError;
use rustix::io::Errno;
use std::fmt::Display;
use std::io::ErrorKind;
use thiserror::Error;

/// Why a call of the filesystem failed.
#[derive(Debug, Error)]
pub enum FsError {
    /// The inode or name does not exist.
    #[error("no such file or directory in the image")]
    NotFound,
    /// The name or inode is not a directory, but has to be one.
    #[error("the name or inode is not a directory")]
    NotDirectory,
    /// The name or inode is a directory, but must not be one.
    #[error("the name or inode is a directory, and the operation needs another kind of file")]
    IsDirectory,
    /// The inode is not a symlink.
    #[error("the name or inode is not a symbolic link")]
    NotSymlink,
    /// The inode is not a regular file.
    #[error("the name or inode is not a regular file")]
    NotRegular,
    /// A path goes through too many symlinks.
    #[error("the path goes through too many symbolic links")]
    TooManyLinks,
    /// The file has no data (or no hole) at or after the offset.
    #[error("the file has no data (or no hole) at or after the offset")]
    NoData,
    /// A file of this name exists already.
    #[error("a file of this name exists already")]
    Exists,
    /// The directory has entries, but has to be empty.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The file system that holds the image, or the one of its thaw log, has no space for the change.
    #[error("no space is left in the file system that holds the image or its thaw log")]
    NoSpace,
    /// The file system is mounted read-only, or changes are refused after a failure.
    #[error("the file system is read-only: it was mounted so, or an earlier failure stopped its writes")]
    ReadOnly,
    /// A name or a target is too long.
    #[error("the file name or the target of the symbolic link is too long")]
    NameTooLong,
    /// The inode already has as many names as are allowed.
    #[error("the file already has as many hard links as floe allows")]
    TooManyNames,
    /// The operation is not permitted on this inode.
    #[error("the operation is not permitted on this inode")]
    NotPermitted,
    /// An argument is not valid.
    #[error("an argument of the operation is not valid")]
    Invalid,
    /// A file would exceed the largest size.
    #[error("the file would exceed the largest file size of the image format")]
    TooLarge,
    /// This filesystem does not support the operation.
    #[error("the operation is not supported by floe")]
    Unsupported,
    /// The inode has no extended attribute of this name.
    #[error("the inode has no extended attribute of this name")]
    NoAttribute,
    /// An extended attribute, or a list of them, is too large.
    #[error("the extended attribute, or the inode's attributes together, are too large")]
    AttributeTooLarge,
    /// An argument is outside its range.
    #[error("an argument of the operation is outside its range")]
    OutOfRange,
    /// Nobody may do this operation on this inode.
    #[error("permission is denied for this inode")]
    Denied,
    /// The image or the thaw log cannot be read or written; the text says why.
    #[error("{0}")]
    Io(String),
}

impl FsError {
    /// Makes an `Io` error with the reason `why`.
    pub fn io(why: impl Into<String>) -> Self {
        FsError::Io(why.into())
    }

    /// Returns the error for those who wait for a commit that will never come.
    pub(super) fn latched() -> Self {
        FsError::io("the file system is read-only after a failure")
    }

    /// Returns the error after the filesystem has ended: there is no image to write any more.
    pub(super) fn ended() -> Self {
        FsError::io("the file system has ended already")
    }

    /// Returns a copy of the error, for another waiter.
    pub(super) fn again(&self) -> Self {
        match self {
            FsError::NoSpace => FsError::NoSpace,
            error => FsError::io(error.to_string()),
        }
    }

    /// Returns the error number that the application gets.
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
            FsError::Io(_) => Errno::IO,
        }
    }
}

impl FsError {
    /// Returns the error for a failure of a storage, whose `kind` may be known. This is the one place that decides
    /// which kinds mean that there is no space.
    pub(super) fn of_storage(kind: Option<ErrorKind>, error: &dyn Display) -> Self {
        match kind {
            Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => FsError::NoSpace,
            _ => FsError::io(error.to_string()),
        }
    }

    /// Returns the error for a failure of the thaw log.
    pub(super) fn of_log(error: &ThawError) -> Self {
        let kind = match error {
            ThawError::Storage(source) => Some(source.kind()),
            _ => None,
        };
        FsError::of_storage(kind, error)
    }

    /// Returns the error for a failed checkpoint.
    pub(super) fn of_checkpoint(error: &CheckpointError) -> Self {
        FsError::of_storage(error.storage_kind(), error)
    }
}

impl From<StorageError> for FsError {
    fn from(error: StorageError) -> Self {
        FsError::of_storage(Some(error.kind()), &error)
    }
}

impl From<StartError> for FsError {
    fn from(error: StartError) -> Self {
        FsError::of_storage(error.kind(), &error)
    }
}

impl From<ThawError> for FsError {
    fn from(error: ThawError) -> Self {
        FsError::of_log(&error)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Operation;

    #[test]
    fn a_full_disk_and_a_full_quota_are_no_space_wherever_they_are_met_and_nothing_else_is() {
        let storage = |errno: Errno| {
            let (operation, path, offset) = (Operation::Allocate, None, None);
            StorageError::Io { operation, path, offset, source: errno.into() }
        };
        let told = |errno: Errno| {
            [
                FsError::from(storage(errno)),
                FsError::from(StartError::from(storage(errno))),
                FsError::from(ThawError::from(storage(errno))),
                FsError::of_checkpoint(&CheckpointError::GivenUp(storage(errno).into())),
            ]
            .map(|error| error.errno())
        };
        assert_eq!(told(Errno::NOSPC), [Errno::NOSPC; 4]);
        assert_eq!(told(Errno::DQUOT), [Errno::NOSPC; 4]);
        assert_eq!(told(Errno::PERM), [Errno::IO; 4]);
    }
}
