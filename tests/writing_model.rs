//! Random programs on a writable filesystem, without a kernel, compared with an in-memory model: after every operation
//! its result and everything it touched, and after every crash and remount everything. The model itself is first tested
//! against the kernel's file system.
//!
//! Half a minute by default; ten minutes: `FLOE_LONG=1 cargo test --release --test writing_model -- --nocapture`. One
//! seed: `FLOE_SEED=N`.

#[path = "common/model/mod.rs"]
mod model;

use floe::format::rows::Time;
use floe::fs::FreezeReport;
use floe::storage::testing::Remains;
use model::images::Start;
use model::kernel::Kernel;
use model::life::{Life, record, sum};
use model::machine::{Machine, SEGMENT, check};
use model::program::At;
use model::shrink::{Failure, kind, run, shrink};
use model::{Freeze, Mix, Op, Programs, ROOT, Subject, step};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Operations of one program. The next program begins with a new image.
const PROGRAM: usize = 1500;
/// Number of different failures after which the test stops.
const FAILURES: usize = 6;
/// Time for shrinking one failing program.
const SHRINKING: Duration = Duration::from_secs(20);

fn long() -> bool {
    std::env::var_os("FLOE_LONG").is_some_and(|value| value == "1")
}

fn time(secs: u64) -> Time {
    Time { secs: secs as i64, nanos: 0 }
}

#[test]
fn the_same_seed_gives_the_same_program() {
    let program = |seed| Programs::new(seed, Mix::LIFE).take(2000).collect::<Vec<Op>>();
    assert_eq!(program(7), program(7));
    assert_ne!(program(7), program(8));
}

#[test]
fn the_model_does_what_the_kernel_does() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("left out: owners and devices need root");
    }
    let seeds = if long() { 200 } else { 8 };
    for seed in 0..seeds {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut kernel = Kernel::new(dir.path());
        let mut model = kernel.whole().unwrap();
        assert!(model.names(ROOT).unwrap().is_empty());
        for (n, op) in Programs::new(seed, Mix::KERNEL).take(1500).enumerate() {
            if let Err(difference) = step(&mut model, &mut kernel, time(n as u64), &op) {
                panic!("seed {seed}, operation {n}, {op:?}: {difference}");
            }
        }
        assert!(model.nodes.len() > 10, "seed {seed}: hardly anything happened");
    }
}

/// Runs a program; returns its number of operations, the total of its freezes, and how often a snapshot was compared.
fn live(image: &[u8], segment: u64, program: Vec<Op>) -> Result<(u64, FreezeReport, u64), Failure> {
    let fresh = Life::begin(image.to_vec(), segment);
    let mut life = fresh.map_err(|why| Failure { program: Vec::new(), why })?;
    let all = program.into_iter().chain([Op::Compare, Op::Remount, Op::End]).collect();
    run(all, |op| life.run(op))?;
    Ok((life.operations, life.frozen, life.snapshots.compared))
}

/// An operation as text of limited length.
fn line(op: &Op) -> String {
    format!("{op:?}").chars().take(160).collect()
}

/// Runs programs for `duration`, one seed after another, or only the requested seed.
fn programs(mix: Mix, duration: Duration, salt: u64) {
    let began = Instant::now();
    let images: Vec<Vec<u8>> = Start::ALL.iter().map(|start| start.image()).collect();
    let only = std::env::var("FLOE_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let (mut operations, mut seeds, mut compared, mut frozen) = (0, 0, 0, FreezeReport::default());
    let mut seed = only.unwrap_or(salt);
    let mut found = BTreeMap::new();
    while began.elapsed() < duration && found.len() < FAILURES {
        let image = &images[(seed % 3) as usize];
        // The smallest segments cannot hold the largest xattr pieces.
        let (segment, xattr) = if seed.is_multiple_of(5) { (16 << 10, 1000) } else { (SEGMENT, mix.xattr) };
        let program: Vec<Op> = Programs::new(seed, Mix { xattr, ..mix }).take(PROGRAM).collect();
        match live(image, segment, program) {
            Ok((count, report, snapshots)) => {
                operations += count;
                compared += snapshots;
                frozen = sum(&frozen, &report);
            }
            Err(failure) => {
                eprintln!("seed {seed}, after {} operations: {}", failure.program.len(), failure.why);
                if !found.contains_key(&kind(&failure.why)) {
                    let small = shrink(failure, SHRINKING, |part| live(image, segment, part).map(drop));
                    let Failure { program, why } = small;
                    let lines: Vec<String> = program.iter().map(line).collect();
                    let (count, lines) = (program.len(), lines.join("\n"));
                    let told = format!("seed {seed}; {count} operations are enough:\n{lines}\n{why}");
                    found.insert(kind(&why), told);
                }
            }
        }
        seeds += 1;
        seed += 1;
        if only.is_some() {
            break;
        }
    }
    println!(
        "{operations} operations in {seeds} programs, {} s; {compared} snapshots compared; {frozen:?}",
        began.elapsed().as_secs()
    );
    let found: Vec<String> = found.into_values().collect();
    assert!(found.is_empty(), "{} different failures:\n{}", found.len(), found.join("\n\n"));
    assert!(operations > 1000, "only {operations} operations");
    let FreezeReport { files, superchunks, shared_bytes, dropped, .. } = frozen;
    let is_enough = files > 100 && superchunks > 20 && shared_bytes > 0 && dropped > 0;
    assert!(only.is_some() || compared > 100, "hardly a snapshot was compared: {compared}");
    assert!(only.is_some() || is_enough, "hardly anything was frozen: {frozen:?}");
}

// Case 18, too: each program makes snapshots.
#[test]
fn random_programs_with_freezes_commits_checkpoints_remounts_and_crashes_do_what_the_model_does() {
    programs(Mix::LIFE, Duration::from_secs(if long() { 600 } else { 30 }), 1000);
}

#[test]
fn check_finds_nothing_in_an_image_with_an_open_file_that_lost_its_name_after_partial_writes() {
    let (_, disks) = record(Remains { image: Start::Fixed.image(), segments: BTreeMap::new() });
    let mut machine = Machine::open(&disks, SEGMENT).unwrap();
    let [from, to] = [b"d", b"e"].map(|name| machine.lookup(ROOT, name).unwrap());
    // A short piece of a subchunk that ends neither the file nor its data.
    assert_eq!(machine.copy((from, 40_000), (to, 528), 1000), Ok(1000));
    machine.open(to, true).unwrap();
    machine.unlink(ROOT, b"e").unwrap();
    machine.live.checkpoint_now().unwrap();
    check(disks.image).unwrap();
}

#[test]
fn what_was_written_after_a_hole_that_follows_a_content_is_frozen() {
    let mut life = Life::begin(Start::Fixed.image(), SEGMENT).unwrap();
    for op in [Op::Write(3, At::Size(100_000), 32_768, 1, false), Freeze::everything(), Op::Checkpoint, Op::Compare] {
        life.run(&op).unwrap();
    }
    assert!(life.frozen.files == 1 && life.frozen.frozen_bytes == 32_768, "{:?}", life.frozen);
}

#[test]
fn a_log_that_was_begun_and_into_which_nothing_came_goes_at_the_end() {
    let mut life = Life::begin(Start::Empty.image(), SEGMENT).unwrap();
    for op in [Op::Gc, Op::End, Op::Gc, Op::Crash(1, 1), Op::Gc, Op::End] {
        life.run(&op).unwrap_or_else(|why| panic!("{op:?}: {why}"));
    }
}
