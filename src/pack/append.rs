//! Appends superchunks in the order in which they were sealed, whatever order their compressors finish in.

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

/// Figures that other threads read.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes of the image.
    pub(super) stored: AtomicU64,
}

/// A complete superchunk, and the receiver of its compressed form.
pub(super) struct Sealed<E = Encoded> {
    pub(super) list: ClearList,
    pub(super) raw_len: u32,
    /// Whether it is not full: it was sealed before it reached its full size.
    pub(super) short: bool,
    pub(super) encoded: Receiver<Result<E, FormatError>>,
    /// Id of the log; the first superchunk begins the log with it.
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

/// A new log in an empty storage: zeros where the head slots go, then frames.
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
        appended.map.add(FrameKind::SUPERCHUNK, place, &sealed.list, Vec::new());
        places.add(sealed.list.superchunk, place);
        progress.stored.store(log.end(), Ordering::Relaxed);
    }
    Ok(appended)
}
