//! Recipes: a subchunk as a list of ranges of stored parts (section 5.2).

use super::bytes::{Cursor, put_delta, put_varint};
use super::ids::SubchunkId;
use super::{FormatError, limits};

/// The only form of a recipe that is defined.
const FORM_COLUMNS: u8 = 0;

/// The range `[offset, offset + len)` of a subchunk's stored part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Whose stored part.
    pub subchunk: SubchunkId,
    /// First byte.
    pub offset: u32,
    /// Bytes, at least 1.
    pub len: u32,
}

/// How a composed subchunk is made. At least one piece; the lengths add up to at most [`limits::SUBCHUNK_LEN`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pieces: Vec<Piece>,
    len: u32,
}

impl Recipe {
    /// A recipe of these pieces.
    ///
    /// # Errors
    /// `Invalid` or `Limit` if there are none, too many, an empty one, or too many bytes.
    pub fn new(pieces: Vec<Piece>) -> Result<Self, FormatError> {
        if pieces.is_empty() || pieces.iter().any(|p| p.len == 0) {
            return Err(FormatError::invalid("recipe", "it has no piece, or an empty one"));
        }
        if pieces.len() as u64 > limits::RECIPE_PIECES {
            return Err(FormatError::Limit {
                what: "pieces of a recipe",
                value: pieces.len() as u64,
                limit: limits::RECIPE_PIECES,
            });
        }
        let len: u64 = pieces.iter().map(|p| u64::from(p.len)).sum();
        if len > limits::SUBCHUNK_LEN {
            return Err(FormatError::Limit { what: "bytes of a recipe", value: len, limit: limits::SUBCHUNK_LEN });
        }
        Ok(Recipe { pieces, len: len as u32 })
    }

    /// The pieces, in the order of the subchunk's bytes.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Length of the subchunk, in bytes.
    pub fn subchunk_len(&self) -> u32 {
        self.len
    }

    /// Appends the recipe of the subchunk `own`.
    pub fn encode(&self, own: SubchunkId, out: &mut Vec<u8>) {
        out.push(FORM_COLUMNS);
        put_varint(out, self.pieces.len() as u64);
        for piece in &self.pieces {
            put_varint(out, piece.len.into());
        }
        let mut before = own;
        for piece in &self.pieces {
            put_delta(out, before.0, piece.subchunk.0);
            before = piece.subchunk;
        }
        let mut ends = Ends::default();
        for piece in &self.pieces {
            put_delta(out, ends.of(piece.subchunk), piece.offset.into());
            ends.set(piece.subchunk, u64::from(piece.offset) + u64::from(piece.len));
        }
    }

    /// The recipe of the subchunk `own`, which fills `bytes`.
    ///
    /// # Errors
    /// What is wrong with it; nothing is allocated beyond the bytes given.
    pub fn decode(own: SubchunkId, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes, "recipe");
        if cursor.u8()? != FORM_COLUMNS {
            return Err(FormatError::invalid("recipe", "its form is not known to this version"));
        }
        let count = cursor.varint_to(limits::RECIPE_PIECES.min(bytes.len() as u64), "pieces of a recipe")? as usize;
        let mut pieces = Vec::with_capacity(count);
        for _ in 0..count {
            let len = cursor.varint_to(limits::SUBCHUNK_LEN, "length of a piece")? as u32;
            pieces.push(Piece { subchunk: own, offset: 0, len });
        }
        let mut before = own.0;
        for piece in &mut pieces {
            before = cursor.delta(before)?;
            if before == 0 || before >= limits::ID {
                return Err(FormatError::Limit { what: "subchunk id in a recipe", value: before, limit: limits::ID });
            }
            piece.subchunk = SubchunkId(before);
        }
        let mut ends = Ends::default();
        for piece in &mut pieces {
            let offset = cursor.delta(ends.of(piece.subchunk))?;
            if offset > limits::SUBCHUNK_LEN {
                return Err(FormatError::Limit {
                    what: "offset of a piece",
                    value: offset,
                    limit: limits::SUBCHUNK_LEN,
                });
            }
            piece.offset = offset as u32;
            ends.set(piece.subchunk, offset + u64::from(piece.len));
        }
        cursor.end()?;
        Recipe::new(pieces)
    }
}

/// Where the last piece of each subchunk ended.
#[derive(Default)]
struct Ends(std::collections::HashMap<SubchunkId, u64>);

impl Ends {
    fn of(&self, id: SubchunkId) -> u64 {
        self.0.get(&id).copied().unwrap_or(0)
    }

    fn set(&mut self, id: SubchunkId, end: u64) {
        self.0.insert(id, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_recipe_comes_back_as_it_went_in(
            own in 1u64..1 << 40,
            pieces in prop::collection::vec((1u64..1 << 40, 0u32..1 << 17, 1u32..2048), 1..200),
        ) {
            let pieces = pieces.into_iter().map(|(id, offset, len)| Piece { subchunk: SubchunkId(id), offset, len }).collect();
            let recipe = Recipe::new(pieces).unwrap();
            let mut out = Vec::new();
            recipe.encode(SubchunkId(own), &mut out);
            prop_assert_eq!(Recipe::decode(SubchunkId(own), &out).unwrap(), recipe);
        }

        #[test]
        fn any_bytes_give_a_recipe_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Recipe::decode(SubchunkId(5), &bytes);
        }
    }
}
