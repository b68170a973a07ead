//! The worked example of section 18 of `format-spec.md` is what `floe pack` makes, byte for byte.
//!
//! `FLOE_BLESS=1 cargo test --test spec_example -- --nocapture` prints the example in its current form, and writes it
//! to `target/tmp/spec-example.md`.

mod common;

use common::spec_text::{sections, spec_text};
use common::{Lab, floe_command, image_dump, nasty, run, write};
use floe::format::block::{BlockBuilder, KeyRef};
use floe::format::clear::{ClearList, Listed};
use floe::format::frame::{Flags, FrameHeader, FrameKind};
use floe::format::head::Head;
use floe::format::ids::{LogOffset, SubchunkId, SuperchunkId};
use floe::format::params::Params;
use floe::format::place::Place;
use floe::format::root::{MapRef, Root};
use floe::format::tree_ref::TreeRef;
use floe::format::view::View;
use floe::format::{schema, sums};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A directory with a tiny file; a file of 3000 bytes, another with the same bytes and a hard link; a symlink.
fn lay_out(root: &Path) {
    let mut bytes = vec![0; 3000];
    bytes[..9].copy_from_slice(b"pack ice\n");
    bytes[2994..].copy_from_slice(b"floe.\n");
    write(root.join("drift/snow"), "loose\n");
    write(root.join("ice"), &bytes);
    write(root.join("ice-copy"), &bytes);
    fs::hard_link(root.join("ice"), root.join("ice-link")).expect("a hard link");
    std::os::unix::fs::symlink("drift/snow", root.join("thaw")).expect("a symlink");
    for (name, mode, time) in [
        ("drift/snow", Some(0o644), (1_000_000_000, 5)),
        ("ice", Some(0o600), (1_000_000_001, 0)),
        ("ice-copy", Some(0o644), (-1, 999_999_999)),
        ("thaw", None, (1_000_000_002, 0)),
        ("drift", Some(0o755), (1_000_000_003, 0)),
        (".", Some(0o755), (1_000_000_004, 0)),
    ] {
        if let Some(mode) = mode {
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
        }
        nasty::set_times(&root.join(name), time.0, time.1);
    }
}

fn example(lab: &Lab, tree: &str) -> Vec<u8> {
    let (root, image) = (lab.tree(tree), lab.image(&format!("{tree}.floe")));
    lay_out(&root);
    let mut command = floe_command(["pack", "--owner", "0:0", "--timestamp", "1000000005", "-C", "none"]);
    command.arg(&root).arg(&image);
    run(command).exits(0);
    fs::read(image).expect("the image is there")
}

#[test]
fn the_worked_example_is_what_pack_makes() {
    let lab = Lab::new();
    let image = example(&lab, "example");
    let dump = image_dump::dump(&image);
    if std::env::var_os("FLOE_BLESS").is_some() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("spec-example.md");
        fs::write(&path, &dump).expect("target/tmp is writable");
        println!("{dump}\nthis also stands in {}", path.display());
    }
    assert_eq!(image_dump::parse(dump.lines()), Ok(image.clone()), "the dump is not complete");
    let text = spec_text();
    let all = sections(&text);
    let from = all.iter().position(|s| s.title.starts_with("18.")).expect("format-spec.md has a section 18");
    let below = all[from + 1..].iter().take_while(|s| s.level > all[from].level);
    let lines = std::iter::once(&all[from]).chain(below).flat_map(|s| s.lines.iter().map(String::as_str));
    let in_spec = image_dump::parse(lines).unwrap_or_else(|e| panic!("section 18 of format-spec.md: {e}"));
    if let Some(at) = (0..image.len().max(in_spec.len())).find(|&i| image.get(i) != in_spec.get(i)) {
        panic!(
            "section 18 differs from the image at {at:#x}: {:x?} there, {:x?} in the image. FLOE_BLESS=1 prints what \
             should stand there; a change of the format has to be meant.",
            in_spec.get(at),
            image.get(at)
        );
    }
}

#[test]
fn the_example_has_no_byte_of_when_or_where_it_was_made() {
    let lab = Lab::new();
    assert!(example(&lab, "one") == example(&lab, "two"), "the same tree in another folder gives other bytes");
}

/// Appends a frame to `image`; returns its place.
fn append(image: &mut Vec<u8>, kind: FrameKind, clear: &[u8], stored: &[u8]) -> Place {
    let header = FrameHeader {
        kind,
        codec: 0,
        flags: Flags(0),
        log_id: 77,
        epoch: 1,
        clear_len: clear.len() as u32,
        sequence: image.len() as u64,
        offset: LogOffset(image.len() as u64),
        stored_len: stored.len() as u32,
        raw_len: stored.len() as u32,
        sum: sums::xxh3(stored),
    };
    image.extend_from_slice(&header.encode());
    image.extend_from_slice(clear);
    image.extend_from_slice(stored);
    Place {
        offset: header.offset,
        copy: None,
        clear_len: header.clear_len,
        stored_len: header.stored_len,
        raw_len: header.raw_len,
        codec: 0,
        flags: Flags(0),
        sum: header.sum,
    }
}

#[test]
fn a_dump_gives_back_the_bytes_of_an_image() {
    let mut image = vec![0; 32 << 10];
    let list = |superchunk, subchunks| ClearList { superchunk: SuperchunkId(superchunk), subchunks };
    let clear = list(1, vec![Listed::whole(SubchunkId(1), 3), Listed::whole(SubchunkId(2), 40)]).encode();
    append(&mut image, FrameKind::SUPERCHUNK, &clear, &[&[1, 2, 3], [0; 39].as_slice(), &[9]].concat());
    let mut block = BlockBuilder::new(&schema::DIRENTS, 0);
    block.push(KeyRef::named(1, b"snow"), &[2, 8], b"");
    block.push(KeyRef::named(1, b"snowman"), &[3, 4], b"");
    let raw = block.finish();
    let clear = list(2, vec![Listed::whole(SubchunkId(3), raw.len() as u32)]).encode();
    append(&mut image, FrameKind::TABLE_GROUP, &clear, &raw);
    let mut block = BlockBuilder::new(&schema::MAP, 0);
    block.push(KeyRef::new(0, 1), &[1, 32768, 0, 10, 43, 43, 0, 0], &[7; 8]);
    let map = append(&mut image, FrameKind::MAP_BLOCK, &[], &block.finish());
    let root = Root {
        view: View { inodes: 3, bytes: 43, ..View::default() },
        params: Params::default(),
        time: 5,
        time_ns: 0,
        next_inode: 4,
        next_content: 1,
        next_tiny: 1,
        next_xattrs: 1,
        next_ordinal: 1,
        orphans_tree: TreeRef::default(),
        thawed_tree: TreeRef::default(),
        shares_tree: TreeRef::default(),
        snapshots_tree: TreeRef::default(),
        map: MapRef { root: Some((map, 1)), rows: 1 },
        next_subchunk: 4,
        next_superchunk: 3,
        thaw_log_id: 0,
        thaw_transaction: 0,
        thaw_offset: 0,
        interior_offset: map.offset.0,
        unique_bytes: 43,
        shared_bytes: 0,
        subchunks: 2,
        packed_time: 0,
        packed_time_ns: 0,
    };
    let (stored, root_hash) = root.encode();
    let place = append(&mut image, FrameKind::ROOT, &[], &stored);
    append(&mut image, FrameKind::ROOT, &[], &stored);
    let gap = image.len().next_multiple_of(4096) - image.len() - 64;
    append(&mut image, FrameKind::PAD, &[], &vec![0; gap]);
    for (slot, generation) in [(0, 1), (16 << 10, 2)] {
        let head = Head {
            compat: 0,
            ro_compat: 0,
            incompat: 0,
            uuid: [1; 16],
            lineage: [2; 16],
            generation,
            root: place,
            root_hash,
            log_id: 77,
            epoch: 1,
            clean: true,
            log_end: LogOffset(image.len() as u64),
            thaw_log_id: 0,
            params: Params::default(),
        };
        image[slot..slot + 512].copy_from_slice(&head.encode());
    }
    let dump = image_dump::dump(&image);
    assert_eq!(image_dump::parse(dump.lines()), Ok(image), "{dump}");
    // The second name is front-coded: only the part after "snow" is stored.
    for word in ["name \"snowman\"", "type [8, 4]", "map.offset 3", "subchunk 2, 40 bytes", "the same as of the frame"]
    {
        assert!(dump.contains(word), "'{word}' is not in\n{dump}");
    }
}
