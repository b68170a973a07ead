//! `floe bench DIR`: how small a tree gets, and what packing and reading it cost.

use super::args::{JsonArg, Resources};
use super::open::shown;
use super::progress::clock;
use super::sentence::told;
use super::{Context, Exit, descriptors, output, progress, signals, time};
use crate::bench::run::{At, BenchError, BenchObserver, Plan};
use crate::bench::settings::Setting;
use crate::bench::{Entry, Outcome, table};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write as _};
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
floe packs DIR with each profile, mounts the image, and reads it: everything in order, one directory, 4 KiB at random, and \
'find -ls', each on a fresh mount and, as root, with cold caches. It reports the size by part, and what packing and reading took.

The images are made in the work directory, one at a time, and removed; the largest takes at most a little more than DIR. \
Nothing is left there, also after Ctrl-C. DIR itself is only read.

Examples:
  floe bench ~/photos                                 all profiles
  floe bench --profiles balanced,zstd:19 ~/photos     these settings
  floe bench --json ~/photos | jq '.entries[].size'   for programs

Exit status: 0 done, 1 failed, 2 wrong usage, 3 done but an entry failed or something could not be read, 130 interrupted.
";

/// Columns of the table.
const WIDTH: usize = 100;

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
    /// Directory to make images in [default: $TMPDIR, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    #[command(flatten)]
    pub(super) json: JsonArg,
    #[command(flatten)]
    resources: Resources,
}

/// Measures, and prints what was found.
///
/// # Errors
/// If DIR or the work directory cannot be used, or a signal came.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let plan = args.plan()?;
    signals::watch();
    descriptors::raise();
    let shower = Shower::new(context, args.json.json);
    let measured = crate::bench::run::run(&plan, &shower);
    shower.finish();
    let report = match measured {
        Err(BenchError::Interrupted) => return Err(told(Exit::Interrupted, "interrupted")),
        other => other?,
    };
    if args.json.json {
        output::document(&report)?;
    } else {
        let mut out = output::stdout();
        out.write_all(table(&report, WIDTH).as_bytes())?;
        out.flush()?;
    }
    let failed = |entry: &Entry| matches!(entry.outcome, Outcome::Failed { .. });
    Ok(if report.entries.iter().any(failed) { Exit::Findings } else { Exit::Done })
}

impl Args {
    fn plan(&self) -> anyhow::Result<Plan> {
        let source = self.dir.canonicalize().with_context(|| format!("cannot read '{}'", shown(&self.dir)))?;
        if !source.is_dir() {
            return Err(told(Exit::Usage, format!("'{}' is no directory", shown(&self.dir))));
        }
        let base = match (&self.work, std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty())) {
            (Some(work), _) => work.clone(),
            (None, Some(dir)) => dir.into(),
            (None, None) => "/var/tmp".into(),
        };
        let base = base.canonicalize().with_context(|| format!("cannot work in '{}'", shown(&base)))?;
        for (at, setting) in self.profiles.iter().enumerate() {
            if self.profiles[..at].contains(setting) {
                return Err(told(Exit::Usage, format!("'{}' is twice in --profiles", setting.name)));
            }
        }
        Ok(Plan {
            source,
            shown: shown(&self.dir).into_owned(),
            settings: self.profiles.clone(),
            peer_limit: None,
            base,
            jobs: self.resources.jobs(),
            program: std::env::current_exe().context("cannot find this program")?,
            path: std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin")),
            time: time::now().secs,
        })
    }
}

/// Shows people where the run is: a bar on a terminal, or a line for each step.
struct Shower {
    bar: Option<ProgressBar>,
    lines: bool,
    quiet: bool,
    json: bool,
}

impl Shower {
    fn new(context: &Context, json: bool) -> Self {
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
        Shower { bar, lines, quiet: context.quiet, json }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
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

    fn entry(&self, entry: &Entry) {
        if self.lines {
            self.say(&format!("{}: measured", entry.name));
        }
    }

    fn cancelled(&self) -> bool {
        signals::interrupted()
    }
}

/// `2 of 4, floe balanced: packing 42%, 3:10 left`
fn line(at: &At) -> String {
    let share = at.share.map_or_else(String::new, |share| format!(" {:.0}%", share * 100.0));
    let left = at.seconds_left.filter(|left| left.is_finite());
    let left =
        left.map_or_else(String::new, |left| format!(", {} left", clock(Duration::from_secs_f64(left.min(1e9)))));
    format!("{} of {}, {}: {}{share}{left}", at.number, at.entries, at.entry, at.doing)
}
