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
    /// Reading bytes with `read_at`.
    Read,
    /// Asking for the length with `len`.
    Len,
    /// Appending bytes with `append`.
    Append,
    /// Making writes durable with `sync`.
    Sync,
    /// Truncating with `truncate`.
    Truncate,
    /// Punching a hole with `punch`.
    Punch,
    /// Reserving space with `allocate`.
    Allocate,
    /// Starting write-back with `start_writeback`.
    StartWriteback,
    /// Asking for the free space with `space`.
    Space,
    /// Reading a head slot with `read_head`.
    ReadHead,
    /// Writing a head slot with `replace_head`.
    ReplaceHead,
    /// Listing a folder with `list`.
    List,
    /// Creating a file in a folder with `create`.
    Create,
    /// Removing a file of a folder with `remove`.
    Remove,
    /// Renaming a file or directory.
    Rename,
    /// Making the names of a folder durable with `sync`.
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
        /// Offset in bytes of the read.
        offset: u64,
        /// Number of bytes requested.
        wanted: u64,
        /// Number of bytes available.
        got: u64,
        /// Path of the file, if it has one.
        path: Option<PathBuf>,
    },
    /// An error of the operating system.
    #[error("{}cannot {operation}{}: {source}", prefix(.path), at(.offset))]
    Io {
        /// The operation that failed.
        operation: Operation,
        /// Offset, in bytes from the beginning of the image.
        offset: Option<u64>,
        /// Path of the file, if it has one.
        path: Option<PathBuf>,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A head slot does not hold what this writer wrote last: another process writes to the image.
    #[error("{}cannot write head slot {slot}: it was changed by another writer", prefix(.path))]
    HeadChanged {
        /// The head slot that changed.
        slot: HeadIndex,
        /// Path of the file, if it has one.
        path: Option<PathBuf>,
    },
    /// The opened file cannot hold an image.
    #[error("{}: cannot open it as an image: it is a {found}", path.display())]
    NotAnImage {
        /// Path of the file that was opened.
        path: PathBuf,
        /// Kind of the file: for example a directory.
        found: &'static str,
    },
    /// A path must not be used: that of a thaw log's directory, of the file (pointer) that names this directory, or of
    /// the image.
    #[error("{}: refused as a thaw log: {why}", path.display())]
    Refused {
        /// Path of the directory or file.
        path: PathBuf,
        /// What is wrong with the directory or file.
        why: &'static str,
    },
    /// The storage is open for reading only, but the operation changes it.
    #[error("{}cannot {operation}: it is open for reading only", prefix(.path))]
    ReadOnly {
        /// The operation that was refused.
        operation: Operation,
        /// Path of the file, if it has one.
        path: Option<PathBuf>,
    },
    /// A truncation to a length above the current one was requested.
    #[error("{}cannot truncate to {wanted} bytes: there are only {len}", prefix(.path))]
    Longer {
        /// The length requested, in bytes.
        wanted: u64,
        /// The current length in bytes.
        len: u64,
        /// Path of the file, if it has one.
        path: Option<PathBuf>,
    },
}

impl StorageError {
    /// Returns the `std::io` kind that a caller can act on (`StorageFull`, `NotFound` …).
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

    /// Returns the error number, if the error came from the operating system.
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
