//! Composed subchunks: translates recipes to ranges of superchunks' raw bytes. Readers and `check` both use this
//! module.
//!
//! Only pieces that overlap the requested range are looked up, each subchunk once. Ranges are ordered by superchunk, so
//! that each superchunk is inflated once, whatever the order of the pieces. Called by inflate and care.

use super::{Located, MetaError};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::Recipe;
use std::collections::HashMap;
use std::ops::Range;
use thiserror::Error;

/// Why the recipe of a composed subchunk cannot be used.
#[derive(Debug, Error)]
pub enum ComposeError {
    /// The place of a subchunk that the recipe names cannot be looked up in the tables.
    #[error(transparent)]
    Lookup(MetaError),
    /// The map has no subchunk with an id that the recipe names.
    #[error("the image is damaged: the recipe of a composed subchunk uses a subchunk that the image does not have")]
    Unknown,
    /// The recipe names bytes outside of what is stored of the subchunk that it names.
    #[error("the image is damaged: the recipe of a composed subchunk uses bytes beyond the end of another subchunk")]
    Outside,
}

/// One copy to make: a range of a superchunk's raw bytes, and where it goes in an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extract {
    /// The superchunk to copy from.
    pub superchunk: SuperchunkId,
    /// Position of the first byte in the superchunk's raw bytes.
    pub start: usize,
    /// The output to copy to, by the number given to [`Composition::add`].
    pub output: usize,
    /// The range of bytes in the output that the copy fills.
    pub target: Range<usize>,
}

impl Extract {
    /// Copies the range from `raw`, which is all raw bytes of the superchunk, to the output `out`. Returns false if
    /// either is too short.
    pub fn copy(&self, raw: &[u8], out: &mut [u8]) -> bool {
        let from = self.start.checked_add(self.target.len()).and_then(|end| raw.get(self.start..end));
        match (from, out.get_mut(self.target.clone())) {
            (Some(from), Some(to)) => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    }
}

/// Collects the copies that make the bytes of composed subchunks from their recipes. `L` looks up where the stored part
/// of a subchunk is.
pub struct Composition<L> {
    look_up: L,
    located: HashMap<SubchunkId, Option<Located>>,
    extracts: Vec<Extract>,
}

impl<L: Fn(SubchunkId) -> Result<Option<Located>, MetaError>> Composition<L> {
    /// Makes an empty collection. `look_up` returns the place of a subchunk's stored part, or `None` if the map has no
    /// such subchunk.
    pub fn new(look_up: L) -> Self {
        Composition { look_up, located: HashMap::new(), extracts: Vec::new() }
    }

    /// Adds the copies that make the bytes `range` of a composed subchunk. The output with the number `output` receives
    /// them from its byte 0 on.
    ///
    /// # Errors
    /// Fails if a piece that overlaps the range cannot be looked up, does not exist or is outside its stored part.
    /// Copies for the bytes before it were then added nevertheless.
    pub fn add(&mut self, output: usize, recipe: &Recipe, range: Range<u32>) -> Result<(), ComposeError> {
        let mut begin = 0u32;
        for piece in recipe.pieces() {
            // This cannot overflow: a recipe's pieces add up to at most the limit of a subchunk.
            let end = begin.saturating_add(piece.len);
            let (from, to) = (begin.max(range.start), end.min(range.end));
            if begin >= range.end {
                break;
            }
            if from < to {
                //= format-spec.md#5.2
                //# A piece never names the composed bytes of another subchunk, but always bytes of its stored part, so
                //# the depth is one.
                let source = self.locate(piece.subchunk)?.ok_or(ComposeError::Unknown)?;
                if u64::from(piece.offset) + u64::from(piece.len) > u64::from(source.len) {
                    return Err(ComposeError::Outside);
                }
                let target = (from - range.start) as usize..(to - range.start) as usize;
                let start = source.position as usize + piece.offset as usize + (from - begin) as usize;
                self.extracts.push(Extract { superchunk: source.superchunk, start, output, target });
            }
            begin = end;
        }
        Ok(())
    }

    fn locate(&mut self, id: SubchunkId) -> Result<Option<Located>, ComposeError> {
        if let Some(known) = self.located.get(&id) {
            return Ok(*known);
        }
        let located = (self.look_up)(id).map_err(ComposeError::Lookup)?;
        self.located.insert(id, located);
        Ok(located)
    }

    /// Returns the copies grouped by the superchunk to copy from, in the order of superchunks and of positions.
    pub fn by_superchunk(&mut self) -> impl Iterator<Item = &[Extract]> + Clone {
        self.extracts.sort_by_key(|extract| (extract.superchunk, extract.start));
        self.extracts.chunk_by(|a, b| a.superchunk == b.superchunk)
    }
}
