//! What can go wrong between floe and the bytes of an image.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

use super::HeadIndex;

/// What was asked of a storage; also how `testing::FaultyStorage` tells operations apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening it.
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
    /// Of a folder: `list`.
    List,
    /// Of a folder: `create`.
    Create,
    /// Of a folder: `remove`.
    Remove,
    /// Giving a file or folder another name.
    Rename,
    /// Of a folder: `sync`.
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
            Self::List => "list the folder",
            Self::Create => "create",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::SyncFolder => "sync the folder",
        })
    }
}

/// Why a storage did not do what it was asked.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The bytes end before what was asked for.
    #[error("{}wanted {wanted} bytes at offset {offset}, only {got} are there", prefix(.path))]
    Short {
        /// Where the read began.
        offset: u64,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes there were.
        got: u64,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
    /// The operating system refused; its error is kept.
    #[error("{}cannot {operation}{}: {source}", prefix(.path), at(.offset))]
    Io {
        /// What was asked.
        operation: Operation,
        /// Where, in bytes from the image's first.
        offset: Option<u64>,
        /// The file, where it has a name.
        path: Option<PathBuf>,
        /// What the operating system said.
        source: io::Error,
    },
    /// A head slot does not hold what this writer wrote there last: somebody else writes to the image.
    #[error("{}head slot {slot} was changed by another writer", prefix(.path))]
    HeadChanged {
        /// Which slot.
        slot: HeadIndex,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
    /// What was opened can not hold an image.
    #[error("{}: not an image: it is a {found}", path.display())]
    NotAnImage {
        /// What was opened.
        path: PathBuf,
        /// What it is instead of a file.
        found: &'static str,
    },
    /// The thaw log's directory, or the file that names it, is not one that only this user can write to.
    #[error("{}: refused as a thaw log: {why}", path.display())]
    Refused {
        /// Which directory or file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A change was asked of a storage that is open for reading.
    #[error("{}cannot {operation}: it is open for reading only", prefix(.path))]
    ReadOnly {
        /// What was asked.
        operation: Operation,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
    /// `truncate` to more bytes than there are.
    #[error("{}cannot truncate to {wanted} bytes: there are only {len}", prefix(.path))]
    Longer {
        /// The length asked for.
        wanted: u64,
        /// The length it has.
        len: u64,
        /// The file, where it has a name.
        path: Option<PathBuf>,
    },
}

impl StorageError {
    /// The kind a caller can act upon (`StorageFull`, `NotFound` …), as `std::io` names it.
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

    /// The number the operating system gave, if the error came from there.
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
