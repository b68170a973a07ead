//! The thaw log: the write-ahead log of a writable image, for changes that are not yet frozen (section 11).
//!
//! A [`ThawLog`] appends written bytes and commits groups of transactions that give them meaning; [`recover`] reads the
//! log after a crash. A group counts as a whole or not at all. Durable bytes are never overwritten, and recovery cuts
//! nothing off: a writer that continues a log begins a new segment, which names the end of the log before it. After a
//! failed sync nothing more is written. [`replay`] applies the recovered transactions to a version of the image. Called
//! by `fs` and `care`.

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
