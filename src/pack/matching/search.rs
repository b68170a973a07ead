//! The search for data in the superchunks that were chosen, and in the one that is being filled.

use super::anchor::ANCHOR_LEN;
use super::index::{Anchors, Location};
use super::source::Source;
use crate::format::ids::SuperchunkId;

/// Bytes that are compared at once.
const WORD: usize = size_of::<u64>();

/// Where equal data may be: the stored parts of superchunks.
pub(super) struct Ground<'a> {
    pub(super) index: &'a Anchors<'a>,
    pub(super) sources: &'a [Source],
    /// The superchunk that is being filled, and its raw bytes so far.
    pub(super) open: (SuperchunkId, &'a [u8]),
}

/// Data that equals bytes of a superchunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// Position in the data.
    pub(super) from: usize,
    pub(super) len: usize,
    /// The superchunk, and the position in its raw bytes.
    pub(super) location: Location,
}

impl Ground<'_> {
    /// Returns the raw bytes of a superchunk that may be searched.
    fn raw(&self, id: SuperchunkId) -> Option<&[u8]> {
        if id == self.open.0 {
            return Some(self.open.1);
        }
        self.sources.iter().find(|source| source.id == id).map(|source| source.raw.as_slice())
    }

    /// Returns the longest match that includes the anchor at `at` in `data` and begins at `from` or after it. Of equally
    /// long ones the newest counts.
    pub(super) fn longest(&self, data: &[u8], from: usize, at: usize, hash: u64) -> Option<Match> {
        let mut best: Option<Match> = None;
        for location in self.index.find(hash) {
            let Some(raw) = self.raw(location.superchunk) else { continue };
            let begin = location.at as usize;
            let after = common_prefix(&data[at..], raw.get(begin..).unwrap_or_default());
            // An anchor's bytes are nearly always those that its hash stands for.
            if after < ANCHOR_LEN {
                continue;
            }
            let before = common_suffix(&data[from..at], &raw[..begin]);
            let len = before + after;
            if best.is_none_or(|best| len > best.len) {
                let location = Location { at: (begin - before) as u32, ..location };
                best = Some(Match { from: at - before, len, location });
            }
        }
        best
    }

    /// Returns how many bytes at the beginning of `data` equal those from `location` on.
    pub(super) fn following(&self, data: &[u8], location: Location) -> usize {
        let raw = self.raw(location.superchunk).and_then(|raw| raw.get(location.at as usize..));
        common_prefix(data, raw.unwrap_or_default())
    }
}

/// Returns the length in bytes of the longest common beginning.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(WORD).zip(b.chunks_exact(WORD)).take_while(|(a, b)| a == b).count() * WORD;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

/// Returns the length in bytes of the longest common end.
fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let words = a.rchunks_exact(WORD).zip(b.rchunks_exact(WORD)).take_while(|(a, b)| a == b).count() * WORD;
    let (a, b) = (&a[..a.len() - words], &b[..b.len() - words]);
    words + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_beginnings_and_ends_are_found_to_the_byte() {
        let data: Vec<u8> = (0..60).collect();
        for len in 0..data.len() {
            for at in 0..len {
                let mut other = data[..len].to_vec();
                other[at] ^= 0x80;
                assert_eq!((common_prefix(&data, &other), common_suffix(&data[..len], &other)), (at, len - at - 1));
            }
            assert_eq!(common_prefix(&data, &data[..len]), len);
            assert_eq!(common_suffix(&data, &data[60 - len..]), len);
        }
    }
}
