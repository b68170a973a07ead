//! `extract` restores what was packed, and changes nothing else.

mod common;

use common::compare::{What, assert_same, assert_same_only, compare};
use common::left_out::{need_program, need_root};
use common::{Lab, floe, floe_command, nasty, noise, prose, run, write, xattrs};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Extracts a whole image into a new directory.
fn extract(lab: &Lab, image: &Path, name: &str) -> PathBuf {
    let target = lab.tree(name);
    floe!("extract", image, "-C", &target).exits(0);
    target
}

#[test]
fn the_nasty_tree_comes_back_whole() {
    let lab = Lab::new();
    let source = lab.tree("source");
    nasty::build(&source, nasty::Extent::Full);
    let image = lab.pack(&[], &source, "nasty.floe");
    floe!("check", &image).exits(0);
    assert_same(&source, &extract(&lab, &image, "out"));
}

#[test]
fn rsync_finds_no_difference_between_the_nasty_tree_and_what_was_extracted() {
    need_program!("rsync");
    need_root!();
    let lab = Lab::new();
    let source = lab.small_nasty_tree();
    let image = lab.pack(&[], &source, "nasty.floe");
    let out = extract(&lab, &image, "out");
    let slash = |path: &Path| format!("{}/", path.display());
    let mut command = Command::new("rsync");
    command.args(["-aHAXS", "--checksum", "--modify-window=-1", "--dry-run", "--itemize-changes", "--delete"]);
    // rsync takes no path beyond PATH_MAX, and reads every byte of a hole of a terabyte, which takes an hour. The test
    // above compares both.
    command
        .args(["--exclude", "/deep-00-*", "--exclude", "*terabyte*", "--exclude", "hole-of-4-gib*"])
        .arg(slash(&source))
        .arg(slash(&out));
    let said = run(command).exits(0);
    assert_eq!(said.out(), "");
}

#[test]
fn every_codec_chunker_hash_and_kind_of_superchunk_gives_the_tree_back() {
    let lab = Lab::new();
    let source = lab.small_nasty_tree();
    let variants: &[&[&str]] = &[
        &["-C", "none"],
        &["-C", "xz:3"],
        &["-C", "zstd:1"],
        &["-C", "zstd:19", "--superchunk-size", "1M"],
        &["--part-size", "128K"],
        &["--part-size", "4K", "-C", "none"],
        &["--part-size", "64K", "-C", "xz:1", "--superchunk-size", "16M"],
        &["--chunker", "fixed:32K"],
        &["--chunker", "fixed:4K", "--part-size", "32K"],
        &["--hash", "xxh3"],
        &["--memory", "256M", "-j", "1", "--min-match", "0"],
        &["--memory", "700M", "-j", "1"],
    ];
    for (i, options) in variants.iter().enumerate() {
        let image = lab.pack(options, &source, &format!("{i}.floe"));
        floe!("check", &image).exits(0);
        let out = extract(&lab, &image, &format!("out-{i}"));
        let found = compare(&source, &out);
        assert!(found.is_empty(), "{options:?}:\n{}", found.join("\n"));
        fs::remove_dir_all(out).expect("it can be removed");
    }
}

#[test]
fn one_and_eight_threads_give_the_same_bytes() {
    let lab = Lab::new();
    let source = lab.tree("source");
    nasty::build(&source, nasty::Extent::Full);
    let options = |jobs| ["--timestamp", "1700000000", "-j", jobs, "--superchunk-size", "1M", "-C", "zstd:3"];
    let one = lab.pack(&options("1"), &source, "one.floe");
    let eight = lab.pack(&options("8"), &source, "eight.floe");
    let again = lab.pack(&options("8"), &source, "again.floe");
    let one = fs::read(one).expect("the image can be read");
    assert!(one == fs::read(eight).expect("the image can be read"), "1 and 8 threads differ");
    assert!(one == fs::read(again).expect("the image can be read"), "two runs differ");
}

#[test]
fn attributes_larger_than_ext4_holds_come_back() {
    need_root!();
    let memory = tempfile::tempdir_in("/dev/shm");
    let Ok(memory) = memory else {
        return common::left_out::left_out("there is no /dev/shm");
    };
    let (source, out) = (memory.path().join("source"), memory.path().join("out"));
    let must = |path: &Path, name: &str, value: &[u8]| {
        xattrs::set(path, name.as_bytes(), value).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    write(source.join("one-large"), "x");
    must(&source.join("one-large"), "trusted.large", &noise(1, 60_000));
    write(source.join("largest"), "x");
    must(&source.join("largest"), "trusted.largest", &noise(2, 65_536));
    write(source.join("many"), "x");
    for i in 0..300 {
        must(&source.join("many"), &format!("trusted.number-{i}"), &prose(i, 700));
    }
    fs::create_dir(source.join("folder")).expect("a new folder");
    must(&source.join("folder"), "trusted.large", &noise(3, 50_000));
    symlink("x", source.join("link")).expect("a symlink");
    must(&source.join("link"), "trusted.large", &noise(4, 40_000));
    let lab = Lab::new();
    let image = lab.pack(&[], &source, "large.floe");
    fs::create_dir(&out).expect("a new folder");
    floe!("extract", &image, "-C", &out).exits(0);
    assert_same(&source, &out);
}

#[test]
fn equal_data_is_stored_once() {
    let lab = Lab::new();
    let source = lab.tree("source");
    let bytes = noise(1, 3 << 20);
    for name in ["a", "b", "c/d", "c/e"] {
        write(source.join(name), &bytes);
    }
    // The same subchunks in another file, after an insertion.
    write(source.join("f"), [&bytes[..100_000], b"inserted", &bytes[100_000..]].concat());
    let image = lab.pack(&[], &source, "equal.floe");
    let len = fs::metadata(&image).expect("the image is there").len();
    assert!(len < (bytes.len() + 512 * 1024) as u64, "{len} bytes for {} of unique data", bytes.len());
    assert_same(&source, &extract(&lab, &image, "out"));
}

#[test]
fn what_does_not_shrink_does_not_grow() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("noise"), noise(1, 8 << 20));
    let image = lab.pack(&["-C", "zstd:19"], &source, "noise.floe");
    let len = fs::metadata(&image).expect("the image is there").len();
    assert!(len < (8 << 20) + 128 * 1024, "{len} bytes for 8 MiB of noise");
}

#[test]
fn an_empty_folder_and_a_single_file_can_be_packed() {
    let lab = Lab::new();
    let empty = lab.tree("empty");
    let image = lab.pack(&[], &empty, "empty.floe");
    floe!("check", &image).exits(0);
    assert_same(&empty, &extract(&lab, &image, "out-empty"));
    let source = lab.tree("single");
    write(source.join("file"), prose(1, 100_000));
    let image = lab.image("file.floe");
    floe!("pack", source.join("file"), &image).exits(0);
    let out = extract(&lab, &image, "out-file");
    assert_same_only(&source, &out, What { mtime: false, ..What::ALL });
}

#[test]
fn several_sources_stand_side_by_side_under_their_names() {
    let lab = Lab::new();
    let (one, two) = (lab.tree("one"), lab.tree("two"));
    write(one.join("a/b"), "1");
    write(two.join("a/c"), "2");
    let image = lab.image("both.floe");
    floe!("pack", &one, &two, &image).exits(0);
    let out = extract(&lab, &image, "out");
    assert_same(&one, &out.join("one"));
    assert_same(&two, &out.join("two"));
}

#[test]
fn chosen_paths_alone_are_extracted() {
    let lab = Lab::new();
    let source = lab.tree("source");
    for name in ["a/x", "a/y", "b/deep/z", "b/w", "c"] {
        write(source.join(name), name);
    }
    let image = lab.pack(&[], &source, "some.floe");
    let out = lab.tree("out");
    floe!("extract", &image, "a", "b/deep/z", "-C", &out).exits(0);
    for (name, there) in [("a/x", true), ("a/y", true), ("b/deep/z", true), ("b/w", false), ("c", false)] {
        assert_eq!(out.join(name).exists(), there, "{name}");
    }
    floe!("extract", &image, "no/such/path", "-C", &out).exits(1).says(&["no/such/path"]);
    let out = lab.tree("stripped");
    floe!("extract", &image, "b/deep", "--strip-components", "2", "-C", &out).exits(0);
    assert_eq!(fs::read(out.join("z")).expect("it was extracted"), b"b/deep/z");
    let said = floe!("extract", &image, "a/y", "--stdout").exits(0);
    assert_eq!(said.stdout, b"a/y");
}

#[test]
fn extraction_overwrites_only_as_told() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("file"), "from the image");
    write(source.join("other"), "from the image");
    let image = lab.pack(&[], &source, "over.floe");
    let out = lab.tree("out");
    write(out.join("file"), "was here before");
    floe!("extract", &image, "--overwrite=never", "-C", &out);
    assert_eq!(fs::read(out.join("file")).expect("a file"), b"was here before");
    assert_eq!(fs::read(out.join("other")).expect("a file"), b"from the image");
    floe!("extract", &image, "--overwrite=always", "-C", &out).exits(0);
    assert_same(&source, &out);
    let inode = fs::metadata(out.join("file")).expect("a file").ino();
    write(out.join("other"), "changed since");
    floe!("extract", &image, "--overwrite=changed", "-C", &out).exits(0);
    assert_same(&source, &out);
    assert_eq!(fs::metadata(out.join("file")).expect("a file").ino(), inode, "what was the same was not touched");
}

#[test]
fn extraction_does_not_follow_a_link_out_of_its_target() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("dir/file"), "from the image");
    write(source.join("plain"), "from the image");
    let image = lab.pack(&[], &source, "link.floe");
    let (out, outside) = (lab.tree("out"), lab.tree("outside"));
    write(outside.join("file"), "mine");
    write(outside.join("plain"), "mine");
    symlink(&outside, out.join("dir")).expect("a symlink");
    symlink(outside.join("plain"), out.join("plain")).expect("a symlink");
    // Whether floe replaces the links or gives up, nothing outside changes.
    floe!("extract", &image, "--overwrite=always", "-C", &out);
    assert_eq!(fs::read(outside.join("file")).expect("a file"), b"mine");
    assert_eq!(fs::read(outside.join("plain")).expect("a file"), b"mine");
    assert_eq!(fs::read_dir(&outside).expect("a folder").count(), 2);
}

#[test]
fn filters_choose_what_is_packed() {
    let lab = Lab::new();
    let source = lab.tree("source");
    for name in ["keep.txt", "drop.o", "dir/drop.o", "dir/keep", "cache/x", "marked/y", "marked/.nopack", "large"] {
        write(source.join(name), name);
    }
    write(source.join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55");
    write(source.join("large"), vec![1; 70_000]);
    let image = lab.pack(
        &["--exclude", "*.o", "--exclude-caches", "--exclude-if-present", ".nopack", "--exclude-larger-than", "64K"],
        &source,
        "some.floe",
    );
    let out = extract(&lab, &image, "out");
    for (name, there) in [
        ("keep.txt", true),
        ("dir/keep", true),
        ("drop.o", false),
        ("dir/drop.o", false),
        ("cache/x", false),
        ("marked/y", false),
        ("large", false),
    ] {
        assert_eq!(out.join(name).exists(), there, "{name}");
    }
    let list = lab.path("list");
    fs::write(&list, "keep.txt\0dir/keep\0").expect("a list");
    let image = lab.image("listed.floe");
    let mut command = floe_command(["pack", "-0", "--files-from"]);
    command.arg(&list).arg(&source).arg(&image).current_dir(&source);
    run(command).exits(0);
    let said = floe!("ls", "-R", &image).exits(0).out();
    assert!(said.contains("keep.txt") && said.contains("dir/keep") && !said.contains("drop.o"), "{said}");
}

#[test]
fn owners_and_times_can_be_replaced_for_images_that_anybody_can_make_again() {
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("dir/file"), "x");
    let image = lab.pack(&["--all-root", "--timestamp", "86400"], &source, "root.floe");
    let other = lab.pack(&["--owner", "0:0", "--timestamp", "86400"], &source, "owner.floe");
    let digest = |image: &Path| floe!("digest", image).exits(0).out();
    assert_eq!(digest(&image).split_whitespace().next(), digest(&other).split_whitespace().next());
}
