//! The superchunks of the map, and the places where frames must be.

use super::Check;
use super::report::{CheckError, Finding, FindingKind, Findings, Severity};
use super::rows::each_row;
use super::trees::Trees;
use crate::format::frame::{FRAME_HEADER, FrameKind};
use crate::format::head::Head;
use crate::format::ids::{LogOffset, SuperchunkId};
use crate::format::place::Place;
use crate::format::rows::SuperchunkRow;
use crate::format::rows::map::SPACE_SUPERCHUNKS;
use crate::format::{limits, schema};
use std::cmp::Reverse;

/// A superchunk as the map describes it, or its own frame if the map is damaged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Super {
    pub(super) id: SuperchunkId,
    pub(super) row: SuperchunkRow,
}

/// The live superchunks, by id.
#[derive(Debug, Default)]
pub(super) struct Map {
    supers: Vec<Super>,
}

impl Map {
    /// Reads the rows of superchunks. There cannot be more than the log has room for.
    pub(super) fn read(check: &Check<'_>, trees: &Trees, findings: &mut Findings) -> Result<Self, CheckError> {
        let log_end = check.image.log().end();
        let room = (log_end.saturating_sub(limits::LOG_START) / FRAME_HEADER as u64) as usize;
        let next = check.image.root().next_superchunk;
        let mut supers = Vec::new();
        let mut wrong = |id: u64, why: String| {
            let message = format!("the map's row of superchunk {id} is wrong: {why}");
            findings.add(Finding::new(FindingKind::Map, Severity::Lost, message).in_superchunk(id));
        };
        each_row(check.image, &schema::MAP, SPACE_SUPERCHUNKS, &mut |key, ints, tail| {
            if key.a != SPACE_SUPERCHUNKS || check.observer.cancelled() {
                return false;
            }
            match SuperchunkRow::decode(ints, tail) {
                Err(error) => wrong(key.b, error.to_string()),
                Ok(_) if key.b == 0 || key.b >= next => {
                    wrong(key.b, format!("ids are below {next}, which is the next free one"));
                }
                Ok(row) if row.place.offsets().any(|at| at.0.saturating_add(row.place.frame_len()) > log_end) => {
                    wrong(key.b, "it names a frame after the end of the log".to_owned());
                }
                Ok(_) if supers.len() >= room => {
                    wrong(key.b, "there are more superchunks than the log has room for".to_owned());
                    return false;
                }
                Ok(row) => supers.push(Super { id: SuperchunkId(key.b), row }),
            }
            true
        });
        check.cancelled()?;
        debug_assert!(supers.is_sorted_by_key(|known| known.id) || !trees.superchunks.is_empty());
        Ok(Map { supers })
    }

    /// Returns all superchunks, by id.
    pub(super) fn supers(&self) -> &[Super] {
        &self.supers
    }

    /// Returns the superchunk with this id, or `None`.
    pub(super) fn get(&self, id: SuperchunkId) -> Option<&Super> {
        self.supers.binary_search_by_key(&id, |known| known.id).ok().and_then(|at| self.supers.get(at))
    }

    /// Adds superchunks whose rows in the map are lost, as their frames describe them, each with the frame's sequence.
    pub(super) fn add_from_frames(&mut self, mut found: Vec<(u64, Super)>) {
        if found.is_empty() {
            return;
        }
        //= format-spec.md#13
        //# Of two frames with the same superchunk id, the one with the higher sequence counts; the same holds for two
        //# frames that name the same subchunk id.
        found.sort_by_key(|(sequence, _)| Reverse(*sequence));
        self.supers.extend(found.into_iter().map(|(_, known)| known));
        self.supers.sort_by_key(|known| known.id);
        self.supers.dedup_by_key(|known| known.id);
    }
}

/// The part of the image that refers to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namer {
    /// A row of the map refers to the frame.
    Superchunk(SuperchunkId),
    /// The frame holds a block of the map, and a higher block, or the root, refers to it.
    MapBlock,
    /// A head slot refers to the frame.
    Head,
}

/// A place where a frame must be, because something refers to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownFrame {
    pub(super) offset: LogOffset,
    pub(super) kind: FrameKind,
    pub(super) place: Place,
    pub(super) namer: Namer,
}

impl KnownFrame {
    /// Returns whether the frame is the copy of another frame.
    pub(super) fn is_copy(&self) -> bool {
        self.offset != self.place.offset
    }
}

/// All frames that something refers to, by offset.
#[derive(Debug)]
pub(super) struct Known {
    frames: Vec<KnownFrame>,
}

impl Known {
    /// Collects the frames that head slots, the map's rows and the map's blocks refer to.
    pub(super) fn new(heads: &[Head], map: &Map, trees: &Trees) -> Self {
        let mut frames = Vec::new();
        let mut add = |place: &Place, kind, namer| {
            frames.extend(place.offsets().map(|offset| KnownFrame { offset, kind, place: *place, namer }));
        };
        heads.iter().for_each(|head| add(&head.root, FrameKind::ROOT, Namer::Head));
        trees.map_blocks.iter().for_each(|place| add(place, FrameKind::MAP_BLOCK, Namer::MapBlock));
        map.supers().iter().for_each(|known| add(&known.row.place, known.row.kind, Namer::Superchunk(known.id)));
        frames.sort_by_key(|frame| frame.offset);
        Known { frames }
    }

    /// Collects only the frames that the head slots name.
    pub(super) fn of_heads(heads: &[Head]) -> Self {
        Known::new(heads, &Map::default(), &Trees::default())
    }

    /// Returns the known frames at `offset`; two head slots that name one root give two.
    pub(super) fn at(&self, offset: LogOffset) -> &[KnownFrame] {
        let start = self.frames.partition_point(|frame| frame.offset < offset);
        let end = self.frames.partition_point(|frame| frame.offset <= offset);
        self.frames.get(start..end).unwrap_or_default()
    }

    /// Returns the offset of the first known frame at or after `offset`.
    pub(super) fn next(&self, offset: LogOffset) -> Option<LogOffset> {
        self.frames.get(self.frames.partition_point(|frame| frame.offset < offset)).map(|frame| frame.offset)
    }

    /// Returns all known frames, by offset.
    pub(super) fn all(&self) -> &[KnownFrame] {
        &self.frames
    }
}
