//! Compares the clear lists with the map.
//!
//! The scan passes on each clear list. Its entries that the map confirms are remembered as a set of ids; then one walk
//! of the map finds its entries that no clear list confirms. A superchunk may hold subchunks that the map places
//! elsewhere (they were moved, or are dead), so the other direction is not a finding. Only the map has recipes: a
//! composed subchunk without one is lost.

use super::Check;
use super::known::Map;
use super::ranges::{FindingId, RangeSet};
use super::report::{CheckError, Finding, FindingKind, Findings, Severity};
use super::rows::each_row;
use super::trees::Trees;
use crate::format::block::KeyRef;
use crate::format::clear::{ClearList, Listed};
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::{Recipe, RecipeRow};
use crate::format::rows::SubchunkRun;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS};
use crate::format::{limits, schema, sums};
use std::collections::{HashMap, HashSet};

/// Most subchunks remembered for superchunks with damaged clear lists. The data of further ones is not examined.
const MAX_FROM_MAP: usize = 1 << 20;

/// Least number of superchunks, and of others that their recipes refer to, that are counted for limits; each takes
/// about 100 bytes of memory.
const MIN_SOURCES: u64 = 1 << 20;

/// A stored part and its position in the superchunk's raw bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) id: SubchunkId,
    pub(super) position: u32,
    pub(super) len: u32,
    pub(super) composed: bool,
}

/// Contents of all clear lists, and which of them are damaged.
#[derive(Debug, Default)]
pub(super) struct Clear {
    /// Subchunks whose clear list agrees with the map.
    matched: RangeSet,
    /// Checksum of the clear list of each superchunk that has two frames.
    sums: HashMap<SuperchunkId, u64>,
    /// Superchunks whose clear lists cannot be read.
    pub(super) damaged: HashSet<SuperchunkId>,
    /// Superchunks with no frame at all.
    pub(super) unreachable: HashSet<SuperchunkId>,
    /// Composed subchunks, according to map and clear lists.
    composed: RangeSet,
    /// Composed subchunks whose recipe cannot be found; this was already reported.
    pub(super) without_recipe: RangeSet,
    /// Subchunks of superchunks with damaged clear lists, according to the map.
    from_map: HashMap<SuperchunkId, Vec<Part>>,
    wrong: Vec<(u64, SuperchunkId, String)>,
}

/// Iterates over the entries of a clear list with their positions.
pub(super) fn parts(list: &ClearList) -> impl Iterator<Item = Part> + '_ {
    list.subchunks.iter().scan(0u32, |position, &Listed { id, len, composed }| {
        let part = Part { id, position: *position, len, composed };
        *position = position.saturating_add(len);
        Some(part)
    })
}

impl Clear {
    /// Adds the clear list of a live superchunk.
    pub(super) fn add(
        &mut self,
        check: &Check<'_>,
        trees: &Trees,
        map: &Map,
        owner: SuperchunkId,
        header: &FrameHeader,
        list: &ClearList,
    ) {
        if let Some(known) = map.get(owner)
            && known.row.place.copy.is_some()
        {
            let sum = sums::xxh3(&list.encode());
            match self.sums.insert(owner, sum) {
                None => {}
                Some(first) if first == sum => return,
                Some(_) => self.note(header, owner, "its two clear lists differ".to_owned()),
            }
        }
        for part in parts(list) {
            let id = part.id;
            if trees.subchunks.contains(id.0) {
                self.matched.insert(id.0..id.0 + 1);
                if part.composed {
                    self.composed.insert(id.0..id.0 + 1);
                }
                continue;
            }
            let Ok(Some(located)) = check.image.locate(id) else { continue };
            let here = (located.superchunk, located.position, located.len) == (owner, part.position, part.len);
            if !here {
                continue;
            }
            self.matched.insert(id.0..id.0 + 1);
            if located.composed != part.composed {
                self.note(header, owner, format!("map and clear list disagree about subchunk {id} being composed"));
            }
        }
    }

    fn note(&mut self, header: &FrameHeader, owner: SuperchunkId, why: String) {
        if self.wrong.len() < super::MAX_FINDINGS {
            self.wrong.push((header.offset.0, owner, why));
        }
    }

    pub(super) fn settle(&mut self) {
        self.matched.settle();
    }

    /// Returns the subchunks, according to the map, of a superchunk whose clear list is damaged.
    pub(super) fn of_damaged(&self, id: SuperchunkId) -> &[Part] {
        self.from_map.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// Walks the map's rows of subchunks and recipes, and checks that their subchunks have identities.
pub(super) fn compare_with_map(
    check: &Check<'_>,
    map: &Map,
    clear: &mut Clear,
    trees: &Trees,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    for (offset, owner, why) in std::mem::take(&mut clear.wrong) {
        let message = format!("superchunk {owner}: {why}");
        let finding = Finding::new(FindingKind::Map, Severity::Recoverable, message);
        findings.add(finding.at(offset).in_superchunk(owner.0));
    }
    let identities = identities(check, findings);
    let mut walk = Walk {
        check,
        map,
        clear,
        trees,
        findings,
        identities,
        end: 0,
        recipe_end: 0,
        with_recipe: RangeSet::default(),
        recipes: Recipes::new((check.options.memory / 128).max(MIN_SOURCES) as usize),
        remembered: 0,
        unreachable: HashMap::new(),
    };
    each_row(check.image, &schema::MAP, SPACE_SUBCHUNKS, &mut |key, ints, tail| {
        match key.a {
            SPACE_SUBCHUNKS => walk.run(key.b, ints, tail),
            SPACE_RECIPES => walk.recipes(key.b, ints, tail),
            space => walk.wrong(key.b..key.b.saturating_add(1), format!("there is no space {space}")),
        }
        !check.observer.cancelled()
    });
    check.cancelled()?;
    walk.without_recipe();
    if walk.recipes.left_out {
        let message = "recipes refer to too many superchunks: not all were counted, to limit memory".to_owned();
        findings.add(Finding::new(FindingKind::Map, Severity::Note, message).in_table(schema::MAP.name));
    }
    Ok(())
}

/// Totals over all recipes of a superchunk.
#[derive(Default)]
struct OfSuperchunk {
    /// Other superchunks that the recipes refer to; at most one more than the limit.
    sources: HashSet<SuperchunkId>,
    /// Total length of the composed subchunks in bytes.
    bytes: u64,
}

/// Totals over the recipes of each superchunk, for as many superchunks as `room` allows.
struct Recipes {
    all: HashMap<SuperchunkId, OfSuperchunk>,
    /// Number of superchunks and sources that may still be remembered.
    room: usize,
    left_out: bool,
}

impl Recipes {
    /// Makes room for about this many superchunks and sources.
    fn new(room: usize) -> Self {
        Recipes { all: HashMap::new(), room, left_out: false }
    }

    /// Adds a recipe of `owner` that makes `bytes` bytes and refers to `others`. Returns whether the recipes of `owner`
    /// now refer to more than `limit` superchunks for the first time, and whether its composed bytes now exceed their
    /// limit for the first time.
    fn add(
        &mut self,
        owner: SuperchunkId,
        mut others: impl Iterator<Item = SuperchunkId>,
        bytes: u64,
        limit: usize,
    ) -> (bool, bool) {
        if self.room == 0 {
            self.left_out = true;
            return (false, false);
        }
        let superchunks = self.all.len();
        let own = self.all.entry(owner).or_default();
        let sources = own.sources.len();
        while own.sources.len() <= limit
            && let Some(other) = others.next()
        {
            own.sources.insert(other);
        }
        let too_many = sources <= limit && own.sources.len() > limit;
        let before = own.bytes;
        own.bytes = before.saturating_add(bytes);
        let too_long = before <= limits::COMPOSED_BYTES && own.bytes > limits::COMPOSED_BYTES;
        let fresh = own.sources.len() - sources;
        self.room = self.room.saturating_sub(fresh + self.all.len() - superchunks);
        (too_many, too_long)
    }
}

struct Walk<'a> {
    check: &'a Check<'a>,
    map: &'a Map,
    clear: &'a mut Clear,
    trees: &'a Trees,
    findings: &'a mut Findings,
    identities: RangeSet,
    /// The id after the last subchunk that was seen.
    end: u64,
    /// The id after the last subchunk with a recipe that was seen.
    recipe_end: u64,
    with_recipe: RangeSet,
    recipes: Recipes,
    remembered: usize,
    unreachable: HashMap<SuperchunkId, FindingId>,
}

impl Walk<'_> {
    /// Reports an invalid row; its subchunks cannot be read.
    fn wrong(&mut self, ids: std::ops::Range<u64>, why: String) {
        let message = format!("the map's row of subchunk {} is wrong: {why}", ids.start);
        let finding = Finding::new(FindingKind::Map, Severity::Lost, message).of_subchunks(ids.start, ids.end - 1);
        let id = self.findings.add(finding.in_table(schema::MAP.name));
        self.findings.hits.subchunks.add(ids, id);
    }

    fn run(&mut self, first: u64, ints: &[u64], tail: &[u8]) {
        let run = match SubchunkRun::decode(SubchunkId(first), ints, tail) {
            Ok(run) => run,
            Err(error) => {
                let count = ints.get(3).copied().unwrap_or(1).clamp(1, limits::RUN);
                return self.wrong(first..first.saturating_add(count), error.to_string());
            }
        };
        let range = first..first + run.lens.len() as u64;
        if first < self.end {
            self.wrong(range.clone(), "it overlaps the row before".to_owned());
        }
        self.end = range.end;
        for (id, _) in range.clone().zip(&run.composed).filter(|(_, composed)| **composed) {
            self.clear.composed.insert(id..id + 1);
        }
        if range.end > self.check.image.root().next_subchunk {
            return self.wrong(range, "it is not below the next free id".to_owned());
        }
        if self.clear.unreachable.contains(&run.superchunk) {
            let findings = &mut *self.findings;
            let id = *self.unreachable.entry(run.superchunk).or_insert_with(|| {
                let message = format!("superchunk {} cannot be read: its frame does not exist", run.superchunk);
                findings.add(Finding::new(FindingKind::Data, Severity::Lost, message).in_superchunk(run.superchunk.0))
            });
            return findings.hits.subchunks.add(range, id);
        }
        let Some(known) = self.map.get(run.superchunk) else {
            return self.wrong(range, format!("there is no superchunk {}", run.superchunk));
        };
        let total: u64 = run.lens.iter().map(|&len| u64::from(len)).sum();
        if u64::from(run.position) + total > u64::from(known.row.place.raw_len) {
            return self.wrong(range, format!("it reaches past the end of superchunk {}", run.superchunk));
        }
        if self.clear.damaged.contains(&run.superchunk) && !self.clear.sums.contains_key(&run.superchunk) {
            self.remember(&run);
        } else {
            for missing in self.clear.matched.missing(range.clone()) {
                self.wrong(missing, format!("the clear list of superchunk {} does not say so", run.superchunk));
            }
        }
        let is_dictionary = run.superchunk.0 == self.check.image.params().dictionary;
        if known.row.kind == FrameKind::SUPERCHUNK && !is_dictionary {
            self.identity(range);
        }
    }

    fn remember(&mut self, run: &SubchunkRun) {
        let parts = self.clear.from_map.entry(run.superchunk).or_default();
        let mut position = run.position;
        for (n, &len) in run.lens.iter().enumerate() {
            if self.remembered >= MAX_FROM_MAP {
                return;
            }
            self.remembered += 1;
            let composed = run.composed.get(n).is_some_and(|&composed| composed);
            parts.push(Part { id: SubchunkId(run.first.0 + n as u64), position, len, composed });
            position += len;
        }
    }

    fn identity(&mut self, range: std::ops::Range<u64>) {
        for missing in self.identities.missing(range) {
            if self.trees.identities.touches(&missing) {
                continue;
            }
            let message = format!(
                "subchunks {} to {} have no identity: they can be read, but not be verified",
                missing.start,
                missing.end - 1
            );
            let finding = Finding::new(FindingKind::Table, Severity::Recoverable, message)
                .in_table(schema::IDENTITIES.name)
                .of_subchunks(missing.start, missing.end - 1);
            let id = self.findings.add(finding);
            self.findings.hits.subchunks.add(missing, id);
        }
    }

    fn recipes(&mut self, first: u64, ints: &[u64], tail: &[u8]) {
        let recipes = match RecipeRow::decode(SubchunkId(first), ints, tail) {
            Ok(recipes) => recipes,
            // The subchunks of the row are later found to have no recipe.
            Err(error) => return self.wrong(first..first.saturating_add(1), format!("its recipe: {error}")),
        };
        if first < self.recipe_end {
            self.wrong(first..first + 1, "its recipe overlaps the row before".to_owned());
        }
        let mut owner = None;
        for (id, recipe) in &recipes {
            let range = id.0..id.0 + 1;
            self.recipe_end = self.recipe_end.max(range.end);
            self.with_recipe.insert(range.clone());
            match self.check.image.locate(*id) {
                Ok(Some(located)) if located.composed => {
                    if *owner.get_or_insert(located.superchunk) != located.superchunk {
                        self.wrong(range, "its recipe is in a row of another superchunk".to_owned());
                    }
                    self.sources(located.superchunk, recipe);
                }
                _ if self.trees.subchunks.contains(id.0) => {}
                _ => self.wrong(range, "it has a recipe, but is not composed".to_owned()),
            }
        }
    }

    //= format-spec.md#5.2
    //# The recipes of one superchunk must not refer to more than `max_sources` other superchunks, and must not make
    //# more than 256 MiB.
    fn sources(&mut self, owner: SuperchunkId, recipe: &Recipe) {
        let limit = usize::from(self.check.image.params().max_sources);
        let image = self.check.image;
        let located = recipe.pieces().iter().filter_map(|piece| image.locate(piece.subchunk).ok().flatten());
        let others = located.map(|located| located.superchunk).filter(|other| *other != owner);
        let (too_many, too_long) = self.recipes.add(owner, others, recipe.subchunk_len().into(), limit);
        let mut wrong = Vec::new();
        if too_many {
            wrong.push(format!("its recipes refer to more than {limit} other superchunks"));
        }
        if too_long {
            wrong.push(format!("its composed subchunks have more than {} bytes", limits::COMPOSED_BYTES));
        }
        for why in wrong {
            let message = format!("superchunk {owner}: {why}");
            let finding = Finding::new(FindingKind::Map, Severity::Recoverable, message);
            self.findings.add(finding.in_superchunk(owner.0));
        }
    }

    /// Reports composed subchunks that have no recipe in the map.
    fn without_recipe(&mut self) {
        let mut composed = std::mem::take(&mut self.clear.composed);
        composed.settle();
        self.with_recipe.settle();
        for missing in composed.ranges().iter().flat_map(|range| self.with_recipe.missing(range.clone())) {
            let why = if self.trees.recipes.touches(&missing) {
                "their recipes were in a block of the map that is lost"
            } else {
                "the map has no recipe of them"
            };
            let message = format!("composed subchunks {} to {} cannot be read: {why}", missing.start, missing.end - 1);
            let finding = Finding::new(FindingKind::Map, Severity::Lost, message).in_table(schema::MAP.name);
            let id = self.findings.add(finding.of_subchunks(missing.start, missing.end - 1));
            self.findings.hits.subchunks.add(missing.clone(), id);
            self.clear.without_recipe.insert(missing);
        }
        self.clear.without_recipe.settle();
    }
}

/// Returns the ids of the subchunks that have an identity.
fn identities(check: &Check<'_>, findings: &mut Findings) -> RangeSet {
    let mut set = RangeSet::default();
    let width = check.image.params().hash.width();
    let mut end = 0;
    each_row(check.image, &schema::IDENTITIES, 0, &mut |key: KeyRef<'_>, ints, tail| {
        let count = ints.first().copied().unwrap_or(0);
        let fits = (1..=limits::IDENTITY_RUN).contains(&count) && tail.len() as u64 == count * width as u64;
        if !fits || key.a < end || key.a == 0 || key.a > limits::ID {
            let message = format!("the row of identities of subchunk {} and up is wrong", key.a);
            let finding = Finding::new(FindingKind::Table, Severity::Recoverable, message);
            let id = findings.add(finding.in_table(schema::IDENTITIES.name));
            findings.hits.subchunks.add(key.a..key.a.saturating_add(count.clamp(1, limits::IDENTITY_RUN)), id);
        } else {
            end = key.a + count;
            set.insert(key.a..end);
        }
        true
    });
    set.settle();
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_recipes_no_more_is_remembered_than_there_is_room_for() {
        let mut recipes = Recipes::new(1000);
        let others = |n: u64| (0..n).map(|other| SuperchunkId(1_000_000 + other));
        assert_eq!(recipes.add(SuperchunkId(1), others(8), 100, 8), (false, false));
        assert_eq!(recipes.add(SuperchunkId(1), others(9), 100, 8), (true, false), "one too many");
        assert_eq!(recipes.add(SuperchunkId(1), others(10), 100, 8), (false, false), "told already");
        assert_eq!(recipes.add(SuperchunkId(2), others(0), limits::COMPOSED_BYTES, 8), (false, false));
        assert_eq!(recipes.add(SuperchunkId(2), others(0), 1, 8), (false, true));
        assert!(!recipes.left_out);
        for owner in 3..2000 {
            recipes.add(SuperchunkId(owner), others(500), 1, 255);
        }
        let kept: usize = recipes.all.values().map(|own| 1 + own.sources.len()).sum();
        assert!(recipes.left_out && kept <= 1000 + 257, "{kept}");
    }
}
