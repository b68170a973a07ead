//! The commands around a writable mount: their messages, what may be done at the same time, and the state afterwards.

mod common;

use common::left_out::{need_fuse, need_program, need_root};
use common::mounted::{Mounted, daemons, unmounted_by, wait_until_ended};
use common::{Lab, floe, is_root, noise, write};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A lab with an empty image and a mount point.
fn empty() -> (Lab, PathBuf, PathBuf) {
    let lab = Lab::new();
    let image = lab.image("x.floe");
    floe!("mkfs", &image).exits(0);
    let dir = lab.mount_point("m");
    (lab, image, dir)
}

/// Everything written stays in the thaw log, even at unmount.
const OFF: [&str; 2] = ["-o", "freeze=off"];

/// The same, with `old` in a checkpoint, its bytes in the log, and nothing mounted.
fn written() -> (Lab, PathBuf, PathBuf) {
    let (lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &OFF);
    write(mount.join("old"), noise(1, 50_000));
    write(mount.join("dir/other"), noise(2, 10));
    mount.unmount();
    (lab, image, dir)
}

fn log_of(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".thaw");
    name.into()
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).expect("one document")
}

#[test]
fn what_is_written_is_in_the_image_alone_after_unmounting() {
    need_fuse!();
    let (lab, image, dir) = empty();
    floe!("mount", &image, &dir).exits(0);
    write(dir.join("file"), "text");
    assert_eq!(floe!("umount", &dir).exits(0).stderr, "");
    assert_eq!(lab.image_folder(), ["x.floe"]);
    floe!("check", &image).exits(0);
    // Nothing is written before the first change, and without a change nothing changes.
    let before = fs::read(&image).expect("an image");
    floe!("mount", &image, &dir).exits(0);
    assert_eq!(fs::read(dir.join("file")).expect("it is there"), b"text");
    floe!("umount", &dir).exits(0);
    assert!(fs::read(&image).expect("an image") == before);
    assert_eq!(floe!("cat", &image, "file").exits(0).out(), "text");
}

#[test]
fn what_is_not_frozen_stays_in_the_log_and_umount_says_that_the_image_alone_is_not_complete() {
    need_fuse!();
    let (lab, image, dir) = empty();
    floe!("mount", OFF[0], OFF[1], &image, &dir).exits(0);
    write(dir.join("file"), "text");
    let told = floe!("umount", &dir).exits(0);
    told.says(&[
        "the image alone is not complete",
        "4 B of 1 file stay in its thaw log",
        "x.floe.thaw'",
        "floe freeze",
    ]);
    assert_eq!(lab.image_folder(), ["x.floe", "x.floe.thaw"]);
    floe!("check", &image).exits(0);
    let before = fs::read(&image).expect("an image");
    floe!("mount", OFF[0], OFF[1], &image, &dir).exits(0);
    assert_eq!(fs::read(dir.join("file")).expect("it is there"), b"text");
    floe!("umount", &dir).exits(0);
    assert!(fs::read(&image).expect("an image") == before);
    assert_eq!(floe!("ls", &image).exits(0).out(), "file\n");
}

#[test]
fn an_image_that_was_written_and_emptied_again_is_complete_alone() {
    need_fuse!();
    let (lab, image, dir) = written();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    fs::remove_file(mount.join("old")).expect("it can be removed");
    fs::remove_file(mount.join("dir/other")).expect("it can be removed");
    mount.unmount();
    assert_eq!(lab.image_folder(), ["x.floe"]);
    let info = json(&floe!("info", "--json", &image).exits(0).stdout);
    assert_eq!(info["clean"], true);
    floe!("check", &image).exits(0);
}

#[test]
fn a_second_mount_is_read_only_and_says_who_writes_and_with_rw_it_fails() {
    need_fuse!();
    let (lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    write(mount.join("file"), "text");
    floe!("sync", mount.path()).exits(0);
    let pid = daemons(&image).first().expect("a daemon").as_raw_nonzero();
    let who = format!("process {pid} on host");
    let second = lab.mount_point("second");
    floe!("mount", &image, &second).exits(0).says(&["read-only", &who]);
    assert!(fs::write(second.join("file"), "x").is_err());
    floe!("umount", &second).exits(0);
    floe!("mount", "-o", "rw", &image, &second).exits(11).says(&["x.floe", "for writing", &who]);
    floe!("mount", "-o", "ro", &image, &second).exits(0);
    floe!("umount", &second).exits(0);
    // Nor can anybody replace it.
    let source = lab.tree("source");
    floe!("pack", "-f", &source, &image).exits(11).says(&["cannot write", &who]);
    floe!("mkfs", "-f", &image).exits(11).says(&["cannot write", &who]);
    mount.unmount();
}

#[test]
fn an_image_that_cannot_be_written_is_mounted_read_only_and_says_why() {
    need_fuse!();
    need_root!();
    let (lab, image, dir) = empty();
    let bound = lab.mount_point("bound");
    let mount = |args: &[&str]| {
        let mut command = std::process::Command::new("mount");
        command.args(args).arg(&bound);
        common::status(&mut command).expect("mount runs").success()
    };
    assert!(mount(&["--bind", image.parent().and_then(Path::to_str).expect("a path")]));
    assert!(mount(&["-o", "remount,bind,ro"]));
    let read_only = floe!("mount", bound.join("x.floe"), &dir);
    let writable = floe!("mount", "-o", "rw", bound.join("x.floe"), lab.mount_point("second"));
    let served = fs::write(dir.join("file"), "x");
    let unmounted = floe!("umount", &dir);
    common::status(std::process::Command::new("umount").arg(&bound)).expect("umount runs");
    read_only.exits(0).says(&["x.floe", "is mounted read-only", "Read-only file system"]);
    writable.exits(1).says(&["for writing", "Read-only file system"]);
    assert!(served.is_err());
    unmounted.exits(0);
}

#[test]
fn after_sync_a_killed_daemon_loses_nothing_and_the_next_mount_says_what_it_brought_back() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    floe!("mount", "-o", "commit=3600", &image, &dir).exits(0);
    write(dir.join("kept"), noise(3, 100_000));
    fs::create_dir(dir.join("sub")).expect("a directory");
    floe!("sync", dir.join("sub")).exits(0);
    let daemon = *daemons(&image).first().expect("a daemon");
    kill_process(daemon, Signal::KILL).expect("it can be killed");
    wait_until_ended(daemon);
    floe!("umount", &dir).exits(0).says(&["had died"]);
    // Readers see the last checkpoint, which has none of it.
    assert_eq!(floe!("ls", &image).exits(0).says(&["a writable mount shows the rest"]).out(), "");
    let said = floe!("mount", &image, &dir).exits(0).says(&["recovered", "3 files and directories", "97.7 KiB"]);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    assert!(fs::read(dir.join("kept")).expect("it is there") == noise(3, 100_000));
    assert!(dir.join("sub").is_dir());
    floe!("umount", &dir).exits(0);
    floe!("check", &image).exits(0);
}

#[test]
fn sync_refuses_what_is_in_no_mount_of_floe() {
    let lab = Lab::new();
    floe!("sync", lab.path("images")).exits(1).says(&["cannot sync", "images", "in no mount of floe"]);
    floe!("sync", lab.path("missing")).exits(1).says(&["missing", "No such file"]);
    floe!("sync").exits(2);
}

#[test]
fn sync_of_a_read_only_mount_has_nothing_to_do() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    let mount = Mounted::new(&image, &dir, &[]);
    floe!("sync", mount.path()).exits(0);
    mount.unmount();
}

#[test]
fn readers_beside_the_writer_see_the_last_checkpoint_and_never_damage() {
    need_fuse!();
    let (_lab, image, dir) = written();
    let mount = Mounted::as_asked(&image, &dir, &OFF);
    for round in 0..5 {
        for n in 0..40 {
            write(mount.join(format!("{round}/{n}")), noise(n, 3000));
        }
        let out = floe!("check", &image).exits(0).out();
        assert!(out.contains("writes the image: this is its last checkpoint"), "{out}");
        assert_eq!(floe!("ls", &image).exits(0).says(&["writes", "its last checkpoint"]).out(), "dir\nold\n");
        let info = json(&floe!("info", "--json", &image).exits(0).stdout);
        assert_eq!(info["thawed"]["in_log"], serde_json::json!({ "ranges": 2, "bytes": 50_010 }));
        assert!(info["writer"].as_str().is_some_and(|who| who.starts_with("process ")), "{info}");
    }
    mount.unmount();
    floe!("check", &image).exits(0);
}

#[test]
fn a_copy_of_the_image_that_is_made_meanwhile_lacks_the_log_and_says_so_and_gives_no_zeros() {
    need_fuse!();
    let (lab, image, dir) = written();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    write(mount.join("new"), "new");
    floe!("sync", mount.path()).exits(0);
    let copy = lab.image("copy.floe");
    fs::copy(&image, &copy).expect("a copy");
    mount.unmount();

    let cat = floe!("cat", &copy, "old").exits(3);
    assert!(cat.stdout.is_empty(), "not a byte that was not written");
    let out = floe!("check", &copy).exits(3).out();
    assert!(out.contains("lost: 50010 bytes of files, in 2 ranges, are in a missing thaw log"), "{out}");
    assert!(out.contains("  dir/other\n  old\n"), "{out}");
    let info = json(&floe!("info", "--json", &copy).exits(0).stdout);
    assert_eq!(info["thawed"]["in_log"]["bytes"], 50_010);
    floe!("mount", &copy, &dir).exits(0).says(&["read-only", "thaw log", "missing", "--forget-thaw"]);
    assert_eq!(fs::read(dir.join("old")).expect_err("it is not there").raw_os_error(), Some(5));
    floe!("umount", &dir).exits(0);
}

#[test]
fn a_log_that_is_given_up_is_listed_and_what_was_in_it_is_an_error_until_it_is_overwritten() {
    need_fuse!();
    let (lab, image, dir) = written();
    let log = log_of(&image);
    fs::rename(&log, lab.path("log")).expect("another place");
    floe!("mount", "-o", "rw", &image, &dir).exits(1).says(&["for writing", "missing", "--forget-thaw"]);
    // While the log is in its place, it is not given up.
    fs::rename(lab.path("log"), &log).expect("another place");
    floe!("mount", "--forget-thaw", OFF[0], OFF[1], &image, &dir).exits(0);
    assert!(fs::read(dir.join("old")).expect("it is there") == noise(1, 50_000));
    floe!("umount", &dir).exits(0);
    fs::rename(&log, lab.path("log")).expect("another place");

    let listed = floe!("mount", "--forget-thaw", &image, &dir).exits(0).says(&["is given up", "2 files"]);
    assert_eq!(listed.out(), "dir/other  (10 B in 1 range)\nold  (48.8 KiB in 1 range)\n");
    assert_eq!(fs::read(dir.join("old")).expect_err("it is lost").raw_os_error(), Some(5));
    fs::write(dir.join("dir/other"), "new").expect("it can be written");
    assert_eq!(fs::read(dir.join("dir/other")).expect("it is there"), b"new");
    floe!("umount", &dir).exits(0);
    let out = floe!("check", &image).exits(3).out();
    assert!(out.contains("lost: 50000 bytes of files, in 1 ranges, are lost"), "{out}");
    assert!(out.contains("  old\n"), "{out}");
    let info = json(&floe!("info", "--json", &image).exits(0).stdout);
    // Everything written since is frozen, and the log is gone: the lost bytes are in no log.
    assert_eq!((&info["thawed"]["lost"]["bytes"], &info["thawed"]["in_log"]["bytes"]), (&50_000.into(), &0.into()));
    assert!(!log.exists());
}

#[test]
fn a_damaged_log_is_left_alone_and_the_mount_is_read_only_and_says_what_to_do() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    floe!("mount", OFF[0], OFF[1], &image, &dir).exits(0);
    write(dir.join("a-name-in-a-transaction"), "text");
    floe!("sync", &dir).exits(0);
    write(dir.join("later"), "text");
    floe!("sync", &dir).exits(0);
    write(dir.join("last"), "text");
    floe!("umount", &dir).exits(0);
    let segment = log_of(&image).join("0000000000000000");
    let bytes = fs::read(&segment).expect("a segment");
    let name = b"a-name-in-a-transaction";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("the name is in a transaction");
    let file = File::options().write(true).open(&segment).expect("it opens");
    file.write_all_at(b"A", at as u64).expect("it can be written");
    let damaged = fs::read(&segment).expect("a segment");
    floe!("mount", &image, &dir).exits(0).says(&["read-only", "damaged", "floe check", "--forget-thaw"]);
    assert!(fs::write(dir.join("x"), "x").is_err());
    floe!("umount", &dir).exits(0);
    floe!("mount", "-o", "rw", &image, &dir).exits(1).says(&["damaged"]);
    assert!(fs::read(&segment).expect("a segment") == damaged, "nothing of a damaged log is overwritten");
    floe!("check", &image).exits(3);
}

#[test]
fn umount_fails_while_somebody_uses_the_mount_and_says_so() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    let mut open = File::create(mount.join("open")).expect("a file");
    floe!("umount", &dir).exits(1).says(&["cannot unmount", "it is in use"]);
    open.write_all(b"still").expect("it can be written");
    drop(open);
    mount.unmount();
    assert_eq!(floe!("ls", &image).exits(0).out(), "open\n");
}

#[test]
fn mount_8_mounts_writable_unless_it_says_ro() {
    need_fuse!();
    let (_lab, image, dir) = empty();
    floe!(&image, &dir, "-o", "rw").exits(0);
    write(dir.join("file"), "text");
    floe!("umount", &dir).exits(0);
    floe!(&image, &dir, "-o", "ro").exits(0);
    assert!(fs::write(dir.join("other"), "x").is_err());
    floe!("umount", &dir).exits(0);
}

/// README.md lists these operations as not offered.
#[test]
fn what_is_not_offered_fails_with_the_error_that_is_documented() {
    need_fuse!();
    need_program!("python3");
    let (lab, image, dir) = empty();
    let mount = Mounted::as_asked(&image, &dir, &[]);
    let script = r#"
import ctypes, errno, fcntl, os, struct, sys
m = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
def told(name, call):
    try:
        call()
        print(name, "OK")
    except OSError as error:
        print(name, errno.errorcode[error.errno].replace("ENOTSUP", "EOPNOTSUPP"))
open(m + "/f", "wb").write(b"x" * 100000)
open(m + "/g", "wb").close()
f, g, d = os.open(m + "/f", os.O_RDWR), os.open(m + "/g", os.O_RDWR), os.open(m, os.O_RDONLY)
L = ctypes.c_long
told("O_TMPFILE", lambda: os.open(m, os.O_TMPFILE | os.O_RDWR, 0o600))
told("FS_IOC_GETFLAGS", lambda: fcntl.ioctl(f, 0x80086601, b"\0" * 8))
told("FS_IOC_SETFLAGS", lambda: fcntl.ioctl(f, 0x40086602, b"\0" * 8))
told("FS_IOC_FSGETXATTR", lambda: fcntl.ioctl(f, 0x801c581f, b"\0" * 28))
told("FIEMAP", lambda: fcntl.ioctl(f, 0xc020660b, struct.pack("QQIIII", 0, 1 << 20, 0, 0, 0, 0)))
told("FICLONE", lambda: fcntl.ioctl(g, 0x40049409, f))
told("COLLAPSE_RANGE", lambda: call("fallocate", f, 8, L(0), L(4096)))
told("INSERT_RANGE", lambda: call("fallocate", f, 32, L(0), L(4096)))
told("UNSHARE_RANGE", lambda: call("fallocate", f, 64, L(0), L(4096)))
told("RENAME_WHITEOUT", lambda: call("renameat2", -100, (m + "/f").encode(), -100, (m + "/h").encode(), 4))
told("user.floe.x", lambda: os.setxattr(m + "/f", "user.floe.x", b"1"))
told("syncfs", lambda: call("syncfs", d))
"#;
    let script_file = lab.path("not-offered.py");
    fs::write(&script_file, script).expect("a script");
    let mut command = std::process::Command::new("python3");
    command.arg(&script_file).arg(mount.path());
    let told = common::run(command).exits(0).out();
    let expected = [
        "O_TMPFILE EOPNOTSUPP",
        "FS_IOC_GETFLAGS ENOTTY",
        "FS_IOC_SETFLAGS ENOTTY",
        "FS_IOC_FSGETXATTR ENOTTY",
        "FIEMAP EOPNOTSUPP",
        "FICLONE EOPNOTSUPP",
        "COLLAPSE_RANGE EOPNOTSUPP",
        "INSERT_RANGE EOPNOTSUPP",
        "UNSHARE_RANGE EOPNOTSUPP",
        // Making a whiteout needs CAP_MKNOD, which the kernel checks first.
        if is_root() { "RENAME_WHITEOUT EINVAL" } else { "RENAME_WHITEOUT EPERM" },
        "user.floe.x EOPNOTSUPP",
        "syncfs OK",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    mount.unmount();
}

#[test]
fn a_mount_right_after_umount_8_waits_for_the_daemon_that_is_ending_and_is_writable() {
    need_fuse!();
    need_root!();
    let (_lab, image, dir) = empty();
    for round in 0..5 {
        floe!("mount", &image, &dir).exits(0);
        for n in 0..100 {
            write(dir.join(format!("{round}-{n}")), noise(n, 20_000));
        }
        // umount(8) returns before the daemon has committed.
        let umount = || {
            let mut command = std::process::Command::new("umount");
            command.arg(&dir);
            command
        };
        unmounted_by(umount).exits(0);
        floe!("mount", "-o", "rw", &image, &dir).exits(0);
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), (round + 1) * 100);
        floe!("umount", &dir).exits(0);
    }
}
