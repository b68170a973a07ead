//! The mount seen from outside: what a mounted image shows, and how mounting and unmounting behave.

mod common;

use common::compare::assert_same;
use common::left_out::{left_out, need_fuse, need_root};
use common::mounted::{Mounted, daemons, is_mounted, mount_line, wait_until_ended};
use common::run::{spawn, status, wait, with_signals};
use common::{Lab, floe, floe_command, nasty, noise, prose, run, write, xattrs};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn small(lab: &Lab) -> (PathBuf, PathBuf) {
    let source = lab.tree("source");
    write(source.join("dir/file"), "some bytes\n");
    write(source.join("text"), prose(1, 300_000));
    let image = lab.pack(&["-C", "zstd:1"], &source, "small.floe");
    (source, image)
}

/// Waits, by the kernel's notice that mounts changed, until `done` returns true.
fn wait_for_mounts(done: impl Fn() -> bool) {
    let mounts = File::open("/proc/self/mounts").expect("/proc is mounted");
    while !done() {
        let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        let changed = poll(&mut [PollFd::new(&mounts, PollFlags::PRI)], Some(&limit)).expect("mounts can be polled");
        assert!(changed > 0 || done(), "nothing was mounted or unmounted for a minute");
    }
}

#[test]
fn the_mounted_nasty_tree_equals_its_source_cold_and_warm() {
    need_fuse!();
    let lab = Lab::new();
    let source = lab.tree("source");
    nasty::build(&source, nasty::Extent::Full);
    let image = lab.pack(&["-C", "zstd:3", "--superchunk-size", "1M"], &source, "nasty.floe");
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "suid,dev"]);
    assert_same(&source, mount.path());
    assert_same(&source, mount.path());
    mount.unmount();
}

#[test]
fn any_range_of_any_file_reads_right() {
    need_fuse!();
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("noise"), noise(1, 6 << 20));
    write(source.join("prose"), prose(2, 5 << 20));
    write(source.join("small"), prose(3, 5000));
    let sparse = File::create(source.join("sparse")).expect("a new file");
    sparse.set_len(8 << 20).expect("a sparse file");
    sparse.write_all_at(&noise(3, 100_000), 3 << 20).expect("it can be written");
    for options in [&["--superchunk-size", "1M"][..], &["--part-size", "64K"], &["--chunker", "fixed:32K"]] {
        let image = lab.image("ranges.floe");
        let mut command = floe_command(["pack", "-f", "-C", "zstd:1"]);
        command.args(options).arg(&source).arg(&image);
        run(command).exits(0);
        let mount = Mounted::new(&image, &lab.mount_point(&options.concat()), &[]);
        for name in ["noise", "prose", "small", "sparse"] {
            let bytes = fs::read(source.join(name)).expect("a file");
            let file = File::open(mount.join(name)).expect("it opens");
            for chunk in noise(bytes.len() as u64, 16 * 60).chunks_exact(16) {
                let number =
                    |range: std::ops::Range<usize>| chunk[range].iter().fold(0usize, |n, &b| n << 8 | usize::from(b));
                let at = number(0..6) % (bytes.len() + 10);
                let len = number(8..14) % if chunk[15] % 4 == 0 { 2 << 20 } else { 10_000 };
                let mut got = vec![0; len];
                let read = file.read_at(&mut got, at as u64).expect("a read");
                let want = &bytes[at.min(bytes.len())..(at + len).min(bytes.len())];
                assert!(got[..read] == want[..read.min(want.len())], "{name} at {at}, {len} bytes");
                assert!(read > 0 || want.is_empty(), "{name} at {at} is no end");
            }
        }
    }
}

#[test]
fn the_mount_names_its_image_and_nothing_can_be_written() {
    need_fuse!();
    let lab = Lab::new();
    let (_, packed) = small(&lab);
    let image = lab.image("with, comma and space.floe");
    fs::rename(packed, &image).expect("a rename");
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    let line = mount_line(mount.path()).expect("it is mounted");
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!(fields[0].replace("\\040", " "), image.display().to_string());
    assert_eq!(fields[2], "fuse.floe");
    let options: Vec<_> = fields[3].split(',').collect();
    assert!(options.contains(&"ro") && options.contains(&"nosuid") && options.contains(&"nodev"), "{line}");
    let refused = File::create(mount.join("new")).expect_err("it is read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let stat = rustix::fs::statvfs(mount.path()).expect("statfs works");
    assert!(stat.f_files >= 3 && stat.f_namemax == 255, "{} files, names of {}", stat.f_files, stat.f_namemax);
}

#[test]
fn umount_returns_when_the_daemon_has_ended() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    assert_eq!(daemons(&image).len(), 1, "one process serves the mount");
    fs::read(mount.join("text")).expect("it can be read");
    mount.unmount();
    assert_eq!(daemons(&image), []);
}

#[test]
fn umount_fails_where_nothing_is_mounted_or_something_is_in_use() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let dir = lab.mount_point("m");
    let done = floe!("umount", &dir).exits(1);
    assert!(done.stderr.contains("m"), "{}", done.stderr);
    let mount = Mounted::new(&image, &dir, &[]);
    let held = File::open(mount.join("text")).expect("it opens");
    let done = floe!("umount", &dir);
    assert_ne!(done.code, Some(0), "an open file keeps the mount: {}", done.stderr);
    assert!(is_mounted(&dir), "and it is still there");
    drop(held);
    mount.unmount();
}

#[test]
fn a_signal_to_terminate_unmounts() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let dir = lab.mount_point("m");
    let mount = Mounted::new(&image, &dir, &[]);
    let daemon = daemons(&image)[0];
    kill_process(daemon, Signal::TERM).expect("it can be told");
    wait_until_ended(daemon);
    assert!(!is_mounted(&dir));
    std::mem::forget(mount);
}

#[test]
fn umount_works_where_the_mount_answers_every_question_with_an_error() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let dir = lab.mount_point("m");
    let mount = Mounted::new(&image, &dir, &[]);
    File::options().write(true).open(&image).expect("it opens").set_len(0).expect("it can be cut");
    let error = fs::read_dir(&dir).expect_err("nothing can be read any more");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    mount.unmount();
    assert_eq!(daemons(&image), []);
}

#[test]
fn umount_works_where_the_daemon_answers_nothing() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let dir = lab.mount_point("m");
    let mount = Mounted::new(&image, &dir, &[]);
    let daemon = daemons(&image)[0];
    kill_process(daemon, Signal::STOP).expect("it can be stopped");
    let mut umount = spawn(floe_command(["umount"]).arg(&dir)).expect("floe runs");
    wait_for_mounts(|| !is_mounted(&dir));
    kill_process(daemon, Signal::CONT).expect("it can go on");
    assert_eq!(wait(&mut umount).and_then(|status| status.code()), Some(0), "it has waited for the daemon");
    std::mem::forget(mount);
}

#[test]
fn a_mount_over_another_is_warned_of_and_the_first_daemon_leaves_it_alone() {
    need_fuse!();
    let lab = Lab::new();
    let (_, below) = small(&lab);
    let source = lab.tree("above");
    write(source.join("above"), "other bytes\n");
    let above = lab.pack(&[], &source, "above.floe");
    let dir = lab.mount_point("m");
    std::mem::forget(Mounted::new(&below, &dir, &[]));
    floe!("mount", &above, &dir).exits(0).says(&["warning", "small.floe", "hides"]);
    let daemon = daemons(&below)[0];
    kill_process(daemon, Signal::TERM).expect("it can be told");
    wait_until_ended(daemon);
    assert_eq!(fs::read(dir.join("above")).expect("the other mount is still there"), b"other bytes\n");
    floe!("umount", &dir).exits(0);
    assert_eq!(daemons(&above), []);
    // The rest of the first mount is uncovered now, dead.
    assert!(is_mounted(&dir));
    floe!("umount", &dir).exits(0).says(&["had died"]);
    assert!(!is_mounted(&dir));
}

#[test]
fn of_two_mounts_on_a_directory_umount_takes_the_upper_and_waits_for_its_daemon() {
    need_fuse!();
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let dir = lab.mount_point("m");
    let first = Mounted::new(&image, &dir, &[]);
    let below = daemons(&image);
    floe!("mount", &image, &dir).exits(0);
    floe!("umount", &dir).exits(0);
    assert_eq!(daemons(&image), below, "the daemon of the upper mount has ended, the other lives");
    assert_same(&source, first.path());
    first.unmount();
}

#[test]
fn what_floe_has_not_mounted_it_does_not_unmount() {
    need_root!();
    let lab = Lab::new();
    let dir = lab.mount_point("m");
    let mounted = status(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&dir));
    if !mounted.is_ok_and(|status| status.success()) {
        return left_out("no tmpfs can be mounted");
    }
    let done = floe!("umount", &dir);
    let still = is_mounted(&dir);
    assert!(status(Command::new("umount").arg(&dir)).expect("umount runs").success());
    done.exits(1).says(&["no floe image is mounted there"]);
    assert!(still);
}

#[test]
fn the_daemon_keeps_no_descriptor_of_its_caller() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let mount = lab.mount_point("m");
    let floe = env!("CARGO_BIN_EXE_floe");
    let (image, dir, lock) = (image.display(), mount.display(), lab.path("lock"));
    let lock = lock.display();
    for script in [
        // floe inherits the descriptor that holds the lock: the lock must be free again after floe has returned.
        format!("flock {lock} {floe} mount {image} {dir} && flock -n {lock} true"),
        // cat reads until nobody holds the pipe.
        format!("( {floe} mount {image} {dir} ) 3>&1 | cat"),
        format!("{{ {floe} mount -o auto_unmount {image} {dir}; }} 7>&1 9>&1 | cat"),
        // Nevertheless an image may be named by a descriptor of the caller.
        format!("{floe} mount /dev/fd/5 {dir} 5< {image} && test -e {dir}/text"),
    ] {
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        run(command).exits(0);
        assert!(is_mounted(&mount), "{script}");
        floe!("umount", &mount).exits(0);
    }
}

#[test]
fn in_the_foreground_it_stays_until_it_is_told_to_end() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let dir = lab.mount_point("m");
    let start = |signals: &str| {
        let mut floe = floe_command(["mount", "-f"]);
        floe.arg(&image).arg(&dir);
        let child = spawn(&mut with_signals(&floe, signals)).expect("floe runs");
        wait_for_mounts(|| is_mounted(&dir));
        assert_eq!(fs::read(dir.join("dir/file")).expect("it can be read"), b"some bytes\n");
        child
    };
    let mut child = start("--default-signal=INT");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it can be told");
    let status = wait(&mut child).expect("it ends");
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
    assert!(!is_mounted(&dir));
    // As started by nohup: the end of the terminal does not end it.
    let mut child = start("--ignore-signal=HUP");
    kill_process(Pid::from_child(&child), Signal::HUP).expect("it can be told");
    assert_eq!(fs::read(dir.join("text")).expect("it can be read").len(), 300_000);
    floe!("umount", &dir).exits(0);
    assert_eq!(wait(&mut child).expect("it ends").code(), Some(0));
}

#[test]
fn a_dead_mount_is_cleaned_up_by_the_next() {
    need_fuse!();
    let lab = Lab::new();
    let (source, image) = small(&lab);
    let dir = lab.mount_point("m");
    let first = Mounted::new(&image, &dir, &[]);
    let daemon = daemons(&image)[0];
    kill_process(daemon, Signal::KILL).expect("it can be killed");
    wait_until_ended(daemon);
    std::mem::forget(first);
    let dead = fs::read_dir(&dir).expect_err("the mount is dead");
    assert_eq!(dead.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
    let second = Mounted::new(&image, &dir, &[]);
    assert_same(&source, second.path());
}

#[test]
fn what_cannot_be_mounted_is_refused_with_its_name() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let dir = lab.mount_point("m");
    floe!("mount", &image, &dir, "-o", "no-such-option").exits(2).says(&["no-such-option"]);
    floe!("mount", lab.image("missing.floe"), &dir).exits(10).says(&["missing.floe"]);
    let other = lab.image("other");
    write(&other, vec![7; 50_000]);
    floe!("mount", &other, &dir).exits(10);
    floe!("mount", &image, lab.path("no-folder")).exits(1).says(&["no-folder"]);
    floe!("mount", &image, lab.path("images")).exits(1);
    floe!("mount", &image, lab.path("")).exits(1);
    assert!(!is_mounted(&dir) && !is_mounted(&lab.path("images")));
}

#[test]
fn an_image_can_be_mounted_twice_and_read_in_parallel() {
    need_fuse!();
    let lab = Lab::new();
    let source = lab.small_nasty_tree();
    let image = lab.pack(&["-C", "zstd:1", "--superchunk-size", "1M"], &source, "two.floe");
    let one = Mounted::new(&image, &lab.mount_point("1"), &["-o", "suid,dev"]);
    let two = Mounted::new(&image, &lab.mount_point("2"), &["-o", "suid,dev"]);
    std::thread::scope(|scope| {
        for mount in [&one, &one, &two, &two] {
            scope.spawn(|| assert_same(&source, mount.path()));
        }
    });
}

#[test]
fn where_a_file_lies_can_be_asked_by_an_attribute_that_no_copy_takes_along() {
    need_fuse!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(mount.join("text"), "user.floe.where", value.as_mut_slice()).expect("it is there");
    assert!(len > 0);
    let listed = xattrs::all(File::open(mount.join("text")).expect("it opens")).expect("attributes can be listed");
    assert_eq!(listed, vec![]);
}

#[test]
fn programs_run_from_the_mount() {
    need_fuse!();
    let lab = Lab::new();
    let source = lab.tree("source");
    fs::copy("/bin/true", source.join("true")).expect("a copy");
    fs::set_permissions(source.join("true"), fs::Permissions::from_mode(0o755)).expect("chmod");
    let image = lab.pack(&[], &source, "program.floe");
    let mount = Mounted::new(&image, &lab.mount_point("m"), &[]);
    assert!(status(&mut Command::new(mount.join("true"))).expect("it runs").success());
}

#[test]
fn owner_and_mask_can_be_given_at_mount() {
    need_fuse!();
    need_root!();
    let lab = Lab::new();
    let (_, image) = small(&lab);
    let mount = Mounted::new(&image, &lab.mount_point("m"), &["-o", "uid=1234,gid=2345,umask=077"]);
    let meta = fs::metadata(mount.join("dir/file")).expect("it is there");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o077), (1234, 2345, 0));
}

#[test]
fn permissions_are_enforced_for_others() {
    need_fuse!();
    need_root!();
    let lab = Lab::new();
    let source = lab.tree("source");
    write(source.join("secret"), "x");
    write(source.join("public"), "x");
    for (name, mode) in [("secret", 0o600), ("public", 0o644), (".", 0o755)] {
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let image = lab.pack(&[], &source, "rights.floe");
    // Only the owner may enter the lab's directories, so this mount is elsewhere.
    let open = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().expect("a folder");
    let mount = Mounted::new(&image, open.path(), &["-o", "allow_other"]);
    let cat = |name: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(mount.join(name));
        status(command.stdout(Stdio::null()).stderr(Stdio::null())).map(|status| status.success())
    };
    let (Ok(public), Ok(secret)) = (cat("public"), cat("secret")) else {
        return left_out("there is no setpriv");
    };
    assert_eq!((public, secret), (true, false));
}
