//! Bytes of files in the thaw log. They are appended before a draft names them, and kept while it is evaluated again.

use super::body;
use crate::format::ids::InodeId;
use crate::format::rows::{ContentRef, InodeRow};
use crate::format::transaction::Thawed;
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::live::{Live, Written};
use crate::thaw::Appended;
use std::cell::RefCell;

/// A function that appends the given bytes to the thaw log, followed by the data that the operation was called with. So
/// the operation itself need not have that data. The function returns where all of these bytes are.
pub(super) type Append<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<Appended>, FsError>;

/// Appends bytes to the thaw log for one operation, however often it is evaluated: what an earlier evaluation appended
/// is not appended again. The segments are not deleted until this is dropped.
pub(super) struct Source<'a> {
    live: &'a Live,
    data: &'a [u8],
    done: RefCell<Vec<(Vec<u8>, Written<'a>)>>,
}

impl<'a> Source<'a> {
    /// Makes the source for an operation that was called with `data`.
    pub(super) fn new(live: &'a Live, data: &'a [u8]) -> Self {
        Source { live, data, done: RefCell::new(Vec::new()) }
    }

    /// Appends bytes as [`Append`] says.
    pub(super) fn append(&self, before: &[u8]) -> Result<Vec<Appended>, FsError> {
        let mut done = self.done.borrow_mut();
        if let Some((_, written)) = done.iter().find(|(known, _)| known == before) {
            return Ok(written.pieces.clone());
        }
        let written = match before {
            [] => self.live.append(self.data)?,
            _ => self.live.append(&[before, self.data].concat())?,
        };
        let pieces = written.pieces.clone();
        done.push((before.to_vec(), written));
        Ok(pieces)
    }
}

/// Makes the bytes `[skip, skip + len)` of what was appended the bytes of `inode` from `offset` on.
pub(in crate::fs) fn put(
    draft: &mut Draft,
    inode: InodeId,
    pieces: &[Appended],
    skip: u64,
    offset: u64,
    len: u64,
) -> Result<(), FsError> {
    let (mut at, end) = (0u64, skip.saturating_add(len));
    for piece in pieces {
        let (from, to) = (at.max(skip), at.saturating_add(piece.len).min(end));
        if from < to {
            draft.thaw(Thawed {
                inode,
                offset: offset.saturating_add(from - skip),
                len: to - from,
                frame: piece.frame,
                within: from - at,
                sum: piece.sum,
            })?;
        }
        at = at.saturating_add(piece.len);
    }
    if at < end { Err(FsError::io("fewer bytes were appended than were written")) } else { Ok(()) }
}

/// Returns the bytes of a tiny content; empty if the row has none.
pub(super) fn tiny_bytes(draft: &Draft, row: &InodeRow) -> Result<Vec<u8>, FsError> {
    match row.content {
        ContentRef::Tiny(id) => Ok(draft.view().tiny(id)?),
        _ => Ok(Vec::new()),
    }
}

/// Turns the `len` bytes of a tiny content into thawed ones, except where there are thawed ranges already. The bytes
/// were appended after `skip` others. The row has no content then.
pub(super) fn tiny(
    draft: &mut Draft,
    inode: InodeId,
    row: &mut InodeRow,
    pieces: &[Appended],
    skip: u64,
    len: u64,
) -> Result<(), FsError> {
    let (mut at, mut gaps) = (0, Vec::new());
    let mut ranges = draft.view().thawed_within(inode, 0, len)?;
    while let Some((begin, range)) = ranges.next(draft.view())? {
        if begin > at && at < len {
            gaps.push((at, begin.min(len)));
        }
        at = begin.saturating_add(range.length);
    }
    if at < len {
        gaps.push((at, len));
    }
    for (from, to) in gaps {
        put(draft, inode, pieces, skip.saturating_add(from), from, to - from)?;
    }
    body::release(draft, row)
}
