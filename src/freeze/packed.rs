//! The result of a batch: superchunks that are ready to be appended, except for their ids.
//!
//! Subchunks are numbered within the batch, from 0 on; such a number is called an ordinal. Ids are given out when the
//! superchunks are appended: the id of the batch's first subchunk plus the ordinal. Until then, recipes name the batch's
//! own subchunks by provisional ids: [`PROVISIONAL`] plus the ordinal. Callers: the batch, and `fs`, which appends.

use crate::format::block::Row;
use crate::format::clear::{ClearList, Listed};
use crate::format::codec::Encoded;
use crate::format::frame::{FRAME_HEADER, FrameKind};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits::SYNC_BLOCK;
use crate::format::params::HashKind;
use crate::format::place::Place;
use crate::format::recipe::Recipe;
use crate::format::rows::Identity;
use crate::log::NewFrame;
use crate::meta::MapRows;
use crate::pack::matching::{self, AnchorIndex};
use crate::pack::superchunk::{frame, identity_rows};

/// Most bytes of a clear list without its subchunks.
const CLEAR_BASE: u64 = 40;
/// Most bytes that a subchunk takes in a clear list, besides a bit that says whether it is composed.
const CLEAR_EACH: u64 = 3;

/// Ids from this one on are provisional: those of subchunks that have no id in an image yet. No image has so many.
const PROVISIONAL: u64 = 1 << 61;

/// Returns the provisional id of the subchunk with this ordinal.
pub(super) fn provisional(ordinal: u64) -> SubchunkId {
    SubchunkId(PROVISIONAL.saturating_add(ordinal))
}

/// Returns the id of a subchunk in the image: that of an existing one, or of one of the batch, whose first subchunk has
/// the id `first`.
fn id_of(first: SubchunkId, id: SubchunkId) -> SubchunkId {
    id.0.checked_sub(PROVISIONAL).map_or(id, |ordinal| SubchunkId(first.0.saturating_add(ordinal)))
}

/// The subchunk that holds the bytes of a piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// An existing subchunk of the image.
    Known(SubchunkId),
    /// A new subchunk of the batch, by its ordinal.
    New(u64),
}

/// A compressed superchunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedSuperchunk {
    /// Ordinal of the superchunk's first subchunk; the others follow.
    pub first: u64,
    /// The subchunks, with provisional ids.
    pub subchunks: Vec<Listed>,
    /// Recipes of those that are composed. They name subchunks of the batch by provisional ids.
    pub(super) recipes: Vec<(SubchunkId, Recipe)>,
    /// Identity of each subchunk.
    pub identities: Vec<Identity>,
    /// Stored (compressed) bytes, with codec and checksum.
    pub encoded: Encoded,
    /// Number of raw bytes.
    pub raw_len: u32,
    /// Whether the superchunk is not full.
    pub short: bool,
}

impl PackedSuperchunk {
    /// Makes the clear list of the superchunk. `first` is the id of the batch's first subchunk.
    pub fn clear_list(&self, first: SubchunkId, superchunk: SuperchunkId) -> ClearList {
        let named = |listed: &Listed| Listed { id: id_of(first, listed.id), ..*listed };
        ClearList { superchunk, subchunks: self.subchunks.iter().map(named).collect() }
    }

    /// Returns the recipes of the composed subchunks. `first` is the id of the batch's first subchunk.
    pub fn recipes(&self, first: SubchunkId) -> Vec<(SubchunkId, Recipe)> {
        let named = |(id, recipe): &(SubchunkId, Recipe)| (id_of(first, *id), recipe.renamed(|id| id_of(first, id)));
        self.recipes.iter().map(named).collect()
    }

    /// Makes the frame of the superchunk; `clear` is the encoded clear list.
    pub fn frame<'a>(&'a self, clear: &'a [u8]) -> NewFrame<'a> {
        frame(&self.encoded, clear, self.raw_len, self.short)
    }

    /// Returns an upper bound of the bytes that the frame takes in the image, with a pad to the end of a block.
    pub fn frame_len(&self) -> u64 {
        let many = self.subchunks.len() as u64;
        let clear = CLEAR_BASE + CLEAR_EACH * many + many.div_ceil(8);
        FRAME_HEADER as u64 + clear + self.encoded.stored.len() as u64 + SYNC_BLOCK
    }
}

/// The result of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Superchunks to be appended, in this order.
    pub superchunks: Vec<PackedSuperchunk>,
    pub(super) subchunks: u64,
    pub(super) hash: HashKind,
    /// The anchors in the superchunks, which have provisional ids there.
    pub(super) anchors: AnchorIndex,
}

impl Packed {
    /// Returns the number of subchunks to be appended: as many ids are needed.
    pub fn subchunks(&self) -> u64 {
        self.subchunks
    }

    /// Returns whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.superchunks.is_empty()
    }

    /// Returns the raw bytes of the superchunks.
    pub fn raw_bytes(&self) -> u64 {
        self.superchunks.iter().map(|superchunk| u64::from(superchunk.raw_len)).sum()
    }

    /// Returns the stored bytes of the superchunks.
    pub fn stored_bytes(&self) -> u64 {
        self.superchunks.iter().map(|superchunk| superchunk.encoded.stored.len() as u64).sum()
    }

    /// Returns an upper bound of the bytes that all frames take in the image.
    pub fn frames_len(&self) -> u64 {
        self.superchunks.iter().map(PackedSuperchunk::frame_len).sum()
    }

    /// Returns whether a piece exists. It does not if its superchunk was left out of the batch because it was not full.
    pub fn has(&self, piece: Piece) -> bool {
        match piece {
            Piece::Known(_) => true,
            Piece::New(ordinal) => ordinal < self.subchunks,
        }
    }

    /// Returns the id of a piece, given the id `first` of the batch's first subchunk; `None` if the piece does not
    /// exist.
    pub fn id(&self, piece: Piece, first: SubchunkId) -> Option<SubchunkId> {
        match piece {
            Piece::Known(id) => Some(id),
            Piece::New(ordinal) => self.has(piece).then(|| SubchunkId(first.0.saturating_add(ordinal))),
        }
    }

    /// Makes the rows of the map for all superchunks, in key order. `places` has one for each, with its id, in order.
    pub fn map_rows(&self, first: SubchunkId, places: &[(SuperchunkId, Place)]) -> Vec<Row> {
        debug_assert_eq!(places.len(), self.superchunks.len());
        let mut rows = MapRows::default();
        for (superchunk, &(id, place)) in self.superchunks.iter().zip(places) {
            let list = superchunk.clear_list(first, id);
            rows.add(FrameKind::SUPERCHUNK, place, &list, superchunk.recipes(first));
        }
        rows.rows().collect()
    }

    /// Returns whether some subchunk is composed.
    pub fn has_recipes(&self) -> bool {
        self.superchunks.iter().any(|superchunk| !superchunk.recipes.is_empty())
    }

    /// Adds the anchors in the superchunks to those of the image. The superchunks got consecutive ids from `first` on.
    pub fn add_anchors(&self, first: SuperchunkId, image: &mut AnchorIndex) {
        image.absorb(&self.anchors, |id| {
            let number = id.0.checked_sub(matching::PROVISIONAL.0)?;
            // The last superchunk may have been left out.
            let is_there = number < self.superchunks.len() as u64;
            is_there.then(|| SuperchunkId(first.0.saturating_add(number)))
        });
    }

    /// Returns id and identity of each subchunk, in order: these go into the index of the image's subchunks.
    pub fn identities(&self, first: SubchunkId) -> impl Iterator<Item = (SubchunkId, Identity)> + '_ {
        let identities = self.superchunks.iter().flat_map(|superchunk| superchunk.identities.iter().copied());
        (first.0..).map(SubchunkId).zip(identities)
    }

    /// Makes the rows of the table of identities, in key order.
    pub fn identity_rows(&self, first: SubchunkId) -> Vec<Row> {
        identity_rows(self.hash, self.identities(first)).collect()
    }
}
