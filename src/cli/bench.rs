//! `floe bench DIR`: how small a tree gets, and what packing and reading it cost.

use super::args::Resources;
use super::open::shown;
use super::progress::clock;
use super::sentence::told;
use super::{Context, Exit, descriptors, making, output, progress, signals, size, tell, time};
use crate::bench::plan::{At, BenchError, BenchObserver, Plan};
use crate::bench::settings::Setting;
use crate::bench::{Entry, Outcome, Sample, html, table};
use crate::pack::PackOptions;
use crate::storage::{AtomicFile, Target};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const HELP: &str = "\
floe packs DIR with each profile, mounts the image, and reads it: everything in path order, one directory, 4 KiB at random, and \
what 'find -ls' asks for; each on a fresh mount, and with empty caches if you are root. It reports the size by part, what packing \
and reading took, what compressing each subchunk by itself would give, and how many bytes are inflated for a byte that is read. \
With --with-peers the same is measured of the other programs that are installed, with as many threads; those that are not are \
listed with their packages.

Images are made in the work directory, one at a time, and removed; the largest takes a little more than DIR at most, and peers \
that cannot be mounted are extracted beside what they made. Nothing is left, also after Ctrl-C, which ends it at once. DIR is only \
read; do not change it meanwhile. The random reads go to the same places for all, and each one opens its file.

With --sample everything is read and cut, so that deduplication is exact, but only SIZE bytes are compressed; with \
--sample-fast only SIZE bytes are read. Sizes are then predicted, each with the range in which the truth should lie, and nothing else is measured.

Examples:
  floe bench ~/photos                                     all profiles
  floe bench --profiles balanced,zstd:19 ~/photos         these settings
  floe bench --with-peers --html photos.html ~/photos     beside other programs, with a page to look at
  floe bench --sample 2G /srv/archive                     a prediction for much data
  floe bench --json ~/photos | jq '.entries[].size'       for programs

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but an entry failed or something could not be read, 130 interrupted.
";

/// Columns of the table that is printed.
const WIDTH: usize = 100;
/// Text that a page has if an earlier run made it, so that it may be replaced.
const GENERATOR: &[u8] = b"<meta name=\"generator\" content=\"floe bench";
/// Number of bytes at the beginning of a page in which the text [`GENERATOR`] is looked for.
const GENERATOR_WITHIN: u64 = 4096;

/// `floe bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The directory to pack; it is only read
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Profiles (fast, balanced, small, smallest) and codecs (zstd:15, xz:9, none) to pack with
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "fast,balanced,small,smallest")]
    #[arg(value_parser = Setting::parse)]
    profiles: Vec<Setting>,
    /// Measure the other programs that are installed, too: mksquashfs, mkfs.erofs, mkdwarfs, borg, restic, zpaq, tar
    #[arg(long, conflicts_with_all = ["sample", "sample_fast"])]
    with_peers: bool,
    /// Stop another program that packs or reads longer than this: 90, 90s, 10m, 2h, or none
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = limit)]
    peer_limit: Limit,
    /// Read everything, but compress only SIZE bytes, spread over the tree, and predict the sizes
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "sample_fast")]
    sample: Option<u64>,
    /// Read only SIZE bytes, and predict the sizes: quicker, and less exact
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    sample_fast: Option<u64>,
    /// Directory to make images in [default: $TMPDIR, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Write a page with plots, too: one file that needs no network. A page of an earlier run is replaced
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    resources: Resources,
}

/// Time after which a compared program is stopped; `None` for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit(Option<Duration>);

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) if text.ends_with('h') => (number, 3600),
        Some(number) => (number, 1),
        None => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().filter(|number| *number > 0).and_then(|number| number.checked_mul(unit));
    let wrong = || format!("'{text}' is not a time (seconds, or like 90s, 10m, 2h), nor none");
    seconds.map(|seconds| Limit(Some(Duration::from_secs(seconds)))).ok_or_else(wrong)
}

/// Runs `floe bench`: measures, and prints the results.
///
/// # Errors
/// Fails if DIR, the work directory or the page's file cannot be used, or if a signal came.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let plan = args.plan()?;
    // Before hours of work, not after.
    let page = args.html.as_deref().map(page_file).transpose()?;
    signals::watch();
    let shower = Shower::new(context);
    let measured = crate::bench::run::run(&plan, &shower);
    shower.finish();
    let report = match measured {
        Err(BenchError::Interrupted) => return Err(told(Exit::Interrupted, "interrupted")),
        other => other?,
    };
    if let Some(page) = page {
        page.file().write_all(html(&report).as_bytes()).context("cannot write the page")?;
        page.finish(0o666 & !making::umask()).context("cannot write the page")?;
    }
    if context.json {
        output::document(&report)?;
    } else {
        let mut out = output::stdout();
        output::whoever_reads(out.write_all(table(&report, WIDTH).as_bytes()).and_then(|()| out.flush()))?;
    }
    let failed = |entry: &Entry| matches!(entry.outcome, Outcome::Failed { .. });
    Ok(if shower.findings() || report.entries.iter().any(failed) { Exit::Findings } else { Exit::Done })
}

/// Makes the file of the page with plots, under a temporary name until it is finished.
fn page_file(path: &Path) -> anyhow::Result<AtomicFile> {
    let what = || format!("cannot write the page '{}'", shown(path));
    match File::open(path) {
        Ok(file) => {
            let mut begin = Vec::new();
            file.take(GENERATOR_WITHIN).read_to_end(&mut begin).with_context(what)?;
            if !begin.is_empty() && !begin.windows(GENERATOR.len()).any(|bytes| bytes == GENERATOR) {
                let why = "it exists, and is no page of 'floe bench'";
                return Err(told(Exit::Failed, format!("{}: {why} (choose another name)", what())));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(what),
    }
    AtomicFile::create(Target::claim(path, true).with_context(what)?, None).with_context(what)
}

impl Args {
    fn plan(&self) -> anyhow::Result<Plan> {
        let source = self.dir.canonicalize().with_context(|| format!("cannot read '{}'", shown(&self.dir)))?;
        if !source.is_dir() {
            return Err(told(Exit::Usage, format!("'{}' is no directory", shown(&self.dir))));
        }
        let temporary = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let base = self.work.clone().or(temporary.map(PathBuf::from)).unwrap_or_else(|| "/var/tmp".into());
        let base = base.canonicalize().with_context(|| format!("cannot work in '{}'", shown(&base)))?;
        for (at, setting) in self.profiles.iter().enumerate() {
            if self.profiles[..at].contains(setting) {
                return Err(told(Exit::Usage, format!("'{}' is twice in --profiles", setting.name)));
            }
        }
        let sample = self.sample.map(|bytes| Sample { bytes, fast: false });
        let program = Path::new("/proc/self/exe").read_link().context("cannot find this program")?;
        Ok(Plan {
            source,
            shown: shown(&self.dir).into_owned(),
            settings: self.profiles.clone(),
            sample: sample.or(self.sample_fast.map(|bytes| Sample { bytes, fast: true })),
            pack: PackOptions {
                jobs: self.resources.jobs(),
                open_directories: descriptors::directories(descriptors::raise()),
                now: time::now(),
                ..PackOptions::default()
            },
            with_peers: self.with_peers,
            peer_limit: self.peer_limit.0,
            base,
            jobs: self.resources.jobs(),
            program,
            path: std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin")),
            time: time::now().secs,
        })
    }
}

/// Shows people the progress of the run: a bar on a terminal, or a line for each step.
struct Shower {
    bar: Option<ProgressBar>,
    lines: bool,
    quiet: bool,
    json: bool,
    findings: AtomicBool,
}

impl Shower {
    fn new(context: &Context) -> Self {
        let lines = context.progress == progress::Mode::Plain;
        let bar = match context.progress {
            progress::Mode::Bar => true,
            progress::Mode::Auto => io::stderr().is_terminal() && !context.quiet,
            progress::Mode::Plain | progress::Mode::None => false,
        };
        let bar = bar.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Shower { bar, lines, quiet: context.quiet, json: context.json, findings: AtomicBool::new(false) }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell::text(text)),
            None => tell::text(text),
        }
    }

    /// Returns whether something of the source could not be read.
    fn findings(&self) -> bool {
        self.findings.load(Ordering::Relaxed)
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl BenchObserver for Shower {
    fn at(&self, at: &At) {
        if let Some(bar) = &self.bar {
            bar.set_message(line(at));
        }
    }

    fn note(&self, text: &str) {
        if !self.json && !self.quiet {
            self.say(&format!("note: {text}"));
        }
    }

    fn finding(&self, text: &str) {
        self.findings.store(true, Ordering::Relaxed);
        if !self.json {
            self.say(&format!("warning: {text}"));
        }
    }

    fn entry(&self, entry: &Entry) {
        if self.lines {
            self.say(&became(entry));
        }
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}

/// Returns a line that says how the measurement of an entry ended.
fn became(entry: &Entry) -> String {
    match &entry.outcome {
        Outcome::Done => format!("{}: measured", entry.name),
        Outcome::OverLimit { seconds } => format!("{}: stopped after {seconds:.0} s", entry.name),
        Outcome::Failed { message } => format!("{}: failed: {message}", entry.name),
    }
}

/// Returns a line such as `2 of 4, floe balanced: packing 42%, 3:10 left`.
fn line(at: &At) -> String {
    let share = at.share.map_or_else(String::new, |share| format!(" {:.0}%", share * 100.0));
    let left = at.seconds_left.filter(|left| left.is_finite());
    let left =
        left.map_or_else(String::new, |left| format!(", {} left", clock(Duration::from_secs_f64(left.min(1e9)))));
    format!("{} of {}, {}: {}{share}{left}", at.number, at.entries, at.entry, at.doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_time_or_none() {
        let seconds = |text| limit(text).unwrap().0.map(|time| time.as_secs());
        assert_eq!(["90", "90s", "10m", "2h", "none"].map(seconds), [Some(90), Some(90), Some(600), Some(7200), None]);
        for wrong in ["", "0", "-1", "1d", "m", "1.5h", "99999999999999999999", "9999999999999999999h"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_says_where_it_is_and_how_long_it_takes() {
        let at = At {
            entry: "floe fast".to_owned(),
            doing: "packing",
            number: 1,
            entries: 4,
            share: Some(0.42),
            seconds_left: Some(190.0),
        };
        assert_eq!(line(&at), "1 of 4, floe fast: packing 42%, 3:10 left");
        assert_eq!(line(&At { share: None, seconds_left: None, ..at }), "1 of 4, floe fast: packing");
    }

    #[test]
    fn only_a_page_of_bench_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.html");
        let text = [b"<!DOCTYPE html>\n".as_slice(), GENERATOR, b"\">"].concat();
        std::fs::write(&path, &text).unwrap();
        page_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        let error = format!("{:#}", page_file(&path).unwrap_err());
        assert!(error.contains("is no page of 'floe bench'"), "{error}");
        assert!(page_file(folder.path()).is_err() && page_file(&folder.path().join("no/a.html")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
    }
}
