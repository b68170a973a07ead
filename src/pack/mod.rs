//! The packing pipeline: scan → read, cut, hash → deduplicate, fill → compress → append.
//!
//! One pass in path order. Every stage runs on threads of its own; between stages stand bounded queues that keep the
//! scan's order, so what reaches the image depends on input and options alone, never on timing or the number of
//! threads. Threads: `scan`, `count`, `read-N`, the caller's own (fill), `compress-N`, `append`. Callers: cli.

mod append;
mod compare;
mod dirs;
mod empty;
mod error;
mod files;
mod fill;
pub mod filter;
mod finish;
mod options;
mod own;
mod plan;
mod read;
mod rows;
mod scan;
mod shares;
mod source;
mod spool;
pub mod superchunk;
mod walk;
mod xattrs;

pub use empty::{empty, empty_into};
pub use error::PackError;
pub use options::{PackObserver, PackOptions, PackSummary};

use crate::storage::{Access, AtomicFile, FileStorage, Target};
use crossbeam_channel::bounded;
use fill::Filler;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, ScopedJoinHandle};

/// Batches that were scanned and wait to be filled in: bounds what readers hold in memory.
const BATCHES: usize = 24;

/// Walks over the sources as [`pack`] would and tells the observer the total; writes nothing and reads no file.
///
/// # Errors
/// If a source does not exist.
pub fn survey(
    sources: &[PathBuf],
    image: &Path,
    options: &PackOptions,
    observer: &dyn PackObserver,
) -> Result<(), PackError> {
    let sources = scan::sources(sources, options)?;
    let own = own::Own::of_name(image)?;
    scan::Scan::new(&sources, options, &own, observer).count(true)
}

/// Packs the sources into a new image.
///
/// One source that is a directory becomes the root; else the root holds each source under its name. The image appears
/// under its name only when it is complete and synced; on any error nothing is left behind. If the name is a link, the image
/// appears where it leads. The image's own files are not packed into it.
///
/// # Errors
/// If a source does not exist, the image exists (without `force`), is something else than a regular file or has a writer, is
/// the only source, or cannot be written. What cannot be read below a source is a warning to the observer, counted in the
/// summary.
pub fn pack(
    sources: &[PathBuf],
    image: &Path,
    options: &PackOptions,
    observer: &dyn PackObserver,
) -> Result<PackSummary, PackError> {
    let plan = plan::Plan::new(options, image)?;
    // What cannot be written is refused before anything is read.
    let target = Target::claim(image, options.force)?;
    let sources = scan::sources(sources, options)?;
    if sources.iter().all(|source| source.is_inode(target.replaced())) {
        return Err(PackError::OnlyItself { image: image.to_owned() });
    }
    let target = AtomicFile::create(target, options.writer.as_ref())?;
    let file = target.file().try_clone().map_err(|source| PackError::io("share", image, source))?;
    let own = own::Own::of(&target)?;
    let storage = FileStorage::from_file(file, image.to_owned(), Access::ReadWrite);
    let storage = Arc::new(storage.map_err(|source| PackError::image(image, source))?);

    let scan = scan::Scan::new(&sources, options, &own, observer);
    let (progress, places) = (append::Progress::default(), compare::Places::new(options));
    let (progress, places) = (&progress, &places);
    let written = std::thread::scope(|scope| {
        let (read_jobs, read_queue) = bounded(BATCHES);
        let (batches, batch_queue) = bounded(BATCHES);
        let (compress_jobs, compress_queue) = bounded(plan.compressors);
        let (sealed, sealed_queue) = bounded(2 * plan.compressors + 1);
        let spawn = |name: String| Builder::new().name(name);
        let failed = |source| PackError::Thread { source };

        let scan = &scan;
        // The senders move into the scan, so that those behind it end when it does.
        let scanning =
            spawn("scan".into()).spawn_scoped(scope, move || scan.run(&read_jobs, &batches)).map_err(failed)?;
        if observer.wants_total() {
            // What ends it ends the scan, too; without a total the bar is only less use.
            spawn("count".into()).spawn_scoped(scope, || drop(scan.count(false))).map_err(failed)?;
        }
        for n in 0..plan.readers {
            let queue = read_queue.clone();
            spawn(format!("read-{n}")).spawn_scoped(scope, move || read::run(&queue, options)).map_err(failed)?;
        }
        for n in 0..plan.compressors {
            let queue = compress_queue.clone();
            spawn(format!("compress-{n}"))
                .spawn_scoped(scope, move || {
                    superchunk::compress(&queue, options.compression, options.params.part_size)
                })
                .map_err(failed)?;
        }
        drop((read_queue, compress_queue));
        let storage_of_append = storage.clone();
        let appending = spawn("append".into())
            .spawn_scoped(scope, move || append::run(&sealed_queue, storage_of_append, progress, places))
            .map_err(failed)?;

        let compare = compare::Compare::new(places, storage.clone());
        let filler = Filler::new(options, &plan, observer, compress_jobs, sealed, compare, progress);
        let filled = filler.run(&batch_queue);
        scan.end();
        // Readers that still wait to hand something over see that nobody takes it any more.
        drop(batch_queue);
        let appended = joined(appending);
        // If scanning or appending failed, filling failed for that reason alone, or has filled in a part.
        joined(scanning)?;
        Ok::<_, PackError>((filled, appended.map_err(|source| PackError::log(image, source))?))
    });
    let (filled, appended) = written?;
    let filled = filled?;
    let mut finished = finish::finish(filled, appended, storage, image, options)?;
    if observer.cancelled() {
        return Err(PackError::Cancelled);
    }
    let mode = if finished.private { 0o600 } else { 0o666 & !options.umask };
    finished.summary.warnings += scan.warnings();
    target.finish(mode)?;
    Ok(finished.summary)
}

/// What a thread gave; its panic goes on here.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
