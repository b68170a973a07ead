//! The superchunks of a batch that take no more subchunks: they are being compressed, or are compressed.
//!
//! The batch needs the raw bytes of some of them again, to search new data in them or to compare bytes. The last ones
//! used stay in memory, up to a bound, together with those that the image gave. The others are decoded from their
//! stored bytes. Superchunks and subchunks have provisional ids (see `packed`). Called by the batch.

use super::compressors::{Compressors, Ticket};
use super::packed::PackedSuperchunk;
use crate::format::FormatError;
use crate::format::clear::{ClearList, Listed};
use crate::format::codec::{Decoder, Encoded};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::Recipe;
use crate::format::rows::Identity;
use crate::pack::matching::{PROVISIONAL, Recent, Source};
use crate::pack::superchunk::Superchunk;
use std::ops::Range;
use std::sync::Arc;

/// A superchunk that takes no more subchunks.
#[derive(Debug)]
struct Sealed {
    /// Ordinal of its first subchunk.
    first: u64,
    list: ClearList,
    recipes: Vec<(SubchunkId, Recipe)>,
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

/// The superchunks of a batch that take no more subchunks, and the threads that compress them.
#[derive(Debug)]
pub(super) struct SealedSuperchunks<'k> {
    pub(super) compressors: Compressors<'k>,
    sealed: Vec<Sealed>,
    recent: Recent,
}

impl<'k> SealedSuperchunks<'k> {
    /// Makes an empty list. At most `most` raw bytes of superchunks, or one superchunk, are kept for later use.
    pub(super) fn new(compressors: Compressors<'k>, most: usize) -> Self {
        SealedSuperchunks { compressors, sealed: Vec::new(), recent: Recent::new(most) }
    }

    /// Returns whether there is no superchunk.
    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Returns the number of superchunks.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sealed.len()
    }

    /// Returns the superchunks in memory.
    pub(super) fn recent(&mut self) -> &mut Recent {
        &mut self.recent
    }

    /// Returns the stored bytes of the superchunks that are compressed so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        let there = |sealed: &Sealed| match &sealed.stored {
            Stored::There(encoded) => encoded.stored.len() as u64,
            Stored::Awaited(_) => 0,
        };
        self.sealed.iter().map(there).sum()
    }

    /// Passes a superchunk to the compressors, with the identities of its subchunks. With `is_needed`, its raw bytes may be
    /// needed again.
    ///
    /// # Errors
    /// Fails if an earlier superchunk could not be compressed.
    pub(super) fn add(
        &mut self,
        superchunk: Superchunk,
        identities: Vec<Identity>,
        is_needed: bool,
    ) -> Result<(), FormatError> {
        let Superchunk { raw, subchunks, recipes, short, in_parts, .. } = superchunk;
        let (raw_len, raw) = (raw.len() as u32, Arc::new(raw));
        let first = self.sealed.last().map_or(0, |last| last.first.saturating_add(last.list.subchunks.len() as u64));
        let list = ClearList { superchunk: provisional(self.sealed.len()), subchunks };
        if is_needed {
            self.recent.keep(Source::new(&list, Arc::clone(&raw)));
        }
        self.take_what_is_there()?;
        let stored = Stored::Awaited(self.compressors.send(raw, in_parts));
        self.sealed.push(Sealed { first, list, recipes, identities, raw_len, short, stored });
        self.take_what_is_there()
    }

    /// Collects the superchunks that are compressed by now, so that errors and figures are known early, and raw bytes
    /// are freed.
    fn take_what_is_there(&mut self) -> Result<(), FormatError> {
        for sealed in &mut self.sealed {
            if let Stored::Awaited(ticket) = sealed.stored
                && let Some(encoded) = self.compressors.try_receive(ticket)
            {
                sealed.stored = Stored::There(encoded?);
            }
        }
        Ok(())
    }

    /// Waits for all results.
    ///
    /// # Errors
    /// Fails if a superchunk could not be compressed.
    pub(super) fn finish(mut self) -> Result<Vec<PackedSuperchunk>, FormatError> {
        let mut superchunks = Vec::with_capacity(self.sealed.len());
        for sealed in std::mem::take(&mut self.sealed) {
            let Sealed { first, list, recipes, identities, raw_len, short, stored } = sealed;
            let encoded = match stored {
                Stored::There(encoded) => encoded,
                Stored::Awaited(ticket) => receive(&mut self.compressors, ticket)?,
            };
            let subchunks = list.subchunks;
            superchunks.push(PackedSuperchunk { first, subchunks, recipes, identities, encoded, raw_len, short });
        }
        self.compressors.end();
        Ok(superchunks)
    }

    /// Returns a superchunk of this batch, or `None` if it has no superchunk with this provisional id.
    ///
    /// # Errors
    /// Fails if the superchunk could not be compressed.
    pub(super) fn source(&mut self, id: SuperchunkId) -> Result<Option<Source>, FormatError> {
        if let Some(source) = self.recent.take(id) {
            return Ok(Some(source));
        }
        let number = id.0.checked_sub(PROVISIONAL.0).and_then(|number| usize::try_from(number).ok());
        let Some(sealed) = number.and_then(|number| self.sealed.get_mut(number)) else { return Ok(None) };
        if let Stored::Awaited(ticket) = sealed.stored {
            sealed.stored = Stored::There(receive(&mut self.compressors, ticket)?);
        }
        let mut raw = Vec::new();
        if let Stored::There(Encoded { codec, flags, stored, .. }) = &sealed.stored {
            Decoder::new().decode(*codec, *flags, stored, sealed.raw_len, None, &mut raw)?;
        }
        let source = Source::new(&sealed.list, Arc::new(raw));
        self.recent.keep(source.clone());
        Ok(Some(source))
    }

    /// Returns the superchunk of this batch with the subchunk of this ordinal, and the subchunk's range in its raw bytes.
    pub(super) fn find(&self, ordinal: u64) -> Option<(SuperchunkId, Range<usize>)> {
        let after = self.sealed.partition_point(|sealed| sealed.first <= ordinal);
        let sealed = self.sealed.get(after.checked_sub(1)?)?;
        Some((sealed.list.superchunk, range_of(&sealed.list.subchunks, ordinal.saturating_sub(sealed.first))?))
    }
}

/// Returns the provisional id of the batch's superchunk with this number.
fn provisional(number: usize) -> SuperchunkId {
    SuperchunkId(PROVISIONAL.0.saturating_add(number as u64))
}

/// Returns the range of the stored part of the subchunk with this number in a superchunk's raw bytes.
pub(super) fn range_of(subchunks: &[Listed], number: u64) -> Option<Range<usize>> {
    let number = usize::try_from(number).ok()?;
    let len = subchunks.get(number)?.len as usize;
    let begin: usize = subchunks.iter().take(number).map(|listed| listed.len as usize).sum();
    Some(begin..begin.checked_add(len)?)
}

/// Waits for stored bytes. If a thread ended without sending them, its panic continues here.
fn receive(compressors: &mut Compressors<'_>, ticket: Ticket) -> Result<Encoded, FormatError> {
    let stopped = FormatError::Decode { what: "superchunk", why: "its thread has stopped".into() };
    compressors.receive(ticket).unwrap_or(Err(stopped))
}
