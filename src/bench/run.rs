//! A whole run: the source is looked at, then each setting and each peer is packed, read and removed, one after another.
//!
//! Invariants: at most one entry's files exist at a time; what fails in one entry is that entry's, and the rest goes on; an end
//! that is asked for leaves nothing. Called by `cli/bench.rs`.

use super::command::{CommandError, Limits};
use super::forecast::{Forecast, Work};
use super::machine::machine;
use super::mounts::abort_below;
use super::reading::{PASSES, ReadError, pass};
use super::report::{Entry, Kind, Method, Outcome, Packing, Read, Report, Source};
use super::settings::{self, Floe, LookError, Setting};
use super::survey::{Survey, survey};
use super::work::{self, WorkDir, drop_caches};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thiserror::Error;

/// With less than this share of the source's bytes free, nothing is begun: hardly anything gets so small.
const LEAST_FREE: u64 = 50;
/// Weight of a reading pass, where the fastest packing has about 1.
const READING: f64 = 0.3;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The tree, absolute.
    pub source: PathBuf,
    /// Its name as it is shown.
    pub shown: String,
    /// floe's settings.
    pub settings: Vec<Setting>,
    /// A peer's step that takes longer is stopped.
    pub peer_limit: Option<Duration>,
    /// Where the work directory is made; absolute.
    pub base: PathBuf,
    /// Threads that pack.
    pub jobs: usize,
    /// The program that packs and mounts: this one.
    pub program: PathBuf,
    /// Where programs are looked for.
    pub path: OsString,
    /// This moment, seconds since 1970.
    pub time: i64,
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct At {
    /// The entry: "floe balanced".
    pub entry: String,
    /// What is done with it: "packing".
    pub doing: &'static str,
    /// Its number, from 1.
    pub number: usize,
    /// Entries in all.
    pub entries: usize,
    /// Share of the step that is done, where it is known.
    pub share: Option<f64>,
    /// Where it can be told.
    pub seconds_left: Option<f64>,
}

/// Is told where a run is. Called from several threads, ten times a second.
pub trait BenchObserver: Sync {
    /// It is here.
    fn at(&self, at: &At);
    /// Something that its reader has to know.
    fn note(&self, text: &str);
    /// An entry has ended.
    fn entry(&self, entry: &Entry);
    /// Whether it is to end.
    fn cancelled(&self) -> bool;
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum BenchError {
    /// An end was asked for.
    #[error("interrupted")]
    Interrupted,
    /// The source cannot be read.
    #[error("cannot read '{path}'")]
    Source {
        /// Its name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no work directory to be had.
    #[error("cannot work in '{path}'")]
    Work {
        /// Its name.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work directory would be packed, too.
    #[error("the work directory '{work}' is inside the source: it would be packed, too (choose another with --work)")]
    WorkInSource {
        /// Its name.
        work: String,
    },
    /// Not even a well compressed image fits.
    #[error(
        "'{path}' has {free} bytes free, and the largest image may need {needed} (choose another place with --work, or \
         --sample)"
    )]
    NoSpace {
        /// The work directory's base.
        path: String,
        /// Bytes.
        free: u64,
        /// Bytes.
        needed: u64,
    },
}

/// Measures all of `plan`.
///
/// # Errors
/// The source or the work directory cannot be used, or an end was asked for. What fails of an entry is in the report.
pub fn run(plan: &Plan, observer: &dyn BenchObserver) -> Result<Report, BenchError> {
    let base = plan.base.display().to_string();
    let work_error = |source| BenchError::Work { path: base.clone(), source };
    if plan.base.starts_with(&plan.source) {
        return Err(BenchError::WorkInSource { work: base });
    }
    let stop = || observer.cancelled();
    let found = survey(&plan.source, &stop).map_err(|source| match source.kind() {
        io::ErrorKind::Interrupted => BenchError::Interrupted,
        _ => BenchError::Source { path: plan.shown.clone(), source },
    })?;
    let (free, needed) = (work::free(&plan.base).map_err(work_error)?, work::needed(found.bytes));
    if free < found.bytes / LEAST_FREE {
        return Err(BenchError::NoSpace { path: base, free, needed });
    }
    let work = WorkDir::new(&plan.base).map_err(work_error)?;
    let mut run = Run::new(plan, observer, found, work);
    if free < needed {
        run.note(format!(
            "the work directory has {free} bytes free; an entry needs {needed} at most: what finds the disk full fails, and \
             the rest goes on"
        ));
    }
    let measured = run.entries();
    let Run { work, report, .. } = run;
    work.end().map_err(work_error)?;
    measured.map(|()| report)
}

struct Run<'a> {
    plan: &'a Plan,
    observer: &'a dyn BenchObserver,
    floe: Floe<'a>,
    survey: Arc<Survey>,
    work: WorkDir,
    report: Report,
    forecast: Mutex<Forecast>,
    /// Why nothing can be mounted with FUSE.
    no_fuse: Option<String>,
    entries: usize,
}

/// Why an entry has not all of its figures.
#[derive(Debug, Error)]
enum EntryError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Look(#[from] LookError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, observer: &'a dyn BenchObserver, survey: Survey, work: WorkDir) -> Self {
        let cold = drop_caches();
        let report = Report {
            floe: env!("CARGO_PKG_VERSION").to_owned(),
            time: plan.time,
            machine: machine(work.path()),
            source: Source {
                path: plan.shown.clone(),
                files: survey.files,
                directories: survey.directories,
                bytes: survey.bytes,
            },
            method: Method { jobs: plan.jobs, cold, peer_limit: None, sample: None },
            entries: Vec::new(),
            missing: Vec::new(),
            notes: Vec::new(),
        };
        let floe = Floe { program: &plan.program, jobs: plan.jobs };
        let mut forecast = Forecast::new(None);
        for setting in &plan.settings {
            forecast.add(Work::Pack, setting.weight);
            PASSES.iter().for_each(|_| forecast.add(Work::Read, READING));
        }
        let forecast = Mutex::new(forecast);
        let (survey, entries) = (Arc::new(survey), plan.settings.len());
        Run { plan, observer, floe, survey, work, report, forecast, no_fuse: no_fuse(&plan.path), entries }
    }

    fn note(&mut self, text: String) {
        if !self.report.notes.contains(&text) {
            self.observer.note(&text);
            self.report.notes.push(text);
        }
    }

    /// All entries, in turns.
    fn entries(&mut self) -> Result<(), BenchError> {
        if !self.report.method.cold {
            self.note("the caches could not be dropped (only root can): every reading pass is warm".to_owned());
        }
        if let Some(why) = self.no_fuse.clone() {
            self.note(format!("images of floe are not read through a mount: {why}"));
        }
        if self.survey.unreadable > 0 {
            let names = self.survey.unreadable;
            self.note(format!("{names} names of the source cannot be read: they are in no figure"));
        }
        for setting in &self.plan.settings {
            let mut entry = Entry {
                name: format!("floe {}", setting.name),
                kind: Kind::Floe,
                version: self.report.floe.clone(),
                options: self.floe.options(setting),
                outcome: Outcome::Done,
                size: None,
                packing: None,
                passes: Vec::new(),
                read_costs: Vec::new(),
            };
            let measured = self.setting(setting, &mut entry);
            self.finish(entry, measured)?;
        }
        Ok(())
    }

    /// Notes what became of an entry, and removes its files.
    fn finish(&mut self, mut entry: Entry, measured: Result<(), EntryError>) -> Result<(), BenchError> {
        if self.observer.cancelled() {
            return Err(BenchError::Interrupted);
        }
        match measured {
            Ok(()) => {}
            Err(EntryError::Command(CommandError::Interrupted) | EntryError::Read(ReadError::Interrupted)) => {
                return Err(BenchError::Interrupted);
            }
            Err(
                EntryError::Command(CommandError::OverLimit { seconds })
                | EntryError::Read(ReadError::OverLimit { seconds }),
            ) => entry.outcome = Outcome::OverLimit { seconds },
            Err(error) => entry.outcome = Outcome::Failed { message: sentence(&error) },
        }
        let place = |source| BenchError::Work { path: self.work.path().display().to_string(), source };
        self.work.fresh("entry").map_err(place)?;
        self.observer.entry(&entry);
        self.report.entries.push(entry);
        let steps = self.report.entries.len() * (1 + PASSES.len());
        lock(&self.forecast).skip_to(steps);
        Ok(())
    }

    /// Does a step, and tells meanwhile where it is.
    fn step<T>(
        &self,
        entry: &str,
        doing: &'static str,
        time: Option<Duration>,
        step: impl FnOnce(&Limits<'_>, &dyn Fn(f64)) -> Result<T, EntryError>,
    ) -> Result<T, EntryError> {
        let (began, share) = (Instant::now(), Mutex::new(None));
        let tell = || {
            let share = *lock(&share);
            let seconds_left = lock(&self.forecast).left(began.elapsed(), share);
            let number = self.report.entries.len() + 1;
            let entry = entry.to_owned();
            self.observer.at(&At { entry, doing, number, entries: self.entries, share, seconds_left });
        };
        let stop = || {
            tell();
            self.observer.cancelled()
        };
        let done = step(&Limits { time, stop: &stop }, &|done| *lock(&share) = Some(done))?;
        lock(&self.forecast).done(began.elapsed());
        Ok(done)
    }

    /// Measures one setting of floe.
    fn setting(&mut self, setting: &Setting, entry: &mut Entry) -> Result<(), EntryError> {
        let image = self.work.fresh("entry")?.join("image.floe");
        let packed = self.step(&entry.name, "packing", None, |limits, watch| {
            Ok(self.floe.pack(setting, &self.plan.source, &image, limits, watch)?)
        })?;
        let bytes = self.report.source.bytes;
        entry.packing = Some(Packing {
            seconds: packed.ran.seconds,
            cpu_seconds: packed.ran.cpu_seconds,
            bytes_per_second: bytes as f64 / packed.ran.seconds.max(1e-9),
            peak_memory: packed.ran.peak_memory,
        });
        if packed.summary.warnings > 0 {
            let names = packed.summary.warnings;
            let first = packed.finding.map_or_else(String::new, |finding| format!(" (one of them: {finding})"));
            self.note(format!("floe pack could not read {names} of the source's files as they are{first}"));
        }
        let total = image.metadata()?.len();
        let opened = settings::open(&image)?;
        entry.size = Some(settings::size(&opened, total, bytes)?);
        if self.no_fuse.is_some() {
            return Ok(());
        }
        for read in PASSES {
            let done = self.step(&entry.name, doing(read), None, |limits, _| {
                let point = self.work.fresh("mnt")?;
                let mounted = self.floe.mount(&image, &point, limits)?;
                let cold = drop_caches();
                let abort = || abort_below(self.work.path());
                let done = pass(read, mounted.point(), &self.survey, cold, limits, &abort);
                // What reading found is worth more than how the mount ended.
                let ended = mounted.end();
                let done = done?;
                ended?;
                Ok(done)
            })?;
            entry.passes.push(done);
        }
        Ok(())
    }
}

fn doing(read: Read) -> &'static str {
    match read {
        Read::InOrder => "reading everything in order",
        Read::OneDirectory => "reading one directory",
        Read::Random => "reading at random",
        Read::Find => "listing",
    }
}

/// Why no image can be mounted with FUSE here, if so.
fn no_fuse(path: &OsStr) -> Option<String> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    if let Err(error) = device {
        return Some(format!("/dev/fuse cannot be opened: {error}"));
    }
    let mut directories = path.as_bytes().split(|&byte| byte == b':').map(|name| Path::new(OsStr::from_bytes(name)));
    let helper = directories.any(|directory| is_program(&directory.join("fusermount3")));
    let is_root = rustix::process::geteuid().is_root();
    (!is_root && !helper).then(|| "fusermount3 is not installed (package fuse3)".to_owned())
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// An error and its causes as one sentence.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !out.ends_with(&text) {
            out = format!("{out}: {text}");
        }
        cause = error.source();
    }
    out
}

/// Nobody panics with it, and what is in it is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
