//! How a writable mount ends (unmounted, told to end, killed), and the state afterwards.

mod common;

use common::left_out::need_fuse;
use common::mounted::{daemons, is_mounted, wait_until_ended};
use common::twin::Twin;
use common::{floe, noise};
use rustix::process::{Signal, kill_process};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

fn write_both(twin: &Twin, name: &str, bytes: &[u8]) {
    for dir in [twin.plain(), twin.dir()] {
        fs::write(dir.join(name), bytes).expect("a write");
    }
}

#[test]
fn what_was_fsynced_is_there_after_the_daemon_was_killed() {
    need_fuse!();
    // Only fsync commits.
    let mut twin = Twin::new("commit=3600");
    for round in 0..3 {
        twin.both(|dir| {
            let sub = dir.join(format!("dir-{round}"));
            fs::create_dir(&sub).expect("a directory");
            let mut file = File::create(sub.join("file")).expect("a new file");
            file.write_all(&noise(round, 100_000)).expect("a write");
            file.sync_all().expect("fsync");
            fs::rename(sub.join("file"), sub.join("renamed")).expect("a rename");
            File::open(&sub).expect("it opens").sync_all().expect("fsync of a directory");
            file.write_all_at(b"data", 50).expect("a write");
            file.sync_data().expect("fdatasync");
        });
        // This was promised to nobody.
        fs::write(twin.dir().join("lost"), b"bytes").expect("a write");
        let daemon = daemons(twin.image())[0];
        kill_process(daemon, Signal::KILL).expect("it can be killed");
        wait_until_ended(daemon);
        twin.forget_mount();
        assert!(fs::read_dir(twin.dir()).is_err(), "the mount is dead");
        twin.mount();
        let _ = fs::remove_file(twin.dir().join("lost"));
        twin.check();
    }
    twin.check_and_remount();
    twin.unmount();
    floe!("check", twin.image()).exits(0);
}

#[test]
fn what_is_older_than_the_time_between_commits_is_there_after_a_kill() {
    need_fuse!();
    let mut twin = Twin::new("commit=1");
    write_both(&twin, "file", &noise(1, 300_000));
    let state = || {
        let mut text = [0; 4096];
        let len = rustix::fs::getxattr(twin.dir(), "user.floe.state", &mut text).expect("it answers");
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    let begun = std::time::Instant::now();
    while !state().contains("pending_bytes 0\n") {
        assert!(begun.elapsed().as_secs() < 60, "nothing is committed within a minute: {}", state());
        std::thread::yield_now();
    }
    let daemon = daemons(twin.image())[0];
    kill_process(daemon, Signal::KILL).expect("it can be killed");
    wait_until_ended(daemon);
    twin.forget_mount();
    twin.mount();
    twin.check_and_remount();
}

#[test]
fn a_signal_to_end_keeps_all_that_was_written() {
    need_fuse!();
    let mut twin = Twin::new("commit=3600");
    write_both(&twin, "file", &noise(1, 200_000));
    let daemon = daemons(twin.image())[0];
    kill_process(daemon, Signal::TERM).expect("it can be told");
    wait_until_ended(daemon);
    assert!(!is_mounted(twin.dir()));
    twin.forget_mount();
    twin.mount();
    twin.check_and_remount();
}

/// Case 31: handles that are open when the mount ends count as closed.
#[test]
fn a_signal_to_end_ends_a_mount_that_is_in_use_and_keeps_what_was_written() {
    need_fuse!();
    let mut twin = Twin::new("commit=3600");
    write_both(&twin, "file", &noise(1, 200_000));
    let held = File::options().read(true).append(true).open(twin.dir().join("file")).expect("it opens");
    let unlinked = File::create(twin.dir().join("unlinked")).expect("a new file");
    unlinked.write_all_at(&noise(2, 100_000), 0).expect("a write");
    fs::remove_file(twin.dir().join("unlinked")).expect("unlink");
    let daemon = daemons(twin.image())[0];
    kill_process(daemon, Signal::TERM).expect("it can be told");
    wait_until_ended(daemon);
    assert!(!is_mounted(twin.dir()));
    assert!(held.read_at(&mut [0; 10], 190_000).is_err() || held.sync_all().is_err(), "the connection is no more");
    drop((held, unlinked));
    twin.forget_mount();
    twin.mount();
    twin.check_and_remount();
    twin.unmount();
    floe!("check", twin.image()).exits(0);
}

#[test]
fn umount_fails_while_the_mount_is_in_use_and_keeps_everything() {
    need_fuse!();
    let mut twin = Twin::new("");
    write_both(&twin, "file", b"bytes");
    let held = File::open(twin.dir().join("file")).expect("it opens");
    floe!("umount", twin.dir()).exits(1).says(&["in use"]);
    write_both(&twin, "after", b"more bytes");
    drop(held);
    twin.check_and_remount();
}

#[test]
fn a_mount_that_nobody_wrote_to_leaves_the_image_as_it_was() {
    need_fuse!();
    let mut twin = Twin::new("");
    twin.unmount();
    let before = fs::read(twin.image()).expect("it can be read");
    twin.mount();
    assert_eq!(fs::read_dir(twin.dir()).expect("a listing").count(), 0);
    File::open(twin.dir()).expect("it opens").sync_all().expect("fsync of a directory");
    twin.unmount();
    assert!(fs::read(twin.image()).expect("it can be read") == before);
    let mut thaw = twin.image().as_os_str().to_owned();
    thaw.push(".thaw");
    assert!(!std::path::Path::new(&thaw).exists(), "what is not in the image is in a thaw log, and there is nothing");
}
