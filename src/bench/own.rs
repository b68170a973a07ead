//! Measures one setting of floe: packs, reads through mounts, and examines the layout. Called by `run`.

use super::command::Limits;
use super::forecast::Work;
use super::reading::PASSES;
use super::reading::shown;
use super::report::{Entry, ReadCost, Sample, Saved};
use super::sample::{SampleOptions, predict};
use super::settings::{self, Floe, Setting};
use super::turn::{EntryError, READING, Turn, doing, lock};
use super::work::drop_caches;
use crate::fs::measure::{AloneOptions, MeasureError, MeasureObserver, Reads, read_cost, subchunks_alone};
use crate::meta::Image;
use crate::pack::{PackObserver, PackOptions};
use std::sync::{Arc, Mutex, PoisonError};

/// Sizes in bytes of the working sets with which it is counted how many bytes reading inflates.
const WORKING_SETS: [u64; 2] = [64 << 20, 256 << 20];
/// Number of random reads whose inflated bytes are counted: the same number as is timed in a mount.
const RANDOM_READS: u64 = 2000;
/// Rough fraction of a prediction's time that is reading; the rest is compressing.
const READING_SHARE: f64 = 0.3;
/// Seed of the random reads; the number has no meaning.
const SEED: u64 = 21;

/// Returns the steps of measuring one setting of floe, in the order of [`measure`].
pub(super) fn steps(setting: &Setting, mounts: bool) -> Vec<(Work, f64)> {
    let mut steps = vec![(Work::Pack, setting.weight)];
    steps.extend(PASSES.iter().filter(|_| mounts).map(|_| (Work::Read, READING)));
    // Each subchunk is compressed once more; then everything is read twice, once for each working set.
    steps.extend([(Work::Pack, setting.weight), (Work::Read, 2.0 * READING)]);
    steps
}

/// Measures one setting of floe. On a failure `entry` holds what was measured before. With `mounts`, images are read
/// through mounts.
pub(super) fn measure(
    turn: &Turn<'_>,
    floe: &Floe<'_>,
    setting: &Setting,
    mounts: bool,
    entry: &mut Entry,
) -> Result<(), EntryError> {
    let image = turn.work.fresh("entry")?.join("image.floe");
    let source = &turn.plan.source;
    let packed = turn
        .step(&entry.name, "packing", None, |limits, watch| Ok(floe.pack(setting, source, &image, limits, watch)?))?;
    let bytes = turn.survey.bytes;
    entry.packing = Some(turn.packing(&packed.ran));
    if packed.summary.warnings > 0 {
        let names = packed.summary.warnings;
        let first = packed.finding.map_or_else(String::new, |finding| format!(" (one of them: {finding})"));
        turn.finding(format!("floe pack could not read {names} of the source's names as they are{first}"));
    }
    let total = image.metadata()?.len();
    let opened = settings::open(&image)?;
    entry.size = Some(settings::size(&opened, total, bytes)?);
    let matched = opened.matched().map_err(settings::LookError::from)?;
    for read in PASSES.into_iter().filter(|_| mounts) {
        let done = turn.step(&entry.name, doing(read), None, |limits, _| {
            let point = turn.work.fresh("mnt")?;
            let mounted = floe.mount(&image, &point, limits)?;
            let cold = drop_caches();
            let done = turn.pass(read, mounted.point(), cold, limits);
            // A reading error says more than an error at unmounting.
            let ended = mounted.end();
            let done = done?;
            ended?;
            Ok(done)
        })?;
        entry.passes.push(done);
    }
    let alone = turn.step(&entry.name, "compressing each subchunk alone", None, |limits, watch| {
        let options = AloneOptions { jobs: floe.jobs, memory: turn.plan.pack.memory };
        Ok(subchunks_alone(&opened, options, &Watcher { limits, watch })?)
    })?;
    if let Some(size) = &mut entry.size {
        size.saved = Some(Saved {
            deduplication: packed.summary.shared_bytes,
            alone: alone.alone_bytes,
            superchunks: alone.alone_bytes.saturating_sub(alone.together_bytes),
            matching: (matched.composed > 0).then_some(matched.bytes),
        });
    }
    entry.read_costs = turn.step(&entry.name, "counting what reading inflates", None, |limits, watch| {
        let costs =
            WORKING_SETS.iter().map(|&set| cost(&opened, set, &turn.survey.directory, &Watcher { limits, watch }));
        Ok(costs.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })?;
    Ok(())
}

/// Returns the step of a setting whose size is predicted.
pub(super) fn sampled_steps(setting: &Setting) -> Vec<(Work, f64)> {
    vec![(Work::Pack, setting.weight)]
}

/// Predicts the size of the image with a setting.
pub(super) fn predicted(
    turn: &Turn<'_>,
    setting: &Setting,
    sample: &Sample,
    entry: &mut Entry,
) -> Result<(), EntryError> {
    let work = turn.work.fresh("entry")?;
    let options = PackOptions {
        params: setting.params,
        compression: setting.compression,
        temp_dir: Some(work.clone()),
        ..turn.plan.pack.clone()
    };
    let how = SampleOptions { bytes: sample.bytes, fast: sample.fast, seed: SEED, work: &work };
    let sources = [turn.plan.source.clone()];
    let whole = if sample.fast { sample.bytes.min(turn.survey.bytes) } else { turn.survey.bytes };
    let (prediction, findings) = turn.step(&entry.name, "predicting", None, |limits, watch| {
        let watcher = Watcher { limits, watch };
        let observer = Sampling { watcher: &watcher, whole, findings: Mutex::default() };
        let compressing = |share: f64| watch(READING_SHARE + (1.0 - READING_SHARE) * share);
        let prediction = predict(&sources, &options, &how, &observer, &compressing)?;
        Ok((prediction, observer.findings.into_inner()))
    })?;
    entry.size = Some(prediction.size);
    let (names, first) = findings.unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = first {
        turn.finding(format!("{names} of the source's names could not be read as they are (one of them: {first})"));
    }
    Ok(())
}

/// Reports a prediction like packing.
struct Sampling<'a> {
    watcher: &'a Watcher<'a>,
    /// Number of bytes to read.
    whole: u64,
    /// Number of findings, and the first one.
    findings: Mutex<(u64, Option<String>)>,
}

impl PackObserver for Sampling<'_> {
    fn progress(&self, _: u64, bytes: u64, _: u64) {
        (self.watcher.watch)(READING_SHARE * (bytes as f64 / self.whole.max(1) as f64).min(1.0));
    }

    fn warning(&self, path: &[u8], message: &str) {
        let mut findings = lock(&self.findings);
        findings.0 += 1;
        findings.1.get_or_insert_with(|| format!("{}: {message}", shown(path)));
    }

    fn cancelled(&self) -> bool {
        (self.watcher.limits.stop)()
    }
}

/// Returns the bytes inflated for each byte read with a working set; `None` if there is nothing to read.
fn cost(
    image: &Arc<Image>,
    working_set: u64,
    directory: &[u8],
    observer: &Watcher<'_>,
) -> Result<Option<ReadCost>, MeasureError> {
    let random = Reads::Random { seed: SEED, count: RANDOM_READS };
    let mut ratios = [0.0; 3];
    for (ratio, reads) in ratios.iter_mut().zip([Reads::Everything, Reads::Below(directory), random]) {
        match read_cost(image, working_set, &reads, observer)?.ratio() {
            Some(found) => *ratio = found,
            None => return Ok(None),
        }
    }
    let [in_order, one_directory, random] = ratios;
    Ok(Some(ReadCost { working_set, in_order, one_directory, random }))
}

/// Passes on the progress of a measurement, and the request to stop.
struct Watcher<'a> {
    limits: &'a Limits<'a>,
    watch: &'a (dyn Fn(f64) + Sync),
}

impl MeasureObserver for Watcher<'_> {
    fn progress(&self, done: u64, total: u64) {
        (self.watch)(done as f64 / total.max(1) as f64);
    }

    fn cancelled(&self) -> bool {
        (self.limits.stop)()
    }
}
