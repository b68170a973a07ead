//! An image taken to pieces and put together again says what it said before; changed on the way, it verifies and is wrong.

mod common;
#[path = "common/forge.rs"]
mod forge;
#[path = "common/reforge.rs"]
mod reforge;

use floe::care::{CheckOptions, CheckReport, check};
use floe::format::block::Row;
use floe::format::schema::{self, Table};
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
    let image = floe::meta::Image::open(storage, floe::meta::ImageOptions::default()).expect("it can be opened");
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
        report.findings.iter().any(|f| f.message.contains("it has 5001 bytes, its subchunk 1 5000")),
        "{report:#?}"
    );
    assert!(
        !report.findings.iter().any(|f| f.message.contains("checksum") || f.message.contains("hash")),
        "{report:#?}"
    );
}
