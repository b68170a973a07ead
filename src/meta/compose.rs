//! Composed subchunks: translates recipes to ranges of superchunks' raw bytes. Readers and `check` both use this
//! module.
//!
//! Only pieces that overlap the requested range are looked up. Pieces of one recipe mostly name subchunks of a few runs
//! of the map, so whole runs are looked up, and a bounded number of them is kept. Ranges are ordered by superchunk, so
//! that each superchunk is inflated once, whatever the order of the pieces. Called by inflate and care.

use super::{Located, MetaError};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::Recipe;
use crate::format::rows::SubchunkRun;
use std::ops::Range;
use std::sync::Arc;
use thiserror::Error;

/// Most runs that are kept: those of nine superchunks of small files. A recipe that uses more is only slower.
const RUNS: usize = 64;

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

/// Collects the copies that make the bytes of composed subchunks from their recipes. `L` looks up the run of the map
/// that has a subchunk.
pub struct Composition<L> {
    look_up: L,
    /// Runs that were looked up, in the order of ids.
    runs: Vec<Arc<SubchunkRun>>,
    /// Index of the run that was used last.
    last: usize,
    extracts: Vec<Extract>,
}

impl<L: Fn(SubchunkId) -> Result<Option<Arc<SubchunkRun>>, MetaError>> Composition<L> {
    /// Makes an empty collection. `look_up` returns the run of the map that has a subchunk, or `None` if the map has no
    /// such subchunk.
    pub fn new(look_up: L) -> Self {
        Composition { look_up, runs: Vec::new(), last: 0, extracts: Vec::new() }
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

    /// Returns the run of the map that has the subchunk `id`, or `None` if the map has no such subchunk.
    ///
    /// # Errors
    /// Fails if it cannot be looked up.
    pub fn run(&mut self, id: SubchunkId) -> Result<Option<&SubchunkRun>, ComposeError> {
        let is_known = |run: Option<&Arc<SubchunkRun>>| run.is_some_and(|run| run.has(id));
        if !is_known(self.runs.get(self.last)) {
            let after = self.runs.partition_point(|run| run.first <= id);
            self.last = after.saturating_sub(1);
            if !is_known(self.runs.get(self.last)) {
                let Some(run) = (self.look_up)(id).map_err(ComposeError::Lookup)? else { return Ok(None) };
                if self.runs.len() >= RUNS {
                    self.runs.clear();
                }
                self.last = after.min(self.runs.len());
                self.runs.insert(self.last, run);
            }
        }
        Ok(self.runs.get(self.last).map(Arc::as_ref))
    }

    fn locate(&mut self, id: SubchunkId) -> Result<Option<Located>, ComposeError> {
        Ok(self.run(id)?.and_then(|run| run.locate(id)))
    }

    /// Returns the copies grouped by the superchunk to copy from, in the order of superchunks and of positions.
    pub fn by_superchunk(&mut self) -> impl Iterator<Item = &[Extract]> + Clone {
        // The order of copies from one position does not matter: each fills its own range.
        self.extracts.sort_unstable_by_key(|extract| (extract.superchunk, extract.start));
        self.extracts.chunk_by(|a, b| a.superchunk == b.superchunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recipe::Piece;
    use std::cell::Cell;

    /// Run number `n`, from 0: ten subchunks of 100 bytes, from id `10 * n + 1` on, in superchunk `n + 1`.
    fn run(n: u64) -> SubchunkRun {
        SubchunkRun {
            first: SubchunkId(10 * n + 1),
            superchunk: SuperchunkId(n + 1),
            position: 1000,
            lens: vec![100; 10],
            composed: Vec::new(),
        }
    }

    fn piece(id: u64, offset: u32, len: u32) -> Piece {
        Piece { subchunk: SubchunkId(id), offset, len }
    }

    /// The copies for `range` of a subchunk of these pieces, and how many runs were looked up. Ids above 10,000 do not
    /// exist.
    fn extracts(pieces: Vec<Piece>, range: Range<u32>) -> Result<(Vec<Extract>, usize), String> {
        let looked_up = Cell::new(0);
        let mut composition = Composition::new(|id: SubchunkId| {
            looked_up.set(looked_up.get() + 1);
            Ok((id.0 <= 10_000).then(|| Arc::new(run((id.0 - 1) / 10))))
        });
        composition.add(0, &Recipe::new(pieces).unwrap(), range).map_err(|error| error.to_string())?;
        Ok((composition.by_superchunk().flatten().cloned().collect(), looked_up.get()))
    }

    #[test]
    fn pieces_of_one_run_are_looked_up_once_in_whatever_order() {
        let pieces = (0..300).map(|n| piece(1 + n * 7 % 60, (n % 50) as u32, 50)).collect();
        let (extracts, looked_up) = extracts(pieces, 0..15_000).unwrap();
        assert_eq!((extracts.len(), looked_up), (300, 6));
        for (n, extract) in (0..300).map(|n| (n, extracts.iter().find(|e| e.target.start == 50 * n).unwrap())) {
            let id = 1 + n * 7 % 60;
            let start = 1000 + (id - 1) % 10 * 100 + n % 50;
            assert_eq!((extract.superchunk.0 as usize, extract.start), ((id - 1) / 10 + 1, start));
            assert_eq!(extract.target, 50 * n..50 * (n + 1));
        }
        assert!(extracts.is_sorted_by_key(|extract| (extract.superchunk, extract.start)));
    }

    #[test]
    fn pieces_of_more_runs_than_are_kept_come_out_right() {
        let many = 3 * RUNS as u64;
        let pieces = (0..many * 3).map(|n| piece(10 * (n % many) + 1, 5, 10)).collect();
        let (extracts, looked_up) = extracts(pieces, 0..30 * many as u32).unwrap();
        assert!(looked_up > many as usize);
        assert!(extracts.iter().all(|extract| extract.start == 1005));
        let superchunks = extracts.chunk_by(|a, b| a.superchunk == b.superchunk);
        assert!(superchunks.map(|group| (group[0].superchunk.0, group.len())).eq((1..=many).map(|n| (n, 3))));
    }

    #[test]
    fn only_pieces_of_the_range_are_looked_up() {
        let pieces = || vec![piece(20_000, 0, 10), piece(1, 90, 10), piece(2, 0, 100), piece(20_000, 0, 10)];
        let (extracts, looked_up) = extracts(pieces(), 15..120).unwrap();
        assert_eq!(looked_up, 1);
        let found: Vec<_> = extracts.iter().map(|extract| (extract.start, extract.target.clone())).collect();
        assert_eq!(found, [(1095, 0..5), (1100, 5..105)]);
        assert!(super::tests::extracts(pieces(), 15..121).unwrap_err().contains("does not have"));
        assert!(super::tests::extracts(vec![piece(1, 90, 11)], 0..1).unwrap_err().contains("beyond the end"));
    }
}
