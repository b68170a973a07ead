//! How far live ranges have been copied out of old segments; kept from one step to the next. See `carry_over`.

use crate::format::block::Key;

/// How far the copying has come.
#[derive(Debug, Default)]
pub(super) struct CarryOver {
    /// Ranges in segments below this number are copied. 0: no pass is running.
    pub(super) below: u64,
    /// The next row to look at.
    pub(super) next: Key,
    /// For which number the last pass was, and how many bytes the log had when it ended. What that pass could not copy
    /// is not tried again at once.
    pub(super) ended: (u64, u64),
}
