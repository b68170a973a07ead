//! Comparing bytes before two subchunks are taken for one, where identity proves nothing (XXH3-128).
//!
//! The bytes of earlier subchunks are in superchunks still in memory, or are read back from the image being written. That
//! bounds memory, and costs an inflation for each superchunk not met lately.

use super::{PackError, PackOptions};
use crate::format::codec::Decoder;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::params::HashKind;
use crate::format::place::Place;
use crate::log::LogReader;
use crate::storage::{FileStorage, Storage};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Superchunks read back and kept, besides those that may not be appended yet.
const KEPT: usize = 8;

/// Where appended superchunks lie; empty unless bytes are compared.
#[derive(Default)]
pub(super) struct Places(Option<Mutex<HashMap<SuperchunkId, Place>>>);

impl Places {
    pub(super) fn new(options: &PackOptions) -> Self {
        Places((options.params.hash == HashKind::Xxh3).then(Mutex::default))
    }

    pub(super) fn add(&self, id: SuperchunkId, place: Place) {
        if let Some(places) = &self.0 {
            places.lock().insert(id, place);
        }
    }
}

/// Compares; does nothing and keeps nothing where identities prove equality.
pub(super) struct Compare<'a> {
    places: &'a Places,
    storage: Arc<FileStorage>,
    /// Superchunk and range of each subchunk, by id - 1.
    ranges: Vec<(SuperchunkId, u32, u32)>,
    recent: VecDeque<(SuperchunkId, Arc<Vec<u8>>)>,
    in_flight: usize,
    decoder: Decoder,
}

impl<'a> Compare<'a> {
    /// `in_flight`: how many superchunks may be sealed and not yet appended.
    pub(super) fn new(places: &'a Places, storage: Arc<FileStorage>, in_flight: usize) -> Self {
        let (ranges, recent) = (Vec::new(), VecDeque::new());
        Compare { places, storage, ranges, recent, in_flight, decoder: Decoder::new() }
    }

    /// Whether anything is to be compared.
    pub(super) fn needed(&self) -> bool {
        self.places.0.is_some()
    }

    /// Notes where the next subchunk lies.
    pub(super) fn add(&mut self, superchunk: SuperchunkId, position: u32, len: u32) {
        if self.needed() {
            self.ranges.push((superchunk, position, len));
        }
    }

    /// Keeps a superchunk that was just sealed.
    pub(super) fn sealed(&mut self, id: SuperchunkId, raw: &Arc<Vec<u8>>) {
        if self.needed() {
            self.keep(id, raw.clone());
        }
    }

    fn keep(&mut self, id: SuperchunkId, raw: Arc<Vec<u8>>) {
        self.recent.push_back((id, raw));
        if self.recent.len() > self.in_flight + KEPT {
            self.recent.pop_front();
        }
    }

    /// Whether subchunk `id` has these bytes. `open` is the superchunk that is being filled.
    pub(super) fn equal(
        &mut self,
        id: SubchunkId,
        bytes: &[u8],
        open: (SuperchunkId, &[u8]),
        log_id: u64,
    ) -> Result<bool, PackError> {
        let Some(&(superchunk, position, len)) = self.ranges.get(id.0 as usize - 1) else {
            return Ok(false);
        };
        let range = position as usize..position as usize + len as usize;
        if superchunk == open.0 {
            return Ok(open.1.get(range) == Some(bytes));
        }
        let raw = match self.recent.iter().find(|(id, _)| *id == superchunk) {
            Some((_, raw)) => raw.clone(),
            None => {
                let raw = Arc::new(self.read_back(superchunk, log_id)?);
                self.keep(superchunk, raw.clone());
                raw
            }
        };
        Ok(raw.get(range) == Some(bytes))
    }

    fn read_back(&mut self, id: SuperchunkId, log_id: u64) -> Result<Vec<u8>, PackError> {
        let place = self.places.0.as_ref().and_then(|places| places.lock().get(&id).copied());
        // It left the recent ones only after more were sealed than can be in flight, so it is appended; if appending has
        // stopped, that error is the one that counts.
        let place = place.ok_or(PackError::Stopped)?;
        let at = |source| PackError::log(self.storage.path(), source);
        let end = self.storage.len().map_err(|source| PackError::image(self.storage.path(), source))?;
        let log = LogReader::new(self.storage.clone(), log_id, end).map_err(at)?;
        let mut stored = Vec::new();
        log.stored(&place, &mut stored).map_err(at)?;
        let mut raw = Vec::new();
        self.decoder.decode(place.codec, place.flags, &stored, place.raw_len, None, &mut raw)?;
        Ok(raw)
    }
}
