//! Freezing: written bytes move from the thaw log into superchunks of the image.
//!
//! Files are chosen and cut by a snapshot, without any lock. Superchunks are appended and synced, and all their rows
//! become pending in one step [25]. Then file by file is changed to name them, wherever nothing has changed since [5].
//! A batch that is given up before its rows are pending leaves nothing behind: neither in the image nor among the known
//! subchunks [8]. The state that a snapshot is to show is frozen in the same way (`moment`). Callers: the freezer's
//! thread, `running` at the end, cli and tests.

mod anchors;
mod batch;
pub(super) mod control;
pub(super) mod known;
pub(super) mod moment;
mod pass;
mod publish;
mod repack;
mod report;
mod share;
mod sorted;
mod source;
mod verified;
mod worker;

pub use report::{FreezeHow, FreezeProgress, FreezeReport, FreezerStatus, Freezing};
