//! Freezing of written data: it is cut, deduplicated and packed as `pack` would do, in batches.
//!
//! [`cut_file`] finds which parts of a file have to be cut and adds their subchunks to a [`Batch`]. The batch's result
//! is [`Packed`], which is ready to be appended. Nothing here knows the mount, its state or its locks: `fs` says what a
//! file consists of ([`Layout`]) and which subchunks the image has ([`Known`]), appends the superchunks, and splices
//! the kept regions into the file as it is by then. [`level`] decides the level, and [`pressure`] how long writers
//! wait. Invariant: nothing here changes anything that others can see. Caller: fs.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod again;
mod batch;
mod choose;
mod compressors;
mod file;
mod layout;
pub mod level;
mod packed;
pub mod pressure;
mod recut;
mod region;
mod sealed;

pub use again::Again;
pub use batch::{Batch, BatchError, BatchOptions, DEFAULT_LIMIT, Known, Last};
pub use choose::choose;
pub use compressors::{LeftBehind, Priority, Urgency};
pub use file::{CutError, Cutting, cut_file};
pub use layout::{Layout, Span, SpanSource};
pub use packed::{Packed, PackedSuperchunk, Piece};
pub use recut::{Blocks, FIXED_LEN, Scope};
pub use region::{FileCut, KeptFile, KeptRegion, Region, RegionPiece};
