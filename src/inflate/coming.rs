//! Finds what a stretch of subchunks needs: superchunks, parts, and the sources that recipes name, in the order of their
//! first use.
//!
//! A superchunk of recipes stands for several times its length, and its sources can be anywhere before it, so the next
//! superchunk alone is not what a reader needs next. Everything here is in the map, except for part tables. Bounded:
//! bytes of file data, pieces of recipes, and sources of one superchunk (by `max_sources`, as in `working_set`). Stops
//! at whatever cannot be looked up: a reader that comes to it reports the error. Called by `ahead`.

use super::cache::Cache;
use super::load::{self, Key, Unit};
use super::{InflateError, error};
use crate::format::block::{Key as RowKey, KeyRef};
use crate::format::codec::PartTable;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::recipe::Recipe;
use crate::format::rows::SubchunkRun;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS};
use crate::format::schema;
use crate::meta::{Composition, MetaError, View};
use lru::DefaultHasher;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of file data of a stretch, in superchunks: the reader gets one of them while the other is inflated.
const DISTANCE: u64 = 2;
/// Most pieces of recipes, and most subchunks, that one stretch looks at. Looking at all of them takes a few
/// milliseconds.
const WORK: usize = 1 << 16;
/// Most superchunks whose places are kept.
const PLACES: usize = 64;

/// Why no more of a stretch is looked at.
enum Stop {
    /// The receiver of the units has enough.
    Enough,
    /// Something cannot be looked up. The reader finds out why.
    Unknown,
}

impl From<InflateError> for Stop {
    fn from(_: InflateError) -> Self {
        Stop::Unknown
    }
}

impl From<MetaError> for Stop {
    fn from(_: MetaError) -> Self {
        Stop::Unknown
    }
}

/// Passes each unit that the subchunks `ids` need to `want`, once and in the order of first use, with the first subchunk
/// that needs it, until `want` returns false or the bounds of one stretch are reached. Returns the first id that was not
/// looked at, or whose units `want` did not all take.
pub(super) fn coming(
    cache: &Cache,
    view: &View,
    ids: Range<SubchunkId>,
    want: &mut dyn FnMut(&Unit, SubchunkId) -> bool,
) -> SubchunkId {
    let composition = Composition::new(|id| view.run(id));
    let mut stretch = Coming {
        cache,
        view,
        composition,
        recipes: Vec::new(),
        places: Vec::new(),
        named: HashSet::default(),
        sources: (SuperchunkId(0), Vec::new()),
        at: ids.start,
        work: WORK,
        bytes: DISTANCE.saturating_mul(view.params().superchunk_size.into()),
        want,
    };
    match stretch.walk(ids.end) {
        Ok(()) | Err(Stop::Enough) => stretch.at,
        // Looking at the same again would not help.
        Err(Stop::Unknown) => ids.end,
    }
}

struct Coming<'a, L> {
    cache: &'a Cache,
    view: &'a View,
    composition: Composition<L>,
    /// Recipes of the row of the map that was used last, by the ids of their subchunks.
    recipes: Vec<(SubchunkId, Recipe)>,
    /// Places of superchunks that were looked up, and their part tables.
    places: Vec<(SuperchunkId, Place, Option<Arc<PartTable>>)>,
    /// Units that were passed on.
    named: HashSet<Key, DefaultHasher>,
    /// A superchunk, and the others that its recipes name.
    sources: (SuperchunkId, Vec<SuperchunkId>),
    /// The subchunk that is looked at.
    at: SubchunkId,
    /// Number of pieces and subchunks that may still be looked at.
    work: usize,
    /// Bytes of file data that may still be looked at.
    bytes: u64,
    want: &'a mut dyn FnMut(&Unit, SubchunkId) -> bool,
}

impl<L: Fn(SubchunkId) -> Result<Option<SubchunkRun>, MetaError>> Coming<'_, L> {
    fn walk(&mut self, end: SubchunkId) -> Result<(), Stop> {
        while self.at < end {
            let Some(run) = self.view.run(self.at)? else {
                // Ids that were freed, or never used.
                let Some(next) = self.next_run()? else { return Ok(()) };
                self.at = next;
                continue;
            };
            if self.place(run.superchunk).is_err() {
                // Table blocks, between the data of two sessions.
                self.at = run.end();
                self.work = self.work.checked_sub(1).ok_or(Stop::Enough)?;
                continue;
            }
            while self.at < end && self.at < run.end() {
                if self.work == 0 || self.bytes == 0 {
                    return Err(Stop::Enough);
                }
                let len = self.subchunk(&run)?;
                self.work = self.work.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(len);
                self.at = SubchunkId(self.at.0.saturating_add(1));
            }
        }
        Ok(())
    }

    fn next_run(&self) -> Result<Option<SubchunkId>, MetaError> {
        let (from, end) = (KeyRef::new(SPACE_SUBCHUNKS, self.at.0), RowKey::new(SPACE_RECIPES, 0));
        let cursor = self.view.cursor_within(&schema::MAP, from, end)?;
        Ok(cursor.row().map(|row| SubchunkId(row.key().b)))
    }

    /// Passes on what the present subchunk needs, and returns its length in bytes.
    fn subchunk(&mut self, run: &SubchunkRun) -> Result<u64, Stop> {
        let located = run.locate(self.at).ok_or(Stop::Unknown)?;
        if !located.composed {
            let start = located.position as usize;
            self.range(located.superchunk, start..start + located.len as usize)?;
            return Ok(located.len.into());
        }
        let found = self.recipes.binary_search_by_key(&self.at, |(id, _)| *id);
        let found = match found {
            Ok(found) => found,
            Err(_) => {
                self.recipes = self.view.recipes(self.at)?.ok_or(Stop::Unknown)?;
                self.recipes.binary_search_by_key(&self.at, |(id, _)| *id).map_err(|_| Stop::Unknown)?
            }
        };
        let (_, recipe) = self.recipes.get(found).ok_or(Stop::Unknown)?;
        let len = recipe.subchunk_len();
        self.work = self.work.saturating_sub(recipe.pieces().len());
        if self.sources.0 != run.superchunk {
            self.sources = (run.superchunk, Vec::new());
        }
        for n in 0..recipe.pieces().len() {
            let Some(&piece) = self.recipes.get(found).and_then(|(_, recipe)| recipe.pieces().get(n)) else { break };
            let run = self.composition.run(piece.subchunk).map_err(error::compose(self.at))?.ok_or(Stop::Unknown)?;
            let superchunk = run.superchunk;
            // Most pieces are in superchunks that are named already.
            if self.named.contains(&(superchunk, None)) {
                continue;
            }
            let located = run.locate(piece.subchunk).ok_or(Stop::Unknown)?;
            let start = located.position as usize + piece.offset as usize;
            self.source(superchunk)?;
            self.range(superchunk, start..start + piece.len as usize)?;
        }
        Ok(len.into())
    }

    /// Counts a superchunk that a recipe names.
    fn source(&mut self, id: SuperchunkId) -> Result<(), Stop> {
        let (own, sources) = &mut self.sources;
        if id == *own || sources.contains(&id) {
            return Ok(());
        }
        if sources.len() >= usize::from(self.view.params().max_sources) {
            return Err(Stop::Unknown);
        }
        sources.push(id);
        Ok(())
    }

    /// Passes on the units of a range of a superchunk's raw bytes.
    fn range(&mut self, id: SuperchunkId, range: Range<usize>) -> Result<(), Stop> {
        if range.is_empty() || self.named.contains(&(id, None)) {
            return Ok(());
        }
        let (place, table) = self.place(id)?;
        let Some(table) = table else {
            return self.unit(Unit { id, place, part: None });
        };
        let size = table.part_size as usize;
        for index in range.start / size..range.end.div_ceil(size) {
            let part = table.parts.get(index).ok_or(Stop::Unknown)?;
            self.unit(Unit { id, place, part: Some((index as u32, *part)) })?;
        }
        Ok(())
    }

    fn unit(&mut self, unit: Unit) -> Result<(), Stop> {
        if self.named.contains(&unit.key()) {
            return Ok(());
        }
        if !(self.want)(&unit, self.at) {
            return Err(Stop::Enough);
        }
        self.named.insert(unit.key());
        Ok(())
    }

    /// Returns where a superchunk is, and its part table if it has parts and their table is not damaged.
    fn place(&mut self, id: SuperchunkId) -> Result<(Place, Option<Arc<PartTable>>), InflateError> {
        if let Some((_, place, table)) = self.places.iter().rev().find(|(known, _, _)| *known == id) {
            return Ok((*place, table.clone()));
        }
        let place = load::row(self.view, id, self.at)?.place;
        let table = if place.flags.parts() {
            self.cache.part_tables().get(self.cache.image(), self.at, id, &place)?
        } else {
            None
        };
        if self.places.len() >= PLACES {
            self.places.remove(0);
        }
        self.places.push((id, place, table.clone()));
        Ok((place, table))
    }
}
