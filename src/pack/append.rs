//! Appends superchunks in the order in which they were sealed, whatever order their compressors finish in.

use super::stored::Places;
use super::{PackObserver, superchunk};
use crate::format::FormatError;
use crate::format::clear::ClearList;
use crate::format::codec::Encoded;
use crate::format::frame::FrameKind;
use crate::format::ids::SubchunkId;
use crate::format::limits;
use crate::format::recipe::Recipe;
use crate::log::{LogError, LogWriter};
use crate::meta::MapRows;
use crate::storage::{FileStorage, Storage};
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Progress of packing. A file counts when its bytes are in the image: read, compressed and appended.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes of the image that are written.
    pub(super) stored: AtomicU64,
    /// Number of files and of bytes that are read and cut.
    read: (AtomicU64, AtomicU64),
    /// Number of bytes in new subchunks, which deduplication did not find elsewhere. `appended` counts those of them
    /// that are in the image.
    fresh: AtomicU64,
    appended: AtomicU64,
}

impl Progress {
    /// Records that `files` files with `bytes` bytes are read so far, and that `fresh` of the bytes are new. Called by
    /// one thread.
    pub(super) fn read(&self, files: u64, bytes: u64, fresh: u64) {
        self.read.0.store(files, Ordering::Relaxed);
        // In this order nothing is ever counted as done too early for longer than a moment.
        self.fresh.store(fresh, Ordering::Relaxed);
        self.read.1.store(bytes, Ordering::Relaxed);
    }

    /// Records that a superchunk with `bytes` bytes of subchunks is appended, and that the image ends at offset `end`.
    pub(super) fn append(&self, bytes: u64, end: u64) {
        self.appended.fetch_add(bytes, Ordering::Relaxed);
        self.stored.store(end, Ordering::Relaxed);
    }

    /// Reports the progress to the observer.
    pub(super) fn tell(&self, observer: &dyn PackObserver) {
        let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let waiting = of(&self.fresh).saturating_sub(of(&self.appended));
        observer.progress(of(&self.read.0), of(&self.read.1).saturating_sub(waiting), of(&self.stored));
    }
}

/// A complete superchunk, and the receiver of its compressed form.
pub(super) struct Sealed<E = Encoded> {
    pub(super) list: ClearList,
    /// Recipes of its composed subchunks.
    pub(super) recipes: Vec<(SubchunkId, Recipe)>,
    /// Bytes of its subchunks, as files have them.
    pub(super) subchunk_bytes: u64,
    pub(super) raw_len: u32,
    /// Whether the superchunk is not full.
    pub(super) short: bool,
    /// Whether the superchunk is compressed in parts, if the image has parts at all.
    pub(super) in_parts: bool,
    pub(super) encoded: Receiver<Result<E, FormatError>>,
    /// Id of the log, which begins when the first superchunk is appended.
    pub(super) log_id: u64,
}

/// Result of appending all superchunks.
pub(super) struct Appended {
    /// Writer of the image's log; `None` if there was no superchunk.
    pub(super) log: Option<LogWriter>,
    pub(super) map: MapRows,
    /// Whether some subchunk is composed.
    pub(super) has_recipes: bool,
}

/// Epoch (number of the writer's session) of an image that `pack` makes.
pub(super) const PACK_EPOCH: u32 = 1;

/// Begins a new log in an empty storage: zeros where the head slots will be, then frames.
pub(super) fn begin_log(storage: Arc<dyn Storage>, log_id: u64) -> Result<LogWriter, LogError> {
    storage.append(&[&vec![0; limits::LOG_START as usize]])?;
    LogWriter::new(storage, log_id, PACK_EPOCH, limits::first_sequence(PACK_EPOCH), limits::LOG_START)
}

/// Appends superchunks in order until all are appended.
pub(super) fn run(
    queue: &Receiver<Sealed>,
    storage: Arc<FileStorage>,
    progress: &Progress,
    places: &Places,
    observer: &dyn PackObserver,
) -> Result<Appended, LogError> {
    let mut appended = Appended { log: None, map: MapRows::default(), has_recipes: false };
    while let Ok(sealed) = queue.recv() {
        // The compressor hung up because it panicked; the thread scope passes the panic on.
        let Ok(encoded) = sealed.encoded.recv() else { break };
        let encoded =
            encoded.map_err(|source| LogError::Format { offset: crate::format::ids::LogOffset(0), source })?;
        if appended.log.is_none() {
            appended.log = Some(begin_log(storage.clone(), sealed.log_id)?);
        }
        let Some(log) = &mut appended.log else { break };
        let clear = sealed.list.encode();
        let place = log.append(superchunk::frame(&encoded, &clear, sealed.raw_len, sealed.short))?;
        appended.has_recipes |= !sealed.recipes.is_empty();
        appended.map.add(FrameKind::SUPERCHUNK, place, &sealed.list, sealed.recipes);
        places.add(place);
        progress.append(sealed.subchunk_bytes, log.end());
        progress.tell(observer);
    }
    Ok(appended)
}
