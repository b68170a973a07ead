//! Simulated power cuts over image and thaw log, without a kernel. After every change that a history of writes,
//! overwrites, freezes, checkpoints and removed segments makes, each way of losing unsynced changes is tried. What
//! remains must open, `check` must be clean, and the state must be that of a commit not older than the last
//! acknowledged one.
//!
//! By default some of the cuts; all of them: `FLOE_LONG=1 cargo test --release --test writing_power -- --nocapture`.

#[path = "common/model/mod.rs"]
mod model;

use model::data::Setting;
use model::images::Start;
use model::life::Life;
use model::names::{Flags, New, NewKind};
use model::power::{Depth, cut_everywhere};
use model::program::{At, Name};
use model::{Freeze, Mix, Op, Programs};

/// Bytes of a segment: so small that each commit of a few writes begins a new one.
const SEGMENT: u64 = 16 << 10;

fn long() -> bool {
    std::env::var_os("FLOE_LONG").is_some_and(|value| value == "1")
}

fn depth() -> Depth {
    if long() { Depth::WHOLE } else { Depth::SHORT }
}

fn file(name: u8) -> Op {
    create(name, NewKind::Regular)
}

fn create(name: u8, kind: NewKind) -> Op {
    Op::Create(1, Name::Fixed(name), New { kind, mode: 0o755, umask: 0o022, uid: 1, gid: 1 })
}

fn write(rank: u16, at: u64, len: u32, seed: u64) -> Op {
    Op::Write(rank, At::From(at), len, seed, false)
}

/// Writes, overwrites, names that come and go, two checkpoints that release segments, an unmount, and a second session
/// that ends without an unmount.
fn history() -> Vec<Op> {
    vec![
        file(0),
        write(1, 0, 20_000, 1),
        Op::Commit,
        write(1, 0, 20_000, 2),
        file(1),
        write(2, 100, 3000, 3),
        Op::Commit,
        Op::Checkpoint,
        create(2, NewKind::Directory),
        Op::Rename((1, Name::Fixed(1)), (2, Name::Fixed(0)), Flags::default()),
        write(1, 5000, 12_000, 4),
        Op::SetXattr(2, 0, 300, 5, Setting::Any),
        Op::Commit,
        Op::Truncate(1, At::From(700)),
        Op::Open(1, true),
        Op::Unlink(1, Name::Fixed(0)),
        write(1, 0, 9000, 6),
        Op::Commit,
        Op::Release(0),
        Op::Reap,
        Op::Checkpoint,
        file(3),
        write(2, 0, 600, 7),
        write(1, 3000, 500, 8),
        Op::Commit,
        write(1, 0, 4096, 9),
        Op::Remount,
        write(1, 10, 5000, 10),
        Op::Commit,
        Op::Unlink(1, Name::Fixed(3)),
        Op::Checkpoint,
        file(4),
    ]
}

/// Freezes with changes between cutting and splicing, a checkpoint after one and one within another, bytes that are
/// stored already, deleted files, and an end that freezes everything.
// Cases 4, 5, 8, 25.
fn freezing_history() -> Vec<Op> {
    let all = |during| Op::Freeze(Freeze { everything: true, during, ..Freeze::default() });
    vec![
        file(0),
        write(1, 0, 20_000, 1),
        file(1),
        write(2, 0, 200, 2),
        file(2),
        write(3, 0, 9000, 3),
        Op::Commit,
        // While they are frozen, one file is overwritten in part, one grows, and one is deleted.
        all(vec![
            (2, write(1, 5000, 3000, 4)),
            (2, write(2, 200, 100, 5)),
            (3, Op::Unlink(1, Name::Fixed(2))),
            (4, Op::Commit),
        ]),
        Op::Commit,
        Op::Checkpoint,
        // The same bytes as before, and some within frozen data.
        file(3),
        write(3, 0, 20_000, 1),
        write(1, 12_000, 10, 6),
        all(vec![(3, Op::Checkpoint), (4, Op::Truncate(1, At::From(16_000)))]),
        Op::Reap,
        file(4),
        write(4, 0, 12_000, 7),
        Op::Open(4, true),
        Op::Unlink(1, Name::Fixed(4)),
        // No commit comes between a freeze and the next checkpoint; a file without a name is frozen, too.
        all(Vec::new()),
        Op::Checkpoint,
        Op::Release(0),
        Op::Reap,
        write(2, 0, 600, 8),
        Op::Freeze(Freeze { everything: true, deep: true, stop: Some(4), ..Freeze::default() }),
        Op::Commit,
        write(1, 100, 5000, 9),
        Op::End,
        write(1, 0, 700, 10),
        all(Vec::new()),
        file(5),
    ]
}

fn live(start: Start, program: impl IntoIterator<Item = Op>) -> Life {
    let mut life = Life::begin(start.image(), SEGMENT).unwrap();
    for (n, op) in program.into_iter().enumerate() {
        life.run(&op).unwrap_or_else(|error| panic!("operation {n}, {op:?}: {error}"));
    }
    life
}

#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_acknowledged_and_leaves_a_state_that_was_committed() {
    let life = live(Start::Empty, history());
    let removed = life.history.removed_segments();
    assert!(removed > 3, "only {removed} segments were removed");
    let tried =
        cut_everywhere(&life.history, &life.commits, SEGMENT, depth()).unwrap_or_else(|error| panic!("{error}"));
    println!("{tried:?}, {removed} segments removed");
    assert!(tried.remains > 1000, "{tried:?}");
}

// Cases 4, 5, 8, 25.
#[test]
fn a_power_cut_anywhere_while_files_are_frozen_loses_nothing_that_was_acknowledged() {
    let life = live(Start::Empty, freezing_history());
    let frozen = life.frozen;
    assert!(frozen.superchunks > 3 && frozen.shared_bytes > 0 && frozen.dropped > 0, "{frozen:?}");
    let tried =
        cut_everywhere(&life.history, &life.commits, SEGMENT, depth()).unwrap_or_else(|error| panic!("{error}"));
    println!("{tried:?}, {frozen:?}");
    assert!(tried.remains > 1000, "{tried:?}");
}

#[test]
fn the_same_is_true_of_random_programs_over_a_packed_image() {
    let mix = Mix {
        crash: 0,
        remount: 30,
        commit: 6,
        checkpoint: 12,
        freeze: 8,
        longest: 20_000,
        xattr: 3000,
        far: false,
        ..Mix::LIFE
    };
    let seeds = if long() { 12 } else { 1 };
    for seed in 0..seeds {
        let program =
            Programs::new(seed, mix).filter(|op| !matches!(op, Op::Crash(..))).take(if long() { 60 } else { 25 });
        let life = live(Start::Small, program);
        let tried = cut_everywhere(&life.history, &life.commits, SEGMENT, depth())
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        println!("seed {seed}: {tried:?}");
    }
}
