//! Reads and decodes a superchunk into buffers that count against the budget.

use super::InflateError;
use super::budget::{Buffer, Need, Room};
use crate::format::codec::Part;
use crate::format::frame::FrameKind;
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::rows::SuperchunkRow;
use crate::meta::{self, Buffers, Fault, Image, Reading, View};
use std::sync::Arc;

/// Key of a unit in the cache: a superchunk, or the part of it with this number.
pub(super) type Key = (SuperchunkId, Option<u32>);

/// The unit of inflation: a superchunk, or one part of it.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    pub(super) id: SuperchunkId,
    pub(super) place: Place,
    /// The part and its number, if the unit is a part.
    pub(super) part: Option<(u32, Part)>,
}

impl Unit {
    pub(super) fn key(&self) -> Key {
        (self.id, self.part.map(|(number, _)| number))
    }

    /// Returns the memory that inflating this unit takes.
    pub(super) fn need(&self) -> Need {
        let (raw, stored) = match &self.part {
            Some((_, part)) => (part.raw_len, part.stored_len),
            None => (self.place.raw_len, self.place.stored_len),
        };
        let decoder = meta::decoding_memory(&self.place, raw as usize);
        Need { raw: raw as usize, stored: stored as usize, decoder }
    }
}

/// The raw bytes of a unit.
pub(super) struct Inflated {
    pub(super) bytes: Buffer,
    /// Whether the checksum was right. If not, each subchunk must be verified by its content hash.
    pub(super) intact: bool,
    /// Whether the superchunk has another damaged copy, which may give different bytes.
    pub(super) has_others: bool,
    /// Offset of the frame that was read. A superchunk that was packed again has several, with the same raw bytes.
    pub(super) frame: LogOffset,
}

/// How a unit is inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// The unit is read and decoded.
    Decode,
    /// The unit only takes its memory: the bytes are arbitrary, and everything else is as if it had been decoded.
    Count,
}

/// Takes room for a unit without reading it.
pub(super) fn count(unit: &Unit, mut room: Room) -> Inflated {
    // A spare buffer keeps its length, and a new one is zeroed by the kernel when it is touched: nearly nothing is written.
    room.raw.resize(unit.need().raw, 0);
    Inflated { bytes: room.into_buffer(), intact: true, has_others: false, frame: unit.place.offset }
}

/// Reads and decodes a unit. If all copies are damaged, it takes the damaged copy numbered `version`, from 0; returns
/// `None` if there is no such copy.
///
/// # Errors
/// Fails if no copy can be read, or the copies do not decode although their checksums are right.
pub(super) fn inflate(
    image: &Image,
    unit: &Unit,
    mut room: Room,
    version: usize,
) -> Result<Option<Inflated>, InflateError> {
    let mut left = version;
    let mut accept = |_: &[u8], intact: bool| {
        let accepted = intact || left == 0;
        left = left.saturating_sub(1);
        accepted
    };
    let buffers = Buffers { stored: &mut room.stored, raw: &mut room.raw };
    let reading = match &unit.part {
        Some((_, part)) => image.read_part(&unit.place, part, buffers, &mut accept),
        None => image.read_superchunk(&unit.place, buffers, &mut accept),
    };
    let intact = reading.intact();
    if reading.accepted.is_none() {
        return if version == 0 { Err(error(unit.id, reading)) } else { Ok(None) };
    }
    if !intact {
        let (id, offset) = (unit.id, unit.place.offset);
        tracing::warn!("superchunk {id} at offset {offset} is damaged: decoded as far as it goes");
    }
    let has_others = !intact && reading.damaged() > 1;
    Ok(Some(Inflated { bytes: room.into_buffer(), intact, has_others, frame: unit.place.offset }))
}

fn error(id: SuperchunkId, reading: Reading) -> InflateError {
    // The most telling cause first: a decode error of bytes with the right checksum, then a read error.
    let mut read = None;
    for (offset, fault) in reading.faults {
        match fault {
            Fault::Decode(source) => return InflateError::Decode { id, source },
            Fault::Read(error) => read = read.or(Some(error)),
            Fault::Checksum => read = read.or_else(|| Some(meta::checksum_mismatch(offset))),
        }
    }
    match read {
        Some(error) => InflateError::Read { id, source: Arc::new(error) },
        None => InflateError::Decode {
            id,
            source: crate::format::FormatError::invalid("superchunk", "its raw bytes have the wrong length"),
        },
    }
}

/// Returns the row of a superchunk of file data in `view`, with lengths checked against the image's limits. Errors name
/// subchunk `id`, which the caller looks for.
pub(super) fn row(view: &View, superchunk: SuperchunkId, id: SubchunkId) -> Result<SuperchunkRow, InflateError> {
    let row = view
        .superchunk(superchunk)
        .map_err(|error| InflateError::Lookup { id, source: Arc::new(error) })?
        .ok_or(InflateError::Inconsistent { id, why: "the map does not know its superchunk" })?;
    if row.kind != FrameKind::SUPERCHUNK {
        return Err(InflateError::Inconsistent { id, why: "its superchunk does not hold file data" });
    }
    view.version().check_lengths(&row.place).map_err(|source| InflateError::Decode { id: superchunk, source })?;
    Ok(row)
}
