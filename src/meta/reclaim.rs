//! Frees dead superchunks: first their rows, then their bytes.
//!
//! [`deletions`] returns the changes of map and identities after which no row names a dead superchunk. A dead subchunk
//! in a partly live superchunk keeps its rows, because its bytes are still there. But a dead composed subchunk loses
//! them, because its sources may be freed. [`dead_frames`] returns the frames that no row of the given views names, and
//! [`punch`] frees their payloads. Between the two, the caller publishes a root in both head slots, and it keeps
//! readers out.
//!
//! Invariants: no punched byte is in a frame that the map of a view, the map's own tree or a given root names, whatever
//! a scan of the frames says. A payload that holds other frames is not punched. The first block of each payload is
//! durably zero before any other is punched, so a scan takes a partly punched frame for a punched one. Called by gc.

use super::id_set::IdSet;
use super::mark::MarkError;
use super::tally::Census;
use super::{Image, MetaError, Overlay, View};
use crate::format::FormatError;
use crate::format::block::{Key, KeyRef, Row};
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::limits::{self, SYNC_BLOCK};
use crate::format::place::Place;
use crate::format::recipe::RecipeRow;
use crate::format::rows::map::{MAP_COLUMNS, SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{SubchunkRun, SuperchunkRow};
use crate::format::schema;
use crate::log::Scan;
use crate::storage::{Storage, StorageError};
use crate::table::{ChildRef, Onward, Visit};
use std::collections::HashSet;
use std::ops::Range;

/// Number of bytes of a payload that are read at once.
const PIECE: u64 = 1 << 18;

/// Splits dead superchunks into rounds; the rows of a round are deleted together. A round has at most `most` subchunks,
/// or one superchunk.
pub fn rounds(census: &Census, most: u64) -> Vec<HashSet<SuperchunkId>> {
    let mut rounds: Vec<HashSet<SuperchunkId>> = Vec::new();
    let mut room = 0u64;
    for tally in census.dead() {
        let many = u64::from(tally.subchunks).max(1);
        match rounds.last_mut() {
            Some(round) if many <= room => {
                round.insert(tally.id);
            }
            _ => {
                rounds.push(HashSet::from([tally.id]));
                room = most;
            }
        }
        room = room.saturating_sub(many);
    }
    rounds
}

/// Returns the changes after which no row of the map or of the identities names these dead superchunks, their
/// subchunks, or a dead composed subchunk. `stop` is called for each row of the map.
///
/// # Errors
/// Fails if a table cannot be read, a row is not valid, or `stop` returned true.
pub fn deletions(
    view: &View,
    census: &Census,
    dead: &HashSet<SuperchunkId>,
    stop: &dyn Fn() -> bool,
) -> Result<Overlay, MarkError> {
    let mut changes = Overlay::default();
    let mut gone = IdSet::default();
    let mut cursor = view.cursor_at(&schema::MAP, KeyRef::new(0, 0))?;
    while let Some(row) = cursor.row() {
        let key = row.key();
        match key.a {
            SPACE_SUPERCHUNKS if dead.contains(&SuperchunkId(key.b)) => changes.set(&schema::MAP, key.to_key(), None),
            SPACE_SUBCHUNKS => {
                let run = SubchunkRun::decode(SubchunkId(key.b), row.ints(), row.tail())?;
                let all_go = dead.contains(&run.superchunk);
                let is_composed = |n: usize| run.composed.get(n).is_some_and(|composed| *composed);
                let goes = |n: usize, id: u64| all_go || is_composed(n) && !census.keeps(SubchunkId(id));
                let ids: Vec<bool> = (run.first.0..).zip(0..run.lens.len()).map(|(id, n)| goes(n, id)).collect();
                if ids.contains(&true) {
                    (run.first.0..).zip(&ids).filter(|(_, goes)| **goes).for_each(|(id, _)| {
                        gone.insert(id);
                    });
                    shorten(&run, &ids, &mut changes);
                }
            }
            SPACE_RECIPES => {
                let recipes = RecipeRow::decode(SubchunkId(key.b), row.ints(), row.tail())?;
                let kept: Vec<_> = recipes.iter().filter(|(id, _)| !gone.contains(id.0)).collect();
                if kept.len() < recipes.len() {
                    changes.set(&schema::MAP, key.to_key(), None);
                    if let Some((first, _)) = kept.first() {
                        let (ints, tail) =
                            RecipeRow::encode(&kept.iter().map(|(id, recipe)| (*id, recipe)).collect::<Vec<_>>());
                        put(&mut changes, Key::new(SPACE_RECIPES, first.0), ints, tail);
                    }
                }
            }
            _ => {}
        }
        if stop() {
            return Err(MarkError::Stopped);
        }
        cursor.advance(view)?;
    }
    identities(view, &gone, &mut changes)?;
    Ok(changes)
}

fn put(changes: &mut Overlay, key: Key, ints: [u64; MAP_COLUMNS], tail: Vec<u8>) {
    changes.set(&schema::MAP, key.clone(), Some(Row { key, ints: ints.to_vec(), tail }));
}

/// Replaces the map's row of a run of subchunks by rows for the subchunks that stay.
fn shorten(run: &SubchunkRun, goes: &[bool], changes: &mut Overlay) {
    changes.set(&schema::MAP, Key::new(SPACE_SUBCHUNKS, run.first.0), None);
    let mut position = run.position;
    let mut part: Option<SubchunkRun> = None;
    let mut parts = Vec::new();
    for (n, (&len, &goes)) in run.lens.iter().zip(goes).enumerate() {
        if goes {
            parts.extend(part.take());
        } else {
            let part = part.get_or_insert_with(|| SubchunkRun {
                first: SubchunkId(run.first.0.saturating_add(n as u64)),
                superchunk: run.superchunk,
                position,
                lens: Vec::new(),
                composed: Vec::new(),
            });
            part.lens.push(len);
            part.composed.push(run.composed.get(n).is_some_and(|composed| *composed));
        }
        position = position.saturating_add(len);
    }
    for part in parts.into_iter().chain(part) {
        let (ints, tail) = part.encode();
        put(changes, Key::new(SPACE_SUBCHUNKS, part.first.0), ints, tail);
    }
}

/// Deletes the identities of the subchunks in `gone`; other identities in the same row stay.
fn identities(view: &View, gone: &IdSet, changes: &mut Overlay) -> Result<(), MarkError> {
    let width = view.params().hash.width();
    let mut cursor = view.cursor_at(&schema::IDENTITIES, KeyRef::new(0, 0))?;
    while let Some(row) = cursor.row() {
        let first = row.key().a;
        let count = row.ints().first().copied().unwrap_or(0);
        let wrong = FormatError::invalid("identities", "the length of the tail does not match the count");
        if !(1..=limits::IDENTITY_RUN).contains(&count) || row.tail().len() as u64 != count * width as u64 {
            return Err(wrong.into());
        }
        let ids = first..first.checked_add(count).ok_or(wrong)?;
        if ids.clone().any(|id| gone.contains(id)) {
            changes.set(&schema::IDENTITIES, Key::new(first, 0), None);
            let mut kept: Vec<(u64, Vec<u8>)> = Vec::new();
            for (id, identity) in ids.zip(row.tail().chunks_exact(width)).filter(|(id, _)| !gone.contains(*id)) {
                match kept.last_mut() {
                    Some((first, tail)) if *first + (tail.len() / width) as u64 == id => {
                        tail.extend_from_slice(identity)
                    }
                    _ => kept.push((id, identity.to_vec())),
                }
            }
            for (first, tail) in kept {
                let key = Key::new(first, 0);
                let row = Row { key: key.clone(), ints: vec![(tail.len() / width) as u64], tail };
                changes.set(&schema::IDENTITIES, key, Some(row));
            }
        }
        cursor.advance(view)?;
    }
    Ok(())
}

/// A dead frame of the log that has a payload: whole 4 KiB blocks that a hole can replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadFrame {
    /// Offset in bytes of the frame's header.
    pub offset: LogOffset,
    /// Range of offsets of the whole 4 KiB blocks within the frame's stored bytes.
    pub payload: Range<u64>,
    /// Whether the payload was punched already: all of its bytes are zero.
    pub is_punched: bool,
}

impl DeadFrame {
    /// Returns the bytes of the payload, which punching frees.
    pub fn bytes(&self) -> u64 {
        self.payload.end - self.payload.start
    }
}

/// Returns the dead frames of a log that may be punched: no row of the views' maps, no tree of such a map and none of
/// `roots` names them. Rows for which `gone` is true count as deleted. Frames inside the payloads of others, and frames
/// whose payloads hold others, are not included. The log is scanned up to its end in the first view. `stop` is called
/// for each frame and each row.
///
/// # Errors
/// Fails if a map cannot be read, or if `stop` returned true.
pub fn dead_frames(
    views: &[View],
    roots: &[Place],
    gone: &dyn Fn(SuperchunkId) -> bool,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<DeadFrame>, MarkError> {
    let mut live = LiveFrames::default();
    roots.iter().for_each(|place| live.add(place));
    for view in views {
        live.add_named(view, gone, stop)?;
        live.add_map(view.version())?;
    }
    live.settle();
    let mut dead: Vec<DeadFrame> = Vec::new();
    let Some(log) = views.first().map(|view| view.version().log().clone()) else { return Ok(dead) };
    let mut scan = Scan::new(log.clone(), LogOffset(limits::LOG_START));
    while let Some(next) = scan.next() {
        if stop() {
            return Err(MarkError::Stopped);
        }
        let header = match next {
            Ok(header) => header,
            Err((offset, _)) => {
                let next = scan.find_next(LogOffset(offset.0.saturating_add(1))).unwrap_or(LogOffset(log.end()));
                scan.resume_at(next);
                continue;
            }
        };
        let is_within = scan.punched().is_some_and(|outer| outer.offset != header.offset);
        if is_within {
            // The frame before holds this one.
            let outer = scan.punched().map(|outer| outer.offset);
            if dead.last().map(|frame| frame.offset) == outer {
                dead.pop();
            }
            continue;
        }
        let Some(payload) = payload_of(&header) else { continue };
        if !live.touches(&(header.offset.0..payload.end)) {
            let is_punched = scan.punched().is_some() && is_zero(&**log.storage(), &payload);
            dead.push(DeadFrame { offset: header.offset, payload, is_punched });
        }
    }
    Ok(dead)
}

/// Returns whether a range of bytes of the storage is zero. All of it is read, because a crash may have left only the
/// first block punched.
fn is_zero(storage: &dyn Storage, range: &Range<u64>) -> bool {
    let mut piece = vec![0; PIECE.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(PIECE);
        let Some(piece) = piece.get_mut(..len as usize) else { return false };
        if storage.read_at(at, piece).is_err() || piece.iter().any(|&byte| byte != 0) {
            return false;
        }
        at += len;
    }
    true
}

/// Returns the range of whole 4 KiB blocks within a frame's stored bytes, if frames of this kind may be punched.
fn payload_of(header: &FrameHeader) -> Option<Range<u64>> {
    let kinds = [FrameKind::SUPERCHUNK, FrameKind::TABLE_GROUP, FrameKind::MAP_BLOCK];
    // Nothing here can overflow: the frame is within the log.
    let end = header.offset.0 + header.frame_len();
    let payload = (end - u64::from(header.stored_len)).next_multiple_of(SYNC_BLOCK)..end - end % SYNC_BLOCK;
    (kinds.contains(&header.kind) && payload.start < payload.end).then_some(payload)
}

/// The ranges of offsets in the log that live frames cover.
#[derive(Default)]
struct LiveFrames {
    /// Start and end offset of each range. After `settle` the ranges ascend and do not touch.
    ranges: Vec<(u64, u64)>,
}

impl LiveFrames {
    fn add(&mut self, place: &Place) {
        for offset in place.offsets() {
            self.ranges.push((offset.0, offset.0.saturating_add(place.frame_len())));
        }
    }

    /// Adds the frames of the superchunks in the map of a view.
    fn add_named(
        &mut self,
        view: &View,
        gone: &dyn Fn(SuperchunkId) -> bool,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), MarkError> {
        let mut cursor = view.cursor_at(&schema::MAP, KeyRef::new(SPACE_SUPERCHUNKS, 0))?;
        while let Some(row) = cursor.row().filter(|row| row.key().a == SPACE_SUPERCHUNKS) {
            if !gone(SuperchunkId(row.key().b)) {
                self.add(&SuperchunkRow::decode(row.ints(), row.tail())?.place);
            }
            if stop() {
                return Err(MarkError::Stopped);
            }
            cursor.advance(view)?;
        }
        Ok(())
    }

    /// Adds the frames of the map's blocks of a version.
    fn add_map(&mut self, version: &Image) -> Result<(), MarkError> {
        let mut done = Ok(());
        let mut wanted = |level, child: &ChildRef| {
            if let ChildRef::Frame(place) = child {
                self.add(place);
            }
            level > 0
        };
        version.tree(&schema::MAP).walk_where(version, &mut wanted, &mut |visit: &Visit<'_>| match visit.block {
            Ok(_) => Onward::Into,
            Err(error) => {
                done = Err(MetaError::Unreadable { table: schema::MAP.name, why: error.to_string() }.into());
                Onward::Stop
            }
        });
        done
    }

    fn settle(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|later, first| {
            let joins = later.0 <= first.1;
            if joins {
                first.1 = first.1.max(later.1);
            }
            joins
        });
    }

    /// Returns whether any byte of a range belongs to a live frame.
    fn touches(&self, range: &Range<u64>) -> bool {
        let at = self.ranges.partition_point(|(_, end)| *end <= range.start);
        self.ranges.get(at).is_some_and(|(begin, _)| *begin < range.end)
    }
}

//= format-spec.md#2.3
//# The first block of a payload must be durably punched before the others: so a scan takes a partly punched frame for a
//# punched one.
/// Punches holes into the payloads of dead frames, and makes this durable. Payloads that are punched already are
/// skipped.
///
/// # Errors
/// Fails with kind `Unsupported` if the storage cannot punch holes. After an error it may be called again.
pub fn punch(storage: &dyn Storage, dead: &[DeadFrame]) -> Result<(), StorageError> {
    let frames = || dead.iter().filter(|frame| !frame.is_punched);
    if frames().next().is_none() {
        return Ok(());
    }
    for frame in frames() {
        storage.punch(frame.payload.start, SYNC_BLOCK)?;
    }
    storage.sync()?;
    for frame in frames() {
        storage.punch(frame.payload.start, frame.bytes())?;
    }
    storage.sync()
}
