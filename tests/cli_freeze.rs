//! `floe freeze`, `--status`, and freezing at unmount: the real program, on real mounts.

mod common;

use common::compare::assert_same;
use common::left_out::{need_fuse, need_root};
use common::mounted::{Mounted, daemons, is_mounted, wait_until_ended};
use common::run::{Run, floe_command, run, spawn, wait};
use common::twin::as_user;
use common::{Lab, floe, noise, prose, write};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The user nobody.
const OTHER: u32 = 65534;

/// A lab with an empty image and a mount point.
fn empty() -> (Lab, PathBuf, PathBuf) {
    let lab = Lab::new();
    let image = lab.image("x.floe");
    floe!("mkfs", &image).exits(0);
    let dir = lab.mount_point("m");
    (lab, image, dir)
}

/// Kills the daemon, and removes the dead mount.
fn crash(image: &Path, dir: &Path) {
    let daemon = *daemons(image).first().expect("a daemon");
    kill_process(daemon, Signal::KILL).expect("it can be killed");
    wait_until_ended(daemon);
    floe!("umount", dir).exits(0).says(&["had died"]);
}

/// The line of the type `kind` among the JSON lines that a command wrote.
fn line(run: &Run, kind: &str) -> Value {
    let lines = run.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut lines = lines.map(|line| serde_json::from_slice::<Value>(line).expect("a line of JSON"));
    lines.find(|line| line["message_type"] == kind).unwrap_or_else(|| panic!("no '{kind}' in {run:?}"))
}

fn status(dir: &Path) -> Value {
    serde_json::from_slice(&floe!("freeze", "--status", "--json", dir).exits(0).stdout).expect("one document")
}

fn digest(of: &Path) -> String {
    floe!("digest", of).exits(0).out()
}

/// A tree with all kinds of files that freezing treats differently.
fn tree(lab: &Lab) -> PathBuf {
    let tree = lab.tree("tree");
    for n in 0..60 {
        write(tree.join(format!("small/{n}")), prose(n, 3000));
    }
    write(tree.join("tiny"), "tiny");
    write(tree.join("none"), "");
    write(tree.join("large"), noise(7, 3_000_000));
    write(tree.join("large again"), noise(7, 3_000_000));
    let holes = File::create(tree.join("holes")).expect("a file");
    holes.write_all_at(&noise(8, 100_000), 1 << 20).expect("a write");
    holes.set_len(3 << 20).expect("it can grow");
    tree
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from.join(".")).arg(to);
    run(command).exits(0);
}

#[test]
fn what_is_copied_into_a_mount_freezes_to_what_pack_makes_and_the_log_is_gone_after_unmounting() {
    need_fuse!();
    let (lab, image, dir) = empty();
    let tree = tree(&lab);
    let mount = Mounted::as_asked(&image, &dir, &[]);
    copy(&tree, &dir);
    let told = floe!("freeze", dir.join("small")).exits(0);
    let told =
        told.says(&["froze ", "  new: ", "superchunk", "  shared: ", "the image is complete as of this checkpoint"]);
    assert!(told.stdout.is_empty());
    assert_same(&tree, &dir);
    // A copy of the image alone has everything, although the image is mounted.
    let alone = lab.image("copy.floe");
    fs::copy(&image, &alone).expect("a copy");
    let info = serde_json::from_slice::<Value>(&floe!("info", "--json", &alone).exits(0).stdout).expect("one document");
    assert_eq!(info["thawed"]["in_log"]["bytes"], 0);
    mount.unmount();
    assert_eq!(lab.image_folder(), ["copy.floe", "x.floe"]);
    floe!("check", &image).exits(0);
    assert_eq!(digest(&image), digest(&lab.pack(&[], &tree, "packed.floe")));
    assert_eq!(digest(&image), digest(&alone));
}

#[test]
fn a_second_freeze_has_nothing_to_do_and_writes_nothing() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    write(dir.join("file"), noise(1, 200_000));
    let first = line(&floe!("freeze", "--json", &dir).exits(0), "summary");
    let done = |name: &str| first[name].as_u64().expect("a number");
    assert_eq!((done("files"), done("frozen_bytes"), done("new_bytes"), done("superchunks")), (1, 200_000, 200_000, 1));
    assert!(done("stored_bytes") >= 200_000, "noise cannot be made smaller");
    assert_eq!((&first["complete"], done("left_bytes"), done("failed_files")), (&Value::Bool(true), 0, 0));
    let before = fs::read(&image).expect("it can be read");
    let second = line(&floe!("freeze", "--json", &dir).exits(0), "summary");
    assert_eq!(
        (&second["frozen_bytes"], &second["superchunks"], &second["complete"]),
        (&0.into(), &0.into(), &true.into())
    );
    floe!("freeze", &dir).exits(0).says(&["nothing to freeze"]);
    assert!(fs::read(&image).expect("it can be read") == before);
    mount.unmount();
}

#[test]
fn files_that_are_open_are_frozen_and_go_on_to_be_written() {
    need_fuse!();
    let (lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    let open = File::create(dir.join("open")).expect("a file");
    open.write_all_at(&noise(1, 300_000), 0).expect("a write");
    floe!("freeze", &dir).exits(0).says(&["froze 293.0 KiB of 1 file"]);
    open.write_all_at(&noise(2, 50_000), 100_000).expect("a write");
    drop(open);
    mount.unmount();
    assert_eq!(lab.image_folder(), ["x.floe"]);
    let mut expected = noise(1, 300_000);
    expected[100_000..150_000].copy_from_slice(&noise(2, 50_000));
    assert!(floe!("cat", &image, "open").exits(0).stdout == expected);
    floe!("check", &image).exits(0);
}

#[test]
fn an_image_whose_daemon_was_killed_is_recovered_and_frozen_and_its_log_goes() {
    need_fuse!();
    let (lab, image, dir) = empty();
    let tree = tree(&lab);
    floe!("mount", "-o", "freeze=off", &image, &dir).exits(0);
    copy(&tree, &dir);
    floe!("sync", &dir).exits(0);
    crash(&image, &dir);
    let dry = line(&floe!("freeze", "-n", "--json", &image).exits(0), "summary");
    assert_eq!((&dry["dry_run"], &dry["files"]), (&true.into(), &64.into()));
    let told = floe!("freeze", &image).exits(0).says(&["recovered from the thaw log", "froze ", " of 64 files"]);
    told.says(&["the image is complete, and its thaw log is gone"]);
    assert_eq!(lab.image_folder(), ["x.floe"]);
    floe!("check", &image).exits(0);
    assert_eq!(digest(&image), digest(&lab.pack(&[], &tree, "packed.floe")));
    // A second run has nothing to do: for cron.
    let before = fs::read(&image).expect("it can be read");
    floe!("freeze", &image).exits(0).says(&["nothing to freeze", "nothing was written"]);
    assert!(fs::read(&image).expect("it can be read") == before);
    let summary = line(&floe!("freeze", "--json", &image).exits(0), "summary");
    assert_eq!((&summary["bytes"], &summary["complete"]), (&0.into(), &true.into()));
}

#[test]
fn a_log_that_nothing_needs_any_more_goes_too() {
    need_fuse!();
    let (lab, image, dir) = empty();
    floe!("mount", &image, &dir).exits(0);
    write(dir.join("file"), noise(1, 100_000));
    floe!("freeze", &dir).exits(0);
    crash(&image, &dir);
    assert_eq!(lab.image_folder(), ["x.floe", "x.floe.lock", "x.floe.thaw"]);
    floe!("freeze", &image).exits(0).says(&["nothing to freeze", "its thaw log is gone"]);
    assert_eq!(lab.image_folder(), ["x.floe"]);
    floe!("check", &image).exits(0);
    assert!(floe!("cat", &image, "file").exits(0).stdout == noise(1, 100_000));
}

#[test]
fn the_state_of_a_mount_says_what_is_thawed_and_what_the_freezer_does() {
    need_fuse!();
    let (lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &["-o", "freeze=off,commit=3600"]);
    write(dir.join("dir/file"), noise(1, 100_000));
    let before = status(&dir.join("dir"));
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or_else(|| panic!("{name}: {of}"));
    assert_eq!((number(&before, "thawed_bytes"), number(&before, "thawed_files")), (100_000, 1));
    assert!(number(&before, "log_bytes") > 100_000 && number(&before, "pending_bytes") > 0);
    assert_eq!(before["mount"]["path"], dir.canonicalize().expect("it is there").to_str().expect("text"));
    assert_eq!(before["image"]["path"], image.canonicalize().expect("it is there").to_str().expect("text"));
    assert_eq!((&before["freeze"], &before["freezing"], &before["last"]), (&"off".into(), &false.into(), &Value::Null));
    assert!(before["checkpoint_seconds"].is_null() && before["uncommitted_seconds"].is_u64());
    let shown = floe!("freeze", "--status", &dir).exits(0).out();
    for part in
        ["x.floe on ", "thawed           97.7 KiB of 1 file\n", "waits to be asked", "none since it was mounted"]
    {
        assert!(shown.contains(part), "'{part}' is not in {shown}");
    }
    floe!("freeze", "-n", &dir).exits(0).says(&["97.7 KiB of 1 file would be frozen"]);
    assert_eq!(number(&status(&dir), "thawed_bytes"), 100_000);
    floe!("freeze", "-q", &dir).exits(0);
    let after = status(&dir);
    assert_eq!((number(&after, "thawed_bytes"), number(&after["last"], "frozen_bytes")), (0, 100_000));
    assert!(after["checkpoint_seconds"].is_u64() && after["error"].is_null() && after["failed"].is_null());
    let shown = floe!("freeze", "--status", &dir).exits(0).out();
    assert!(shown.contains("thawed           nothing\n") && shown.contains("has nothing to do"), "{shown}");
    mount.unmount();

    let mount = Mounted::new(&image, &dir, &[]);
    assert_eq!(status(&dir)["read_only"], true);
    assert!(floe!("freeze", "--status", &dir).exits(0).out().contains("read-only"));
    floe!("freeze", &dir).exits(0).says(&["read-only", "nothing to freeze"]);
    mount.unmount();

    floe!("freeze", "--status", &image).exits(2).says(&["--status is for a directory of a mount"]);
    floe!("freeze", lab.path("images")).exits(1).says(&["cannot freeze", "in no mount of floe"]);
    floe!("freeze", lab.path("missing")).exits(10).says(&["missing"]);
    fs::write(lab.path("text"), "text").expect("a file");
    floe!("freeze", lab.path("text")).exits(10).says(&["bad magic"]);
}

#[test]
fn a_file_says_how_much_of_it_is_thawed() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &["-o", "freeze=off"]);
    let file = File::create(dir.join("file")).expect("a file");
    file.write_all_at(&noise(1, 500_000), 0).expect("a write");
    let state = |name: &str| {
        let mut text = [0; 4096];
        let len = rustix::fs::getxattr(dir.join(name), "user.floe.state", &mut text).expect("it answers");
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    assert_eq!(state("file"), "thawed_bytes 500000\nlost_bytes 0\nfrozen_bytes 0\n");
    floe!("freeze", &dir).exits(0);
    assert_eq!(state("file"), "thawed_bytes 0\nlost_bytes 0\nfrozen_bytes 500000\n");
    file.write_all_at(b"changed", 1000).expect("a write");
    assert_eq!(state("file"), "thawed_bytes 7\nlost_bytes 0\nfrozen_bytes 499993\n");
    drop(file);
    mount.unmount();
}

#[test]
fn only_who_mounted_it_and_root_may_have_it_frozen() {
    need_fuse!();
    need_root!();
    let (_lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &["-o", "allow_other,freeze=off"]);
    // Write permission on the root directory is not enough to freeze.
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it can be changed");
    write(dir.join("file"), noise(1, 100_000));
    let set = |path: &Path, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "user.floe.freeze", value, flags).map_err(|errno| errno.raw_os_error())
    };
    // By a descriptor: the directories above may be closed to others.
    let root = File::open(&dir).expect("the mount's root");
    let set_open = || {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&root, "user.floe.freeze", b"all", flags).map_err(|errno| errno.raw_os_error())
    };
    assert_eq!(as_user(OTHER, OTHER, &[], set_open), Err(libc::EPERM));
    drop(root);
    assert_eq!(status(&dir)["thawed_bytes"], 100_000);
    assert_eq!(set(&dir, b"some"), Err(libc::EINVAL));
    assert_eq!(set(&dir.join("file"), b"all"), Err(libc::EOPNOTSUPP));
    assert_eq!(set(&dir, b"all"), Ok(()));
    floe!("freeze", &dir).exits(0);
    assert_eq!(status(&dir)["thawed_bytes"], 0);
    mount.unmount();
}

#[test]
fn an_image_that_is_mounted_is_frozen_through_its_mount_and_the_message_names_that() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    write(dir.join("file"), "text");
    let pid = daemons(&image).first().expect("a daemon").as_raw_nonzero();
    let at = dir.canonicalize().expect("it is there");
    let told = floe!("freeze", &image).exits(11).says(&["cannot freeze", &format!("process {pid} on host")]);
    told.says(&[&format!("mounted on {}: 'floe freeze {}'", at.display(), at.display())]);
    mount.unmount();
}

#[test]
fn unmounting_freezes_everything_unless_told_not_to() {
    need_fuse!();
    let (lab, image, dir) = empty();
    let bytes = |n| noise(n, 150_000);
    for (round, options, log) in [(1, &[][..], false), (2, &["-o", "freeze=off"][..], true), (3, &[][..], false)] {
        let mut command = floe_command(["mount"]);
        command.args(options).arg(&image).arg(&dir);
        run(command).exits(0);
        write(dir.join(format!("{round}")), bytes(round));
        let told = floe!("umount", &dir).exits(0);
        assert_eq!(lab.image_folder().contains(&"x.floe.thaw".to_owned()), log, "round {round}");
        match log {
            true => drop(told.says(&["146.5 KiB of 1 file stay in its thaw log", "'floe freeze ", "x.floe'"])),
            false => assert_eq!(told.stderr, "", "round {round}"),
        }
    }
    floe!("check", &image).exits(0);
    for round in 1..4 {
        assert!(floe!("cat", &image, format!("{round}")).exits(0).stdout == bytes(round));
    }
}

#[test]
fn a_daemon_that_is_told_to_end_freezes_what_it_can_and_so_does_umount_without_a_freeze() {
    need_fuse!();
    let (lab, image, dir) = empty();
    floe!("mount", &image, &dir).exits(0);
    write(dir.join("one"), noise(1, 150_000));
    let daemon = *daemons(&image).first().expect("a daemon");
    kill_process(daemon, Signal::TERM).expect("it can be told");
    wait_until_ended(daemon);
    assert_eq!(lab.image_folder(), ["x.floe"]);
    floe!("mount", &image, &dir).exits(0);
    write(dir.join("two"), noise(2, 150_000));
    floe!("umount", "--no-freeze", &dir).exits(0);
    assert_eq!(lab.image_folder(), ["x.floe"]);
    floe!("check", &image).exits(0);
    assert!(floe!("cat", &image, "one").exits(0).stdout == noise(1, 150_000));
    assert!(floe!("cat", &image, "two").exits(0).stdout == noise(2, 150_000));
}

#[test]
fn a_mount_that_does_not_answer_is_unmounted_all_the_same() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &["-o", "freeze=off"]);
    write(dir.join("file"), noise(1, 50_000));
    floe!("sync", &dir).exits(0);
    let daemon = daemons(&image)[0];
    kill_process(daemon, Signal::STOP).expect("it can be stopped");
    let mut umount = spawn(floe_command(["umount"]).arg(&dir).stderr(Stdio::piped())).expect("floe runs");
    let mounts = File::open("/proc/self/mounts").expect("/proc is mounted");
    let begun = std::time::Instant::now();
    while is_mounted(&dir) {
        let mut fds = [rustix::event::PollFd::new(&mounts, rustix::event::PollFlags::PRI)];
        let tick = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut fds, Some(&tick));
        assert!(begun.elapsed().as_secs() < 120, "it is still mounted");
    }
    kill_process(daemon, Signal::CONT).expect("it can go on");
    assert_eq!(wait(&mut umount).and_then(|status| status.code()), Some(0));
    let mut said = String::new();
    let mut err = umount.stderr.take().expect("a pipe");
    std::io::Read::read_to_string(&mut err, &mut said).expect("it says something");
    assert!(said.contains("without a freeze before: it has not answered"), "{said}");
    std::mem::forget(mount);
    assert!(floe!("freeze", &image).exits(0).stderr.contains("froze 48.8 KiB of 1 file"));
}
