//! Composed subchunks: from recipes to ranges of superchunks' raw bytes. The one composer, for readers and `check`.
//!
//! Only pieces that meet the range asked for are looked up, each subchunk once. Ranges are ordered by superchunk, so that
//! each superchunk is inflated once, whatever the order of the pieces. Callers: inflate, care.

use super::{Located, MetaError};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::Recipe;
use std::collections::HashMap;
use std::ops::Range;
use thiserror::Error;

/// Why a recipe gives nothing.
#[derive(Debug, Error)]
pub enum ComposeError {
    /// The tables do not say where a source is.
    #[error(transparent)]
    Lookup(MetaError),
    /// A source is not there.
    #[error("its recipe names a subchunk that the map does not know")]
    Unknown,
    /// A range is not there.
    #[error("its recipe names bytes that are not stored")]
    Outside,
}

/// A range of a superchunk's raw bytes, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extract {
    /// From which superchunk.
    pub superchunk: SuperchunkId,
    /// First byte in its raw bytes.
    pub start: usize,
    /// Which output, by the number given to [`Composition::add`].
    pub output: usize,
    /// Where in the output.
    pub target: Range<usize>,
}

impl Extract {
    /// Copies the range from `raw`, all raw bytes of the superchunk, to its output. Returns false if either is too short.
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

/// What is to be copied for any number of recipes. `L` says where the stored part of a subchunk lies.
pub struct Composition<L> {
    look_up: L,
    located: HashMap<SubchunkId, Option<Located>>,
    extracts: Vec<Extract>,
}

impl<L: Fn(SubchunkId) -> Result<Option<Located>, MetaError>> Composition<L> {
    /// Nothing yet.
    pub fn new(look_up: L) -> Self {
        Composition { look_up, located: HashMap::new(), extracts: Vec::new() }
    }

    /// Adds what the bytes `range` of a composed subchunk are made of; they go to the output `output` from its byte 0 on.
    ///
    /// # Errors
    /// A piece that meets the range is not there; ranges before it were added all the same.
    pub fn add(&mut self, output: usize, recipe: &Recipe, range: Range<u32>) -> Result<(), ComposeError> {
        let mut begin = 0u32;
        for piece in recipe.pieces() {
            // Cannot overflow: a recipe's pieces add up to the length of a subchunk at most.
            let end = begin.saturating_add(piece.len);
            let (from, to) = (begin.max(range.start), end.min(range.end));
            if begin >= range.end {
                break;
            }
            if from < to {
                //= format-spec.md#5.2
                //# A piece never names a *composed* subchunk's bytes but always what is stored of it, so depth is
                //# one.
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

    /// What is to be copied out of each superchunk, in order of superchunks and positions.
    pub fn by_superchunk(&mut self) -> impl Iterator<Item = &[Extract]> + Clone {
        self.extracts.sort_by_key(|extract| (extract.superchunk, extract.start));
        self.extracts.chunk_by(|a, b| a.superchunk == b.superchunk)
    }
}
