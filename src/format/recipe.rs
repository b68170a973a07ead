//! Recipes: a subchunk as a list of ranges of stored parts, and their rows in the map (section 5.2).

use super::bytes::{Cursor, put_delta, put_varint, unzigzag, zigzag};
use super::ids::SubchunkId;
use super::rows::map::MAP_COLUMNS;
use super::{FormatError, limits};

/// Number of the only defined form of a row of recipes.
const FORM_COLUMNS: u8 = 1;
const WHAT: &str = "row of recipes";

/// A piece of a recipe: the range `[offset, offset + len)` of a subchunk's stored part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The subchunk whose stored part contains the piece.
    pub subchunk: SubchunkId,
    /// Offset in the stored part of the piece's first byte.
    pub offset: u32,
    /// Length of the piece in bytes, at least 1.
    pub len: u32,
}

/// The list of pieces that make the bytes of a composed subchunk. It has at least one piece; the lengths add up to at
/// most [`limits::SUBCHUNK_LEN`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pieces: Vec<Piece>,
    len: u32,
}

impl Recipe {
    /// Makes a recipe of these pieces.
    ///
    /// # Errors
    /// Returns `Invalid` if there is no piece or an empty one; `Limit` if there are too many pieces or bytes.
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

    /// Returns the pieces, in the order of the subchunk's bytes.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns the recipe with other ids for the subchunks that its pieces name.
    pub fn renamed(&self, id_of: impl Fn(SubchunkId) -> SubchunkId) -> Recipe {
        let pieces = self.pieces.iter().map(|piece| Piece { subchunk: id_of(piece.subchunk), ..*piece }).collect();
        Recipe { pieces, len: self.len }
    }

    /// Returns the length of the composed subchunk, in bytes.
    pub fn subchunk_len(&self) -> u32 {
        self.len
    }
}

/// A row of space 2 of the map. It holds the recipes of up to [`limits::RUN`] composed subchunks of one superchunk.
pub struct RecipeRow;

impl RecipeRow {
    /// Returns integers and tail of the row whose key is (2, id of the first). Ids ascend; there are at most
    /// [`limits::RUN`] recipes, of at most [`limits::RECIPE_PIECES`] pieces together.
    pub fn encode(recipes: &[(SubchunkId, &Recipe)]) -> ([u64; MAP_COLUMNS], Vec<u8>) {
        let mut out = vec![FORM_COLUMNS];
        for pair in recipes.windows(2) {
            if let [(before, _), (id, _)] = pair {
                put_varint(&mut out, id.0.wrapping_sub(before.0));
            }
        }
        for (_, recipe) in recipes {
            put_varint(&mut out, recipe.pieces.len() as u64);
        }
        let [mut lengths, mut ids, mut offsets] = [const { Vec::new() }; 3];
        let mut other = Other::new(recipes.first().map_or(0, |(id, _)| id.0));
        for &(own, recipe) in recipes {
            let mut own_end = 0;
            for piece in &recipe.pieces {
                put_varint(&mut lengths, piece.len.into());
                let end = u64::from(piece.offset) + u64::from(piece.len);
                if piece.subchunk == own {
                    ids.push(0);
                    put_delta(&mut offsets, own_end, piece.offset.into());
                    own_end = end;
                } else {
                    // Ids are below 2^62: nothing saturates.
                    put_varint(&mut ids, zigzag(piece.subchunk.0.wrapping_sub(other.id) as i64).saturating_add(1));
                    put_delta(&mut offsets, other.base(piece.subchunk.0), piece.offset.into());
                    other = Other { id: piece.subchunk.0, end };
                }
            }
        }
        put_varint(&mut out, lengths.len() as u64);
        put_varint(&mut out, ids.len() as u64);
        for stream in [lengths, ids, offsets] {
            out.extend_from_slice(&stream);
        }
        ([0, 0, 0, recipes.len() as u64, 0, 0, 0, 0], out)
    }

    /// Decodes all recipes of a row of space 2 of the map, with the ids of the composed subchunks, which ascend.
    /// Allocates at most for [`limits::RECIPE_PIECES`] pieces.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode(first: SubchunkId, ints: &[u64], tail: &[u8]) -> Result<Vec<(SubchunkId, Recipe)>, FormatError> {
        let mut row = Columns::new(first, ints, tail)?;
        let mut recipes = Vec::with_capacity(row.subchunks.len());
        for (own, count) in std::mem::take(&mut row.subchunks) {
            let mut pieces = Vec::with_capacity(count);
            row.pieces(own, count, |piece| pieces.push(piece))?;
            recipes.push((own, Recipe::new(pieces)?));
        }
        row.lengths.end()?;
        row.ids.end()?;
        row.offsets.end()?;
        Ok(recipes)
    }

    /// Decodes all recipes of a row of space 2 of the map if it has one of `id`; returns `None` if it does not.
    ///
    /// # Errors
    /// Fails if the row is not valid.
    pub fn decode_with(
        first: SubchunkId,
        ints: &[u64],
        tail: &[u8],
        id: SubchunkId,
    ) -> Result<Option<Vec<(SubchunkId, Recipe)>>, FormatError> {
        let recipes = RecipeRow::decode(first, ints, tail)?;
        Ok(recipes.binary_search_by_key(&id, |(id, _)| *id).is_ok().then_some(recipes))
    }

    /// Decodes the recipe of `id` in a row of space 2 of the map; `None` if the row has none. The rest of the row is
    /// not checked.
    ///
    /// # Errors
    /// Fails if the row is not valid up to there.
    pub fn find(first: SubchunkId, ints: &[u64], tail: &[u8], id: SubchunkId) -> Result<Option<Recipe>, FormatError> {
        let mut row = Columns::new(first, ints, tail)?;
        if !row.subchunks.iter().any(|(own, _)| *own == id) {
            return Ok(None);
        }
        for (own, count) in std::mem::take(&mut row.subchunks) {
            if own == id {
                let mut pieces = Vec::with_capacity(count);
                row.pieces(own, count, |piece| pieces.push(piece))?;
                return Recipe::new(pieces).map(Some);
            }
            row.pieces(own, count, |_| {})?;
        }
        Ok(None)
    }
}

/// The last piece so far, in a row of recipes, that takes its bytes from another subchunk than the composed one. The id
/// of the next such piece is stored as a difference to it. So is the offset, if that piece takes its bytes from the
/// same subchunk.
#[derive(Clone, Copy)]
struct Other {
    id: u64,
    end: u64,
}

impl Other {
    /// Makes the state before the first piece of a row.
    fn new(first: u64) -> Self {
        Other { id: first, end: 0 }
    }

    /// Returns the base that the offset of a piece of `id` is relative to.
    fn base(self, id: u64) -> u64 {
        if id == self.id { self.end } else { 0 }
    }
}

/// The columns of a row of recipes, which are read in parallel.
struct Columns<'a> {
    /// The composed subchunks of the row, and how many pieces each has.
    subchunks: Vec<(SubchunkId, usize)>,
    lengths: Cursor<'a>,
    ids: Cursor<'a>,
    offsets: Cursor<'a>,
    other: Other,
}

impl<'a> Columns<'a> {
    fn new(first: SubchunkId, ints: &[u64], tail: &'a [u8]) -> Result<Self, FormatError> {
        let &[0, 0, 0, count @ 1..=limits::RUN, 0, 0, 0, 0] = ints else {
            return Err(FormatError::invalid(WHAT, "its columns are not those of a row of recipes"));
        };
        let mut cursor = Cursor::new(tail, WHAT);
        //= format-spec.md#5.2
        //# Forms other than 1 are not defined; a program must treat the subchunks of a row
        //# whose form it does not know as unreadable.
        if cursor.u8()? != FORM_COLUMNS {
            return Err(FormatError::invalid(WHAT, "its form is not known to this version"));
        }
        let mut id = first.0;
        let mut subchunks = vec![(SubchunkId(checked_id(id)?), 0)];
        for _ in 1..count {
            let step = cursor.varint()?;
            if step == 0 {
                return Err(FormatError::invalid(WHAT, "ids do not ascend"));
            }
            id = checked_id(id.saturating_add(step))?;
            subchunks.push((SubchunkId(id), 0));
        }
        let mut all = 0;
        for (_, pieces) in &mut subchunks {
            let count = cursor.varint_to(limits::RECIPE_PIECES, "pieces of a recipe")?;
            all += count;
            //= format-spec.md#5.2
            //# A row has at most 4096 pieces; a reader must refuse a row that has more.
            if all > limits::RECIPE_PIECES {
                return Err(FormatError::Limit {
                    what: "pieces of a row of recipes",
                    value: all,
                    limit: limits::RECIPE_PIECES,
                });
            }
            *pieces = count as usize;
        }
        let [lengths, ids] = [cursor.varint()?, cursor.varint()?];
        let mut stream = |len: u64| {
            let bytes = cursor.take(usize::try_from(len).unwrap_or(usize::MAX))?;
            Ok::<_, FormatError>(Cursor::new(bytes, WHAT))
        };
        let (lengths, ids) = (stream(lengths)?, stream(ids)?);
        Ok(Columns { subchunks, lengths, ids, offsets: cursor, other: Other::new(first.0) })
    }

    /// Gives the next `count` pieces, which are those of the composed subchunk `own`, to `each`.
    fn pieces(&mut self, own: SubchunkId, count: usize, mut each: impl FnMut(Piece)) -> Result<(), FormatError> {
        let mut own_end = 0;
        for _ in 0..count {
            let len = self.lengths.varint_to(limits::SUBCHUNK_LEN, "length of a piece")?;
            let (subchunk, base, is_own) = match self.ids.varint()? {
                0 => (own, own_end, true),
                code => {
                    let id = checked_id(self.other.id.wrapping_add(unzigzag(code - 1) as u64))?;
                    (SubchunkId(id), self.other.base(id), false)
                }
            };
            let offset = self.offsets.delta(base)?;
            let end = offset.saturating_add(len);
            if end > limits::SUBCHUNK_LEN {
                return Err(FormatError::Limit { what: "end of a piece", value: end, limit: limits::SUBCHUNK_LEN });
            }
            if is_own {
                own_end = end;
            } else {
                self.other = Other { id: subchunk.0, end };
            }
            each(Piece { subchunk, offset: offset as u32, len: len as u32 });
        }
        Ok(())
    }
}

fn checked_id(id: u64) -> Result<u64, FormatError> {
    if id == 0 || id >= limits::ID {
        return Err(FormatError::Limit { what: "subchunk id in a recipe", value: id, limit: limits::ID });
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(id: u64, offset: u32, len: u32) -> Piece {
        Piece { subchunk: SubchunkId(id), offset, len }
    }

    fn encode(recipes: &[(SubchunkId, Recipe)]) -> ([u64; MAP_COLUMNS], Vec<u8>) {
        RecipeRow::encode(&recipes.iter().map(|(id, recipe)| (*id, recipe)).collect::<Vec<_>>())
    }

    #[test]
    fn neighbours_that_continue_one_source_take_three_bytes_a_piece() {
        let recipe = |id: u64, n| Recipe::new(vec![piece(id, 0, 60), piece(3, 100 * n, 100)]).unwrap();
        let recipes: Vec<_> = (0..128).map(|n| (SubchunkId(50 + n), recipe(50 + n, n as u32))).collect();
        let (ints, tail) = encode(&recipes);
        assert_eq!(ints, [0, 0, 0, 128, 0, 0, 0, 0]);
        assert!(tail.len() <= 128 * (2 + 2 * 3) + 16, "{}", tail.len());
        assert_eq!(RecipeRow::decode(SubchunkId(50), &ints, &tail).unwrap(), recipes);
    }

    //= format-spec.md#5.2
    //= type=test
    //# A row has at most 4096 pieces; a reader must refuse a row that has more.
    //= format-spec.md#5.2
    //= type=test
    //# Forms other than 1 are not defined; a program must treat the subchunks of a row
    //# whose form it does not know as unreadable.
    #[test]
    fn a_row_of_too_many_pieces_or_of_another_form_is_refused() {
        let recipe = Recipe::new(vec![piece(3, 1, 1); 4096]).unwrap();
        let (ints, tail) = encode(&[(SubchunkId(7), recipe.clone()), (SubchunkId(8), recipe)]);
        assert!(RecipeRow::decode(SubchunkId(7), &ints, &tail).unwrap_err().to_string().contains("pieces of a row"));
        assert!(RecipeRow::find(SubchunkId(7), &ints, &tail, SubchunkId(7)).is_err());
        let (ints, mut tail) = encode(&[(SubchunkId(7), Recipe::new(vec![piece(3, 1, 1)]).unwrap())]);
        for form in [0, 2, 255] {
            tail[0] = form;
            let error = RecipeRow::find(SubchunkId(7), &ints, &tail, SubchunkId(7)).unwrap_err();
            assert!(error.to_string().contains("form is not known"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn recipes_come_back_as_they_went_in_one_by_one_and_all_together(
            first in 1u64..1 << 40,
            steps in prop::collection::vec((1u64..5, prop::collection::vec((0u64..6, 0u32..1 << 17, 1u32..2048), 1..20)), 1..100),
        ) {
            let mut id = first;
            let recipes: Vec<_> = steps.into_iter().enumerate().map(|(n, (step, pieces))| {
                id += if n == 0 { 0 } else { step };
                let pieces = pieces.into_iter().map(|(source, offset, len)| piece(if source == 0 { id } else { first + source }, offset, len));
                (SubchunkId(id), Recipe::new(pieces.collect()).unwrap())
            }).collect();
            let (ints, tail) = encode(&recipes);
            prop_assert_eq!(&RecipeRow::decode(SubchunkId(first), &ints, &tail).unwrap(), &recipes);
            for wanted in first..=id + 1 {
                let found = RecipeRow::find(SubchunkId(first), &ints, &tail, SubchunkId(wanted)).unwrap();
                let there = recipes.iter().find(|(id, _)| id.0 == wanted).map(|(_, recipe)| recipe.clone());
                prop_assert_eq!(found, there.clone());
                let all = RecipeRow::decode_with(SubchunkId(first), &ints, &tail, SubchunkId(wanted)).unwrap();
                prop_assert_eq!(all.as_ref(), there.is_some().then_some(&recipes));
            }
        }

        #[test]
        fn any_bytes_give_recipes_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0u64..5) {
            for form in [0, 1] {
                let tail = [&[form], &bytes[..]].concat();
                let ints = [0, 0, 0, count, 0, 0, 0, 0];
                let _ = RecipeRow::decode(SubchunkId(5), &ints, &tail);
                let _ = RecipeRow::find(SubchunkId(5), &ints, &tail, SubchunkId(6));
            }
        }
    }
}
