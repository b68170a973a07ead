//! Faults, without a kernel. Each operation on the storage of a history, including reads, fails once, or from then on,
//! with EIO and ENOSPC. Nothing panics; an operation that fails has no effect; nothing acknowledged is lost; after a
//! failed sync the mount is latched (read-only).
//!
//! By default some of the operations fail; all of them: `FLOE_LONG=1 cargo test --release --test writing_faults --
//! --nocapture`.

#[path = "common/model/mod.rs"]
mod model;

use floe::fs::{FreezeHow, FsError};
use floe::storage::Operation;
use floe::storage::testing::{Fate, Fault, FaultyStorage, FileId, FolderHome, History, RecordingStorage, Remains};
use model::data::{Allocate, Setting};
use model::echo::after;
use model::images::Start;
use model::life::{Commit, Commits, fate, record};
use model::machine::{Disks, Machine, check_after_cut, time, whole};
use model::names::{Flags, New, NewKind};
use model::program::{At, Name};
use model::state::Model;
use model::{Freeze, Mix, Op, Programs, Rng, Subject, scan, step};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const SEGMENT: u64 = 16 << 10;
/// Enough time to freeze everything.
const LONG: Duration = Duration::from_secs(600);

fn long() -> bool {
    std::env::var_os("FLOE_LONG").is_some_and(|value| value == "1")
}

/// Step through the operations.
fn stride() -> usize {
    if long() { 1 } else { 7 }
}

/// Which operations fail.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// One operation.
    Once(Fault),
    /// An operation and all after it.
    From(Fault),
    /// An append, after some of its bytes.
    Short(Fault),
}

/// Image and thaw log, recorded, with failures.
struct Failing {
    history: History,
    faulty: Arc<FaultyStorage<RecordingStorage>>,
    disks: Disks,
}

impl Failing {
    fn new(image: Vec<u8>) -> Self {
        let history = History::new(Remains { image, segments: Default::default() });
        let faulty = Arc::new(FaultyStorage::new(history.storage()));
        let home = Arc::new(FolderHome::new(Arc::new(faulty.folder(history.folder()))));
        let disks = Disks { image: faulty.clone(), home };
        Failing { history, faulty, disks }
    }

    fn fail(&self, plan: Plan, n: u64) {
        match plan {
            Plan::Once(fault) => self.faulty.fail_nth(n, fault),
            Plan::From(fault) => self.faulty.fail_from(n, fault),
            Plan::Short(fault) => self.faulty.fail_short(n, 700, fault),
        }
    }

    /// How many operations a plan may let fail.
    fn count(&self, plan: Plan) -> u64 {
        let appends = || self.faulty.records().iter().filter(|record| record.operation == Operation::Append).count();
        match plan {
            Plan::Short(_) => appends() as u64,
            _ => self.faulty.count(),
        }
    }
}

fn file(name: u8) -> Op {
    let new = New { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 1, gid: 1 };
    Op::Create(1, Name::Fixed(name), new)
}

fn write(rank: u16, at: u64, len: u32, seed: u64) -> Op {
    Op::Write(rank, At::From(at), len, seed, false)
}

/// A short history with everything that reads or writes image and log.
fn history() -> Vec<Op> {
    vec![
        write(2, 100, 9000, 1),
        file(6),
        write(1, 0, 50, 2),
        Op::Commit,
        Op::Rename((1, Name::Present(1)), (2, Name::Fixed(7)), Flags::default()),
        Op::Unlink(1, Name::Present(2)),
        Op::Truncate(3, At::From(300)),
        Op::Checkpoint,
        Op::SetXattr(4, 0, 400, 3, Setting::Any),
        Op::Copy((4, At::From(0)), (5, At::From(10)), 1 << 20),
        Op::Fallocate(4, Allocate::Punch, At::From(10), 5000),
        write(3, 0, 20_000, 4),
        Op::Commit,
        Op::Open(1, true),
        Op::Unlink(1, Name::Present(0)),
        Op::Release(0),
        Op::Reap,
        write(3, 4000, 12_000, 5),
        Op::Checkpoint,
        write(2, 0, 10, 6),
        Op::Remount,
    ]
}

/// Like the other, with everything that reads or writes image and log while files are frozen: twice, and at the end.
fn freezing_history() -> Vec<Op> {
    vec![
        write(2, 100, 9000, 1),
        file(6),
        write(1, 0, 50, 2),
        Freeze::everything(),
        Op::Commit,
        file(7),
        write(3, 4000, 12_000, 5),
        // The same as what is frozen.
        write(4, 0, 9000, 1),
        Op::Truncate(2, At::From(5000)),
        Op::Freeze(Freeze { everything: true, deep: true, level: Some(3), ..Freeze::default() }),
        Op::Checkpoint,
        write(2, 0, 10, 6),
        write(4, 2000, 700, 7),
        Op::End,
    ]
}

/// A run with faults: the state that has to be there, and what commits had.
struct Faulted {
    model: Model,
    commits: Commits,
    /// Whether the end was attempted.
    ended: bool,
}

/// Runs the program. `Err` describes a wrong result.
fn run(
    failing: &Failing,
    machine: &mut Machine,
    program: &[Op],
    mut model: Model,
    fired: &dyn Fn() -> bool,
) -> Result<Faulted, String> {
    let mut commits = Commits(vec![Commit { begun: 0, ended: 0, state: model.closed() }]);
    let mut ended = false;
    for (n, op) in program.iter().enumerate() {
        let now = time(n as u64 + 1);
        machine.set_time(now);
        let begun = failing.history.len();
        let state = model.closed();
        let acted = match op {
            Op::Commit => Some(machine.live.commit_now()),
            Op::Checkpoint => Some(machine.live.checkpoint_now()),
            Op::Freeze(freeze) => {
                let Freeze { everything, level, deep, .. } = *freeze;
                let how = FreezeHow { everything, level, deep, ..FreezeHow::default() };
                if let Err(error) = machine.live.freeze_now(&how, &|_| ()) {
                    allowed(&error.errno(), fired()).map_err(|why| format!("{op:?}: {error}: {why}"))?;
                }
                match machine.whole() {
                    // It cannot be read while reads fail.
                    Err(_) if fired() => {}
                    found => {
                        if let Some(difference) = model.closed().difference(&found?) {
                            return Err(format!("{op:?}: {difference}"));
                        }
                    }
                }
                continue;
            }
            Op::Remount | Op::End => {
                let freezing = if *op == Op::End { LONG } else { Duration::ZERO };
                let end = machine.live.end(freezing).map(drop);
                ended = true;
                Some(end)
            }
            Op::Reap => {
                let reaped = machine.live.reap_now();
                if let Err(error) = reaped {
                    allowed(&error.errno(), fired()).map_err(|why| format!("{op:?}: {why}"))?;
                }
                continue;
            }
            _ => None,
        };
        if let Some(acted) = acted {
            let done = if acted.is_ok() { failing.history.len() } else { usize::MAX };
            commits.0.push(Commit { begun, ended: done, state });
            if let Err(error) = acted {
                allowed(&error.errno(), fired()).map_err(|why| format!("{op:?}: {error}: {why}"))?;
            }
            continue;
        }
        machine.failed = None;
        let before = model.clone();
        if let Err(why) = step(&mut model, machine, now, op) {
            if !fired() {
                return Err(format!("operation {n}, {op:?}: {why}"));
            }
            model = match machine.failed {
                // The operation must fail, and examining the result failed, too.
                Some(_) if fails(&before, op, now) => before,
                Some(errno) => {
                    allowed(&errno, true).map_err(|what| format!("operation {n}, {op:?}: {what}"))?;
                    before
                }
                // It was carried out, and examining the result failed.
                None => after(&before, op, machine.created, now),
            };
        }
    }
    Ok(Faulted { model, commits, ended })
}

/// Whether an operation must fail.
fn fails(before: &Model, op: &Op, now: floe::format::rows::Time) -> bool {
    after(before, op, u64::MAX >> 17, now) == *before
}

fn allowed(errno: &Errno, fired: bool) -> Result<(), String> {
    if fired && [Errno::IO, Errno::NOSPC, Errno::ROFS].contains(errno) {
        return Ok(());
    }
    Err(format!("{errno:?}, with the fault {}", if fired { "behind it" } else { "still to come" }))
}

/// One run, and the state that it leaves.
fn faulted(image: &[u8], program: &[Op], plan: Plan, n: u64) -> Result<(), String> {
    let failing = Failing::new(image.to_vec());
    failing.fail(plan, n);
    let fired = || failing.count(plan) > n;
    let mut machine = match Machine::open(&failing.disks, SEGMENT) {
        Ok(machine) => machine,
        Err(why) if fired() => {
            failing.faulty.fail_no_more();
            return Machine::open(&failing.disks, SEGMENT).map(drop).map_err(|again| format!("{why}, then {again}"));
        }
        Err(why) => return Err(why),
    };
    let model = start_model(image);
    let Faulted { model, commits, ended } = run(&failing, &mut machine, program, model, &fired)?;
    failing.faulty.fail_no_more();
    let latched = machine.live.latched();
    if !ended {
        does_latch(&failing, plan, n, latched.as_deref())?;
    }
    if latched.is_none() && fired() && !ended {
        // It continues as if nothing had happened, once there is space or no error any more.
        let begun = failing.history.len();
        let report = machine.live.freeze_now(&FreezeHow::everything(), &|_| ());
        let report = report.map_err(|error| format!("freezing again: {error}"))?;
        if report.left_bytes > 0 {
            return Err(format!("freezing again: {report:?}"));
        }
        let found = machine.whole().map_err(|why| format!("frozen after a fault: {why}"))?;
        if let Some(difference) = model.closed().difference(&found) {
            return Err(format!("frozen after a fault: {difference}"));
        }
        machine.live.end(std::time::Duration::ZERO).map_err(|error| format!("end: {error}"))?;
        let mut commits = commits.clone();
        commits.0.push(Commit { begun, ended: failing.history.len(), state: model.closed() });
        drop(machine);
        return remains(&failing.history, &commits, n);
    }
    if latched.is_some() && !ended {
        is_latched(&mut machine, &model)?;
    }
    drop(machine);
    remains(&failing.history, &commits, n)?;
    if fired() {
        goes_on(&failing, commits)?;
    }
    Ok(())
}

/// An append without space must not latch; a failed sync must.
// Cases 14, 24.
fn does_latch(failing: &Failing, plan: Plan, n: u64, latched: Option<&str>) -> Result<(), String> {
    let Plan::Once(fault) = plan else { return Ok(()) };
    let records = failing.faulty.records();
    let Some(record) = usize::try_from(n).ok().and_then(|n| records.get(n)) else { return Ok(()) };
    match (fault, record.operation, latched) {
        (Fault::Enospc, Operation::Append, Some(why)) => Err(format!("no space for {record:?} latched: {why}")),
        (_, Operation::Sync, None) => Err(format!("{record:?} failed and changes are not refused")),
        _ => Ok(()),
    }
}

fn start_model(image: &[u8]) -> Model {
    let (_, disks) = record(Remains { image: image.to_vec(), segments: Default::default() });
    whole(&Machine::open(&disks, SEGMENT).unwrap().fs).unwrap()
}

/// Reads continue, changes fail with EROFS, and a sync fails with EIO.
// Cases 14, 24.
fn is_latched(machine: &mut Machine, model: &Model) -> Result<(), String> {
    let found = machine.whole()?;
    if let Some(difference) = model.closed().difference(&found) {
        return Err(format!("latched, reading: {difference}"));
    }
    let new = New { kind: NewKind::Regular, mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let refused = [
        ("create", machine.create(model::ROOT, b"latched", &new).map(drop)),
        (
            "unlink",
            model.names(model::ROOT).map_or(Err(Errno::ROFS), |names| {
                let file = names.iter().find(|(_, id)| model.node(**id).is_ok_and(|node| !node.is_dir()));
                file.map_or(Err(Errno::ROFS), |(name, _)| machine.unlink(model::ROOT, name))
            }),
        ),
        ("write", model.files().first().map_or(Err(Errno::ROFS), |&id| machine.write(id, 0, b"x", false))),
    ];
    for (what, result) in refused {
        if result != Err(Errno::ROFS) {
            return Err(format!("latched, {what}: {result:?}"));
        }
    }
    let (sender, receiver) = channel();
    machine.live.sync(Box::new(move |result: Result<(), FsError>| {
        let _ = sender.send(result.map_err(|error| error.errno()));
    }));
    let _ = machine.live.commit_now();
    match receiver.try_recv() {
        Ok(Err(Errno::IO)) => Ok(()),
        other => Err(format!("latched, fsync: {other:?}")),
    }
}

/// Whatever power cuts leave at the end opens, checks, and has everything acknowledged.
fn remains(history: &History, commits: &Commits, seed: u64) -> Result<(), String> {
    for kind in 0..6u8 {
        let mut rng = Rng::new(seed << 4 | u64::from(kind));
        let left = history.cut(history.len(), || fate(kind, &mut rng));
        let (_, disks) = record(left);
        let at = |why: String| format!("power cut at the end, kind {kind}: {why}");
        check_after_cut(Arc::clone(&disks.image)).map_err(at)?;
        let machine = Machine::open(&disks, SEGMENT).map_err(at)?;
        commits.admit(history.len(), &whole(&machine.fs).map_err(at)?).map_err(at)?;
        scan::scan(machine.live.snapshot().view(), false).map_err(at)?;
    }
    Ok(())
}

/// The failed process is gone, and the next one sees the contents of the page cache. It writes them again before it
/// builds on them, so a later power cut does not lose them.
fn goes_on(failing: &Failing, mut commits: Commits) -> Result<(), String> {
    // As in Linux, whose pages are clean after a failed sync, no later sync covers earlier writes.
    let written = failing.history.cut(failing.history.len(), || Fate::Kept);
    failing.history.fail_sync(FileId::Image);
    written.segments.keys().for_each(|&number| failing.history.fail_sync(FileId::Segment(number)));
    let mut machine = Machine::open(&failing.disks, SEGMENT).map_err(|why| format!("after a latch: {why}"))?;
    let found = whole(&machine.fs)?;
    commits.admit(failing.history.len(), &found).map_err(|why| format!("after a latch: {why}"))?;
    let mut model = found;
    for (n, op) in [file(5), write(1, 0, 3000, 9), write(2, 50, 3000, 10)].iter().enumerate() {
        let now = time(500 + n as u64);
        machine.set_time(now);
        step(&mut model, &mut machine, now, op).map_err(|why| format!("after a latch, {op:?}: {why}"))?;
    }
    let begun = failing.history.len();
    machine.live.commit_now().map_err(|error| format!("after a latch, commit: {error}"))?;
    commits.0.push(Commit { begun, ended: failing.history.len(), state: model.closed() });
    remains(&failing.history, &commits, 77)?;
    machine.live.end(std::time::Duration::ZERO).map_err(|error| format!("after a latch, end: {error}"))?;
    commits.0.push(Commit { begun, ended: failing.history.len(), state: model.closed() });
    remains(&failing.history, &commits, 78)
}

/// How many storage operations of a program a plan may let fail.
fn count(image: &[u8], program: &[Op], plan: Plan) -> u64 {
    let failing = Failing::new(image.to_vec());
    let mut machine = Machine::open(&failing.disks, SEGMENT).unwrap();
    run(&failing, &mut machine, program, start_model(image), &|| false).unwrap();
    failing.count(plan)
}

/// Lets every operation of each history fail, by one plan.
fn all(plan: Plan) {
    each(plan, &history());
    each(plan, &freezing_history());
}

fn each(plan: Plan, program: &[Op]) {
    let image = Start::Small.image();
    let count = count(&image, program, plan);
    assert!(count > 20, "the history has only {count} operations");
    for n in (0..count).step_by(stride()) {
        faulted(&image, program, plan, n).unwrap_or_else(|why| panic!("{plan:?}, operation {n} of {count}: {why}"));
    }
    println!("{plan:?}: {count} operations, each {}th failed", stride());
}

#[test]
fn random_programs_with_a_fault_at_a_random_operation_lose_nothing_that_was_acknowledged() {
    let mix =
        Mix { crash: 0, remount: 0, commit: 6, checkpoint: 12, freeze: 12, longest: 40_000, xattr: 3000, ..Mix::LIFE };
    let image = Start::Small.image();
    let seeds = if long() { 600 } else { 40 };
    let only = std::env::var("FLOE_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    for seed in only.map_or(0..seeds, |seed| seed..seed + 1) {
        let mut rng = Rng::new(seed);
        let programs = Programs::new(seed, mix).filter(|op| !matches!(op, Op::Crash(..) | Op::Remount | Op::End));
        let mut program: Vec<Op> = programs.take(60).collect();
        program.push(Op::Remount);
        for plan in [
            Plan::Once(Fault::Eio),
            Plan::Once(Fault::Enospc),
            Plan::From(Fault::Enospc),
            Plan::From(Fault::Eio),
            Plan::Short(Fault::Enospc),
        ] {
            let n = rng.below(count(&image, &program, plan).max(1));
            faulted(&image, &program, plan, n)
                .unwrap_or_else(|why| panic!("seed {seed}, {plan:?}, operation {n}: {why}"));
        }
    }
}

// Cases 14, 24.
#[test]
fn an_input_output_error_anywhere_loses_nothing_that_was_acknowledged() {
    all(Plan::Once(Fault::Eio));
}

// Cases 14, 24.
#[test]
fn no_space_anywhere_loses_nothing_that_was_acknowledged() {
    all(Plan::Once(Fault::Enospc));
}

#[test]
fn an_append_that_stops_in_the_middle_leaves_nothing_that_counts() {
    all(Plan::Short(Fault::Enospc));
    all(Plan::Short(Fault::Eio));
}

#[test]
fn a_device_that_is_gone_loses_nothing_that_was_acknowledged() {
    all(Plan::From(Fault::Eio));
}

// Case 24.
#[test]
fn a_disk_that_stays_full_loses_nothing_that_was_acknowledged() {
    all(Plan::From(Fault::Enospc));
}
