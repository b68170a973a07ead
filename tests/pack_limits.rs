//! With few descriptors: packing and extracting many directories and deep ones without leaving anything out; mounts.
//!
//! By default the trees are just large enough to need more descriptors than the limit allows.
//! `FLOE_LONG=1 cargo test --release --test pack_limits -- --nocapture` uses the promised sizes and prints figures.

mod common;

use common::compare::assert_same;
use common::left_out::need_fuse;
use common::mounted::{Mounted, is_mounted};
use common::{Lab, Run, floe, floe_command, run};
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Soft and hard limit of open files.
const LIMIT: u32 = 256;
/// Name of each level of a deep tree: long enough that a few hundred levels exceed PATH_MAX.
const LEVEL: &str = "level-of-many";
/// Bytes of stack for comparing trees of 5,000 levels; only the used part is allocated.
const COMPARE_STACK: usize = 1 << 30;

fn is_long() -> bool {
    std::env::var_os("FLOE_LONG").is_some_and(|value| value == "1")
}

/// floe with a limit of open files that it cannot raise.
fn limited<S: AsRef<OsStr>>(limit: u32, args: impl IntoIterator<Item = S>) -> Command {
    let floe = floe_command(args);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"]).arg(floe.get_program());
    command.args(floe.get_args()).stdin(std::process::Stdio::null());
    for (name, value) in floe.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// A tree that is removed by rm, which can handle any depth.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let removed = Command::new("rm").arg("-rf").arg(&self.0).status();
        assert!(removed.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn put(dir: &OwnedFd, name: &str, text: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH).expect("a new file");
    fs::File::from(file).write_all(text.as_bytes()).expect("it can be written");
}

fn directory(at: &Path) -> OwnedFd {
    open(at, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("it opens")
}

/// `count` directories with one file each.
fn wide(lab: &Lab, count: usize) -> Tree {
    let root = lab.tree("wide");
    for i in 0..count {
        let at = root.join(format!("directory-{i:06}"));
        fs::create_dir(&at).expect("a new directory");
        fs::write(at.join("file"), format!("the only file in directory {i}\n")).expect("a new file");
    }
    Tree(root)
}

/// `levels` levels, each with a file before and a file after the next level.
fn deep(lab: &Lab, levels: usize) -> Tree {
    let root = lab.tree("deep");
    let mut at = directory(&root);
    for i in 0..levels {
        put(&at, "before", &format!("before level {i}\n"));
        put(&at, "then", &format!("after level {i}\n"));
        mkdirat(&at, LEVEL, Mode::RWXU).expect("a new directory");
        at = openat(&at, LEVEL, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("it opens");
    }
    Tree(root)
}

/// Packs under the limit at zstd 19: complete, with status 0.
fn pack(lab: &Lab, tree: &Tree, files: usize, directories: usize, name: &str) -> PathBuf {
    let image = lab.image(name);
    let mut command = limited(LIMIT, ["pack", "--json", "-C", "zstd:19"]);
    command.arg(&tree.0).arg(&image);
    let begun = Instant::now();
    let done = run(command).exits(0);
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(done.stderr, "");
    let summary: serde_json::Value =
        done.out().lines().filter_map(|line| serde_json::from_str(line).ok()).next_back().expect("a summary");
    assert_eq!((&summary["files"], &summary["directories"]), (&files.into(), &directories.into()), "{summary}");
    assert_eq!(summary["warnings"], 0);
    println!("{name}: {files} files in {directories} directories packed in {seconds:.1} s under ulimit -n {LIMIT}");
    image
}

/// Every command that reads an image works under the limit, too.
fn is_readable(lab: &Lab, image: &Path, tree: &Tree, entries: usize) {
    let limited = |args: &[&str]| {
        let mut command = limited(LIMIT, &args[..1]);
        command.arg(image).args(&args[1..]);
        let begun = Instant::now();
        let done = run(command).exits(0);
        println!("{}: {:.1} s", args.join(" "), begun.elapsed().as_secs_f64());
        done
    };
    limited(&["check"]);
    limited(&["digest"]);
    // In a deep tree every line is a long path.
    if !is_long() {
        let listed = limited(&["ls", "-R"]).out();
        assert!(listed.lines().count() >= entries);
    }
    let out = Tree(lab.tree("out"));
    limited(&["extract", "-C", out.0.to_str().expect("a plain path")]);
    are_same(tree, &out);
}

/// Compares deep trees. The comparison recurses to their depth.
fn are_same(tree: &Tree, out: &Tree) {
    let same = || assert_same(&tree.0, &out.0);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(COMPARE_STACK).spawn_scoped(scope, same);
        thread.expect("a thread").join().expect("the trees are the same");
    });
}

fn packed_wide(count: usize) {
    let lab = Lab::new();
    let tree = wide(&lab, count);
    let image = pack(&lab, &tree, count, count + 1, "wide.floe");
    is_readable(&lab, &image, &tree, 2 * count);
}

fn packed_deep(levels: usize) {
    let lab = Lab::new();
    let tree = deep(&lab, levels);
    let image = pack(&lab, &tree, 2 * levels, levels + 1, "deep.floe");
    is_readable(&lab, &image, &tree, 3 * levels);
}

#[test]
fn many_directories_with_one_file_each_are_packed_with_few_descriptors() {
    packed_wide(1500);
    if is_long() {
        packed_wide(20_000);
        packed_wide(100_000);
    }
}

#[test]
fn deep_directories_are_packed_with_few_descriptors() {
    packed_deep(600);
    if is_long() {
        packed_deep(3000);
        packed_deep(5000);
    }
}

#[test]
fn many_sources_are_packed_with_few_descriptors() {
    let lab = Lab::new();
    let tree = wide(&lab, 400);
    let image = lab.image("x.floe");
    let mut command = limited(LIMIT, ["pack"]);
    for entry in fs::read_dir(&tree.0).expect("a directory") {
        let path = entry.expect("an entry").path();
        let link = lab.path("trees").join(format!("file-of-{}", path.file_name().expect("a name").display()));
        fs::hard_link(path.join("file"), &link).expect("a hard link");
        command.arg(path).arg(link);
    }
    command.arg(&image);
    run(command).exits(0);
    assert_eq!(floe!("ls", &image).exits(0).out().lines().count(), 800);
}

/// With too few descriptors packing fails and says why: nothing is left out.
fn fails_for_descriptors(done: Run, lab: &Lab) {
    let done = done.exits(1).says(&["Too many open files"]);
    assert!(!done.stderr.contains("left out") && !done.stderr.contains("packed empty"), "{}", done.stderr);
    assert_eq!(lab.image_folder(), Vec::<String>::new());
}

#[test]
fn with_too_few_descriptors_packing_fails_and_leaves_nothing_out() {
    let lab = Lab::new();
    let tree = wide(&lab, 50);
    let (mut failed, mut packed) = (0, 0);
    for limit in 6..40 {
        let mut command = limited(limit, ["pack"]);
        command.arg(&tree.0).arg(lab.image("x.floe"));
        let done = run(command);
        if done.code == Some(0) {
            let listed = floe!("ls", "-R", lab.image("x.floe")).exits(0).out();
            assert_eq!(listed.lines().filter(|line| line.ends_with("file")).count(), 50, "{limit} descriptors");
            fs::remove_file(lab.image("x.floe")).expect("it can be removed");
            packed += 1;
        } else {
            fails_for_descriptors(done, &lab);
            failed += 1;
        }
    }
    assert!(failed > 0 && packed > 0, "{failed} failed, {packed} packed");
}

#[test]
fn a_walk_that_only_counts_needs_no_more() {
    let lab = Lab::new();
    let tree = deep(&lab, 400);
    let mut command = limited(LIMIT, ["pack", "-n"]);
    command.arg(&tree.0).arg(lab.image("x.floe"));
    run(command).exits(0).says(&["800 files"]);
    let mut command = limited(LIMIT, ["pack", "--progress", "plain"]);
    command.arg(&tree.0).arg(lab.image("x.floe"));
    run(command).exits(0);
}

#[test]
fn deep_directories_are_extracted_with_very_few_descriptors() {
    let lab = Lab::new();
    let tree = deep(&lab, 400);
    let image = lab.image("deep.floe");
    floe!("pack", &tree.0, &image).exits(0);
    for limit in [128, 64, 40] {
        let out = Tree(lab.tree("out"));
        let mut command = limited(limit, ["extract", "-C"]);
        command.arg(&out.0).arg(&image);
        run(command).exits(0);
        are_same(&tree, &out);
    }
}

/// Levels with a file that has another name in the level above, a link and a FIFO.
fn of_all_kinds(lab: &Lab, levels: usize) -> Tree {
    let root = lab.tree("kinds");
    let (mut above, mut at) = (root.clone(), root.join("d"));
    for _ in 0..levels {
        fs::create_dir(&at).expect("a new directory");
        fs::write(at.join("file"), "text").expect("a new file");
        fs::hard_link(at.join("file"), above.join("a-name-of-it")).expect("a new name");
        fs::hard_link(at.join("file"), at.join("z-name-of-it")).expect("a new name");
        std::os::unix::fs::symlink("file", at.join("link")).expect("a new link");
        rustix::fs::mkfifoat(rustix::fs::CWD, at.join("fifo"), Mode::RUSR).expect("a new FIFO");
        above = at.clone();
        at.push("d");
    }
    Tree(root)
}

#[test]
fn with_too_few_descriptors_extraction_fails_and_never_ends_as_done_with_findings() {
    let lab = Lab::new();
    let tree = of_all_kinds(&lab, 40);
    let image = lab.image("x.floe");
    floe!("pack", &tree.0, &image).exits(0);
    let (mut failed, mut extracted) = (0, 0);
    for limit in 5..24 {
        for overwrite in ["never", "changed", "always"] {
            let out = Tree(lab.tree("out"));
            let mut command = limited(limit, ["extract", &format!("--overwrite={overwrite}"), "-C"]);
            command.arg(&out.0).arg(&image);
            let done = run(command);
            if done.code == Some(0) {
                are_same(&tree, &out);
                // Again over the existing files; the first names are found again through their directories.
                let mut again = limited(limit, ["extract", &format!("--overwrite={overwrite}"), "-C"]);
                again.arg(&out.0).arg(&image);
                run(again).exits(0);
                are_same(&tree, &out);
                extracted += 1;
            } else {
                let done = done.exits(1).says(&["Too many open files"]);
                assert!(!done.stderr.contains("made anew"), "{limit}: {}", done.stderr);
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && extracted > 0, "{failed} failed, {extracted} extracted");
}

#[test]
fn a_mount_that_has_too_few_descriptors_for_its_threads_is_an_error_and_leaves_no_mount() {
    need_fuse!();
    let lab = Lab::new();
    let image = lab.image("x.floe");
    floe!("pack", wide(&lab, 2).0.as_path(), &image).exits(0);
    let dir = lab.path("mnt");
    fs::create_dir(&dir).expect("a new directory");
    let (mut failed, mut mounted) = (0, 0);
    for limit in (6..40).step_by(3) {
        let mut command = limited(limit, ["mount", "-o", "threads=16"]);
        command.arg(&image).arg(&dir);
        let done = run(command);
        if done.code == Some(0) {
            floe!("ls", &image).exits(0);
            assert_eq!(fs::read_dir(&dir).expect("it is served").count(), 2, "{limit} descriptors");
            floe!("umount", &dir).exits(0);
            mounted += 1;
        } else {
            done.exits(1).says(&["Too many open files"]);
            failed += 1;
        }
        assert!(!is_mounted(&dir), "{limit} descriptors");
    }
    assert!(failed > 0 && mounted > 0, "{failed} failed, {mounted} mounted");
}

#[test]
fn umount_without_descriptors_takes_no_daemon_for_dead() {
    need_fuse!();
    let lab = Lab::new();
    let image = lab.image("x.floe");
    floe!("pack", wide(&lab, 2).0.as_path(), &image).exits(0);
    let dir = lab.path("mnt");
    fs::create_dir(&dir).expect("a new directory");
    let mount = Mounted::new(&image, &dir, &[]);
    // Enough to read the mount table and to list /proc, but not to examine a process in it.
    let mut command = limited(4, ["umount"]);
    command.arg(&dir);
    let done = run(command).exits(1).says(&["Too many open files"]);
    assert!(!done.stderr.contains("died"), "{}", done.stderr);
    assert!(is_mounted(&dir));
    mount.unmount();
}
