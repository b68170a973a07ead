//! The working set: inflated superchunks, bounded by bytes, each inflated by one thread however many wait for it.
//!
//! Where bytes lie, and what they have to be, the view says that a read is by: one moment for all of it. Superchunks are
//! kept by id for all views: while an image is written, an id is never given to other bytes.
//!
//! [`WorkingSet`] answers [`WorkingSet::read_subchunk`]. A read copies out of one superchunk after another and never
//! holds two, so the budget can be as small as one superchunk. Superchunks whose checksum is wrong are decoded as far as
//! it goes, and every subchunk taken from one is judged by its own identity. Callers: fs, care.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod ahead;
mod budget;
mod cache;
mod error;
mod load;
mod working_set;

pub use cache::InflateCounters;
pub use error::InflateError;
pub use working_set::WorkingSet;
