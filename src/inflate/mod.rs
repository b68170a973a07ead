//! The working set: a cache of inflated superchunks, bounded by bytes. One thread inflates a superchunk, however many
//! wait for it.
//!
//! The view of a read says where bytes lie and which content hash they have, so one read sees one moment. The cache
//! keys superchunks by id for all views: while an image is written, no id is ever given to other bytes.
//!
//! [`WorkingSet`] serves [`WorkingSet::read_subchunk`]. A read copies from one superchunk after another and never holds
//! two, so the budget can be as small as one superchunk. A superchunk with a wrong checksum is decoded as far as
//! possible, and every subchunk taken from it is verified by its own content hash. Callers: fs, care.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod ahead;
mod budget;
mod cache;
mod coming;
mod error;
mod load;
mod parts;
mod sequence;
mod working_set;

pub use cache::InflateCounters;
pub use error::InflateError;
pub use working_set::WorkingSet;
