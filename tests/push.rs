//! Small files that the mount pushes into the page cache before they are read: the right bytes, and only where reads come.

mod common;

use common::left_out::need_fuse;
use common::mounted::Mounted;
use common::{Lab, prose, write};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILES: usize = 600;

/// A tree of small files in a few directories, and each one's path below the root and bytes, in the packer's order.
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

fn counters(mount: &Path) -> HashMap<String, u64> {
    let mut text = [0; 4096];
    let len = rustix::fs::getxattr(mount, "user.floe.counters", &mut text).expect("a mount counts");
    let text = std::str::from_utf8(&text[..len]).unwrap();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(name, n)| (name.into(), n.parse().unwrap())).collect()
}

fn read_all(mount: &Mounted, files: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in files {
        assert!(fs::read(mount.join(path)).unwrap() == *bytes, "{} reads wrong", path.display());
    }
}

#[test]
fn files_found_by_name_are_pushed_behind_their_look_ups() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    read_all(&mount, &files);
    let counters = counters(mount.path());
    // Whether a push wins the race is the scheduler's to say; that it is tried is not.
    assert!(counters["pushed"] + counters["pushed_late"] > 0, "{counters:?}");
    read_all(&mount, &files);
    mount.unmount();
}

#[test]
fn files_known_from_a_listing_are_pushed_ahead_of_their_reader() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    for dir in ["d0", "d1", "d2"] {
        assert_eq!(fs::read_dir(mount.join(dir)).unwrap().count(), FILES / 3);
    }
    let (first, rest) = files.split_at(4);
    read_all(&mount, first);
    let begin = Instant::now();
    while counters(mount.path())["pushed_ahead"] == 0 {
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
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    for (path, bytes) in &files {
        assert_eq!(fs::metadata(mount.join(path)).unwrap().len(), bytes.len() as u64);
    }
    let counters = counters(mount.path());
    for counter in ["pushed", "pushed_late", "pushed_ahead", "inflations"] {
        assert_eq!(counters[counter], 0, "{counter}");
    }
    mount.unmount();
}

#[test]
fn without_read_ahead_nothing_is_pushed() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "readahead=0"]);
    read_all(&mount, &files);
    let counters = counters(mount.path());
    assert_eq!(counters["ahead"], 0);
    assert!(!counters.contains_key("pushed"), "there is nothing that could push");
    mount.unmount();
}

#[test]
fn readers_side_by_side_all_read_right_while_files_are_pushed() {
    need_fuse!();
    let lab = Lab::new();
    let (image, files) = tree(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "threads=2"]);
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
