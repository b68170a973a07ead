//! `-v` of the real program: a line for each file that is packed, extracted or frozen.

mod common;

use common::left_out::need_fuse;
use common::run::Run;
use common::{Lab, floe, noise, write};
use std::fs;
use std::path::Path;

/// A name that would move the cursor and end the line.
const WILD: &str = "wild\n\x1b[2J";
const WILD_SHOWN: &str = r"wild\n\e[2J";

fn tree(lab: &Lab) -> std::path::PathBuf {
    let tree = lab.tree("tree");
    write(tree.join("dir/inner/large"), noise(1, 300_000));
    write(tree.join("dir/tiny"), "tiny");
    write(tree.join(WILD), noise(2, 3000));
    fs::hard_link(tree.join("dir/tiny"), tree.join("zz linked")).expect("a link");
    std::os::unix::fs::symlink("tiny", tree.join("dir/symlink")).expect("a symlink");
    tree
}

/// The lines of standard error that are one of these names, sorted; each occurs at most once.
fn listed<'a>(run: &Run, names: &[&'a str]) -> Vec<&'a str> {
    let mut found: Vec<_> =
        run.stderr.lines().filter_map(|line| names.iter().copied().find(|name| line == *name)).collect();
    found.sort_unstable();
    found
}

#[test]
fn pack_and_extract_list_everything_in_its_place_and_only_with_v() {
    let lab = Lab::new();
    let tree = tree(&lab);
    let names = ["dir", "dir/inner", "dir/inner/large", "dir/symlink", "dir/tiny", WILD_SHOWN, "zz linked"];
    let image = lab.image("x.floe");
    let packed = floe!("pack", "-v", &tree, &image).exits(0);
    assert_eq!(listed(&packed, &names), names);
    let target = lab.tree("out");
    let extracted = floe!("extract", "-v", "-C", &target, &image).exits(0);
    assert_eq!(listed(&extracted, &names), names);
    // Nothing with JSON lines, and nothing without `-v`.
    for more in [&["--force"][..], &["--force", "--json", "-v"]] {
        let mut command = common::run::floe_command(["pack"]);
        command.args(more).arg(&tree).arg(&image);
        let run = common::run::run(command).exits(0);
        assert_eq!(listed(&run, &names), [""; 0], "{}", run.stderr);
    }
}

#[test]
fn freeze_lists_what_leaves_the_log_of_an_image_and_of_a_mount() {
    need_fuse!();
    let lab = Lab::new();
    let image = lab.image("x.floe");
    floe!("mkfs", &image).exits(0);
    let dir = lab.mount_point("m");
    let names = ["dir/inner/large", "dir/tiny", WILD_SHOWN, "none"];
    let fill = |dir: &Path| {
        write(dir.join("dir/inner/large"), noise(1, 300_000));
        write(dir.join("dir/tiny"), "tiny");
        write(dir.join(WILD), noise(2, 3000));
        write(dir.join("none"), "");
    };
    floe!("mount", "-o", "freeze=off", &image, &dir).exits(0);
    fill(&dir);
    let told = floe!("freeze", "-v", &dir).exits(0);
    assert_eq!(listed(&told, &names), &names[..3], "{}", told.stderr);
    assert_eq!(listed(&floe!("freeze", "-v", &dir).exits(0), &names), [""; 0]);
    write(dir.join("dir/tiny"), "other");
    write(dir.join("dir/inner/large"), noise(3, 200_000));
    floe!("umount", &dir).exits(0);
    let told = floe!("freeze", "-v", &image).exits(0);
    assert_eq!(listed(&told, &names), &names[..2], "{}", told.stderr);
    floe!("check", &image).exits(0);
}
