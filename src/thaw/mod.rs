//! The thaw log: what was written and not yet frozen, durable after each commit (section 11).
//!
//! A [`ThawLog`] appends written bytes and commits groups of transactions that give them meaning; [`recover`] reads it back
//! after a crash. A group counts whole or not at all. What is durable is never written to again, and nothing is cut off
//! to repair: who goes on begins a new segment, which names where the log before it ended. After a failed sync nothing
//! more is written. [`replay`] lays what it read over a version of the image.
//! Called by `fs`, `freeze` and `care`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod carry;
mod commit;
mod error;
pub mod extents;
mod fit;
mod log;
mod lost;
mod recover;
pub mod replay;
mod segment;
mod segments;
mod start;
mod survey;
#[cfg(test)]
mod tests;
mod walk;

pub use carry::Moved;
pub use commit::{Begun, NotBegun};
pub use error::ThawError;
pub use fit::{Binding, ImageState, LogState, Misfit, Slot, fits};
pub use log::{Appended, ThawLog};
pub use recover::{Contents, Recovered, examine, recover};
pub use segment::{Segment, segment_size};
pub use segments::Segments;
