//! Changes the content that a file's row names: cuts it off, replaces a range of it, or releases it (sections 8.1, 8.3,
//! 8.5).
//!
//! A content with one user is changed in place; a content with several users is copied first. A content never ends
//! after the file's size, and never in a hole. This file ignores thawed ranges. Callers: write, truncate, fallocate,
//! copy, unlink, reap.

use super::shares;
use crate::format::block::{Key, KeyRef, Row};
use crate::format::ids::{ContentId, SubchunkId, TinyId};
use crate::format::rows::{ContentRef, ContentRow, Extent, InodeRow, ShareKey, ShareKind};
use crate::format::schema;
use crate::fs::FsError;
use crate::fs::content::{data_of, forget_content, hole, part, set_allocated, set_uneven, slice};
use crate::fs::draft::Draft;
use crate::meta::{MetaError, View};

/// A content with one user, while an operation changes it.
struct Own {
    id: ContentId,
    /// Length of the content in bytes.
    end: u64,
    /// Bytes of the content that are not in holes.
    data: u64,
}

/// Returns the key of a content in the table of shares.
pub(super) fn content_share(id: ContentId) -> ShareKey {
    ShareKey { kind: ShareKind::Content, id: id.0 }
}

/// Returns the key of a tiny content in the table of shares.
pub(super) fn tiny_share(id: TinyId) -> ShareKey {
    ShareKey { kind: ShareKind::Tiny, id: id.0 }
}

/// Returns the last row of a content with the offset at which it begins; `None` if the content has no rows.
fn last_row(view: &View, id: ContentId) -> Result<Option<(u64, ContentRow)>, FsError> {
    before(view, id, u64::MAX)
}

/// Returns the last row of a content that begins at or before `at`, with its offset.
pub(super) fn before(view: &View, id: ContentId, at: u64) -> Result<Option<(u64, ContentRow)>, FsError> {
    let row = view.floor_within(&schema::CONTENTS, KeyRef::new(id.0, at))?;
    let Some(row) = row.filter(|row| row.key().a == id.0) else { return Ok(None) };
    let begin = row.key().b;
    let decoded = ContentRow::decode(begin, row.ints(), row.tail()).map_err(MetaError::from)?;
    Ok(Some((begin, decoded)))
}

/// Returns the offset in bytes where a content ends.
pub(in crate::fs) fn end_of(view: &View, id: ContentId) -> Result<u64, FsError> {
    Ok(last_row(view, id)?.map_or(0, |(begin, row)| begin.saturating_add(row.length)))
}

/// Returns the key after all rows of a content. Ids are below 2^62.
fn after(id: ContentId) -> Key {
    Key::new(id.0.saturating_add(1), 0)
}

fn put_row(draft: &mut Draft, id: ContentId, begin: u64, row: &ContentRow) {
    let (ints, tail) = row.encode();
    draft.put(&schema::CONTENTS, Row { key: Key::new(id.0, begin), ints: ints.to_vec(), tail });
}

fn delete_rows(draft: &mut Draft, id: ContentId, from: u64) -> Result<(), FsError> {
    draft.delete_range(&schema::CONTENTS, Key::new(id.0, from), after(id))
}

/// Replaces the row's content, which must be tiny, by another tiny content.
fn replace_tiny(draft: &mut Draft, row: &mut InodeRow, id: TinyId, bytes: Vec<u8>) -> Result<(), FsError> {
    let id = if shares::remove_user(draft, tiny_share(id))? { id } else { draft.new_tiny()? };
    draft.put(&schema::TINY, Row { key: Key::new(id.0, 0), ints: Vec::new(), tail: bytes });
    row.content = ContentRef::Tiny(id);
    Ok(())
}

/// Returns the row's content in a form that may be changed. If it must be copied, only the bytes before `upto` are. The
/// row does not name it yet.
fn own(draft: &mut Draft, row: &InodeRow, upto: u64) -> Result<Own, FsError> {
    match row.content {
        ContentRef::None => Ok(Own { id: draft.new_content()?, end: 0, data: 0 }),
        ContentRef::Tiny(_) => Err(FsError::io("a tiny content has no extents")),
        ContentRef::Subchunk(subchunk) => {
            let id = draft.new_content()?;
            let end = row.size.min(upto);
            if end > 0 {
                put_row(draft, id, 0, &slice(subchunk, 0, end));
            }
            Ok(Own { id, end, data: end })
        }
        ContentRef::Content(old) => {
            if !shares::is_shared(draft, content_share(old))? {
                let end = end_of(draft.view(), old)?;
                return Ok(Own { id: old, end, data: row.allocated().unwrap_or(end).min(end) });
            }
            shares::remove_user(draft, content_share(old))?;
            let mut own = Own { id: draft.new_content()?, end: 0, data: 0 };
            let view = draft.view().clone();
            let mut extents = view.extents(old, 0)?;
            while let Some((begin, extent)) = extents.next(&view)? {
                if begin >= upto {
                    break;
                }
                for (at, piece) in part(begin, &extent, 0, upto) {
                    put_row(draft, own.id, at, &piece);
                    own.end = at.saturating_add(piece.length);
                    own.data = own.data.saturating_add(data_of(&piece));
                }
            }
            Ok(own)
        }
    }
}

/// Makes `own` the content of the row, without the holes at its end.
fn settle(draft: &mut Draft, row: &mut InodeRow, mut own: Own) -> Result<(), FsError> {
    while let Some((begin, last)) = last_row(draft.view(), own.id)?
        && last.extent == Extent::Hole
    {
        draft.delete(&schema::CONTENTS, Key::new(own.id.0, begin));
        own.end = begin;
    }
    if own.end == 0 {
        row.content = ContentRef::None;
        forget_content(row);
    } else {
        row.content = ContentRef::Content(own.id);
        set_allocated(row, own.data, own.end);
    }
    Ok(())
}

/// Releases the row's content. If this was its last user, its rows are deleted.
pub(super) fn release(draft: &mut Draft, row: &mut InodeRow) -> Result<(), FsError> {
    match row.content {
        ContentRef::None | ContentRef::Subchunk(_) => {}
        ContentRef::Tiny(id) => {
            if shares::remove_user(draft, tiny_share(id))? {
                draft.delete(&schema::TINY, Key::new(id.0, 0));
            }
        }
        ContentRef::Content(id) => {
            if shares::remove_user(draft, content_share(id))? {
                delete_rows(draft, id, 0)?;
            }
        }
    }
    row.content = ContentRef::None;
    forget_content(row);
    Ok(())
}

/// Removes all bytes from `size` on from the row's content, so that they do not come back when the file grows. The
/// caller changes the row's size.
pub(super) fn shorten(draft: &mut Draft, row: &mut InodeRow, size: u64) -> Result<(), FsError> {
    if size >= row.size {
        return Ok(());
    }
    if size == 0 {
        return release(draft, row);
    }
    match row.content {
        ContentRef::None => Ok(()),
        ContentRef::Tiny(id) => {
            let mut bytes = draft.view().tiny(id)?;
            bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
            replace_tiny(draft, row, id, bytes)
        }
        //= format-spec.md#8.3
        //# A content never ends after the size of an inode that names it.
        ContentRef::Subchunk(_) => {
            let own = own(draft, row, size)?;
            settle(draft, row, own)
        }
        ContentRef::Content(id) => {
            if end_of(draft.view(), id)? <= size {
                return Ok(());
            }
            let mut own = own(draft, row, size)?;
            if own.end > size {
                replace_rows(draft, &mut own, size, u64::MAX, &[])?;
            }
            settle(draft, row, own)
        }
    }
}

/// Turns a single subchunk into a content, so that the file can grow.
pub(super) fn loosen(draft: &mut Draft, row: &mut InodeRow) -> Result<(), FsError> {
    if let ContentRef::Subchunk(_) = row.content {
        let own = own(draft, row, u64::MAX)?;
        settle(draft, row, own)?;
    }
    Ok(())
}

/// Makes the bytes `[at, to)` of the row's content a hole. `to` is at most the file's size.
pub(super) fn punch(draft: &mut Draft, row: &mut InodeRow, at: u64, to: u64) -> Result<(), FsError> {
    if at >= to {
        return Ok(());
    }
    if at == 0 && to >= row.size {
        return release(draft, row);
    }
    match row.content {
        ContentRef::None => Ok(()),
        ContentRef::Tiny(id) => {
            // A tiny content has no holes: its bytes become zeros.
            let mut bytes = draft.view().tiny(id)?;
            let range = usize::try_from(at).unwrap_or(usize::MAX)..usize::try_from(to).unwrap_or(usize::MAX);
            bytes.get_mut(range).unwrap_or_default().fill(0);
            replace_tiny(draft, row, id, bytes)
        }
        ContentRef::Subchunk(_) | ContentRef::Content(_) => replace(draft, row, at, &[hole(to - at)]),
    }
}

/// Replaces the row's content from `at` on by `pieces`, as far as these reach. The row must not be tiny. When the
/// operation is done, the file's size must be at least the end of the pieces.
pub(super) fn replace(draft: &mut Draft, row: &mut InodeRow, at: u64, pieces: &[ContentRow]) -> Result<(), FsError> {
    let own = own(draft, row, u64::MAX)?;
    let has_data = pieces.iter().any(|piece| piece.extent != Extent::Hole);
    let uneven = has_data || end_after(at, pieces) < own.end;
    put_pieces(draft, row, own, at, pieces)?;
    if uneven && matches!(row.content, ContentRef::Content(_)) {
        set_uneven(row);
    }
    Ok(())
}

/// Replaces the row's content as [`replace`] does, by bytes that were cut by a chunker. The content becomes uneven only
/// if the pieces have a part of a subchunk (`whole` says that they have none), or if a part of an old subchunk stays.
/// If it was uneven before, it stays so.
pub(super) fn splice(
    draft: &mut Draft,
    row: &mut InodeRow,
    at: u64,
    pieces: &[ContentRow],
    whole: bool,
) -> Result<(), FsError> {
    let own = own(draft, row, u64::MAX)?;
    let (view, to) = (draft.view(), end_after(at, pieces));
    let uneven = !whole || is_inside(view, &own, at)? || is_inside(view, &own, to)?;
    put_pieces(draft, row, own, at, pieces)?;
    if uneven {
        set_uneven(row);
    }
    Ok(())
}

fn end_after(at: u64, pieces: &[ContentRow]) -> u64 {
    pieces.iter().fold(at, |at, piece| at.saturating_add(piece.length))
}

/// Returns whether a content has a subchunk that begins before `at` and ends after it.
fn is_inside(view: &View, own: &Own, at: u64) -> Result<bool, FsError> {
    let Some((begin, row)) = before(view, own.id, at)?.filter(|(begin, _)| *begin < at) else { return Ok(false) };
    if at >= begin.saturating_add(row.length) {
        return Ok(false);
    }
    Ok(match &row.extent {
        Extent::Hole => false,
        Extent::Slice { .. } => true,
        Extent::Run { lens, .. } => {
            let ends = lens.iter().scan(begin, |end, &len| {
                *end = end.saturating_add(len.into());
                Some(*end)
            });
            !ends.into_iter().any(|end| end == at)
        }
    })
}

/// Puts the pieces into a content, which becomes the row's.
fn put_pieces(
    draft: &mut Draft,
    row: &mut InodeRow,
    mut own: Own,
    at: u64,
    pieces: &[ContentRow],
) -> Result<(), FsError> {
    if at < own.end || pieces.iter().any(|piece| piece.extent != Extent::Hole) {
        let (at, pieces) = merged(draft.view(), &own, at, pieces)?;
        replace_rows(draft, &mut own, at, end_after(at, &pieces), &pieces)?;
    }
    settle(draft, row, own)
}

/// Replaces the row's content by a new tiny content with these bytes.
pub(super) fn become_tiny(draft: &mut Draft, row: &mut InodeRow, bytes: Vec<u8>) -> Result<(), FsError> {
    release(draft, row)?;
    let id = draft.new_tiny()?;
    draft.put(&schema::TINY, Row { key: Key::new(id.0, 0), ints: Vec::new(), tail: bytes });
    row.content = ContentRef::Tiny(id);
    Ok(())
}

/// Replaces the row's content by one whole subchunk, which is as long as the file.
pub(super) fn become_subchunk(draft: &mut Draft, row: &mut InodeRow, subchunk: SubchunkId) -> Result<(), FsError> {
    release(draft, row)?;
    row.content = ContentRef::Subchunk(subchunk);
    Ok(())
}

/// Returns the pieces and where they begin. If the content ends before `at`, a hole comes first. Adjoining holes are
/// merged.
fn merged(view: &View, own: &Own, mut at: u64, pieces: &[ContentRow]) -> Result<(u64, Vec<ContentRow>), FsError> {
    let gap = at.saturating_sub(own.end);
    at -= gap;
    let (mut all, mut end) = (Vec::<ContentRow>::new(), at);
    for piece in (gap > 0).then(|| hole(gap)).into_iter().chain(pieces.iter().cloned()) {
        end = end.saturating_add(piece.length);
        match all.last_mut() {
            Some(last) if last.extent == Extent::Hole && piece.extent == Extent::Hole => last.length += piece.length,
            _ => all.push(piece),
        }
    }
    let is_hole = |piece: Option<&ContentRow>| piece.is_some_and(|piece| piece.extent == Extent::Hole);
    if end < own.end
        && is_hole(all.last())
        && let Some((begin, row)) = before(view, own.id, end)?
        && row.extent == Extent::Hole
        && let Some(last) = all.last_mut()
    {
        last.length += begin.saturating_add(row.length).saturating_sub(end);
    }
    if is_hole(all.first())
        && let Some(upto) = at.checked_sub(1)
        && let Some((begin, row)) = before(view, own.id, upto)?
        && row.extent == Extent::Hole
        && let Some(first) = all.first_mut()
    {
        first.length += at - begin;
        at = begin;
    }
    Ok((at, all))
}

/// Replaces the rows of `[at, to)` by `pieces`. These fill the range, or there are none and the content ends at `at`.
/// The content must not end before `at`.
fn replace_rows(draft: &mut Draft, own: &mut Own, at: u64, to: u64, pieces: &[ContentRow]) -> Result<(), FsError> {
    let view = draft.view().clone();
    let (mut kept, mut first, mut gone) = (Vec::new(), None, 0u64);
    if own.end > at {
        let mut extents = view.extents(own.id, at)?;
        while let Some((begin, extent)) = extents.next(&view)? {
            if begin >= to {
                break;
            }
            first = first.or(Some(begin));
            gone = gone.saturating_add(data_of(&extent));
            for piece in part(begin, &extent, 0, at).into_iter().chain(part(begin, &extent, to, u64::MAX)) {
                gone = gone.saturating_sub(data_of(&piece.1));
                kept.push(piece);
            }
        }
    }
    if let Some(first) = first {
        let upper = if to == u64::MAX { after(own.id) } else { Key::new(own.id.0, to) };
        draft.delete_range(&schema::CONTENTS, Key::new(own.id.0, first), upper)?;
    }
    for (begin, row) in &kept {
        put_row(draft, own.id, *begin, row);
    }
    let mut end = at;
    for piece in pieces {
        put_row(draft, own.id, end, piece);
        own.data = own.data.saturating_add(data_of(piece));
        end = end.saturating_add(piece.length);
    }
    own.data = own.data.saturating_sub(gone);
    own.end = if to >= own.end { end } else { own.end };
    Ok(())
}

/// Returns the number of rows of a content that begin at or after `from`, at most `most` + 1.
pub(super) fn rows_from(view: &View, id: ContentId, from: u64, most: usize) -> Result<usize, FsError> {
    let mut cursor = view.cursor_within(&schema::CONTENTS, KeyRef::new(id.0, from), after(id))?;
    let mut rows = 0;
    while rows <= most && cursor.row().is_some_and(|row| row.key().a == id.0) {
        rows += 1;
        cursor.advance(view)?;
    }
    Ok(rows)
}
