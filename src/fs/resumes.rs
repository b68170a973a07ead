//! Where readers of directories stopped.

use crate::format::ids::InodeId;
use crate::meta::ByteLru;

/// Bytes of memory for names to resume from. If a name was dropped, the directory is walked from its beginning; that is
/// not an error.
const RESUME_BYTES: usize = 1 << 20;

/// Names at which readers of directories stopped, by directory and rank, since rows are found by name.
pub(super) struct Resumes(pub(super) ByteLru<(InodeId, u64), Box<[u8]>>);

impl Resumes {
    pub(super) fn new() -> Self {
        Resumes(ByteLru::new(RESUME_BYTES, 4))
    }
}
