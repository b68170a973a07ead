//! Small files that a mount with `-o push` pushes into the page cache before they are read: the bytes are right, files
//! are pushed only where reads occur, and never without the option.

mod common;

use common::left_out::need_fuse;
use common::mounted::{Mounted, counters};
use common::{Lab, prose, write};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const FILES: usize = 600;

/// A tree of small files in a few directories; also each file's path below the root and its bytes, in the packer's
/// order.
fn tree(lab: &Lab) -> (PathBuf, Vec<(PathBuf, Vec<u8>)>) {
    let source = lab.tree("source");
    let files: Vec<_> = (0..FILES)
        .map(|n| (PathBuf::from(format!("d{}/f{n:04}", n / 200)), prose(n as u64 + 1, n * 97 % 70_000)))
        .collect();
    for (path, bytes) in &files {
        write(source.join(path), bytes);
    }
    (lab.pack(&["-C", "zstd:1", "--superchunk-size", "1M"], &source, "small.floe"), files)
}

/// After this the kernel knows all inodes.
fn list(mount: &Mounted) {
    for dir in ["d0", "d1", "d2"] {
        assert_eq!(fs::read_dir(mount.join(dir)).unwrap().count(), FILES / 3);
    }
}

fn read_all(mount: &Mounted, files: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in files {
        assert!(fs::read(mount.join(path)).unwrap() == *bytes, "{} reads wrong", path.display());
    }
}

#[test]
fn nothing_is_pushed_unless_asked_for() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    list(&mount);
    read_all(&mount, &files);
    assert!(!counters(mount.path()).contains_key("pushed"), "there is nothing that could push");
    mount.unmount();
}

#[test]
fn files_found_by_name_read_right_while_files_are_pushed() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "push"]);
    read_all(&mount, &files);
    read_all(&mount, &files);
    mount.unmount();
}

#[test]
fn files_known_from_a_listing_are_pushed_ahead_of_their_reader() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "push"]);
    list(&mount);
    let (first, rest) = files.split_at(4);
    read_all(&mount, first);
    let begin = Instant::now();
    while counters(mount.path())["pushed"] == 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing was pushed: {:?}", counters(mount.path()));
    }
    read_all(&mount, rest);
    mount.unmount();
}

#[test]
fn who_only_looks_has_nothing_pushed_nor_inflated() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "push"]);
    for (path, bytes) in &files {
        assert_eq!(fs::metadata(mount.join(path)).unwrap().len(), bytes.len() as u64);
    }
    let counters = counters(mount.path());
    for counter in ["pushed", "inflations"] {
        assert_eq!(counters[counter], 0, "{counter}");
    }
    mount.unmount();
}

#[test]
fn without_read_ahead_nothing_is_inflated_ahead() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "readahead=0"]);
    read_all(&mount, &files);
    assert_eq!(counters(mount.path())["ahead"], 0);
    mount.unmount();
}

#[test]
fn one_event_loop_and_the_pusher_do_not_wait_for_each_other() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "threads=1,push"]);
    list(&mount);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (mount, files) = (&mount, &files);
            scope.spawn(move || read_all(mount, &files[n * 50..]));
        }
    });
    mount.unmount();
}

#[test]
fn readers_side_by_side_all_read_right_while_files_are_pushed() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "threads=2,push"]);
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (mount, files) = (&mount, &files);
            scope.spawn(move || {
                read_all(mount, &files[n * 37..]);
                read_all(mount, &files[..n * 90]);
            });
        }
    });
    mount.unmount();
}
