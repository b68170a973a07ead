//! `floe info` says what matching saved and costs, and which superchunks are in parts.

mod common;
#[path = "common/forge.rs"]
mod forge;

use common::{Lab, floe, prose, write};
use floe::format::frame::FrameKind;
use floe::format::ids::LogOffset;
use floe::format::limits::LOG_START;
use floe::log::Scan;
use floe::meta::{Image, ImageOptions, Matched};
use floe::storage::{Access, FileStorage};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn info(image: &Path) -> Value {
    serde_json::from_slice(&floe!("info", "--json", image).exits(0).stdout).expect("one document")
}

#[test]
fn what_recipes_take_from_other_subchunks_is_counted_and_what_they_take_from_their_own_is_not() {
    let storage = forge::with_recipe().build();
    let matched = Image::open(storage.clone(), ImageOptions::default()).unwrap().matched().unwrap();
    let recipe_bytes = matched.recipe_bytes;
    // 2000 bytes of one source and 6000 of another, between 100 bytes of its own.
    assert_eq!(matched, Matched { composed: 1, pieces: 4, bytes: 8000, recipe_bytes, in_parts: 0 });
    let lab = Lab::new();
    let image = lab.image("forged.floe");
    fs::write(&image, storage.to_bytes()).expect("an image");
    let shown = info(&image);
    let expected = serde_json::json!({ "composed": 1, "pieces": 4, "matched": 8000, "recipes": recipe_bytes });
    assert_eq!(shown["matching"], expected);
    let other = shown["sizes"]["other_metadata"].as_u64().expect("a number");
    assert!((1..other).contains(&recipe_bytes), "{recipe_bytes} of {other}");
    assert_eq!((&shown["counts"]["superchunks_in_parts"], &shown["params"]["min_match"]), (&0.into(), &0.into()));
    let text = floe!("info", &image).exits(0).out();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.contains(&"matched          7.81 KiB in 1 composed subchunk"), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("    recipes      ")), "{text}");
    assert!(!lines.iter().any(|line| line.starts_with("in parts") || line.starts_with("matching")), "{text}");
}

#[test]
fn superchunks_in_parts_are_counted_and_an_image_without_recipes_shows_nothing_of_them() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("file"), prose(1, 8 << 20));
    let options = ["--superchunk-size", "1M", "--part-size", "64K", "-C", "zstd:1"];
    let image = lab.pack(&options, &source, "parts.floe");
    let shown = info(&image);
    let storage = Arc::new(FileStorage::open(&image, Access::ReadOnly).expect("it opens"));
    let log = Image::open(storage, ImageOptions::default()).expect("an image").log().clone();
    let headers = Scan::new(log, LogOffset(LOG_START)).map(|header| header.expect("a frame"));
    let in_parts = headers.filter(|frame| frame.kind == FrameKind::SUPERCHUNK && frame.flags.parts()).count();
    assert!(in_parts >= 4 && shown["counts"]["superchunks_in_parts"] == in_parts, "{in_parts}: {shown}");
    assert_eq!(shown["matching"], serde_json::json!({ "composed": 0, "pieces": 0, "matched": 0, "recipes": 0 }));
    let text = floe!("info", &image).exits(0).out();
    assert!(text.contains(&format!("\nin parts         {in_parts} superchunks\n")), "{text}");
    assert!(!text.contains("matched") && !text.contains("recipes"), "{text}");
}

#[test]
fn a_damaged_map_is_one_warning_and_no_figures_of_matching() {
    let lab = Lab::new();
    let forged = forge::with_recipe();
    let storage = forged.build();
    let place = {
        let image = Image::open(storage.clone(), ImageOptions::default()).unwrap();
        let mut places = Vec::new();
        image.tree(&floe::format::schema::MAP).walk(&image, &mut |visit| {
            if let (0, Some(floe::table::ChildRef::Frame(place))) = (visit.level, visit.child) {
                places.push(place);
            }
            floe::table::Onward::Into
        });
        *places.first().expect("a leaf")
    };
    for offset in [Some(place.offset), place.copy].into_iter().flatten() {
        storage.flip(place.stored_at(offset) + 20, 0xff).expect("a byte");
    }
    assert!(Image::open(storage.clone(), ImageOptions::default()).unwrap().matched().is_err());
    let image = lab.image("damaged.floe");
    fs::write(&image, storage.to_bytes()).expect("an image");
    let done = floe!("info", "--json", &image).exits(0);
    let shown: Value = serde_json::from_slice(&done.stdout).expect("one document");
    assert!(shown.get("matching").is_none() && shown["counts"].get("superchunks_in_parts").is_none(), "{shown}");
    assert_eq!(done.stderr.lines().filter(|line| line.contains("\"warning\"")).count(), 1, "{}", done.stderr);
}
