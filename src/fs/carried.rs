//! How far the copying of live ranges out of old segments has come, from one step to the next. See `carry_over`.

use crate::format::block::Key;

/// How far the copying has come.
#[derive(Debug, Default)]
pub(super) struct CarryOver {
    /// Ranges in segments below this number are copied; 0: nothing is under way.
    pub(super) below: u64,
    /// The next row to look at.
    pub(super) next: Key,
    /// The pass that ended last was for this number, when the log had so many bytes: what it could not copy is not tried
    /// again at once.
    pub(super) ended: (u64, u64),
}
