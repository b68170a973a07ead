//! The peak memory of a program that `floe bench` runs. It is measured alone in its process: until the program is started, the
//! kernel counts the memory of this process as the program's, that of other tests too.
#![cfg(target_env = "gnu")]

use floe::bench::command::{Limits, run as run_measured};
use std::process::Command;

#[test]
fn what_this_process_needed_before_is_not_counted_as_a_programs() {
    // Each is smaller than what the allocator requests from the kernel separately.
    let many: Vec<Vec<u8>> = (0..4096).map(|_| vec![1; 64 << 10]).collect();
    assert!(many.iter().all(|one| one.iter().all(|&byte| byte == 1)));
    drop(many);
    let ran = run_measured(&mut Command::new("true"), &Limits { time: None, stop: &|| false }).unwrap();
    assert!(ran.peak_memory < 200 << 20, "{ran:?}");
}
