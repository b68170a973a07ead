//! Packs without compressing everything and without an image: it tells what a tree would take, from a sample of its
//! superchunks.
//!
//! The stages of `pack` run unchanged, so deduplication, tables and clear lists are exact. Only the superchunks do not
//! go to compressors. Some are kept in a temporary file, and the caller has some of these compressed; for all others
//! the caller says how many bytes they would take. Invariant: no image results (see [`super::hollow`]). If all
//! superchunks are compressed, each figure is that of the image that `pack` would make. Called by `bench`.

use super::append::{Progress, Sealed, begin_log};
use super::compare::Compare;
use super::fill::Filled;
use super::finish::finish;
use super::held::Held;
use super::hollow::HollowStorage;
use super::own::Own;
use super::pipeline::Stages;
use super::plan::Plan;
use super::portions::{Portions, Use};
use super::stored::{Back, Spool, Stored};
use super::superchunk::{self, CompressJob};
use super::{PackError, PackObserver, PackOptions, PackSummary, append::Appended, probe, scan};
use crate::format::clear::ClearList;
use crate::format::codec::{self, Encoded, Encoder};
use crate::format::frame::{Flags, FrameKind};
use crate::format::ids::SubchunkId;
use crate::format::recipe::Recipe;
use crate::format::sums;
use crate::log::NewFrame;
use crate::meta::{Image, ImageOptions, MapRows, Usage};
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use super::finish::LeafBytes;
pub use super::held::{mixed, mixed_below};
pub use super::scan::Count;

/// Options for a rehearsal: a trial run of packing that estimates the image without writing it.
#[derive(Debug, Clone)]
pub struct Rehearse<'a> {
    /// Most raw bytes of superchunks to keep.
    pub hold: u64,
    /// Least number of superchunks to keep.
    pub hold_at_least: usize,
    /// Seed that decides which superchunks are kept.
    pub seed: u64,
    /// Portions of the files to read; `None` for everything. Bytes that are not read count as a hole.
    pub portions: Option<&'a Portions>,
    /// Directory for temporary files.
    pub dir: &'a Path,
}

/// The sizes of a superchunk of a rehearsal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Number of raw bytes.
    pub raw_len: u32,
    /// Estimate of the bytes that the fastest codec would need for the superchunk, from a part of it. Known for all
    /// superchunks.
    pub probe: u32,
    /// Estimate of the raw bytes that do not repeat earlier ones of the same superchunk. Known for all superchunks.
    pub fresh: u32,
    /// Stored bytes, if the superchunk was compressed.
    pub stored: Option<u32>,
    /// Number of subchunks in the superchunk.
    pub subchunks: u32,
}

struct Gathered {
    list: ClearList,
    recipes: Vec<(SubchunkId, Recipe)>,
    short: bool,
    in_parts: bool,
    unit: Unit,
    codec: u8,
    flags: Flags,
    /// Checksum of the stored bytes, if the superchunk was compressed.
    sum: u64,
}

/// A source tree that is read, cut and deduplicated, but not written to an image.
pub struct Rehearsal<'a> {
    options: &'a PackOptions,
    plan: Plan,
    dir: &'a Path,
    filled: Filled,
    gathered: Vec<Gathered>,
    held: Held,
    warnings: u64,
}

/// A function that is called with the number of superchunks compressed so far.
pub type Watch<'a> = &'a (dyn Fn(usize) + Sync);

/// A compressed part of a superchunk, or all of it.
struct Piece {
    index: usize,
    raw: u32,
    stored: u32,
    /// Codec, flags and checksum of the piece; its `stored` is empty.
    encoded: Encoded,
}

/// The result of a rehearsal.
#[derive(Debug, Clone)]
pub struct Rehearsed {
    /// How the bytes of the image would be used.
    pub usage: Usage,
    /// Summary, as packing gives it.
    pub summary: PackSummary,
    /// Bytes that the tables would take.
    pub leaves: LeafBytes,
}

/// Estimates that a thread computes for a superchunk instead of its stored bytes.
struct Probed {
    raw: Arc<Vec<u8>>,
    probe: u32,
    fresh: u32,
}

/// Walks the sources, reads no file, and counts files and bytes.
///
/// # Errors
/// Fails if a source does not exist.
pub fn count(sources: &[PathBuf], options: &PackOptions, observer: &dyn PackObserver) -> Result<Count, PackError> {
    let sources = scan::sources(sources, options)?;
    scan::Scan::new(&sources, options, &Own::default(), observer).count_alike()
}

/// Reads the sources, or portions of them, and cuts, hashes and deduplicates as [`super::pack`] would. Equal XXH3
/// hashes count as equal bytes.
///
/// # Errors
/// Fails as [`super::pack`] does, except for errors about the image; also if temporary files cannot be written.
pub fn rehearse<'a>(
    sources: &[PathBuf],
    options: &'a PackOptions,
    how: &Rehearse<'a>,
    observer: &dyn PackObserver,
) -> Result<Rehearsal<'a>, PackError> {
    // Only the directory of this name counts, as the default for temporary files.
    let mut plan = Plan::new(options, &how.dir.join("image"))?;
    plan.temp_dir = how.dir.to_owned();
    let sources = scan::sources(sources, options)?;
    let own = Own::default();
    let scan = scan::Scan::new(&sources, options, &own, observer);
    let size = options.params.superchunk_size;
    let held = Held::new(how.dir, size, how.hold, how.hold_at_least, how.seed);
    let held = held.map_err(|source| PackError::Spill { dir: how.dir.to_owned(), source })?;
    let progress = Progress::default();
    let stages = Stages {
        scan: &scan,
        plan: &plan,
        options,
        observer,
        progress: &progress,
        compare: Compare::none(),
        stored: Stored::new(Back::Spool(Spool::new(how.dir)?), options),
        portions: how.portions,
    };
    let (filled, (gathered, held)) = stages.run(&probe_all, |queue| gather(queue, held, how.dir, &progress))?;
    let warnings = scan.warnings();
    Ok(Rehearsal { options, plan, dir: how.dir, filled, gathered, held, warnings })
}

/// Estimates the sizes of superchunks until there are no more.
fn probe_all(queue: &Receiver<CompressJob<Probed>>) {
    while let Ok(CompressJob { raw, done, .. }) = queue.recv() {
        let probed = probe::compressed(&raw).map(|probe| Probed { probe, fresh: probe::fresh(&raw), raw });
        // A receiver that hung up has failed and reports its own error.
        let _ = done.send(probed);
    }
}

fn gather(
    queue: &Receiver<Sealed<Probed>>,
    mut held: Held,
    dir: &Path,
    progress: &Progress,
) -> Result<(Vec<Gathered>, Held), PackError> {
    let mut gathered = Vec::new();
    while let Ok(sealed) = queue.recv() {
        // The compressor hung up because it panicked; the thread scope passes the panic on.
        let Ok(probed) = sealed.encoded.recv() else { break };
        let Probed { raw, probe, fresh } = probed?;
        held.offer(&raw).map_err(|source| PackError::Spill { dir: dir.to_owned(), source })?;
        progress.append(sealed.subchunk_bytes, 0);
        let subchunks = sealed.list.subchunks.len() as u32;
        let unit = Unit { raw_len: sealed.raw_len, probe, fresh, stored: None, subchunks };
        gathered.push(Gathered {
            list: sealed.list,
            recipes: sealed.recipes,
            short: sealed.short,
            in_parts: sealed.in_parts,
            unit,
            codec: 0,
            flags: Flags::default(),
            sum: 0,
        });
    }
    Ok((gathered, held))
}

impl Rehearsal<'_> {
    /// Returns all superchunks, in the order that they would have in the image.
    pub fn units(&self) -> Vec<Unit> {
        self.gathered.iter().map(|gathered| gathered.unit).collect()
    }

    /// Returns the indexes of the superchunks that can be compressed. They are spread evenly, at random, over all
    /// superchunks; all of them, if all are kept.
    pub fn held(&self) -> Vec<usize> {
        self.held.indexes()
    }

    /// Returns whether all superchunks can be compressed.
    pub fn holds_all(&self) -> bool {
        self.held.holds_all()
    }

    /// Returns the summary, without the figures that only a finished image has.
    pub fn summary(&self) -> &PackSummary {
        &self.filled.summary
    }

    /// Returns the uses of subchunks, in reading order. Empty if everything was read instead of portions.
    pub fn uses(&self) -> &[Use] {
        &self.filled.uses
    }

    /// Compresses the kept superchunks with the indexes `chosen`; `watch` gets the number done.
    ///
    /// # Errors
    /// Fails if one is not kept or cannot be read, the codec fails, or the observer asks to stop.
    pub fn compress(
        &mut self,
        chosen: &[usize],
        observer: &dyn PackObserver,
        watch: Watch<'_>,
    ) -> Result<(), PackError> {
        for Piece { index, stored, encoded, .. } in self.encode(chosen, usize::MAX, observer, watch)? {
            let gathered = &mut self.gathered[index];
            gathered.unit.stored = Some(stored);
            (gathered.codec, gathered.flags, gathered.sum) = (encoded.codec, encoded.flags, encoded.sum);
        }
        Ok(())
    }

    /// Compresses the kept superchunks with the indexes `chosen` in pieces of `piece` bytes, each alone. Returns raw
    /// and stored bytes of each piece, in any order: they show how much the parts of a superchunk differ.
    ///
    /// # Errors
    /// Fails as [`Rehearsal::compress`] does.
    pub fn compress_pieces(
        &self,
        chosen: &[usize],
        piece: usize,
        observer: &dyn PackObserver,
    ) -> Result<Vec<(u32, u32)>, PackError> {
        let pieces = self.encode(chosen, piece, observer, &|_| ())?;
        Ok(pieces.into_iter().map(|piece| (piece.raw, piece.stored)).collect())
    }

    fn encode(
        &self,
        chosen: &[usize],
        piece: usize,
        observer: &dyn PackObserver,
        watch: Watch<'_>,
    ) -> Result<Vec<Piece>, PackError> {
        let next = AtomicUsize::new(0);
        let done: Mutex<(usize, Vec<Piece>)> = Mutex::default();
        let (held, gathered, options, dir) = (&self.held, &self.gathered, self.options, self.dir);
        let work = || -> Result<(), PackError> {
            let mut encoder = Encoder::new(options.compression, options.params.part_size);
            let mut raw = Vec::new();
            while let Some(&index) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                if observer.cancelled() {
                    return Err(PackError::Cancelled);
                }
                held.read(index, &mut raw).map_err(|source| PackError::Spill { dir: dir.to_owned(), source })?;
                let in_parts = gathered[index].in_parts;
                for part in raw.chunks(piece.max(1)) {
                    let mut encoded = if in_parts { encoder.encode(part)? } else { encoder.encode_whole(part)? };
                    // From here on only their number counts.
                    let stored = std::mem::take(&mut encoded.stored).len() as u32;
                    done.lock().1.push(Piece { index, raw: part.len() as u32, stored, encoded });
                }
                let mut done = done.lock();
                done.0 += 1;
                watch(done.0);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for n in 0..self.plan.compressors {
                let thread = std::thread::Builder::new().name(format!("compress-{n}"));
                threads.push(thread.spawn_scoped(scope, work).map_err(|source| PackError::Thread { source })?);
            }
            for thread in threads {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            Ok::<_, PackError>(())
        })?;
        Ok(done.into_inner().1)
    }

    /// Estimates the bytes that the image would take. For a superchunk that was not compressed, `predicted` returns its
    /// stored bytes by its index.
    ///
    /// # Errors
    /// Fails if a temporary file cannot be written or read back.
    pub fn finish(self, predicted: &dyn Fn(usize) -> u64) -> Result<Rehearsed, PackError> {
        let Rehearsal { options, dir, filled, gathered, held, warnings, .. } = self;
        drop(held);
        let at = Path::new("the image");
        let storage = HollowStorage::new(dir).map_err(|source| PackError::Spill { dir: dir.to_owned(), source })?;
        let storage = Arc::new(storage);
        let on_log = |source| PackError::log(at, source);
        let mut appended = Appended { log: None, map: MapRows::default(), has_recipes: false };
        let mut stored = Vec::new();
        for (index, gathered) in gathered.into_iter().enumerate() {
            let Gathered { list, recipes, short, unit, codec, flags, sum, .. } = gathered;
            appended.has_recipes |= !recipes.is_empty();
            let len = match unit.stored {
                Some(len) => len,
                None => predicted(index).min(unit.raw_len.into()) as u32,
            };
            let (codec, flags, sum) = match unit.stored {
                Some(_) => (codec, flags, sum),
                None => {
                    let codec = if len == unit.raw_len { codec::RAW } else { options.compression.codec_number() };
                    (codec, Flags::default(), mixed(u64::from(len), index as u64))
                }
            };
            if appended.log.is_none() {
                let id = filled.log_id.unwrap_or_default();
                appended.log = Some(begin_log(storage.clone(), id).map_err(on_log)?);
            }
            let Some(log) = &mut appended.log else { break };
            stored.clear();
            stored.resize(len as usize, 0);
            let encoded = Encoded { codec, flags, sum: sums::xxh3(&stored), stored };
            let frame = superchunk::frame(&encoded, &[], unit.raw_len, short);
            let clear = list.encode();
            let mut place = log.append(NewFrame { clear: &clear, ..frame }).map_err(on_log)?;
            // The map keeps the checksum of the bytes that are left out.
            place.sum = sum;
            appended.map.add(FrameKind::SUPERCHUNK, place, &list, recipes);
            stored = encoded.stored;
        }
        storage.keep_from_here();
        let finished = finish(filled, appended, storage.clone(), at, options)?;
        let image = Image::open(storage, ImageOptions::default()).and_then(|image| image.usage());
        let usage = image.map_err(|source| PackError::Rehearsal { source })?;
        let mut summary = finished.summary;
        summary.warnings += warnings;
        Ok(Rehearsed { usage, summary, leaves: finished.leaves })
    }
}
