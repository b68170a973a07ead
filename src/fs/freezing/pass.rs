//! All that may be frozen now, batch after batch, in the order of inode numbers.
//!
//! That order is the order in which files came to be, so what was copied as a tree is packed about as `pack` packs it. Called
//! by the freezer's thread, `running` at the end, cli and tests.

use super::batch::{self, Cursor, Which};
use super::moment::Moment;
use super::report::{FreezeHow, FreezeProgress, FreezeReport};
use super::share;
use crate::format::ids::InodeId;
use crate::fs::FsError;
use crate::fs::live::Live;
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Files that change while everything is frozen are looked at again, so often at most.
const ROUNDS: usize = 3;

impl Live {
    /// How many superchunks a freeze compresses at a time: one a core, if nobody says otherwise.
    pub fn set_compressors(&self, compressors: usize) {
        self.compressors.store(compressors, Ordering::Relaxed);
    }

    /// The folder where a large index of known subchunks lies, in files without a name. It must not be in what is mounted.
    pub fn set_spill(&self, folder: &Path) {
        self.freezing.lock().set_spill(folder.to_owned());
    }

    /// Freezes all that may be frozen now, in this thread and compressors of its own. What was frozen is durable with the next
    /// commit, and the image alone complete after the next checkpoint.
    ///
    /// # Errors
    /// `NoSpace` if there is none for more superchunks: nothing is lost, and it may be tried again. `ReadOnly` or `Io` if changes
    /// are refused, or tables cannot be read.
    pub fn freeze_now(&self, how: &FreezeHow<'_>, observer: &dyn Fn(FreezeProgress)) -> Result<FreezeReport, FsError> {
        let total = self.lock_state().dirty.bytes();
        let mut report = FreezeReport { bytes: total, ..FreezeReport::default() };
        observer(FreezeProgress { done_bytes: 0, total_bytes: total, stored_bytes: 0 });
        // What is cut counts, and counts on while it is spliced.
        let most = Cell::new(0);
        let rounds = if how.everything { ROUNDS } else { 1 };
        for _ in 0..rounds {
            let before = report.frozen_bytes;
            let mut cursor = Some(Cursor::default());
            while let Some(from) = cursor.take()
                && !(how.stop)()
            {
                cursor = batch::run(
                    self,
                    how,
                    Which::Dirty,
                    from,
                    &mut report,
                    &|done, stored| {
                        let done = most.replace(done.max(most.get())).max(done);
                        observer(FreezeProgress {
                            done_bytes: done,
                            total_bytes: total.max(done),
                            stored_bytes: stored,
                        });
                    },
                    None,
                )?;
            }
            if report.frozen_bytes == before || self.lock_state().dirty.bytes() == 0 {
                break;
            }
        }
        let mut cursor = how.deep.then(Cursor::default);
        while let Some(from) = cursor.take()
            && !(how.stop)()
        {
            cursor = batch::run(self, how, Which::Uneven, from, &mut report, &|_, _| (), None)?;
        }
        if how.deep {
            share::share(self, how, &mut report)?;
        }
        let state = self.lock_state();
        (report.left_bytes, report.failed) = (state.dirty.bytes(), state.dirty.failed() as u64);
        Ok(report)
    }

    /// Freezes all that a snapshot's moment has in the thaw log, files that are open among it, while the head goes on.
    ///
    /// # Errors
    /// As [`Live::freeze_now`]. What is left in the log cannot be read, or `how.stop` said so.
    pub(in crate::fs) fn freeze_moment(&self, moment: &mut Moment, how: &FreezeHow<'_>) -> Result<(), FsError> {
        let mut report = FreezeReport::default();
        // A batch may leave a file that fills no superchunk, though more files follow.
        loop {
            let before = moment.splices();
            let mut cursor = moment.next_file(InodeId(0))?.map(|_| Cursor::default());
            while let Some(from) = cursor.take()
                && !(how.stop)()
            {
                cursor = batch::run(self, how, Which::Dirty, from, &mut report, &|_, _| (), Some(&mut *moment))?;
                #[cfg(test)]
                self.freezer.at(super::control::Step::Frozen);
            }
            if (how.stop)() || moment.splices() == before || moment.next_file(InodeId(0))?.is_none() {
                return Ok(());
            }
        }
    }
}
