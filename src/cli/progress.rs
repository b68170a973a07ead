//! How far a long command is: a bar on a terminal, lines for a log, or JSON for a program; and what it has to say on the way.
//!
//! Invariants: nothing is drawn where nobody looks; nothing is printed through a bar that stands; at most ten times a second.

use super::output::{self, ItemError, Status};
use super::size::Human;
use super::{Context, escape};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// A bar if standard error is a terminal, else nothing
    #[default]
    Auto,
    /// A bar
    Bar,
    /// A line every few seconds
    Plain,
    /// Nothing
    None,
}

/// Least time between two status lines or two drawings of the bar.
const OFTEN: Duration = Duration::from_millis(100);
/// Time between two plain lines.
const SELDOM: Duration = Duration::from_secs(5);

enum Shown {
    Bar(ProgressBar),
    Plain,
    Json,
    Nothing,
}

/// Where a command is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Files done.
    pub files: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, 0 where unknown.
    pub total: u64,
    /// Bytes written for them, where that is another number.
    pub stored: Option<u64>,
}

impl Step {
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let (done, left) = (self.bytes as f64, self.total.checked_sub(self.bytes)? as f64);
        // Nothing is foretold from the first instant: it would jump about.
        (self.bytes > 0 && self.total > 0 && elapsed.as_millis() > 500)
            .then(|| Duration::from_secs_f64((elapsed.as_secs_f64() * left / done).min(1e9)))
    }

    fn status(&self, elapsed: Duration) -> Status {
        let share = self.bytes as f64 / self.total.max(1) as f64;
        Status {
            percent_done: (self.total > 0).then(|| share.min(1.0)),
            bytes_done: self.bytes,
            total_bytes: self.total,
            files_done: self.files,
            seconds_remaining: self.left(elapsed).map(|left| left.as_secs()),
        }
    }

    fn text(&self, elapsed: Duration) -> String {
        let rate = (self.bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        let mut out = format!("{}, {}/s", Human(self.bytes), Human(rate));
        if self.total > 0 {
            out = format!("{} of {}, {}/s", Human(self.bytes), Human(self.total), Human(rate));
        }
        match self.stored {
            Some(stored) if stored > 0 => out.push_str(&format!(", {:.2}:1", self.bytes as f64 / stored as f64)),
            _ => {}
        }
        if let Some(left) = self.left(elapsed) {
            out.push_str(&format!(", {} left", clock(left)));
        }
        out
    }
}

/// `1:02:03` or `2:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// Tells people or programs how far a command is.
pub struct Progress {
    shown: Shown,
    quiet: bool,
    json: bool,
    verb: &'static str,
    begun: Instant,
    last: Mutex<Option<Instant>>,
    findings: AtomicU64,
}

impl Progress {
    /// For a command that is `verb` ("packing"). With `lines` it speaks JSON lines; a command that prints one document has none.
    pub fn new(context: &Context, json: bool, lines: bool, verb: &'static str) -> Self {
        let terminal = io::stderr().is_terminal();
        let shown = match context.progress {
            _ if json && lines => Shown::Json,
            _ if json => Shown::Nothing,
            Mode::Bar => Shown::Bar(bar(verb)),
            Mode::Auto if terminal && !context.quiet => Shown::Bar(bar(verb)),
            Mode::Plain => Shown::Plain,
            Mode::Auto | Mode::None => Shown::Nothing,
        };
        Progress {
            shown,
            quiet: context.quiet,
            json,
            verb,
            begun: Instant::now(),
            last: Mutex::new(None),
            findings: AtomicU64::new(0),
        }
    }

    /// The command has come this far.
    pub fn step(&self, step: Step) {
        let pause = if matches!(self.shown, Shown::Plain) { SELDOM } else { OFTEN };
        if matches!(self.shown, Shown::Nothing) || !self.is_due(pause) {
            return;
        }
        let elapsed = self.begun.elapsed();
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_length(step.total.max(step.bytes));
                bar.set_position(step.bytes);
                bar.set_message(step.text(elapsed));
            }
            Shown::Plain => eprintln!("{}: {} files, {}", self.verb, step.files, step.text(elapsed)),
            // Whether somebody reads is found out when the summary is written.
            Shown::Json => drop(output::line(&mut io::stdout(), "status", &step.status(elapsed))),
            Shown::Nothing => {}
        }
    }

    /// Whether anybody sees how far the command is.
    pub fn is_shown(&self) -> bool {
        !matches!(self.shown, Shown::Nothing)
    }

    fn is_due(&self, pause: Duration) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock();
        let due = last.is_none_or(|last| now.duration_since(last) >= pause);
        if due {
            *last = Some(now);
        }
        due
    }

    /// Something about one item is worth knowing, and the command goes on; shown whatever `--quiet` says.
    pub fn note(&self, item: &[u8], message: &str) {
        self.tell("warning", item, message);
    }

    /// Something is wrong with one item, and the command goes on; shown whatever `--quiet` says, and counted.
    pub fn finding(&self, item: &[u8], message: &str) {
        self.findings.fetch_add(1, Ordering::Relaxed);
        self.tell("warning", item, message);
    }

    /// One item could not be worked on, and the command goes on; shown whatever `--quiet` says, and counted.
    pub fn fault(&self, item: &[u8], message: &str) {
        self.findings.fetch_add(1, Ordering::Relaxed);
        self.tell("error", item, message);
    }

    fn tell(&self, word: &str, item: &[u8], message: &str) {
        let name = output::Name::new(item);
        if self.json {
            let error = ItemError { item: &name.path, message };
            // There is nobody to tell that nobody can be told.
            let _ = output::line(&mut io::stderr(), "error", &error);
        } else if item.is_empty() {
            self.above(&format!("{word}: {message}"));
        } else {
            self.above(&format!("{word}: {}: {message}", escape::shown(item)));
        }
    }

    /// Findings so far.
    pub fn findings(&self) -> u64 {
        self.findings.load(Ordering::Relaxed)
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Says something to people: not to programs, and not if asked to be quiet.
    pub fn say(&self, text: &str) {
        if !self.json && !self.quiet {
            self.above(text);
        }
    }

    /// Lists an item, on a line of its own.
    pub fn list(&self, item: &[u8]) {
        self.say(&escape::shown(item));
    }

    fn above(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            _ => eprintln!("{text}"),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn bar(verb: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent:>3}%  {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars(if speaks_utf8(|name| std::env::var(name).ok()) {
        "█▉▊▋▌▍▎▏ "
    } else {
        "=> "
    }));
    bar.set_prefix(verb);
    bar
}

/// Whether the locale says that terminals understand UTF-8: the first of these that is set decides, as for setlocale(3).
fn speaks_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step = Step { files: 3, bytes: 1 << 20, total: 4 << 20, stored: Some(1 << 19) };

    #[test]
    fn the_bar_says_rate_ratio_and_time_left() {
        assert_eq!(STEP.text(Duration::from_secs(2)), "1.00 MiB of 4.00 MiB, 512.0 KiB/s, 2.00:1, 0:06 left");
        let unknown = Step { total: 0, stored: None, ..STEP };
        assert_eq!(unknown.text(Duration::from_secs(1)), "1.00 MiB, 1.00 MiB/s");
    }

    #[test]
    fn a_status_leaves_out_what_is_not_known() {
        let status = STEP.status(Duration::from_secs(2));
        assert_eq!((status.percent_done, status.seconds_remaining), (Some(0.25), Some(6)));
        let status = Step { total: 0, ..STEP }.status(Duration::from_secs(2));
        assert_eq!((status.percent_done, status.seconds_remaining), (None, None));
        let status = Step { bytes: 9, total: 3, ..STEP }.status(Duration::from_secs(2));
        assert_eq!((status.percent_done, status.seconds_remaining), (Some(1.0), None));
    }

    #[test]
    fn times_are_shown_as_on_a_clock() {
        assert_eq!(clock(Duration::from_secs(5)), "0:05");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }

    #[test]
    fn the_locale_decides_whether_the_bar_is_ascii() {
        let locale = |all: &'static str, lang: &'static str| {
            speaks_utf8(move |name| match name {
                "LC_ALL" => Some(all.to_owned()),
                "LANG" => Some(lang.to_owned()),
                _ => None,
            })
        };
        assert!(locale("", "de_DE.UTF-8") && locale("C.utf8", ""));
        assert!(!locale("C", "de_DE.UTF-8") && !locale("", "") && !locale("", "de_DE.ISO-8859-1"));
    }
}
