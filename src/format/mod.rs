//! Bytes to values and back, exactly as `format-spec.md` lays them down.
//!
//! Pure: no I/O, no clock, no other module of floe. Bytes from outside become a `Raw…` type or go through
//! [`bytes::Cursor`]; only their `validate`/`decode` functions give the values the rest of floe works with, and those
//! return [`FormatError`], never panic, and never allocate from a length they have not checked. Called by everybody.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod block;
pub mod bytes;
pub mod clear;
pub mod codec;
pub mod error;
pub mod frame;
pub mod head;
pub mod ids;
mod layout;
pub mod limits;
pub mod params;
pub mod parity;
pub mod place;
pub mod profile;
pub mod recipe;
pub mod reserved;
pub mod root;
pub mod rows;
pub mod schema;
pub mod sums;
pub mod thaw;
pub mod transaction;
pub mod tree_ref;
pub mod view;

pub use error::FormatError;
pub use layout::Field;
