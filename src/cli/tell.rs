//! What is told on standard error besides progress: text for people, JSON lines for programs.
//!
//! Invariants: with `--json` every line is JSON; nothing here fails or panics where standard error cannot be written.
//! Called by `main` and every command.

use super::exit::Exit;
use super::output;
use super::sentence::without_errno;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

static JSON: AtomicBool = AtomicBool::new(false);
static QUIET: AtomicBool = AtomicBool::new(false);

/// Sets how messages are printed from now on.
pub fn set(json: bool, quiet: bool) {
    JSON.store(json, Ordering::Relaxed);
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Returns whether messages are JSON for programs.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

/// Prints something worth knowing; not with `--quiet`.
pub fn note(message: impl Display) {
    if !QUIET.load(Ordering::Relaxed) {
        tell("note", &message.to_string());
    }
}

/// Prints that something is wrong, and that the command continues.
pub fn warning(message: impl Display) {
    tell("warning", &message.to_string());
}

/// Prints that an item cannot be read or written; the command continues. `message` is a sentence that names the item.
pub fn error(item: &[u8], message: &str) {
    let message = without_errno(message);
    if is_json() {
        item_error(item, &message);
    } else {
        text(&format!("error: {message}"));
    }
}

/// Prints an item's error as a JSON line.
pub fn item_error(item: &[u8], message: &str) {
    let name = output::Name::new(item);
    json("error", &output::ItemError { item: &name.path, item_hex: name.path_hex.as_deref(), message });
}

/// Prints why the command failed.
pub fn exit_error(exit: Exit, message: &str) {
    if is_json() {
        json("exit_error", &output::ExitError { code: exit.code(), message });
    } else {
        text(&format!("error: {message}"));
    }
}

/// Prints a line for people. Programs do not get it.
pub fn line(message: &str) {
    if !is_json() && !QUIET.load(Ordering::Relaxed) {
        text(message);
    }
}

fn tell(kind: &str, message: &str) {
    let message = without_errno(message);
    if is_json() { json(kind, &Message { message: &message }) } else { text(&format!("{kind}: {message}")) }
}

fn json(kind: &str, body: &impl Serialize) {
    // Nobody is left to tell that nobody can be told.
    let _ = output::line(&mut io::stderr(), kind, body);
}

/// Prints a line for people or programs. If that fails, nobody is left to tell.
pub fn text(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
