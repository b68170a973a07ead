//! Gives files with equal contents one common content, as `pack` does: the last part of a deep freeze.
//!
//! One walk over the inodes notes a hash of each content and tiny content, with its id and its inode. After sorting,
//! contents that may be equal are next to each other. Then file after file becomes a user of the first one's content,
//! in an operation that compares the contents themselves. So hash and order are only hints, and a file that changes
//! meanwhile is left as it is. Memory does not grow with the number of files (`sorted`). Called by `pass`.

use super::report::{FreezeHow, FreezeReport};
use super::sorted::{LEN, Record, Sorter};
use crate::format::block::KeyRef;
use crate::format::ids::{ContentId, InodeId, TinyId};
use crate::format::rows::{ContentRef, FileType, InodeRow};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::equal::{self, HASH};
use crate::fs::live::Live;
use crate::fs::ops::{Holder, STEP_ROWS, Sharing, share_equal};
use crate::fs::snapshot::Snapshot;
use std::io;
use std::sync::atomic::Ordering;

/// Number of inodes read from one snapshot. A snapshot that is kept longer would keep segments of the log, and what gc
/// wants to free.
const INODES: usize = 4096;
/// Bit that marks the id of a tiny content in a record. Ids are below 2^62.
const TINY: u64 = 1 << 63;

/// A file, and a hash of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    hash: [u8; HASH],
    holder: Holder,
}

/// Makes files with equal contents share one content, unless they change meanwhile.
pub(super) fn share(live: &Live, how: &FreezeHow<'_>, report: &mut FreezeReport) -> Result<(), FsError> {
    let spill = live.freezing.lock().spill().to_owned();
    let (mut sorter, mut from) = (Sorter::new(&spill), Some(InodeId(0)));
    while let Some(inode) = from.take()
        && !(how.stop)()
    {
        from = gather(&live.snapshot(), inode, &mut sorter)?;
    }
    #[cfg(test)]
    live.freezer.at(super::control::Step::Gathered);
    let mut sorted = sorter.sorted().map_err(|error| spilled(&error))?;
    let mut first: Option<Found> = None;
    while let Some(record) = sorted.next().map_err(|error| spilled(&error))?
        && !(how.stop)()
    {
        let found = Found::decode(&record);
        let Some(target) = first.filter(|first| first.hash == found.hash) else {
            first = Some(found);
            continue;
        };
        if target.holder.content == found.holder.content {
            continue;
        }
        let bytes = tiny_len(live, found.holder)?;
        let sharing = live.transact(|draft| {
            let sharing = share_equal(draft, found.holder, target.holder);
            #[cfg(test)]
            live.freezer.at(super::control::Step::Compared);
            sharing
        })?;
        match sharing {
            Sharing::Shared => {
                report.shared_bytes = report.shared_bytes.saturating_add(bytes);
                live.saved.fetch_add(bytes, Ordering::Relaxed);
            }
            // Further files with this hash share this one's content.
            Sharing::TargetChanged => first = Some(found),
            Sharing::Not => {}
        }
    }
    Ok(())
}

/// Collects the contents of some inodes, from `from` on. Returns where to continue.
fn gather(now: &Snapshot, from: InodeId, sorter: &mut Sorter) -> Result<Option<InodeId>, FsError> {
    let view = now.view();
    let mut cursor = view.cursor_at(&schema::INODES, KeyRef::new(from.0, 0))?;
    for _ in 0..INODES {
        let Some(row) = cursor.row() else { return Ok(None) };
        let (inode, row) = (InodeId(row.key().a), InodeRow::decode(row.ints(), row.tail())?);
        // A file with bytes in the log is being written to: it would soon copy the content again.
        if row.file_type == FileType::Regular
            && (!view.has_thawed() || view.thawed(inode, 0)?.next(view)?.is_none())
            && let Some(hash) = equal::hash(view, row.content, STEP_ROWS)?
        {
            let found = Found { hash, holder: Holder { inode, content: row.content } };
            sorter.push(found.encode()).map_err(|error| spilled(&error))?;
        }
        cursor.advance(view)?;
    }
    Ok(cursor.row().map(|row| InodeId(row.key().a)))
}

/// Returns the bytes that sharing saves. A tiny content is deleted with its last user. Contents save nothing here:
/// their bytes are in subchunks, which are shared already.
fn tiny_len(live: &Live, holder: Holder) -> Result<u64, FsError> {
    if !matches!(holder.content, ContentRef::Tiny(_)) {
        return Ok(0);
    }
    Ok(live.snapshot().view().inode(holder.inode)?.map_or(0, |row| row.size))
}

fn spilled(error: &io::Error) -> FsError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FsError::NoSpace,
        _ => FsError::io(format!("cannot sort contents: {error}")),
    }
}

impl Found {
    /// Encodes hash, id and inode, so that equal contents sort next to each other, and so do users of the same content.
    fn encode(&self) -> Record {
        let id = match self.holder.content {
            ContentRef::Content(id) => id.0,
            ContentRef::Tiny(id) => id.0 | TINY,
            ContentRef::None | ContentRef::Subchunk(_) => 0,
        };
        let mut out = [0; LEN];
        let fields = self.hash.into_iter().chain(id.to_be_bytes()).chain(self.holder.inode.0.to_be_bytes());
        out.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        out
    }

    fn decode(record: &Record) -> Self {
        let (hash, numbers) = record.split_first_chunk::<HASH>().unwrap_or((&[0; HASH], &[]));
        let number = |at: usize| {
            let bytes = numbers.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default();
            u64::from_be_bytes(bytes)
        };
        let (id, inode) = (number(0), InodeId(number(8)));
        let content = match id {
            0 => ContentRef::None,
            id if id & TINY != 0 => ContentRef::Tiny(TinyId(id & !TINY)),
            id => ContentRef::Content(ContentId(id)),
        };
        Found { hash: *hash, holder: Holder { inode, content } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        for content in [ContentRef::Content(ContentId((1 << 62) - 1)), ContentRef::Tiny(TinyId(7))] {
            let holder = Holder { inode: InodeId(u64::from(u32::MAX) << 8), content };
            let found = Found { hash: std::array::from_fn(|n| n as u8), holder };
            assert_eq!(Found::decode(&found.encode()), found);
        }
    }
}
