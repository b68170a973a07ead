//! `tests/reader.py`, written from `format-spec.md` alone, reads what floe packs: the specification is sufficient.

mod common;

use common::compare::{What, compare, compare_only};
use common::left_out::{is_root, need_program};
use common::{Lab, nasty, run};
use std::path::{Path, PathBuf};
use std::process::Command;

fn reader() -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader.py"));
    command
}

/// Packs with these options, extracts with the reader, and compares everything that the reader restores.
fn read_back(lab: &Lab, source: &Path, options: &[&str], name: &str) {
    let image = lab.pack(options, source, &format!("{name}.floe"));
    let out = lab.tree(name);
    let mut command = reader();
    command.arg("extract").arg(&image).arg(&out);
    run(command).exits(0);
    // The reader restores only user attributes, and owners only if it may.
    let what = What { xattrs: false, owner: is_root(), ..What::ALL };
    let found = compare_only(source, &out, what);
    assert!(found.is_empty(), "{options:?}:\n{}", found.join("\n"));
    let xattrs = compare(source, &out).into_iter().filter(|line| line.contains(": xattr user.")).collect::<Vec<_>>();
    assert!(xattrs.is_empty(), "{options:?}:\n{}", xattrs.join("\n"));
}

#[test]
fn a_reader_written_from_the_specification_extracts_what_floe_packs() {
    need_program!("python3");
    let lab = Lab::new();
    let source = lab.small_nasty_tree();
    let variants: &[&[&str]] = &[
        &["-C", "none"],
        &["-C", "xz:1"],
        &["-C", "xz:1", "--part-size", "64K"],
        &["-C", "none", "--part-size", "32K"],
        &["-C", "none", "--chunker", "fixed:32K", "--superchunk-size", "1M"],
        &["-C", "xz:1", "--chunker", "fixed:32K", "--part-size", "128K"],
    ];
    for (i, options) in variants.iter().enumerate() {
        read_back(&lab, &source, options, &format!("{i}"));
    }
}

#[test]
fn the_whole_nasty_tree_is_listed_by_the_reader_as_find_lists_it() {
    need_program!("python3");
    let lab = Lab::new();
    let source = lab.tree("source");
    nasty::build(&source, nasty::Extent::Full);
    let image = lab.pack(&["-C", "none"], &source, "full.floe");
    let mut command = reader();
    command.arg("list").arg(&image);
    let listed = run(command).exits(0).out();
    let count = walk(&source);
    assert_eq!(listed.lines().count(), count, "a line for each path");
    for word in [" ./special/fifo", " ./names/new\\x0aline", " ./symlinks/dangling -> nothing/there"] {
        assert!(listed.contains(word), "'{word}' is not in the list");
    }
}

/// Number of paths in a tree, including the root.
fn walk(root: &PathBuf) -> usize {
    let mut command = Command::new("find");
    command.arg(root).args(["-printf", "x\n"]);
    run(command).exits(0).out().lines().count()
}

#[test]
fn an_image_with_a_codec_the_reader_lacks_is_refused_in_words() {
    need_program!("python3");
    let lab = Lab::new();
    let source = lab.small_nasty_tree();
    let image = lab.pack(&["-C", "zstd:1"], &source, "zstd.floe");
    let mut command = reader();
    command.arg("list").arg(&image).env("READER_LIBZSTD", "no library");
    let done = run(command);
    assert_ne!(done.code, Some(0));
    let done = done.says(&["zstd"]);
    assert!(!done.stderr.contains("Traceback"), "{}", done.stderr);
}
