//! The packing pipeline: scan → read, cut, hash → deduplicate, fill → compress → append.
//!
//! One pass in path order. Every stage runs on threads of its own. Bounded queues between the stages keep the order of
//! the scan, so the image depends only on input and options, never on timing or the number of threads. Threads: `scan`,
//! `count`, `read-N`, the caller's own (fill), `compress-N`, `append`. Callers: cli.

mod append;
mod compare;
mod dirs;
mod empty;
mod error;
mod files;
mod fill;
pub mod filter;
mod finish;
mod held;
mod hollow;
pub mod matching;
mod options;
mod own;
mod pipeline;
mod plan;
pub mod portions;
mod probe;
mod read;
pub mod rehearsal;
mod rows;
mod scan;
mod shares;
mod source;
mod spool;
mod stored;
pub mod superchunk;
mod walk;
mod xattrs;

pub use empty::{empty, empty_into};
pub use error::PackError;
pub use options::{PackObserver, PackOptions, PackSummary};

use crate::storage::{Access, AtomicFile, FileStorage, Target};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Walks the sources as [`pack`] would and reports the total to the observer. It writes nothing and reads no file.
///
/// # Errors
/// Fails if a source does not exist.
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
/// If there is one source and it is a directory, it becomes the root. Otherwise the root holds each source under its
/// name. The image appears under its name only when it is complete and synced; on any error no file remains. If the
/// name is a link, the image replaces or creates the link's target. The image's own files are not packed into it.
///
/// # Errors
/// Fails if a source does not exist, or the image exists (without `force`), is not a regular file, has a writer, is the
/// only source, or cannot be written. If something below a source cannot be read, the observer gets a warning, and the
/// summary counts it.
pub fn pack(
    sources: &[PathBuf],
    image: &Path,
    options: &PackOptions,
    observer: &dyn PackObserver,
) -> Result<PackSummary, PackError> {
    let plan = plan::Plan::new(options, image)?;
    // Refuse a target that cannot be written before reading anything.
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
    let (progress, places) = (append::Progress::default(), stored::Places::new(options));
    let stages = pipeline::Stages {
        scan: &scan,
        plan: &plan,
        options,
        observer,
        progress: &progress,
        compare: compare::Compare::new(options),
        stored: stored::Stored::new(stored::Back::Image(storage.clone(), &places), options),
        portions: None,
    };
    let compress = |queue: &_| superchunk::compress(queue, options.compression, options.params.part_size);
    let append = |queue: &_| {
        append::run(queue, storage.clone(), &progress, &places, observer)
            .map_err(|source| PackError::log(image, source))
    };
    let (filled, appended) = stages.run(&compress, append)?;
    let mut finished = finish::finish(filled, appended, storage, image, options)?;
    if observer.cancelled() {
        return Err(PackError::Cancelled);
    }
    let mode = if finished.private { 0o600 } else { 0o666 & !options.umask };
    finished.summary.warnings += scan.warnings();
    target.finish(mode)?;
    Ok(finished.summary)
}
