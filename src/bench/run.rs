//! A whole run: examines the source, then packs, reads and removes each setting and each peer, one after another.
//!
//! Invariants: the files of at most one entry exist at a time; a failure in one entry does not affect the others; when
//! the caller asks to stop, nothing remains. Called by `cli/bench.rs`.

use super::command::{CommandError, Limits};
use super::forecast::Forecast;
use super::machine::machine;
use super::peers::{self, Peer, Tools, is_program};
use super::plan::{BenchError, BenchObserver, Plan};
use super::report::{Entry, Kind, Method, Missing, Outcome, Report, Source};
use super::settings::{Floe, Setting};
use super::survey::survey;
use super::turn::{EntryError, Turn, lock, sentence};
use super::work::{self, WorkDir, drop_caches};
use super::{other, own};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Divisor: the run does not begin with less free space than one part in this many of the source's bytes, because
/// hardly anything compresses that well.
const LEAST_FREE: u64 = 50;

/// Measures everything in `plan`. Failures of entries are in the report.
///
/// # Errors
/// Fails if the source or the work directory cannot be used, or the caller asked to stop.
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
    let (free, needed) = (work::free(&plan.base).map_err(work_error)?, needed(plan, found.bytes));
    if free < needed / LEAST_FREE {
        return Err(BenchError::NoSpace { path: base, free, needed });
    }
    let work = WorkDir::new(&plan.base).map_err(work_error)?;
    let mut turn = Turn::new(plan, observer, found, work);
    if free < needed {
        turn.note(format!(
            "the work directory has {} MiB free, and an entry needs up to {} MiB: what finds the disk full fails, and the rest \
             goes on",
            free >> 20,
            needed >> 20
        ));
    }
    let measured = Run::begin(&mut turn).and_then(Run::finish_all);
    // Hours of measurements are not discarded because of a file that cannot be removed.
    let left = turn.work.end().map_err(work_error);
    match (measured, left) {
        (Ok(mut report), Err(error)) => {
            observer.note(&sentence(&error));
            report.notes.push(sentence(&error));
            Ok(report)
        }
        (measured, left) => left.and(measured),
    }
}

/// Returns the most bytes that the work directory holds at once.
fn needed(plan: &Plan, bytes: u64) -> u64 {
    match &plan.sample {
        Some(sample) => work::needed(sample.bytes.min(bytes).saturating_mul(2)),
        // Some peers can be read only by extracting next to their result.
        None if plan.with_peers => work::needed(bytes.saturating_mul(2)),
        None => work::needed(bytes),
    }
}

struct Run<'t, 'a> {
    turn: &'t mut Turn<'a>,
    floe: Floe<'a>,
    /// Whether images of floe are read through mounts.
    mounts: bool,
    peers: Vec<Peer>,
    missing: Vec<Missing>,
    /// For each entry, the number of the step that follows its last step.
    ends: Vec<usize>,
}

impl<'t, 'a> Run<'t, 'a> {
    /// Prepares a run: finds out what can be measured on this machine.
    fn begin(turn: &'t mut Turn<'a>) -> Result<Self, BenchError> {
        let plan = turn.plan;
        turn.cold = plan.sample.is_none() && drop_caches();
        let floe = Floe { program: &plan.program, jobs: plan.jobs };
        let no_fuse = no_fuse(&plan.path);
        let mut run =
            Run { turn, floe, mounts: no_fuse.is_none(), peers: Vec::new(), missing: Vec::new(), ends: Vec::new() };
        run.tell(no_fuse);
        if plan.with_peers {
            run.look_for_peers()?;
        }
        let mut forecast = Forecast::default();
        let own = plan.settings.iter().map(|setting| match plan.sample {
            Some(_) => (own::sampled_steps(setting), None),
            None => (own::steps(setting, run.mounts), None),
        });
        let peers = run.peers.iter().map(|_| (other::steps(), plan.peer_limit));
        let mut ends = Vec::new();
        let mut end = 0;
        for (steps, limit) in own.chain(peers) {
            end += steps.len();
            ends.push(end);
            steps.into_iter().for_each(|(work, weight)| forecast.add(work, weight, limit));
        }
        (run.turn.entries, run.ends) = (ends.len(), ends);
        run.turn.forecast = forecast.into();
        Ok(run)
    }

    /// Reports what a reader of the figures must know.
    fn tell(&self, no_fuse: Option<String>) {
        let reads = self.turn.plan.sample.is_none();
        if reads && !self.turn.cold {
            self.turn.note("the caches could not be dropped (only root can): every reading pass is warm".to_owned());
        }
        if let Some(why) = no_fuse.filter(|_| reads) {
            self.turn.note(format!("images of floe are not read through a mount: {why}"));
        }
        let names = self.turn.survey.unreadable;
        if names > 0 {
            self.turn.finding(format!("{names} names of the source cannot be read: they are in no figure"));
        }
    }

    fn look_for_peers(&mut self) -> Result<(), BenchError> {
        let plan = self.turn.plan;
        let tools = Tools { path: plan.path.clone(), kernel_mounts: rustix::process::geteuid().is_root() };
        let stop = || self.turn.observer.cancelled();
        let limits = Limits { time: None, stop: &stop };
        match peers::look(&tools, &self.turn.work.path().join("peers"), plan.jobs, &limits) {
            Ok(found) => (self.peers, self.missing) = (found.peers, found.missing),
            Err(CommandError::Interrupted) => return Err(BenchError::Interrupted),
            Err(error) => self.turn.note(format!("the peers cannot be looked for: {}", sentence(&error))),
        }
        Ok(())
    }

    /// Measures all entries. If it cannot continue, the report holds what was measured.
    fn finish_all(mut self) -> Result<Report, BenchError> {
        match self.entries() {
            Err(error @ BenchError::Work { .. }) if !self.turn.done.is_empty() => {
                self.turn.note(format!("{}: the rest was not measured", sentence(&error)));
            }
            done => done?,
        }
        Ok(self.report())
    }

    /// Measures all entries, one after another.
    fn entries(&mut self) -> Result<(), BenchError> {
        let plan = self.turn.plan;
        for setting in &plan.settings {
            let mut entry = self.own_entry(setting);
            let measured = match &plan.sample {
                Some(sample) => own::predicted(self.turn, setting, sample, &mut entry),
                None => own::measure(self.turn, &self.floe, setting, self.mounts, &mut entry),
            };
            self.finish(entry, measured)?;
        }
        for peer in std::mem::take(&mut self.peers) {
            let options = (peer.version().to_owned(), peer.options().to_owned());
            let mut entry = entry(peer.name().to_owned(), Kind::Peer, options);
            let measured = other::measure(self.turn, &peer, &mut entry);
            self.finish(entry, measured)?;
        }
        Ok(())
    }

    fn own_entry(&self, setting: &Setting) -> Entry {
        let options = (env!("CARGO_PKG_VERSION").to_owned(), self.floe.options(setting));
        entry(format!("floe {}", setting.name), Kind::Floe, options)
    }

    /// Records the outcome of an entry, and removes its files.
    fn finish(&mut self, mut entry: Entry, measured: Result<(), EntryError>) -> Result<(), BenchError> {
        if self.turn.observer.cancelled() {
            return Err(BenchError::Interrupted);
        }
        if let Err(error) = measured {
            if error.is_interrupted() {
                return Err(BenchError::Interrupted);
            }
            entry.outcome = match error.over_limit() {
                Some(seconds) => Outcome::OverLimit { seconds },
                None => Outcome::Failed { message: sentence(&error) },
            };
        }
        let place = |source| BenchError::Work { path: self.turn.work.path().display().to_string(), source };
        for name in ["mnt", "entry"] {
            self.turn.work.fresh(name).map_err(place)?;
        }
        self.turn.observer.entry(&entry);
        self.turn.done.push(entry);
        let end = self.ends.get(self.turn.done.len() - 1).copied().unwrap_or(usize::MAX);
        lock(&self.turn.forecast).skip_to(end);
        Ok(())
    }

    fn report(self) -> Report {
        let Turn { plan, survey, cold, done, work, .. } = &*self.turn;
        Report {
            floe: env!("CARGO_PKG_VERSION").to_owned(),
            time: plan.time,
            machine: machine(work.path()),
            source: Source {
                path: plan.shown.clone(),
                files: survey.files,
                directories: survey.directories,
                bytes: survey.bytes,
            },
            method: Method {
                jobs: plan.jobs,
                cold: *cold,
                peer_limit: plan.peer_limit.filter(|_| plan.with_peers).map(|limit| limit.as_secs_f64()),
                sample: plan.sample.clone(),
            },
            entries: done.clone(),
            missing: self.missing,
            notes: self.turn.notes(),
        }
    }
}

fn entry(name: String, kind: Kind, (version, options): (String, String)) -> Entry {
    Entry {
        name,
        kind,
        version,
        options,
        outcome: Outcome::Done,
        size: None,
        packing: None,
        passes: Vec::new(),
        read_costs: Vec::new(),
    }
}

/// Returns why no image can be mounted with FUSE here; `None` if it can.
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
