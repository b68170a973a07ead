//! The errors of a storage.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

use super::HeadIndex;

/// An operation of a storage, for messages and for `testing::FaultyStorage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening a file.
    Open,
    /// `read_at`.
    Read,
    /// `len`.
    Len,
    /// `append`.
    Append,
    /// `sync`.
    Sync,
    /// `truncate`.
    Truncate,
    /// `punch`.
    Punch,
    /// `allocate`.
    Allocate,
    /// `start_writeback`.
    StartWriteback,
    /// `space`.
    Space,
    /// `read_head`.
    ReadHead,
    /// `replace_head`.
    ReplaceHead,
    /// `list` of a folder.
    List,
    /// `create` of a folder.
    Create,
    /// `remove` of a folder.
    Remove,
    /// Renaming a file or directory.
    Rename,
    /// `sync` of a folder.
    SyncFolder,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Len => "ask for the length",
            Self::Append => "append",
            Self::Sync => "sync",
            Self::Truncate => "truncate",
            Self::Punch => "punch a hole",
            Self::Allocate => "reserve space",
            Self::StartWriteback => "start writing back",
            Self::Space => "ask for the free space",
            Self::ReadHead => "read a head slot",
            Self::ReplaceHead => "write a head slot",
            Self::List => "list the directory",
            Self::Create => "create",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::SyncFolder => "sync the directory",
        })
    }
}

/// Why an operation of a storage failed.
#[derive(Debug, Error)]
pub enum StorageError {
    /// There are fewer bytes than requested.
    #[error("{}cannot read {wanted} bytes at offset {offset}: there are only {got}", prefix(.path))]
    Short {
        /// Offset of the read.
        offset: u64,
        /// Bytes requested.
        wanted: u64,
        /// Bytes available.
        got: u64,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
    /// An error of the operating system.
    #[error("{}cannot {operation}{}: {source}", prefix(.path), at(.offset))]
    Io {
        /// What was asked.
        operation: Operation,
        /// Offset, in bytes from the beginning of the image.
        offset: Option<u64>,
        /// The file, where it has a name.
        path: Option<PathBuf>,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A head slot does not hold what this writer wrote last: another process writes to the image.
    #[error("{}cannot write head slot {slot}: it was changed by another writer", prefix(.path))]
    HeadChanged {
        /// Which slot.
        slot: HeadIndex,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
    /// The opened file cannot hold an image.
    #[error("{}: cannot open it as an image: it is a {found}", path.display())]
    NotAnImage {
        /// What was opened.
        path: PathBuf,
        /// The kind of file it is.
        found: &'static str,
    },
    /// The directory or pointer of a thaw log, or the image's path, must not be used.
    #[error("{}: refused as a thaw log: {why}", path.display())]
    Refused {
        /// Which directory or file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A change of a storage that is open for reading only.
    #[error("{}cannot {operation}: it is open for reading only", prefix(.path))]
    ReadOnly {
        /// What was asked.
        operation: Operation,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
    /// `truncate` to a length above the current one.
    #[error("{}cannot truncate to {wanted} bytes: there are only {len}", prefix(.path))]
    Longer {
        /// The length requested.
        wanted: u64,
        /// The current length.
        len: u64,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
}

impl StorageError {
    /// The `std::io` kind that a caller can act on (`StorageFull`, `NotFound` …).
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Short { .. } => io::ErrorKind::UnexpectedEof,
            Self::Io { source, .. } => source.kind(),
            Self::HeadChanged { .. } => io::ErrorKind::ResourceBusy,
            Self::NotAnImage { .. } | Self::Longer { .. } => io::ErrorKind::InvalidInput,
            Self::ReadOnly { .. } => io::ErrorKind::ReadOnlyFilesystem,
            Self::Refused { .. } => io::ErrorKind::PermissionDenied,
        }
    }

    /// The errno, if the error came from the operating system.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn prefix(path: &Option<PathBuf>) -> String {
    path.as_deref().map(Path::display).map_or_else(String::new, |p| format!("{p}: "))
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |o| format!(" at offset {o}"))
}
