//! The scan: walks the sources, and either makes batches of entries for readers and filler, or only counts.

use super::dirs::Pool;
use super::files::{Batch, Entry, Segment, allocated};
use super::own::Own;
use super::read::ReadJob;
use super::source::Source;
use super::walk::{Rules, Sink, Stop, Walk};
use super::{PackError, PackObserver, PackOptions};
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Number of entries after which a batch ends, if its files do not reach [`BATCH_BYTES`] before.
const BATCH_ENTRIES: usize = 128;
const BATCH_BYTES: u64 = 1 << 20;
/// Number of segments (pieces of files) of one batch by which a reader may be ahead of the thread that fills
/// superchunks.
const SEGMENTS: usize = 2;

/// Opens the sources named by `paths`. A bounded number of their directories stays open.
pub(super) fn sources(paths: &[PathBuf], options: &PackOptions) -> Result<Vec<Source>, PackError> {
    Source::open_all(paths, options.dereference_sources, &Pool::new(options.open_directories))
}

/// A walk over sources.
pub(super) struct Scan<'a> {
    sources: &'a [Source],
    rules: Rules<'a>,
}

/// Files and bytes that the sources hold, as far as it is known before a file is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of regular files.
    pub files: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// Bytes of the regular files outside holes.
    pub data_bytes: u64,
    /// Bytes that may be duplicates, judged by sizes alone: files that share a size with another, and large files. 0
    /// unless asked for.
    pub alike_bytes: u64,
}

/// Receives the entries of a walk, and only counts them.
#[derive(Default)]
struct Counting {
    count: Count,
    /// Sizes of the files seen so far, if files that share a size are to be counted.
    sizes: Option<HashSet<u64>>,
}

/// Least size in bytes of files that may have much in common, whatever their sizes are.
const LARGE: u64 = 8 << 20;
/// Least size in bytes of files that may count as alike: many smaller files have the same size by chance, and they
/// matter little.
const SMALL: u64 = 4 << 10;

impl Sink for Counting {
    fn entry(&mut self, entry: Entry) -> Result<(), Stop> {
        if let Entry::File { meta, job } = entry {
            let data = meta.size.min(allocated(&job.stat));
            let count = &mut self.count;
            count.files += 1;
            count.bytes = count.bytes.saturating_add(meta.size);
            count.data_bytes = count.data_bytes.saturating_add(data);
            if let Some(sizes) = &mut self.sizes
                && meta.size >= SMALL
                && (!sizes.insert(meta.size) || meta.size >= LARGE)
            {
                count.alike_bytes = count.alike_bytes.saturating_add(data);
            }
        }
        Ok(())
    }
}

/// Receives the entries of a walk, and makes batches of them for the threads that read files and the one that fills
/// superchunks.
struct Batches<'a> {
    batch: Batch,
    /// Bytes of the batch's files, and of all files.
    bytes: u64,
    all_bytes: u64,
    readers: &'a Sender<ReadJob>,
    filler: &'a Sender<(Arc<Batch>, Receiver<Segment>)>,
}

impl Sink for Batches<'_> {
    fn entry(&mut self, mut entry: Entry) -> Result<(), Stop> {
        if let Entry::File { meta, job } = &mut entry {
            job.start = self.all_bytes;
            self.bytes = self.bytes.saturating_add(meta.size);
            self.all_bytes = self.all_bytes.saturating_add(meta.size);
        }
        self.batch.entries.push(entry);
        if self.batch.entries.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }
}

/// A sink that passes every entry on.
struct Passing<'a>(&'a mut dyn FnMut(Entry) -> bool);

impl Sink for Passing<'_> {
    fn entry(&mut self, entry: Entry) -> Result<(), Stop> {
        if (self.0)(entry) { Ok(()) } else { Err(Stop::Gone) }
    }
}

impl Batches<'_> {
    fn flush(&mut self) -> Result<(), Stop> {
        let batch = Arc::new(std::mem::take(&mut self.batch));
        self.bytes = 0;
        let (segments, received) = crossbeam_channel::bounded(SEGMENTS);
        if batch.entries.iter().any(|entry| matches!(entry, Entry::File { .. })) {
            self.readers.send((batch.clone(), segments)).map_err(|_| Stop::Gone)?;
        }
        self.filler.send((batch, received)).map_err(|_| Stop::Gone)
    }
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        sources: &'a [Source],
        options: &'a PackOptions,
        own: &'a Own,
        observer: &'a dyn PackObserver,
    ) -> Self {
        let (warnings, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let rules = Rules { filter: &*options.filter, options, own, observer, warnings, over, again: false };
        Scan { sources, rules }
    }

    /// Makes this the scan after packing, with which the image is verified: its warnings say so.
    pub(super) fn again(mut self) -> Self {
        self.rules.again = true;
        self
    }

    /// Walks the sources and passes each entry to `each`, until that returns false or the observer asks to stop.
    ///
    /// # Errors
    /// Fails if continuing would leave something out.
    pub(super) fn pass(&self, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), PackError> {
        failure(Walk::new(&self.rules, &mut Passing(each), true).run(self.sources))
    }

    /// Makes all walks end, because nobody needs their entries any more.
    pub(super) fn end(&self) {
        self.rules.over.store(true, Ordering::Relaxed);
    }

    /// Returns the number of warnings so far.
    pub(super) fn warnings(&self) -> u64 {
        self.rules.warnings.load(Ordering::Relaxed)
    }

    /// Walks the sources, and sends batches in path order to the threads that read files and the one that fills
    /// superchunks. Ends after the last entry, or when nobody receives any more.
    ///
    /// # Errors
    /// Fails if continuing would leave something out. Then the batches are incomplete.
    pub(super) fn run(
        &self,
        readers: &Sender<ReadJob>,
        filler: &Sender<(Arc<Batch>, Receiver<Segment>)>,
    ) -> Result<(), PackError> {
        let mut batches = Batches { batch: Batch::default(), bytes: 0, all_bytes: 0, readers, filler };
        let walked = Walk::new(&self.rules, &mut batches, true).run(self.sources);
        failure(walked.and_then(|()| batches.flush()))
    }

    /// Walks the sources only to report the totals to the observer.
    ///
    /// # Errors
    /// Fails if continuing would leave something out, or the observer asked to stop; then the observer gets no totals.
    pub(super) fn count(&self, aloud: bool) -> Result<(), PackError> {
        let count = self.counted(Counting::default(), aloud)?;
        self.rules.observer.total(count.files, count.bytes);
        Ok(())
    }

    /// Walks the sources only to count, and estimates which files may be alike. Takes 16 bytes of memory for each
    /// distinct file size.
    ///
    /// # Errors
    /// Fails as [`Scan::count`] does.
    pub(super) fn count_alike(&self) -> Result<Count, PackError> {
        self.counted(Counting { sizes: Some(HashSet::new()), ..Counting::default() }, false)
    }

    fn counted(&self, mut counting: Counting, aloud: bool) -> Result<Count, PackError> {
        match Walk::new(&self.rules, &mut counting, aloud).run(self.sources) {
            Err(Stop::Gone) => return Err(PackError::Cancelled),
            walked => failure(walked)?,
        }
        Ok(counting.count)
    }
}

/// Returns the error that the walk itself met. If it ended because nobody receives its entries any more, that is no
/// error of the walk: the receiver reports why.
fn failure(walked: Result<(), Stop>) -> Result<(), PackError> {
    match walked {
        Ok(()) | Err(Stop::Gone) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}
