//! Makes superchunks part of the image: they are appended and synced, and their rows become pending.
//!
//! All this happens under the image's lock; ids of subchunks and superchunks are given out only under it. The rows of
//! all superchunks become pending in one step [25], and the same step raises the image's end: a commit has either both
//! or neither. A failure before that leaves nothing behind. Called by `batch`.

use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::place::Place;
use crate::format::schema;
use crate::freeze::Packed;
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::ids::take;
use crate::fs::live::{ImageSide, Live};
use crate::log::LogError;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Appends the superchunks of a batch to the image. Returns the id of the batch's first subchunk.
pub(super) fn publish(live: &Live, packed: &Packed) -> Result<SubchunkId, FsError> {
    live.begin()?;
    let mut image = live.image.lock();
    let image = image.as_mut().ok_or_else(|| FsError::io("the file system has ended already"))?;
    {
        let state = live.lock_state();
        state.check_latch()?;
        if state.failed.is_some() {
            // No commit can take the rows before there is space for one.
            return Err(FsError::NoSpace);
        }
    }
    live.is_still_the_image(image)?;
    let bytes =
        packed.superchunks.iter().fold(limits::SYNC_BLOCK, |sum, packed| sum.saturating_add(packed.frame_len()));
    live.allocate_before_reserve(bytes)?;
    let first = take(&live.ids.subchunk, packed.subchunks(), limits::ID).map(SubchunkId).ok_or(FsError::NoSpace)?;
    let count = packed.superchunks.len() as u64;
    let superchunk = take(&live.ids.superchunk, count, limits::ID).ok_or(FsError::NoSpace)?;
    let begin = image.log.end();
    let appended = append(image, packed, first, superchunk).and_then(|places| image.log.sync().map(|()| places));
    let places = appended.map_err(|error| give_up(live, image, begin, &error))?;
    let end = image.log.end();
    live.snapshot().view().version().raise_end(end);
    let mut draft = Draft::new(live.snapshot(), Arc::clone(&live.ids), live.now());
    packed.map_rows(first, &places).into_iter().for_each(|row| draft.put(&schema::MAP, row));
    packed.identity_rows(first).into_iter().for_each(|row| draft.put(&schema::IDENTITIES, row));
    // A commit takes the pending rows and the image's end under the log's lock.
    let log = live.log.lock();
    let mut state = live.lock_state();
    state.check_latch()?;
    live.image_end.store(end, Ordering::SeqCst);
    // The draft claims nothing, so it always applies.
    state.apply(draft);
    drop((state, log));
    live.reserved.store(0, Ordering::SeqCst);
    live.changed.notify_all();
    Ok(first)
}

fn append(
    image: &mut ImageSide,
    packed: &Packed,
    first: SubchunkId,
    superchunk: u64,
) -> Result<Vec<(SuperchunkId, Place)>, LogError> {
    let ids = (superchunk..).map(SuperchunkId);
    let mut places = Vec::with_capacity(packed.superchunks.len());
    for (id, packed) in ids.zip(&packed.superchunks) {
        let clear = packed.clear_list(first, id).encode();
        places.push((id, image.log.append(packed.frame(&clear))?));
    }
    Ok(places)
}

/// Cuts off what was appended after `begin`. Refuses all further changes if that fails, or if it is not known what is
/// durable. Returns the error that the caller is to return.
fn give_up(live: &Live, image: &mut ImageSide, begin: u64, error: &LogError) -> FsError {
    // Cutting off also frees the space that was allocated after the end.
    live.reserved.store(0, Ordering::SeqCst);
    if image.log.is_stopped() || image.log.cut_back(begin).is_err() {
        live.latch(&error.to_string());
    }
    match error {
        LogError::Storage(source) if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            FsError::NoSpace
        }
        _ => FsError::io(error.to_string()),
    }
}
