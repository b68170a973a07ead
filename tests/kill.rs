//! A mount's daemon that is killed while others read: it ends, its readers get an error, and the mount can be removed.

mod common;

use common::left_out::need_fuse;
use common::mounted::{Mounted, counters, daemons, ends_within, is_mounted};
use common::run::{spawn, status, wait};
use common::{Lab, floe, noise, prose, write};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Number of rounds: the default, and with `FLOE_LONG=1`.
const ROUNDS: (u64, u64) = (6, 200);
/// Time in which a killed daemon must end.
const LIMIT: Duration = Duration::from_secs(1);
const FILES: usize = 3000;

/// What each reader does with the mount `$1` in a loop: reads by name, in listing order, in reverse order, and in large
/// pieces.
const READERS: [&str; 4] = [
    "while :; do for d in 0 1 2 3 4 5 6 7 8 9; do cat $1/$d/* >/dev/null; done; done",
    "while :; do find $1 -type f -print0 | xargs -0 cat >/dev/null; done",
    "while :; do find $1 -type f -print0 | sort -rz | xargs -0 -n 50 cat >/dev/null; done",
    "while :; do ls -lR $1 >/dev/null; cat $1/large $1/*/* >/dev/null; done",
];

fn reader(script: &str, mount: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script, "reader"]).arg(mount).stdin(Stdio::null()).stderr(Stdio::null()).process_group(0);
    spawn(&mut command).expect("sh runs")
}

#[test]
fn a_daemon_killed_under_four_readers_ends_within_a_second() {
    need_fuse!();
    let lab = Lab::new();
    let source = lab.tree("source");
    let mut bytes = 0;
    for n in 0..FILES {
        let file = prose(n as u64 + 1, n * 97 % 30_000);
        bytes += file.len() as u64;
        write(source.join(format!("{}/f{n:04}", n % 10)), file);
    }
    write(source.join("large"), noise(7, 8 << 20));
    let image = lab.pack(&["-C", "zstd:1", "--superchunk-size", "1M"], &source, "kill.floe");
    let dir = lab.mount_point("m");
    let rounds = if std::env::var_os("FLOE_LONG").is_some() { ROUNDS.1 } else { ROUNDS.0 };
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let mount = Mounted::new(&image, &dir, &[]);
        let daemon = *daemons(&image).first().expect("a daemon serves the mount");
        let process = pidfd_open(daemon, PidfdFlags::empty()).expect("a pidfd");
        let mut readers: Vec<Child> = READERS.iter().map(|script| reader(script, &dir)).collect();
        // Killed at a different moment each time, from the first bytes until almost everything is in the page cache.
        let until = bytes * (round * 37 % 90) / 100;
        while counters(&dir)["read_bytes"] < until {}
        kill_process(daemon, Signal::KILL).expect("it can be killed");
        let begun = Instant::now();
        let ended = ends_within(&process, LIMIT);
        slowest = slowest.max(begun.elapsed());
        if !ended {
            // Aborts the connection, so that neither daemon nor readers hang for ever.
            let _ = status(Command::new("umount").arg("-f").arg(&dir));
        }
        for reader in &mut readers {
            // Pages in the page cache are readable even in a dead mount: a reader may have noticed nothing.
            kill_process_group(Pid::from_child(reader), Signal::KILL).expect("a reader can be killed");
            wait(reader).expect("a killed reader ends: nothing waits for a daemon that is dead");
        }
        std::mem::forget(mount);
        if !ended {
            let _ = status(Command::new("umount").arg("-l").arg(&dir));
        }
        assert!(ended, "round {round}: the daemon had not ended {LIMIT:?} after it was killed");
        floe!("umount", &dir).exits(0);
        assert!(!is_mounted(&dir), "the dead mount is taken away");
    }
    println!("{rounds} rounds; the slowest end took {slowest:?}");
}
