//! The filesystem itself, without FUSE, in floe's own types: look-up, attributes, directories, reading, and all
//! changes.
//!
//! [`Fs`] reads, for any number of threads: an image that nobody changes, or one that is being written. Every call is
//! complete in itself and reads from one snapshot. [`Live`] is the state of a filesystem that is being written. Errors
//! have the number that an application gets ([`FsError::errno`]) and the text that a person needs. Callers: fuse,
//! bench, cli.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod acl;
mod allocated;
mod attr;
mod basis;
pub mod begin;
mod carried;
mod carry_over;
mod checkpoint;
mod claims;
mod commit;
mod content;
mod delays;
mod digest;
mod dir;
mod dirs;
mod dirty;
mod draft;
mod equal;
mod error;
pub mod extract;
mod file;
pub mod finish;
pub mod forget;
mod frames;
mod freezing;
pub mod gc;
mod gc_control;
mod ids;
mod layout;
mod live;
mod lookup;
mod making;
pub mod measure;
mod ops;
mod pacing;
mod pending;
mod pressure;
mod read;
mod reclaim;
mod resumes;
mod running;
#[cfg(test)]
mod session_tests;
mod snapshot;
mod snapshots;
mod source;
pub mod start;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod thawed;
#[cfg(test)]
mod thawed_tests;
pub mod verify;
mod whereabouts;

pub use attr::{Attr, StatFs};
pub use digest::digest;
pub use dir::DirEntry;
pub use dirs::DirHandle;
pub use error::FsError;
pub use file::SeekTo;
pub use finish::Finished;
pub use freezing::{FreezeHow, FreezeProgress, FreezeReport, FreezerStatus, Freezing};
pub use gc_control::{GcStatus, KeepOut};
pub use live::{Clock, Live, LiveOptions};
pub use ops::{FallocateMode, NewKind, NewNode, NewTime, RenameFlags, SetAttr, XattrFlags};
pub use read::{Fs, FsOptions};
pub use running::Running;
pub use snapshot::{Handles, Snapshot};
pub use snapshots::SnapshotError;
pub use source::SnapshotSource;
pub use state::{Totals, Waiter};
pub use status::LiveStatus;
