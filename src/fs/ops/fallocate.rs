//! fallocate(2).
//!
//! Nothing is reserved: data that is written later is compressed later, and a hole stays a hole. So allocating only
//! checks whether there is space now, and changes the size, as in other file systems with compression.

use super::thaw::{Append, Source};
use super::truncate::SIZE;
use super::{attributes, body, names, shares, truncate};
use crate::format::ids::InodeId;
use crate::format::rows::{ContentRef, InodeRow};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::draft::Draft;
use crate::fs::live::Live;
use crate::meta::View;

/// Unit of [`Attr::blocks`](crate::fs::Attr), in bytes.
const STAT_BLOCK: u64 = 512;

/// What fallocate(2) is to do with the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallocateMode {
    /// Extend the file to the end of the range.
    Allocate,
    /// Only check whether there is space (FALLOC_FL_KEEP_SIZE).
    KeepSize,
    /// Make the range a hole (FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE).
    PunchHole,
    /// Make the range zeros by making it a hole (FALLOC_FL_ZERO_RANGE).
    ZeroRange {
        /// Whether the size stays even if the range ends after it.
        keep_size: bool,
    },
}

/// Performs the operation, with a limited number of changed rows. If it does not reach the end of the range, returns
/// where to go on.
pub(in crate::fs) fn fallocate(
    draft: &mut Draft,
    inode: InodeId,
    offset: u64,
    len: u64,
    mode: FallocateMode,
    append: Append<'_>,
) -> Result<Option<u64>, FsError> {
    let (mut row, standing) = draft.any_inode(inode)?;
    truncate::regular(&row)?;
    if len == 0 {
        return Err(FsError::Invalid);
    }
    let end = offset.checked_add(len).filter(|end| *end <= SIZE).ok_or(FsError::TooLarge)?;
    let now = draft.now();
    let mut next = None;
    if matches!(mode, FallocateMode::PunchHole | FallocateMode::ZeroRange { .. }) {
        draft.removes();
        let to = end.min(row.size);
        let step = if offset < to { reach(draft, inode, &row, offset, to)? } else { to };
        if offset < step {
            draft.unthaw(inode, offset, step - offset)?;
            body::punch(draft, &mut row, offset, step)?;
        }
        names::changed(&mut row, now);
        next = (step < to).then_some(step);
    }
    let extends = matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange { keep_size: false });
    if extends && next.is_none() && end > row.size {
        truncate::resize(draft, inode, &mut row, standing, end, append)?;
        row.mtime = now;
    }
    row.ctime = now;
    draft.put_any(inode, &row, standing);
    Ok(next)
}

/// Returns the offset in `[from, to)` up to which a single operation may go, because it deletes a limited number of
/// rows.
// Case 27.
pub(super) fn reach(draft: &mut Draft, inode: InodeId, row: &InodeRow, from: u64, to: u64) -> Result<u64, FsError> {
    let mut reached = to;
    if draft.view().has_thawed() {
        reached = truncate::upto(draft.view(), &schema::THAWED, inode.0, from, reached)?;
    }
    if let ContentRef::Content(id) = row.content
        && !shares::is_shared(draft, body::content_share(id))?
    {
        reached = truncate::upto(draft.view(), &schema::CONTENTS, id.0, from, reached)?;
    }
    Ok(reached)
}

/// Returns an upper bound of the bytes that writing the whole range would add: those after the end of the file, and
/// holes.
fn need(view: &View, inode: InodeId, row: &InodeRow, offset: u64, len: u64) -> Result<u64, FsError> {
    let end = offset.saturating_add(len);
    let within = end.min(row.size).saturating_sub(offset);
    let blocks = attributes::of(view, inode, row)?.blocks;
    let holes = row.size.saturating_sub(blocks.saturating_mul(STAT_BLOCK));
    Ok(end.saturating_sub(row.size.max(offset)).saturating_add(within.min(holes)))
}

impl Live {
    /// Applies `mode` to the range `[offset, offset + len)` of a regular file.
    ///
    /// # Errors
    /// Fails with `NoSpace` if there is not enough space for the allocation; `Invalid` if `len` is 0; `TooLarge` beyond
    /// 2^63 - 1; `NotFound`, `IsDirectory`, `NotRegular`, `ReadOnly`; `Io` if tables cannot be read.
    pub fn fallocate(&self, inode: InodeId, offset: u64, len: u64, mode: FallocateMode) -> Result<(), FsError> {
        if matches!(mode, FallocateMode::Allocate | FallocateMode::KeepSize) {
            let snapshot = self.snapshot();
            let row = snapshot.view().inode(inode)?.or(snapshot.view().orphan(inode)?).ok_or(FsError::NotFound)?;
            if need(snapshot.view(), inode, &row, offset, len)? > self.space()?.free {
                return Err(FsError::NoSpace);
            }
        }
        let source = Source::new(self, &[]);
        let append = |before: &[u8]| source.append(before);
        let end = offset.saturating_add(len);
        let mut at = offset;
        loop {
            let rest = if at == offset { len } else { end.saturating_sub(at) };
            match self.transact(|draft| fallocate(draft, inode, at, rest, mode, &append))? {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::ops::tests::World;

    #[test]
    fn only_what_is_not_there_yet_needs_space() {
        let mut world = World::new();
        let file = world.file("a");
        world.write(file, 4096, &[b'x'; 4096]).unwrap();
        let need = |offset, len| need(world.view(), file, &world.row(file), offset, len).unwrap();
        assert_eq!(need(8192, 100), 100);
        assert_eq!(need(0, 8192), 4096);
        assert_eq!(need(4096, 10_000), 4096 + 5904);
        assert_eq!(need(1 << 40, 5), 5);
    }
}
