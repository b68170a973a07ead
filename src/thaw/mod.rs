//! The thaw log: what was written and not yet frozen, durable after each commit (section 11).
//!
//! A [`ThawLog`] appends written bytes and commits transactions that give them meaning; [`recover`] reads it back after a
//! crash. A transaction counts only if everything before it verifies, so a commit is all there or not at all. What was
//! synced is never written to again, and what an interrupted writer left behind its last commit stays where it is: the
//! next one begins a new segment. After a failed sync nothing more is written. Knows operations, not files: what rows
//! mean is told in `fs` and `freeze`, which call it.

mod error;
mod log;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

pub use error::ThawError;
pub use log::{Appended, ThawLog};
pub use recover::{Recovered, recover};
pub use segment::{Binding, SEGMENT_SIZE};
