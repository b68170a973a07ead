//! Shrinks a failing program: any part of a program is a program. Called by the property test.

use super::{Freeze, Op};
use std::time::{Duration, Instant};

/// A failure of a program.
#[derive(Debug)]
pub struct Failure {
    /// The operations that were made; the last one failed.
    pub program: Vec<Op>,
    /// What was wrong.
    pub why: String,
}

/// Runs the operations until one fails.
pub fn run(program: Vec<Op>, mut each: impl FnMut(&Op) -> Result<(), String>) -> Result<(), Failure> {
    let mut failed = None;
    for (n, op) in program.iter().enumerate() {
        if let Err(why) = each(op) {
            failed = Some((n, why));
            break;
        }
    }
    match failed {
        None => Ok(()),
        Some((n, why)) => {
            let mut program = program;
            program.truncate(n + 1);
            Err(Failure { program, why })
        }
    }
}

/// Removes operations that the failure does not need, for at most `time`.
pub fn shrink(mut failure: Failure, time: Duration, fails: impl Fn(Vec<Op>) -> Result<(), Failure>) -> Failure {
    let began = Instant::now();
    let mut chunk = failure.program.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < failure.program.len() {
            if began.elapsed() > time {
                return failure;
            }
            let mut program = failure.program.clone();
            program.drain(at..(at + chunk).min(program.len()));
            match fails(program) {
                // A different failure is a different bug.
                Err(found) if kind(&found.why) == kind(&failure.why) => {
                    failure = found;
                    smaller = true;
                }
                _ => at += chunk,
            }
        }
        if !smaller || chunk > 1 {
            chunk /= 2;
        }
    }
    fewer_at_once(failure, began, time, fails)
}

/// Removes operations that happen during a freeze.
fn fewer_at_once(
    mut failure: Failure,
    began: Instant,
    time: Duration,
    fails: impl Fn(Vec<Op>) -> Result<(), Failure>,
) -> Failure {
    for at in 0..failure.program.len() {
        let mut inner = 0;
        while let Some(Op::Freeze(freeze)) = failure.program.get(at)
            && inner < freeze.during.len()
            && began.elapsed() < time
        {
            let mut during = freeze.during.clone();
            during.remove(inner);
            let mut program = failure.program.clone();
            program[at] = Op::Freeze(Freeze { during, ..freeze.clone() });
            match fails(program) {
                Err(found) if kind(&found.why) == kind(&failure.why) => failure = found,
                _ => inner += 1,
            }
        }
    }
    failure
}

/// The beginning of a message, without numbers.
pub fn kind(why: &str) -> String {
    why.chars().filter(|c| !c.is_ascii_digit()).take(24).collect()
}
