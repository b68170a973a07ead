//! A batch: takes in subchunks, and returns superchunks that are ready to be appended.
//!
//! Each subchunk is looked up in the image and in the batch. A new one goes to the superchunk that is being filled.
//! Full superchunks are compressed by the batch's own threads. Invariants: the result is a function of the input and
//! the options, not of timing or the number of threads. Memory: the raw bytes of at most two superchunks and one for
//! each thread (and one more if identities prove nothing), a context and an output buffer for each thread, and the
//! stored bytes of the batch. Callers: `cut_file`, and `fs`, which appends the result.

use super::compressors::{Compressors, Priority, Ticket, Urgency, affordable};
use super::packed::{Packed, PackedSuperchunk, Piece};
use crate::chunk::Cutter;
use crate::format::FormatError;
use crate::format::clear::Listed;
use crate::format::codec::{Compression, Decoder, Encoded};
use crate::format::ids::SubchunkId;
use crate::format::params::{HashKind, Params};
use crate::format::rows::Identity;
use crate::pack::superchunk::{Filling, Large, Superchunk, is_large};
use std::collections::HashMap;
use std::sync::Arc;
use thiserror::Error;

/// New raw bytes of a batch by default: enough for good compression, and little to lose or to repeat.
pub const DEFAULT_LIMIT: u64 = 64 << 20;
/// A batch is also full if the bytes that it found in the image or in itself are this many times the limit of new
/// bytes. Such bytes are not stored again, but the caller keeps a [`Piece`] in memory for each subchunk of them.
const SHARED_FACTOR: u64 = 16;

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
    Compress(#[source] FormatError),
}

/// A superchunk that takes no more subchunks.
#[derive(Debug)]
struct Sealed {
    first: u64,
    lens: Vec<u32>,
    identities: Vec<Identity>,
    raw_len: u32,
    short: bool,
    stored: Stored,
}

/// The stored bytes of a superchunk that takes no more subchunks. A thread may still be compressing them.
#[derive(Debug)]
enum Stored {
    Awaited(Ticket),
    There(Encoded),
}

/// A batch of new subchunks that are being packed into superchunks.
#[derive(Debug)]
pub struct Batch<'k, K: Known + ?Sized> {
    known: &'k K,
    params: Params,
    limit: u64,
    cutter: Arc<Cutter>,
    compressors: Compressors<'k>,
    open: Filling,
    /// The present file, if it is large; and the number of large files so far.
    large: Option<Large>,
    large_files: Large,
    /// Identities of the subchunks in the superchunk that is being filled.
    open_identities: Vec<Identity>,
    sealed: Vec<Sealed>,
    /// Ordinal of each new subchunk, by identity.
    index: HashMap<Identity, u64>,
    subchunks: u64,
    new_bytes: u64,
    shared_bytes: u64,
    /// Number of the batch's superchunk that was compared last, and its raw bytes.
    compared: Option<(usize, Vec<u8>)>,
}

impl<'k, K: Known + ?Sized> Batch<'k, K> {
    /// Makes an empty batch and starts its threads.
    ///
    /// # Errors
    /// Fails with `Thread` if a thread cannot be started.
    pub fn new(options: BatchOptions, known: &'k K) -> Result<Self, BatchError<K::Error>> {
        let BatchOptions { params, compression, compressors, priority, limit } = options;
        let compressors = Compressors::start(
            affordable(compressors, compression, params.superchunk_size),
            priority,
            compression,
            params.part_size,
        );
        Ok(Batch {
            known,
            limit,
            cutter: Arc::new(Cutter::new(&params)),
            compressors: compressors.map_err(BatchError::Thread)?,
            open: Filling::new(params),
            large: None,
            large_files: 0,
            params,
            open_identities: Vec::new(),
            sealed: Vec::new(),
            index: HashMap::new(),
            subchunks: 0,
            new_bytes: 0,
            shared_bytes: 0,
            compared: None,
        })
    }

    /// Sets when work is urgent: then a second set of threads at normal priority takes over what threads at a lower
    /// priority have not finished.
    pub fn set_urgency(&mut self, urgency: Urgency<'k>) {
        self.compressors.set_urgency(urgency);
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
        let there = |sealed: &Sealed| match &sealed.stored {
            Stored::There(encoded) => encoded.stored.len() as u64,
            Stored::Awaited(_) => 0,
        };
        self.sealed.iter().map(there).sum()
    }

    /// Returns whether the batch should be finished before it takes more.
    pub fn is_full(&self) -> bool {
        self.new_bytes >= self.limit || self.shared_bytes >= self.limit.saturating_mul(SHARED_FACTOR)
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
        if let Some(complete) = self.open.make_room(bytes.len()) {
            self.seal(complete)?;
        }
        let ordinal = self.subchunks;
        self.open.push(SubchunkId(ordinal), bytes, self.large);
        self.open_identities.push(identity);
        self.index.insert(identity, ordinal);
        self.subchunks = self.subchunks.saturating_add(1);
        self.new_bytes = self.new_bytes.saturating_add(bytes.len() as u64);
        Ok(Piece::New(ordinal))
    }

    /// Passes the last superchunk to the compressors, and waits for all results. Without `keep_last`, the last
    /// superchunk is left out unless it is full: a later batch packs its contents into a full one.
    ///
    /// # Errors
    /// Fails with `Compress` if a superchunk could not be compressed.
    ///
    /// # Panics
    /// Panics if a compressor panicked, with the same panic.
    pub fn finish(mut self, keep_last: bool) -> Result<Packed, BatchError<K::Error>> {
        if let Some(last) = self.open.take()
            && (keep_last || !last.short)
        {
            self.seal(last)?;
        }
        let mut superchunks = Vec::with_capacity(self.sealed.len());
        for sealed in std::mem::take(&mut self.sealed) {
            let Sealed { first, lens, identities, raw_len, short, stored } = sealed;
            let encoded = match stored {
                Stored::There(encoded) => encoded,
                Stored::Awaited(ticket) => receive(&mut self.compressors, ticket)?,
            };
            superchunks.push(PackedSuperchunk { first, lens, identities, encoded, raw_len, short });
        }
        self.compressors.end();
        let subchunks = superchunks.iter().map(|superchunk| superchunk.lens.len() as u64).sum();
        Ok(Packed { superchunks, subchunks, hash: self.params.hash })
    }

    /// Passes a superchunk to the compressors. It contains the last subchunks that were added.
    fn seal(&mut self, superchunk: Superchunk) -> Result<(), BatchError<K::Error>> {
        let Superchunk { raw, subchunks, short, in_parts, .. } = superchunk;
        let lens = lens(&subchunks);
        let raw_len = raw.len() as u32;
        let first = self.subchunks.saturating_sub(lens.len() as u64);
        let identities = std::mem::take(&mut self.open_identities);
        self.take_what_is_there()?;
        let stored = Stored::Awaited(self.compressors.send(Arc::new(raw), in_parts));
        self.sealed.push(Sealed { first, lens, identities, raw_len, short, stored });
        self.take_what_is_there()
    }

    /// Collects the superchunks that are compressed by now, so that errors and figures are known early, and raw bytes
    /// are freed.
    fn take_what_is_there(&mut self) -> Result<(), BatchError<K::Error>> {
        for sealed in &mut self.sealed {
            if let Stored::Awaited(ticket) = sealed.stored
                && let Some(encoded) = self.compressors.try_receive(ticket)
            {
                sealed.stored = Stored::There(encoded.map_err(BatchError::Compress)?);
            }
        }
        Ok(())
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

    /// Returns whether the subchunk in this batch with this ordinal has these bytes.
    fn has_bytes(&mut self, ordinal: u64, bytes: &[u8]) -> Result<bool, BatchError<K::Error>> {
        let after = self.sealed.partition_point(|sealed| sealed.first <= ordinal);
        let open_first = self.subchunks.saturating_sub(self.open.subchunks().len() as u64);
        if ordinal >= open_first {
            return Ok(part(self.open.raw(), &lens(self.open.subchunks()), ordinal - open_first) == Some(bytes));
        }
        let Some(number) = after.checked_sub(1) else { return Ok(false) };
        if self.compared.as_ref().is_none_or(|(other, _)| *other != number) {
            // Keep only one: free the previous one's bytes first.
            self.compared = None;
            let raw = self.decode(number)?;
            self.compared = Some((number, raw));
        }
        let (Some(sealed), Some((_, raw))) = (self.sealed.get(number), &self.compared) else { return Ok(false) };
        Ok(part(raw, &sealed.lens, ordinal.saturating_sub(sealed.first)) == Some(bytes))
    }

    /// Returns the raw bytes of a superchunk that takes no more subchunks, decoded from its stored bytes.
    fn decode(&mut self, number: usize) -> Result<Vec<u8>, BatchError<K::Error>> {
        let mut raw = Vec::new();
        let Some(sealed) = self.sealed.get_mut(number) else { return Ok(raw) };
        if let Stored::Awaited(ticket) = sealed.stored {
            sealed.stored = Stored::There(receive(&mut self.compressors, ticket)?);
        }
        if let Stored::There(encoded) = &sealed.stored {
            let Encoded { codec, flags, stored, .. } = encoded;
            let decoded = Decoder::new().decode(*codec, *flags, stored, sealed.raw_len, None, &mut raw);
            decoded.map_err(BatchError::Compress)?;
        }
        Ok(raw)
    }
}

/// Waits for stored bytes. If a thread ended without sending them, its panic continues here.
fn receive<E>(compressors: &mut Compressors<'_>, ticket: Ticket) -> Result<Encoded, BatchError<E>> {
    let stopped = FormatError::Decode { what: "superchunk", why: "its thread has stopped".into() };
    compressors.receive(ticket).unwrap_or(Err(stopped)).map_err(BatchError::Compress)
}

/// Returns the length of each subchunk.
fn lens(subchunks: &[Listed]) -> Vec<u32> {
    subchunks.iter().map(|listed| listed.len).collect()
}

/// Returns the bytes of subchunk number `n` of a superchunk.
fn part<'a>(raw: &'a [u8], lens: &[u32], n: u64) -> Option<&'a [u8]> {
    let n = usize::try_from(n).ok()?;
    let len = *lens.get(n)? as usize;
    let at: usize = lens.iter().take(n).map(|&len| len as usize).sum();
    raw.get(at..at.checked_add(len)?)
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
