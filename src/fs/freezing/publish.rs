//! Makes superchunks part of the image: they are appended and synced, and their rows become pending.
//!
//! All this happens under the image's lock; ids of subchunks and superchunks are given out only under it. The rows of
//! all superchunks become pending in one step [25], and the same step raises the image's end: a commit has either both
//! or neither. A failure before that leaves nothing behind. The first superchunk with composed subchunks is appended only
//! after both head slots name that feature: a reader that does not know it refuses the image before it could miss
//! something. Called by `batch` and `repack`.

use crate::format::block::{Key, Row};
use crate::format::head::incompat;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::place::Place;
use crate::format::rows::SuperchunkRow;
use crate::format::rows::map::SPACE_SUPERCHUNKS;
use crate::format::schema;
use crate::freeze::Packed;
use crate::fs::FsError;
use crate::fs::begin::binding;
use crate::fs::draft::Draft;
use crate::fs::ids::take;
use crate::fs::live::{ImageSide, Live};
use crate::log::{LogError, LogWriter, NewFrame};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Appends the superchunks of a batch to the image. Returns the ids of the batch's first subchunk and superchunk; the
/// others follow.
pub(super) fn publish(live: &Live, packed: &Packed) -> Result<(SubchunkId, SuperchunkId), FsError> {
    let bytes = packed.superchunks.iter().fold(0u64, |sum, packed| sum.saturating_add(packed.frame_len()));
    let give_ids = || {
        let first = take(&live.ids.subchunk, packed.subchunks(), limits::ID).map(SubchunkId).ok_or(FsError::NoSpace)?;
        let count = packed.superchunks.len() as u64;
        Ok((first, take(&live.ids.superchunk, count, limits::ID).ok_or(FsError::NoSpace)?))
    };
    let append = |log: &mut LogWriter, &(first, superchunk): &(SubchunkId, u64)| {
        let ids = (superchunk..).map(SuperchunkId);
        let mut places = Vec::with_capacity(packed.superchunks.len());
        for (id, packed) in ids.zip(&packed.superchunks) {
            let clear = packed.clear_list(first, id).encode();
            places.push((id, log.append(packed.frame(&clear))?));
        }
        Ok(places)
    };
    let put_rows = |draft: &mut Draft, &(first, _): &(SubchunkId, u64), places: &[(SuperchunkId, Place)]| {
        packed.map_rows(first, places).into_iter().for_each(|row| draft.put(&schema::MAP, row));
        packed.identity_rows(first).into_iter().for_each(|row| draft.put(&schema::IDENTITIES, row));
    };
    let features = if packed.has_recipes() { incompat::RECIPES } else { 0 };
    let (first, superchunk) = make_part(live, bytes, features, give_ids, append, put_rows)?;
    Ok((first, SuperchunkId(superchunk)))
}

/// Appends superchunks again that the image has already, each as another frame. Each keeps its id and its subchunks; only
/// its row of the map changes. The caller holds the freezer's lock, so nobody else changes these rows.
pub(super) fn publish_again(live: &Live, frames: &[(SuperchunkId, NewFrame<'_>)]) -> Result<(), FsError> {
    let len = |frame: &NewFrame<'_>| {
        let bytes = frame.clear.len().saturating_add(frame.stored.len());
        (bytes as u64).saturating_add(limits::SYNC_BLOCK)
    };
    let bytes = frames.iter().fold(0u64, |sum, (_, frame)| sum.saturating_add(len(frame)));
    let append = |log: &mut LogWriter, &(): &()| {
        frames.iter().map(|(id, frame)| Ok((*id, log.append(*frame)?))).collect::<Result<Vec<_>, LogError>>()
    };
    let put_rows = |draft: &mut Draft, &(): &(), places: &[(SuperchunkId, Place)]| {
        for ((_, frame), &(id, place)) in frames.iter().zip(places) {
            let (ints, tail) = SuperchunkRow { kind: frame.kind, place }.encode();
            let key = Key::new(SPACE_SUPERCHUNKS, id.0);
            draft.put(&schema::MAP, Row { key, ints: ints.to_vec(), tail: tail.to_vec() });
        }
    };
    // A superchunk that has composed subchunks had them before.
    make_part(live, bytes, 0, || Ok(()), append, put_rows)
}

/// Appends frames of at most `bytes` bytes to the image, and hands rows for their places to the next commit. They need
/// these incompatible features. `ids` is called once there is space. Its result is passed to `append` and `put_rows`,
/// and returned.
fn make_part<I>(
    live: &Live,
    bytes: u64,
    features: u64,
    ids: impl FnOnce() -> Result<I, FsError>,
    append: impl FnOnce(&mut LogWriter, &I) -> Result<Vec<(SuperchunkId, Place)>, LogError>,
    put_rows: impl FnOnce(&mut Draft, &I, &[(SuperchunkId, Place)]),
) -> Result<I, FsError> {
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
    live.allocate_before_reserve(bytes.saturating_add(limits::SYNC_BLOCK))?;
    name_features(live, image, features)?;
    let ids = ids()?;
    let begin = image.log.end();
    let appended = append(&mut image.log, &ids).and_then(|places| image.log.sync().map(|()| places));
    let places = appended.map_err(|error| give_up(live, image, begin, &error))?;
    let end = image.log.end();
    live.snapshot().view().version().raise_end(end);
    let mut draft = Draft::new(live.snapshot(), Arc::clone(&live.ids), live.now());
    put_rows(&mut draft, &ids, &places);
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
    Ok(ids)
}

//= format-spec.md#3.2
//# A head
//# slot must name every incompat bit that its root needs, or the thaw log that continues it.
/// Makes both head slots name these incompatible features, durably, if they do not yet.
fn name_features(live: &Live, image: &mut ImageSide, features: u64) -> Result<(), FsError> {
    if image.heads.slots().all(|head| head.incompat & features == features) {
        return Ok(());
    }
    if let Err(error) = image.heads.publish(|head| head.incompat |= features) {
        if error.is_final() {
            live.latch(&error.to_string());
        }
        return Err(FsError::io(error.to_string()));
    }
    if let Some(log) = &mut live.log.lock().log {
        log.set_binding(binding(image.heads.newest()));
    }
    Ok(())
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
