//! How far a long command is: a bar on a terminal, lines for a log, or JSON for a program; and what it has to say on the way.
//!
//! Invariants: nothing is drawn where nobody looks; nothing is printed through a bar that stands; at most ten times a second.

use super::output::{self, Status};
use super::sentence::without_errno;
use super::size::Human;
use super::{Context, escape, help, tell};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The value of `--progress`: how progress is shown.
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

/// Least time between two status lines or two drawings of the progress bar.
const OFTEN: Duration = Duration::from_millis(100);
/// Least and largest number of columns of the progress bar.
const BAR_LEAST: usize = 10;
const BAR_MOST: usize = 40;
/// Fewest bytes, and shortest time, for which a rate is shown.
pub const RATE_FROM_BYTES: u64 = 1 << 20;
const RATE_FROM_TIME: Duration = Duration::from_secs(1);
/// Time between two plain lines.
const SELDOM: Duration = Duration::from_secs(5);

enum Shown {
    Bar(ProgressBar),
    Plain,
    Json,
    Nothing,
}

/// Progress of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Number of files that are done.
    pub files: u64,
    /// Number of bytes that are done.
    pub bytes: u64,
    /// Total number of bytes, 0 if unknown.
    pub total: u64,
    /// Number of bytes written, if that is another number.
    pub stored: Option<u64>,
}

impl Step {
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let (done, left) = (self.bytes as f64, self.total.checked_sub(self.bytes)? as f64);
        // Nothing is foretold from the first instant, or from less than a hundredth: it would jump about.
        let is_known = self.bytes > 0 && self.bytes >= self.total / 100;
        (is_known && self.total > 0 && elapsed.as_millis() > 500)
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
        self.parts(elapsed).join(", ")
    }

    /// Returns the parts of a progress message that are known: bytes done, rate, compression ratio, and time left.
    fn parts(&self, elapsed: Duration) -> Vec<String> {
        let mut parts = vec![match self.total {
            0 => Human(self.bytes).to_string(),
            total => format!("{} of {}", Human(self.bytes.min(total)), Human(total)),
        }];
        parts.extend(rate(self.bytes, elapsed));
        match self.stored {
            Some(stored) if stored > 0 => parts.push(format!("{:.2}:1", self.bytes as f64 / stored as f64)),
            _ => {}
        }
        match self.left(elapsed) {
            Some(left) if left.is_zero() => parts.push("finishing".to_owned()),
            Some(left) => parts.push(format!("{} left", clock(left))),
            None => {}
        }
        parts
    }

    /// Returns a line of at most `width` columns: verb, bar, percent, and as much of the rest as fits.
    fn line(&self, verb: &str, elapsed: Duration, width: usize, is_utf8: bool) -> String {
        let mut parts = self.parts(elapsed);
        if self.total == 0 {
            return format!("{verb}  {}", parts.join(", "));
        }
        let share = (self.bytes as f64 / self.total as f64).min(1.0);
        let room = |parts: &[String]| width.checked_sub(verb.len() + " [] 100%  ".len() + parts.join(", ").len());
        // What is left out first: the ratio or the rate, and last the time.
        while parts.len() > 1 && room(&parts).is_none_or(|room| room < BAR_LEAST) {
            parts.remove(if parts.len() > 2 { parts.len() - 2 } else { 0 });
        }
        let columns = room(&parts).unwrap_or(0).min(BAR_MOST);
        let full = (columns as f64 * share) as usize;
        let (done, rest) = if is_utf8 { ("█", "░") } else { ("=", " ") };
        let percent = (share * 100.0) as u32;
        format!("{verb} [{}{}] {percent:>3}%  {}", done.repeat(full), rest.repeat(columns - full), parts.join(", "))
    }
}

/// Returns a time such as `1:02:03` or `2:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// Returns a rate such as `19.3 MiB/s`; `None` for few bytes or a short time, whose rate says nothing.
pub fn rate(bytes: u64, elapsed: Duration) -> Option<String> {
    let is_telling = bytes >= RATE_FROM_BYTES && elapsed >= RATE_FROM_TIME;
    is_telling.then(|| format!("{}/s", Human((bytes as f64 / elapsed.as_secs_f64()) as u64)))
}

/// Tells people or programs how far a command is.
pub struct Progress {
    shown: Shown,
    quiet: bool,
    json: bool,
    verb: &'static str,
    /// Whether the progress bar may be drawn with more than ASCII.
    is_utf8: bool,
    begun: Instant,
    last: Mutex<Option<Instant>>,
    findings: AtomicU64,
}

impl Progress {
    /// Makes the progress of a command that is `verb` ("packing"). With `lines` it prints JSON lines; a command that
    /// prints one document has none.
    pub fn new(context: &Context, lines: bool, verb: &'static str) -> Self {
        let json = context.json;
        let terminal = io::stderr().is_terminal();
        let shown = match context.progress {
            _ if json && lines && !context.quiet => Shown::Json,
            _ if json => Shown::Nothing,
            Mode::Bar => Shown::Bar(bar()),
            Mode::Auto if terminal && !context.quiet => Shown::Bar(bar()),
            Mode::Plain => Shown::Plain,
            Mode::Auto | Mode::None => Shown::Nothing,
        };
        Progress {
            shown,
            quiet: context.quiet,
            json,
            verb,
            is_utf8: speaks_utf8(|name| std::env::var(name).ok()),
            begun: Instant::now(),
            last: Mutex::new(None),
            findings: AtomicU64::new(0),
        }
    }

    /// Shows that the command has come this far.
    pub fn step(&self, step: Step) {
        let pause = if matches!(self.shown, Shown::Plain) { SELDOM } else { OFTEN };
        if matches!(self.shown, Shown::Nothing) || !self.is_due(pause) {
            return;
        }
        let elapsed = self.begun.elapsed();
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_message(step.line(self.verb, elapsed, help::columns(), self.is_utf8));
            }
            Shown::Plain => tell::text(&format!("{}: {} files, {}", self.verb, step.files, step.text(elapsed))),
            // Whether somebody reads is found out when the summary is written.
            Shown::Json => drop(output::line(&mut io::stdout(), "status", &step.status(elapsed))),
            Shown::Nothing => {}
        }
    }

    /// Returns whether the output is JSON for programs.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Returns whether anybody sees the progress.
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

    /// Prints a warning about the command as a whole, which continues; shown with `--quiet` too.
    pub fn warning(&self, message: &str) {
        if self.json { tell::warning(message) } else { self.above(&format!("warning: {}", without_errno(message))) }
    }

    /// Prints that something is wrong with one item; the command continues. It is shown whatever `--quiet` says, and
    /// counted.
    pub fn finding(&self, item: &[u8], message: &str) {
        self.findings.fetch_add(1, Ordering::Relaxed);
        self.tell("warning", item, message);
    }

    /// Prints that one item could not be worked on; the command continues. It is shown whatever `--quiet` says, and
    /// counted.
    pub fn fault(&self, item: &[u8], message: &str) {
        self.findings.fetch_add(1, Ordering::Relaxed);
        self.tell("error", item, message);
    }

    fn tell(&self, word: &str, item: &[u8], message: &str) {
        let message = without_errno(message);
        if self.json {
            tell::item_error(item, &message);
        } else if item.is_empty() {
            self.above(&format!("{word}: {message}"));
        } else {
            self.above(&format!("{word}: {}: {message}", escape::shown(item)));
        }
    }

    /// Returns the number of findings so far.
    pub fn findings(&self) -> u64 {
        self.findings.load(Ordering::Relaxed)
    }

    /// Returns the time since the command began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Prints a text for people: not for programs, and not with `--quiet`.
    pub fn say(&self, text: &str) {
        if !self.json && !self.quiet {
            self.above(text);
        }
    }

    /// Prints an item on a line of its own.
    pub fn list(&self, item: &[u8]) {
        self.say(&escape::shown(item));
    }

    fn above(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| tell::text(text)),
            _ => tell::text(text),
        }
    }

    /// Removes the progress bar.
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

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Returns whether the locale says that terminals understand UTF-8: the first of these variables that is set decides,
/// as for setlocale(3).
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
    fn no_time_left_is_foretold_from_less_than_a_hundredth() {
        let left = |bytes| Step { bytes, total: 1000 << 20, ..STEP }.left(Duration::from_secs(2));
        assert_eq!((left(9 << 20), left(10 << 20)), (None, Some(Duration::from_secs(198))));
    }

    #[test]
    fn the_bar_fits_its_line_and_agrees_with_the_text_beside_it() {
        let line = |bytes, width| Step { bytes, ..STEP }.line("packing", Duration::from_secs(2), width, false);
        let wide = line(1 << 20, 120);
        assert!(
            wide.starts_with("packing [==========                              ]  25%  1.00 MiB of 4.00 MiB"),
            "{wide}"
        );
        assert!(wide.ends_with(", 512.0 KiB/s, 2.00:1, 0:06 left"), "{wide}");
        let narrow = line(1 << 20, 60);
        assert!(
            narrow.len() <= 60 && narrow.contains(" 25%  1.00 MiB of 4.00 MiB") && narrow.ends_with("0:06 left"),
            "{narrow}"
        );
        assert!(line(1 << 20, 45).ends_with(" 25%  0:06 left"), "{}", line(1 << 20, 45));
        assert!(line(0, 120).contains("[                                        ]   0%"));
        assert!(line(4 << 20, 120).contains("[========================================] 100%"));
        assert!(line(4 << 20, 120).ends_with("finishing"));
        let unknown = Step { total: 0, stored: None, ..STEP }.line("packing", Duration::from_secs(1), 60, true);
        assert_eq!(unknown, "packing  1.00 MiB, 1.00 MiB/s");
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
    fn few_bytes_and_short_times_have_no_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(3 << 20, 2 * second).as_deref(), Some("1.50 MiB/s"));
        assert_eq!(rate(1 << 20, second).as_deref(), Some("1.00 MiB/s"));
        assert_eq!(rate(11, 2 * second), None);
        assert_eq!(rate(1 << 30, second - Duration::from_millis(1)), None);
        assert_eq!(Step { bytes: 11, ..STEP }.parts(2 * second)[0], "11 B of 4.00 MiB");
        assert!(!Step { bytes: 11, ..STEP }.text(2 * second).contains("/s"));
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
