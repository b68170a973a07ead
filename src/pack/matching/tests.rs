//! Superchunks are filled with data that repeats itself; then every subchunk is made again from what is stored.

use super::*;
use crate::format::clear::ClearList;
use crate::pack::held::{mixed, mixed_below};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

const SIZE: u32 = 1 << 20;

fn params() -> Params {
    Params { superchunk_size: SIZE, min_match: 256, max_sources: 3, ..Params::default() }
}

/// Bytes in no order.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|n| (mixed(seed, n) >> 24) as u8).collect()
}

/// What was stored so far, and how often each superchunk was asked for.
#[derive(Default)]
struct Packed {
    superchunks: Vec<(ClearList, Arc<Vec<u8>>)>,
    recipes: HashMap<SubchunkId, Recipe>,
    raw_lens: Vec<(usize, bool)>,
    asked: usize,
}

impl Sources for Packed {
    type Error = FormatError;

    fn source(&mut self, id: SuperchunkId) -> Result<Option<Source>, FormatError> {
        self.asked += 1;
        let (list, raw) = &self.superchunks[id.0 as usize - 1];
        Ok(Some(Source::new(list, raw.clone())))
    }
}

impl Packed {
    fn of(params: Params, subchunks: &[Vec<u8>]) -> (Self, u64) {
        let mut packed = Packed::default();
        let mut matching = Matching::new(params, SuperchunkId(1));
        for (id, bytes) in (1..).zip(subchunks) {
            matching.make_room(bytes.len()).into_iter().for_each(|superchunk| packed.add(superchunk));
            matching.push(SubchunkId(id), bytes, None);
            while let Some(superchunk) = matching.advance(&mut packed).unwrap() {
                packed.add(superchunk);
            }
        }
        while let Some(superchunk) = matching.finish(&mut packed).unwrap() {
            packed.add(superchunk);
        }
        (packed, matching.matched())
    }

    fn add(&mut self, superchunk: Superchunk) {
        let id = SuperchunkId(self.superchunks.len() as u64 + 1);
        let Superchunk { raw, subchunks, recipes, short, .. } = superchunk;
        self.raw_lens.push((raw.len(), short));
        self.recipes.extend(recipes);
        self.superchunks.push((ClearList { superchunk: id, subchunks }, Arc::new(raw)));
    }

    /// Returns the stored part of each subchunk, and its superchunk.
    fn stored(&self) -> HashMap<SubchunkId, (SuperchunkId, &[u8])> {
        let mut stored = HashMap::new();
        for (list, raw) in &self.superchunks {
            let mut rest = raw.as_slice();
            for listed in &list.subchunks {
                let (part, after) = rest.split_at(listed.len as usize);
                rest = after;
                stored.insert(listed.id, (list.superchunk, part));
            }
            assert!(rest.is_empty());
        }
        stored
    }

    /// Checks that the superchunks hold these subchunks, and keep to the limits.
    fn check(&self, params: &Params, subchunks: &[Vec<u8>]) {
        let stored = self.stored();
        assert_eq!(stored.len(), subchunks.len());
        for (list, _) in &self.superchunks {
            let mut sources = std::collections::BTreeSet::new();
            for listed in &list.subchunks {
                let bytes = &subchunks[listed.id.0 as usize - 1];
                let recipe = self.recipes.get(&listed.id);
                assert_eq!(recipe.is_some(), listed.composed);
                let Some(recipe) = recipe else {
                    assert!(stored[&listed.id].1 == bytes);
                    continue;
                };
                let mut made = Vec::new();
                for piece in recipe.pieces() {
                    let (superchunk, part) = stored[&piece.subchunk];
                    assert!(superchunk <= list.superchunk);
                    sources.extend(Some(superchunk).filter(|&id| id != list.superchunk));
                    made.extend_from_slice(&part[piece.offset as usize..][..piece.len as usize]);
                }
                assert!(made == *bytes, "subchunk {}", listed.id);
            }
            assert!(sources.len() <= usize::from(params.max_sources));
        }
        let (last, others) = self.raw_lens.split_last().unwrap();
        for (len, short) in others {
            assert!(!short && params.is_full(*len as u32), "{len}");
        }
        assert_eq!(last.1, !params.is_full(last.0 as u32));
    }
}

#[test]
fn what_changed_a_little_is_stored_once() {
    // Ten versions of 900 KB, each with one byte changed in every 20,000.
    let mut base = noise(900_000, 1);
    let mut subchunks = Vec::new();
    for version in 0..10 {
        for at in (version * 317..base.len()).step_by(20_000) {
            base[at] ^= 1;
        }
        subchunks.extend(base.chunks(30_000).map(<[u8]>::to_vec));
    }
    let (packed, matched) = Packed::of(params(), &subchunks);
    packed.check(&params(), &subchunks);
    let raw: usize = packed.raw_lens.iter().map(|(len, _)| len).sum();
    assert_eq!(raw as u64 + matched, 9_000_000);
    assert!(raw < 1_100_000, "{raw}");
}

#[test]
fn sources_are_few_and_each_promises_something() {
    // Eight superchunks of noise, then data that takes 100 KB from each, and 5 KB from each again.
    let old: Vec<Vec<u8>> = (0..8 * 32).map(|n| noise(32_768, n)).collect();
    let part = |n: usize, len| old[n * 32 + 3][..len].to_vec();
    let much = (0..8).map(|n| [part(n, 30_000), noise(10_000, 1000 + n as u64)].concat());
    let all: Vec<Vec<u8>> = old.iter().cloned().chain(much).collect();
    let (packed, matched) = Packed::of(params(), &all);
    packed.check(&params(), &all);
    // Three of the eight are chosen.
    assert_eq!((packed.asked, matched / 1000), (3, 90));
    let little = (0..8).map(|n| [part(n, 5_000), noise(10_000, 1000 + n as u64)].concat());
    let all: Vec<Vec<u8>> = old.iter().cloned().chain(little).collect();
    let (packed, matched) = Packed::of(params(), &all);
    packed.check(&params(), &all);
    assert_eq!((packed.asked, matched), (0, 0));
}

#[test]
fn without_recipes_subchunks_are_stored_as_they_are() {
    let subchunks = vec![noise(100_000, 1); 30];
    let params = Params { min_match: 0, ..params() };
    let (packed, matched) = Packed::of(params, &subchunks);
    packed.check(&params, &subchunks);
    assert_eq!((matched, packed.recipes.len(), packed.superchunks.len()), (0, 0, 3));
}

#[test]
fn a_recipe_has_no_more_pieces_than_it_may() {
    // Each match touches many tiny stored parts: subchunks of 760 bytes in which all but 60 are known.
    let base = noise(400_000, 1);
    let mut subchunks = vec![base.clone()];
    for n in 0..20_000 {
        subchunks.push([noise(60, 1 << 32 | n), base[n as usize * 19..][..700].to_vec()].concat());
    }
    let stored: Vec<u8> = (0..20_000).flat_map(|n| noise(60, 1 << 32 | n)).collect();
    subchunks.push(stored[..300_000].to_vec());
    let params = Params { superchunk_size: 4 << 20, ..params() };
    let (packed, _) = Packed::of(params, &subchunks);
    packed.check(&params, &subchunks);
    let most = packed.recipes.values().map(|recipe| recipe.pieces().len()).max().unwrap();
    assert!(most > 1000 && most <= limits::RECIPE_PIECES as usize, "{most}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_subchunk_can_be_made_again_from_what_is_stored(seed: u64, min_match in 64u32..2000, max_sources in 0u8..9) {
        let params = Params { min_match, max_sources, ..params() };
        // Subchunks of ranges of earlier ones, noise, and runs.
        let mut subchunks: Vec<Vec<u8>> = Vec::new();
        let mut draw = 0;
        let mut random = |below: usize| {
            draw += 1;
            mixed_below(seed, draw, below as u64) as usize
        };
        for n in 0..250 {
            let mut bytes = Vec::new();
            for _ in 0..1 + random(8) {
                match random(4) {
                    0 => bytes.extend(noise(random(20_000), seed ^ n)),
                    1 => bytes.extend(vec![random(256) as u8; random(5_000)]),
                    _ => if let Some(old) = subchunks.len().checked_sub(1).map(|_| &subchunks[random(subchunks.len())]) {
                        let begin = random(old.len());
                        bytes.extend(&old[begin..begin + random(old.len() - begin + 1)]);
                    },
                }
            }
            bytes.truncate(128 << 10);
            bytes.push(n as u8);
            subchunks.push(bytes);
        }
        let (packed, _) = Packed::of(params, &subchunks);
        packed.check(&params, &subchunks);
    }
}
