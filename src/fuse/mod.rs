//! The thin adapter from the kernel's FUSE to [`crate::fs`].
//!
//! Nothing here knows how an image is laid out, and nothing outside knows fuser. Invariants: every request is answered
//! exactly once, whatever a handler does ([`guard`]); a mount that has panicked answers EIO from then on; handlers take
//! no lock before they have answered. Read-only as yet: nothing ever changes under the kernel's caches, so they may keep
//! all they are told. Called by `cli` only.

mod adapter;
mod attr;
pub mod daemon;
mod error;
mod guard;
mod mountpoint;
mod mounts;
mod notify;
mod options;
mod push;
mod reading;
mod session;
mod streams;

pub use error::MountError;
pub use mountpoint::{Own, Prepared, Unmount, absolute, mounted_on, prepare, unmount};
pub use mounts::Mount;
pub use options::{Access, Atime, Disguise, MountOptions, OptionError};
pub use session::{Mounted, mount};
