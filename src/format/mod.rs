//! Converts between bytes and values, exactly as `format-spec.md` defines them.
//!
//! Pure: no I/O, no clock, no other module of floe. Bytes from outside become a `Raw…` type or go through
//! [`bytes::Cursor`]. Only their `validate` and `decode` functions return the values that the rest of floe works with.
//! These functions return [`FormatError`], never panic, and check each length before they allocate. All other modules
//! call this one.

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
