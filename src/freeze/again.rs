//! Compresses superchunks again that exist already, by the threads that compress those of a batch.
//!
//! Only results that are small enough are kept. Memory: the raw bytes of one superchunk for each thread and two more, a
//! context for each thread, and the stored bytes that are kept. Called by `fs`.

use super::batch::{BatchError, BatchOptions};
use super::compressors::{Compressors, Ticket, Urgency, affordable};
use crate::format::FormatError;
use crate::format::codec::Encoded;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

/// Superchunks that are being compressed again.
#[derive(Debug)]
pub struct Again<'k> {
    compressors: Compressors<'k>,
    /// By number, the superchunks that are not compressed yet, and the most stored bytes with which a result is kept.
    awaited: BTreeMap<u64, (Ticket, usize)>,
    /// By number, the stored bytes of the superchunks whose results are kept.
    kept: BTreeMap<u64, Encoded>,
}

impl<'k> Again<'k> {
    /// Starts the threads that compress. The `limit` in `options` is ignored.
    ///
    /// # Errors
    /// Fails with `Thread` if a thread cannot be started.
    pub fn new(options: &BatchOptions, urgency: Urgency<'k>) -> Result<Self, BatchError<Infallible>> {
        let BatchOptions { params, compression, compressors, priority, .. } = *options;
        let count = affordable(compressors, compression, params.superchunk_size, 0);
        let compressors = Compressors::start(count, priority, compression, params.part_size);
        let mut compressors = compressors.map_err(BatchError::Thread)?;
        compressors.set_urgency(urgency);
        Ok(Again { compressors, awaited: BTreeMap::new(), kept: BTreeMap::new() })
    }

    /// Compresses a superchunk, which the caller numbers, in parts or not. Its result is kept if it has at most `most` stored bytes. Waits
    /// if the compressors are busy.
    ///
    /// # Errors
    /// Fails with `Compress` if an earlier superchunk could not be compressed.
    ///
    /// # Panics
    /// Panics if a compressor panicked, with the same panic.
    pub fn add(
        &mut self,
        number: u64,
        raw: Vec<u8>,
        in_parts: bool,
        most: usize,
    ) -> Result<(), BatchError<Infallible>> {
        let ticket = self.compressors.send(Arc::new(raw), in_parts);
        self.awaited.insert(number, (ticket, most));
        let (compressors, kept) = (&mut self.compressors, &mut self.kept);
        let mut done = Ok(());
        self.awaited.retain(|&number, &mut (ticket, most)| {
            let Some(encoded) = compressors.try_receive(ticket) else { return true };
            if let Err(error) = keep(kept, number, most, encoded) {
                done = Err(error);
            }
            false
        });
        done
    }

    /// Waits until all superchunks are compressed. Returns the results that are kept, by number.
    ///
    /// # Errors
    /// Fails with `Compress` if a superchunk could not be compressed.
    ///
    /// # Panics
    /// Panics if a compressor panicked, with the same panic.
    pub fn finish(mut self) -> Result<BTreeMap<u64, Encoded>, BatchError<Infallible>> {
        for (number, (ticket, most)) in std::mem::take(&mut self.awaited) {
            let stopped = FormatError::Decode { what: "superchunk", why: "its thread has stopped".into() };
            keep(&mut self.kept, number, most, self.compressors.receive(ticket).unwrap_or(Err(stopped)))?;
        }
        self.compressors.end();
        Ok(std::mem::take(&mut self.kept))
    }
}

/// Adds a compressed superchunk to `kept` if it has at most `most` stored bytes.
fn keep(
    kept: &mut BTreeMap<u64, Encoded>,
    number: u64,
    most: usize,
    encoded: Result<Encoded, FormatError>,
) -> Result<(), BatchError<Infallible>> {
    let encoded = encoded.map_err(BatchError::Compress)?;
    if encoded.stored.len() <= most {
        kept.insert(number, encoded);
    }
    Ok(())
}
