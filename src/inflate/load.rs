//! From a superchunk's place to its raw bytes.

use super::InflateError;
use super::budget::Buffer;
use crate::format::codec::{self, Part, PartTable};
use crate::format::frame::Flags;
use crate::format::ids::SuperchunkId;
use crate::format::place::Place;
use crate::log::LogError;
use crate::meta::{Image, with_decoder};
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// Stored bytes on their way through the decoder; at most one superchunk's a thread.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Raw bytes of a superchunk or of one part of it.
pub(super) struct Inflated {
    pub(super) bytes: Buffer,
    /// How many there are where nothing is damaged.
    pub(super) raw_len: usize,
    /// Whether the checksum was right. If not, each subchunk must be judged by its identity.
    pub(super) intact: bool,
}

fn read_error(id: SuperchunkId, source: LogError) -> InflateError {
    InflateError::Read { id, source: Arc::new(source) }
}

/// Reads and decodes a whole superchunk into `buffer`.
pub(super) fn whole(
    image: &Image,
    id: SuperchunkId,
    place: &Place,
    mut buffer: Buffer,
) -> Result<Inflated, InflateError> {
    let dictionary = dictionary(image, id, place)?;
    let dictionary = dictionary.as_ref().map(|bytes| bytes.as_slice());
    let raw_len = place.raw_len as usize;
    STORED.with_borrow_mut(|stored| {
        let mut first_error = None;
        for offset in place.offsets() {
            match image.log().stored_unverified(place, offset, stored) {
                Ok(true) => {
                    with_decoder(|decoder| {
                        decoder.decode(place.codec, place.flags, stored, place.raw_len, dictionary, buffer.vec())
                    })
                    .map_err(|source| InflateError::Decode { id, source })?;
                    return Ok(Inflated { bytes: buffer, raw_len, intact: true });
                }
                Ok(false) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        // No intact copy: what the (last) damaged one still gives.
        if let Some(error) = first_error {
            return Err(read_error(id, error));
        }
        tracing::warn!("superchunk {id} at offset {} is damaged: decoding as far as it goes", place.offset);
        *buffer.vec() =
            with_decoder(|decoder| decoder.decode_damaged(place.codec, place.flags, stored, place.raw_len, dictionary));
        Ok(Inflated { bytes: buffer, raw_len, intact: false })
    })
}

/// Reads the table of a superchunk's parts; `None` if it is damaged in every copy.
pub(super) fn part_table(image: &Image, id: SuperchunkId, place: &Place) -> Result<Option<PartTable>, InflateError> {
    for offset in place.offsets() {
        let mut size = [0; 4];
        if place.stored_len < 4 {
            break;
        }
        image.log().stored_range(place, offset, 0, &mut size).map_err(|error| read_error(id, error))?;
        let Ok(len) = PartTable::byte_len_of(&size, place.raw_len) else { continue };
        if len > place.stored_len as usize {
            continue;
        }
        let mut bytes = vec![0; len];
        image.log().stored_range(place, offset, 0, &mut bytes).map_err(|error| read_error(id, error))?;
        if let Ok(table) = PartTable::decode(&bytes, place.raw_len, place.stored_len) {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Reads and decodes one part into `buffer`; a damaged one as far as it goes, the rest of it is zero.
pub(super) fn part(
    image: &Image,
    id: SuperchunkId,
    place: &Place,
    table: &PartTable,
    index: usize,
    mut buffer: Buffer,
) -> Result<Inflated, InflateError> {
    let dictionary = dictionary(image, id, place)?;
    let dictionary = dictionary.as_ref().map(|bytes| bytes.as_slice());
    let part = table.parts[index];
    let raw_len = part.raw_len as usize;
    for offset in place.offsets() {
        let decoded = STORED.with_borrow_mut(|stored| {
            stored.clear();
            stored.resize(part.stored_len as usize, 0);
            image.log().stored_range(place, offset, part.offset, stored).map_err(|error| read_error(id, error))?;
            Ok(with_decoder(|decoder| {
                decoder.decode_part(place.codec, place.flags, &part, stored, dictionary, buffer.vec())
            }))
        })?;
        if decoded.is_ok() {
            return Ok(Inflated { bytes: buffer, raw_len, intact: true });
        }
    }
    tracing::warn!("part {index} of superchunk {id} at offset {} is damaged", place.offset);
    *buffer.vec() = STORED.with_borrow(|stored| damaged_part(place, &part, stored, dictionary));
    buffer.vec().resize(part.raw_len as usize, 0);
    Ok(Inflated { bytes: buffer, raw_len, intact: false })
}

/// What is left of a damaged part, which decodes as a frame without parts does.
fn damaged_part(place: &Place, part: &Part, stored: &[u8], dictionary: Option<&[u8]>) -> Vec<u8> {
    let mut flags = Flags(place.flags.0 & !Flags::PARTS);
    let mut codec = place.codec;
    if part.stored_len == part.raw_len {
        (codec, flags) = (codec::RAW, Flags(flags.0 & !Flags::DICTIONARY));
    }
    let dictionary = dictionary.filter(|_| flags.dictionary());
    with_decoder(|decoder| decoder.decode_damaged(codec, flags, stored, part.raw_len, dictionary))
}

fn dictionary(image: &Image, id: SuperchunkId, place: &Place) -> Result<Option<Arc<Vec<u8>>>, InflateError> {
    if !place.flags.dictionary() {
        return Ok(None);
    }
    image.dictionary().map_err(|error| InflateError::Decode {
        id,
        source: crate::format::FormatError::Decode { what: "dictionary", why: error.to_string() },
    })
}
