//! Rows of the tables as typed values (section 8): `decode` checks the columns of a block, `encode` makes them.

pub mod content;
pub mod dirent;
pub mod identity;
pub mod inode;
pub mod map;
pub mod share;
pub mod snapshot;
pub mod thawed;
pub mod xattr;

pub use content::{ContentRow, Extent};
pub use dirent::{DirentRow, FileType};
pub use identity::Identity;
pub use inode::{ContentRef, InodeRow, Time};
pub use map::{Located, SubchunkRun, SuperchunkRow};
pub use share::{ShareKey, ShareKind, ShareRow};
pub use snapshot::SnapshotRow;
pub use thawed::{ThawedBytes, ThawedRow};
pub use xattr::{Xattr, XattrSet};
