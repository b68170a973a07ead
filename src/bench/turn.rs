//! What all entries of a run share: where they work, what is read, and how progress is reported. Called by `own`,
//! `other` and `run`.

use super::command::{CommandError, Limits, Ran};
use super::forecast::Forecast;
use super::mounts::abort_below;
use super::plan::{At, BenchObserver, Plan};
use super::reading::{ReadError, pass};
use super::report::{Entry, Packing, Pass, Read};
use super::settings::LookError;
use super::survey::Survey;
use super::work::WorkDir;
use crate::fs::measure::MeasureError;
use crate::pack::PackError;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Weight of a reading pass, relative to about 1 for the fastest packing.
pub(super) const READING: f64 = 0.3;

/// Why an entry lacks some of its figures.
#[derive(Debug, Error)]
pub(super) enum EntryError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Look(#[from] LookError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("cannot measure the cost of reading the image")]
    Measure(#[from] MeasureError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl EntryError {
    /// Returns whether the caller asked to stop.
    pub(super) fn is_interrupted(&self) -> bool {
        matches!(
            self,
            EntryError::Command(CommandError::Interrupted)
                | EntryError::Read(ReadError::Interrupted)
                | EntryError::Measure(MeasureError::Cancelled)
                | EntryError::Pack(PackError::Cancelled)
        )
    }

    /// Returns after how many seconds the measurement was stopped, if it took longer than allowed.
    pub(super) fn over_limit(&self) -> Option<f64> {
        match self {
            EntryError::Command(CommandError::OverLimit { seconds })
            | EntryError::Read(ReadError::OverLimit { seconds }) => Some(*seconds),
            _ => None,
        }
    }
}

/// A run in progress.
pub(super) struct Turn<'a> {
    pub(super) plan: &'a Plan,
    pub(super) observer: &'a dyn BenchObserver,
    pub(super) survey: Arc<Survey>,
    pub(super) work: WorkDir,
    /// Whether reading passes can begin with empty caches.
    pub(super) cold: bool,
    /// Entries that are finished.
    pub(super) done: Vec<Entry>,
    /// Number of all entries.
    pub(super) entries: usize,
    pub(super) forecast: Mutex<Forecast>,
    notes: Mutex<Vec<String>>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(plan: &'a Plan, observer: &'a dyn BenchObserver, survey: Survey, work: WorkDir) -> Self {
        Turn {
            plan,
            observer,
            survey: Arc::new(survey),
            work,
            cold: false,
            done: Vec::new(),
            entries: 0,
            forecast: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// Reports, once, something that a reader of the figures must know.
    pub(super) fn note(&self, text: String) {
        self.tell(text, |observer, text| observer.note(text));
    }

    /// Reports, once, that something in the source could not be read.
    pub(super) fn finding(&self, text: String) {
        self.tell(text, |observer, text| observer.finding(text));
    }

    fn tell(&self, text: String, tell: impl Fn(&dyn BenchObserver, &str)) {
        let mut notes = lock(&self.notes);
        if !notes.contains(&text) {
            tell(self.observer, &text);
            notes.push(text);
        }
    }

    /// Returns all texts that [`Turn::note`] and [`Turn::finding`] reported.
    pub(super) fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    /// Returns the cost of packing, as measured by running the program.
    pub(super) fn packing(&self, ran: &Ran) -> Packing {
        Packing {
            seconds: ran.seconds,
            cpu_seconds: ran.cpu_seconds,
            bytes_per_second: self.survey.bytes as f64 / ran.seconds.max(1e-9),
            peak_memory: ran.peak_memory,
        }
    }

    /// Does a step and reports progress meanwhile. The step passes on the fraction that is done, if it knows it.
    pub(super) fn step<T>(
        &self,
        entry: &str,
        doing: &'static str,
        time: Option<Duration>,
        step: impl FnOnce(&Limits<'_>, &(dyn Fn(f64) + Sync)) -> Result<T, EntryError>,
    ) -> Result<T, EntryError> {
        let (began, share) = (Instant::now(), Mutex::new(None));
        let tell = || {
            let share = *lock(&share);
            let seconds_left = lock(&self.forecast).left(began.elapsed(), share);
            let (entry, number) = (entry.to_owned(), self.done.len() + 1);
            self.observer.at(&At { entry, doing, number, entries: self.entries, share, seconds_left });
        };
        let stop = || {
            tell();
            self.observer.cancelled()
        };
        let done = step(&Limits { time, stop: &stop }, &|done| *lock(&share) = Some(done));
        // A stopped step took its time as well.
        lock(&self.forecast).done(began.elapsed());
        done
    }

    /// Makes one reading pass over a mounted tree.
    pub(super) fn pass(&self, read: Read, root: &Path, cold: bool, limits: &Limits<'_>) -> Result<Pass, EntryError> {
        let abort = || abort_below(self.work.path());
        let passed = pass(read, root, &self.survey, cold, limits, &abort)?;
        if passed.absent > 0 {
            self.note(format!(
                "{} of {} random reads are left out: their files were not packed, or have gone",
                passed.absent,
                self.survey.spots.len()
            ));
        }
        Ok(passed.pass)
    }
}

/// Returns the description of a pass for people.
pub(super) fn doing(read: Read) -> &'static str {
    match read {
        Read::InOrder => "reading everything in order",
        Read::OneDirectory => "reading one directory",
        Read::Random => "reading at random",
        Read::Find => "listing",
    }
}

/// Returns an error and its causes as one sentence.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
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

/// Locks a mutex. No holder of the lock panics, and its value is complete at any time, so poisoning is ignored.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
