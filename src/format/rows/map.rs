//! Rows of the map (section 8.8): where superchunks and subchunks are.

use crate::format::bytes::{Cursor, put_varint};
use crate::format::clear::{bit, put_bits};
use crate::format::frame::{Flags, FrameKind};
use crate::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::{FormatError, limits};
use std::cmp::Ordering;

/// First part of the key of the map's rows that say where superchunks are.
pub const SPACE_SUPERCHUNKS: u64 = 0;
/// First part of the key of the map's rows for runs of subchunks.
pub const SPACE_SUBCHUNKS: u64 = 1;
/// First part of the key of the map's rows of recipes.
pub const SPACE_RECIPES: u64 = 2;

/// Number of integer columns of the map.
pub const MAP_COLUMNS: usize = 8;

/// A row of space 0 of the map: where a superchunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuperchunkRow {
    /// Kind of the frame: superchunk or table group.
    pub kind: FrameKind,
    /// Place of the frame.
    pub place: Place,
}

impl SuperchunkRow {
    /// Returns the integers and the tail of the row.
    pub fn encode(&self) -> ([u64; MAP_COLUMNS], [u8; 8]) {
        let p = &self.place;
        let ints = [
            self.kind.0.into(),
            p.offset.0,
            p.copy.map_or(0, |c| c.0),
            p.clear_len.into(),
            p.stored_len.into(),
            p.raw_len.into(),
            p.codec.into(),
            p.flags.0.into(),
        ];
        (ints, p.sum.to_le_bytes())
    }

    /// Decodes a row of space 0 from its integers and tail.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode(ints: &[u64], tail: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "superchunk in the map";
        let &[kind, offset, copy, clear_len, stored_len, raw_len, codec, flags] = ints else {
            return Err(FormatError::invalid(WHAT, "wrong number of columns"));
        };
        let kind = match kind {
            1 => FrameKind::SUPERCHUNK,
            2 => FrameKind::TABLE_GROUP,
            _ => return Err(FormatError::invalid(WHAT, "its kind does not hold subchunks")),
        };
        Ok(SuperchunkRow { kind, place: place(offset, copy, clear_len, [stored_len, raw_len, codec, flags], tail)? })
    }
}

/// Makes a place from the integers of a row of the map; `rest` is stored length, raw length, codec and flags.
///
/// # Errors
/// Fails if a number is out of bounds or the tail is not valid.
pub fn place(offset: u64, copy: u64, clear_len: u64, rest: [u64; 4], tail: &[u8]) -> Result<Place, FormatError> {
    const WHAT: &str = "place in the map";
    let narrow =
        |value: u64| u32::try_from(value).map_err(|_| FormatError::Limit { what: WHAT, value, limit: u32::MAX.into() });
    let [stored_len, raw_len, codec, flags] = rest;
    Place {
        offset: LogOffset(offset),
        copy: (copy != 0).then_some(LogOffset(copy)),
        clear_len: narrow(clear_len)?,
        stored_len: narrow(stored_len)?,
        raw_len: narrow(raw_len)?,
        codec: u8::try_from(codec).map_err(|_| FormatError::invalid(WHAT, "unknown codec"))?,
        flags: Flags(u16::try_from(flags).map_err(|_| FormatError::invalid(WHAT, "unknown flags"))?),
        sum: u64::from_le_bytes(
            tail.try_into().map_err(|_| FormatError::invalid(WHAT, "its checksum does not have 8 bytes"))?,
        ),
    }
    .checked()
}

/// A row of space 1 of the map: subchunks with consecutive ids whose stored parts follow one another in a superchunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubchunkRun {
    /// Id of the first subchunk.
    pub first: SubchunkId,
    /// The superchunk that holds the subchunks.
    pub superchunk: SuperchunkId,
    /// Offset of the first subchunk's stored part in the superchunk's raw bytes.
    pub position: u32,
    /// Lengths of the stored parts in bytes, 1 to [`limits::RUN`] of them.
    pub lens: Vec<u32>,
    /// Which of the subchunks are composed; empty if none is.
    pub composed: Vec<bool>,
}

impl SubchunkRun {
    /// Returns the integers and the tail of the row; its key is (1, first).
    pub fn encode(&self) -> ([u64; MAP_COLUMNS], Vec<u8>) {
        let mut tail = Vec::new();
        for &len in &self.lens {
            put_varint(&mut tail, len.into());
        }
        let composed = self.composed.contains(&true);
        if composed {
            put_bits(&mut tail, self.composed.iter().copied());
        }
        let ints = [self.superchunk.0, self.position.into(), 0, self.lens.len() as u64, composed.into(), 0, 0, 0];
        (ints, tail)
    }

    /// Decodes a row of space 1 from its key, integers and tail.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode(first: SubchunkId, ints: &[u64], tail: &[u8]) -> Result<Self, FormatError> {
        let mut lens = Vec::with_capacity(tail.len().min(limits::RUN as usize));
        let (superchunk, position, bits) = walk(first, ints, tail, |len| lens.push(len))?;
        let composed = if bits.is_empty() { Vec::new() } else { (0..lens.len()).map(|i| bit(bits, i)).collect() };
        Ok(SubchunkRun { first, superchunk, position, lens, composed })
    }

    /// Decodes a row of space 1 if it has the subchunk `id`; returns `None` if it does not.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode_with(
        first: SubchunkId,
        ints: &[u64],
        tail: &[u8],
        id: SubchunkId,
    ) -> Result<Option<Self>, FormatError> {
        Ok(Some(SubchunkRun::decode(first, ints, tail)?).filter(|run| run.has(id)))
    }

    /// Returns where the stored part of `id` is; `None` if the run does not have it. The run must be a valid one.
    pub fn locate(&self, id: SubchunkId) -> Option<Located> {
        let n = usize::try_from(id.0.checked_sub(self.first.0)?).ok()?;
        let (before, len) = (self.lens.get(..n)?, *self.lens.get(n)?);
        Some(Located {
            superchunk: self.superchunk,
            position: self.position.saturating_add(before.iter().sum()),
            len,
            composed: self.composed.get(n).copied().unwrap_or(false),
        })
    }

    /// Makes the run of one subchunk alone.
    pub fn alone(id: SubchunkId, located: Located) -> Self {
        let Located { superchunk, position, len, composed } = located;
        let composed = if composed { vec![true] } else { Vec::new() };
        SubchunkRun { first: id, superchunk, position, lens: vec![len], composed }
    }

    /// Returns whether the run has the subchunk `id`.
    pub fn has(&self, id: SubchunkId) -> bool {
        (self.first..self.end()).contains(&id)
    }

    /// Returns the id after the last one of the run.
    pub fn end(&self) -> SubchunkId {
        SubchunkId(self.first.0.saturating_add(self.lens.len() as u64))
    }

    /// Finds the subchunk `id` in the run with this key, integers and tail, without decoding the others. Returns `None`
    /// if it is not in the run.
    ///
    /// # Errors
    /// Fails as [`SubchunkRun::decode`] does: all of the row is checked.
    pub fn find(first: SubchunkId, ints: &[u64], tail: &[u8], id: SubchunkId) -> Result<Option<Located>, FormatError> {
        let (mut n, mut before, mut own) = (first.0, 0, None);
        let (superchunk, position, bits) = walk(first, ints, tail, |len| {
            match n.cmp(&id.0) {
                Ordering::Less => before += len,
                Ordering::Equal => own = Some(len),
                Ordering::Greater => {}
            }
            n += 1;
        })?;
        Ok(own.map(|len| Located {
            superchunk,
            position: position + before,
            len,
            composed: bit(bits, (id.0 - first.0) as usize),
        }))
    }
}

/// Where the stored part of one subchunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The superchunk that holds the stored part.
    pub superchunk: SuperchunkId,
    /// Offset of the stored part in the superchunk's raw bytes.
    pub position: u32,
    /// Length of the stored part in bytes.
    pub len: u32,
    /// Whether the subchunk has a recipe.
    pub composed: bool,
}

/// Checks a row of space 1 and passes the lengths to `each`. Returns the superchunk, the position, and the bitmap of
/// composed subchunks, which is empty if none is composed.
fn walk<'a>(
    first: SubchunkId,
    ints: &[u64],
    tail: &'a [u8],
    mut each: impl FnMut(u32),
) -> Result<(SuperchunkId, u32, &'a [u8]), FormatError> {
    const WHAT: &str = "subchunks in the map";
    let &[superchunk, position, 0, count @ 1..=limits::RUN, composed @ (0 | 1), 0, 0, 0] = ints else {
        return Err(FormatError::invalid(WHAT, "its columns are not those of a run"));
    };
    if first.0 == 0 || superchunk == 0 || first.0.saturating_add(count) > limits::ID {
        return Err(FormatError::Limit { what: WHAT, value: first.0, limit: limits::ID });
    }
    let bitmap = if composed == 1 { count.div_ceil(8) as usize } else { 0 };
    let Some((lens, bits)) = tail.len().checked_sub(bitmap).and_then(|lens| tail.split_at_checked(lens)) else {
        return Err(FormatError::Truncated { what: WHAT, need: bitmap as u64, have: tail.len() as u64 });
    };
    let mut cursor = Cursor::new(lens, WHAT);
    let mut end = position;
    for index in 0..count {
        let len = cursor.varint_to(limits::SUBCHUNK_LEN, "length of a stored part")?;
        if len == 0 && !bit(bits, index as usize) {
            return Err(FormatError::invalid(WHAT, "a subchunk without stored bytes that is not composed"));
        }
        end = end.saturating_add(len);
        if end > limits::RAW_LEN {
            return Err(FormatError::Limit { what: WHAT, value: end, limit: limits::RAW_LEN });
        }
        each(len as u32);
    }
    cursor.end()?;
    Ok((SuperchunkId(superchunk), position as u32, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_with_and_without_composed_subchunks_come_back() {
        for composed in [vec![], vec![false, true, false, false, false, false, false, false, true]] {
            let run = SubchunkRun {
                first: SubchunkId(5),
                superchunk: SuperchunkId(2),
                position: 77,
                lens: vec![9, if composed.is_empty() { 10 } else { 0 }, 200, 3, 4, 5, 6, 7, 8],
                composed,
            };
            let (ints, tail) = run.encode();
            assert_eq!(SubchunkRun::decode(SubchunkId(5), &ints, &tail).unwrap(), run);
            for id in (0..20).map(SubchunkId) {
                assert_eq!(run.locate(id), SubchunkRun::find(run.first, &ints, &tail, id).unwrap(), "{id}");
                assert_eq!(run.locate(id).is_some(), run.has(id));
            }
        }
    }

    #[test]
    fn a_run_whose_ids_go_beyond_all_numbers_is_refused() {
        for (first, count) in [(u64::MAX, 1), (u64::MAX - 126, 128), (limits::ID, 1), (limits::ID - 1, 2), (0, 1)] {
            let ints = [1, 0, 0, count, 0, 0, 0, 0];
            let tail = vec![1; count as usize];
            let error = SubchunkRun::decode(SubchunkId(first), &ints, &tail).unwrap_err();
            assert!(matches!(error, FormatError::Limit { .. }), "{first}: {error}");
        }
        let ints = [1, 0, 0, 1, 0, 0, 0, 0];
        assert!(SubchunkRun::decode(SubchunkId(limits::ID - 1), &ints, &[1]).is_ok());
    }

    #[test]
    fn a_superchunk_row_comes_back() {
        let row = SuperchunkRow {
            kind: FrameKind::SUPERCHUNK,
            place: Place {
                offset: LogOffset(1 << 40),
                copy: Some(LogOffset(1 << 41)),
                clear_len: 5,
                stored_len: 6,
                raw_len: 7,
                codec: 1,
                flags: Flags(Flags::PARTS),
                sum: u64::MAX,
            },
        };
        let (ints, tail) = row.encode();
        assert_eq!(SuperchunkRow::decode(&ints, &tail).unwrap(), row);
    }
}
