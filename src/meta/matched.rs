//! Counts what the recipes of an image take from elsewhere, and which superchunks are in parts: one walk over the map.
//!
//! Only rows of the map are read, no data. Recipes of subchunks that nothing uses any more count until gc removes them.
//! Called by cli (info) and bench.

use super::{Image, MetaError};
use crate::format::FormatError;
use crate::format::block::Block;
use crate::format::frame::FrameKind;
use crate::format::ids::SubchunkId;
use crate::format::recipe::RecipeRow;
use crate::format::rows::SuperchunkRow;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUPERCHUNKS};
use crate::format::schema;
use crate::table::{ChildRef, Onward, TableError};

/// Bytes that a row of the map takes besides its tail, about: the key and the columns.
const ROW: u64 = 8;

/// What the recipes of an image save and cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Matched {
    /// Number of composed subchunks: those with a recipe.
    pub composed: u64,
    /// Number of the pieces of all recipes.
    pub pieces: u64,
    /// Raw bytes of the pieces that are of another subchunk's stored part: they are not stored again.
    pub bytes: u64,
    /// Bytes of the image for recipes: their share of the map's blocks, copies included.
    pub recipe_bytes: u64,
    /// Number of superchunks of file data that are compressed in parts.
    pub in_parts: u64,
}

impl Image {
    /// Counts what matching saved, by reading the whole map.
    ///
    /// # Errors
    /// Fails if a block of the map cannot be read, or a row is not valid.
    pub fn matched(&self) -> Result<Matched, MetaError> {
        let mut matched = Matched::default();
        let mut failed = None;
        self.tree(&schema::MAP).walk(self, &mut |visit| {
            let added = match visit.block {
                Ok(block) if visit.level == 0 => matched.add(block, visit.child),
                Ok(_) => Ok(()),
                Err(error) => Err(TableError::Source(error.to_string().into()).into()),
            };
            match added {
                Ok(()) => Onward::Into,
                Err(error) => {
                    failed = Some(error);
                    Onward::Stop
                }
            }
        });
        failed.map_or(Ok(matched), Err)
    }
}

impl Matched {
    /// Counts the rows of a leaf of the map. `child` says where its frame is.
    fn add(&mut self, leaf: &Block, child: Option<ChildRef>) -> Result<(), MetaError> {
        let (mut recipes, mut all) = (0u64, 0u64);
        for row in 0..leaf.len() {
            let (key, ints, tail) = (leaf.key(row), leaf.ints(row), leaf.tail(row));
            let len = ROW + tail.len() as u64;
            all += len;
            match key.a {
                SPACE_SUPERCHUNKS => {
                    let superchunk = SuperchunkRow::decode(ints, tail)?;
                    let is_data = superchunk.kind == FrameKind::SUPERCHUNK;
                    self.in_parts += u64::from(is_data && superchunk.place.flags.parts());
                }
                SPACE_RECIPES => {
                    self.recipes(SubchunkId(key.b), ints, tail)?;
                    recipes += len;
                }
                _ => {}
            }
        }
        if let Some(ChildRef::Frame(place)) = child {
            let frames = place.frame_len().saturating_mul(1 + u64::from(place.copy.is_some()));
            // It is at most `frames`, a u64.
            let share = u128::from(frames) * u128::from(recipes) / u128::from(all.max(1));
            self.recipe_bytes = self.recipe_bytes.saturating_add(share as u64);
        }
        Ok(())
    }

    /// Counts the recipes of a row.
    fn recipes(&mut self, first: SubchunkId, ints: &[u64], tail: &[u8]) -> Result<(), FormatError> {
        for (own, recipe) in RecipeRow::decode(first, ints, tail)? {
            self.composed += 1;
            self.pieces += recipe.pieces().len() as u64;
            let others = recipe.pieces().iter().filter(|piece| piece.subchunk != own);
            self.bytes = others.fold(self.bytes, |sum, piece| sum.saturating_add(piece.len.into()));
        }
        Ok(())
    }
}
