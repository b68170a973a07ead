//! A full disk, without a kernel. An operation that needs space fails with ENOSPC and has no effect. Removals, a
//! commit, a checkpoint and the end find the space that is reserved for them, and freed space can be used.

#[path = "common/model/mod.rs"]
mod model;

use floe::fs::FsError;
use floe::storage::testing::FolderHome;
use model::data::Allocate;
use model::full::{Limited, LimitedFolder, Pool};
use model::images::Start;
use model::machine::{Disks, Machine, check, time, whole};
use model::names::{New, NewKind};
use model::program::At;
use model::state::Model;
use model::{Mix, Op, Programs, ROOT, Subject, scan, step};
use rustix::io::Errno;
use std::sync::Arc;

/// Bytes of a segment; the space of two is reserved.
const SEGMENT: u64 = 1 << 20;
/// The space that a mount reserves when it begins: two segments, and space for a checkpoint.
const RESERVED: u64 = 2 * SEGMENT + (4 << 20);

fn disk(start: Start, free: u64) -> (Arc<Pool>, Disks) {
    let image = start.image();
    let pool = Pool::new(image.len() as u64 + free);
    let disks = Disks {
        image: Limited::new(image, &pool),
        home: Arc::new(FolderHome::new(Arc::new(LimitedFolder::new(&pool)))),
    };
    (pool, disks)
}

/// Whether an operation must succeed on a full disk, because it only removes.
fn removes(model: &Model, op: &Op) -> bool {
    match op {
        Op::Unlink(..) | Op::Rmdir(..) | Op::RemoveXattr(..) | Op::Read(..) | Op::Lookup(..) => true,
        Op::Truncate(_, At::From(0)) => true,
        Op::Fallocate(_, Allocate::Punch, ..) => false,
        _ => model.nodes.is_empty(),
    }
}

/// Runs a program; returns how often there was no space.
fn fill(seed: u64, start: Start, free: u64) -> u64 {
    let (pool, disks) = disk(start, free);
    let mut machine = Machine::open(&disks, SEGMENT).unwrap();
    let mut model = machine.whole().unwrap();
    let mix = Mix { longest: 200_000, xattr: 3000, remount: 200, commit: 10, crash: 0, ..Mix::LIFE };
    let mut refused = 0;
    // A mount that begins without space to reserve does what it can.
    let mut poor = false;
    for (n, op) in Programs::new(seed, mix).take(1200).enumerate() {
        let at = |why: String| format!("seed {seed}, operation {n}, {op:?}, {} bytes free: {why}", pool.free());
        let now = time(n as u64);
        machine.set_time(now);
        let told = |what: &str, result: Result<(), FsError>| match result {
            Ok(()) => true,
            Err(FsError::NoSpace) if poor => false,
            Err(error) => panic!("{}", at(format!("{what}: {error}"))),
        };
        match op {
            Op::Commit => drop(told("commit", machine.live.commit_now())),
            Op::Checkpoint => drop(told("checkpoint", machine.live.checkpoint_now())),
            Op::Reap => drop(told("reap", machine.live.reap_now())),
            Op::Crash(..) => {}
            Op::Remount => {
                if !told("end", machine.live.end(std::time::Duration::ZERO).map(drop)) {
                    return refused;
                }
                model = model.closed();
                drop(machine);
                poor = pool.free() < RESERVED;
                machine = Machine::open(&disks, SEGMENT).unwrap_or_else(|why| panic!("{}", at(why)));
            }
            _ => {
                let before = model.clone();
                machine.failed = None;
                if let Err(why) = step(&mut model, &mut machine, now, &op) {
                    let no_space = machine.failed == Some(Errno::NOSPC) && (poor || !removes(&before, &op));
                    assert!(no_space, "{}, latched: {:?}", at(why), machine.live.latched());
                    refused += 1;
                    model = before;
                    step(&mut model, &mut machine, now, &Op::Compare).unwrap_or_else(|why| panic!("{}", at(why)));
                }
            }
        }
    }
    match machine.live.end(std::time::Duration::ZERO) {
        Err(FsError::NoSpace) if poor => return refused,
        end => drop(end.unwrap()),
    }
    drop(machine);
    let machine = Machine::open(&disks, SEGMENT).unwrap();
    let found = whole(&machine.fs).unwrap();
    assert_eq!(model.closed().difference(&found), None, "seed {seed}");
    scan::scan(machine.live.snapshot().view(), true).unwrap();
    check(disks.image).unwrap();
    refused
}

// Case 24.
#[test]
fn on_a_full_disk_what_needs_space_is_refused_and_what_frees_it_or_makes_it_durable_is_not() {
    let mut refused = 0;
    for (seed, start, free) in [
        (1, Start::Empty, 9 << 20),
        (2, Start::Small, 8 << 20),
        (3, Start::Small, 10 << 20),
        (4, Start::Empty, 7 << 20),
    ] {
        refused += fill(seed, start, free);
    }
    assert!(refused > 50, "only {refused} operations found no space");
}

// Case 24.
#[test]
fn a_disk_that_was_filled_takes_writes_again_once_files_are_deleted_and_a_checkpoint_was_made() {
    let (pool, disks) = disk(Start::Empty, 10 << 20);
    let mut machine = Machine::open(&disks, SEGMENT).unwrap();
    let new = New { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let bytes = vec![7; 100_000];
    let mut written = Vec::new();
    for round in 0..3 {
        let mut count = 0;
        let last = loop {
            let name = format!("{round} {count}").into_bytes();
            let id = match machine.create(ROOT, &name, &new) {
                Ok(id) => id,
                Err(errno) => break errno,
            };
            if let Err(errno) = machine.write(id, 0, &bytes, false) {
                machine.unlink(ROOT, &name).unwrap();
                break errno;
            }
            written.push((name, id));
            count += 1;
            assert!(count < 200, "there is no end to the disk");
        };
        assert_eq!(last, Errno::NOSPC);
        assert!(count > 10, "round {round}: only {count} files fit, {} bytes are free", pool.free());
        machine.live.commit_now().unwrap();
        for (name, id) in written.drain(..) {
            assert_eq!(machine.read(id, 0, 1 << 20).unwrap(), bytes, "what was written before is there");
            machine.unlink(ROOT, &name).unwrap();
        }
        machine.live.reap_now().unwrap();
        machine.live.checkpoint_now().unwrap();
    }
    machine.live.end(std::time::Duration::ZERO).unwrap();
    assert_eq!(pool.free() / (1 << 20), 9, "what was deleted left space behind");
    check(disks.image).unwrap();
}
