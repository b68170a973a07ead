//! What clear lists say, against what the map says.
//!
//! As the scan hands over each clear list, what of it the map confirms is remembered as a set of ids; then one walk over
//! the map shows what of the map no clear list confirms. A superchunk may hold what the map says elsewhere (it was moved,
//! or is dead), so the other direction is no finding.

use super::Check;
use super::known::Map;
use super::ranges::{FindingId, RangeSet};
use super::report::{CheckError, Finding, FindingKind, Findings, Severity};
use super::rows::each_row;
use super::trees::Trees;
use crate::format::block::KeyRef;
use crate::format::clear::ClearList;
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::Recipe;
use crate::format::rows::SubchunkRun;
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS};
use crate::format::{limits, schema, sums};
use std::collections::{HashMap, HashSet};

/// Subchunks remembered of superchunks whose clear lists are damaged; beyond that their data is not looked into.
const MAX_FROM_MAP: usize = 1 << 20;

/// Where a stored part lies in its raw superchunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) id: SubchunkId,
    pub(super) position: u32,
    pub(super) len: u32,
}

/// What is known from clear lists, and of those that are damaged.
#[derive(Debug, Default)]
pub(super) struct Clear {
    /// Subchunks that lie where the map says.
    matched: RangeSet,
    /// Sum of the clear list of each superchunk with two frames.
    sums: HashMap<SuperchunkId, u64>,
    /// Superchunks whose clear lists cannot be read.
    pub(super) damaged: HashSet<SuperchunkId>,
    /// Superchunks with no frame at all.
    pub(super) unreachable: HashSet<SuperchunkId>,
    /// Subchunks of damaged ones, as the map has them.
    from_map: HashMap<SuperchunkId, Vec<Part>>,
    wrong: Vec<(u64, SuperchunkId, String)>,
}

/// Subchunks of a clear list with their positions.
pub(super) fn parts(list: &ClearList) -> impl Iterator<Item = Part> + '_ {
    list.subchunks.iter().scan(0u32, |position, &(id, len)| {
        let part = Part { id, position: *position, len };
        *position = position.saturating_add(len);
        Some(part)
    })
}

impl Clear {
    /// Takes the clear list of a superchunk that lives.
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
        let recipes: HashMap<SubchunkId, &Recipe> = list.recipes.iter().map(|(id, recipe)| (*id, recipe)).collect();
        if !recipes.is_empty() {
            self.check_sources(check, owner, header, list);
        }
        for part in parts(list) {
            let id = part.id;
            if trees.subchunks.contains(id.0) {
                self.matched.insert(id.0..id.0 + 1);
                continue;
            }
            let Ok(Some(located)) = check.image.locate(id) else { continue };
            let here = (located.superchunk, located.position, located.len) == (owner, part.position, part.len);
            if !here {
                continue;
            }
            self.matched.insert(id.0..id.0 + 1);
            let own = recipes.get(&id).copied();
            if located.composed != own.is_some() {
                self.note(header, owner, format!("map and clear list disagree about subchunk {id} having a recipe"));
            } else if let Some(own) = own
                && !trees.recipes.contains(id.0)
                && check.image.recipe(id).ok().flatten().as_ref() != Some(own)
            {
                self.note(header, owner, format!("map and clear list have different recipes of subchunk {id}"));
            }
        }
    }

    /// The other superchunks that all recipes of one refer to are limited: else reading one inflates them all.
    fn check_sources(&mut self, check: &Check<'_>, owner: SuperchunkId, header: &FrameHeader, list: &ClearList) {
        let limit = usize::from(check.image.params().max_sources);
        let mut sources = HashSet::new();
        for piece in list.recipes.iter().flat_map(|(_, recipe)| recipe.pieces()) {
            if let Ok(Some(located)) = check.image.locate(piece.subchunk)
                && located.superchunk != owner
            {
                sources.insert(located.superchunk);
                if sources.len() > limit {
                    self.note(header, owner, format!("its recipes refer to more than {limit} other superchunks"));
                    return;
                }
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

    /// Subchunks of a superchunk whose clear list is damaged.
    pub(super) fn of_damaged(&self, id: SuperchunkId) -> &[Part] {
        self.from_map.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// Goes over the map's rows of subchunks and recipes, and the identities of what they name.
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
    let mut walk =
        Walk { check, map, clear, trees, findings, identities, end: 0, remembered: 0, unreachable: HashMap::new() };
    each_row(check.image, &schema::MAP, SPACE_SUBCHUNKS, &mut |key, ints, tail| {
        match key.a {
            SPACE_SUBCHUNKS => walk.run(key.b, ints, tail),
            SPACE_RECIPES => walk.recipe(key.b, tail),
            space => walk.wrong(key.b..key.b.saturating_add(1), format!("there is no space {space}")),
        }
        !check.observer.cancelled()
    });
    check.cancelled()
}

struct Walk<'a> {
    check: &'a Check<'a>,
    map: &'a Map,
    clear: &'a mut Clear,
    trees: &'a Trees,
    findings: &'a mut Findings,
    identities: RangeSet,
    /// Behind the last subchunk seen.
    end: u64,
    remembered: usize,
    unreachable: HashMap<SuperchunkId, FindingId>,
}

impl Walk<'_> {
    /// A row that cannot be right; the subchunks it is about cannot be read.
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
        if range.end > self.check.image.root().next_subchunk {
            return self.wrong(range, "it is not below the next free id".to_owned());
        }
        if self.clear.unreachable.contains(&run.superchunk) {
            let findings = &mut *self.findings;
            let id = *self.unreachable.entry(run.superchunk).or_insert_with(|| {
                let message = format!("superchunk {} cannot be read: its frame is not there", run.superchunk);
                findings.add(Finding::new(FindingKind::Data, Severity::Lost, message).in_superchunk(run.superchunk.0))
            });
            return findings.hits.subchunks.add(range, id);
        }
        let Some(known) = self.map.get(run.superchunk) else {
            return self.wrong(range, format!("there is no superchunk {}", run.superchunk));
        };
        let total: u64 = run.lens.iter().map(|&len| u64::from(len)).sum();
        if u64::from(run.position) + total > u64::from(known.row.place.raw_len) {
            return self.wrong(range, format!("it does not lie within superchunk {}", run.superchunk));
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
            parts.push(Part { id: SubchunkId(run.first.0 + n as u64), position, len });
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

    fn recipe(&mut self, id: u64, tail: &[u8]) {
        let range = id..id.saturating_add(1);
        if let Err(error) = Recipe::decode(SubchunkId(id), tail) {
            return self.wrong(range, format!("its recipe: {error}"));
        }
        if self.trees.subchunks.contains(id) {
            return;
        }
        match self.check.image.locate(SubchunkId(id)) {
            Ok(Some(located)) if located.composed => {}
            _ => self.wrong(range, "it has a recipe, but is not composed".to_owned()),
        }
    }
}

/// Which subchunks have an identity.
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
