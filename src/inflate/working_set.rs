//! Reading subchunks out of the cache of inflated superchunks.

use super::ahead::Ahead;
use super::cache::{Cache, InflateCounters};
use super::load::{self, Inflated, Load, Unit};
use super::{InflateError, error};
use crate::format::codec::PartTable;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::recipe::Recipe;
use crate::format::rows::Identity;
use crate::meta::{Composition, Extract, Image, Located, View};
use std::ops::Range;
use std::sync::Arc;

/// Most frames that a place names: one and its copy.
const COPIES: usize = 2;

/// A cache of inflated superchunks of one image, with a limit on their bytes.
pub struct WorkingSet {
    cache: Arc<Cache>,
    ahead: Option<Ahead>,
    /// Whether subchunks of intact superchunks are verified by their content hashes too.
    verify: bool,
}

/// How far bytes that were copied can be trusted.
#[derive(Clone, Copy)]
struct Quality {
    /// Whether all bytes came from superchunks with the right checksum.
    intact: bool,
    /// Whether a superchunk has another damaged copy, which may give different bytes.
    has_others: bool,
}

impl Quality {
    const GOOD: Quality = Quality { intact: true, has_others: false };

    fn add(&mut self, other: Quality) {
        self.intact &= other.intact;
        self.has_others |= other.has_others;
    }

    fn of(inflated: &Inflated) -> Self {
        Quality { intact: inflated.intact, has_others: inflated.has_others }
    }
}

/// How the bytes of a subchunk are made.
enum Make<'a> {
    Stored(&'a Located),
    Composed(&'a Located, &'a Recipe),
}

impl Make<'_> {
    fn subchunk_len(&self) -> u32 {
        match self {
            Make::Stored(located) => located.len,
            Make::Composed(_, recipe) => recipe.subchunk_len(),
        }
    }

    fn superchunk(&self) -> SuperchunkId {
        match self {
            Make::Stored(located) | Make::Composed(located, _) => located.superchunk,
        }
    }
}

impl WorkingSet {
    /// Makes an empty working set of at most `bytes` bytes. It serves views of any version of `image`. `ahead` threads
    /// inflate what a sequential reader will want next.
    pub fn new(image: Arc<Image>, bytes: usize, ahead: usize) -> Self {
        let cache = Arc::new(Cache::new(image, bytes, Load::Decode));
        let ahead = (ahead > 0).then(|| Ahead::start(&cache, ahead));
        WorkingSet { cache, ahead, verify: false }
    }

    /// Makes an empty working set as [`WorkingSet::new`] does, but without threads, to learn what reading would
    /// inflate: data is neither read nor decoded. The bytes that it gives out are arbitrary; the counters are those of
    /// a working set that gives out data.
    pub fn counting(image: Arc<Image>, bytes: usize) -> Self {
        let cache = Arc::new(Cache::new(image, bytes, Load::Count));
        WorkingSet { cache, ahead: None, verify: false }
    }

    /// Sets whether every subchunk is verified by its content hash, whatever its superchunk's checksum says. An image
    /// from an untrusted mirror needs this.
    pub fn verifying(self, verify: bool) -> Self {
        WorkingSet { verify, ..self }
    }

    /// Fills `out` with the bytes of subchunk `id` in `view`, starting at byte `skip`.
    ///
    /// # Errors
    /// Fails if the subchunk does not exist, is too short, cannot be read, or its content hash does not match.
    pub fn read_subchunk(&self, view: &View, id: SubchunkId, skip: u32, out: &mut [u8]) -> Result<(), InflateError> {
        let located = view
            .locate(id)
            .map_err(error::lookup(id))?
            .ok_or(InflateError::Inconsistent { id, why: "the map does not know it" })?;
        self.cache.has_read(out.len());
        if let Some(ahead) = &self.ahead {
            ahead.is_read(view, id);
        }
        if !located.composed {
            return self.read(view, id, &Make::Stored(&located), skip, out);
        }
        let recipe = view
            .recipe(id)
            .map_err(error::lookup(id))?
            .ok_or(InflateError::Inconsistent { id, why: "it is composed, but has no recipe" })?;
        self.read(view, id, &Make::Composed(&located, &recipe), skip, out)
    }

    fn read(
        &self,
        view: &View,
        id: SubchunkId,
        make: &Make<'_>,
        skip: u32,
        out: &mut [u8],
    ) -> Result<(), InflateError> {
        let len = make.subchunk_len();
        let end = u64::from(skip) + out.len() as u64;
        if end > u64::from(len) {
            return Err(InflateError::Inconsistent { id, why: "it is shorter than its file needs" });
        }
        // `end` is at most `len`, so it fits.
        let range = skip..end as u32;
        if !self.verify && self.copy(view, id, make, range.clone(), 0, out)?.intact {
            return Ok(());
        }
        //= format-spec.md#13
        //# A reader must return no byte of a superchunk whose checksum is wrong unless the subchunk or table block that
        //# the byte belongs to has the right hash.
        // Only a whole subchunk can be verified. Damaged copies may have lost different bytes, so each is tried.
        let mut bytes = vec![0; len as usize];
        for version in 0..COPIES {
            let quality = self.copy(view, id, make, 0..len, version, &mut bytes)?;
            if is_right(view, id, &bytes)? {
                let part = bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
                out.copy_from_slice(part);
                return Ok(());
            }
            if !quality.has_others {
                break;
            }
        }
        Err(InflateError::Damaged { id, superchunk: make.superchunk() })
    }

    /// Copies a range of a subchunk's bytes to `out`.
    fn copy(
        &self,
        view: &View,
        id: SubchunkId,
        make: &Make<'_>,
        range: Range<u32>,
        version: usize,
        out: &mut [u8],
    ) -> Result<Quality, InflateError> {
        let (located, recipe) = match make {
            Make::Stored(located) => {
                let start = located.position as usize + range.start as usize;
                let extract = Extract { superchunk: located.superchunk, start, output: 0, target: 0..range.len() };
                return self.extract(view, id, &[extract], version, out);
            }
            Make::Composed(located, recipe) => (located, recipe),
        };
        let mut composition = Composition::new(|source| view.run(source));
        composition.add(0, recipe, range).map_err(error::compose(id))?;
        let mut quality = Quality::GOOD;
        let groups = composition.by_superchunk();
        let other = |group: &&[Extract]| group.first().is_some_and(|first| first.superchunk != located.superchunk);
        let sources = groups.clone().filter(other).count();
        //= format-spec.md#5.2
        //# A reader must refuse a range of a composed subchunk whose pieces lie in more than `max_sources` other superchunks.
        if sources > usize::from(view.params().max_sources) {
            return Err(InflateError::Inconsistent {
                id,
                why: "its recipe needs more superchunks than the image allows",
            });
        }
        for group in groups {
            quality.add(self.extract(view, id, group, version, out)?);
        }
        Ok(quality)
    }

    /// Copies ranges of one superchunk. If it is damaged, it takes the copy numbered `version`, or the last copy if
    /// there are fewer.
    fn extract(
        &self,
        view: &View,
        id: SubchunkId,
        extracts: &[Extract],
        version: usize,
        out: &mut [u8],
    ) -> Result<Quality, InflateError> {
        let Some(superchunk) = extracts.first().map(|extract| extract.superchunk) else { return Ok(Quality::GOOD) };
        let ready = if version == 0 { self.cache.ready(&(superchunk, None)) } else { None };
        // Damaged bytes may be those of a frame that this view does not name.
        let ready = ready.filter(|inflated| inflated.intact);
        let inflated = match ready {
            Some(found) => found,
            // Only now is it worth looking up where the superchunk lies.
            None => {
                let place = load::row(view, superchunk, id)?.place;
                if extracts.iter().any(|extract| extract.start + extract.target.len() > place.raw_len as usize) {
                    return Err(outside(id));
                }
                if place.flags.parts()
                    && let Some(table) = self.cache.part_tables().get(self.cache.image(), id, superchunk, &place)?
                {
                    return self.extract_parts(id, &place, &table, extracts, version, out);
                }
                self.inflated(&Unit { id: superchunk, place, part: None }, version)?
            }
        };
        if !extracts.iter().all(|extract| extract.copy(&inflated.bytes, out)) {
            return Err(outside(id));
        }
        Ok(Quality::of(&inflated))
    }

    fn extract_parts(
        &self,
        id: SubchunkId,
        place: &Place,
        table: &PartTable,
        extracts: &[Extract],
        version: usize,
        out: &mut [u8],
    ) -> Result<Quality, InflateError> {
        let size = table.part_size as usize;
        let mut quality = Quality::GOOD;
        let mut held: Option<(usize, Arc<Inflated>)> = None;
        for extract in extracts {
            let (mut start, mut target) = (extract.start, extract.target.clone());
            while !target.is_empty() {
                let (index, within) = (start / size, start % size);
                let len = (size - within).min(target.len());
                let inflated = match held.take() {
                    Some((number, inflated)) if number == index => inflated,
                    before => {
                        // As in `inflated`: never hold two at once.
                        drop(before);
                        let part = table.parts.get(index).ok_or_else(|| outside(id))?;
                        let unit = Unit { id: extract.superchunk, place: *place, part: Some((index as u32, *part)) };
                        self.inflated(&unit, version)?
                    }
                };
                let now = target.start..target.start + len;
                let piece = Extract { superchunk: extract.superchunk, start: within, output: 0, target: now };
                if !piece.copy(&inflated.bytes, out) {
                    return Err(outside(id));
                }
                quality.add(Quality::of(&inflated));
                held = Some((index, inflated));
                start += len;
                target.start += len;
            }
        }
        Ok(quality)
    }

    /// Returns the raw bytes of a unit (a superchunk, or a part of one).
    fn inflated(&self, unit: &Unit, version: usize) -> Result<Arc<Inflated>, InflateError> {
        let cached = self.cache.get(unit)?;
        if !cached.intact && cached.frame != unit.place.offset {
            // A view from before the superchunk was packed again read the old frame, which gc may have freed.
            drop(cached);
            self.cache.forget_damaged(&unit.key());
            return match self.cache.alone(unit, version)? {
                Some(inflated) => Ok(Arc::new(inflated)),
                None => self.cache.get(unit),
            };
        }
        if version == 0 || !cached.has_others {
            return Ok(cached);
        }
        // Never hold two at once: the working set may be as small as one.
        drop(cached);
        match self.cache.alone(unit, version)? {
            Some(inflated) => Ok(Arc::new(inflated)),
            None => self.cache.get(unit),
        }
    }

    /// Returns the counters since the working set was made.
    pub fn counters(&self) -> InflateCounters {
        self.cache.counters()
    }

    /// Returns the bytes that the working set holds now, including those of inflations that still run.
    pub fn bytes(&self) -> usize {
        self.cache.bytes()
    }
}

/// Returns whether the content hash of `bytes` is that of the subchunk.
fn is_right(view: &View, id: SubchunkId, bytes: &[u8]) -> Result<bool, InflateError> {
    let identity = view.identity(id).map_err(error::lookup(id))?;
    Ok(identity == Some(Identity::of(view.params().hash, bytes)))
}

fn outside(id: SubchunkId) -> InflateError {
    InflateError::Inconsistent { id, why: "it reaches past the end of its superchunk" }
}
