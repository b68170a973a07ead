//! Batches: deduplication, filling of superchunks, the result, and how it is added to an image.

#[path = "common/freezing.rs"]
mod freezing;

use floe::format::clear::ClearList;
use floe::format::codec::{Compression, Decoder};
use floe::format::frame::FrameKind;
use floe::format::ids::{SubchunkId, SuperchunkId};
use floe::format::limits;
use floe::format::params::{Chunker, HashKind, Params};
use floe::format::rows::{Identity, SuperchunkRow, identity};
use floe::freeze::{Batch, BatchError, BatchOptions, Known, Last, Packed, Piece};
use floe::log::LogWriter;
use floe::storage::testing::MemoryStorage;
use freezing::{Image, noise, options, small};
use std::cell::Cell;
use std::sync::Arc;

const LIMIT: u64 = 1 << 20;

fn packed(options: BatchOptions, subchunks: &[Vec<u8>], keep_last: bool) -> Packed {
    let image = Image::new(options.params);
    let mut batch = Batch::new(options, &image).unwrap();
    for bytes in subchunks {
        batch.add(bytes).unwrap();
    }
    batch.finish(if keep_last { Last::Keep } else { Last::Drop }).unwrap()
}

/// Different subchunks of 500 bytes.
fn subchunks(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|n| noise(500, n)).collect()
}

#[test]
fn equal_subchunks_are_one_within_a_batch_and_with_what_the_image_has() {
    for hash in [HashKind::Blake3, HashKind::Xxh3] {
        let params = Params { hash, ..small() };
        let mut image = Image::new(params);
        let mut batch = Batch::new(options(params, LIMIT), &image).unwrap();
        let subchunks = subchunks(100);
        // More than one superchunk: the first ones are compressed when their duplicates come.
        let first: Vec<_> = subchunks.iter().map(|bytes| batch.add(bytes).unwrap()).collect();
        assert_eq!(first, (0..100).map(Piece::New).collect::<Vec<_>>());
        let again: Vec<_> = subchunks.iter().rev().map(|bytes| batch.add(bytes).unwrap()).collect();
        assert_eq!(again, (0..100).rev().map(Piece::New).collect::<Vec<_>>());
        assert_eq!((batch.new_bytes(), batch.shared_bytes()), (50_000, 50_000));
        let packed = batch.finish(Last::Keep).unwrap();
        assert_eq!((packed.subchunks(), packed.raw_bytes()), (100, 50_000));
        image.append(&packed);
        let mut batch = Batch::new(options(params, LIMIT), &image).unwrap();
        assert_eq!(batch.add(&subchunks[7]).unwrap(), Piece::Known(SubchunkId(8)));
        assert_eq!(batch.add(&noise(500, 1000)).unwrap(), Piece::New(0));
        assert_eq!(batch.finish(Last::Keep).unwrap().subchunks(), 1);
    }
}

#[test]
fn superchunks_are_full_but_the_last_which_a_batch_in_the_background_drops() {
    let params = small();
    // 16 fit, and no further subchunk.
    let all = packed(options(params, LIMIT), &subchunks(40), true);
    let shape = |packed: &Packed| -> Vec<_> {
        packed.superchunks.iter().map(|s| (s.first, s.subchunks.len(), s.raw_len, s.short)).collect()
    };
    let full = [(0, 16, 8000, false), (16, 16, 8000, false)];
    assert_eq!(shape(&all)[..2], full);
    assert_eq!(shape(&all)[2..], [(32, 8, 4000, true)]);
    let full_only = packed(options(params, LIMIT), &subchunks(40), false);
    assert_eq!(shape(&full_only), full);
    assert_eq!(full_only.superchunks[..], all.superchunks[..2]);
    assert_eq!(full_only.subchunks(), 32);
    assert!(full_only.has(Piece::New(31)) && !full_only.has(Piece::New(32)));
    assert_eq!(full_only.id(Piece::New(31), SubchunkId(100)), Some(SubchunkId(131)));
    assert_eq!(full_only.id(Piece::New(32), SubchunkId(100)), None);
    // A superchunk that is already full stays.
    assert_eq!(shape(&packed(options(params, LIMIT), &subchunks(32), false)), full);
    assert!(packed(options(params, LIMIT), &[], true).is_empty());
    assert!(packed(options(params, LIMIT), &subchunks(3), false).is_empty());
}

#[test]
fn what_comes_out_does_not_depend_on_the_number_of_threads() {
    let subchunks: Vec<_> = (0..600).map(|n| noise(100 + n as usize % 900, n % 400)).collect();
    let with = |compressors| packed(BatchOptions { compressors, ..options(small(), LIMIT) }, &subchunks, true);
    let one = with(1);
    assert!(one.superchunks.len() > 15);
    for compressors in [0, 2, 5] {
        assert_eq!(with(compressors), one, "{compressors} threads");
    }
}

#[test]
fn a_batch_is_full_when_it_has_its_limit_of_new_bytes_or_many_times_that_of_others() {
    let mut image = Image::new(small());
    let packed = packed(options(small(), LIMIT), &subchunks(10), true);
    image.append(&packed);
    let mut batch = Batch::new(options(small(), 1000), &image).unwrap();
    assert!(!batch.is_full());
    batch.add(&noise(500, 100)).unwrap();
    assert!(!batch.is_full());
    batch.add(&noise(500, 101)).unwrap();
    assert!(batch.is_full());
    let mut batch = Batch::new(options(small(), 1000), &image).unwrap();
    let mut shared = 0;
    while !batch.is_full() {
        batch.add(&noise(500, 3)).unwrap();
        shared += 1;
    }
    assert_eq!(shared, 32);
}

/// Subchunks that resemble earlier ones.
fn similar(count: u64) -> Vec<Vec<u8>> {
    let base = noise(20_000, 1);
    let subchunk = |n: u64| {
        [&base[n as usize * 331 % 19_000..][..700], &noise(60, n), &base[n as usize * 97 % 19_000..][..200]].concat()
    };
    (0..count).map(subchunk).collect()
}

#[test]
fn what_resembles_the_batch_or_the_image_is_composed_whatever_the_number_of_threads() {
    let params = Params { min_match: 64, superchunk_size: 16 << 10, ..small() };
    let mut image = Image::new(params);
    let subchunks = similar(300);
    let batch_of = |image: &Image, compressors, subchunks: &[Vec<u8>]| {
        let mut batch = Batch::new(BatchOptions { compressors, ..options(params, LIMIT) }, image).unwrap();
        let pieces: Vec<_> = subchunks.iter().map(|bytes| batch.add(bytes).unwrap()).collect();
        assert_eq!(pieces, (0..subchunks.len() as u64).map(Piece::New).collect::<Vec<_>>());
        assert_eq!(batch.new_bytes(), 960 * subchunks.len() as u64);
        batch.finish(Last::Keep).unwrap()
    };
    let first = batch_of(&image, 1, &subchunks[..200]);
    assert_eq!(batch_of(&image, 3, &subchunks[..200]), first);
    assert!(first.has_recipes() && first.raw_bytes() < 60_000, "{}", first.raw_bytes());
    image.append(&first);
    // Of the second batch, only what is in no subchunk of the first one is stored.
    let second = batch_of(&image, 2, &subchunks[200..]);
    assert!(second.has_recipes() && second.raw_bytes() < 20_000, "{}", second.raw_bytes());
    image.append(&second);
    assert!(image.composed > 250 && image.subchunks == subchunks, "{}", image.composed);
}

#[test]
fn a_batch_of_which_recipes_leave_little_is_full_after_some_times_its_limit_and_has_a_superchunk() {
    let params = Params { min_match: 64, ..small() };
    let mut image = Image::new(params);
    image.append(&packed(options(params, LIMIT), &[noise(1000, 1), noise(1000, 2)], true));
    let limit = 4 * 8192;
    let of = |count: u64, last| {
        let mut batch = Batch::new(options(params, limit), &image).unwrap();
        for n in 0..count {
            if batch.is_full() {
                break;
            }
            let noise = noise(1000, 1 + n % 2);
            batch.add(&[&noise[..999 - n as usize / 4], &n.to_le_bytes()[..2]].concat()).unwrap();
        }
        (batch.is_full(), batch.new_bytes(), batch.finish(last).unwrap())
    };
    let (is_full, new, full) = of(1000, Last::Drop);
    assert!(is_full && (4 * limit..5 * limit).contains(&new), "{new}");
    assert!(full.superchunks.len() == 1 && full.superchunks[0].short, "{}", full.raw_bytes());
    // One that is not full is left for a later batch, unless space is needed.
    assert!(of(30, Last::Drop).2.is_empty() && of(5, Last::KeepIfAlone).2.is_empty());
    assert_eq!(of(30, Last::KeepIfAlone).2.superchunks.len(), 1);
    assert_eq!(of(5, Last::Keep).2.superchunks.len(), 1);
}

struct Failing {
    fails: Cell<bool>,
}

impl Known for Failing {
    type Error = &'static str;

    fn find(&self, _: &Identity, _: &[u8]) -> Result<Option<SubchunkId>, &'static str> {
        if self.fails.get() { Err("the table cannot be read") } else { Ok(None) }
    }
}

#[test]
fn a_subchunk_that_cannot_be_looked_up_is_not_taken_and_the_batch_goes_on() {
    let known = Failing { fails: Cell::new(false) };
    let mut batch = Batch::new(options(small(), LIMIT), &known).unwrap();
    batch.add(&noise(500, 0)).unwrap();
    known.fails.set(true);
    assert!(matches!(batch.add(&noise(500, 1)), Err(BatchError::Known("the table cannot be read"))));
    assert_eq!(batch.add(&noise(500, 0)).unwrap(), Piece::New(0));
    known.fails.set(false);
    assert_eq!(batch.add(&noise(500, 1)).unwrap(), Piece::New(1));
    assert_eq!(batch.finish(Last::Keep).unwrap().subchunks(), 2);
}

#[test]
fn a_level_that_does_not_exist_is_an_error_and_not_an_empty_superchunk() {
    let image = Image::new(small());
    let wrong = BatchOptions { compression: Compression::Zstd(99), ..options(small(), LIMIT) };
    let mut batch = Batch::new(wrong, &image).unwrap();
    batch.add(&noise(500, 0)).unwrap();
    assert!(matches!(batch.finish(Last::Keep), Err(BatchError::Compress(_))));
}

#[test]
fn packed_superchunks_can_be_appended_and_read_back_by_their_rows() {
    let params = Params { hash: HashKind::Xxh3, part_size: Some(4096), ..small() };
    let subchunks: Vec<_> =
        (0..300u64).map(|n| [n.to_le_bytes(), [7; 8]].concat().repeat(20 + n as usize % 30)).collect();
    let packed = packed(options(params, LIMIT), &subchunks, true);
    let (first, first_superchunk) = (SubchunkId(1000), 50);
    let begin = limits::LOG_START;
    let storage = Arc::new(MemoryStorage::from_bytes(vec![0; begin as usize]));
    let mut log = LogWriter::new(storage, 7, 1, 1, begin).unwrap();
    let mut places = Vec::new();
    for (superchunk, id) in packed.superchunks.iter().zip(first_superchunk..) {
        let before = log.end();
        let clear = superchunk.clear_list(first, SuperchunkId(id)).encode();
        places.push((SuperchunkId(id), log.append(superchunk.frame(&clear)).unwrap()));
        assert!(log.end() - before <= superchunk.frame_len());
    }
    assert!(log.end() - begin <= packed.frames_len());
    let rows = packed.map_rows(first, &places);
    let reader = log.reader().unwrap();
    let mut read = Vec::new();
    let mut ids = Vec::new();
    for (row, (id, place)) in rows.iter().zip(&places) {
        assert_eq!((row.key.a, row.key.b), (0, id.0));
        let found = SuperchunkRow::decode(&row.ints, &row.tail).unwrap();
        assert_eq!((found.kind, &found.place), (FrameKind::SUPERCHUNK, place));
        let (mut stored, mut raw) = (Vec::new(), Vec::new());
        reader.stored(place, &mut stored).unwrap();
        Decoder::new().decode(place.codec, place.flags, &stored, place.raw_len, None, &mut raw).unwrap();
        let superchunk = &packed.superchunks[(id.0 - first_superchunk) as usize];
        assert_eq!(place.flags.short(), superchunk.short);
        let clear = superchunk.clear_list(first, *id);
        assert_eq!(ClearList::decode(&clear.encode(), place.raw_len).unwrap(), clear);
        let mut rest = &raw[..];
        for listed in &clear.subchunks {
            let (bytes, after) = rest.split_at(listed.len as usize);
            read.push(bytes.to_vec());
            ids.push(listed.id.0);
            rest = after;
        }
    }
    assert_eq!(read, subchunks);
    assert_eq!(ids, (1000..1300).collect::<Vec<_>>());
    // Every subchunk's identity is found by its id.
    let rows = packed.identity_rows(first);
    let mut at = 1000;
    for row in &rows {
        assert_eq!(row.key.a, at);
        for n in 0..row.ints[0] {
            let found = identity::decode_one(params.hash, &row.ints, &row.tail, n).unwrap().unwrap();
            assert_eq!(found, Identity::of(params.hash, &subchunks[(at - 1000) as usize]));
            at += 1;
        }
    }
    assert_eq!(at, 1300);
}

#[test]
fn a_subchunk_that_is_longer_than_the_chunkers_longest_ends_a_superchunk_that_says_it_is_short() {
    let params = Params { chunker: Chunker::Fixed(256), superchunk_size: 8192, ..Params::default() };
    let packed = packed(options(params, LIMIT), &[noise(7000, 1), noise(2000, 2)], true);
    let shorts: Vec<_> = packed.superchunks.iter().map(|superchunk| superchunk.short).collect();
    assert_eq!(shorts, [true, true]);
}
