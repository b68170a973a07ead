//! How many bytes subchunks would take if each were compressed by itself. The difference to superchunks is what
//! superchunks gain.
//!
//! One thread walks the map in the order of ids, which is that of superchunks, and hands out the subchunks of one
//! superchunk at a time. Other threads read and compress them. Each superchunk is inflated once, unless recipes refer
//! to it.

use super::{MeasureError, MeasureObserver, go_on};
use crate::format::block::KeyRef;
use crate::format::codec::{self, Compression, Encoder};
use crate::format::frame::FrameKind;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::rows::map::{SPACE_RECIPES, SPACE_SUBCHUNKS, SPACE_SUPERCHUNKS};
use crate::format::rows::{SubchunkRun, SuperchunkRow};
use crate::format::{limits, schema};
use crate::inflate::{InflateError, WorkingSet};
use crate::meta::{Image, View};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Builder;

/// Most subchunks of a superchunk that are handed out together: this bounds the memory of a job.
const JOB_SUBCHUNKS: usize = 1 << 16;
/// Number of rows of the map after which the observer is asked whether to stop.
const STEP: u64 = 4096;

/// Resources that [`subchunks_alone`] may use.
#[derive(Debug, Clone, Copy)]
pub struct AloneOptions {
    /// Number of threads that read and compress.
    pub jobs: usize,
    /// Bytes of memory for everything. With less, fewer threads run, but at least one.
    pub memory: u64,
}

/// Bytes that the subchunks of an image take, compressed alone and compressed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alone {
    /// Number of different subchunks of file data.
    pub subchunks: u64,
    /// Raw bytes of all different subchunks of file data.
    pub raw_bytes: u64,
    /// Bytes if each subchunk is compressed by itself, or stored as it is where that does not make it smaller.
    pub alone_bytes: u64,
    /// Stored bytes of the superchunks of file data, without headers and clear lists.
    pub together_bytes: u64,
}

/// Some subchunks of one superchunk: id, length of the stored part in bytes, and whether each is composed.
type Job = Vec<(SubchunkId, u32, bool)>;

/// Compresses every subchunk of file data in the image by itself, with the image's codec and level.
///
/// # Errors
/// Fails if a table or a subchunk cannot be read, the codec is unknown, a thread cannot be started, or the observer
/// cancelled.
pub fn subchunks_alone(
    image: &Arc<Image>,
    options: AloneOptions,
    observer: &dyn MeasureObserver,
) -> Result<Alone, MeasureError> {
    let params = image.params();
    let compression = Compression::from_numbers(params.codec, params.level)?;
    let superchunk = params.superchunk_size as usize;
    // A thread needs a subchunk, a superchunk in the working set, and what inflating it takes.
    let subchunk = limits::SUBCHUNK_LEN as usize;
    let own = Encoder::memory(compression, subchunk)
        + 2 * subchunk
        + 2 * JOB_SUBCHUNKS * size_of::<(SubchunkId, u32, bool)>();
    let shared = 2 * superchunk + codec::decoding_memory(params.codec, superchunk);
    let threads = (options.memory / (own + shared) as u64).clamp(1, options.jobs.max(1) as u64) as usize;
    let view = View::of(Arc::clone(image));
    let (together_bytes, total) = superchunks(&view, observer)?;
    let work = Work {
        working_set: WorkingSet::new(Arc::clone(image), threads * shared, 0),
        view: &view,
        compression,
        observer,
        total,
        done: AtomicU64::new(0),
        found: Mutex::new(Alone { together_bytes, ..Alone::default() }),
        failed: Mutex::new(None),
        stop: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let (jobs, queue) = bounded::<Job>(1);
        for n in 0..threads {
            let (work, queue) = (&work, queue.clone());
            Builder::new()
                .name(format!("alone-{n}"))
                .spawn_scoped(scope, move || work.run(&queue))
                .map_err(MeasureError::Thread)?;
        }
        drop(queue);
        hand_out(&view, &jobs, observer)
    })?;
    match work.failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(work.found.into_inner()),
    }
}

/// Returns the stored and the raw bytes of the superchunks of file data.
fn superchunks(view: &View, observer: &dyn MeasureObserver) -> Result<(u64, u64), MeasureError> {
    let mut cursor = view.cursor_at(&schema::MAP, KeyRef::new(SPACE_SUPERCHUNKS, 0))?;
    let (mut stored, mut raw, mut rows) = (0u64, 0u64, 0u64);
    while let Some(row) = cursor.row().filter(|row| row.key().a == SPACE_SUPERCHUNKS) {
        let superchunk = SuperchunkRow::decode(row.ints(), row.tail())?;
        if superchunk.kind == FrameKind::SUPERCHUNK && row.key().b != view.params().dictionary {
            stored = stored.saturating_add(superchunk.place.stored_len.into());
            raw = raw.saturating_add(superchunk.place.raw_len.into());
        }
        cursor.advance(view)?;
        rows += 1;
        if rows.is_multiple_of(STEP) {
            go_on(observer)?;
        }
    }
    Ok((stored, raw))
}

/// Sends the subchunks of file data, in the order of their ids. Ends early if nobody takes them any more.
fn hand_out(view: &View, jobs: &Sender<Job>, observer: &dyn MeasureObserver) -> Result<(), MeasureError> {
    let mut cursor = view.cursor_at(&schema::MAP, KeyRef::new(SPACE_SUBCHUNKS, 0))?;
    let (mut current, mut job): (Option<(SuperchunkId, bool)>, Job) = (None, Vec::new());
    while let Some(row) = cursor.row().filter(|row| row.key().a < SPACE_RECIPES) {
        let run = SubchunkRun::decode(SubchunkId(row.key().b), row.ints(), row.tail())?;
        let is_data = match current {
            Some((superchunk, is_data)) if superchunk == run.superchunk => is_data,
            _ => {
                if !job.is_empty() && jobs.send(std::mem::take(&mut job)).is_err() {
                    return Ok(());
                }
                go_on(observer)?;
                let row = view.superchunk(run.superchunk)?;
                let is_data = row.is_some_and(|row| row.kind == FrameKind::SUPERCHUNK)
                    && run.superchunk.0 != view.params().dictionary;
                current = Some((run.superchunk, is_data));
                is_data
            }
        };
        if is_data {
            let composed = run.composed.iter().copied().chain(std::iter::repeat(false));
            let subchunks = (run.first.0..).map(SubchunkId).zip(&run.lens).zip(composed);
            job.extend(subchunks.map(|((id, &len), composed)| (id, len, composed)));
            if job.len() >= JOB_SUBCHUNKS && jobs.send(std::mem::take(&mut job)).is_err() {
                return Ok(());
            }
        }
        cursor.advance(view)?;
    }
    if !job.is_empty() {
        // If the receiver hung up, it failed and reports its own error.
        let _ = jobs.send(job);
    }
    Ok(())
}

struct Work<'a> {
    working_set: WorkingSet,
    view: &'a View,
    compression: Compression,
    observer: &'a dyn MeasureObserver,
    /// Raw bytes of all superchunks, and of those done.
    total: u64,
    done: AtomicU64,
    found: Mutex<Alone>,
    /// The first error.
    failed: Mutex<Option<MeasureError>>,
    stop: AtomicBool,
}

impl Work<'_> {
    /// Takes jobs until there are no more, or until one fails.
    fn run(&self, queue: &Receiver<Job>) {
        let mut encoder = Encoder::new(self.compression, None);
        let mut bytes = Vec::new();
        for job in queue {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.job(&job, &mut encoder, &mut bytes) {
                self.stop.store(true, Ordering::Relaxed);
                self.failed.lock().get_or_insert(error);
                return;
            }
        }
    }

    fn job(&self, job: &Job, encoder: &mut Encoder, bytes: &mut Vec<u8>) -> Result<(), MeasureError> {
        let mut found = Alone::default();
        let mut stored = 0;
        for &(id, stored_len, composed) in job {
            go_on(self.observer)?;
            let len = if composed { self.composed_len(id)? } else { stored_len };
            bytes.clear();
            bytes.resize(len as usize, 0);
            self.working_set.read_subchunk(self.view, id, 0, bytes)?;
            found.subchunks += 1;
            found.raw_bytes += u64::from(len);
            found.alone_bytes += encoder.encode(bytes)?.stored.len() as u64;
            stored += u64::from(stored_len);
        }
        let done = self.done.fetch_add(stored, Ordering::Relaxed) + stored;
        self.observer.progress(done.min(self.total), self.total);
        let mut all = self.found.lock();
        all.subchunks += found.subchunks;
        all.raw_bytes += found.raw_bytes;
        all.alone_bytes += found.alone_bytes;
        Ok(())
    }

    /// Returns the bytes of a composed subchunk. Lengths come from outside, but recipes are checked when they are
    /// decoded.
    fn composed_len(&self, id: SubchunkId) -> Result<u32, MeasureError> {
        let why = "it is composed, but has no recipe";
        Ok(self.view.recipe(id)?.ok_or(InflateError::Inconsistent { id, why })?.subchunk_len())
    }
}
