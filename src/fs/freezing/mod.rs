//! The life of a freeze: written bytes leave the thaw log for superchunks of the image.
//!
//! Files are chosen and cut by a snapshot, without any lock; superchunks are appended and synced, and their rows become
//! pending, all of them in one step [25]; then file by file names them, where nothing has changed since [5]. A batch that is
//! given up before its rows are pending leaves nothing: neither in the image nor among the known subchunks [8]. What a
//! snapshot is to show is frozen the same way, by its own moment (`moment`). Callers: the
//! freezer's thread, `running` at the end, cli and tests.

mod batch;
pub(super) mod control;
pub(super) mod known;
pub(super) mod moment;
mod pass;
mod publish;
mod report;
mod share;
mod sorted;
mod source;
mod worker;

pub use report::{FreezeHow, FreezeProgress, FreezeReport, FreezerStatus, Freezing};
