//! Tests of the test helpers: a comparison that finds nothing proves something only if it finds real differences.

mod common;

use common::compare::{assert_same, compare};
use common::left_out::need_fuse;
use common::mounted::{daemons, is_mounted, wait_until_ended};
use common::{Guardian, Lab, floe, nasty, write, xattrs};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn the_nasty_tree_is_the_same_each_time_it_is_laid_out() {
    let lab = Lab::new();
    let (one, two) = (lab.tree("one"), lab.tree("two"));
    nasty::build(&one, nasty::Extent::Full);
    nasty::build(&two, nasty::Extent::Full);
    assert_same(&one, &two);
}

/// `FLOE_NASTY=DIR cargo test --test helpers -- --ignored` leaves a nasty tree in the new directory DIR.
#[test]
#[ignore = "lays the nasty tree out in $FLOE_NASTY, for benches/equal.sh and for hands"]
fn lay_the_nasty_tree_out() {
    let dir = std::env::var_os("FLOE_NASTY").expect("FLOE_NASTY says where");
    fs::create_dir(&dir).expect("a new folder is wanted");
    nasty::build(Path::new(&dir), nasty::Extent::Full);
}

type Change = fn(&Path);

#[test]
fn each_kind_of_difference_is_found() {
    let changes: &[(&str, Change)] = &[
        ("is missing", |t| fs::remove_file(t.join("file")).unwrap()),
        ("should not be", |t| write(t.join("new"), "")),
        ("size", |t| write(t.join("file"), "longer than it was")),
        ("byte 2 is", |t| {
            let time = fs::metadata(t.join("file")).unwrap().modified().unwrap();
            write(t.join("file"), "teXt");
            fs::File::open(t.join("file")).unwrap().set_modified(time).unwrap();
        }),
        ("mode", |t| fs::set_permissions(t.join("file"), fs::Permissions::from_mode(0o600)).unwrap()),
        ("mtime", |t| nasty::set_times(&t.join("file"), 1, 1)),
        ("link count", |t| fs::hard_link(t.join("file"), t.join("dir/another")).unwrap()),
        ("target", |t| {
            fs::remove_file(t.join("link")).unwrap();
            std::os::unix::fs::symlink("elsewhere", t.join("link")).unwrap();
        }),
        ("type", |t| {
            fs::remove_file(t.join("link")).unwrap();
            write(t.join("link"), "no link");
        }),
        ("xattr user.a", |t| xattrs::set(&t.join("dir"), b"user.a", b"changed").unwrap()),
        ("data ranges", |t| {
            let path = t.join("sparse");
            fs::write(&path, vec![0; 1 << 20]).unwrap();
        }),
        ("hard links", |t| {
            fs::remove_file(t.join("pair-1")).unwrap();
            fs::hard_link(t.join("other"), t.join("pair-1")).unwrap();
        }),
    ];
    for (word, change) in changes {
        let lab = Lab::new();
        let one = lab.tree("one");
        write(one.join("file"), "text");
        write(one.join("dir/below"), "text");
        write(one.join("pair-1"), "pair");
        fs::hard_link(one.join("pair-1"), one.join("pair-2")).unwrap();
        write(one.join("other"), "pair");
        fs::File::create(one.join("sparse")).unwrap().set_len(1 << 20).unwrap();
        std::os::unix::fs::symlink("file", one.join("link")).unwrap();
        xattrs::set(&one.join("dir"), b"user.a", b"value").unwrap();
        let two = lab.path("two");
        assert!(Command::new("cp").arg("-a").arg(&one).arg(&two).status().unwrap().success());
        assert_eq!(compare(&one, &two), Vec::<String>::new());
        change(&two);
        let found = compare(&one, &two);
        assert!(found.iter().any(|line| line.contains(word)), "'{word}' not in {found:?}");
    }
}

#[test]
fn a_mount_that_hangs_is_aborted_when_its_time_is_over_and_when_its_guardian_goes() {
    need_fuse!();
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("file"), "text");
    let image = lab.pack(&[], &source, "x.floe");
    let dir = lab.mount_point("m n");
    let statfs = || rustix::fs::statfs(&dir);
    for limit in [Duration::from_millis(300), Duration::from_secs(3600)] {
        floe!("mount", &image, &dir).exits(0);
        assert!(statfs().is_ok());
        let daemon = *daemons(&image).first().expect("a daemon serves the mount");
        kill_process(daemon, Signal::STOP).expect("it can be stopped");
        // Each thread stops when it is scheduled.
        while !all_stopped(daemon) {
            std::thread::yield_now();
        }
        let guardian = Guardian::over(&dir, limit);
        if limit > Duration::from_secs(1) {
            drop(guardian);
        } else {
            // Only the abort answers this.
            assert!(statfs().is_err());
            drop(guardian);
        }
        assert!(!is_mounted(&dir));
        kill_process(daemon, Signal::CONT).expect("it can go on");
        wait_until_ended(daemon);
    }
}

fn all_stopped(process: rustix::process::Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).expect("it lives");
    let is_stopped = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).expect("it lives");
        status.lines().any(|line| line.starts_with("State:\tT"))
    };
    tasks.flatten().all(is_stopped)
}
