//! Where readers of directories stopped.

use crate::format::ids::InodeId;
use crate::meta::ByteLru;

/// Bytes for names to resume from. One that was forgotten costs a walk from the directory's beginning, no error.
const RESUME_BYTES: usize = 1 << 20;

/// Where readers of directories stopped: rank to name, since rows are found by name.
pub(super) struct Resumes(pub(super) ByteLru<(InodeId, u64), Box<[u8]>>);

impl Resumes {
    pub(super) fn new() -> Self {
        Resumes(ByteLru::new(RESUME_BYTES, 4))
    }
}
