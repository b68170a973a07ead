//! Counts how much of each superchunk is live, from the marked subchunks and their recipes.
//!
//! A subchunk is kept if it is marked, or if the recipe of a kept subchunk uses its stored part. Its rows then stay,
//! and if it is composed, so do the sources of its own recipe. A superchunk is dead if none of its subchunks is kept;
//! the dictionary is never dead.
//!
//! Invariant: the map is read to its end, or there is an error. Subchunks that are kept but not in the map are counted:
//! if there are any, the image is damaged, and nothing may be freed. Called by `space` (info) and by gc.

use super::id_set::IdSet;
use super::mark::{MarkError, Marked};
use super::{MetaError, View};
use crate::format::block::KeyRef;
use crate::format::frame::FrameKind;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::{Recipe, RecipeRow};
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{SubchunkRun, SuperchunkRow};
use crate::format::schema;

/// Number of rows of the map that are read between two calls of `stop`, by which the caller can end the count.
const STEP: u64 = 4096;

/// The counts of one superchunk or table group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Id of the superchunk or table group.
    pub id: SuperchunkId,
    /// Row of the map that says where its frame is.
    pub row: SuperchunkRow,
    /// Number of subchunks in the superchunk.
    pub subchunks: u32,
    /// Number of the superchunk's subchunks that are kept.
    pub live: u32,
    /// Raw bytes of the kept subchunks.
    pub live_raw: u64,
}

impl Tally {
    /// Returns whether no subchunk of the superchunk is live.
    pub fn is_dead(&self) -> bool {
        self.live == 0
    }

    /// Returns whether all subchunks of the superchunk are live.
    pub fn is_whole(&self) -> bool {
        self.live == self.subchunks
    }

    /// Returns the bytes of the superchunk's frames in the image, a copy included.
    pub fn bytes(&self) -> u64 {
        self.row.place.frame_len().saturating_mul(1 + u64::from(self.row.place.copy.is_some()))
    }

    /// Returns the live part of [`Tally::bytes`]: all, none, or a share in proportion to the live raw bytes. The
    /// subchunks are compressed together, so they have no compressed bytes of their own.
    pub fn live_bytes(&self) -> u64 {
        if self.is_dead() || self.is_whole() {
            return if self.is_dead() { 0 } else { self.bytes() };
        }
        let raw = u128::from(self.row.place.raw_len).max(1);
        let share = u128::from(self.bytes()) * u128::from(self.live_raw).min(raw) / raw;
        // It is at most `bytes`, a u64.
        share as u64
    }
}

/// The counts of all superchunks in the map.
#[derive(Debug, Default)]
pub struct Census {
    marked: Marked,
    /// Subchunks that no file, table or snapshot names, but whose stored parts the recipes of kept subchunks use.
    sources: IdSet,
    /// The counts of the superchunks, in the order of their ids.
    pub superchunks: Vec<Tally>,
    /// Number of kept subchunks that the map does not have.
    pub unknown: u64,
}

impl Census {
    /// Returns whether the rows of a subchunk, of file data or a table block, must stay.
    pub fn keeps(&self, id: SubchunkId) -> bool {
        self.marked.contains(id) || self.sources.contains(id.0)
    }

    /// Returns the live bytes of the frames of one kind.
    pub fn live_bytes(&self, kind: FrameKind) -> u64 {
        let of_kind = self.superchunks.iter().filter(|tally| tally.row.kind == kind);
        of_kind.fold(0, |sum, tally| sum.saturating_add(tally.live_bytes()))
    }

    /// Iterates over the dead superchunks.
    pub fn dead(&self) -> impl Iterator<Item = &Tally> {
        self.superchunks.iter().filter(|tally| tally.is_dead())
    }

    /// Returns the counts of one superchunk, or `None` if the map does not have it.
    pub fn get(&self, id: SuperchunkId) -> Option<&Tally> {
        let at = self.superchunks.binary_search_by_key(&id, |tally| tally.id).ok()?;
        self.superchunks.get(at)
    }
}

/// Counts the live bytes of every superchunk, by the map of this view and the marked subchunks. `stop` is called
/// regularly.
///
/// # Errors
/// Fails if the map cannot be read, its rows contradict one another, or `stop` returned true.
pub fn tally(view: &View, marked: Marked, stop: &dyn Fn() -> bool) -> Result<Census, MarkError> {
    let census = Census { marked, ..Census::default() };
    let mut counting = Counting { census, open: Vec::new(), found: 0, end: 0 };
    // Recipes first: they keep stored parts that are not marked.
    counting.rows(view, SPACE_RECIPES, u64::MAX, stop)?;
    counting.sources_of_sources(view, stop)?;
    counting.rows(view, SPACE_SUPERCHUNKS, SPACE_RECIPES, stop)?;
    let Counting { mut census, found, .. } = counting;
    let dictionary = view.params().dictionary;
    for tally in census.superchunks.iter_mut().filter(|tally| tally.id.0 == dictionary) {
        tally.live = tally.subchunks.max(1);
        tally.live_raw = tally.row.place.raw_len.into();
    }
    let (data, blocks) = census.marked.counts();
    // A subchunk that is marked both as data and as a block is a contradiction, too: the sum is then above `found`.
    census.unknown = data.saturating_add(blocks).saturating_add(census.sources.len()).saturating_sub(found);
    Ok(census)
}

struct Counting {
    census: Census,
    /// Source subchunks whose own recipes are still to be read.
    open: Vec<SubchunkId>,
    /// Number of kept subchunks found in the map.
    found: u64,
    /// The id after the last subchunk read.
    end: u64,
}

fn contradiction(why: String) -> MarkError {
    MetaError::Contradiction { why }.into()
}

impl Counting {
    /// Reads the rows of the map whose space is at least `from` and below `to`.
    fn rows(&mut self, view: &View, from: u64, to: u64, stop: &dyn Fn() -> bool) -> Result<(), MarkError> {
        let mut cursor = view.cursor_at(&schema::MAP, KeyRef::new(from, 0))?;
        let mut rows = 0u64;
        while let Some(row) = cursor.row().filter(|row| row.key().a < to) {
            self.row(row.key(), row.ints(), row.tail())?;
            cursor.advance(view)?;
            rows += 1;
            if rows.is_multiple_of(STEP) && stop() {
                return Err(MarkError::Stopped);
            }
        }
        Ok(())
    }

    fn row(&mut self, key: KeyRef<'_>, ints: &[u64], tail: &[u8]) -> Result<(), MarkError> {
        match key.a {
            SPACE_SUPERCHUNKS => {
                let row = SuperchunkRow::decode(ints, tail)?;
                let id = SuperchunkId(key.b);
                self.census.superchunks.push(Tally { id, row, subchunks: 0, live: 0, live_raw: 0 });
            }
            SPACE_SUBCHUNKS => self.run(&SubchunkRun::decode(SubchunkId(key.b), ints, tail)?)?,
            SPACE_RECIPES => {
                for (id, recipe) in RecipeRow::decode(SubchunkId(key.b), ints, tail)? {
                    if self.census.marked.contains(id) {
                        self.uses(&recipe);
                    }
                }
            }
            space => return Err(contradiction(format!("there is no space {space}"))),
        }
        Ok(())
    }

    /// Keeps the subchunks that a recipe takes bytes from.
    fn uses(&mut self, recipe: &Recipe) {
        for piece in recipe.pieces().iter().filter(|piece| !self.census.marked.contains(piece.subchunk)) {
            if self.census.sources.insert(piece.subchunk.0) {
                self.open.push(piece.subchunk);
            }
        }
    }

    /// Keeps the recipes of composed source subchunks, and so the sources of these. Each recipe is read once.
    fn sources_of_sources(&mut self, view: &View, stop: &dyn Fn() -> bool) -> Result<(), MarkError> {
        while let Some(id) = self.open.pop() {
            if let Some(recipe) = view.recipe(id)? {
                self.uses(&recipe);
            }
            if stop() {
                return Err(MarkError::Stopped);
            }
        }
        Ok(())
    }

    fn run(&mut self, run: &SubchunkRun) -> Result<(), MarkError> {
        if run.first.0 < self.end {
            return Err(contradiction(format!("two rows have subchunk {}", run.first)));
        }
        self.end = run.first.0.saturating_add(run.lens.len() as u64);
        let Census { superchunks, marked, sources, .. } = &mut self.census;
        let at = superchunks.binary_search_by_key(&run.superchunk, |tally| tally.id);
        let Some(tally) = at.ok().and_then(|at| superchunks.get_mut(at)) else {
            return Err(contradiction(format!(
                "subchunk {} is in superchunk {}, which has no row",
                run.first, run.superchunk
            )));
        };
        for (id, &len) in (run.first.0..).zip(&run.lens) {
            tally.subchunks = tally.subchunks.saturating_add(1);
            if marked.contains(SubchunkId(id)) || sources.contains(id) {
                self.found += 1;
                tally.live = tally.live.saturating_add(1);
                tally.live_raw = tally.live_raw.saturating_add(len.into());
            }
        }
        Ok(())
    }
}
