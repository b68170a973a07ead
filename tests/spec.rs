//! Compares `format-spec.md` with the code: offset tables and structs, feature bits, kinds, tables, limits.

#[path = "common/spec_text.rs"]
mod spec_text;

use floe::format::frame::{FrameKind, RawFrameHeader};
use floe::format::head::{RawHeadSlot, VERSION, incompat};
use floe::format::params::RawParams;
use floe::format::parity::ParityHead;
use floe::format::place::RawPlace;
use floe::format::root::{RootLogical, RootPhysical};
use floe::format::schema::{Coding, TABLES, Table};
use floe::format::thaw::{SegmentHead, TransactionHead};
use floe::format::tree_ref::RawTreeRef;
use floe::format::view::RawView;
use floe::format::{Field, limits};
use spec_text::{Section, section, sections, spec_text};
use std::collections::BTreeSet;

/// Each struct of the specification: its heading, its fields, its length.
const STRUCTS: &[(&str, &[Field], usize)] = &[
    ("FrameHeader", RawFrameHeader::FIELDS, RawFrameHeader::SIZE),
    ("HeadSlot", RawHeadSlot::FIELDS, RawHeadSlot::SIZE),
    ("Place", RawPlace::FIELDS, RawPlace::SIZE),
    ("Params", RawParams::FIELDS, RawParams::SIZE),
    ("TreeRef", RawTreeRef::FIELDS, RawTreeRef::SIZE),
    ("View", RawView::FIELDS, RawView::SIZE),
    ("RootLogical", RootLogical::FIELDS, RootLogical::SIZE),
    ("RootPhysical", RootPhysical::FIELDS, RootPhysical::SIZE),
    ("SegmentHead", SegmentHead::FIELDS, SegmentHead::SIZE),
    ("TransactionHead", TransactionHead::FIELDS, TransactionHead::SIZE),
    ("ParityHead", ParityHead::FIELDS, ParityHead::SIZE),
];

const OFFSETS: &[&str] = &["offset", "size", "field", "meaning"];

/// Compares one value in the specification and in the code.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, spec: T, code: T) {
    assert_eq!(spec, code, "{what}: left is format-spec.md, right is the code");
}

fn number<T: std::str::FromStr>(cell: &str) -> T {
    cell.parse().ok().unwrap_or_else(|| panic!("'{cell}' in format-spec.md is not a number"))
}

fn offset_tables(all: &[Section]) -> Vec<(&str, Vec<Vec<String>>)> {
    all.iter().filter(|s| s.level == 4).filter_map(|s| Some((s.title.as_str(), s.table(OFFSETS)?))).collect()
}

#[test]
fn every_offset_table_of_the_specification_has_a_struct_and_every_struct_a_table() {
    let text = spec_text();
    let all = sections(&text);
    let in_spec: BTreeSet<_> = offset_tables(&all).into_iter().map(|(name, _)| name).collect();
    let in_code: BTreeSet<_> = STRUCTS.iter().map(|s| s.0).collect();
    same("structs with an offset table", in_spec, in_code);
    for heading in all.iter().filter(|s| s.level == 4) {
        assert!(heading.table(OFFSETS).is_some(), "'#### {}' has no offset table", heading.title);
    }
}

#[test]
fn fields_stand_where_the_offset_tables_say() {
    let text = spec_text();
    for (name, rows) in offset_tables(&sections(&text)) {
        let (_, fields, size) = STRUCTS.iter().find(|s| s.0 == name).expect("the test above compares the names");
        let in_spec: Vec<(usize, usize, String)> =
            rows.iter().map(|row| (number(&row[0]), number(&row[1]), row[2].clone())).collect();
        let in_code: Vec<_> = fields.iter().map(|f| (f.offset, f.size, f.name.to_owned())).collect();
        same(name, &in_spec, &in_code);
        let mut end = 0;
        for (offset, size, field) in &in_spec {
            assert_eq!(*offset, end, "{name}.{field} leaves a gap or overlaps");
            end += size;
        }
        same(&format!("length of {name}"), end, *size);
    }
}

#[test]
fn every_struct_laid_out_by_the_macro_is_in_the_list_above() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/format");
    let mut found = 0;
    for entry in std::fs::read_dir(dir).expect("src/format is there") {
        let path = entry.expect("a folder entry").path();
        if path.extension().is_some_and(|e| e == "rs") && path.file_name().is_some_and(|n| n != "layout.rs") {
            found += std::fs::read_to_string(path).expect("source is text").matches("on_disk! {").count();
        }
    }
    same("number of on-disk structs", STRUCTS.len(), found);
}

#[test]
fn feature_bits_are_those_of_the_table() {
    let text = spec_text();
    let all = sections(&text);
    let rows = section(&all, "3.2").table(&["set", "bit", "meaning"]).expect("3.2 has a table");
    let bit = |words: &str| -> u64 {
        let row = rows.iter().find(|r| r[2].contains(words)).unwrap_or_else(|| panic!("no bit for '{words}'"));
        assert_eq!(row[0], "incompat", "'{words}'");
        1 << number::<u32>(&row[1])
    };
    same("recipes", bit("has a recipe"), incompat::RECIPES);
    same("parts", bit("has parts"), incompat::PARTS);
    same("xz", bit("codec xz"), incompat::XZ);
    same("dictionaries", bit("dictionaries are used"), incompat::DICTIONARY);
    same("filters", bit("filters are used"), incompat::FILTERS);
    let in_table = rows.iter().filter(|r| r[0] == "incompat").fold(0u64, |set, r| set | 1 << number::<u32>(&r[1]));
    // Encryption is not defined; the object store's own opener reads objects.
    same("bits that a reader of local images refuses", in_table & !incompat::KNOWN, bit("encrypted") | bit("objects"));
    assert_eq!(incompat::KNOWN & !in_table, 0, "a known bit is missing in the table");
}

#[test]
fn version_and_frame_kinds_are_those_of_the_specification() {
    let text = spec_text();
    let all = sections(&text);
    let head = section(&all, "HeadSlot").table(OFFSETS).expect("the head has a table");
    let version = head.iter().find(|r| r[2] == "version").expect("a version field");
    same("version", number::<u16>(&version[3]), VERSION);
    let rows = section(&all, "2.2").table(&["kind", "name", "clear part", "stored bytes"]).expect("2.2 has a table");
    for row in &rows {
        let kind = FrameKind(number(&row[0]));
        same(&format!("name of kind {}", row[0]), row[1].as_str(), kind.name());
        same(&format!("clear list of kind {}", row[0]), row[2].starts_with("clear list"), kind.has_clear_list());
    }
    let named = (0..=255).filter(|&k| FrameKind(k).name() != "unknown").count();
    same("number of kinds", rows.len(), named);
}

fn letter(coding: Coding) -> &'static str {
    match coding {
        Coding::Plain => "P",
        Coding::Delta => "D",
        Coding::Nullable => "N",
    }
}

fn codings(columns: &[Coding]) -> Vec<&'static str> {
    columns.iter().copied().map(letter).collect()
}

#[test]
fn tables_and_their_columns_are_those_of_the_specification() {
    let text = spec_text();
    let all = sections(&text);
    let rows = section(&all, "8. The tables")
        .table(&["number", "table", "a", "b", "name", "integers (coding)", "tail"])
        .expect("8 has a table");
    same("number of tables", rows.len(), TABLES.len());
    for (row, table) in rows.iter().zip(TABLES) {
        let name = table.name;
        same(name, (number::<u8>(&row[0]), row[1].as_str()), (table.id().0, name));
        same(&format!("{name}.b"), row[3] != "–", table.leaf.has_b);
        same(&format!("{name}.name"), row[4] != "–", table.leaf.has_name);
        same(&format!("{name}.tail"), row[6] != "–", table.leaf.has_tail);
        same(&format!("{name}: interior keys"), (table.leaf.has_b, table.leaf.has_name), interior_keys(table));
        if row[5].starts_with("as inodes") {
            same(&format!("{name}: codings"), codings(TABLES[0].leaf.ints), codings(table.leaf.ints));
        } else if let Some(count) = row[5].split(',').next().and_then(|n| n.parse::<usize>().ok()) {
            same(&format!("{name}: number of columns"), count, table.leaf.ints.len());
        } else {
            let listed: Vec<&str> = row[5].split('(').skip(1).filter_map(|part| part.split(')').next()).collect();
            same(&format!("{name}: codings"), listed, codings(table.leaf.ints));
        }
    }
    for (heading, table) in [("8.1 inodes", TABLES[0]), ("8.8 map", TABLES[7])] {
        let section = section(&all, heading);
        let rows = section.lines.iter().find(|l| l.starts_with("| column |")).expect("a table of columns");
        let header: Vec<&str> = rows.trim_matches('|').split('|').map(str::trim).collect();
        let at = header.iter().position(|h| *h == "coding").expect("a column 'coding'");
        let rows = section.table(&header).expect("found above");
        let listed: Vec<&str> = rows.iter().map(|r| r[at].as_str()).collect();
        same(heading, listed, codings(table.leaf.ints));
        for (i, row) in rows.iter().enumerate() {
            same(heading, number::<usize>(&row[0]), i);
        }
    }
}

fn interior_keys(table: &Table) -> (bool, bool) {
    assert!(table.interior.has_tail, "{}: interior rows carry a hash or sum", table.name);
    let children = codings(table.interior.ints);
    let expected: &[&str] = if table.name == "map" { &["D", "D", "P", "P", "P", "P"] } else { &["N"] };
    same(&format!("{}: interior codings", table.name), expected, children.as_slice());
    (table.interior.has_b, table.interior.has_name)
}

/// Every quantity in a cell: `64 MiB`, `255 bytes`, `< 2^48`, `12`.
fn quantities(cell: &str) -> Vec<u64> {
    let mut out: Vec<u64> = Vec::new();
    for word in cell.split([' ', ',', '(', ')']) {
        if let Some(power) = word.strip_prefix("2^") {
            out.push(1 << number::<u32>(power));
        } else if let Ok(value) = word.parse() {
            out.push(value);
        } else if let (Some(last), Some(shift)) =
            (out.last_mut(), ["KiB", "MiB", "GiB"].iter().position(|unit| *unit == word))
        {
            *last <<= 10 * (shift + 1);
        }
    }
    out
}

#[test]
fn limits_are_those_of_the_table() {
    let text = spec_text();
    let all = sections(&text);
    let rows = section(&all, "14.").table(&["what", "limit"]).expect("14 has a table");
    const NO_CONSTANT: u64 = u64::MAX;
    let known: &[(&str, &[u64])] = &[
        ("clear part of a frame", &[limits::CLEAR_LEN]),
        ("subchunks of a superchunk", &[limits::SUBCHUNKS]),
        ("bytes of all composed subchunks of a superchunk", &[limits::COMPOSED_BYTES]),
        ("raw bytes of a superchunk, and of a frame", &[limits::RAW_LEN]),
        ("raw bytes of a superchunk and of its sources, (max_sources + 1) × superchunk_size", &[limits::SOURCE_BYTES]),
        ("raw bytes of a table block", &[limits::TABLE_BLOCK]),
        ("raw bytes of a table group", &[limits::TABLE_GROUP]),
        ("levels of a tree", &[limits::TREE_LEVELS as u64]),
        ("bytes of a subchunk", &[limits::SUBCHUNK_LEN]),
        ("pieces of a recipe, and of a row of recipes", &[limits::RECIPE_PIECES]),
        ("name", &[limits::NAME_LEN as u64]),
        ("comment of a snapshot", &[limits::SNAPSHOT_COMMENT]),
        ("symlink target", &[limits::SYMLINK_LEN as u64]),
        ("one xattr's name, value", &[limits::NAME_LEN as u64, limits::XATTR_VALUE as u64]),
        ("xattr set", &[limits::XATTR_SET as u64]),
        ("inode numbers", &[limits::INODE]),
        ("ids of subchunks, superchunks, contents, tiny, xattr sets; snapshot ordinals", &[limits::ID]),
        ("epochs", &[limits::EPOCH.into()]),
        ("file size", &[NO_CONSTANT]),
        ("image", &[limits::IMAGE_LEN]),
    ];
    let in_spec: Vec<_> = rows.iter().map(|r| r[0].as_str()).collect();
    same("what is limited", in_spec, known.iter().map(|k| k.0).collect());
    for (row, (what, code)) in rows.iter().zip(known) {
        let spec = quantities(&row[1]);
        same(&format!("figures for {what}"), spec.len(), code.len());
        for (spec, code) in spec.iter().zip(*code).filter(|pair| *pair.1 != NO_CONSTANT) {
            same(what, spec, code);
        }
    }
}

#[test]
fn places_in_the_file_are_those_of_the_specification() {
    let text = spec_text();
    let all = sections(&text);
    let slots = section(&all, "3. Head slots").lines.join(" ");
    assert!(slots.contains(&format!("at offsets 0 and {}", limits::HEAD_SLOT_SPAN)), "where the slots lie");
    assert!(slots.contains(&format!("HeadSlot of {} bytes", RawHeadSlot::SIZE)), "how long a slot is");
    let log = section(&all, "2. The log").lines.join(" ");
    assert!(log.contains(&format!("from offset {} on", limits::LOG_START)), "where the log begins");
}
