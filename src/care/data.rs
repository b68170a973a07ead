//! Verifies the data: reads and decodes every live superchunk, and compares every subchunk in it with its content hash.
//!
//! Threads take frames from a list, one after another. Each holds the stored and raw bytes of one superchunk, and what
//! it needs to put composed subchunks together. The findings are reported in log order, whatever the threads did.

use super::Check;
use super::clear::{Clear, Part, parts};
use super::compose::Sources;
use super::frames::{DataFrame, Frames};
use super::known::{Map, Super};
use super::report::{CheckError, CheckReport, Finding, FindingKind, Findings, MAX_FINDINGS, Severity, Subset};
use super::trees::Trees;
use crate::format::block::KeyRef;
use crate::format::clear::ClearList;
use crate::format::ids::{LogOffset, SubchunkId};
use crate::format::place::Place;
use crate::format::recipe::Recipe;
use crate::format::rows::{Identity, identity};
use crate::format::{limits, schema, sums};
use crate::meta::{Buffers, Fault, Image};
use crate::table::RowRef;
use parking_lot::Mutex;
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Builder;

/// Bytes of memory that a thread may need besides its superchunk.
const PER_THREAD: u64 = 24 << 20;

/// Most pieces of recipes whose bytes are put together at once. A piece takes 40 bytes of memory.
const PIECES: usize = 1 << 16;

/// A finding, and the subchunks that are lost by it.
struct Verdict {
    finding: Finding,
    lost: Vec<Range<u64>>,
}

/// The result of checking one frame.
#[derive(Default)]
struct Outcome {
    verdicts: Vec<Verdict>,
    verified: u64,
    lost: u64,
}

/// The result of verifying one superchunk.
struct Judged {
    /// Number of live subchunks in the superchunk.
    all: u64,
    /// Number of subchunks that are neither lost nor compared with a content hash.
    unverified: u64,
    /// Subchunks whose content hash does not match.
    lost: Vec<Range<u64>>,
}

/// Buffers of one thread.
#[derive(Default)]
struct ThreadBuffers {
    stored: Vec<u8>,
    raw: Vec<u8>,
    /// Stored bytes of superchunks that recipes refer to.
    source: Vec<u8>,
}

struct Work<'a> {
    check: &'a Check<'a>,
    frames: &'a Frames,
    chosen: Vec<&'a DataFrame>,
    map: &'a Map,
    clear: &'a Clear,
    trees: &'a Trees,
    sources: Sources<'a>,
    next: AtomicUsize,
    read: AtomicU64,
    verified: AtomicU64,
    lost: AtomicU64,
    /// Verdicts of the frames that are checked, each with the index of its frame.
    done: Mutex<Vec<(usize, Verdict)>>,
}

/// Reads and verifies the data of superchunks, or the subset given in the options.
pub(super) fn check(
    check: &Check<'_>,
    frames: &Frames,
    map: &Map,
    clear: &Clear,
    trees: &Trees,
    findings: &mut Findings,
    report: &mut CheckReport,
) -> Result<(), CheckError> {
    report.superchunks = frames.data.iter().filter(|frame| primary(frame, frames, map).is_some()).count() as u64;
    if check.options.quick {
        return Ok(());
    }
    let chosen = choose(frames, check.options.subset);
    let skipped: u64 = frames.data.iter().map(|frame| u64::from(frame.header.stored_len)).sum::<u64>()
        - chosen.iter().map(|frame| u64::from(frame.header.stored_len)).sum::<u64>();
    check.progress(skipped);
    let largest = chosen
        .iter()
        .map(|frame| u64::from(frame.header.stored_len) + u64::from(frame.header.raw_len))
        .max()
        .unwrap_or(0);
    let sources = Sources::new(check.image, map, (check.options.memory / 4) as usize);
    let threads = (check.options.memory / 4 * 3 / (largest + PER_THREAD)).clamp(1, check.options.jobs.max(1) as u64);
    let work = Work {
        check,
        frames,
        chosen,
        map,
        clear,
        trees,
        sources,
        next: AtomicUsize::new(0),
        read: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        lost: AtomicU64::new(0),
        done: Mutex::new(Vec::new()),
    };
    std::thread::scope(|scope| {
        for n in 1..threads {
            Builder::new().name(format!("check-{n}")).spawn_scoped(scope, || work.run()).map_err(CheckError::Thread)?;
        }
        work.run();
        Ok::<_, CheckError>(())
    })?;
    check.cancelled()?;
    report.superchunks_read = work.read.into_inner();
    report.subchunks_verified = work.verified.into_inner();
    report.subchunks_lost = work.lost.into_inner();
    let mut done = work.done.into_inner();
    done.sort_by_key(|(n, _)| *n);
    for (_, verdict) in done {
        let id = findings.add(verdict.finding);
        verdict.lost.into_iter().for_each(|range| findings.hits.subchunks.add(range, id));
    }
    Ok(())
}

/// Returns the superchunk that readers take from this frame, if there is one: the frame is live, and no earlier copy of
/// it exists.
fn primary<'m>(frame: &DataFrame, frames: &Frames, map: &'m Map) -> Option<&'m Super> {
    let known = map.get(frame.owner?)?;
    let first = known.row.place.offsets().find(|offset| frames.begins_at(*offset))?;
    (first == frame.header.offset).then_some(known)
}

/// Returns the frames to read, in order of offset.
fn choose(frames: &Frames, subset: Subset) -> Vec<&DataFrame> {
    let all = frames.data.iter();
    // Spread over the image, in an order that depends only on offsets.
    let shuffled = || {
        let mut order: Vec<&DataFrame> = frames.data.iter().collect();
        order.sort_by_key(|frame| (sums::xxh3(&frame.header.offset.0.to_le_bytes()), frame.header.offset));
        order
    };
    let mut chosen = match subset {
        Subset::All => return all.collect(),
        Subset::Part { part, of } => {
            let of = of.max(1) as usize;
            return all.skip(part.saturating_sub(1) as usize % of).step_by(of).collect();
        }
        Subset::Percent(percent) => {
            let many = (frames.data.len() as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as usize;
            let mut order = shuffled();
            order.truncate(many);
            order
        }
        Subset::Bytes(bytes) => {
            let mut left = bytes;
            let mut order = shuffled();
            let many = order.iter().take_while(|frame| {
                let wanted = left > 0;
                left = left.saturating_sub(frame.header.stored_len.into());
                wanted
            });
            let many = many.count();
            order.truncate(many);
            order
        }
    };
    chosen.sort_by_key(|frame| frame.header.offset);
    chosen
}

impl Work<'_> {
    fn run(&self) {
        let mut buffers = ThreadBuffers::default();
        let mut identities = Identities { image: self.check.image, last: None };
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(frame) = self.chosen.get(n) else { return };
            if self.check.observer.cancelled() {
                return;
            }
            let outcome = match primary(frame, self.frames, self.map) {
                Some(known) => {
                    self.read.fetch_add(1, Ordering::Relaxed);
                    self.superchunk(frame, known, &mut buffers, &mut identities)
                }
                None => self.other(frame, &mut buffers.stored),
            };
            self.verified.fetch_add(outcome.verified, Ordering::Relaxed);
            self.lost.fetch_add(outcome.lost, Ordering::Relaxed);
            self.check.progress(frame.header.stored_len.into());
            if !outcome.verdicts.is_empty() {
                let mut done = self.done.lock();
                // When the list of findings is full, further lost ranges are not worth their memory.
                let full = done.len() >= MAX_FINDINGS;
                done.extend(
                    outcome
                        .verdicts
                        .into_iter()
                        .map(|verdict| (n, if full { Verdict { lost: Vec::new(), ..verdict } } else { verdict })),
                );
            }
        }
    }

    /// Checks a frame that is the copy of another frame, or that nothing refers to.
    fn other(&self, frame: &DataFrame, stored: &mut Vec<u8>) -> Outcome {
        let place = Place::of(&frame.header);
        let offset = frame.header.offset;
        let mut outcome = Outcome::default();
        let second =
            frame.owner.and_then(|id| self.map.get(id)).is_some_and(|known| known.row.place.copy == Some(offset));
        // The second frame was read with the first. Data in a punched payload is referred to only through frames of
        // their own.
        if second || frame.punched {
            return outcome;
        }
        let why = match self.check.image.log().stored_unverified(&place, offset, stored) {
            Ok(true) => return outcome,
            Ok(false) => "wrong checksum".to_owned(),
            Err(error) => error.to_string(),
        };
        let message =
            format!("stored bytes at offset {offset} are damaged: {why}; no file is affected: nothing refers to them");
        let finding = Finding::new(FindingKind::Frame, Severity::Recoverable, message).at(offset.0);
        outcome.verdicts.push(Verdict { finding, lost: Vec::new() });
        outcome
    }

    fn superchunk(
        &self,
        frame: &DataFrame,
        known: &Super,
        buffers: &mut ThreadBuffers,
        identities: &mut Identities<'_>,
    ) -> Outcome {
        let log = self.check.image.log();
        let place = &known.row.place;
        let list = self.clear_list(frame);
        let ThreadBuffers { stored, raw, source } = buffers;
        let mut judged: Option<Judged> = None;
        let mut judge = |raw: &[u8], intact: bool| {
            let now = self.judge(known, list.as_ref(), (raw, intact), source, identities);
            let lost = match judged.take() {
                // Of two damaged copies, one may have what the other lost.
                Some(before) => intersection(&before.lost, &now.lost),
                None => now.lost,
            };
            let accepted = intact || lost.is_empty();
            judged = Some(Judged { lost, ..now });
            accepted
        };
        let reading = self.check.image.read_superchunk(place, Buffers { stored: &mut *stored, raw }, &mut judge);
        if reading.accepted.is_none() {
            judge(&[], false);
        }
        let mut bad: Vec<_> = reading.faults.iter().map(|(offset, fault)| (*offset, fault.to_string())).collect();
        let good = reading.accepted.and_then(|(offset, intact)| intact.then_some(offset));
        // Copies after the good one were not read yet.
        let rest = place.offsets().skip_while(|offset| good.is_none_or(|good| good != *offset)).skip(1);
        for offset in rest {
            match log.stored_unverified(place, offset, stored) {
                Ok(true) => {}
                Ok(false) => bad.push((offset, Fault::Checksum.to_string())),
                Err(error) => bad.push((offset, error.to_string())),
            }
        }
        let mut outcome = Outcome::default();
        if let Some(judged) = judged {
            outcome.lost = judged.lost.iter().map(|range| range.end - range.start).sum();
            outcome.verified = judged.all.saturating_sub(judged.unverified).saturating_sub(outcome.lost);
            self.verdicts(known, good, bad, judged.all, judged.lost, &mut outcome);
        }
        outcome
    }

    fn clear_list(&self, frame: &DataFrame) -> Option<ClearList> {
        if !frame.clear_good {
            return None;
        }
        let bytes = self.check.image.log().clear_part(&frame.header).ok()?;
        ClearList::decode(&bytes, frame.header.raw_len).ok()
    }

    /// Compares each subchunk that is live in a superchunk with its content hash.
    fn judge(
        &self,
        known: &Super,
        list: Option<&ClearList>,
        (raw, intact): (&[u8], bool),
        source: &mut Vec<u8>,
        identities: &mut Identities<'_>,
    ) -> Judged {
        let of_damaged = if list.is_none() { self.clear.of_damaged(known.id) } else { &[] };
        let parts = list.into_iter().flat_map(parts).chain(of_damaged.iter().copied());
        let is_dictionary = known.id.0 == self.check.image.params().dictionary;
        let (mut all, unverified, mut lost) = (0, Cell::new(0), Vec::new());
        let mut composed = Composed::default();
        let mut is_right = |id: SubchunkId, bytes: Option<&[u8]>| {
            let identity = identities.get(id);
            match (bytes, identity) {
                (None, _) => false,
                // The missing identity was reported before. Readers need it only if the checksum is wrong.
                (Some(_), None) => {
                    unverified.set(unverified.get() + u64::from(intact));
                    intact
                }
                (Some(bytes), Some(identity)) => Identity::of(self.check.image.params().hash, bytes) == identity,
            }
        };
        for part in parts {
            let Some(is_composed) = self.lives_here(known, &part) else { continue };
            all += 1;
            if is_composed {
                match self.check.image.recipe(part.id) {
                    Ok(Some(recipe)) if composed.fits(&recipe) => composed.push(part.id, recipe),
                    _ if self.clear.without_recipe.contains(part.id.0) => unverified.set(unverified.get() + 1),
                    _ => extend(&mut lost, part.id.0),
                }
                if composed.is_batch() {
                    let wrong = self.sources.compose((known.id, raw), &composed.take(), source, &mut is_right);
                    wrong.into_iter().for_each(|id| extend(&mut lost, id.0));
                }
                continue;
            }
            let range = part.position as usize..part.position as usize + part.len as usize;
            if is_dictionary && intact {
                unverified.set(unverified.get() + 1);
            } else if !is_right(part.id, raw.get(range)) {
                extend(&mut lost, part.id.0);
            }
        }
        let wrong = self.sources.compose((known.id, raw), &composed.take(), source, &mut is_right);
        wrong.into_iter().for_each(|id| extend(&mut lost, id.0));
        Judged { all, unverified: unverified.into_inner(), lost }
    }

    /// Returns whether the subchunk is composed; `None` if its stored part is in another superchunk.
    fn lives_here(&self, known: &Super, part: &Part) -> Option<bool> {
        let located = self.check.image.locate(part.id).ok().flatten()?;
        let here = (located.superchunk, located.position, located.len) == (known.id, part.position, part.len);
        // If the map is damaged here, its place comes from the clear lists: then it lies here if it lies anywhere.
        (here || self.trees.subchunks.contains(part.id.0)).then_some(located.composed)
    }

    fn verdicts(
        &self,
        known: &Super,
        good: Option<LogOffset>,
        bad: Vec<(LogOffset, String)>,
        all: u64,
        lost: Vec<Range<u64>>,
        outcome: &mut Outcome,
    ) {
        let id = known.id;
        let many: u64 = lost.iter().map(|range| range.end - range.start).sum();
        let mut push = |severity, offset: LogOffset, message: String, lost: Vec<Range<u64>>| {
            let mut finding = Finding::new(FindingKind::Data, severity, message).at(offset.0).in_superchunk(id.0);
            if let (Some(first), Some(last)) = (lost.iter().map(|r| r.start).min(), lost.iter().map(|r| r.end).max()) {
                finding = finding.of_subchunks(first, last - 1);
            }
            outcome.verdicts.push(Verdict { finding, lost });
        };
        if let Some(good) = good {
            for (offset, why) in bad {
                let message = format!(
                    "stored bytes of superchunk {id} at offset {offset} are damaged: {why}; no file is affected: the frame at offset \
                     {good} is a good copy"
                );
                push(Severity::Recoverable, offset, message, Vec::new());
            }
            if many > 0 {
                let message = format!("{many} of {all} subchunks in superchunk {id} have the wrong content hash");
                push(Severity::Lost, good, message, lost);
            }
            return;
        }
        let mut lost = Some(lost);
        for (offset, why) in bad {
            let lost = lost.take().unwrap_or_default();
            let message = format!("stored bytes of superchunk {id} at offset {offset} are damaged: {why}");
            if many == 0 {
                let message = format!("{message}; no file is affected: every subchunk in it can still be read");
                push(Severity::Recoverable, offset, message, lost);
            } else {
                push(Severity::Lost, offset, format!("{message}; {many} of {all} subchunks are lost"), lost);
            }
        }
    }
}

/// Recipes of one superchunk whose bytes are put together at once.
#[derive(Default)]
struct Composed {
    batch: Vec<(SubchunkId, Recipe)>,
    pieces: usize,
    /// Total length in bytes of the superchunk's composed subchunks so far, including those of earlier batches.
    bytes: u64,
}

impl Composed {
    /// Returns whether the superchunk's composed bytes stay within the limit with this recipe. Recipes beyond the limit
    /// are reported elsewhere and count as lost.
    fn fits(&self, recipe: &Recipe) -> bool {
        self.bytes + u64::from(recipe.subchunk_len()) <= limits::COMPOSED_BYTES
    }

    fn push(&mut self, id: SubchunkId, recipe: Recipe) {
        self.bytes += u64::from(recipe.subchunk_len());
        self.pieces += recipe.pieces().len();
        self.batch.push((id, recipe));
    }

    fn is_batch(&self) -> bool {
        self.pieces >= PIECES
    }

    fn take(&mut self) -> Vec<(SubchunkId, Recipe)> {
        self.pieces = 0;
        std::mem::take(&mut self.batch)
    }
}

fn extend(ranges: &mut Vec<Range<u64>>, id: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == id => last.end += 1,
        _ => ranges.push(id..id + 1),
    }
}

/// Returns the intersection of two ascending lists of ranges.
fn intersection(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let sorted = |ranges: &[Range<u64>]| {
        let mut ranges = ranges.to_vec();
        ranges.sort_by_key(|range| range.start);
        ranges.into_iter().peekable()
    };
    let (mut a, mut b, mut both) = (sorted(a), sorted(b), Vec::new());
    while let (Some(one), Some(other)) = (a.peek(), b.peek()) {
        let range = one.start.max(other.start)..one.end.min(other.end);
        let first_ends = one.end <= other.end;
        if range.start < range.end {
            both.push(range);
        }
        if first_ends {
            a.next()
        } else {
            b.next()
        };
    }
    both
}

/// Looks up identities (content hashes); neighbouring ids share a row.
struct Identities<'a> {
    image: &'a Image,
    last: Option<RowRef>,
}

impl Identities<'_> {
    fn get(&mut self, id: SubchunkId) -> Option<Identity> {
        let covers = |row: &RowRef| {
            let first = row.key().a;
            id.0 >= first && id.0 - first < row.ints().first().copied().unwrap_or(0)
        };
        if !self.last.as_ref().is_some_and(covers) {
            let tree = self.image.tree(&schema::IDENTITIES);
            self.last = tree.floor(self.image, KeyRef::new(id.0, 0)).ok().flatten();
        }
        let row = self.last.as_ref().filter(|row| covers(row))?;
        identity::decode_one(self.image.params().hash, row.ints(), row.tail(), id.0 - row.key().a).ok().flatten()
    }
}
