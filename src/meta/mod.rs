//! The tables of an image: lazy reads through a bounded cache, and the changes of a writer.
//!
//! [`Image`] is for reading: it opens head and root and has typed lookups, each by a descent of one tree. Blocks are
//! read when they are needed, and every table block is verified by its hash or checksum before a row is used. [`View`]
//! is a version of an image under [`Overlay`]s of changed rows, for a writable image. [`TableWriter`] is for writing:
//! it groups new blocks, appends them, and collects their rows for the map. Called by inflate, pack, freeze, fs and
//! care.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod block_cache;
mod blocks;
mod cache;
mod checkpoint;
mod compose;
mod error;
mod estimate;
mod fitness;
mod heads;
mod id_set;
mod image;
mod lists;
mod map_cache;
mod mark;
mod matched;
mod merge;
#[cfg(test)]
mod merge_tests;
mod open;
mod overlay;
mod places;
mod reclaim;
mod salvage;
mod shape;
mod snapshots;
mod space;
mod superchunk;
mod tally;
mod thawed;
mod usage;
mod version;
mod view;
mod writer;

pub use crate::format::rows::Located;
pub use cache::{ByteLru, CacheCounters};
pub use checkpoint::{CheckpointError, CheckpointInput, ThawMark, Written, write_checkpoint};
pub use compose::{ComposeError, Composition, Extract};
pub use error::MetaError;
pub use estimate::estimate;
pub use fitness::counters_are_free;
pub use heads::{HeadError, Heads};
pub use id_set::IdSet;
pub use image::{Image, ImageOptions};
pub use lists::{Dirents, Extents};
pub use mark::{MarkError, Marked, mark};
pub use matched::Matched;
pub use merge::{ViewCursor, ViewRow, ViewRowRef};
pub use open::{HeadState, Slot, read_heads, root_of};
pub use overlay::{Overlay, OverlayRow};
pub use reclaim::{DeadFrame, dead_frames, deletions, punch, rounds};
pub use snapshots::NewSnapshot;
pub use space::{Space, space};
pub use superchunk::{Buffers, Fault, Reading, checksum_mismatch, decoding_memory};
pub use tally::{Census, Tally, tally};
pub use thawed::{RangeCount, ThawedCount, ThawedRanges};
pub use usage::Usage;
pub use view::View;
pub use writer::{MapRows, TableBytes, TableWriter, append_twice};
