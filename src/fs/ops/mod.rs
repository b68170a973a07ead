//! The operations of a writable filesystem: for each a pure function on a [`Draft`](super::draft::Draft), and the
//! method of [`Live`](super::live::Live) that performs it.
//!
//! A function here reads rows through the draft, which notes what was read, and writes changed rows to the draft. Its
//! only I/O is reading tables, and appending bytes if the caller passes a way to do so. It may be evaluated several
//! times. Times, link counts and errors are those of Linux on ext4. Callers: fuse, `freezing`, tests.

mod atime;
mod attributes;
mod body;
mod copy;
mod create;
mod fallocate;
mod freeze;
mod link;
mod names;
mod privileges;
mod reap;
mod rename;
mod setattr;
mod sets;
mod share_equal;
mod shares;
mod statfs;
mod thaw;
mod truncate;
mod unlink;
mod write;
mod xattr;

#[cfg(test)]
mod tests;

pub(in crate::fs) use body::end_of as content_end;
pub use create::{NewKind, NewNode};
pub use fallocate::FallocateMode;
pub(in crate::fs) use freeze::{Frozen, Piece, even_out, freeze, no_longer_fast};
pub(in crate::fs) use reap::reap_step;
pub use rename::RenameFlags;
pub use setattr::{NewTime, SetAttr};
pub(in crate::fs) use share_equal::{Holder, Sharing, share_equal};
pub(super) use thaw::put as put_thawed;
pub(in crate::fs) use unlink::STEP_ROWS;
pub use xattr::XattrFlags;
