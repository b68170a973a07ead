//! A batch: takes in subchunks, and returns superchunks that are ready to be appended.
//!
//! Each subchunk is looked up in the image and in the batch. A new one is searched for data that the image or the batch
//! has (`pack::matching`), and the rest goes to the superchunk that is being filled. Full superchunks are compressed by
//! the batch's own threads. Invariants: the result is a function of the input, the image and the options, not of timing or
//! the number of threads. A batch that is full of new bytes has at least one superchunk: so batch after batch makes progress.
//! Memory: the raw bytes of at most two superchunks and one for each thread (and one more if identities prove nothing),
//! a context and an output buffer for each thread, and the stored bytes of the batch; with recipes also what [`memory`]
//! says. Callers: `cut_file`, and `fs`, which appends the result.

use super::compressors::{Compressors, Priority, Urgency, affordable};
use super::packed::{self, Packed, Piece};
use super::sealed::{SealedSuperchunks, range_of};
use crate::chunk::Cutter;
use crate::format::FormatError;
use crate::format::codec::Compression;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::params::{HashKind, Params};
use crate::format::rows::Identity;
use crate::pack::matching::{self, AnchorIndex, Matching, PROVISIONAL, Source, Sources};
use crate::pack::superchunk::{Large, Superchunk, is_large};
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;

/// New raw bytes of a batch by default: enough for good compression, and little to lose or to repeat.
pub const DEFAULT_LIMIT: u64 = 64 << 20;
/// A batch is also full if the bytes that it found in the image or in itself are this many times the limit of new
/// bytes. Such bytes are not stored again, but the caller keeps a [`Piece`] in memory for each subchunk of them.
const SHARED_FACTOR: u64 = 16;
/// A batch is also full if its new subchunks have this many times as many bytes as the limit, however little of them is
/// stored because recipes take it from elsewhere. This bounds the time that a batch takes.
const COMPOSED_FACTOR: u64 = 4;
/// Most bytes of the index of a batch's own anchors: enough for all anchors of 64 MiB.
const INDEX: usize = 64 << 20;
/// Most raw bytes of the superchunks that are searched at a time. Where superchunks are large, fewer are searched than
/// the image allows.
const SOURCES: u64 = 256 << 20;
/// Most raw bytes of superchunks that are kept because they may be searched again soon.
const RECENT: u64 = 128 << 20;

/// Returns the parameters for matching: how many superchunks are searched at a time.
fn matching_params(params: &Params) -> Params {
    let most = (SOURCES / u64::from(params.superchunk_size).max(1)).max(1);
    let max_sources = params.max_sources.min(u8::try_from(most).unwrap_or(u8::MAX));
    Params { max_sources, ..*params }
}

/// Returns the raw bytes of superchunks that are kept for later use.
fn recent_bytes(params: &Params) -> u64 {
    let superchunk = u64::from(params.superchunk_size);
    if !params.makes_recipes() {
        return superchunk;
    }
    superchunk.saturating_mul(u64::from(params.max_sources).saturating_add(2)).min(RECENT).max(superchunk)
}

/// Returns the most bytes of memory that matching takes in a batch with these parameters, without the image's index of
/// anchors.
pub(super) fn memory(params: &Params) -> u64 {
    let params = matching_params(params);
    if !params.makes_recipes() {
        return 0;
    }
    let sources = u64::from(params.superchunk_size).saturating_mul(params.max_sources.into());
    let window = matching::window_memory(&params).saturating_add(INDEX as u64);
    window.saturating_add(sources).saturating_add(recent_bytes(&params))
}

/// Options of a batch.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// Parameters of the image.
    pub params: Params,
    /// Codec and level of new superchunks.
    pub compression: Compression,
    /// Number of threads that compress, at least one.
    pub compressors: usize,
    /// Priority of the threads that compress. If the system does not allow it, they run at normal priority.
    pub priority: Priority,
    /// Number of new raw bytes after which the batch is full.
    pub limit: u64,
}

/// Finds subchunks that the image has.
pub trait Known {
    /// The error of a look-up.
    type Error;

    /// Finds a subchunk that has the bytes `bytes`, whose identity is `identity`. If equal identities do not prove
    /// equal bytes (XXH3-128), the bytes are compared.
    ///
    /// # Errors
    /// Fails if the look-up fails.
    fn find(&self, identity: &Identity, bytes: &[u8]) -> Result<Option<SubchunkId>, Self::Error>;

    /// Returns the anchors in superchunks of the image, which new data may be matched with.
    fn anchors(&self) -> Option<&AnchorIndex> {
        None
    }

    /// Returns a superchunk of the image, verified; `None` if it is there no longer or cannot be verified. Recipes may
    /// refer to every stored part that the result names.
    fn source(&self, _id: SuperchunkId) -> Option<Source> {
        None
    }
}

/// Why a batch did not take a subchunk, or cannot be finished.
#[derive(Debug, Error)]
pub enum BatchError<E> {
    /// The look-up in the image failed. The batch is unchanged.
    #[error(transparent)]
    Known(E),
    /// A thread could not be started.
    #[error("cannot start a thread that compresses: {0}")]
    Thread(#[source] std::io::Error),
    /// A superchunk could not be compressed. The batch cannot be finished.
    #[error("cannot compress a superchunk: {0}")]
    Compress(#[from] FormatError),
}

/// What becomes of the last superchunk of a batch if it is not full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is packed like the others.
    Keep,
    /// It is left out, unless it is the batch's only one, and the batch's new bytes would fill a superchunk without
    /// recipes.
    KeepIfAlone,
    /// It is left out: a later batch packs its contents into a full one. It is packed nevertheless if it is the batch's
    /// only one, and the batch's new bytes would fill the batch without recipes.
    Drop,
}

/// A batch of new subchunks that are being packed into superchunks.
#[derive(Debug)]
pub struct Batch<'k, K: Known + ?Sized> {
    known: &'k K,
    params: Params,
    limit: u64,
    cutter: Arc<Cutter>,
    matching: Matching<'k>,
    sealed: SealedSuperchunks<'k>,
    /// The present file, if it is large; and the number of large files so far.
    large: Option<Large>,
    large_files: Large,
    /// Identities of the subchunks that are in no sealed superchunk yet.
    open_identities: Vec<Identity>,
    /// Ordinal of each new subchunk, by identity.
    index: HashMap<Identity, u64>,
    subchunks: u64,
    new_bytes: u64,
    shared_bytes: u64,
}

/// Where the superchunks come from that a batch's new data is searched for in: the batch itself and the image.
struct Reach<'r, 'k, K: Known + ?Sized> {
    known: &'k K,
    sealed: &'r mut SealedSuperchunks<'k>,
}

impl<K: Known + ?Sized> Sources for Reach<'_, '_, K> {
    type Error = BatchError<K::Error>;

    fn source(&mut self, id: SuperchunkId) -> Result<Option<Source>, Self::Error> {
        if id >= PROVISIONAL {
            return Ok(self.sealed.source(id)?);
        }
        if let Some(source) = self.sealed.recent().take(id) {
            return Ok(Some(source));
        }
        let source = self.known.source(id);
        source.iter().for_each(|source| self.sealed.recent().keep(source.clone()));
        Ok(source)
    }
}

impl<'k, K: Known + ?Sized> Batch<'k, K> {
    /// Makes an empty batch and starts its threads.
    ///
    /// # Errors
    /// Fails with `Thread` if a thread cannot be started.
    pub fn new(options: BatchOptions, known: &'k K) -> Result<Self, BatchError<K::Error>> {
        let BatchOptions { params, compression, compressors, priority, limit } = options;
        let count = affordable(compressors, compression, params.superchunk_size, memory(&params));
        let compressors = Compressors::start(count, priority, compression, params.part_size);
        let compressors = compressors.map_err(BatchError::Thread)?;
        let own = matching_params(&params);
        Ok(Batch {
            known,
            limit,
            cutter: Arc::new(Cutter::new(&params)),
            matching: Matching::beside(own, PROVISIONAL, INDEX, known.anchors()),
            sealed: SealedSuperchunks::new(compressors, recent_bytes(&own) as usize),
            large: None,
            large_files: 0,
            params,
            open_identities: Vec::new(),
            index: HashMap::new(),
            subchunks: 0,
            new_bytes: 0,
            shared_bytes: 0,
        })
    }

    /// Sets when work is urgent: then a second set of threads at normal priority takes over what threads at a lower
    /// priority have not finished.
    pub fn set_urgency(&mut self, urgency: Urgency<'k>) {
        self.sealed.compressors.set_urgency(urgency);
    }

    /// Returns the image's chunker.
    pub fn cutter(&self) -> Arc<Cutter> {
        Arc::clone(&self.cutter)
    }

    /// Returns how many of the bytes that were added so far are new.
    pub fn new_bytes(&self) -> u64 {
        self.new_bytes
    }

    /// Returns how many of the bytes that were added so far were in the image or in the batch already.
    pub fn shared_bytes(&self) -> u64 {
        self.shared_bytes
    }

    /// Returns the stored bytes of the superchunks that are compressed so far.
    pub fn stored_bytes(&self) -> u64 {
        self.sealed.stored_bytes()
    }

    /// Returns whether the batch should be finished before it takes more.
    pub fn is_full(&self) -> bool {
        self.new_bytes.saturating_sub(self.matching.matched()) >= self.limit
            || self.new_bytes >= self.limit.saturating_mul(COMPOSED_FACTOR)
            || self.shared_bytes >= self.limit.saturating_mul(SHARED_FACTOR)
    }

    /// Begins a file of `len` bytes: the subchunks that follow are of this file.
    pub fn begin_file(&mut self, len: u64) {
        self.large = is_large(&self.params, len).then(|| {
            self.large_files += 1;
            self.large_files
        });
    }

    /// Adds a subchunk with the bytes `bytes`, and returns the piece that names it: a known subchunk, or a new one.
    /// Waits if the compressors are busy.
    ///
    /// # Errors
    /// Fails with `Known` if the look-up fails; the batch is unchanged then. Fails with `Compress` if an earlier
    /// superchunk could not be compressed.
    ///
    /// # Panics
    /// Panics if a compressor panicked, with the same panic.
    pub fn add(&mut self, bytes: &[u8]) -> Result<Piece, BatchError<K::Error>> {
        let identity = Identity::of(self.params.hash, bytes);
        // The batch first: it is in memory.
        if let Some(ordinal) = self.own(&identity, bytes)? {
            self.shared_bytes = self.shared_bytes.saturating_add(bytes.len() as u64);
            return Ok(Piece::New(ordinal));
        }
        if let Some(id) = self.known.find(&identity, bytes).map_err(BatchError::Known)? {
            self.shared_bytes = self.shared_bytes.saturating_add(bytes.len() as u64);
            return Ok(Piece::Known(id));
        }
        if let Some(complete) = self.matching.make_room(bytes.len()) {
            seal(&self.params, &mut self.sealed, &mut self.open_identities, complete)?;
        }
        let ordinal = self.subchunks;
        self.matching.push(packed::provisional(ordinal), bytes, self.large);
        self.open_identities.push(identity);
        self.index.insert(identity, ordinal);
        self.subchunks = self.subchunks.saturating_add(1);
        self.new_bytes = self.new_bytes.saturating_add(bytes.len() as u64);
        let Batch { matching, sealed, known, .. } = self;
        while let Some(complete) = matching.advance(&mut Reach { known: *known, sealed })? {
            seal(&self.params, sealed, &mut self.open_identities, complete)?;
        }
        Ok(Piece::New(ordinal))
    }

    /// Passes the last superchunk to the compressors, and waits for all results. `last` says what becomes of that one.
    ///
    /// # Errors
    /// Fails with `Compress` if a superchunk could not be compressed.
    ///
    /// # Panics
    /// Panics if a compressor panicked, with the same panic.
    pub fn finish(mut self, last: Last) -> Result<Packed, BatchError<K::Error>> {
        let Batch { mut matching, mut sealed, known, params, new_bytes, limit, .. } = self;
        while let Some(superchunk) = matching.finish(&mut Reach { known, sealed: &mut sealed })? {
            let is_kept = match last {
                _ if !superchunk.short || !matching.is_empty() => true,
                Last::Keep => true,
                Last::KeepIfAlone => sealed.is_empty() && new_bytes >= params.superchunk_size.into(),
                Last::Drop => sealed.is_empty() && new_bytes >= limit,
            };
            if is_kept {
                seal(&params, &mut sealed, &mut self.open_identities, superchunk)?;
            }
        }
        let superchunks = sealed.finish()?;
        let subchunks = superchunks.iter().map(|superchunk| superchunk.subchunks.len() as u64).sum();
        Ok(Packed { superchunks, subchunks, hash: params.hash, anchors: matching.into_anchors() })
    }

    /// Returns the ordinal of the subchunk in this batch with these bytes, or `None`.
    fn own(&mut self, identity: &Identity, bytes: &[u8]) -> Result<Option<u64>, BatchError<K::Error>> {
        let Some(&ordinal) = self.index.get(identity) else { return Ok(None) };
        if self.params.hash == HashKind::Blake3 {
            return Ok(Some(ordinal));
        }
        let equal = self.has_bytes(ordinal, bytes)?;
        Ok(equal.then_some(ordinal))
    }

    /// Returns whether the subchunk in this batch with this ordinal has these bytes. No subchunk is composed then.
    fn has_bytes(&mut self, ordinal: u64, bytes: &[u8]) -> Result<bool, BatchError<K::Error>> {
        let open = self.matching.open();
        let open_first = self.subchunks.saturating_sub(open.subchunks().len() as u64);
        if let Some(number) = ordinal.checked_sub(open_first) {
            return Ok(range_of(open.subchunks(), number).and_then(|range| open.raw().get(range)) == Some(bytes));
        }
        let Some((superchunk, range)) = self.sealed.find(ordinal) else { return Ok(false) };
        let source = self.sealed.source(superchunk)?;
        Ok(source.is_some_and(|source| source.raw.get(range) == Some(bytes)))
    }
}

/// Passes a superchunk to the compressors. It contains the next subchunks, to which the first identities belong.
fn seal(
    params: &Params,
    sealed: &mut SealedSuperchunks<'_>,
    identities: &mut Vec<Identity>,
    superchunk: Superchunk,
) -> Result<(), FormatError> {
    let own = identities.drain(..superchunk.subchunks.len().min(identities.len())).collect();
    sealed.add(superchunk, own, params.needs_earlier_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Known for Nothing {
        type Error = String;

        fn find(&self, _: &Identity, _: &[u8]) -> Result<Option<SubchunkId>, String> {
            Ok(None)
        }
    }

    #[test]
    fn where_identities_prove_nothing_bytes_are_compared_in_the_open_superchunk_and_in_sealed_ones() {
        let params = Params { hash: HashKind::Xxh3, superchunk_size: 1 << 20, ..Params::default() };
        let compression = Compression::Zstd(1);
        let options = BatchOptions { params, compression, compressors: 1, priority: Priority::Normal, limit: 64 << 20 };
        let mut batch = Batch::new(options, &Nothing).unwrap();
        let bytes = |n: u8| vec![n; 100_000];
        for n in 0..30 {
            assert_eq!(batch.add(&bytes(n)).unwrap(), Piece::New(n.into()));
        }
        assert_eq!(batch.sealed.len(), 2);
        // Pretend that they have the identities of others: of a sealed superchunk, and of the open one.
        for (n, other) in [(100, 3), (101, 12), (102, 29)] {
            batch.index.insert(Identity::of(HashKind::Xxh3, &bytes(n)), other);
        }
        assert_eq!([100, 101, 102].map(|n| batch.add(&bytes(n)).unwrap()), [30, 31, 32].map(Piece::New));
        assert_eq!([3, 12, 29, 101].map(|n| batch.add(&bytes(n)).unwrap()), [3, 12, 29, 31].map(Piece::New));
    }
}
