//! Whether two contents name the same bytes. They are compared part by part. A hash over the parts finds candidates.
//!
//! A part is a range of one subchunk, or a hole. How the parts are grouped into rows does not matter: a content that
//! was spliced in steps has other rows than one that was packed at once. No content is ever in memory as a whole.
//! Callers: `freezing/share` and `ops/share_equal`.
//! `freezing/share` and `ops/share_equal`.

use super::FsError;
use crate::format::ids::{ContentId, SubchunkId};
use crate::format::rows::{ContentRef, Extent};
use crate::meta::{Extents, View};

/// Bytes of a hash of a content: so many that different contents hardly ever have the same hash. Contents with equal
/// hashes are compared all the same.
pub(super) const HASH: usize = 16;

/// A range of a content that is within one subchunk, or is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// The subchunk, and the offset of the part's first byte in it; `None` for a hole.
    source: Option<(SubchunkId, u32)>,
    len: u64,
}

/// Iterates over the parts of one content, in order.
struct Parts {
    extents: Extents,
    /// The rest of a run of subchunks: the id of the next subchunk, and the lengths from there on.
    run: Option<(SubchunkId, std::vec::IntoIter<u32>)>,
    rows: usize,
}

impl Parts {
    fn new(view: &View, id: ContentId) -> Result<Self, FsError> {
        Ok(Parts { extents: view.extents(id, 0)?, run: None, rows: 0 })
    }

    fn next(&mut self, view: &View) -> Result<Option<Part>, FsError> {
        loop {
            if let Some((id, lens)) = &mut self.run {
                if let Some(len) = lens.next() {
                    let part = Part { source: Some((*id, 0)), len: len.into() };
                    *id = SubchunkId(id.0.saturating_add(1));
                    return Ok(Some(part));
                }
                self.run = None;
            }
            let Some((_, row)) = self.extents.next(view)? else { return Ok(None) };
            self.rows = self.rows.saturating_add(1);
            match row.extent {
                Extent::Hole => return Ok(Some(Part { source: None, len: row.length })),
                Extent::Slice { subchunk, skip } => {
                    return Ok(Some(Part { source: Some((subchunk, skip)), len: row.length }));
                }
                Extent::Run { first, lens } => self.run = Some((first, lens.into_iter())),
            }
        }
    }
}

/// Returns a hash of the content that a file's row names, or `None` if the content cannot be shared or has more than
/// `most` rows.
pub(super) fn hash(view: &View, content: ContentRef, most: usize) -> Result<Option<[u8; HASH]>, FsError> {
    let mut hasher = blake3::Hasher::new();
    match content {
        ContentRef::None | ContentRef::Subchunk(_) => return Ok(None),
        ContentRef::Tiny(id) => _ = hasher.update(b"tiny").update(&view.tiny(id)?),
        ContentRef::Content(id) => {
            hasher.update(b"content");
            let mut parts = Parts::new(view, id)?;
            while let Some(part) = parts.next(view)? {
                if parts.rows > most {
                    return Ok(None);
                }
                // No subchunk has the id 0.
                let (id, skip) = part.source.unwrap_or_default();
                hasher.update(&id.0.to_le_bytes()).update(&skip.to_le_bytes()).update(&part.len.to_le_bytes());
            }
        }
    }
    let mut out = [0; HASH];
    hasher.finalize_xof().fill(&mut out);
    Ok(Some(out))
}

/// Returns whether both are tiny contents with the same bytes, or contents with the same parts in at most `most` rows.
pub(super) fn is_equal(view: &View, a: ContentRef, b: ContentRef, most: usize) -> Result<bool, FsError> {
    match (a, b) {
        (ContentRef::Tiny(a), ContentRef::Tiny(b)) => Ok(view.tiny(a)? == view.tiny(b)?),
        (ContentRef::Content(a), ContentRef::Content(b)) => {
            let (mut a, mut b) = (Parts::new(view, a)?, Parts::new(view, b)?);
            loop {
                let (one, other) = (a.next(view)?, b.next(view)?);
                if one != other || a.rows > most {
                    return Ok(false);
                }
                if one.is_none() {
                    return Ok(true);
                }
            }
        }
        _ => Ok(false),
    }
}
