//! An image that is taken apart and reassembled has the same content; if it is changed on the way, it verifies and is
//! wrong.

mod common;
#[path = "common/forge.rs"]
mod forge;
#[path = "common/reforge.rs"]
mod reforge;

use floe::care::{CheckOptions, CheckReport, check};
use floe::format::block::{KeyRef, Row};
use floe::format::clear::ClearList;
use floe::format::head::RawHeadSlot;
use floe::format::ids::SubchunkId;
use floe::format::limits;
use floe::format::rows::map::{SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use floe::format::rows::{ContentRef, SubchunkRun, SuperchunkRow};
use floe::format::schema::{self, Table};
use floe::meta::{Image, ImageOptions};
use floe::storage::Storage;
use floe::storage::testing::MemoryStorage;
use reforge::{AsItIs, Pieces, Tweak};
use std::sync::Arc;

fn checked(bytes: &[u8]) -> CheckReport {
    let storage = Arc::new(MemoryStorage::from_bytes(bytes.to_vec())) as Arc<dyn Storage>;
    check(storage, &CheckOptions::default(), &()).expect("it can be opened")
}

#[test]
fn pieces_put_together_give_an_image_without_findings() {
    let lab = common::Lab::new();
    let source = lab.small_nasty_tree();
    for (i, options) in ["-C none", "-C zstd:3 --part-size 8K", "-C xz:1 --hash xxh3"].iter().enumerate() {
        let options: Vec<_> = options.split(' ').collect();
        let image = std::fs::read(lab.pack(&options, &source, &format!("{i}.floe"))).unwrap();
        let again = Pieces::of(&image).write(&mut AsItIs);
        assert_eq!(checked(&again).findings, [], "{options:?}");
        assert_eq!(digest(&image), digest(&again));
    }
    let forged = forge::with_recipe().build().to_bytes();
    assert_eq!(checked(&Pieces::of(&forged).write(&mut AsItIs)).findings, []);
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let storage = Arc::new(MemoryStorage::from_bytes(bytes.to_vec())) as Arc<dyn Storage>;
    let image = Image::open(storage, ImageOptions::default()).expect("it can be opened");
    let fs = floe::fs::Fs::new(Arc::new(image), floe::fs::FsOptions::default());
    floe::fs::digest(&fs, floe::format::ids::InodeId::ROOT).expect("all of it can be read")
}

struct Sizes;

impl Tweak for Sizes {
    fn rows(&mut self, table: &'static Table, rows: &mut Vec<Row>) {
        if table.id() == schema::INODES.id() {
            rows.iter_mut().for_each(|row| row.ints[4] += 1);
        }
    }
}

#[test]
fn a_changed_row_verifies_and_is_found() {
    let forged = forge::with_recipe().build().to_bytes();
    let report = checked(&Pieces::of(&forged).write(&mut Sizes));
    assert!(
        report.findings.iter().any(|f| f.message.contains("it has 5001 bytes, but its subchunk 1 has 5000")),
        "{report:#?}"
    );
    assert!(
        !report.findings.iter().any(|f| f.message.contains("checksum") || f.message.contains("hash")),
        "{report:#?}"
    );
}

struct EarlierEpoch;

impl Tweak for EarlierEpoch {
    fn head(&mut self, _: usize, head: &mut [u8]) {
        let epoch = reforge::field(RawHeadSlot::FIELDS, "epoch");
        head[epoch.offset..epoch.offset + epoch.size].fill(0);
    }
}

//= format-spec.md#2.1
//= type=test
//# the writer's session; never above the head's `epoch`
#[test]
fn a_frame_of_an_epoch_above_that_of_the_head_is_found() {
    let forged = forge::with_recipe().build().to_bytes();
    let report = checked(&Pieces::of(&forged).write(&mut EarlierEpoch));
    assert!(report.findings.iter().any(|f| f.message == "the frame is of epoch 1, the head's is 0"), "{report:#?}");
}

/// Rows of one space of the map, by id.
fn of_space(image: &Image, space: u64) -> Vec<Row> {
    let mut cursor = image.tree(&schema::MAP).cursor_at(image, KeyRef::new(space, 0)).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = cursor.row().filter(|row| row.key().a == space) {
        rows.push(row.to_row());
        cursor.advance(image).unwrap();
    }
    rows
}

//= format-spec.md#5
//= type=test
//# Ids of subchunks and superchunks are ≥ 1 and < 2^62; both ascend, and are never used twice; a superchunk written
//# a second time (3.1, copy) keeps its id.
#[test]
fn ids_ascend_with_the_log_and_a_copy_keeps_the_id_of_its_superchunk() {
    let mut forge = forge::with_recipe();
    for n in 0..500 {
        forge.file(1, &format!("{n}"), 100 + n, 0, ContentRef::None);
    }
    let image = Image::open(forge.build() as Arc<dyn Storage>, ImageOptions::default()).unwrap();
    let (mut end, mut copies) = (0, 0);
    for row in of_space(&image, SPACE_SUPERCHUNKS) {
        let place = SuperchunkRow::decode(&row.ints, &row.tail).unwrap().place;
        assert!(place.offset.0 >= end, "superchunk {} lies before the one with the id below", row.key.b);
        end = place.offset.0 + place.frame_len();
        for offset in place.offsets() {
            let header = image.log().header(offset).unwrap();
            let clear = image.log().clear_part(&header).unwrap();
            assert_eq!(ClearList::decode(&clear, place.raw_len).unwrap().superchunk.0, row.key.b);
            copies += u64::from(offset != place.offset);
        }
        assert!((1..image.root().next_superchunk.min(limits::ID)).contains(&row.key.b));
    }
    assert!(copies > 0, "no group of interior blocks was written twice");
    let mut next = 1;
    for row in of_space(&image, SPACE_SUBCHUNKS) {
        let run = SubchunkRun::decode(SubchunkId(row.key.b), &row.ints, &row.tail).unwrap();
        assert!(run.first.0 >= next, "subchunk {} is named twice", run.first);
        next = run.first.0 + run.lens.len() as u64;
    }
    assert!(next <= image.root().next_subchunk && next < limits::ID);
}
