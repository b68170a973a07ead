//! How far live ranges have been copied out of old segments; kept from one step to the next. See `carry_over`.

use crate::format::block::Key;

/// Progress of copying live ranges out of old segments of the thaw log.
#[derive(Debug, Default)]
pub(super) struct CarryOver {
    /// Number of a segment: ranges in segments below it are copied. It is 0 while no pass is running.
    pub(super) below: u64,
    /// Key of the next row of thawed ranges to look at.
    pub(super) next: Key,
    /// The segment number `below` of the last pass, and the length of the log in bytes when the pass ended. What that
    /// pass could not copy is not tried again at once.
    pub(super) ended: (u64, u64),
}
