//! Puts composed subchunks together, to verify them.
//!
//! All recipes of a superchunk are handled together, source after source, so each source is inflated once for many
//! pieces. Memory: one batch of subchunks and one source. Time: at most `max_sources` inflations a batch.

use super::known::Map;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::recipe::Recipe;
use crate::meta::{Buffers, ByteLru, Composition, Image};
use std::collections::HashSet;
use std::sync::Arc;

/// Number of bytes of composed subchunks that are put together at once.
const BATCH: usize = 16 << 20;

/// Reads superchunks that recipes refer to. Several threads use it at once.
pub(super) struct Sources<'a> {
    image: &'a Image,
    map: &'a Map,
    /// Cache of inflated superchunks, keyed by superchunk and version (the number of the damaged copy).
    inflated: ByteLru<(SuperchunkId, usize), Arc<Source>>,
}

#[derive(Default)]
struct Source {
    /// Raw bytes of the superchunk; empty if no copy is readable.
    raw: Vec<u8>,
    /// Whether the superchunk has another damaged copy, which may give different bytes.
    has_others: bool,
}

/// Inflates the superchunk at `place` as readers do. If all copies are damaged, it takes the one numbered `version`.
fn inflate(image: &Image, place: &Place, version: usize, stored: &mut Vec<u8>) -> Source {
    let (mut raw, mut left) = (Vec::new(), version);
    let reading = image.read_superchunk(place, Buffers { stored, raw: &mut raw }, &mut |_, intact| {
        let accepted = intact || left == 0;
        left = left.saturating_sub(1);
        accepted
    });
    match reading.accepted {
        Some((_, intact)) => Source { raw, has_others: !intact && reading.damaged() > 1 },
        None => Source::default(),
    }
}

/// Input and findings for the recipes of one superchunk.
struct Job<'j> {
    superchunk: SuperchunkId,
    /// Raw bytes of the superchunk.
    raw: &'j [u8],
    /// Number of the damaged copy that is used of each superchunk to which recipes refer.
    version: usize,
    stored: &'j mut Vec<u8>,
    /// Other superchunks that the superchunk's recipes refer to.
    sources: HashSet<SuperchunkId>,
    /// Whether one of `sources` has another damaged copy.
    has_others: bool,
    is_right: &'j mut dyn FnMut(SubchunkId, Option<&[u8]>) -> bool,
}

impl<'a> Sources<'a> {
    /// Makes a cache of at most `bytes` bytes of inflated superchunks.
    pub(super) fn new(image: &'a Image, map: &'a Map, bytes: usize) -> Self {
        Sources { image, map, inflated: ByteLru::new(bytes, 1) }
    }

    fn inflated(&self, id: SuperchunkId, version: usize, stored: &mut Vec<u8>) -> Arc<Source> {
        if let Some(known) = self.inflated.get(&(id, version)) {
            return known;
        }
        let place = self.map.get(id).map(|known| &known.row.place);
        let source = Arc::new(place.map_or_else(Source::default, |place| inflate(self.image, place, version, stored)));
        self.inflated.insert((id, version), source.clone(), source.raw.capacity());
        source
    }

    /// Puts the composed subchunks of `superchunk`, whose raw bytes are `raw`, together and calls `is_right` for each,
    /// without bytes if a source is missing. Returns the subchunks that are not right.
    pub(super) fn compose(
        &self,
        (superchunk, raw): (SuperchunkId, &[u8]),
        recipes: &[(SubchunkId, Recipe)],
        stored: &mut Vec<u8>,
        is_right: &mut dyn FnMut(SubchunkId, Option<&[u8]>) -> bool,
    ) -> Vec<SubchunkId> {
        let sources = HashSet::new();
        let mut job = Job { superchunk, raw, version: 0, stored, sources, has_others: false, is_right };
        let mut wrong = self.batches(&mut job, &recipes.iter().collect::<Vec<_>>());
        if job.has_others && !wrong.is_empty() {
            // The other damaged copy may have what this one lost.
            job.version = 1;
            wrong = self.batches(&mut job, &wrong);
        }
        wrong.into_iter().map(|(id, _)| *id).collect()
    }

    fn batches<'r>(&self, job: &mut Job<'_>, recipes: &[&'r (SubchunkId, Recipe)]) -> Vec<&'r (SubchunkId, Recipe)> {
        let mut wrong = Vec::new();
        let mut rest = recipes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let many = rest
                .iter()
                .take_while(|(_, recipe)| {
                    let first = bytes == 0;
                    bytes += recipe.subchunk_len() as usize;
                    first || bytes <= BATCH
                })
                .count();
            let (batch, after) = rest.split_at(many);
            rest = after;
            let outputs = self.batch(job, batch);
            let is_wrong = batch.iter().zip(&outputs).filter(|(one, bytes)| !(job.is_right)(one.0, bytes.as_deref()));
            wrong.extend(is_wrong.map(|(one, _)| *one));
        }
        wrong
    }

    /// Returns the bytes of each composed subchunk in `batch`; `None` for a subchunk with a missing source.
    fn batch(&self, job: &mut Job<'_>, batch: &[&(SubchunkId, Recipe)]) -> Vec<Option<Vec<u8>>> {
        let limit = usize::from(self.image.params().max_sources);
        let mut composition = Composition::new(|id| self.image.run(id));
        let mut outputs: Vec<Option<Vec<u8>>> = Vec::with_capacity(batch.len());
        for (n, (_, recipe)) in batch.iter().enumerate() {
            let added = composition.add(n, recipe, 0..recipe.subchunk_len());
            outputs.push(added.is_ok().then(|| vec![0; recipe.subchunk_len() as usize]));
        }
        for group in composition.by_superchunk() {
            let Some(id) = group.first().map(|extract| extract.superchunk) else { continue };
            let own = id == job.superchunk;
            if !own {
                job.sources.insert(id);
            }
            let source = if own || job.sources.len() > limit {
                Arc::default()
            } else {
                self.inflated(id, job.version, job.stored)
            };
            job.has_others |= source.has_others;
            let raw = if own { job.raw } else { source.raw.as_slice() };
            for extract in group {
                let Some(output) = outputs.get_mut(extract.output) else { continue };
                if output.as_deref_mut().is_some_and(|out| !extract.copy(raw, out)) {
                    *output = None;
                }
            }
        }
        outputs
    }
}
