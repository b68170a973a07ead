//! New subchunks that are gathered before they are searched: about as many as fill a superchunk.

use super::anchor::{self, Anchor, SPACING};
use super::index::Anchors;
use crate::format::ids::SubchunkId;
use crate::pack::superchunk::Large;
use std::collections::VecDeque;
use std::ops::Range;

/// A gathered subchunk.
#[derive(Debug, Clone)]
pub(super) struct Gathered {
    pub(super) id: SubchunkId,
    /// Range of its bytes, and of its anchors, in the window.
    pub(super) bytes: Range<usize>,
    pub(super) anchors: Range<usize>,
    /// Estimate of the bytes in it that are nowhere else.
    fresh: u64,
    /// The large file that it is of, if any.
    pub(super) large: Option<Large>,
}

/// The gathered subchunks, in order.
#[derive(Debug, Default)]
pub(super) struct Window {
    raw: Vec<u8>,
    /// Anchors of all subchunks; their positions count from the beginning of the window.
    anchors: Vec<Anchor>,
    subchunks: VecDeque<Gathered>,
    fresh: u64,
}

impl Window {
    /// Adds a subchunk, and the large file that it is of, if any. The index tells how much of it is known.
    pub(super) fn push(&mut self, id: SubchunkId, bytes: &[u8], large: Option<Large>, index: &Anchors<'_>) {
        let (begin, first) = (self.raw.len(), self.anchors.len());
        self.raw.extend_from_slice(bytes);
        anchor::find(bytes, begin as u32, &mut self.anchors);
        let new = &self.anchors[first..];
        let known = new.iter().filter(|anchor| index.counts(anchor.hash) && index.has(anchor.hash)).count() as u64;
        // Thinned out, the index knows of fewer anchors than there are.
        let known = (known * SPACING) << index.thinning();
        let fresh = (bytes.len() as u64).saturating_sub(known);
        self.fresh += fresh;
        let anchors = first..self.anchors.len();
        self.subchunks.push_back(Gathered { id, bytes: begin..self.raw.len(), anchors, fresh, large });
    }

    /// Returns the first subchunk, or `None` if there is none.
    pub(super) fn first(&self) -> Option<&Gathered> {
        self.subchunks.front()
    }

    /// Returns the number of bytes in it.
    pub(super) fn len(&self) -> usize {
        self.subchunks.front().map_or(0, |first| self.raw.len() - first.bytes.start)
    }

    /// Returns the estimate of its bytes that are nowhere else.
    pub(super) fn fresh(&self) -> u64 {
        self.fresh
    }

    /// Returns the bytes of a subchunk, and its anchors.
    pub(super) fn parts(&self, subchunk: &Gathered) -> (&[u8], &[Anchor]) {
        (&self.raw[subchunk.bytes.clone()], &self.anchors[subchunk.anchors.clone()])
    }

    /// Returns the anchors of all subchunks.
    pub(super) fn anchors(&self) -> &[Anchor] {
        self.subchunks.front().map_or(&[], |first| &self.anchors[first.anchors.start..])
    }

    /// Removes the first subchunk. Its bytes stay in memory until [`Window::compact`].
    pub(super) fn pop(&mut self) {
        if let Some(first) = self.subchunks.pop_front() {
            self.fresh -= first.fresh;
        }
    }

    /// Frees the memory of the removed subchunks.
    pub(super) fn compact(&mut self) {
        let Some(first) = self.subchunks.front() else {
            self.raw.clear();
            self.anchors.clear();
            return;
        };
        let (bytes, anchors) = (first.bytes.start, first.anchors.start);
        self.raw.drain(..bytes);
        self.anchors.drain(..anchors);
        self.anchors.iter_mut().for_each(|anchor| anchor.at -= bytes as u32);
        for subchunk in &mut self.subchunks {
            subchunk.bytes = subchunk.bytes.start - bytes..subchunk.bytes.end - bytes;
            subchunk.anchors = subchunk.anchors.start - anchors..subchunk.anchors.end - anchors;
        }
    }
}
