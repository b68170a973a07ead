//! Random programs against an in-memory model. The model itself is tested against the kernel's file system first.

#[path = "common/model/mod.rs"]
mod model;

use floe::format::rows::Time;
use model::kernel::Kernel;
use model::{Mix, Op, Programs, ROOT, Subject, step};

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
