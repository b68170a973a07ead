//! Matching: new data is searched for in the data that is stored already, and what is found is not stored again.
//!
//! New subchunks are gathered until they make about a superchunk. Their anchors vote for earlier superchunks; those
//! with most votes become the sources, at most `max_sources` for each superchunk, so that reading stays cheap. Only
//! they, and the superchunk itself, are searched. A subchunk in which something is found gets a recipe (format-spec
//! section 5.2). Ranges are compared byte by byte, so hashes only cost time when they mislead.
//!
//! Invariants: the result is a function of the subchunks and the parameters, not of timing or the number of threads. A
//! recipe refers only to stored parts. Memory: the window, the index and the sources of one superchunk (see [`memory`]).
//! Called by `pack` and by the freezer; they give the sources ([`Sources`]).

mod anchor;
mod choice;
mod index;
mod recent;
mod search;
mod source;
#[cfg(test)]
mod tests;
mod window;

pub use index::{AnchorIndex, PROVISIONAL};
pub use recent::Recent;
pub use source::Source;

use super::superchunk::{Filling, Large, Superchunk};
use crate::format::FormatError;
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::limits;
use crate::format::params::Params;
use crate::format::recipe::{Piece, Recipe};
use anchor::{ANCHOR_LEN, Anchor, SPACING};
use choice::Votes;
use index::{Anchors, Location};
use search::{Ground, Match};
use source::Layout;
use std::collections::HashSet;
use window::{Gathered, Window};

/// Most bytes of the index of anchors; and less for superchunks of more than [`MOST_INDEXED`] bytes, whose compressors need the
/// memory.
const INDEX: usize = 256 << 20;
const SMALL_INDEX: usize = 64 << 20;
const MOST_INDEXED: u32 = 16 << 20;
/// Bytes of the window, as a factor of the superchunk size; more than [`WINDOW`] only for one superchunk.
const WINDOW_FACTOR: usize = 4;
const WINDOW: usize = 64 << 20;
/// Shortest range in bytes that is taken from the superchunk itself: its codec finds shorter ones for less.
const OWN_MATCH: usize = 512;
/// Divisor of the superchunk size: a source has at least that many bytes that no other source has.
const PROMISE: u32 = 64;

/// Gives the superchunks that new data may be matched with.
pub trait Sources {
    /// The error of reading one back.
    type Error: From<FormatError>;

    /// Returns a superchunk that [`Matching`] completed before, or one whose anchors are in the image's index; `None` if
    /// it is there no longer or cannot be used.
    ///
    /// # Errors
    /// Fails if the superchunk cannot be read.
    fn source(&mut self, id: SuperchunkId) -> Result<Option<Source>, Self::Error>;
}

/// Returns the most bytes of memory that matching takes with these parameters, without the sources.
pub fn memory(params: &Params) -> u64 {
    if !params.makes_recipes() {
        return 0;
    }
    index_bytes(params) as u64 + window_memory(params)
}

/// Returns the most bytes of memory that the gathered subchunks take with these parameters.
pub fn window_memory(params: &Params) -> u64 {
    let window = most_gathered(params);
    (window + window / SPACING as usize * size_of::<Anchor>()) as u64
}

fn index_bytes(params: &Params) -> usize {
    if params.superchunk_size > MOST_INDEXED { SMALL_INDEX } else { INDEX }
}

/// Returns the number of bytes of new subchunks that are gathered at most before they are placed.
fn most_gathered(params: &Params) -> usize {
    let superchunk = params.superchunk_size as usize;
    (WINDOW_FACTOR * superchunk).min(WINDOW).max(superchunk)
}

/// New subchunks on their way into superchunks, matched with earlier ones.
#[derive(Debug)]
pub struct Matching<'i> {
    params: Params,
    index: Anchors<'i>,
    window: Window,
    open: Filling,
    open_id: SuperchunkId,
    /// Which subchunks the bytes of the open superchunk belong to.
    layout: Layout,
    sources: Vec<Source>,
    /// Superchunks that cannot be used as sources.
    gone: HashSet<SuperchunkId>,
    /// Where the bytes after those of the last match are, if that match ended with its subchunk.
    next: Option<Location>,
    /// A superchunk that was completed and not taken yet.
    complete: Option<Superchunk>,
    matched: u64,
}

impl<'i> Matching<'i> {
    /// Begins with an empty superchunk `first`. If the parameters have no recipes, subchunks only fill superchunks.
    pub fn new(params: Params, first: SuperchunkId) -> Self {
        Matching::beside(params, first, index_bytes(&params), None)
    }

    /// Begins with an empty superchunk `first`, whose id is larger than those in `image`, the index of an image's
    /// anchors. The index of new anchors takes at most `most_bytes` bytes.
    pub fn beside(params: Params, first: SuperchunkId, most_bytes: usize, image: Option<&'i AnchorIndex>) -> Self {
        Matching {
            params,
            index: Anchors { own: AnchorIndex::new(most_bytes), image },
            window: Window::default(),
            open: Filling::new(params),
            open_id: first,
            layout: Layout::default(),
            sources: Vec::new(),
            gone: HashSet::new(),
            next: None,
            complete: None,
            matched: 0,
        }
    }

    /// Returns the superchunk that is being filled.
    pub fn open(&self) -> &Filling {
        &self.open
    }

    /// Returns the number of bytes that are not stored, because recipes take them from elsewhere.
    pub fn matched(&self) -> u64 {
        self.matched
    }

    /// Returns whether nothing is gathered, being filled or complete.
    pub fn is_empty(&self) -> bool {
        self.complete.is_none() && self.window.first().is_none() && self.open.subchunks().is_empty()
    }

    /// Returns the index of the anchors in the superchunks that were filled.
    pub fn into_anchors(self) -> AnchorIndex {
        self.index.own
    }

    /// Makes room for a new subchunk of `len` bytes. If the superchunk that is being filled has no room for it, that
    /// superchunk is returned.
    pub fn make_room(&mut self, len: usize) -> Option<Superchunk> {
        if self.params.makes_recipes() {
            // The room that is needed is known only when the subchunk is placed.
            return None;
        }
        let complete = self.open.make_room(len)?;
        self.complete(complete);
        self.complete.take()
    }

    /// Adds a new subchunk, and the large file that it is of, if any. Call [`Matching::make_room`] before, and
    /// [`Matching::advance`] afterwards until it returns `None`.
    pub fn push(&mut self, id: SubchunkId, bytes: &[u8], large: Option<Large>) {
        if self.params.makes_recipes() {
            self.window.push(id, bytes, large, &self.index);
            return;
        }
        self.open.push(id, bytes, large);
    }

    /// Goes on as far as the gathered subchunks allow, and returns the next superchunk that is complete. It may be a
    /// source from the next call on.
    ///
    /// # Errors
    /// Fails if a source cannot be read.
    pub fn advance<S: Sources>(&mut self, sources: &mut S) -> Result<Option<Superchunk>, S::Error> {
        let room = self.open.room();
        while self.complete.is_none()
            && (self.window.fresh() >= room || self.window.len() >= most_gathered(&self.params))
            && self.window.first().is_some()
        {
            self.place_window(sources)?;
        }
        Ok(self.complete.take())
    }

    /// Places what is gathered, and returns the next superchunk, however full. Returns `None` when all are returned.
    ///
    /// # Errors
    /// Fails if a source cannot be read.
    pub fn finish<S: Sources>(&mut self, sources: &mut S) -> Result<Option<Superchunk>, S::Error> {
        if self.complete.is_none() && self.window.first().is_some() {
            self.place_window(sources)?;
        }
        if self.complete.is_none()
            && let Some(last) = self.open.take()
        {
            self.complete(last);
        }
        Ok(self.complete.take())
    }

    fn complete(&mut self, superchunk: Superchunk) {
        self.complete = Some(superchunk);
        self.open_id.0 += 1;
        self.layout = Layout::default();
        self.sources.clear();
        self.next = None;
    }

    /// Chooses sources for the gathered subchunks and places them, until none is left or the superchunk is complete.
    fn place_window<S: Sources>(&mut self, sources: &mut S) -> Result<(), S::Error> {
        self.choose(sources)?;
        while let Some(subchunk) = self.window.first().cloned() {
            // Whatever is found in it, it must not need more room than there is.
            if let Some(complete) = self.open.make_room(subchunk.bytes.len()) {
                self.complete(complete);
                break;
            }
            self.place(&subchunk)?;
            self.window.pop();
        }
        self.window.compact();
        Ok(())
    }

    fn choose<S: Sources>(&mut self, sources: &mut S) -> Result<(), S::Error> {
        let most = usize::from(self.params.max_sources).saturating_sub(self.sources.len());
        if most == 0 {
            return Ok(());
        }
        let mut votes = Votes::default();
        for anchor in self.window.anchors().iter().filter(|anchor| self.index.counts(anchor.hash)) {
            let places = || self.index.find(anchor.hash).map(|location| location.superchunk);
            let found = || places().filter(|id| !self.gone.contains(id));
            let is_near = |id| id == self.open_id || self.sources.iter().any(|source| source.id == id);
            if !found().any(is_near) {
                votes.add(found());
            }
        }
        let least = (u64::from(self.params.superchunk_size / PROMISE) / SPACING) >> self.index.thinning();
        for id in votes.choose(most, least as usize) {
            match sources.source(id)? {
                Some(source) => self.sources.push(source),
                None => _ = self.gone.insert(id),
            }
        }
        Ok(())
    }

    /// Puts a gathered subchunk into the open superchunk, which has room for it.
    fn place(&mut self, subchunk: &Gathered) -> Result<(), FormatError> {
        let (data, anchors) = self.window.parts(subchunk);
        let begin = self.open.raw().len();
        let mut placing = Placing {
            id: subchunk.id,
            data,
            anchors,
            base: subchunk.bytes.start,
            index: &mut self.index,
            open: &mut self.open,
            open_id: self.open_id,
            layout: &self.layout,
            sources: &self.sources,
            pieces: Vec::new(),
            begin,
            done: 0,
        };
        self.next = placing.run(self.next, self.params.min_match as usize);
        let pieces = placing.pieces;
        let stored = (self.open.raw().len() - begin) as u32;
        self.matched += data.len() as u64 - u64::from(stored);
        let recipe = match pieces[..] {
            [Piece { subchunk: own, .. }] if own == subchunk.id => None,
            _ => Some(Recipe::new(pieces)?),
        };
        let listed = self.open.close(subchunk.id, stored, data.len() as u32, recipe, subchunk.large);
        self.layout.push(&listed);
        Ok(())
    }
}

/// A subchunk that is being put into the open superchunk.
struct Placing<'a, 'i> {
    id: SubchunkId,
    data: &'a [u8],
    /// The subchunk's anchors; their positions count from `base` before the data.
    anchors: &'a [Anchor],
    base: usize,
    index: &'a mut Anchors<'i>,
    open: &'a mut Filling,
    open_id: SuperchunkId,
    layout: &'a Layout,
    sources: &'a [Source],
    pieces: Vec<Piece>,
    /// Where the subchunk's stored part begins in the open superchunk.
    begin: usize,
    /// Number of bytes that have a piece.
    done: usize,
}

impl Placing<'_, '_> {
    /// Makes the pieces. Returns where the bytes after those of the last match are, if it ended with the subchunk.
    fn run(&mut self, next: Option<Location>, min_match: usize) -> Option<Location> {
        let own_match = min_match.max(OWN_MATCH);
        let mut end = None;
        if let Some(location) = next {
            let len = self.ground().following(self.data, location);
            if len >= min_match {
                end = Some(self.take(Match { from: 0, len, location }));
            }
        }
        for anchor in self.anchors {
            let at = anchor.at as usize - self.base;
            if at < self.done || self.left() == 0 {
                continue;
            }
            let found = self.ground().longest(self.data, self.done, at, anchor.hash);
            let least = |found: &Match| if found.location.superchunk == self.open_id { own_match } else { min_match };
            if let Some(found) = found.filter(|found| found.len >= least(found)) {
                end = Some(self.take(found));
            }
        }
        let is_last = self.done == self.data.len();
        self.store(self.data.len());
        end.filter(|_| is_last)
    }

    fn ground(&self) -> Ground<'_> {
        Ground { index: self.index, sources: self.sources, open: (self.open_id, self.open.raw()) }
    }

    /// Returns how many pieces a match may have: room remains for stored bytes before and after it.
    fn left(&self) -> usize {
        (limits::RECIPE_PIECES as usize).saturating_sub(self.pieces.len() + 2)
    }

    /// Makes pieces of a match, and of the bytes before it. Returns where the bytes after these are.
    fn take(&mut self, found: Match) -> Location {
        let left = self.left();
        self.store(found.from);
        let Match { len, location: Location { superchunk, at }, .. } = found;
        let mut pieces = Vec::new();
        if superchunk == self.open_id {
            // The subchunk's own stored part is not in the layout yet.
            let (len, begin) = (len as u32, self.begin as u32);
            let others = begin.saturating_sub(at).min(len);
            self.layout.pieces(at, others, &mut pieces);
            if len > others {
                pieces.push(Piece { subchunk: self.id, offset: at + others - begin, len: len - others });
            }
        } else if let Some(source) = self.sources.iter().find(|source| source.id == superchunk) {
            source.pieces(at, len as u32, &mut pieces);
        }
        pieces.truncate(left);
        let len: u32 = pieces.iter().map(|piece| piece.len).sum();
        pieces.into_iter().for_each(|piece| self.add(piece));
        self.done += len as usize;
        Location { superchunk, at: at + len }
    }

    /// Stores the bytes up to `until`, and adds their anchors to the index.
    fn store(&mut self, until: usize) {
        let bytes = self.done..until;
        if bytes.is_empty() {
            return;
        }
        let at = self.open.raw().len();
        self.open.store(&self.data[bytes.clone()]);
        let position = |anchor: &Anchor| anchor.at as usize - self.base;
        let first = self.anchors.partition_point(|anchor| position(anchor) < bytes.start);
        for anchor in &self.anchors[first..] {
            if position(anchor) + ANCHOR_LEN > bytes.end {
                break;
            }
            let at = (at + position(anchor) - bytes.start) as u32;
            self.index.own.insert(anchor.hash, Location { superchunk: self.open_id, at });
        }
        self.done = until;
        self.add(Piece { subchunk: self.id, offset: (at - self.begin) as u32, len: bytes.len() as u32 });
    }

    fn add(&mut self, piece: Piece) {
        if let Some(last) = self.pieces.last_mut()
            && last.subchunk == piece.subchunk
            && last.offset + last.len == piece.offset
        {
            last.len += piece.len;
            return;
        }
        self.pieces.push(piece);
    }
}
