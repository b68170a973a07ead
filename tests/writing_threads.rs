//! Several threads on one writable filesystem with its committer and checkpointer, without a kernel. Some have a
//! directory of their own and a model of it, some share a few inodes and collide all the time, one freezes and frees.
//! Afterwards all tables and counts are consistent, and a remount shows the same.
//!
//! Some seconds by default; `FLOE_LONG=1 cargo test --release --test writing_threads -- --nocapture` takes minutes.

#[path = "common/model/mod.rs"]
mod model;

use floe::format::ids::InodeId;
use floe::fs::gc::GcError;
use floe::fs::{FreezeHow, FreezeReport, Live};
use floe::storage::testing::{History, Remains};
use model::data::{Allocate, Attributes, Setting};
use model::images::Start;
use model::life::{fate, record, sum};
use model::machine::{Machine, SEGMENT, check, check_after_cut, time, whole, whole_of};
use model::names::{Flags, New, NewKind};
use model::rng::written;
use model::within::Within;
use model::{Id, Mix, Model, Op, Programs, ROOT, Rng, Subject, scan, step};
use rustix::io::Errno;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

fn long() -> bool {
    std::env::var_os("FLOE_LONG").is_some_and(|value| value == "1")
}

/// Errors that a collision may give. Any other error is wrong.
const COLLISIONS: &[Errno] = &[
    Errno::NOENT,
    Errno::EXIST,
    Errno::NOTEMPTY,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::INVAL,
    Errno::PERM,
    Errno::NODATA,
    Errno::NODEV,
    Errno::TOOBIG,
];

/// Counters of the threads.
#[derive(Default)]
struct Counts {
    operations: AtomicU64,
    succeeded: AtomicU64,
}

/// A sharing thread: any operation on a few names in a few directories.
fn collide(mut machine: Machine, seed: u64, counts: &Counts, done: &AtomicBool) {
    let mut rng = Rng::new(seed);
    let mut open: Vec<(Id, bool)> = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let result = one(&mut machine, &mut rng, &mut open);
        counts.operations.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(()) => drop(counts.succeeded.fetch_add(1, Ordering::Relaxed)),
            Err(errno) => assert!(COLLISIONS.contains(&errno), "seed {seed}: {errno:?}"),
        }
    }
    open.into_iter().for_each(|(id, writing)| machine.release(id, writing));
}

fn one(machine: &mut Machine, rng: &mut Rng, open: &mut Vec<(Id, bool)>) -> Result<(), Errno> {
    let names: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
    let (name, other) = (rng.of(&names), rng.of(&names));
    let mut pick = |machine: &mut Machine| {
        // The root, or a directory in it.
        let inner = rng.one_in(2).then(|| machine.lookup(ROOT, rng.of(&names)).ok()).flatten();
        inner.filter(|id| machine.attributes(*id).is_ok_and(|attr| attr.kind == "directory")).unwrap_or(ROOT)
    };
    let (dir, to) = (pick(machine), pick(machine));
    let inode = machine.lookup(dir, name);
    let new = |kind| New { kind, mode: 0o755, umask: 0, uid: 0, gid: 0 };
    match rng.below(20) {
        0 | 1 => machine.create(dir, name, &new(NewKind::Regular)).map(drop),
        2 => machine.create(dir, name, &new(NewKind::Directory)).map(drop),
        3 | 4 => machine.unlink(dir, name),
        5 => machine.rmdir(dir, name),
        6 | 7 => machine.rename((dir, name), (to, other), Flags { no_replace: rng.one_in(4), exchange: false }),
        8 => machine.rename((dir, name), (to, other), Flags { no_replace: false, exchange: true }),
        9 | 10 => machine.link(inode?, to, other),
        11 | 12 => machine.write(inode?, rng.below(40_000), &written(rng.next(), 3000), rng.one_in(8)),
        13 => machine.truncate(inode?, rng.below(40_000)),
        14 => machine.fallocate(inode?, Allocate::Punch, rng.below(40_000), 5000),
        15 => {
            let target = machine.lookup(to, other)?;
            machine.copy((inode?, 0), (target, 0), 1 << 22).map(drop)
        }
        16 => {
            let value = written(1, rng.below(400) as usize);
            machine.set_xattr(inode?, rng.of(&[b"user.1", b"user.2"]), &value, Setting::Any)
        }
        17 => machine.remove_xattr(inode?, rng.of(&[b"user.1", b"user.2"])),
        18 => {
            let (id, writing) = (inode?, rng.one_in(2));
            machine.open(id, writing)?;
            open.push((id, writing));
            // An open file can be read and written, whether it has a name or not.
            machine.read(id, 0, 10_000).map(drop)?;
            machine.write(id, 0, b"open", false)?;
            if open.len() > 3 {
                let (id, writing) = open.swap_remove(rng.below(4) as usize);
                machine.release(id, writing);
            }
            Ok(())
        }
        _ => machine.set_attributes(inode?, Attributes { mode: Some(0o700), uid: Some(3), ..Attributes::default() }),
    }
}

/// What a thread recorded about its directory.
#[derive(Default)]
struct Seen {
    /// After each operation: number of changes in the history, and the state.
    states: Vec<(usize, Model)>,
    /// Acknowledged syncs: number of changes in the history at that time, and the index of the state when the sync was
    /// requested.
    safe: Vec<(usize, usize)>,
}

impl Seen {
    /// The states that are allowed after a power cut after `n` changes.
    fn allowed(&self, n: usize) -> &[(usize, Model)] {
        let from = self.safe.iter().rfind(|(changes, _)| *changes <= n).map_or(0, |(_, state)| *state);
        let upto = self.states.iter().position(|(changes, _)| *changes > n).map_or(self.states.len(), |at| at + 1);
        &self.states[from..upto.max(from + 1)]
    }
}

/// A thread with its own directory and model.
fn alone(mut within: Within, seed: u64, history: &History, counts: &Counts, done: &AtomicBool) -> Seen {
    let mut model = within.whole().unwrap();
    let mut seen = Seen { states: vec![(0, model.timeless())], ..Seen::default() };
    for (n, op) in Programs::new(seed, Mix { longest: 50_000, ..Mix::PLAIN }).enumerate() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let now = time(n as u64);
        step(&mut model, &mut within, now, &op)
            .unwrap_or_else(|why| panic!("seed {seed}, operation {n}, {op:?}: {why}"));
        counts.operations.fetch_add(1, Ordering::Relaxed);
        seen.states.push((history.len(), model.closed().timeless()));
        if n % 50 == 49 {
            let state = seen.states.len() - 1;
            within.machine.live.sync_and_wait().unwrap();
            seen.safe.push((history.len(), state));
        }
    }
    step(&mut model, &mut within, time(0), &Op::Compare).unwrap_or_else(|why| panic!("seed {seed}, at the end: {why}"));
    model.open_ones().into_iter().for_each(|(id, writing)| within.machine.release(id, writing));
    seen
}

/// Cuts the power after some of the changes, in the middle of the threads' operations: everything acknowledged exists,
/// and each thread's directory is in a state that it once had.
// Cases 3, 10, 11.
fn cut(history: &History, own: &[Id], seen: &[Seen], seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let begun = seen.iter().filter_map(|seen| seen.safe.first()).map(|(changes, _)| *changes).max();
    let begun = begun.expect("somebody was told that something is safe");
    let cuts = if long() { 150 } else { 30 };
    for cut in 0..cuts {
        let n = begun + rng.below((history.len() - begun).max(1) as u64) as usize;
        let kind = [0, 1, 3][cut as usize % 3];
        let left = history.cut(n, || fate(kind, &mut rng));
        let (_, disks) = record(left);
        let at = |why: String| format!("seed {seed}, power cut of kind {kind} after change {n}: {why}");
        check_after_cut(Arc::clone(&disks.image)).map_err(at).unwrap();
        let machine = Machine::open(&disks, SEGMENT).map_err(at).unwrap();
        scan::scan(machine.live.snapshot().view(), false).map_err(at).unwrap();
        for (&root, seen) in own.iter().zip(seen) {
            let found = whole_of(&machine.fs, InodeId(root)).map_err(at).unwrap().timeless();
            let allowed = seen.allowed(n);
            if !allowed.iter().any(|(_, state)| *state == found) {
                panic!("{}", at(allowed[0].1.difference(&found).unwrap_or_default()));
            }
        }
    }
    cuts
}

/// Freezes continuously (everything or what fills a superchunk, completely or partly), and frees what is dead.
fn freeze(live: &Live, seed: u64, done: &AtomicBool) -> FreezeReport {
    let mut rng = Rng::new(seed);
    let mut all = FreezeReport::default();
    while !done.load(Ordering::Relaxed) {
        let most = rng.of(&[3, 20, u64::MAX]);
        let asked = Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > most || done.load(Ordering::Relaxed)
        };
        let how = FreezeHow {
            everything: !rng.one_in(3),
            level: Some(1),
            deep: rng.one_in(4),
            stop: &stop,
            ..FreezeHow::default()
        };
        all = sum(&all, &live.freeze_now(&how, &|_| ()).unwrap());
        if rng.one_in(10) {
            match live.gc_now(&|| done.load(Ordering::Relaxed)) {
                Ok(_) | Err(GcError::Stopped | GcError::Busy) => {}
                Err(error) => panic!("seed {seed}, gc: {error}"),
            }
        }
    }
    all
}

/// Ends the process if threads deadlock: nothing else would end it.
fn watched<T>(limit: Duration, what: &str, act: impl FnOnce() -> T) -> T {
    let (sender, receiver) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what}: not done after {limit:?}");
                std::process::abort();
            }
        });
        let done = act();
        drop(sender);
        done
    })
}

/// Cases 3, 7, 10, 23.
fn threads(start: Start, duration: Duration, seed: u64) {
    let (history, disks) = record(Remains { image: start.image(), segments: Default::default() });
    let mut machine = Machine::open(&disks, SEGMENT).unwrap();
    machine.set_time(time(1));
    let new = New { kind: NewKind::Directory, mode: 0o755, umask: 0, uid: 0, gid: 0 };
    let own: Vec<Id> = (0..2).map(|n| machine.create(ROOT, format!("own {n}").as_bytes(), &new).unwrap()).collect();
    let running = machine.live.start_threads().unwrap();
    let (counts, done) = (Counts::default(), AtomicBool::new(false));
    let seen = thread::scope(|scope| {
        let (counts, done) = (&counts, &done);
        let mut threads = Vec::new();
        for n in 0..3 {
            let machine = machine.share();
            scope.spawn(move || collide(machine, seed + n, counts, done));
        }
        let live = Arc::clone(&machine.live);
        let freezer = scope.spawn(move || freeze(&live, seed, done));
        let history = &history;
        for (n, &root) in own.iter().enumerate() {
            let within = Within { machine: machine.share(), root };
            threads.push(scope.spawn(move || alone(within, seed + 100 + n as u64, history, counts, done)));
        }
        // Meanwhile, some threads request durability, and the checkpointer runs.
        let began = Instant::now();
        while began.elapsed() < duration {
            machine.live.sync_and_wait().unwrap();
            machine.live.checkpoint_now().unwrap();
            scan::scan(machine.live.snapshot().view(), false).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let frozen = freezer.join().unwrap();
        println!("{frozen:?}");
        assert!(frozen.files > 10 && frozen.superchunks > 10, "hardly anything was frozen: {frozen:?}");
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let cuts = cut(&history, &own, &seen, seed);
    running.stop();
    machine.live.reap_now().unwrap();
    let found = scan::scan(machine.live.snapshot().view(), true).unwrap();
    let totals = machine.live.totals();
    assert_eq!((totals.inodes, totals.bytes), (found.inodes, found.bytes));
    let before = machine.whole().unwrap();
    machine.live.end(std::time::Duration::ZERO).unwrap();
    drop(machine);
    let machine = Machine::open(&disks, SEGMENT).unwrap();
    if let Some(difference) = before.difference(&whole(&machine.fs).unwrap()) {
        panic!("seed {seed}, after a remount: {difference}");
    }
    scan::scan(machine.live.snapshot().view(), true).unwrap();
    check(Arc::clone(&disks.image)).unwrap();
    let (operations, succeeded) = (counts.operations.into_inner(), counts.succeeded.into_inner());
    println!(
        "{start:?}, seed {seed}: {operations} operations, {succeeded} collisions that succeeded, {} changes, {cuts} power cuts",
        history.len()
    );
    assert!(succeeded > 100, "only {succeeded} operations of those that share succeeded");
}

// Cases 3, 7, 10, 23.
#[test]
fn threads_that_share_inodes_and_threads_that_do_not_leave_what_a_scan_and_a_remount_agree_with() {
    let (rounds, seconds) = if long() { (10, 15) } else { (1, 5) };
    for seed in 0..rounds {
        for start in [Start::Empty, Start::Packed] {
            let limit = Duration::from_secs(seconds * 20 + 300);
            watched(limit, &format!("{start:?}, seed {seed}"), || {
                threads(start, Duration::from_secs(seconds), seed * 1000);
            });
        }
    }
}
