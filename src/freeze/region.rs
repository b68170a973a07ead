//! The parts of a file that were cut, and which of them may replace the file's content once the batch is packed.
//!
//! Invariants: the regions of a file ascend and do not overlap; the pieces of a region adjoin. Made by `cut_file`; `fs`
//! splices the kept parts.

use super::packed::{Packed, Piece};

/// A piece of a region of a file: one subchunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionPiece {
    /// Length of the piece in bytes.
    pub len: u32,
    /// The subchunk that holds the piece's bytes.
    pub piece: Piece,
    /// Whether no old subchunk extends across the end of this piece, so that a splice that ends here cuts none in two.
    pub clean: bool,
    /// Whether the bytes were found in the image or in the batch, so that they are not stored again.
    pub saved: bool,
}

/// A range of a file that was cut into subchunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Offset in the file of the region's first byte.
    pub begin: u64,
    /// Offset in the file of the region's first byte that is not frozen.
    pub changed: u64,
    /// Pieces of the region, in order; at least one.
    pub pieces: Vec<RegionPiece>,
    /// Whether some borders differ from those that the chunker would find. A content with this region is uneven.
    pub uneven: bool,
}

impl Region {
    /// Returns the length of the region in bytes.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.len)).sum()
    }

    /// Returns whether the region has no pieces. `cut_file` never makes such a region.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns the offset in the file after the region's last byte.
    pub fn end(&self) -> u64 {
        self.begin.saturating_add(self.len())
    }

    /// Returns how many of the first `among` pieces may be spliced without the rest of the region: up to the last
    /// border after bytes that are not frozen that no old subchunk extends across. If there is no such border, up to
    /// the last border: otherwise the file might stay thawed for ever.
    pub(super) fn prefix(&self, among: usize) -> usize {
        let (mut at, mut clean, mut any) = (self.begin, 0, 0);
        for (n, piece) in self.pieces.iter().take(among).enumerate() {
            at = at.saturating_add(piece.len.into());
            if at > self.changed {
                any = n + 1;
                if piece.clean {
                    clean = n + 1;
                }
            }
        }
        if clean > 0 { clean } else { any }
    }
}

/// The parts of a file that were cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileCut {
    /// Regions of the file, in order.
    pub regions: Vec<Region>,
    /// Offset where to continue, if the batch was full or `stop` returned true; `None` if there is nothing more to cut.
    pub next: Option<u64>,
    /// End of the tiny content in the regions; 0 if there is none. A file cannot have both a content and a tiny
    /// content, so the tiny one is replaced as a whole.
    pub tiny: u64,
}

/// A range that replaces the same range of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRegion {
    /// Offset in the file of the range's first byte.
    pub begin: u64,
    /// Offset in the file after the range's last byte.
    pub end: u64,
    /// Pieces of the range, in order.
    pub pieces: Vec<RegionPiece>,
    /// Whether the content becomes uneven.
    pub uneven: bool,
}

/// The parts of a file that replace its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptFile {
    /// Regions to splice, in order.
    pub regions: Vec<KeptRegion>,
    /// Offset where to continue; `None` if everything that was to be cut is kept.
    pub next: Option<u64>,
}

impl Packed {
    /// Returns the parts of a file that may be spliced: its regions, each up to the first piece whose superchunk was
    /// dropped. If the tiny content is not replaced as a whole, nothing is spliced.
    pub fn kept(&self, file: &FileCut) -> KeptFile {
        let mut kept = KeptFile { regions: Vec::new(), next: file.next };
        let nothing = KeptFile { regions: Vec::new(), next: Some(0) };
        if file.next.is_some_and(|next| next < file.tiny) {
            return nothing;
        }
        for region in &file.regions {
            let there = region.pieces.iter().take_while(|piece| self.has(piece.piece)).count();
            let all = there == region.pieces.len();
            let count = if all { there } else { region.prefix(there) };
            let pieces: Vec<_> = region.pieces.iter().take(count).copied().collect();
            let end = pieces.iter().fold(region.begin, |at, piece| at.saturating_add(piece.len.into()));
            if end < region.end().min(file.tiny) {
                return nothing;
            }
            if !all {
                kept.next = Some(kept.next.map_or(end, |next| next.min(end)));
            }
            let clean = all || region.pieces.get(count.wrapping_sub(1)).is_some_and(|last| last.clean);
            if count > 0 {
                kept.regions.push(KeptRegion { begin: region.begin, end, pieces, uneven: region.uneven || !clean });
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::SubchunkId;
    use crate::format::params::HashKind;
    use crate::pack::matching::AnchorIndex;

    fn packed(subchunks: u64) -> Packed {
        Packed { superchunks: Vec::new(), subchunks, hash: HashKind::Blake3, anchors: AnchorIndex::new(0) }
    }

    fn region(begin: u64, changed: u64, pieces: &[(Piece, bool)]) -> Region {
        let pieces = pieces.iter().map(|&(piece, clean)| RegionPiece { len: 10, piece, clean, saved: false }).collect();
        Region { begin, changed, pieces, uneven: false }
    }

    fn ranges(kept: &KeptFile) -> Vec<(u64, u64, bool)> {
        kept.regions.iter().map(|region| (region.begin, region.end, region.uneven)).collect()
    }

    const KNOWN: Piece = Piece::Known(SubchunkId(9));

    #[test]
    fn what_was_dropped_is_kept_neither_itself_nor_its_duplicates_nor_what_comes_after_it() {
        use Piece::New;
        let first = region(0, 0, &[(New(0), true), (New(1), true), (New(2), true), (KNOWN, true)]);
        let again = region(100, 100, &[(New(2), true), (New(0), true)]);
        let other = region(200, 200, &[(KNOWN, true), (New(1), true)]);
        let file = FileCut { regions: vec![first, again, other], next: Some(300), tiny: 0 };
        let kept = packed(3).kept(&file);
        assert_eq!(ranges(&kept), [(0, 40, false), (100, 120, false), (200, 220, false)]);
        assert_eq!(kept.next, Some(300));
        let kept = packed(2).kept(&file);
        assert_eq!(ranges(&kept), [(0, 20, false), (200, 220, false)]);
        let pieces = kept.regions[0].pieces.iter().map(|piece| (piece.len, piece.piece));
        assert_eq!(pieces.collect::<Vec<_>>(), [(10, New(0)), (10, New(1))]);
        assert_eq!(kept.next, Some(20));
        assert_eq!(ranges(&packed(0).kept(&file)), [(200, 210, false)]);
    }

    #[test]
    fn a_part_of_a_region_ends_at_a_clean_border_after_something_changed_or_makes_the_content_uneven() {
        use Piece::New;
        let pieces = [(KNOWN, true), (New(0), true), (New(1), false), (New(2), true)];
        let file = |changed| FileCut { regions: vec![region(0, changed, &pieces)], next: None, tiny: 0 };
        assert_eq!(ranges(&packed(2).kept(&file(15))), [(0, 20, false)]);
        assert_eq!(packed(2).kept(&file(15)).next, Some(20));
        // The only border after the change is not clean.
        assert_eq!(ranges(&packed(2).kept(&file(25))), [(0, 30, true)]);
        // What is left was in the image before.
        assert_eq!(ranges(&packed(0).kept(&file(15))), [(0, 0, false); 0]);
    }

    #[test]
    fn nothing_of_a_file_is_kept_if_its_tiny_content_is_not() {
        use Piece::New;
        let regions = vec![region(0, 0, &[(New(5), true)]), region(100, 100, &[(New(0), true)])];
        let file = FileCut { regions, next: None, tiny: 7 };
        assert_eq!(ranges(&packed(6).kept(&file)).len(), 2);
        assert_eq!(packed(5).kept(&file), KeptFile { regions: Vec::new(), next: Some(0) });
    }
}
