//! Counts what the bytes of an image are used for: one scan over frame headers, and a walk over the interior blocks of
//! the identities.
//!
//! Every byte of the log belongs to exactly one part, so the parts add up to the image. Stored bytes are read only for
//! interior table blocks, and to see whether a payload is punched. Called by `cli` (info).

use super::{Image, MetaError};
use crate::format::frame::{FRAME_HEADER, FrameHeader, FrameKind};
use crate::format::ids::{LogOffset, SuperchunkId};
use crate::format::limits;
use crate::format::schema;
use crate::log::Scan;
use crate::table::{ChildRef, Onward, TableError};
use std::collections::HashMap;

/// What the bytes of an image are used for. Figures are bytes of the image if nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of the two head slots, with the zeros after them.
    pub heads: u64,
    /// Bytes of superchunks: frame headers and stored bytes, without clear lists.
    pub data: u64,
    /// Raw bytes of the superchunks.
    pub data_raw: u64,
    /// Number of superchunks in the log, dead ones included.
    pub superchunks: u64,
    /// Bytes of the clear lists of superchunks.
    pub clear_lists: u64,
    /// Bytes of the table blocks of the identities: their share of their table groups.
    pub identities: u64,
    /// Bytes of all other table blocks, those of the map included, in whole frames.
    pub tables: u64,
    /// Bytes of the frames of roots.
    pub roots: u64,
    /// Bytes of the punched payloads of dead frames, without the frames inside them. They take no space in the file
    /// system.
    pub punched: u64,
    /// Bytes of parity frames.
    pub parity: u64,
    /// Bytes of pads, of frames of unknown kinds, and of what is not a frame.
    pub other: u64,
    /// Bytes that should be frames and are not. They are part of `other`.
    pub damaged: u64,
}

impl Image {
    /// Scans the log and counts what its bytes are used for. Damage is counted and skipped.
    ///
    /// # Errors
    /// Fails if interior blocks of the identities cannot be read.
    pub fn usage(&self) -> Result<Usage, MetaError> {
        let mut usage = Usage { heads: limits::LOG_START, ..Usage::default() };
        let mut scan = Scan::new(self.log().clone(), LogOffset(limits::LOG_START));
        while let Some(next) = scan.next() {
            match next {
                Ok(header) => {
                    let within = scan.punched().filter(|outer| outer.offset != header.offset);
                    let within = within.map(|outer| outer.kind);
                    usage.add(&header, within.is_some());
                    if let (None, Some(payload)) = (within, scan.payload()) {
                        usage.punch(header.kind, payload.end - payload.start);
                    }
                }
                Err((offset, _)) => {
                    let end = scan.find_next(LogOffset(offset.0 + 1)).unwrap_or(LogOffset(self.log().end()));
                    usage.damaged += end.0 - offset.0;
                    scan.resume_at(end);
                }
            }
        }
        usage.other += usage.damaged;
        // Table groups were counted as a whole. The map may name a damaged group that the scan did not find.
        let identities = self.identity_bytes()?.min(usage.tables);
        usage.identities = identities;
        usage.tables -= identities;
        Ok(usage)
    }

    /// Returns the bytes of the image for blocks of the identities: their share by raw bytes of each group and its
    /// copy.
    fn identity_bytes(&self) -> Result<u64, MetaError> {
        let mut blocks = Vec::new();
        let mut lost: Option<TableError> = None;
        let mut wanted = |level: u8, child: &ChildRef| {
            if let ChildRef::Block { id, .. } = child {
                blocks.push(*id);
            }
            level > 0
        };
        self.tree(&schema::IDENTITIES).walk_where(self, &mut wanted, &mut |visit| match visit.block {
            Ok(_) => Onward::Into,
            Err(error) => {
                lost.get_or_insert_with(|| TableError::Source(error.to_string().into()));
                Onward::Past
            }
        });
        if let Some(error) = lost {
            return Err(error.into());
        }
        let mut raw: HashMap<SuperchunkId, u64> = HashMap::new();
        for located in blocks.into_iter().filter_map(|id| self.locate(id).transpose()) {
            let located = located?;
            *raw.entry(located.superchunk).or_default() += u64::from(located.len);
        }
        let mut bytes = 0;
        for (group, raw) in raw {
            if let Some(row) = self.superchunk(group)? {
                let place = row.place;
                let copies = 1 + u64::from(place.copy.is_some());
                let frame = FRAME_HEADER as u64 + u64::from(place.clear_len) + u64::from(place.stored_len);
                let whole = u64::from(place.raw_len).max(1);
                // Both factors are below 2^28: lengths of a frame, and of blocks in it.
                bytes += copies * frame * raw.min(whole) / whole;
            }
        }
        Ok(bytes)
    }
}

impl Usage {
    /// Counts a frame. `within` tells that the frame is inside the punched payload of a dead one.
    fn add(&mut self, header: &FrameHeader, within: bool) {
        if within {
            self.punched -= header.frame_len();
        }
        let clear = u64::from(header.clear_len);
        match header.kind {
            FrameKind::SUPERCHUNK => {
                self.superchunks += 1;
                self.data += header.frame_len() - clear;
                self.data_raw += u64::from(header.raw_len);
                self.clear_lists += clear;
            }
            FrameKind::TABLE_GROUP | FrameKind::MAP_BLOCK => self.tables += header.frame_len(),
            FrameKind::ROOT => self.roots += header.frame_len(),
            FrameKind::PARITY => self.parity += header.frame_len(),
            _ => self.other += header.frame_len(),
        }
    }

    /// Counts the punched payload of a frame that was already counted.
    fn punch(&mut self, kind: FrameKind, bytes: u64) {
        if kind == FrameKind::SUPERCHUNK {
            self.data -= bytes;
        } else {
            // Besides superchunks, only table groups and blocks of the map have a payload.
            self.tables -= bytes;
        }
        self.punched += bytes;
    }

    /// Returns the bytes of all metadata except the identities: tables, map, roots.
    pub fn other_metadata(&self) -> u64 {
        self.tables + self.roots
    }
}
