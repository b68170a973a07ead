//! Composed subchunks and damaged copies, read through a working set: each source is inflated once, and every copy is
//! tried.

#[path = "common/forge.rs"]
mod forge;

use floe::care::{self, CheckOptions, CheckReport, Severity};
use floe::format::ids::{SubchunkId, SuperchunkId};
use floe::format::recipe::{Piece, Recipe};
use floe::format::rows::ContentRef;
use floe::inflate::WorkingSet;
use floe::meta::{Image, ImageOptions, View};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use forge::{Forge, SecondCopy, noise, piece};
use std::sync::Arc;

struct Silent;

impl care::CheckObserver for Silent {}

fn check(storage: &Arc<MemoryStorage>) -> CheckReport {
    care::check(storage.clone(), &CheckOptions::default(), &Silent).unwrap()
}

fn open(storage: &Arc<MemoryStorage>) -> Arc<Image> {
    Arc::new(Image::open(storage.clone() as Arc<dyn Storage>, ImageOptions { block_cache: 1 << 20 }).unwrap())
}

/// So small that it holds one superchunk at a time.
fn working_set(storage: &Arc<MemoryStorage>) -> (WorkingSet, View) {
    let image = open(storage);
    (WorkingSet::new(image.clone(), 1, 0), View::of(image))
}

fn read((set, view): &(WorkingSet, View), id: u64, skip: u32, len: usize) -> Result<Vec<u8>, String> {
    let mut out = vec![0; len];
    set.read_subchunk(view, SubchunkId(id), skip, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

/// Sources of 100,000 bytes, each in a superchunk, then one subchunk composed of these pieces.
fn composed(sources: u64, pieces: Vec<Piece>) -> (Forge, Vec<u8>) {
    let mut forge = Forge::new();
    let stored: Vec<Vec<u8>> = (1..=sources).map(|n| noise(n as u8, 100_000)).collect();
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| &stored[piece.subchunk.0 as usize - 1][piece.offset as usize..][..piece.len as usize])
        .copied()
        .collect();
    forge.superchunks = stored.into_iter().map(|bytes| vec![(bytes, None)]).collect();
    forge.superchunks.push(vec![(Vec::new(), Some((Recipe::new(pieces).unwrap(), bytes.clone())))]);
    forge.file(1, "composed", 2, bytes.len() as u64, ContentRef::Subchunk(SubchunkId(sources + 1)));
    (forge, bytes)
}

#[test]
fn each_source_of_a_composed_subchunk_is_inflated_once_whatever_the_order_of_its_pieces() {
    let pieces = (0..1000).map(|n| piece(1 + n % 3, (n * 90) as u32, 60)).collect();
    let (forge, bytes) = composed(3, pieces);
    let set = working_set(&forge.build());
    assert!(read(&set, 4, 0, bytes.len()).unwrap() == bytes);
    assert_eq!(set.0.counters().inflations, 3);
}

#[test]
fn of_a_composed_subchunk_only_the_sources_of_the_range_are_inflated() {
    let (forge, bytes) = composed(3, (1..=3).map(|n| piece(n, 17, 50_000)).collect());
    let set = working_set(&forge.build());
    for (skip, len, inflations) in [(60_000, 4096, 1), (0, 1, 2), (99_999, 1, 3), (99_999, 2, 4), (149_999, 1, 4)] {
        assert_eq!(read(&set, 4, skip, len).unwrap(), bytes[skip as usize..skip as usize + len]);
        assert_eq!(set.0.counters().inflations, inflations, "{skip}, {len}");
    }
    for (skip, len) in [(149_999, 2), (150_000, 1), (u32::MAX, 1)] {
        assert!(read(&set, 4, skip, len).is_err());
    }
}

//= format-spec.md#5.2
//= type=test
//# A reader must refuse a range of a composed subchunk whose pieces lie in more than `max_sources` other superchunks.
#[test]
fn a_recipe_that_needs_more_superchunks_than_the_image_allows_is_not_followed() {
    let (mut forge, bytes) = composed(9, (1..=9).map(|n| piece(n, 0, 100)).collect());
    let set = working_set(&forge.build());
    let error = read(&set, 10, 0, 900).unwrap_err();
    assert!(error.contains("more superchunks than the image allows"), "{error}");
    assert_eq!(set.0.counters().inflations, 0);
    forge.max_sources = 9;
    assert_eq!(read(&working_set(&forge.build()), 10, 0, 900).unwrap(), bytes);
}

#[test]
fn a_superchunk_longer_than_the_image_allows_is_refused() {
    let mut forge = Forge::new();
    forge.superchunks = vec![(0..5).map(|n| (noise(n, 1 << 20), None)).collect()];
    forge.file(1, "file", 2, 1 << 20, ContentRef::Subchunk(SubchunkId(1)));
    let storage = forge.build();
    let error = read(&working_set(&storage), 1, 0, 100).unwrap_err();
    assert!(error.contains("superchunk 1"), "{error}");
    assert!(check(&storage).findings.iter().any(|finding| finding.message.contains("the limit is 4194304")));
}

/// Two subchunks in a superchunk, and a third composed of halves of both.
fn with_second_copy(second_copy: SecondCopy) -> (Forge, [Vec<u8>; 3]) {
    let mut forge = Forge::new();
    forge.second_copy = second_copy;
    let (one, two) = (noise(1, 1000), noise(2, 1000));
    let composed = [&one[..500], &two[..500]].concat();
    let recipe = Recipe::new(vec![piece(1, 0, 500), piece(2, 0, 500)]).unwrap();
    forge.superchunks =
        vec![vec![(one.clone(), None), (two.clone(), None)], vec![(Vec::new(), Some((recipe, composed.clone())))]];
    for (id, name) in [(1, "one"), (2, "two"), (3, "composed")] {
        forge.file(1, name, 10 + id, 1000, ContentRef::Subchunk(SubchunkId(id)));
    }
    (forge, [one, two, composed])
}

/// Damages byte `at` of the first superchunk's raw bytes, in its first or second frame.
fn damage(storage: &Arc<MemoryStorage>, second: bool, at: u64) {
    let place = open(storage).superchunk(SuperchunkId(1)).unwrap().unwrap().place;
    let offset = if second { place.copy.unwrap() } else { place.offset };
    storage.flip(place.stored_at(offset) + at, 1).unwrap();
}

//= format-spec.md#13
//= type=test
//# A reader must return no byte of a superchunk whose checksum is wrong unless the subchunk or table block that the
//# byte belongs to has the right hash.
#[test]
fn what_one_damaged_copy_has_lost_is_read_from_the_other() {
    let (forge, bytes) = with_second_copy(SecondCopy::Written);
    let storage = forge.build();
    damage(&storage, false, 1700);
    damage(&storage, true, 100);
    damage(&storage, true, 1800);
    let set = working_set(&storage);
    assert!(read(&set, 1, 10, 900).unwrap() == bytes[0][10..910]);
    assert!(read(&set, 2, 0, 1000).unwrap_err().contains("damaged"));
    let report = check(&storage);
    let named: Vec<_> = report.findings.iter().flat_map(|finding| &finding.paths).collect();
    assert_eq!(named, [b"two"], "{:#?}", report.findings);
    // The second copy is used for the bytes that the first lost, and only for those.
    let storage = forge.build();
    damage(&storage, false, 700);
    damage(&storage, false, 1700);
    damage(&storage, true, 200);
    let set = working_set(&storage);
    assert!(read(&set, 1, 0, 1000).is_err());
    assert!(read(&set, 2, 0, 1000).unwrap() == bytes[1]);
    assert!(read(&set, 3, 0, 1000).unwrap() == bytes[2]);
    let storage = forge.build();
    damage(&storage, false, 100);
    damage(&storage, true, 1700);
    let set = working_set(&storage);
    for id in 1..=3 {
        assert!(read(&set, id, 0, 1000).unwrap() == bytes[id as usize - 1], "subchunk {id}");
    }
    let report = check(&storage);
    assert!(report.findings.iter().all(|finding| finding.severity == Severity::Recoverable), "{:#?}", report.findings);
}

#[test]
fn a_copy_that_cannot_be_read_does_not_hide_a_damaged_one() {
    let (forge, bytes) = with_second_copy(SecondCopy::Unreadable);
    let storage = forge.build();
    damage(&storage, false, 1700);
    let set = working_set(&storage);
    assert!(read(&set, 1, 0, 1000).unwrap() == bytes[0]);
    assert!(read(&set, 2, 0, 1000).unwrap_err().contains("damaged"));
}
