//! Compares bytes before two subchunks are taken for equal, for hashes that prove nothing (XXH3-128).
//!
//! The bytes of earlier subchunks are in superchunks that are not appended yet, which are kept until they are appended,
//! or they are read back from the image being written. The stages' queues bound the former, [`KEPT`] the latter.

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

/// Number of appended superchunks that are kept in memory: the last ones appended or read back.
const KEPT: usize = 8;

/// Places of appended superchunks; empty unless bytes are compared.
#[derive(Default)]
pub(super) struct Places(Option<Mutex<HashMap<SuperchunkId, Place>>>);

impl Places {
    pub(super) fn new(options: &PackOptions) -> Self {
        Places((options.params.hash == HashKind::Xxh3).then(Mutex::default))
    }

    /// Makes an empty value for callers that take equal identities for equal bytes, whatever the hash proves.
    pub(super) fn none() -> Self {
        Places(None)
    }

    pub(super) fn add(&self, id: SuperchunkId, place: Place) {
        if let Some(places) = &self.0 {
            places.lock().insert(id, place);
        }
    }

    fn of(&self, id: SuperchunkId) -> Option<Place> {
        self.0.as_ref().and_then(|places| places.lock().get(&id).copied())
    }
}

/// Compares the bytes of subchunks with equal identities. Does nothing and keeps nothing if identities prove equality.
pub(super) struct Compare<'a> {
    places: &'a Places,
    /// Storage of the appended superchunks; `None` if identities prove equality.
    storage: Option<Arc<FileStorage>>,
    /// Superchunk and range of each subchunk, by id - 1.
    ranges: Vec<(SuperchunkId, u32, u32)>,
    /// Superchunks that take no more subchunks and are not known to be appended, by ascending id. They can be read
    /// nowhere else.
    sealed: VecDeque<Inflated>,
    /// Appended superchunks, the most recently used last.
    recent: VecDeque<Inflated>,
    decoder: Decoder,
}

/// Id and raw bytes of a superchunk.
type Inflated = (SuperchunkId, Arc<Vec<u8>>);

impl<'a> Compare<'a> {
    /// Makes a comparer that reads superchunks from `storage`, at the places noted in `places`.
    pub(super) fn new(places: &'a Places, storage: Option<Arc<FileStorage>>) -> Self {
        let (ranges, sealed, recent) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Compare { places, storage, ranges, sealed, recent, decoder: Decoder::new() }
    }

    /// Returns whether bytes must be compared.
    pub(super) fn needed(&self) -> bool {
        self.places.0.is_some()
    }

    /// Records where the next subchunk is: its superchunk, position and length in bytes.
    pub(super) fn add(&mut self, superchunk: SuperchunkId, position: u32, len: u32) {
        if self.needed() {
            self.ranges.push((superchunk, position, len));
        }
    }

    /// Keeps the raw bytes of a superchunk that takes no more subchunks, until it is appended.
    pub(super) fn sealed(&mut self, id: SuperchunkId, raw: &Arc<Vec<u8>>) {
        if !self.needed() {
            return;
        }
        self.sealed.push_back((id, raw.clone()));
        // Superchunks are appended in the order in which they were sealed.
        while let Some((first, _)) = self.sealed.front()
            && self.places.of(*first).is_some()
            && let Some((id, raw)) = self.sealed.pop_front()
        {
            self.keep(id, raw);
        }
    }

    fn keep(&mut self, id: SuperchunkId, raw: Arc<Vec<u8>>) {
        self.recent.push_back((id, raw));
        if self.recent.len() > KEPT {
            self.recent.pop_front();
        }
    }

    /// Returns the raw bytes of a superchunk that takes no more subchunks.
    fn raw(&mut self, id: SuperchunkId, log_id: u64) -> Result<Arc<Vec<u8>>, PackError> {
        if let Ok(at) = self.sealed.binary_search_by_key(&id, |(id, _)| *id) {
            return Ok(self.sealed[at].1.clone());
        }
        let raw = match self.recent.iter().position(|(recent, _)| *recent == id).and_then(|at| self.recent.remove(at)) {
            Some((_, raw)) => raw,
            None => Arc::new(self.read_back(id, log_id)?),
        };
        self.keep(id, raw.clone());
        Ok(raw)
    }

    /// Returns whether subchunk `id` has these bytes. `open` holds the raw bytes of the superchunk that is being
    /// filled.
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
        let raw = self.raw(superchunk, log_id)?;
        Ok(raw.get(range) == Some(bytes))
    }

    fn read_back(&mut self, id: SuperchunkId, log_id: u64) -> Result<Vec<u8>, PackError> {
        // Only appended superchunks are dropped from memory.
        let (Some(place), Some(storage)) = (self.places.of(id), &self.storage) else { return Err(PackError::Stopped) };
        let at = |source| PackError::log(storage.path(), source);
        let end = storage.len().map_err(|source| PackError::image(storage.path(), source))?;
        let log = LogReader::new(storage.clone(), log_id, end).map_err(at)?;
        let mut stored = Vec::new();
        log.stored(&place, &mut stored).map_err(at)?;
        let mut raw = Vec::new();
        self.decoder.decode(place.codec, place.flags, &stored, place.raw_len, None, &mut raw)?;
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::clear::{ClearList, Listed};
    use crate::format::codec::{Compression, Encoder};
    use crate::format::frame::FrameKind;
    use crate::log::{LogWriter, NewFrame};
    use crate::pack::append::begin_log;
    use crate::storage::Access;

    const LOG_ID: u64 = 7;

    struct Bench {
        log: LogWriter,
        places: Places,
        storage: Arc<FileStorage>,
    }

    fn raw(id: u64) -> Arc<Vec<u8>> {
        Arc::new(vec![id as u8; 100])
    }

    impl Bench {
        fn new(dir: &std::path::Path) -> Self {
            let path = dir.join("image");
            std::fs::write(&path, b"").unwrap();
            let storage = Arc::new(FileStorage::open(&path, Access::ReadWrite).unwrap());
            let params = crate::format::params::Params { hash: HashKind::Xxh3, ..Default::default() };
            let places = Places::new(&PackOptions { params, ..PackOptions::default() });
            Bench { log: begin_log(storage.clone(), LOG_ID).unwrap(), places, storage }
        }

        fn append(&mut self, id: u64) {
            let encoded = Encoder::new(Compression::Zstd(1), None).encode(&raw(id)).unwrap();
            let subchunks = vec![Listed::whole(SubchunkId(id), 100)];
            let clear = ClearList { superchunk: SuperchunkId(id), subchunks }.encode();
            let frame = NewFrame {
                kind: FrameKind::SUPERCHUNK,
                codec: encoded.codec,
                flags: encoded.flags,
                clear: &clear,
                stored: &encoded.stored,
                raw_len: 100,
                sum: encoded.sum,
            };
            let place = self.log.append(frame).unwrap();
            self.places.add(SuperchunkId(id), place);
        }
    }

    /// Superchunks of one subchunk each; subchunk and superchunk have the same id.
    fn seal(compare: &mut Compare<'_>, ids: std::ops::RangeInclusive<u64>) {
        for id in ids {
            compare.add(SuperchunkId(id), 0, 100);
            compare.sealed(SuperchunkId(id), &raw(id));
        }
    }

    fn has_its_bytes(compare: &mut Compare<'_>, id: u64) -> bool {
        compare.equal(SubchunkId(id), &raw(id), (SuperchunkId(0), &[]), LOG_ID).unwrap()
    }

    #[test]
    fn what_is_not_appended_stays_comparable_however_much_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(dir.path());
        (1..=40).for_each(|id| bench.append(id));
        let (places, storage) = (&bench.places, Some(bench.storage.clone()));
        let mut compare = Compare::new(places, storage);
        seal(&mut compare, 1..=43);
        for _ in 0..2 {
            assert!((1..=43).all(|id| has_its_bytes(&mut compare, id)));
        }
        assert!(!compare.equal(SubchunkId(42), &raw(41), (SuperchunkId(0), &[]), LOG_ID).unwrap());
        assert_eq!((compare.sealed.len(), compare.recent.len()), (3, KEPT));
    }

    #[test]
    fn what_is_appended_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(dir.path());
        (1..=60).for_each(|id| bench.append(id));
        let mut compare = Compare::new(&bench.places, Some(bench.storage.clone()));
        seal(&mut compare, 1..=60);
        assert_eq!((compare.sealed.len(), compare.recent.len()), (0, KEPT));
    }
}
