//! Reads the raw bytes of a superchunk from its place. Table blocks, file data and `check` all use this module.
//!
//! Copies whose checksum is right come first. Damaged copies are decoded as far as possible, and only if the caller
//! accepted no other copy; the caller verifies their parts by their own hashes. Memory: `stored` and `raw` grow to the
//! lengths in the place, which are first checked against the image's parameters, and the decoder takes
//! [`codec::decoding_memory`]. Called by meta, inflate and care.

use super::{Image, MetaError};
use crate::format::codec::{self, Decoder, Part, PartTable};
use crate::format::ids::LogOffset;
use crate::format::place::Place;
use crate::format::{FormatError, limits};
use crate::log::LogError;
use std::cell::RefCell;
use std::sync::Arc;
use thiserror::Error;

thread_local! {
    /// One decoder for each thread: its contexts are expensive to make and cheap to keep.
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new());
}

fn with_decoder<T>(work: impl FnOnce(&mut Decoder) -> T) -> T {
    DECODER.with_borrow_mut(work)
}

/// Why one copy of a superchunk could not be read or decoded.
#[derive(Debug, Error)]
pub enum Fault {
    /// The frame of the copy cannot be read.
    #[error(transparent)]
    Read(LogError),
    /// The stored bytes of the copy are damaged.
    #[error("the checksum of its stored bytes is wrong")]
    Checksum,
    /// The checksum of the stored bytes is right, but the decoder refuses them.
    #[error("its stored bytes cannot be decoded, although their checksum is right: {0}")]
    Decode(FormatError),
}

/// The result of reading a superchunk or a part of it.
#[derive(Debug, Default)]
pub struct Reading {
    /// Offset of the copy whose raw bytes the caller accepted, and whether its checksum is right.
    pub accepted: Option<(LogOffset, bool)>,
    /// The offsets and faults of the copies that were tried, in order.
    pub faults: Vec<(LogOffset, Fault)>,
}

impl Reading {
    /// Returns whether bytes with the right checksum were accepted.
    pub fn intact(&self) -> bool {
        matches!(self.accepted, Some((_, true)))
    }

    /// Returns how many copies are damaged. Each may decode to different bytes.
    pub fn damaged(&self) -> usize {
        self.faults.iter().filter(|(_, fault)| matches!(fault, Fault::Checksum)).count()
    }

    /// Returns the most specific fault as an error, for a read of which nothing was accepted.
    pub(super) fn into_error(self) -> MetaError {
        let rank = |fault: &Fault| match fault {
            Fault::Decode(_) => 0,
            Fault::Read(_) => 1,
            Fault::Checksum => 2,
        };
        match self.faults.into_iter().min_by_key(|(_, fault)| rank(fault)) {
            Some((_, Fault::Decode(error))) => MetaError::Format(error),
            Some((_, Fault::Read(error))) => MetaError::Log(error),
            Some((offset, Fault::Checksum)) => MetaError::Log(checksum_mismatch(offset)),
            None => {
                MetaError::Format(FormatError::invalid("stored bytes of a frame", "no copy has the expected contents"))
            }
        }
    }
}

/// Makes the error for the frame at `offset`, whose checksum is wrong.
pub fn checksum_mismatch(offset: LogOffset) -> LogError {
    LogError::format(offset, FormatError::invalid("stored bytes of a frame", "checksum mismatch"))
}

/// What is read at once: all of a frame's stored bytes, or one part of them.
#[derive(Clone, Copy)]
enum Unit<'a> {
    Whole,
    Part(&'a Part),
}

/// Buffers that one read uses. Their contents are overwritten, and their memory is reused.
pub struct Buffers<'a> {
    /// Receives the stored bytes.
    pub stored: &'a mut Vec<u8>,
    /// Receives the raw bytes. After the read it holds the accepted ones.
    pub raw: &'a mut Vec<u8>,
}

impl Image {
    /// Reads the superchunk at `place` and passes its raw bytes to `accept`, copy after copy, until it returns true.
    /// The flag passed to `accept` tells whether the checksum is right. Damaged copies come last, with zeros where they
    /// could not be decoded.
    pub fn read_superchunk(
        &self,
        place: &Place,
        buffers: Buffers<'_>,
        accept: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> Reading {
        self.read_with_dictionary(place, Unit::Whole, buffers, accept)
    }

    /// Reads one part of a superchunk, which has its own checksum; otherwise like [`Image::read_superchunk`].
    pub fn read_part(
        &self,
        place: &Place,
        part: &Part,
        buffers: Buffers<'_>,
        accept: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> Reading {
        self.read_with_dictionary(place, Unit::Part(part), buffers, accept)
    }

    /// Refuses a superchunk that would take more memory than the image's parameters allow.
    ///
    /// # Errors
    /// Returns `Limit`, with the length and its limit.
    pub fn check_lengths(&self, place: &Place) -> Result<(), FormatError> {
        check_lengths(place, self.params().superchunk_size.into())
    }

    /// Reads the table of a superchunk's parts. Returns `None` if the table is damaged in every copy that can be read.
    ///
    /// # Errors
    /// Fails if no copy of the frame can be read, or if a length in `place` is above its limit.
    pub fn part_table(&self, place: &Place) -> Result<Option<PartTable>, MetaError> {
        self.check_lengths(place)?;
        let (mut first_error, mut damaged) = (None, false);
        for offset in place.offsets() {
            match self.part_table_at(place, offset) {
                Ok(Some(table)) => return Ok(Some(table)),
                Ok(None) => damaged = true,
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            Some(error) if !damaged => Err(error.into()),
            _ => Ok(None),
        }
    }

    fn part_table_at(&self, place: &Place, offset: LogOffset) -> Result<Option<PartTable>, LogError> {
        let mut size = [0; 4];
        if place.stored_len < 4 {
            return Ok(None);
        }
        self.log().stored_range(place, offset, 0, &mut size)?;
        let Ok(len) = PartTable::byte_len_of(&size, place.raw_len) else { return Ok(None) };
        if len > place.stored_len as usize {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        self.log().stored_range(place, offset, 0, &mut bytes)?;
        Ok(PartTable::decode(&bytes, place.raw_len, place.stored_len).ok())
    }

    /// Reads a frame that must not need a dictionary and must have the right checksum: a block of the map, or the
    /// dictionary itself.
    ///
    /// # Errors
    /// Fails if no copy is intact, or if it has more than `most` raw bytes.
    pub(super) fn read_plain(&self, place: &Place, most: u64) -> Result<Vec<u8>, MetaError> {
        if place.flags.dictionary() {
            return Err(FormatError::invalid("flags", "it needs a dictionary, which is not allowed here").into());
        }
        let (mut stored, mut raw) = (Vec::new(), Vec::new());
        let buffers = Buffers { stored: &mut stored, raw: &mut raw };
        let reading = self.read_copies(place, Unit::Whole, most, None, buffers, &mut |_, intact| intact);
        if reading.accepted.is_some() { Ok(raw) } else { Err(reading.into_error()) }
    }

    fn read_with_dictionary(
        &self,
        place: &Place,
        unit: Unit<'_>,
        buffers: Buffers<'_>,
        accept: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> Reading {
        let dictionary = match place.flags.dictionary().then(|| self.dictionary()) {
            None => None,
            Some(Ok(dictionary)) => dictionary,
            Some(Err(error)) => {
                let fault = Fault::Decode(FormatError::Decode { what: "dictionary", why: error.to_string() });
                return Reading { accepted: None, faults: vec![(place.offset, fault)] };
            }
        };
        self.read_copies(place, unit, self.params().superchunk_size.into(), dictionary, buffers, accept)
    }

    fn read_copies(
        &self,
        place: &Place,
        unit: Unit<'_>,
        most: u64,
        dictionary: Option<Arc<Vec<u8>>>,
        buffers: Buffers<'_>,
        accept: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> Reading {
        let mut reading = Reading::default();
        let Buffers { stored, raw } = buffers;
        let dictionary = dictionary.as_ref().map(|bytes| bytes.as_slice());
        if let Err(error) = check_lengths(place, most) {
            reading.faults.push((place.offset, Fault::Decode(error)));
            return reading;
        }
        let mut last = place.offset;
        for offset in place.offsets() {
            last = offset;
            match self.decode_copy(place, unit, offset, dictionary, stored, raw) {
                Ok(()) if accept(raw, true) => {
                    reading.accepted = Some((offset, true));
                    return reading;
                }
                Ok(()) => {}
                Err(fault) => reading.faults.push((offset, fault)),
            }
        }
        for (offset, fault) in &reading.faults {
            // The stored bytes of the last copy are still in the buffer.
            if !matches!(fault, Fault::Checksum)
                || (last != *offset && self.fetch(place, unit, *offset, stored).is_err())
            {
                continue;
            }
            last = *offset;
            decode_damaged(place, unit, dictionary, stored, raw);
            if raw.len() == unit.raw_len(place) && accept(raw, false) {
                reading.accepted = Some((*offset, false));
                return reading;
            }
        }
        reading
    }

    /// Reads the stored bytes of the copy at `offset` into `stored`, and returns whether the checksum of a whole frame
    /// is right. The checksum of a part is left to the decoder.
    fn fetch(&self, place: &Place, unit: Unit<'_>, offset: LogOffset, stored: &mut Vec<u8>) -> Result<bool, LogError> {
        match unit {
            Unit::Whole => self.log().stored_unverified(place, offset, stored),
            Unit::Part(part) => {
                stored.resize(part.stored_len as usize, 0);
                self.log().stored_range(place, offset, part.offset, stored).map(|()| true)
            }
        }
    }

    fn decode_copy(
        &self,
        place: &Place,
        unit: Unit<'_>,
        offset: LogOffset,
        dictionary: Option<&[u8]>,
        stored: &mut Vec<u8>,
        raw: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        if !self.fetch(place, unit, offset, stored).map_err(Fault::Read)? {
            return Err(Fault::Checksum);
        }
        let decoded = with_decoder(|decoder| match unit {
            Unit::Whole => decoder.decode(place.codec, place.flags, stored, place.raw_len, dictionary, raw),
            Unit::Part(part) => decoder.decode_part(place.codec, place.flags, part, stored, dictionary, raw),
        });
        decoded.map_err(|error| match (unit, error) {
            (Unit::Part(_), FormatError::Checksum { .. }) => Fault::Checksum,
            (_, error) => Fault::Decode(error),
        })
    }
}

fn decode_damaged(place: &Place, unit: Unit<'_>, dictionary: Option<&[u8]>, stored: &[u8], raw: &mut Vec<u8>) {
    with_decoder(|decoder| match unit {
        Unit::Whole => decoder.decode_damaged(place.codec, place.flags, stored, place.raw_len, dictionary, raw),
        Unit::Part(part) => decoder.decode_damaged_part(place.codec, place.flags, part, stored, dictionary, raw),
    });
}

impl Unit<'_> {
    fn raw_len(&self, place: &Place) -> usize {
        match self {
            Unit::Whole => place.raw_len as usize,
            Unit::Part(part) => part.raw_len as usize,
        }
    }
}

/// Refuses a superchunk of more than `most` raw bytes, or with more stored bytes than raw bytes and its part table.
/// This is checked before any memory is allocated for it.
fn check_lengths(place: &Place, most: u64) -> Result<(), FormatError> {
    let (raw, stored) = (u64::from(place.raw_len), u64::from(place.stored_len));
    //= format-spec.md#5
    //# A reader must refuse a superchunk of more than
    //# `superchunk_size` raw bytes, and one with more stored bytes than raw bytes and its part table.
    if raw > most {
        return Err(FormatError::Limit { what: "raw bytes of a superchunk", value: raw, limit: most });
    }
    let table = if place.flags.parts() { PartTable::byte_len(place.raw_len, limits::PART_MIN) as u64 } else { 0 };
    if stored > raw + table {
        return Err(FormatError::Limit { what: "stored bytes of a superchunk", value: stored, limit: raw + table });
    }
    Ok(())
}

/// Returns the bytes of memory that decoding `raw_len` bytes of the superchunk at `place` takes, besides stored and raw
/// bytes.
pub fn decoding_memory(place: &Place, raw_len: usize) -> usize {
    codec::decoding_memory(place.codec, raw_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::frame::Flags;

    //= format-spec.md#5
    //= type=test
    //# A reader must refuse a superchunk of more than
    //# `superchunk_size` raw bytes, and one with more stored bytes than raw bytes and its part table.
    #[test]
    fn lengths_beyond_what_the_image_allows_are_refused_before_memory_is_taken() {
        let place = |raw_len, stored_len, flags| Place {
            offset: LogOffset(limits::LOG_START),
            copy: None,
            clear_len: 0,
            stored_len,
            raw_len,
            codec: codec::RAW,
            flags: Flags(flags),
            sum: 0,
        };
        let table = PartTable::byte_len(1 << 20, limits::PART_MIN) as u32;
        for (raw_len, stored_len, flags, right) in [
            (1 << 20, 1 << 20, 0, true),
            ((1 << 20) + 1, 100, 0, false),
            (1 << 20, (1 << 20) + 1, 0, false),
            (1 << 20, (1 << 20) + table, Flags::PARTS, true),
            (1 << 20, (1 << 20) + table + 1, Flags::PARTS, false),
            (0, 0, 0, true),
            (u32::MAX, u32::MAX, Flags::PARTS, false),
        ] {
            let checked = check_lengths(&place(raw_len, stored_len, flags), 1 << 20);
            assert_eq!(checked.is_ok(), right, "{raw_len} {stored_len} {flags}");
        }
    }
}
