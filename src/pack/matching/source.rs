//! A superchunk whose stored parts new data is searched for: raw bytes, and which subchunk each byte belongs to.

use crate::format::clear::{ClearList, Listed};
use crate::format::ids::{SubchunkId, SuperchunkId};
use crate::format::recipe::Piece;
use std::sync::Arc;

/// Stands for the subchunk of bytes that recipes may not refer to. Ids begin with 1.
const NOBODY: SubchunkId = SubchunkId(0);

/// A superchunk that recipes may refer to.
#[derive(Debug, Clone)]
pub struct Source {
    /// Id of the superchunk.
    pub id: SuperchunkId,
    /// Its raw bytes: the stored parts of its subchunks, one after another.
    pub raw: Arc<Vec<u8>>,
    layout: Layout,
}

/// Which subchunks the raw bytes of a superchunk are the stored parts of.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    ids: Vec<SubchunkId>,
    /// The position of each stored part. Those that are empty are left out.
    begins: Vec<u32>,
    end: u32,
}

impl Source {
    /// Makes a source of a superchunk with this clear list.
    pub fn new(list: &ClearList, raw: Arc<Vec<u8>>) -> Self {
        Source::of_some(list, raw, |_| true)
    }

    /// Makes a source of a superchunk with this clear list. Recipes may refer only to the stored parts of the subchunks
    /// for which `has` is true: the image no longer has the others.
    pub fn of_some(list: &ClearList, raw: Arc<Vec<u8>>, has: impl Fn(&Listed) -> bool) -> Self {
        let mut layout = Layout::default();
        for listed in &list.subchunks {
            layout.push(&Listed { id: if has(listed) { listed.id } else { NOBODY }, ..*listed });
        }
        Source { id: list.superchunk, raw, layout }
    }

    /// Appends the pieces that make the range of `len` bytes from `at` on.
    pub(super) fn pieces(&self, at: u32, len: u32, pieces: &mut Vec<Piece>) {
        self.layout.pieces(at, len, pieces);
    }
}

impl Layout {
    /// Adds the stored part behind the last one.
    pub(super) fn push(&mut self, listed: &Listed) {
        if listed.len > 0 {
            self.ids.push(listed.id);
            self.begins.push(self.end);
            self.end += listed.len;
        }
    }

    /// Appends the pieces that make the range of `len` bytes from `at` on: one for each stored part that it touches.
    /// Ends early at bytes behind the last stored part, and at bytes that recipes may not refer to.
    pub(super) fn pieces(&self, at: u32, len: u32, pieces: &mut Vec<Piece>) {
        let (mut at, end) = (at, self.end.min(at + len));
        let mut number = self.begins.partition_point(|&begin| begin <= at).saturating_sub(1);
        while at < end {
            let (Some(&begin), Some(&id)) = (self.begins.get(number), self.ids.get(number)) else { return };
            if id == NOBODY {
                return;
            }
            number += 1;
            let until = self.begins.get(number).map_or(end, |&next| next.min(end));
            pieces.push(Piece { subchunk: id, offset: at - begin, len: until - at });
            at = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_piece_for_each_stored_part_that_it_touches() {
        let listed = |id, len| Listed { id: SubchunkId(id), len, composed: true };
        let subchunks = vec![listed(10, 100), listed(11, 0), listed(12, 1), listed(40, 50)];
        let list = ClearList { superchunk: SuperchunkId(3), subchunks };
        let source = Source::new(&list, Arc::new(vec![0; 151]));
        let piece = |id, offset, len| Piece { subchunk: SubchunkId(id), offset, len };
        let pieces = |at, len| {
            let mut pieces = Vec::new();
            source.pieces(at, len, &mut pieces);
            pieces
        };
        assert_eq!(pieces(0, 100), [piece(10, 0, 100)]);
        assert_eq!(pieces(99, 3), [piece(10, 99, 1), piece(12, 0, 1), piece(40, 0, 1)]);
        assert_eq!(pieces(150, 1), [piece(40, 49, 1)]);
        assert_eq!(pieces(100, 1), [piece(12, 0, 1)]);
        assert_eq!(pieces(150, 9), [piece(40, 49, 1)]);
    }

    #[test]
    fn a_range_ends_where_the_image_no_longer_has_the_subchunk() {
        let subchunks = [(10, 100), (11, 50), (12, 70)].map(|(id, len)| Listed::whole(SubchunkId(id), len)).to_vec();
        let list = ClearList { superchunk: SuperchunkId(3), subchunks };
        let source = Source::of_some(&list, Arc::new(vec![0; 220]), |listed| listed.id.0 != 11);
        let pieces = |at, len| {
            let mut pieces = Vec::new();
            source.pieces(at, len, &mut pieces);
            pieces.iter().map(|piece| (piece.subchunk.0, piece.offset, piece.len)).collect::<Vec<_>>()
        };
        assert_eq!(pieces(40, 180), [(10, 40, 60)]);
        assert_eq!(pieces(120, 100), []);
        assert_eq!(pieces(150, 100), [(12, 0, 70)]);
    }
}
