//! Reports how many tests were left out. Cargo runs test binaries in order of their names, so this one comes last.

mod common;

use std::io::Write;

#[test]
fn everything_that_was_left_out_is_counted() {
    let lines = common::left_out::take_left_out();
    let (left_out, reduced): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("left out: "));
    let mut message =
        format!("left out in this run: {}, reduced by the file system: {}\n", left_out.len(), reduced.len());
    for line in &lines {
        message.push_str(&format!("  {line}\n"));
    }
    // Bypasses the harness, which shows no output of tests that pass.
    let _ = std::io::stderr().write_all(message.as_bytes());
    assert!(left_out.is_empty() || std::env::var("CI").as_deref() != Ok("true"), "{message}");
}
