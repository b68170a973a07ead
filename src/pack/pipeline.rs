//! The stages up to the sealed superchunks, and their threads. The caller decides what becomes of a superchunk.
//!
//! Bounded queues between the stages keep the order. A stage that fails drops its end of a queue; the others notice and
//! stop, and all are joined. Called by `pack` and by a rehearsal of it.

use super::append::{Progress, Sealed};
use super::compare::Compare;
use super::fill::{Filled, Filler};
use super::plan::Plan;
use super::portions::Portions;
use super::scan::Scan;
use super::stored::Stored;
use super::superchunk::CompressJob;
use super::{PackError, PackObserver, PackOptions, read};
use crossbeam_channel::{Receiver, bounded};
use std::thread::{Builder, ScopedJoinHandle};

/// Most batches of files that are scanned and wait to be filled into superchunks. This bounds what readers hold in
/// memory.
const BATCHES: usize = 24;

/// Input of the stages of packing: scan, read, fill, compress, append.
pub(super) struct Stages<'a> {
    pub(super) scan: &'a Scan<'a>,
    pub(super) plan: &'a Plan,
    pub(super) options: &'a PackOptions,
    pub(super) observer: &'a dyn PackObserver,
    pub(super) progress: &'a Progress,
    pub(super) compare: Compare,
    pub(super) stored: Stored<'a>,
    /// Portions of the files to read; `None` for everything.
    pub(super) portions: Option<&'a Portions>,
}

impl Stages<'_> {
    /// Runs the stages to their end. `compress` runs on as many threads as the plan says, and each takes superchunks
    /// until there are no more. `end` takes them in the order in which they were filled, with the result of `compress`.
    ///
    /// # Errors
    /// Fails with the error of the first stage that failed, in the order scan, end, fill.
    pub(super) fn run<E: Send, T: Send>(
        self,
        compress: &(dyn Fn(&Receiver<CompressJob<E>>) + Sync),
        end: impl FnOnce(&Receiver<Sealed<E>>) -> Result<T, PackError> + Send,
    ) -> Result<(Filled, T), PackError> {
        let Stages { scan, plan, options, observer, progress, compare, stored, portions } = self;
        std::thread::scope(|scope| {
            let (read_jobs, read_queue) = bounded(BATCHES);
            let (batches, batch_queue) = bounded(BATCHES);
            let (compress_jobs, compress_queue) = bounded(plan.compressors);
            let (sealed, sealed_queue) = bounded(2 * plan.compressors + 1);
            let spawn = |name: String| Builder::new().name(name);
            let failed = |source| PackError::Thread { source };

            // The senders move into the scan, so that the later stages end when it does.
            let scanning =
                spawn("scan".into()).spawn_scoped(scope, move || scan.run(&read_jobs, &batches)).map_err(failed)?;
            if observer.wants_total() {
                // An error here also ends the scan. Without a total only the progress bar is less useful.
                spawn("count".into()).spawn_scoped(scope, || drop(scan.count(false))).map_err(failed)?;
            }
            for n in 0..plan.readers {
                let queue = read_queue.clone();
                spawn(format!("read-{n}"))
                    .spawn_scoped(scope, move || read::run(&queue, options, portions))
                    .map_err(failed)?;
            }
            for n in 0..plan.compressors {
                let queue = compress_queue.clone();
                spawn(format!("compress-{n}")).spawn_scoped(scope, move || compress(&queue)).map_err(failed)?;
            }
            drop((read_queue, compress_queue));
            let ending = spawn("append".into()).spawn_scoped(scope, move || end(&sealed_queue)).map_err(failed)?;

            let filler = Filler::new(options, plan, observer, compress_jobs, sealed, (compare, stored), progress);
            let filled = filler.reading(portions).run(&batch_queue);
            scan.end();
            // Readers that wait to send now see that nobody receives.
            drop(batch_queue);
            let ended = joined(ending);
            // If the scan or the end failed, filling failed because of that, or filled only a part.
            joined(scanning)?;
            let ended = ended?;
            Ok((filled?, ended))
        })
    }
}

/// Returns the result of a thread; its panic continues here.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
