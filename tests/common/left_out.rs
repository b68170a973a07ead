//! Nothing is skipped silently: a test that cannot run here says so, is counted, and fails if `CI=true`.
//!
//! Messages go to the real standard error, past the test harness, which shows no output of tests that pass. A file for
//! each `cargo test` keeps the count; `what_was_left_out.rs`, which cargo runs last, sums it up.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Skips the test unless this machine can mount FUSE file systems.
macro_rules! need_fuse {
    () => {
        if !$crate::common::left_out::fuse_available() {
            return $crate::common::left_out::left_out("there is no usable /dev/fuse");
        }
    };
}
/// Skips the test unless it runs as root.
macro_rules! need_root {
    () => {
        if !$crate::common::left_out::is_root() {
            return $crate::common::left_out::left_out("it needs root");
        }
    };
}
/// Skips the test unless a program is in PATH.
macro_rules! need_program {
    ($name:expr) => {
        if !$crate::common::left_out::has_program($name) {
            return $crate::common::left_out::left_out(concat!("there is no ", $name));
        }
    };
}
pub(crate) use {need_fuse, need_program, need_root};

/// Whether a FUSE file system can be mounted here: as root by mount(2), otherwise by fusermount3.
pub fn fuse_available() -> bool {
    let opens = OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    opens && (is_root() || has_program("fusermount3"))
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a program is in PATH.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// The file that counts the tests left out by the test binaries of this `cargo test`.
fn count_file() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("left-out-{}", std::os::unix::process::parent_id()))
}

/// Reports and counts that the running test, or a part of it, was left out.
///
/// # Panics
/// With the environment variable `CI=true`: there everything must run.
pub fn left_out(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} may not be left out under CI=true, but {why}");
    say(&format!("left out: {test}: {why}\n"));
}

/// Says, once a test binary, that the file system below cannot hold all that a test wants to put there. That is no
/// reason to fail: another test covers what is beyond ext4.
pub fn reduced(why: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().expect("nothing panics with the lock").insert(why.to_owned()) {
        say(&format!("reduced: {why}\n"));
    }
}

fn say(line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(count_file()).expect("target/tmp is writable");
    file.write_all(line.as_bytes()).expect("target/tmp is writable");
    // The harness captures only print macros. A failed write to a closed terminal must not fail the test.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Everything left out or reduced so far, each line once; clears the list.
pub fn take_left_out() -> Vec<String> {
    let path = count_file();
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    text.lines().map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}
