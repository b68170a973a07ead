//! The thin adapter between the kernel's FUSE and [`crate::fs`].
//!
//! Nothing here knows the layout of an image, and nothing outside knows fuser. Invariants: every request is answered
//! exactly once, whatever a handler does ([`guard`], [`parked`]). After a panic, a mount answers EIO and commits
//! nothing more. All changes come through the kernel, so its caches stay valid. Called only by `cli`.

mod adapter;
mod attr;
pub mod daemon;
mod error;
mod follow;
mod gc;
mod guard;
mod handles;
pub mod mark;
mod mountpoint;
mod mounts;
mod near;
mod notify;
mod opened;
mod options;
mod parked;
mod push;
mod reading;
mod session;
mod state;
mod streams;
mod writing;

pub use error::MountError;
pub use gc::{GC_NOW, GC_XATTR};
pub use mountpoint::{Own, Prepared, Unmount, abort, absolute, mounted_on, prepare, unmount};
pub use mounts::{Mount, mounts, topmost};
pub use options::{Access, Atime, Disguise, MountOptions, OptionError};
pub use session::{Mounted, mount, mount_writable};
pub use state::{FREEZE_ALL, FREEZE_DEEP, FREEZE_XATTR, STATE_XATTR};
