//! The packing pipeline: scan → read, cut, hash → deduplicate, fill → compress → append.
//!
//! One pass in path order. Every stage runs on threads of its own. Bounded queues between the stages keep the order of
//! the scan, so the image depends only on input and options, never on timing or the number of threads. Threads: `scan`,
//! `count`, `read-N`, the caller's own (fill), `compress-N`, `append`. Callers: cli.

mod again;
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
mod stamps;
mod stored;
pub mod superchunk;
mod walk;
mod written;
mod xattrs;

pub use again::SourceFile;
pub use empty::{empty, empty_into};
pub use error::PackError;
pub use files::{Entry, FileJob, Meta};
pub use options::{PackObserver, PackOptions, PackSummary};
pub use read::Unreadable;
pub use written::Written;

use crate::format::rows::Time;
use crate::storage::{Access, AtomicFile, FileStorage, Target};
use again::{Remembering, Warned};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use written::Complete;

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
    complete(sources, image, options, observer, false)?.finish()
}

/// Packs the sources into a new image as [`pack`] does, but does not give it its name yet, so that it can be verified
/// before. Takes 8 bytes more for each inode, in a temporary file if there are many.
///
/// # Errors
/// Fails as [`pack`] does.
pub fn write<'a>(
    sources: &'a [PathBuf],
    image: &Path,
    options: &'a PackOptions,
    observer: &dyn PackObserver,
) -> Result<Written<'a>, PackError> {
    let warned = Warned::default();
    let complete = complete(sources, image, options, &Remembering { observer, warned: &warned }, true)?;
    Written::new(complete, image, sources, options, warned)
}

/// Makes a complete image without its name. With `stamps`, the stamps of all inodes are kept.
fn complete(
    sources: &[PathBuf],
    image: &Path,
    options: &PackOptions,
    observer: &dyn PackObserver,
    stamps: bool,
) -> Result<Complete, PackError> {
    let plan = plan::Plan { stamps, ..plan::Plan::new(options, image)? };
    // Refuse a target that cannot be written before reading anything.
    let target = Target::claim(image, options.force)?;
    let sources = scan::sources(sources, options)?;
    if sources.iter().all(|source| source.is_inode(target.replaced())) {
        return Err(PackError::OnlyItself { image: image.to_owned() });
    }
    let before = sources.iter().map(|source| source.stat).collect();
    let target = AtomicFile::create(target, options.writer.as_ref())?;
    let file = target.file().try_clone().map_err(|source| PackError::io("share", image, source))?;
    let made = file.metadata().map_err(|source| PackError::io("stat", image, source))?;
    let begun = Time { secs: made.ctime(), nanos: made.ctime_nsec() as u32 };
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
    let (mut filled, appended) = stages.run(&compress, append)?;
    let stamps = filled.rows.stamps.take();
    let mut finished = finish::finish(filled, appended, storage.clone(), image, options)?;
    if observer.cancelled() {
        return Err(PackError::Cancelled);
    }
    let mode = if finished.private { 0o600 } else { 0o666 & !options.umask };
    finished.summary.warnings += scan.warnings();
    Ok(Complete { target, storage, own, before, begun, stamps, mode, summary: finished.summary })
}
