//! Freezes everything that may be frozen now, batch after batch, in the order of inode numbers.
//!
//! That is the order in which files were made, so a tree that was copied in is packed much as `pack` packs it. Called
//! by the freezer's thread, `running` at the end, cli and tests.

use super::batch::{self, Cursor, Which};
use super::moment::Moment;
use super::repack::Repack;
use super::report::{FreezeHow, FreezeProgress, FreezeReport};
use super::share;
use crate::format::ids::InodeId;
use crate::fs::FsError;
use crate::fs::live::Live;
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Most rounds in which files that change while everything is being frozen are looked at again.
const ROUNDS: usize = 3;

impl Live {
    /// Sets how many superchunks a freeze compresses at a time. The default is one for each core.
    pub fn set_compressors(&self, compressors: usize) {
        self.compressors.store(compressors, Ordering::Relaxed);
    }

    /// Sets the directory in which a large index of known subchunks is stored, in files without a name. It must not be
    /// inside the mount.
    pub fn set_spill(&self, folder: &Path) {
        self.freezing.lock().set_spill(folder.to_owned());
    }

    /// Freezes everything that may be frozen now, in this thread and its compressors. The next commit makes the result
    /// durable. After the next checkpoint the frozen bytes are in the image alone.
    ///
    /// # Errors
    /// Fails with `NoSpace` if there is no space for more superchunks: nothing is lost, and the call may be repeated;
    /// with `ReadOnly` or `Io` if changes are refused or tables cannot be read.
    pub fn freeze_now(&self, how: &FreezeHow<'_>, observer: &dyn Fn(FreezeProgress)) -> Result<FreezeReport, FsError> {
        let total = self.lock_state().dirty.bytes();
        let mut report = FreezeReport { bytes: total, ..FreezeReport::default() };
        observer(FreezeProgress { done_bytes: 0, total_bytes: total, stored_bytes: 0 });
        // Bytes count when they are cut; splicing them does not make the number smaller.
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
        let mut repack = Repack::default();
        while how.deep && !(how.stop)() && repack.round(self, how, &mut report)? {
            // Writers do not wait for what can be done later.
            let mut cursor = self.pressure.is_pressed().then(Cursor::default);
            while let Some(from) = cursor.take()
                && !(how.stop)()
            {
                cursor = batch::run(self, how, Which::Dirty, from, &mut report, &|_, _| (), None)?;
            }
        }
        if how.deep {
            share::share(self, how, &mut report)?;
        }
        let state = self.lock_state();
        (report.left_bytes, report.failed) = (state.dirty.bytes(), state.dirty.failed() as u64);
        Ok(report)
    }

    /// Freezes everything that a snapshot's moment has in the thaw log, open files included, while the filesystem
    /// continues to change. What is left in the log afterwards cannot be read, unless `how.stop` ended the freeze.
    ///
    /// # Errors
    /// Fails as [`Live::freeze_now`] does.
    pub(in crate::fs) fn freeze_moment(&self, moment: &mut Moment, how: &FreezeHow<'_>) -> Result<(), FsError> {
        let mut report = FreezeReport::default();
        // A batch may leave over a file that fills no superchunk, although more files follow.
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
