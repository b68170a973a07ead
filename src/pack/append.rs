//! Appending superchunks in the order they were sealed, however their compressors finish.

use super::compare::Places;
use super::superchunk;
use crate::format::FormatError;
use crate::format::clear::ClearList;
use crate::format::codec::Encoded;
use crate::format::frame::FrameKind;
use crate::format::limits;
use crate::log::{LogError, LogWriter};
use crate::meta::MapRows;
use crate::storage::{FileStorage, Storage};
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Figures that other threads have.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes of the image.
    pub(super) stored: AtomicU64,
}

/// A superchunk that is complete, and what its compressor makes of it.
pub(super) struct Sealed<E = Encoded> {
    pub(super) list: ClearList,
    pub(super) raw_len: u32,
    /// Whether it is not full.
    pub(super) short: bool,
    pub(super) encoded: Receiver<Result<E, FormatError>>,
    /// Id of the log, for the first one to begin it.
    pub(super) log_id: u64,
}

/// What was appended.
pub(super) struct Appended {
    /// `None` if there was no superchunk.
    pub(super) log: Option<LogWriter>,
    pub(super) map: MapRows,
}

/// The epoch of an image that `pack` makes.
pub(super) const PACK_EPOCH: u32 = 1;

/// A new log in an empty storage: room for the head slots, then frames.
pub(super) fn begin_log(storage: Arc<dyn Storage>, log_id: u64) -> Result<LogWriter, LogError> {
    storage.append(&[&vec![0; limits::LOG_START as usize]])?;
    LogWriter::new(storage, log_id, PACK_EPOCH, limits::first_sequence(PACK_EPOCH), limits::LOG_START)
}

/// Appends superchunks in order until there are no more.
pub(super) fn run(
    queue: &Receiver<Sealed>,
    storage: Arc<FileStorage>,
    progress: &Progress,
    places: &Places,
) -> Result<Appended, LogError> {
    let mut appended = Appended { log: None, map: MapRows::default() };
    while let Ok(sealed) = queue.recv() {
        // A compressor that is gone has panicked: the scope it runs in passes that on.
        let Ok(encoded) = sealed.encoded.recv() else { break };
        let encoded =
            encoded.map_err(|source| LogError::Format { offset: crate::format::ids::LogOffset(0), source })?;
        if appended.log.is_none() {
            appended.log = Some(begin_log(storage.clone(), sealed.log_id)?);
        }
        let Some(log) = &mut appended.log else { break };
        let clear = sealed.list.encode();
        let place = log.append(superchunk::frame(&encoded, &clear, sealed.raw_len, sealed.short))?;
        appended.map.add(FrameKind::SUPERCHUNK, place, &sealed.list, Vec::new());
        places.add(sealed.list.superchunk, place);
        progress.stored.store(log.end(), Ordering::Relaxed);
    }
    Ok(appended)
}
