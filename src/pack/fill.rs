//! The one thread that sees all entries in order. It deduplicates, fills superchunks and makes rows.

use super::append::{Progress, Sealed};
use super::compare::Compare;
use super::files::{Batch, Entry, FileJob, FilePart, Meta, ReadEnd, ReadExtent, Segment};
use super::matching::Matching;
use super::plan::Plan;
use super::portions::{Portions, Use};
use super::rows::{ContentBuilder, Node, TreeRows};
use super::stored::Stored;
use super::superchunk::{CompressJob, Large, Superchunk, is_large};
use super::{PackError, PackObserver, PackOptions, PackSummary, read};
use crate::chunk::DedupIndex;
use crate::format::clear::ClearList;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::params::RawParams;
use crate::format::rows::{ContentRef, Extent, FileType, Identity};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::thread::Builder;
use zerocopy::IntoBytes;

/// Number of subchunks after which the chunker usually cuts where it would also cut if it had started earlier.
const RESYNCED: u32 = 2;

/// What is known when the last file was packed: rows of tables that describe the tree, and figures.
pub(super) struct Filled {
    pub(super) rows: TreeRows,
    pub(super) index: DedupIndex,
    pub(super) next_subchunk: u64,
    pub(super) next_superchunk: u64,
    pub(super) log_id: Option<u64>,
    pub(super) summary: PackSummary,
    /// Uses of subchunks in files. It is filled only if just portions of the files are read.
    pub(super) uses: Vec<Use>,
}

/// Fills superchunks with the subchunks of files, in path order, and deduplicates. `E` is what the compressors make of
/// a superchunk.
pub(super) struct Filler<'a, E> {
    options: &'a PackOptions,
    observer: &'a dyn PackObserver,
    compress: Sender<CompressJob<E>>,
    sealed: Sender<Sealed<E>>,
    compare: Compare,
    stored: Stored<'a>,
    progress: &'a Progress,
    /// Portions of the files to read; `None` for everything.
    portions: Option<&'a Portions>,
    rows: TreeRows,
    index: DedupIndex,
    matching: Matching<'static>,
    /// The present file, if it is large; and the number of large files so far.
    large: Option<Large>,
    large_files: Large,
    next_subchunk: u64,
    next_superchunk: u64,
    log_id: Option<u64>,
    summary: PackSummary,
    uses: Vec<Use>,
    /// Path of the current entry, for messages, and where each directory's part of it begins.
    path: Vec<u8>,
    borders: Vec<usize>,
}

impl<'a, E> Filler<'a, E> {
    pub(super) fn new(
        options: &'a PackOptions,
        plan: &Plan,
        observer: &'a dyn PackObserver,
        compress: Sender<CompressJob<E>>,
        sealed: Sender<Sealed<E>>,
        (compare, stored): (Compare, Stored<'a>),
        progress: &'a Progress,
    ) -> Self {
        Filler {
            options,
            observer,
            compress,
            sealed,
            compare,
            stored,
            progress,
            portions: None,
            rows: TreeRows::new(plan),
            index: DedupIndex::new(plan.spill_after, &plan.temp_dir),
            matching: Matching::new(options.params, SuperchunkId(1)),
            large: None,
            large_files: 0,
            next_subchunk: 1,
            next_superchunk: 1,
            log_id: None,
            summary: PackSummary::default(),
            uses: Vec::new(),
            path: Vec::new(),
            borders: Vec::new(),
        }
    }

    /// Sets the portions of the files to read.
    pub(super) fn reading(self, portions: Option<&'a Portions>) -> Self {
        Filler { portions, ..self }
    }

    /// Takes batches of files until there are no more. Then passes on the last superchunk, however full it is.
    pub(super) fn run(mut self, batches: &Receiver<(Arc<Batch>, Receiver<Segment>)>) -> Result<Filled, PackError> {
        while let Ok((batch, segments)) = batches.recv() {
            if self.observer.cancelled() {
                return Err(PackError::Cancelled);
            }
            let mut parts = Parts::from(segments);
            for entry in &batch.entries {
                self.entry(entry, &mut parts)?;
            }
            self.progress.read(self.summary.files, self.summary.bytes, self.summary.unique_bytes);
            self.progress.tell(self.observer);
        }
        if self.observer.cancelled() {
            return Err(PackError::Cancelled);
        }
        if !self.borders.is_empty() {
            // The scan ended inside a directory: its thread panicked, and the thread scope passes the panic on.
            return Err(PackError::Stopped);
        }
        while let Some(superchunk) = self.matching.finish(&mut self.stored)? {
            self.seal(superchunk)?;
        }
        Ok(Filled {
            rows: self.rows,
            index: self.index,
            next_subchunk: self.next_subchunk,
            next_superchunk: self.next_superchunk,
            log_id: self.log_id,
            summary: self.summary,
            uses: self.uses,
        })
    }

    fn entry(&mut self, entry: &Entry, parts: &mut Parts) -> Result<(), PackError> {
        match entry {
            Entry::Enter { name, meta } => {
                self.borders.push(self.path.len());
                self.push_name(name);
                if !self.path.is_empty() {
                    self.observer.packed(&self.path);
                }
                TreeRows::count(&mut self.summary, FileType::Directory);
                self.rows.enter(name, meta)
            }
            Entry::Leave => {
                self.path.truncate(self.borders.pop().unwrap_or(0));
                self.rows.leave()
            }
            Entry::File { meta, job } => self.file(job, meta, parts),
            Entry::Other { name, meta, target } => {
                let Some(file_type) = FileType::of_mode(meta.mode) else { return Ok(()) };
                let size = match file_type {
                    FileType::Symlink => target.len() as u64,
                    FileType::BlockDevice | FileType::CharDevice => {
                        u64::from(rustix::fs::major(meta.rdev)) << 32 | u64::from(rustix::fs::minor(meta.rdev))
                    }
                    _ => 0,
                };
                TreeRows::count(&mut self.summary, file_type);
                self.rows.leaf(name, meta, &Node { target, ..Node::bare(file_type, size) })?;
                self.packed(name);
                Ok(())
            }
            Entry::Link { name, key, alone } => {
                if self.rows.link(name, *key) {
                    self.summary.hard_links += 1;
                    self.packed(name);
                    return Ok(());
                }
                match alone {
                    Some(alone) => self.alone(&alone.0, &alone.1),
                    None => {
                        self.warn(name, "left out, because the first name of this file was left out");
                        Ok(())
                    }
                }
            }
        }
    }

    /// Packs a file whose earlier names were all left out, usually because they no longer existed when they were read.
    /// This is so rare that it starts a reader just for this file.
    fn alone(&mut self, meta: &Meta, job: &FileJob) -> Result<(), PackError> {
        let batch = Batch { entries: vec![Entry::File { meta: meta.clone(), job: job.clone() }] };
        let ((segments, received), (jobs, queue)) = (bounded(1), bounded(1));
        jobs.send((Arc::new(batch), segments)).map_err(|_| PackError::Stopped)?;
        drop(jobs);
        let (options, portions) = (self.options, self.portions);
        std::thread::scope(|scope| {
            Builder::new()
                .name("read-alone".into())
                .spawn_scoped(scope, move || read::run(&queue, options, portions))
                .map_err(|source| PackError::Thread { source })?;
            self.file(job, meta, &mut Parts::from(received))
        })
    }

    fn push_name(&mut self, name: &[u8]) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }

    fn packed(&mut self, name: &[u8]) {
        let before = self.path.len();
        self.push_name(name);
        self.observer.packed(&self.path);
        self.path.truncate(before);
    }

    fn warn(&mut self, name: &[u8], message: &str) {
        let before = self.path.len();
        self.push_name(name);
        self.summary.warnings += 1;
        self.observer.warning(&self.path, message);
        self.path.truncate(before);
    }

    fn file(&mut self, job: &FileJob, meta: &Meta, parts: &mut Parts) -> Result<(), PackError> {
        let name = &*job.name;
        self.large = is_large(&self.options.params, meta.size).then(|| {
            self.large_files += 1;
            self.large_files
        });
        let mut builder = ContentBuilder::default();
        let mut tiny = None;
        let min = self.options.params.chunker.min_len();
        // If a file changes while it is read, it may have data where a hole was a moment ago.
        let (mut after_short, mut uneven) = (false, false);
        // Number of subchunks since the last hole.
        let mut after_hole = RESYNCED;
        let end = loop {
            // A file may be endless.
            if self.observer.cancelled() {
                return Err(PackError::Cancelled);
            }
            let part = parts.next()?;
            let whole = builder.rows.is_empty() && part.end.is_some();
            if let ([ReadExtent::Data { len, .. }], true) = (&part.extents[..], whole)
                && u64::from(*len) < limits::TINY_LEN
            {
                let bytes = parts.take(*len as usize)?;
                if !matches!(part.end, Some(ReadEnd::Failed(_) | ReadEnd::Shortage(_))) {
                    tiny = Some(self.rows.tiny(bytes)?);
                    builder.size = u64::from(*len);
                }
            } else {
                for extent in &part.extents {
                    match extent {
                        ReadExtent::Hole(len) => {
                            after_short = false;
                            let here = job.start.saturating_add(builder.size);
                            if let Some(last) =
                                self.uses.last_mut().filter(|last| last.at + u64::from(last.len) == here)
                            {
                                last.edge |= builder.size > 0;
                            }
                            after_hole = 0;
                            builder.hole(*len);
                        }
                        ReadExtent::Data { len, identity } => {
                            let bytes = parts.take(*len as usize)?;
                            uneven |= after_short;
                            after_short = *len < min;
                            let id = self.subchunk(identity, bytes)?;
                            if self.portions.is_some() {
                                let (at, edge) = (job.start.saturating_add(builder.size), after_hole < RESYNCED);
                                self.uses.push(Use { subchunk: id, len: *len, at, edge });
                                after_hole = after_hole.saturating_add(1);
                            }
                            builder.subchunk(id, *len);
                        }
                    }
                }
            }
            if let Some(end) = part.end {
                break end;
            }
            let bytes = self.summary.bytes.wrapping_add(builder.size);
            self.progress.read(self.summary.files, bytes, self.summary.unique_bytes);
            self.progress.tell(self.observer);
        };
        match end {
            ReadEnd::Whole => {}
            ReadEnd::Changed(what) => self.warn(name, &what),
            ReadEnd::Failed(why) => {
                self.warn(name, &format!("{why}; it is left out"));
                return Ok(());
            }
            ReadEnd::Shortage(error) => {
                self.push_name(name);
                return Err(PackError::descriptors(&self.path, error));
            }
        }
        if let Some((_, true)) = tiny {
            self.summary.shared_bytes += builder.size;
        }
        let content = match (tiny, &builder.rows[..]) {
            (Some((id, _)), _) => ContentRef::Tiny(id),
            (None, []) => ContentRef::None,
            (None, [row]) if row.extent == Extent::Hole => ContentRef::None,
            (None, [row]) => match &row.extent {
                Extent::Slice { subchunk, .. } => ContentRef::Subchunk(*subchunk),
                _ => ContentRef::Content(self.rows.content(builder.hash(), &builder.rows)?),
            },
            (None, rows) => ContentRef::Content(self.rows.content(builder.hash(), rows)?),
        };
        let sparse = matches!(content, ContentRef::Content(_)) && builder.allocated < builder.size;
        self.summary.bytes = self.summary.bytes.wrapping_add(builder.size);
        TreeRows::count(&mut self.summary, FileType::Regular);
        let allocated = sparse.then_some(builder.allocated);
        self.rows.leaf(
            name,
            meta,
            &Node { content, allocated, uneven, ..Node::bare(FileType::Regular, builder.size) },
        )?;
        self.packed(name);
        Ok(())
    }

    /// Returns the id of a subchunk with these bytes: an earlier subchunk, or a new one in the superchunk that is being
    /// filled.
    fn subchunk(&mut self, identity: &Identity, bytes: &[u8]) -> Result<SubchunkId, PackError> {
        if let Some(id) = self.index.get(identity) {
            let open = (SuperchunkId(self.next_superchunk), self.matching.open().raw());
            if !self.compare.needed() || self.compare.equal(id, bytes, open, &mut self.stored)? {
                self.summary.shared_bytes += bytes.len() as u64;
                return Ok(id);
            }
        }
        if let Some(complete) = self.matching.make_room(bytes.len()) {
            self.seal(complete)?;
        }
        let id = SubchunkId(self.next_subchunk);
        //= format-spec.md#5
        //# Ids of subchunks and superchunks are ≥ 1 and < 2^62; both ascend, and are never used twice; a
        //# superchunk written a second time (3.1, copy) keeps its id.
        self.next_subchunk += 1;
        self.matching.push(id, bytes, self.large);
        while let Some(superchunk) = self.matching.advance(&mut self.stored)? {
            self.seal(superchunk)?;
        }
        let at = self.matching.open().raw().len().saturating_sub(bytes.len());
        self.compare.add(SuperchunkId(self.next_superchunk), at as u32, bytes.len() as u32);
        self.index.insert(*identity, id)?;
        self.summary.unique_bytes += bytes.len() as u64;
        self.summary.subchunks += 1;
        Ok(id)
    }

    /// Passes a superchunk to the compressors.
    fn seal(&mut self, superchunk: Superchunk) -> Result<(), PackError> {
        let Superchunk { raw, subchunks, recipes, subchunk_bytes, short, in_parts } = superchunk;
        let raw = Arc::new(raw);
        let log_id = *self.log_id.get_or_insert_with(|| log_id(self.options, &raw));
        //= format-spec.md#5
        //# Ids of subchunks and superchunks are ≥ 1 and < 2^62; both ascend, and are never used twice; a superchunk
        //# written a second time (3.1, copy) keeps its id.
        let list = ClearList { superchunk: SuperchunkId(self.next_superchunk), subchunks };
        self.next_superchunk += 1;
        self.summary.superchunks += 1;
        self.stored.add(&list, &raw, log_id)?;
        let (done, encoded) = bounded(1);
        let raw_len = raw.len() as u32;
        // The receiver hung up because it failed; its error is reported instead.
        self.compress.send(CompressJob { raw, in_parts, done }).map_err(|_| PackError::Stopped)?;
        let sealed = Sealed { list, recipes, subchunk_bytes, raw_len, short, in_parts, encoded, log_id };
        self.sealed.send(sealed).map_err(|_| PackError::Stopped)
    }
}

/// Returns the id of the image's log. It depends only on options and content, so the same input gives the same bytes.
pub(super) fn log_id(options: &PackOptions, first: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"floe log id").update(RawParams::from(&options.params).as_bytes());
    hasher.update(first).update(options.seed_bytes());
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    u64::from_le_bytes(id)
}

/// Iterates over the parts of a batch's files, one after another.
struct Parts {
    segments: Receiver<Segment>,
    parts: std::vec::IntoIter<FilePart>,
    bytes: Vec<u8>,
    used: usize,
}

impl From<Receiver<Segment>> for Parts {
    fn from(segments: Receiver<Segment>) -> Self {
        Parts { segments, parts: Vec::new().into_iter(), bytes: Vec::new(), used: 0 }
    }
}

impl Parts {
    fn next(&mut self) -> Result<FilePart, PackError> {
        loop {
            if let Some(part) = self.parts.next() {
                return Ok(part);
            }
            // The reader hung up before its batch was complete because it panicked; the thread scope passes the panic
            // on.
            let segment = self.segments.recv().map_err(|_| PackError::Stopped)?;
            self.parts = segment.parts.into_iter();
            self.bytes = segment.bytes;
            self.used = 0;
        }
    }

    fn take(&mut self, len: usize) -> Result<&[u8], PackError> {
        let bytes = self.bytes.get(self.used..self.used + len).ok_or(PackError::Stopped)?;
        self.used += len;
        Ok(bytes)
    }
}
