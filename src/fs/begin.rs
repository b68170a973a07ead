//! The first change: an image that was only read becomes one that is being written.
//!
//! The order makes a crash at any point harmless. First both slots get a new epoch; they are still clean, or still name
//! the log that goes on. Then whatever follows the image's end is cut off. Then the thaw log's first segment is made.
//! Then both slots get its id and are no longer clean. Each step is durable before the next one. A log is removed only
//! after both slots are clean. If a step fails, the next [`look`](super::start::look) finds what was done; nothing is
//! lost. Called by `live`.

use super::start::{Found, FoundLog, StartError};
use crate::format::head::Head;
use crate::format::{limits, sums};
use crate::log::LogWriter;
use crate::meta::{Heads, Image};
use crate::storage::{LogHome, Storage};
use crate::thaw::replay::Replayed;
use crate::thaw::{self, Binding, ThawLog};
use std::sync::Arc;

/// Options for a new thaw log.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// Random number that becomes the log's id. If a log of the image already had this id, another one is derived from
    /// it.
    pub log_id: u64,
    /// Length of a segment in bytes: a power of two from 16 KiB to 64 MiB. If absent, the free space decides.
    pub segment_size: Option<u64>,
}

/// An image that is open for writing, with its thaw log.
pub struct Writer {
    /// Writer of the thaw log.
    pub log: ThawLog,
    /// Writer of the image's log.
    pub image: LogWriter,
    /// Writer of the head slots.
    pub heads: Heads,
    /// The directory that holds the thaw log.
    pub home: Arc<dyn LogHome>,
    /// The version of the image that the thaw log continues.
    pub base: Arc<Image>,
    /// Changes since that version, replayed from the thaw log. Ranges may name other frames than in [`Found`].
    pub replayed: Replayed,
    /// New name of a thaw log that did not belong to the image and was set aside.
    pub set_aside: Option<String>,
}

impl Found {
    /// Opens the image for writing.
    ///
    /// # Errors
    /// Fails if a step fails. Nothing that was committed is lost then; [`look`](super::start::look) may be called
    /// again, and another attempt made.
    pub fn begin(self, beginning: &Beginning) -> Result<Writer, StartError> {
        let Found { storage, home, mut heads, image: base, mut replayed, log: found, used } = self;
        let log_id = new_id(beginning.log_id, &used);
        let set_aside = match &found {
            FoundLog::None => None,
            FoundLog::Aside(_) => Some(home.set_aside()?),
            // Its name is durable now, and only this writer uses it.
            FoundLog::Leftover(_) | FoundLog::Resume(..) => home.create().map(|_| None)?,
        };
        let (goes_on, counted) = match &found {
            FoundLog::Resume(recovered, _) => (Some(recovered.log_id()), recovered.image_end()),
            _ => (None, 0),
        };
        let epoch = raise_epoch(&mut heads, goes_on)?;
        let image = open_log(&storage, heads.newest(), epoch, counted)?;
        let log = match found {
            FoundLog::Resume(recovered, contained) => {
                let resumed = recovered.resume(binding(heads.newest()), epoch, contained);
                let (log, moved) = resumed.map_err(StartError::of_log)?;
                replayed.follow(&moved);
                log
            }
            other => {
                if let FoundLog::Leftover(Some(recovered)) = other {
                    recovered.remove().map_err(StartError::of_log)?;
                }
                new_log(&mut heads, &*home, epoch, log_id, beginning.segment_size)?
            }
        };
        Ok(Writer { log, image, heads, home, base, replayed, set_aside })
    }
}

//= format-spec.md#2.3
//# A writer durably raises `epoch` in the head.
/// Raises the epoch in both head slots. The slots then name the thaw log `goes_on` that is continued; if there is none,
/// they are marked clean.
pub(super) fn raise_epoch(heads: &mut Heads, goes_on: Option<u64>) -> Result<u32, StartError> {
    let last = heads.slots().map(|head| head.epoch).max().unwrap_or(0);
    let epoch = last.checked_add(1).filter(|&epoch| epoch < limits::EPOCH);
    let epoch = epoch.ok_or(StartError::NoEpoch { epoch: last })?;
    heads.publish(|head| {
        head.epoch = epoch;
        head.clean = goes_on.is_none();
        head.thaw_log_id = goes_on.unwrap_or(0);
    })?;
    Ok(epoch)
}

//= format-spec.md#2.3
//# Then it appends at `log_end`, or after the last frame that the thaw log names.
/// Opens a writer at the image's end: `log_end`, or the end of the last frame that the thaw log names. Bytes after it
/// are cut off.
pub(super) fn open_log(
    storage: &Arc<dyn Storage>,
    head: &Head,
    epoch: u32,
    counted: u64,
) -> Result<LogWriter, StartError> {
    let end = head.log_end.0.max(counted);
    let len = storage.len()?;
    if len >= end {
        // This also releases space that was reserved after the end: a full disk may need it for the thaw log.
        storage.truncate(end)?;
    }
    if len > end {
        storage.sync()?;
    }
    let sequence = limits::first_sequence(epoch);
    Ok(LogWriter::new(Arc::clone(storage), head.log_id, epoch, sequence, end)?)
}

//= format-spec.md#11.4
//# A new log begins with segment 0, whose head and name are made durable first.
/// Makes a new thaw log without commits, and lets both head slots name it. Before the call the slots are clean.
fn new_log(
    heads: &mut Heads,
    home: &dyn LogHome,
    epoch: u32,
    log_id: u64,
    segment_size: Option<u64>,
) -> Result<ThawLog, StartError> {
    let size = match segment_size {
        Some(size) => size,
        None => thaw::segment_size(home.space()?.free),
    };
    let folder = home.create()?;
    let created = ThawLog::create(folder, binding(heads.newest()), log_id, epoch, size);
    let mut log = created.map_err(StartError::of_log)?;
    heads.publish(|head| {
        head.clean = false;
        head.thaw_log_id = log_id;
    })?;
    log.set_binding(binding(heads.newest()));
    Ok(log)
}

/// Returns an id that is not 0 and not in `used`: a log that an earlier attempt left must not be mistaken for the new
/// one.
fn new_id(random: u64, used: &[u64]) -> u64 {
    let mut id = random;
    while id == 0 || used.contains(&id) {
        id = sums::xxh3(&id.to_le_bytes());
    }
    id
}

/// Returns what a segment of the thaw log records about the image.
pub(super) fn binding(head: &Head) -> Binding {
    Binding { uuid: head.uuid, lineage: head.lineage, generation: head.generation, root_hash: head.root_hash }
}
