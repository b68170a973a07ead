//! The life of an image: operations, commits, checkpoints, remounts and crashes, with the expected state after each.
//!
//! A [`History`] records every change of image and thaw log, and a [`Life`] records the model's state at each commit.
//! So it knows which states are allowed after a power cut at any moment. Called by the tests.

use super::machine::{Disks, Machine, check, check_after_cut, read_alone, time, whole};
use super::program::{Freeze, Op};
use super::rng::Rng;
use super::scan;
use super::state::Model;
use super::step::step;
use super::subject::Subject;
use floe::fs::gc::GcError;
use floe::fs::{Finished, FreezeHow, FreezeReport, Fs, FsOptions, Snapshot, SnapshotError, SnapshotSource};
use floe::meta::{Image, ImageOptions, View};
use floe::storage::testing::{Fate, FolderHome, History, Remains};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

/// A commit: when it began and ended, in changes of the history, and its state.
#[derive(Clone)]
pub struct Commit {
    /// Changes before it.
    pub begun: usize,
    /// Changes when it was acknowledged.
    pub ended: usize,
    /// The named inodes at that time.
    pub state: Model,
}

/// The commits so far. They determine the states that a power cut may leave.
#[derive(Clone, Default)]
pub struct Commits(pub Vec<Commit>);

impl Commits {
    /// The states allowed after a power cut after `n` changes: that of the last acknowledged commit, and those of
    /// commits that began since.
    pub fn allowed(&self, n: usize) -> impl Iterator<Item = &Model> {
        let last = self.0.iter().rposition(|commit| commit.ended <= n).unwrap_or(0);
        self.0[last..]
            .iter()
            .enumerate()
            .filter(move |(at, commit)| *at == 0 || commit.begun < n)
            .map(|(_, c)| &c.state)
    }

    /// Checks that `found` is one of the allowed states.
    ///
    /// # Errors
    /// How it differs from the acknowledged state.
    pub fn admit(&self, n: usize, found: &Model) -> Result<(), String> {
        let allowed: Vec<&Model> = self.allowed(n).collect();
        if allowed.iter().rev().any(|state| *state == found) {
            return Ok(());
        }
        let first = allowed[0].difference(found).unwrap_or_default();
        let last = allowed[allowed.len() - 1].difference(found).unwrap_or_default();
        Err(format!(
            "none of {} states is there. From the one that was acknowledged: {first}\nFrom the last one: {last}",
            allowed.len()
        ))
    }
}

/// An image that is being written.
pub struct Life {
    /// The model.
    pub model: Model,
    /// All changes of image and thaw log.
    pub history: History,
    /// Image and thaw log.
    pub disks: Disks,
    /// The commits so far.
    pub commits: Commits,
    /// Operations so far.
    pub operations: u64,
    /// Bytes freed by gc.
    pub freed: u64,
    /// Total of all freezes.
    pub frozen: FreezeReport,
    /// Snapshots, and how often one was compared.
    pub snapshots: Snapshots,
    segment: u64,
    machine: Option<Machine>,
    /// The number of the operation that mounted it.
    mounted: u64,
    held: Option<Held>,
}

/// A reader that took a snapshot some operations ago.
struct Held {
    fs: Arc<Fs>,
    /// The state that it saw then.
    state: Model,
    since: u64,
}

/// Operations for which a reader holds a snapshot; meanwhile there are commits, checkpoints and removed segments.
const HELD: u64 = 90;

struct Fixed(Snapshot);

impl SnapshotSource for Fixed {
    fn snapshot(&self) -> Snapshot {
        self.0.clone()
    }
}

/// Storage that records a new history.
pub fn record(start: Remains) -> (History, Disks) {
    let history = History::new(start);
    let home = Arc::new(FolderHome::new(Arc::new(history.folder())));
    let disks = Disks { image: Arc::new(history.storage()), home };
    (history, disks)
}

impl Life {
    /// Opens an image; the model is taken from it.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn begin(image: Vec<u8>, segment: u64) -> Result<Life, String> {
        let (history, disks) = record(Remains { image, segments: Default::default() });
        let machine = Machine::open(&disks, segment)?;
        let model = whole(&machine.fs)?;
        let commits = Commits(vec![Commit { begun: 0, ended: 0, state: model.clone() }]);
        let mut life = Life {
            model,
            history,
            disks,
            commits,
            operations: 0,
            freed: 0,
            frozen: FreezeReport::default(),
            snapshots: Snapshots::default(),
            segment,
            machine: Some(machine),
            mounted: 0,
            held: None,
        };
        life.examine(true)?;
        Ok(life)
    }

    /// The mounted filesystem.
    pub fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("it is mounted but within an operation")
    }

    /// Makes one operation and compares.
    ///
    /// # Errors
    /// How the result is wrong.
    pub fn run(&mut self, op: &Op) -> Result<(), String> {
        self.operations += 1;
        let now = time(self.operations);
        self.machine().set_time(now);
        self.hold()?;
        match op {
            Op::Commit => self.durably("commit", |machine| machine.live.commit_now().map_err(|e| e.to_string())),
            Op::Checkpoint => self.checkpoint(),
            Op::Reap => self.machine().live.reap_now().map_err(|error| format!("reap: {error}")),
            Op::Compare => {
                self.snapshots.compare(&self.disks)?;
                step(&mut self.model, self.machine.as_mut().expect("it is mounted"), now, op)
            }
            Op::Remount => self.remount(Duration::ZERO),
            Op::End => self.remount(LONG),
            Op::Freeze(freeze) => self.freeze(freeze),
            Op::Gc => self.gc(),
            Op::Snapshot(how) => self.snapshot(how),
            Op::Crash(kind, seed) => self.crash(*kind, *seed),
            op => {
                let machine = self.machine.as_mut().expect("it is mounted");
                step(&mut self.model, machine, now, op)
            }
        }
    }

    /// A reader with a snapshot sees the state at its moment, whatever happened since [6, 10].
    fn hold(&mut self) -> Result<(), String> {
        match &self.held {
            Some(held) if self.operations < held.since + HELD => Ok(()),
            Some(_) => self.let_go(),
            None => {
                let state = self.model.closed();
                let source = Arc::new(Fixed(self.machine().live.snapshot()));
                let fs = Fs::over(source, FsOptions { cache: 16 << 20, readahead: 0, verify: true });
                self.held = Some(Held { fs, state, since: self.operations });
                Ok(())
            }
        }
    }

    /// Compares the snapshot with the state at its moment.
    fn let_go(&mut self) -> Result<(), String> {
        let Some(Held { fs, state, since }) = self.held.take() else { return Ok(()) };
        let found = whole(&fs).map_err(|why| format!("a snapshot of operation {since}: {why}"))?;
        let difference = state.difference(&found);
        difference.map_or(Ok(()), |difference| Err(format!("a snapshot of operation {since}: {difference}")))
    }

    /// Does something after which everything is durable.
    fn durably(&mut self, what: &str, act: impl FnOnce(&mut Machine) -> Result<(), String>) -> Result<(), String> {
        let begun = self.history.len();
        let state = self.model.closed();
        act(self.machine()).map_err(|error| format!("{what}: {error}"))?;
        self.commits.0.push(Commit { begun, ended: self.history.len(), state });
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        self.durably("checkpoint", |machine| machine.live.checkpoint_now().map_err(|error| error.to_string()))?;
        self.examine(false)?;
        self.check()?;
        // Recovered changes are written with the first change, not before.
        if !self.machine().live.snapshot().view().active().is_empty() {
            return Ok(());
        }
        read_alone(Arc::clone(&self.disks.image), &self.model.closed())?;
        let version = Arc::clone(self.machine().live.snapshot().view().version());
        let view = View::of(Arc::clone(&version));
        let found = scan::scan(&view, false)?;
        scan::root(&view, version.root(), found)
    }

    /// Frees dead data. If a reader has a snapshot, nothing is punched, and the reader continues.
    fn gc(&mut self) -> Result<(), String> {
        let live = Arc::clone(&self.machine().live);
        let asked = Cell::new(0);
        if self.held.as_ref().is_some_and(|held| held.since <= self.mounted) {
            // A reader from an earlier session is like one of another process: either it keeps gc out, or gc keeps it
            // out.
            self.let_go()?;
        }
        let is_held = self.held.is_some();
        let (begun, state) = (self.history.len(), self.model.closed());
        let stop = || {
            asked.set(asked.get() + 1);
            is_held && asked.get() > STOPPED_AFTER
        };
        match live.gc_now(&stop) {
            Ok(report) => self.freed += report.freed_bytes,
            Err(GcError::Stopped) if is_held => {}
            Err(error) => return Err(format!("gc: {error}")),
        }
        // It made a checkpoint if something was dead.
        self.commits.0.push(Commit { begun, ended: usize::MAX, state });
        self.snapshots.compare(&self.disks)?;
        self.compare("after gc")?;
        self.examine(false)
    }

    /// Freezes, with operations in between. Its calls of the callbacks are the clock.
    fn freeze(&mut self, freeze: &Freeze) -> Result<(), String> {
        let live = Arc::clone(&self.machine().live);
        let during = RefCell::new(During::new(self, freeze));
        let stop = || during.borrow_mut().call();
        let how = FreezeHow {
            everything: freeze.everything,
            level: freeze.level,
            deep: freeze.deep,
            stop: &stop,
            ..FreezeHow::default()
        };
        let done = live.freeze_now(&how, &|_| {
            during.borrow_mut().call();
        });
        let During { made, failed, calls, .. } = during.into_inner();
        failed.map_or(Ok(()), |why| Err(format!("while it freezes, {why}")))?;
        let report = done.map_err(|error| format!("freeze: {error}"))?;
        let is_stopped = freeze.stop.is_some_and(|stop| stop < calls);
        if freeze.everything && made == 0 && !is_stopped && report.left_bytes > 0 {
            // Inodes without handles and names wait for the reaper, not for a freeze.
            live.reap_now().map_err(|error| format!("reap: {error}"))?;
            let left = live.status().map_err(|error| format!("status: {error}"))?.thawed_bytes;
            if left > 0 {
                return Err(format!("everything is frozen but {left} bytes: {report:?}"));
            }
        }
        self.frozen = sum(&self.frozen, &report);
        self.compare("after a freeze")?;
        self.examine(false)
    }

    /// Makes a snapshot, with operations after its moment. It must show the state at its beginning.
    fn snapshot(&mut self, how: &Freeze) -> Result<(), String> {
        if self.snapshots.all.len() >= SNAPSHOTS {
            return Ok(());
        }
        let live = Arc::clone(&self.machine().live);
        let (state, begun) = (self.model.closed(), self.history.len());
        let name = format!("snapshot {}", self.operations);
        self.commits.0.push(Commit { begun, ended: usize::MAX, state: state.clone() });
        let during = RefCell::new(During::new(self, how));
        let stop = || during.borrow_mut().call();
        let freeze_how = FreezeHow { level: how.level, stop: &stop, ..FreezeHow::default() };
        let done = live.snapshot_now(name.as_bytes(), b"", &freeze_how);
        let During { failed, calls, changes, .. } = during.into_inner();
        failed.map_or(Ok(()), |why| Err(format!("while a snapshot is made, {why}")))?;
        match done {
            Ok(ordinal) => {
                let made = self.history.len();
                self.commits.0.push(Commit { begun: changes, ended: made, state: self.model.closed() });
                self.snapshots.all.push(Kept { name, state, ordinal, made });
                self.snapshots.compare(&self.disks)?;
            }
            Err(SnapshotError::Stopped) if how.stop.is_some_and(|stop| stop < calls) => {}
            Err(error) => return Err(format!("snapshot: {error}")),
        }
        self.compare("after a snapshot")?;
        self.examine(false)
    }

    /// Unmounts and mounts. A held snapshot stays valid.
    fn remount(&mut self, freezing: Duration) -> Result<(), String> {
        self.durably("end", |machine| match machine.live.end(freezing).map_err(|error| error.to_string())? {
            kept @ Finished::Kept { .. } if !freezing.is_zero() => Err(format!("everything was frozen, and {kept:?}")),
            _ => Ok(()),
        })?;
        self.model = self.model.closed();
        self.machine = None;
        self.machine = Some(Machine::open(&self.disks, self.segment)?);
        self.mounted = self.operations;
        self.snapshots.compare(&self.disks)?;
        self.compare("after a remount")?;
        self.examine(true)?;
        self.check()
    }

    /// A head slot torn by a power cut is intact again after something was written, not before.
    fn check(&self) -> Result<(), String> {
        let image = Arc::clone(&self.disks.image);
        if self.history.is_empty() { check_after_cut(image) } else { check(image) }
    }

    /// Cuts the power, now or slightly earlier, and opens what remains. Kind 0: all changes are kept; 1: no unsynced
    /// change is; 2: each is kept or not, by the seed; 3: writes are torn, too.
    fn crash(&mut self, kind: u8, seed: u64) -> Result<(), String> {
        self.machine = None;
        let mut rng = Rng::new(seed);
        let all = self.history.len();
        // Every other time in the middle of an operation.
        let n = if all == 0 || rng.one_in(2) { all } else { all - rng.below(all.min(24) as u64) as usize };
        let left = self.history.cut(n, || fate(kind, &mut rng));
        self.resume(left, n).map_err(|error| format!("after a crash of kind {kind} after change {n} of {all}: {error}"))
    }

    fn resume(&mut self, left: Remains, n: usize) -> Result<(), String> {
        let (history, disks) = record(left);
        let machine = Machine::open(&disks, self.segment)?;
        let found = whole(&machine.fs)?;
        self.commits.admit(n, &found)?;
        self.snapshots.survive(n, &disks)?;
        let commits = Commits(vec![Commit { begun: 0, ended: 0, state: found.clone() }]);
        (self.model, self.history, self.disks, self.commits) = (found, history, disks, commits);
        self.machine = Some(machine);
        self.mounted = self.operations;
        self.examine(false)?;
        check_after_cut(Arc::clone(&self.disks.image))
    }

    fn compare(&mut self, when: &str) -> Result<(), String> {
        let found = whole(&self.machine().fs)?;
        self.model.closed().difference(&found).map_or(Ok(()), |difference| Err(format!("{when}: {difference}")))
    }

    /// All tables and counts are consistent.
    fn examine(&mut self, reaped: bool) -> Result<(), String> {
        let named = self.model.closed();
        let machine = self.machine();
        let snapshot = machine.live.snapshot();
        let found = scan::scan(snapshot.view(), reaped)?;
        let totals = machine.live.totals();
        let counted = (found.inodes, found.bytes);
        if (totals.inodes, totals.bytes) != counted {
            return Err(format!("the state counts {totals:?}, a scan finds {counted:?}"));
        }
        if named.totals() != counted {
            return Err(format!("the model has {:?} inodes and bytes, a scan finds {counted:?}", named.totals()));
        }
        Ok(())
    }
}

/// Limit of snapshots in one life: each is read completely, and often.
const SNAPSHOTS: usize = 3;

/// A snapshot that was made.
#[derive(Clone)]
struct Kept {
    name: String,
    state: Model,
    ordinal: u64,
    /// Changes of the history when it was made.
    made: usize,
}

/// Snapshots, and the states they must show.
#[derive(Clone, Default)]
pub struct Snapshots {
    all: Vec<Kept>,
    /// How often one was compared.
    pub compared: u64,
}

impl Snapshots {
    /// All exist, and show their states.
    fn compare(&mut self, disks: &Disks) -> Result<(), String> {
        let found = self.found(disks)?;
        match self.all.iter().find(|kept| !found.contains(&kept.name)) {
            Some(kept) => Err(format!("'{}' is not there", kept.name)),
            None => Ok(()),
        }
    }

    /// After a power cut after change `n`, all snapshots made by then exist; others exist completely or not at all.
    fn survive(&mut self, n: usize, disks: &Disks) -> Result<(), String> {
        let found = self.found(disks)?;
        if let Some(kept) = self.all.iter().find(|kept| kept.made <= n && !found.contains(&kept.name)) {
            return Err(format!("'{}' is not there", kept.name));
        }
        self.all.retain(|kept| found.contains(&kept.name));
        // They exist when the next history begins.
        self.all.iter_mut().for_each(|kept| kept.made = 0);
        Ok(())
    }

    /// The names of the existing snapshots; each must show its state.
    fn found(&mut self, disks: &Disks) -> Result<Vec<String>, String> {
        if self.all.is_empty() {
            return Ok(Vec::new());
        }
        let options = ImageOptions { block_cache: 1 << 20 };
        let image = Image::open(Arc::clone(&disks.image), options).map_err(|error| format!("snapshots: {error}"))?;
        let mut names = Vec::new();
        for (ordinal, row) in image.snapshots().map_err(|error| format!("snapshots: {error}"))? {
            let name = String::from_utf8_lossy(&row.name).into_owned();
            let kept = self.all.iter().find(|kept| kept.name == name && kept.ordinal == ordinal);
            let kept = kept.ok_or_else(|| format!("nobody made the snapshot '{name}', {ordinal}"))?;
            let shown = image.at_snapshot(&row).map_err(|error| format!("'{name}': {error}"))?;
            let options = FsOptions { cache: 16 << 20, readahead: 0, verify: true };
            let found = whole(&Fs::new(Arc::new(shown), options)).map_err(|error| format!("'{name}': {error}"))?;
            if let Some(difference) = kept.state.difference(&found) {
                return Err(format!("'{name}': {difference}"));
            }
            names.push(name);
            self.compared += 1;
        }
        Ok(names)
    }
}

/// Number of calls after which gc is told to stop while a snapshot is held.
const STOPPED_AFTER: u32 = 200;
/// Enough time for everything.
const LONG: Duration = Duration::from_secs(600);

/// The operations during a freeze.
struct During<'a> {
    life: &'a mut Life,
    freeze: &'a Freeze,
    calls: u16,
    /// Operations so far.
    made: usize,
    /// Changes of the history after the last of them.
    changes: usize,
    failed: Option<String>,
}

impl<'a> During<'a> {
    fn new(life: &'a mut Life, freeze: &'a Freeze) -> Self {
        let changes = life.history.len();
        During { life, freeze, calls: 0, made: 0, changes, failed: None }
    }

    /// Makes the operations whose moment has come. Returns whether to stop.
    fn call(&mut self) -> bool {
        while let Some((moment, op)) = self.freeze.during.get(self.made)
            && *moment <= self.calls
            && self.failed.is_none()
        {
            self.made += 1;
            self.failed = self.life.run(op).err().map(|why| format!("at moment {moment}, {op:?}: {why}"));
            self.changes = self.life.history.len();
        }
        self.calls = self.calls.saturating_add(1);
        self.failed.is_some() || self.freeze.stop.is_some_and(|stop| stop < self.calls)
    }
}

/// The total of two freezes.
pub fn sum(a: &FreezeReport, b: &FreezeReport) -> FreezeReport {
    FreezeReport {
        files: a.files + b.files,
        bytes: a.bytes + b.bytes,
        frozen_bytes: a.frozen_bytes + b.frozen_bytes,
        new_bytes: a.new_bytes + b.new_bytes,
        stored_bytes: a.stored_bytes + b.stored_bytes,
        shared_bytes: a.shared_bytes + b.shared_bytes,
        superchunks: a.superchunks + b.superchunks,
        repacked: a.repacked + b.repacked,
        repacked_saved_bytes: a.repacked_saved_bytes + b.repacked_saved_bytes,
        dropped: a.dropped + b.dropped,
        failed: a.failed + b.failed,
        left_bytes: b.left_bytes,
    }
}

/// The fate of a change, by kind of crash.
pub fn fate(kind: u8, rng: &mut Rng) -> Fate {
    match (kind, rng.below(4)) {
        (0, _) => Fate::Kept,
        (1, _) => Fate::Dropped,
        (2, 0 | 1) | (_, 0) => Fate::Kept,
        (2, _) | (_, 1) => Fate::Dropped,
        _ => Fate::Torn { sectors: rng.next(), length: rng.one_in(2), block: rng.one_in(2) },
    }
}
