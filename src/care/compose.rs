//! Composed subchunks, put together to be verified.
//!
//! All recipes of a superchunk are taken together, source after source, so each source is inflated once for many pieces.
//! Memory: one batch of subchunks and one source; time: at most `max_sources` inflations a batch.

use super::known::Map;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::place::Place;
use crate::format::recipe::Recipe;
use crate::meta::{ByteLru, Image, with_decoder};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of composed subchunks put together at once.
const BATCH: usize = 16 << 20;

/// Reads superchunks that recipes refer to; shared by threads.
pub(super) struct Sources<'a> {
    image: &'a Image,
    map: &'a Map,
    inflated: ByteLru<SuperchunkId, Arc<Vec<u8>>>,
}

/// Decodes a place: all of it if a copy's sum is right, else as far as the first readable copy goes, and zeros from there
/// on, as readers do. Empty if nothing can be read.
pub(super) fn inflate(image: &Image, place: &Place, stored: &mut Vec<u8>) -> Vec<u8> {
    let dictionary = if place.flags.dictionary() { image.dictionary().ok().flatten() } else { None };
    let dictionary = dictionary.as_ref().map(|bytes| bytes.as_slice());
    let mut raw = Vec::new();
    let mut damaged = None;
    for offset in place.offsets() {
        match image.log().stored_unverified(place, offset, stored) {
            Ok(true) => {
                let decoded =
                    with_decoder(|d| d.decode(place.codec, place.flags, stored, place.raw_len, dictionary, &mut raw));
                if decoded.is_ok() {
                    return raw;
                }
            }
            Ok(false) if damaged.is_none() => {
                let mut part =
                    with_decoder(|d| d.decode_damaged(place.codec, place.flags, stored, place.raw_len, dictionary));
                // The place is within the limits, so this is at most what a good superchunk takes.
                part.resize(place.raw_len as usize, 0);
                damaged = Some(part);
            }
            _ => {}
        }
    }
    damaged.unwrap_or_default()
}

/// Where a piece goes, and where it comes from.
struct Copy {
    subchunk: usize,
    target: Range<usize>,
    source: usize,
}

impl<'a> Sources<'a> {
    /// Keeps at most `bytes` bytes of inflated superchunks.
    pub(super) fn new(image: &'a Image, map: &'a Map, bytes: usize) -> Self {
        Sources { image, map, inflated: ByteLru::new(bytes, 1) }
    }

    fn inflated(&self, id: SuperchunkId, stored: &mut Vec<u8>) -> Arc<Vec<u8>> {
        if let Some(known) = self.inflated.get(&id) {
            return known;
        }
        let raw =
            Arc::new(self.map.get(id).map_or_else(Vec::new, |known| inflate(self.image, &known.row.place, stored)));
        self.inflated.insert(id, raw.clone(), raw.len());
        raw
    }

    /// Puts subchunks together and gives the bytes of each to `each`, or `None` if something it needs is not there.
    ///
    /// `own` are the raw bytes of the superchunk `id`.
    pub(super) fn compose(
        &self,
        id: SuperchunkId,
        own: &[u8],
        recipes: &[(SubchunkId, Recipe)],
        stored: &mut Vec<u8>,
        each: &mut dyn FnMut(SubchunkId, Option<&[u8]>),
    ) {
        let limit = usize::from(self.image.params().max_sources);
        let mut rest = recipes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let many = rest
                .iter()
                .take_while(|(_, recipe)| {
                    let first = bytes == 0;
                    bytes += recipe.subchunk_len() as usize;
                    first || bytes <= BATCH
                })
                .count();
            let (batch, behind) = rest.split_at(many);
            rest = behind;
            self.batch(id, own, batch, limit, stored, each);
        }
    }

    fn batch(
        &self,
        id: SuperchunkId,
        own: &[u8],
        batch: &[(SubchunkId, Recipe)],
        limit: usize,
        stored: &mut Vec<u8>,
        each: &mut dyn FnMut(SubchunkId, Option<&[u8]>),
    ) {
        let mut out: Vec<Option<Vec<u8>>> =
            batch.iter().map(|(_, recipe)| Some(vec![0; recipe.subchunk_len() as usize])).collect();
        let mut copies: BTreeMap<SuperchunkId, Vec<Copy>> = BTreeMap::new();
        let mut located = HashMap::new();
        for (n, (_, recipe)) in batch.iter().enumerate() {
            let mut at = 0;
            for piece in recipe.pieces() {
                let target = at..at + piece.len as usize;
                at = target.end;
                let place = located.entry(piece.subchunk).or_insert_with(|| {
                    self.image.locate(piece.subchunk).ok().flatten().map(|l| (l.superchunk, l.position, l.len))
                });
                match place {
                    Some((superchunk, position, len))
                        if u64::from(piece.offset) + u64::from(piece.len) <= u64::from(*len) =>
                    {
                        let source = *position as usize + piece.offset as usize;
                        copies.entry(*superchunk).or_default().push(Copy { subchunk: n, target, source });
                    }
                    _ => out[n] = None,
                }
            }
        }
        let others = copies.keys().filter(|source| **source != id).count();
        for (source, copies) in &copies {
            let raw;
            let bytes = match (*source == id, others > limit) {
                (true, _) => own,
                (false, true) => &[],
                (false, false) => {
                    raw = self.inflated(*source, stored);
                    raw.as_slice()
                }
            };
            for copy in copies {
                let from = bytes.get(copy.source..copy.source + copy.target.len());
                match (from, &mut out[copy.subchunk]) {
                    (Some(from), Some(to)) => to[copy.target.clone()].copy_from_slice(from),
                    (_, slot) => *slot = None,
                }
            }
        }
        for ((subchunk, _), bytes) in batch.iter().zip(&out) {
            each(*subchunk, bytes.as_deref());
        }
    }
}
