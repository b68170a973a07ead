//! Packs superchunks again that a freeze under pressure packed fast: a part of a deep freeze.
//!
//! A flag of the inode says that a file has such superchunks (format-spec 8.1). Each is read, verified, compressed at the
//! image's own level, and appended as another frame with the same id and the same clear list. Then its row of the map
//! names the new frame. So all files and snapshots that use it profit, no file is spliced, and no id is taken. The old
//! frame is dead from then on. Views and roots from before still name it, and gc frees it once none of them is left.
//!
//! Invariants: the new frame has the raw bytes of the old one. If the checksum of the old one or the content hash of any
//! subchunk in it is wrong, it is left as it is: damaged bytes must not get a right checksum. The freezer's lock is held
//! in each round from the first look-up to the last change, so nobody else changes these rows, splices, or frees. Memory:
//! the raw bytes of one superchunk for each compressor and two more, the working set, and what one round keeps. Called
//! by `pass`.

use super::batch::{is_urgent, options};
use super::publish::publish_again;
use super::report::{FreezeHow, FreezeReport};
use super::verified::{self, Verified, are_composed_right};
use crate::format::block::KeyRef;
use crate::format::frame::FrameKind;
use crate::format::ids::{InodeId, SubchunkId, SuperchunkId};
use crate::format::rows::{ContentRef, Extent, FileType, InodeRow};
use crate::format::schema;
use crate::freeze::{Again, DEFAULT_LIMIT, Urgency};
use crate::fs::FsError;
use crate::fs::live::Live;
use crate::fs::ops::no_longer_fast;
use crate::inflate::WorkingSet;
use crate::meta::{IdSet, View};
use crate::pack::superchunk::frame;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most files that are finished in one round of packing superchunks again.
const FILES: usize = 16 << 10;
/// Number of files that are looked at between two checks whether to stop.
const LOOK: usize = 1024;
/// Divisor: a superchunk is replaced by a frame with the same subchunks, compressed again, only if that saves at least
/// one in this many stored bytes.
const WORTH: u32 = 64;

/// The state of a pass over all files that packs superchunks again, between its rounds.
#[derive(Default)]
pub(super) struct Repack {
    /// Superchunks that this pass has looked at.
    done: IdSet,
    /// Superchunks that could not be verified.
    bad: IdSet,
    /// The current file. All files before it are done.
    inode: InodeId,
    /// The content that the current file had.
    content: Option<ContentRef>,
    /// Offset in the current file before which everything is done.
    offset: u64,
    /// Whether a superchunk of the current file could not be verified.
    is_bad: bool,
}

/// One round of packing superchunks again.
struct Round<'r> {
    view: &'r View,
    working_set: Arc<WorkingSet>,
    stop: &'r dyn Fn() -> bool,
    is_pressed: bool,
    again: Again<'r>,
    candidates: Vec<Candidate>,
    /// Raw bytes of the superchunks that this round compresses again.
    raw: u64,
    /// Files all of whose superchunks are verified, with their contents.
    finished: Vec<(InodeId, ContentRef)>,
    stored: Vec<u8>,
}

/// A superchunk that is being compressed again.
struct Candidate {
    id: SuperchunkId,
    /// The encoded clear list.
    clear: Vec<u8>,
    raw_len: u32,
    stored_len: u32,
    short: bool,
    in_parts: bool,
}

/// What was found at the place of a superchunk.
enum Look {
    /// The superchunk is verified.
    Good(Candidate, Vec<u8>),
    /// The superchunk was not made by the freezer.
    Other,
    /// The superchunk could not be verified.
    Bad,
}

impl Repack {
    /// Packs some superchunks again. Returns whether there may be more to do.
    pub(super) fn round(
        &mut self,
        live: &Live,
        how: &FreezeHow<'_>,
        report: &mut FreezeReport,
    ) -> Result<bool, FsError> {
        let mut freezer = live.freezing.lock();
        let now = {
            let state = live.lock_state();
            state.check_latch()?;
            state.snapshot()
        };
        let view = now.view();
        let Some(next) = next_fast(view, self.inode, how.stop)? else { return Ok(false) };
        if !live.has_begun() {
            live.begin()?;
            return Ok(true);
        }
        let options = options(live, &FreezeHow { level: None, by_rate: false, ..*how }, &now)?;
        let is_urgent = || is_urgent(live, how);
        let urgency = Urgency { is_urgent: &is_urgent, left: &live.left_behind };
        let again = Again::new(&options, urgency).map_err(|error| FsError::io(error.to_string()))?;
        let mut round = Round {
            view,
            working_set: freezer.working_set(view),
            stop: how.stop,
            is_pressed: live.pressure.is_pressed(),
            again,
            candidates: Vec::new(),
            raw: 0,
            finished: Vec::new(),
            stored: Vec::new(),
        };
        let mut next = Some(next);
        while let Some(inode) = next {
            if !self.file(&mut round, inode)? {
                break;
            }
            next = next_fast(view, InodeId(inode.0.saturating_add(1)), how.stop)?;
        }
        if (how.stop)() {
            return Ok(false);
        }
        let Round { again, candidates, finished, .. } = round;
        let kept = again.finish().map_err(|error| FsError::io(error.to_string()))?;
        let (mut frames, mut saved) = (Vec::new(), 0u64);
        for (number, encoded) in &kept {
            let at = usize::try_from(*number).ok().and_then(|at| candidates.get(at));
            let Some(Candidate { id, clear, raw_len, stored_len, short, .. }) = at else { continue };
            frames.push((*id, frame(encoded, clear, *raw_len, *short)));
            saved = saved.saturating_add(u64::from(*stored_len).saturating_sub(encoded.stored.len() as u64));
        }
        if !frames.is_empty() {
            publish_again(live, &frames)?;
            live.gc.is_behind.store(true, Ordering::Relaxed);
            report.repacked = report.repacked.saturating_add(frames.len() as u64);
            report.repacked_saved_bytes = report.repacked_saved_bytes.saturating_add(saved);
        }
        #[cfg(test)]
        live.freezer.at(super::control::Step::Repacked);
        for (inode, content) in finished {
            live.transact(|draft| no_longer_fast(draft, inode, content))?;
        }
        Ok(next.is_some())
    }

    /// Compresses again the superchunks of one file that were packed fast. Returns whether the round may go on to the
    /// next file.
    fn file(&mut self, round: &mut Round<'_>, inode: InodeId) -> Result<bool, FsError> {
        let Some(row) = round.view.inode(inode)? else { return Ok(true) };
        if (inode, Some(row.content)) != (self.inode, self.content) {
            (self.inode, self.content, self.offset, self.is_bad) = (inode, Some(row.content), 0, false);
        }
        loop {
            let begin = self.offset;
            if !self.walk(round, row.content)? {
                return Ok(false);
            }
            if begin == 0 {
                break;
            }
            // Between two rounds, a freeze may have put fast superchunks before the offset.
            self.offset = 0;
        }
        if !self.is_bad {
            round.finished.push((inode, row.content));
        }
        self.inode = InodeId(inode.0.saturating_add(1));
        Ok(true)
    }

    /// Compresses again the superchunks of a content that were packed fast, from the present offset on. Returns false
    /// if the round is full or is to stop: then the offset is where to continue.
    fn walk(&mut self, round: &mut Round<'_>, content: ContentRef) -> Result<bool, FsError> {
        let id = match content {
            ContentRef::None | ContentRef::Tiny(_) => return Ok(true),
            ContentRef::Subchunk(id) => return self.subchunk(round, id),
            ContentRef::Content(id) => id,
        };
        let view = round.view;
        let mut extents = view.extents(id, self.offset)?;
        while let Some((begin, extent)) = extents.next(view)? {
            let ids = match &extent.extent {
                Extent::Hole => 0..0,
                Extent::Slice { subchunk, .. } => subchunk.0..subchunk.0.saturating_add(1),
                Extent::Run { first, lens } => first.0..first.0.saturating_add(lens.len() as u64),
            };
            for id in ids.map(SubchunkId) {
                if !self.subchunk(round, id)? {
                    self.offset = begin;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Compresses the superchunk that holds a subchunk again, unless this pass has looked at it before. Returns false,
    /// and does nothing, if the round is full or is to stop.
    fn subchunk(&mut self, round: &mut Round<'_>, id: SubchunkId) -> Result<bool, FsError> {
        if round.is_full() || (round.stop)() {
            return Ok(false);
        }
        let Some(located) = round.view.locate(id)? else {
            self.is_bad = true;
            return Ok(true);
        };
        let superchunk = located.superchunk;
        if self.done.insert(superchunk.0) {
            match round.look(superchunk) {
                Look::Good(candidate, raw) => round.add(candidate, raw)?,
                Look::Other => {}
                Look::Bad => _ = self.bad.insert(superchunk.0),
            }
        }
        self.is_bad |= self.bad.contains(superchunk.0);
        Ok(true)
    }
}

impl Round<'_> {
    fn is_full(&self) -> bool {
        self.raw >= DEFAULT_LIMIT || self.finished.len() >= FILES || self.is_pressed && self.raw > 0
    }

    fn add(&mut self, candidate: Candidate, raw: Vec<u8>) -> Result<(), FsError> {
        let most = candidate.stored_len.saturating_sub((candidate.stored_len / WORTH).max(1));
        let (number, in_parts) = (self.candidates.len() as u64, candidate.in_parts);
        self.raw = self.raw.saturating_add(raw.len() as u64);
        self.candidates.push(candidate);
        self.again.add(number, raw, in_parts, most as usize).map_err(|error| FsError::io(error.to_string()))
    }

    /// Reads and verifies a superchunk.
    fn look(&mut self, id: SuperchunkId) -> Look {
        let (view, params) = (self.view, self.view.params());
        let Ok(Some(row)) = view.superchunk(id) else { return Look::Bad };
        let (place, version) = (row.place, view.version());
        let is_plain = !place.flags.dictionary() && place.flags.filter() == 0;
        if row.kind != FrameKind::SUPERCHUNK || place.copy.is_some() || !is_plain || id.0 == params.dictionary {
            return Look::Other;
        }
        // Inflated parts are cached by their numbers, so they must stay the same.
        if place.flags.parts() {
            match version.part_table(&place) {
                Ok(Some(table)) if Some(table.part_size) == params.part_size => {}
                Ok(Some(_)) => return Look::Other,
                _ => return Look::Bad,
            }
        }
        let Some(verified) = verified::read(view, id, &row, &mut self.stored) else { return Look::Bad };
        // A frame that is packed again has the same raw bytes, so recipes that use them stay as they are.
        if !verified.is_right(view, |_| true) || !are_composed_right(view, &self.working_set, &verified) {
            return Look::Bad;
        }
        let Verified { clear, raw, .. } = verified;
        let (raw_len, stored_len, short) = (place.raw_len, place.stored_len, place.flags.short());
        Look::Good(Candidate { id, clear, raw_len, stored_len, short, in_parts: place.flags.parts() }, raw)
    }
}

/// Returns the next file, from `from` on, that was packed fast. Returns `None` if it is to stop.
fn next_fast(view: &View, from: InodeId, stop: &dyn Fn() -> bool) -> Result<Option<InodeId>, FsError> {
    let mut cursor = view.cursor_at(&schema::INODES, KeyRef::new(from.0, 0))?;
    let mut passed = 0usize;
    while let Some(row) = cursor.row() {
        let decoded = InodeRow::decode(row.ints(), row.tail())?;
        if decoded.file_type == FileType::Regular && decoded.is_fast() {
            return Ok(Some(InodeId(row.key().a)));
        }
        passed = passed.saturating_add(1);
        if passed.is_multiple_of(LOOK) && stop() {
            return Ok(None);
        }
        cursor.advance(view)?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::freezing::control::Step;
    use crate::fs::tests::world::{World, file, noise, read};
    use crate::pack::PackOptions;
    use std::time::Duration;

    /// Text of words in no order.
    fn text(len: usize, seed: u64) -> Vec<u8> {
        let words = noise(256 * 8, 0);
        let word = |n: u8| words.iter().skip(usize::from(n) * 8).take(3 + usize::from(n) % 6);
        noise(len, seed).iter().flat_map(|&n| word(n)).copied().take(len).collect()
    }

    #[test]
    fn under_pressure_rounds_are_short_and_what_is_frozen_fast_between_them_is_packed_again_too() {
        let params = crate::format::params::Params { superchunk_size: 1 << 20, ..Default::default() };
        let compression = "zstd:15".parse().unwrap();
        let options = PackOptions { params, compression, ..PackOptions::default() };
        let world = World::of(Duration::from_secs(3600), &options);
        let live = &world.live;
        let inode = file(live, "a", &text(4 << 20, 1));
        let fast = FreezeHow { level: Some(1), ..FreezeHow::everything() };
        let superchunks = live.freeze_now(&fast, &|_| ()).unwrap().superchunks;
        assert!(superchunks >= 4);
        live.pressure.set_full_for_tests();
        let weak = Arc::downgrade(live);
        live.freezer.set_hook(Step::Repacked, move || {
            let live = weak.upgrade().unwrap();
            // The pass is behind this by now.
            live.write(inode, 0, &text(400_000, 2), false).unwrap();
            live.pressure.set_full_for_tests();
        });
        let report = live.freeze_now(&FreezeHow { deep: true, ..fast }, &|_| ()).unwrap();
        assert_eq!((report.superchunks, report.repacked), (1, superchunks + 1));
        let is_fast = || live.snapshot().view().inode(inode).unwrap().unwrap().is_fast();
        assert!(!is_fast());
        let expected = [text(400_000, 2), text(4 << 20, 1).split_off(400_000)].concat();
        assert!(read(live, inode) == expected);
        assert_eq!(live.freeze_now(&FreezeHow { deep: true, ..FreezeHow::everything() }, &|_| ()).unwrap().repacked, 0);
    }

    #[test]
    fn what_is_frozen_under_pressure_is_marked_and_packed_again_once() {
        let world = World::with_budget(64 << 20);
        let live = &world.live;
        let inode = file(live, "a", &text(600_000, 1));
        let is_fast = || live.snapshot().view().inode(inode).unwrap().unwrap().is_fast();
        live.pressure.set_full_for_tests();
        live.freeze_now(&FreezeHow { by_rate: true, ..FreezeHow::everything() }, &|_| ()).unwrap();
        assert!(is_fast());
        let deep = FreezeHow { deep: true, ..FreezeHow::everything() };
        assert_eq!((live.freeze_now(&deep, &|_| ()).unwrap().repacked, is_fast()), (1, false));
        assert_eq!(live.freeze_now(&deep, &|_| ()).unwrap().repacked, 0);
        assert!(read(live, inode) == text(600_000, 1));
    }
}
