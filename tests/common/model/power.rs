//! Everything that power cuts could leave of a history, and what must be true of it. Called by the test of power cuts.

use super::life::{Commits, record};
use super::machine::{Machine, check, check_after_cut, time, whole};
use super::rng::Rng;
use super::scan;
use super::state::{Model, ROOT};
use super::subject::Subject;
use super::{Op, life, step};
use floe::fs::FreezeHow;
use floe::storage::testing::{Fate, History, Remains};
use std::collections::HashSet;
use std::sync::Arc;

/// Most unsynced changes of which all subsets are tried.
const SUBSETS: usize = 6;

/// How many of the possible cuts are tried.
#[derive(Debug, Clone, Copy)]
pub struct Depth {
    /// Number of random subsets.
    pub random: u64,
    /// Step through single sectors; 1 for all.
    pub sectors: u64,
    /// Whether all subsets are tried if few changes are unsynced.
    pub subsets: bool,
    /// Step through the remains that are written to again.
    pub written_on: u64,
}

impl Depth {
    /// Everything.
    pub const WHOLE: Depth = Depth { random: 64, sectors: 1, subsets: true, written_on: 7 };
    /// Some of it, for every change to the code.
    pub const SHORT: Depth = Depth { random: 8, sectors: 5, subsets: false, written_on: 11 };
}

/// The fates of the unsynced changes, and their descriptions.
fn fates(sectors: &[u64], depth: Depth, seed: u64) -> Vec<(Vec<Fate>, String)> {
    let count = sectors.len();
    let mut all =
        vec![(vec![Fate::Kept; count], "all kept".to_owned()), (vec![Fate::Dropped; count], "all dropped".to_owned())];
    let mut nth = seed;
    for (alone, &sectors) in sectors.iter().enumerate() {
        let mut put = |one: Fate, others: Fate, what: String| {
            let mut fates = vec![others; count];
            fates[alone] = one;
            all.push((fates, format!("change {alone} {what}, others {others:?}")));
        };
        put(Fate::Kept, Fate::Dropped, "kept".into());
        put(Fate::Dropped, Fate::Kept, "dropped".into());
        for sector in 0..sectors.min(64) {
            nth += 1;
            if !nth.is_multiple_of(depth.sectors) {
                continue;
            }
            for (only, others) in [(true, Fate::Kept), (false, Fate::Kept), (true, Fate::Dropped)] {
                let bits = if only { 1 << sector } else { !(1 << sector) };
                for (length, block) in [(true, false), (false, false), (true, true)] {
                    let torn = Fate::Torn { sectors: bits, length, block };
                    put(
                        torn,
                        others,
                        format!("torn at sector {sector}, only it {only}, length {length}, block {block}"),
                    );
                }
            }
        }
    }
    if depth.subsets && count <= SUBSETS {
        for subset in 0..1u64 << count {
            let fates = (0..count).map(|n| if subset >> n & 1 == 1 { Fate::Kept } else { Fate::Dropped });
            all.push((fates.collect(), format!("subset {subset:b} kept")));
        }
    }
    for random in 0..depth.random {
        let mut rng = Rng::new(seed << 8 | random);
        let kind = 2 + (random % 2) as u8;
        all.push((sectors.iter().map(|_| life::fate(kind, &mut rng)).collect(), format!("random {random}")));
    }
    all
}

/// What was tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    /// Moments at which power was cut.
    pub moments: usize,
    /// Number of different remains that were opened.
    pub remains: u64,
    /// How many of those were written to again.
    pub written_on: u64,
    /// Most unsynced changes.
    pub loose: usize,
}

/// Cuts the power after every change of a history, and opens the result of each way of losing changes.
///
/// # Errors
/// How the result is wrong.
pub fn cut_everywhere(history: &History, commits: &Commits, segment: u64, depth: Depth) -> Result<Tried, String> {
    let mut tried = Tried::default();
    for n in 0..=history.len() {
        let sectors = history.loose_sectors(n);
        tried.moments += 1;
        tried.loose = tried.loose.max(sectors.len());
        let mut seen = HashSet::new();
        for (fates, what) in fates(&sectors, depth, n as u64) {
            let mut fates = fates.into_iter();
            let left = history.cut(n, || fates.next().unwrap_or(Fate::Dropped));
            if !seen.insert(hash(&left)) {
                continue;
            }
            tried.remains += 1;
            let write_on = tried.remains.is_multiple_of(depth.written_on);
            tried.written_on += u64::from(write_on);
            survives(left, n, commits, segment, write_on)
                .map_err(|error| format!("power cut after change {n} of {}, {what}: {error}", history.len()))?;
        }
    }
    Ok(tried)
}

fn hash(left: &Remains) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(left.image.len() as u64).to_le_bytes()).update(&left.image);
    for (number, bytes) in &left.segments {
        hasher.update(&number.to_le_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    hasher.finalize()
}

/// Opens the remains, compares, and continues writing.
fn survives(left: Remains, n: usize, commits: &Commits, segment: u64, write_on: bool) -> Result<(), String> {
    let (_, disks) = record(left);
    check_after_cut(Arc::clone(&disks.image))?;
    let mut machine = Machine::open(&disks, segment)?;
    let found = whole(&machine.fs)?;
    commits.admit(n, &found)?;
    scan::scan(machine.live.snapshot().view(), false)?;
    if !write_on {
        return Ok(());
    }
    let mut model = found;
    let error = |what: &str, error: &dyn std::fmt::Display| format!("going on, {what}: {error}");
    for (n, op) in super::Programs::new(n as u64, super::Mix::KERNEL).take(12).enumerate() {
        let now = time(1_000_000 + n as u64);
        machine.set_time(now);
        step(&mut model, &mut machine, now, &op).map_err(|why| error(&format!("{op:?}"), &why))?;
        if n == 4 {
            machine.live.commit_now().map_err(|why| error("commit", &why))?;
            machine.live.freeze_now(&FreezeHow::everything(), &|_| ()).map_err(|why| error("freeze", &why))?;
        }
    }
    machine.live.end(std::time::Duration::ZERO).map_err(|why| error("end", &why))?;
    drop(machine);
    let machine = Machine::open(&disks, segment)?;
    let again = whole(&machine.fs)?;
    if let Some(difference) = model.closed().difference(&again) {
        return Err(error("after a remount", &difference));
    }
    scan::scan(machine.live.snapshot().view(), true)?;
    check(disks.image).map_err(|why| error("check", &why))
}
