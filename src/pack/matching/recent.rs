//! The superchunks that were used last as sources: they are likely to be used again soon.
//!
//! Bounded by raw bytes. Called by those who give the sources: `pack` and the freezer.

use super::source::Source;
use crate::format::ids::SuperchunkId;
use std::collections::VecDeque;

/// The superchunks that were used last, up to a number of raw bytes; at least one.
#[derive(Debug)]
pub struct Recent {
    /// The most recently used is the last.
    last: VecDeque<Source>,
    bytes: usize,
    most: usize,
}

impl Recent {
    /// Makes an empty list of superchunks, which together have at most `most` raw bytes.
    pub fn new(most: usize) -> Self {
        Recent { last: VecDeque::new(), bytes: 0, most }
    }

    /// Returns a superchunk if it is there, and makes it the most recently used.
    pub fn take(&mut self, id: SuperchunkId) -> Option<Source> {
        let at = self.last.iter().position(|source| source.id == id)?;
        let source = self.last.remove(at)?;
        self.last.push_back(source.clone());
        Some(source)
    }

    /// Adds a superchunk as the most recently used. It must not be there yet.
    pub fn keep(&mut self, source: Source) {
        self.bytes = self.bytes.saturating_add(source.raw.len());
        self.last.push_back(source);
        while self.bytes > self.most
            && self.last.len() > 1
            && let Some(oldest) = self.last.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(oldest.raw.len());
        }
    }

    /// Returns the number of superchunks, and their raw bytes.
    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        (self.last.len(), self.bytes)
    }
}
