//! Finds what a stretch of subchunks needs: superchunks, parts, and the sources that recipes name, in the order of their
//! first use.
//!
//! A superchunk of recipes stands for several times its length, and its sources can be anywhere before it, so the next
//! superchunk alone is not what a reader needs next. Everything here is in the map, except for part tables. Bounded:
//! bytes of file data, pieces of recipes, and sources of one superchunk (by `max_sources`, as in `working_set`). Stops
//! at whatever cannot be looked up: a reader that comes to it reports the error. Called by `ahead`.

use super::cache::Cache;
use super::load::{self, Unit};
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
        last: 0,
        sources: 0,
        home: SuperchunkId(0),
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

/// A superchunk of the stretch.
struct Known {
    id: SuperchunkId,
    place: Place,
    /// Its part table, if it has parts and their table is not damaged.
    table: Option<Arc<PartTable>>,
    /// Which of its parts were passed on; one value if it is a whole.
    named: Vec<bool>,
    /// The superchunk for which it was last counted as a source.
    counted: SuperchunkId,
}

struct Coming<'a, L> {
    cache: &'a Cache,
    view: &'a View,
    composition: Composition<L>,
    /// Recipes of the row of the map that was used last, by the ids of their subchunks.
    recipes: Vec<(SubchunkId, Recipe)>,
    /// Superchunks that were looked up.
    places: Vec<Known>,
    /// Index of the superchunk that was used last.
    last: usize,
    /// The superchunk whose recipes are looked at, and the number of other superchunks that they name.
    home: SuperchunkId,
    sources: usize,
    /// The subchunk that is looked at.
    at: SubchunkId,
    /// Number of pieces and subchunks that may still be looked at.
    work: usize,
    /// Bytes of file data that may still be looked at.
    bytes: u64,
    want: &'a mut dyn FnMut(&Unit, SubchunkId) -> bool,
}

impl<L: Fn(SubchunkId) -> Result<Option<Arc<SubchunkRun>>, MetaError>> Coming<'_, L> {
    fn walk(&mut self, end: SubchunkId) -> Result<(), Stop> {
        while self.at < end {
            let Some(run) = self.view.run(self.at)? else {
                // Ids that were freed, or never used.
                let Some(next) = self.next_run()? else { return Ok(()) };
                self.at = next;
                continue;
            };
            if self.home != run.superchunk {
                (self.home, self.sources) = (run.superchunk, 0);
            }
            if self.known(run.superchunk).is_err() {
                // Table blocks, between the data of two sessions.
                self.at = run.end();
                self.work = self.work.checked_sub(1).ok_or(Stop::Enough)?;
                continue;
            }
            while self.at < end && run.has(self.at) {
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
        let at = self.at;
        let find = |recipes: &[(SubchunkId, Recipe)]| recipes.binary_search_by_key(&at, |(id, _)| *id);
        if find(&self.recipes).is_err() {
            self.recipes = self.view.recipes(at)?.ok_or(Stop::Unknown)?;
        }
        let recipes = std::mem::take(&mut self.recipes);
        let (_, recipe) = find(&recipes).ok().and_then(|found| recipes.get(found)).ok_or(Stop::Unknown)?;
        self.work = self.work.saturating_sub(recipe.pieces().len());
        for piece in recipe.pieces() {
            let run = self.composition.run(piece.subchunk).map_err(error::compose(at))?.ok_or(Stop::Unknown)?;
            let located = run.locate(piece.subchunk).ok_or(Stop::Unknown)?;
            let start = located.position as usize + piece.offset as usize;
            self.range(located.superchunk, start..start + piece.len as usize)?;
        }
        let len = recipe.subchunk_len();
        self.recipes = recipes;
        Ok(len.into())
    }

    /// Passes on the units of a range of a superchunk's raw bytes.
    fn range(&mut self, id: SuperchunkId, range: Range<usize>) -> Result<(), Stop> {
        if range.is_empty() {
            return Ok(());
        }
        let known = self.known(id)?;
        let (id, place) = (known.id, known.place);
        let Some(table) = &known.table else {
            return self.unit(0, Unit { id, place, part: None });
        };
        let size = table.part_size as usize;
        for index in range.start / size..range.end.div_ceil(size) {
            let Some(known) = self.places.get(self.last) else { return Ok(()) };
            if known.named.get(index).is_some_and(|named| *named) {
                continue;
            }
            let part = known.table.as_ref().and_then(|table| table.parts.get(index)).ok_or(Stop::Unknown)?;
            let part = Some((index as u32, *part));
            self.unit(index, Unit { id, place, part })?;
        }
        Ok(())
    }

    /// Passes on a unit of the superchunk that was used last, unless it was passed on before.
    fn unit(&mut self, index: usize, unit: Unit) -> Result<(), Stop> {
        let Some(named) = self.places.get_mut(self.last).and_then(|known| known.named.get_mut(index)) else {
            return Err(Stop::Unknown);
        };
        if *named {
            return Ok(());
        }
        if !(self.want)(&unit, self.at) {
            return Err(Stop::Enough);
        }
        *named = true;
        Ok(())
    }

    /// Returns what is known of a superchunk, and counts it as a source if it is one.
    fn known(&mut self, id: SuperchunkId) -> Result<&Known, InflateError> {
        let is_last = self.places.get(self.last).is_some_and(|known| known.id == id);
        if !is_last {
            self.last = match self.places.iter().position(|known| known.id == id) {
                Some(at) => at,
                None => self.look_up(id)?,
            };
        }
        let gone = InflateError::Inconsistent { id: self.at, why: "its recipe needs too many superchunks" };
        let Some(known) = self.places.get_mut(self.last) else { return Err(gone) };
        if id != self.home && known.counted != self.home {
            if self.sources >= usize::from(self.view.params().max_sources) {
                return Err(gone);
            }
            self.sources += 1;
            known.counted = self.home;
        }
        Ok(known)
    }

    /// Looks a superchunk up, and returns its index.
    fn look_up(&mut self, id: SuperchunkId) -> Result<usize, InflateError> {
        let place = load::row(self.view, id, self.at)?.place;
        let table = if place.flags.parts() {
            self.cache.part_tables().get(self.cache.image(), self.at, id, &place)?
        } else {
            None
        };
        if self.places.len() >= PLACES {
            // What was passed on of it may be passed on again.
            self.places.remove(0);
        }
        let named = vec![false; table.as_ref().map_or(1, |table| table.parts.len())];
        self.places.push(Known { id, place, table, named, counted: SuperchunkId(0) });
        Ok(self.places.len().saturating_sub(1))
    }
}
