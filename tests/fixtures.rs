//! Images of format version 1, written once: every version of floe, and `tests/reader.py`, reads them with the same
//! result.
//!
//! `FLOE_BLESS=1 cargo test --test fixtures` makes the missing ones, as root. An existing one is never overwritten.

mod common;
#[path = "common/fixtures.rs"]
mod fixtures;
#[path = "common/forge.rs"]
mod forge;
#[path = "common/reforge.rs"]
mod reforge;

use common::compare::{What, compare_only};
use common::left_out::{is_root, need_program};
use common::{Lab, floe, nasty, noise, prose, run, write, xattrs};
use fixtures::{FIXTURES, describe, folder, make};
use std::path::{Path, PathBuf};
use std::process::Command;

fn image(name: &str) -> PathBuf {
    folder().join(format!("{name}.floe"))
}

fn blessing() -> bool {
    std::env::var_os("FLOE_BLESS").is_some()
}

/// Makes the missing fixtures if requested.
fn bless() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let lab = Lab::new();
        for (name, made) in FIXTURES.iter().filter(|(name, _)| blessing() && !image(name).exists()) {
            let bytes = make(made, &lab, name);
            std::fs::create_dir_all(folder()).expect("the folder can be made");
            std::fs::write(image(name), &bytes).expect("the folder is writable");
            std::fs::write(folder().join(format!("{name}.txt")), describe(&bytes)).expect("the folder is writable");
        }
    });
}

#[test]
fn fixtures_are_those_that_are_listed() {
    bless();
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_file()) // A thaw log is a folder, and tested elsewhere.
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut listed: Vec<_> = FIXTURES.iter().flat_map(|f| [format!("{}.floe", f.0), format!("{}.txt", f.0)]).collect();
    listed.sort();
    assert_eq!(found, listed);
}

#[test]
fn a_fixture_opens_checks_digests_and_lists_as_it_always_did() {
    bless();
    for (name, _) in FIXTURES {
        let bytes = std::fs::read(image(name)).expect("the fixture is there");
        let before = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("it is there");
        assert_eq!(describe(&bytes), before, "{name}");
    }
}

fn reader(command: &str, image: &Path) -> Command {
    let mut reader = Command::new("python3");
    reader.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader.py")).arg(command).arg(image);
    reader
}

#[test]
fn the_reader_in_python_lists_and_extracts_every_fixture_as_floe_does() {
    need_program!("python3");
    bless();
    let lab = Lab::new();
    for (name, _) in FIXTURES {
        let described = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("it is there");
        let (said, list) = described.split_once("\n\n").expect("a list follows");
        assert_eq!(run(reader("list", &image(name))).exits(0).out(), list, "{name}");
        let (by_floe, by_reader) = (lab.tree(&format!("{name}-floe")), lab.tree(&format!("{name}-reader")));
        let done = floe!["extract", image(name), "-C", &by_floe];
        let mut command = reader("extract", &image(name));
        command.arg(&by_reader);
        let read = run(command);
        // Status 3: some files cannot be read, and are left out.
        let code = if said.contains("digest none") { 3 } else { 0 };
        done.exits(code);
        read.exits(code);
        // The reader restores only user attributes, and owners only if it may; so does floe if it is not root.
        let what = What { owner: is_root(), ..What::ALL };
        let found = compare_only(&by_floe, &by_reader, what);
        assert!(found.is_empty(), "{name}:\n{}", found.join("\n"));
    }
}
