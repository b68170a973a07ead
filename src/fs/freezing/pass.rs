//! All that may be frozen now, batch after batch, in the order of inode numbers.
//!
//! That order is the order in which files came to be, so what was copied as a tree is packed about as `pack` packs it. Called
//! by `mod`.

use super::batch::{self, Cursor};
use super::{FreezeHow, FreezeProgress, FreezeReport};
use crate::fs::FsError;
use crate::fs::live::Live;

/// Files that change while everything is frozen are looked at again, so often at most.
const ROUNDS: usize = 3;

/// Freezes until nothing is left, or `how` says to stop.
pub(super) fn run(
    live: &Live,
    how: &FreezeHow<'_>,
    observer: &dyn Fn(FreezeProgress),
) -> Result<FreezeReport, FsError> {
    let total = live.lock_state().dirty.bytes();
    let mut report = FreezeReport { bytes: total, ..FreezeReport::default() };
    let rounds = if how.everything { ROUNDS } else { 1 };
    for _ in 0..rounds {
        let before = report.frozen_bytes;
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor.take()
            && !(how.stop)()
        {
            cursor = batch::run(live, how, from, &mut report, &|frozen, stored| {
                observer(FreezeProgress { done_bytes: frozen, total_bytes: total.max(frozen), stored_bytes: stored });
            })?;
        }
        if report.frozen_bytes == before || live.lock_state().dirty.bytes() == 0 {
            break;
        }
    }
    let state = live.lock_state();
    (report.left_bytes, report.failed) = (state.dirty.bytes(), state.dirty.failed() as u64);
    Ok(report)
}
