//! The superchunks that were filled so far, for those who need their bytes again: matching, and comparing bytes.
//!
//! What is not appended yet is kept, because it can be read nowhere else; the stages' queues bound how much that is.
//! The rest is read back from the image that is being written, or from a temporary file if there is no image. The last
//! ones used stay in memory, up to a bound. Called by the filler.

use super::matching::{Recent, Source, Sources};
use super::{PackError, PackOptions};
use crate::chunk::unlinked_file;
use crate::format::clear::ClearList;
use crate::format::codec::{Compression, Decoder, Encoded, Encoder};
use crate::format::ids::SuperchunkId;
use crate::format::params::Params;
use crate::format::place::Place;
use crate::log::LogReader;
use crate::storage::{FileStorage, Storage};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Least and most bytes of superchunks in memory that can be read back; between these, the sources of two superchunks. But the sources of one always have room.
const CACHE: (usize, usize) = (128 << 20, 256 << 20);
/// The codec of the temporary file: fast, and good enough to need a fraction of the disk.
const SPOOL: Compression = Compression::Zstd(1);

fn cache_bytes(params: &Params) -> usize {
    let sources = usize::from(params.max_sources) * params.superchunk_size as usize;
    (2 * sources).clamp(CACHE.0, CACHE.1).max(sources)
}

/// Returns the most bytes of memory that superchunks take with these parameters, without those that are not appended.
pub(super) fn memory(params: &Params) -> u64 {
    if params.needs_earlier_bytes() { cache_bytes(params) as u64 } else { 0 }
}

/// Places of appended superchunks, by id; nothing is recorded if none is needed again.
#[derive(Default)]
pub(super) struct Places(Option<Mutex<Vec<Place>>>);

impl Places {
    pub(super) fn new(options: &PackOptions) -> Self {
        Places(options.params.needs_earlier_bytes().then(Mutex::default))
    }

    /// Records where the next superchunk is.
    pub(super) fn add(&self, place: Place) {
        if let Some(places) = &self.0 {
            places.lock().push(place);
        }
    }

    fn of(&self, id: SuperchunkId) -> Option<Place> {
        let places = self.0.as_ref()?.lock();
        places.get(usize::try_from(id.0.checked_sub(1)?).ok()?).copied()
    }
}

/// Where superchunks are read back from.
pub(super) enum Back<'a> {
    /// The image being written, and where superchunks are in it.
    Image(Arc<FileStorage>, &'a Places),
    /// A temporary file, for where there is no image.
    Spool(Spool),
}

/// Superchunks in a temporary file without a name.
pub(super) struct Spool {
    dir: PathBuf,
    file: File,
    encoder: Encoder,
    /// Offset of each superchunk in the file, its clear list, and how it is stored.
    superchunks: Vec<(u64, Vec<u8>, u32, Encoded, usize)>,
    end: u64,
}

/// The superchunks that were filled so far.
pub(super) struct Stored<'a> {
    back: Back<'a>,
    log_id: u64,
    is_needed: bool,
    /// Superchunks not known to be appended, ascending.
    sealed: VecDeque<Source>,
    /// Superchunks that can be read back.
    recent: Recent,
    decoder: Decoder,
}

impl Spool {
    /// Makes an empty temporary file in `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self, PackError> {
        let file = unlinked_file(dir).map_err(|source| PackError::Spill { dir: dir.to_owned(), source })?;
        let encoder = Encoder::new(SPOOL, None);
        Ok(Spool { dir: dir.to_owned(), file, encoder, superchunks: Vec::new(), end: 0 })
    }

    fn add(&mut self, source: &Source, list: &ClearList) -> Result<(), PackError> {
        let mut encoded = self.encoder.encode(&source.raw)?;
        let stored = std::mem::take(&mut encoded.stored);
        self.file.write_all_at(&stored, self.end).map_err(|source| self.failed(source))?;
        self.superchunks.push((self.end, list.encode(), source.raw.len() as u32, encoded, stored.len()));
        self.end += stored.len() as u64;
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> PackError {
        PackError::Spill { dir: self.dir.clone(), source }
    }

    fn read(&self, id: SuperchunkId, decoder: &mut Decoder) -> Result<Source, PackError> {
        let number = (id.0 as usize).wrapping_sub(1);
        let (offset, list, raw_len, how, len) = self.superchunks.get(number).ok_or(PackError::Stopped)?;
        let mut stored = vec![0; *len];
        self.file.read_exact_at(&mut stored, *offset).map_err(|source| self.failed(source))?;
        let mut raw = Vec::new();
        decoder.decode(how.codec, how.flags, &stored, *raw_len, None, &mut raw)?;
        Ok(Source::new(&ClearList::decode(list, *raw_len)?, Arc::new(raw)))
    }
}

impl<'a> Stored<'a> {
    /// Makes an empty value for an image with these options.
    pub(super) fn new(back: Back<'a>, options: &PackOptions) -> Self {
        Stored {
            back,
            log_id: 0,
            is_needed: options.params.needs_earlier_bytes(),
            sealed: VecDeque::new(),
            recent: Recent::new(cache_bytes(&options.params)),
            decoder: Decoder::new(),
        }
    }

    /// Adds a superchunk that was just filled. `log_id` is the id of the log that it will be appended to.
    ///
    /// # Errors
    /// Fails if the temporary file cannot be written.
    pub(super) fn add(&mut self, list: &ClearList, raw: &Arc<Vec<u8>>, log_id: u64) -> Result<(), PackError> {
        if !self.is_needed {
            return Ok(());
        }
        self.log_id = log_id;
        let source = Source::new(list, raw.clone());
        match &mut self.back {
            Back::Spool(spool) => {
                spool.add(&source, list)?;
                self.recent.keep(source);
            }
            Back::Image(_, places) => {
                let places = *places;
                self.sealed.push_back(source);
                // Superchunks are appended in the order in which they were filled.
                while self.sealed.front().is_some_and(|first| places.of(first.id).is_some())
                    && let Some(first) = self.sealed.pop_front()
                {
                    self.recent.keep(first);
                }
            }
        }
        Ok(())
    }

    fn read_back(&mut self, id: SuperchunkId) -> Result<Source, PackError> {
        let (storage, places) = match &self.back {
            Back::Spool(spool) => return spool.read(id, &mut self.decoder),
            Back::Image(storage, places) => (storage, places),
        };
        // Only appended superchunks are dropped from memory.
        let Some(place) = places.of(id) else { return Err(PackError::Stopped) };
        let at = |source| PackError::log(storage.path(), source);
        let end = storage.len().map_err(|source| PackError::image(storage.path(), source))?;
        let log = LogReader::new(storage.clone(), self.log_id, end).map_err(at)?;
        let clear = log.clear_part(&log.header(place.offset).map_err(at)?).map_err(at)?;
        let (mut stored, mut raw) = (Vec::new(), Vec::new());
        log.stored(&place, &mut stored).map_err(at)?;
        self.decoder.decode(place.codec, place.flags, &stored, place.raw_len, None, &mut raw)?;
        Ok(Source::new(&ClearList::decode(&clear, place.raw_len)?, Arc::new(raw)))
    }
}

impl Sources for Stored<'_> {
    type Error = PackError;

    fn source(&mut self, id: SuperchunkId) -> Result<Option<Source>, PackError> {
        if let Ok(at) = self.sealed.binary_search_by_key(&id, |source| source.id) {
            return Ok(Some(self.sealed[at].clone()));
        }
        if let Some(source) = self.recent.take(id) {
            return Ok(Some(source));
        }
        let source = self.read_back(id)?;
        self.recent.keep(source.clone());
        Ok(Some(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::clear::Listed;
    use crate::format::frame::FrameKind;
    use crate::format::ids::SubchunkId;
    use crate::log::{LogWriter, NewFrame};
    use crate::pack::append::begin_log;
    use crate::storage::Access;

    const LOG_ID: u64 = 7;
    const LEN: usize = 1 << 20;

    struct Bench {
        log: LogWriter,
        places: Places,
        storage: Arc<FileStorage>,
        options: PackOptions,
    }

    fn raw(id: u64) -> Arc<Vec<u8>> {
        Arc::new(vec![id as u8; LEN])
    }

    fn list(id: u64) -> ClearList {
        let subchunks = vec![Listed::whole(SubchunkId(id), LEN as u32)];
        ClearList { superchunk: SuperchunkId(id), subchunks }
    }

    impl Bench {
        fn new(dir: &Path) -> Self {
            let path = dir.join("image");
            std::fs::write(&path, b"").unwrap();
            let storage = Arc::new(FileStorage::open(&path, Access::ReadWrite).unwrap());
            let params = Params { min_match: 256, superchunk_size: LEN as u32, ..Params::default() };
            let options = PackOptions { params, ..PackOptions::default() };
            let places = Places::new(&options);
            Bench { log: begin_log(storage.clone(), LOG_ID).unwrap(), places, storage, options }
        }

        fn append(&mut self, id: u64) {
            let encoded = Encoder::new(Compression::Zstd(1), None).encode(&raw(id)).unwrap();
            let clear = list(id).encode();
            let frame = NewFrame {
                kind: FrameKind::SUPERCHUNK,
                codec: encoded.codec,
                flags: encoded.flags,
                clear: &clear,
                stored: &encoded.stored,
                raw_len: LEN as u32,
                sum: encoded.sum,
            };
            self.places.add(self.log.append(frame).unwrap());
        }

        fn stored(&self) -> Stored<'_> {
            Stored::new(Back::Image(self.storage.clone(), &self.places), &self.options)
        }
    }

    fn fill(stored: &mut Stored<'_>, ids: std::ops::RangeInclusive<u64>) {
        ids.for_each(|id| stored.add(&list(id), &raw(id), LOG_ID).unwrap());
    }

    fn has(stored: &mut Stored<'_>, id: u64) -> bool {
        let source = stored.source(SuperchunkId(id)).unwrap().unwrap();
        source.id == SuperchunkId(id) && source.raw == raw(id)
    }

    #[test]
    fn what_is_not_appended_is_kept_and_the_rest_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(dir.path());
        (1..=300).for_each(|id| bench.append(id));
        let mut stored = bench.stored();
        fill(&mut stored, 1..=303);
        for _ in 0..2 {
            assert!((1..=303).all(|id| has(&mut stored, id)));
        }
        assert_eq!((stored.sealed.len(), stored.recent.len()), (3, (CACHE.0 / LEN, CACHE.0)));
    }

    #[test]
    fn without_an_image_all_are_read_back_from_a_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new(dir.path());
        let mut stored = Stored::new(Back::Spool(Spool::new(dir.path()).unwrap()), &bench.options);
        fill(&mut stored, 1..=300);
        assert!((1..=300).all(|id| has(&mut stored, id)));
        assert!(stored.sealed.is_empty() && stored.recent.len().1 == CACHE.0);
        assert!(matches!(stored.source(SuperchunkId(301)), Err(PackError::Stopped)));
    }

    #[test]
    fn nothing_is_kept_if_nobody_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new(dir.path());
        let params = Params { min_match: 0, ..bench.options.params };
        let options = PackOptions { params, ..bench.options.clone() };
        let mut stored = Stored::new(Back::Image(bench.storage.clone(), &bench.places), &options);
        fill(&mut stored, 1..=3);
        assert!(stored.sealed.is_empty() && stored.recent.len().0 == 0);
    }
}
