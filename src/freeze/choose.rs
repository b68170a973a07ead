//! Decides whether a file is cut by the image's chunker or into blocks of fixed length.
//!
//! A change inside frozen data costs the chunker the subchunks around it: the one before, and those up to the first old
//! border, together about three average subchunks. A block of fixed length costs only itself. For a disk image or a
//! database with changes of 4 KiB all over, this difference is most of what is stored. On the other hand, blocks make
//! the content uneven, and data that was inserted or moved is not found again. So blocks are for large files whose
//! changes are many, short and mostly inside frozen data. A large file that is uneven already loses little, and keeps
//! blocks.

use super::layout::{Layout, SpanSource};
use super::recut::{Blocks, FIXED_LEN};
use crate::format::params::{Chunker, Params};

/// Size in bytes: only longer files may be cut into blocks of a fixed length.
const LARGE: u64 = 64 << 20;
/// Most changes of a file that are looked at, from the first on, to decide into which blocks it is cut.
const SAMPLE: u64 = 256;
/// Least number of changes inside frozen data for which a file is cut into blocks of a fixed length. With fewer
/// changes, that saves less than 2 MiB.
const MANY: u64 = 16;
/// Length in bytes: longer changes are not random writes.
const SHORT: u64 = 2 * FIXED_LEN as u64;
/// Most spans of one change that are looked at. A change with more is not short.
const SPANS: usize = 32;

/// Decides into which blocks to cut a file. `is_uneven` says that its content is uneven: it was not cut from its start
/// by the chunker. Looks only at the first changes.
///
/// # Errors
/// Fails if the layout cannot be read.
pub fn choose<L: Layout>(layout: &mut L, params: &Params, is_uneven: bool) -> Result<Blocks, L::Error> {
    let is_able = matches!(params.chunker, Chunker::FastCdc { max, .. } if max >= FIXED_LEN);
    if !is_able || layout.size() <= LARGE {
        return Ok(Blocks::Image);
    }
    if is_uneven {
        return Ok(Blocks::Fixed);
    }
    let (mut seen, mut inside, mut at) = (0, 0, 0);
    while seen < SAMPLE
        && let Some(begin) = layout.thawed(at)?
    {
        let (end, is_after_stored) = (change_end(layout, begin)?, is_stored(layout, begin.checked_sub(1))?);
        seen += 1;
        inside += u64::from(is_after_stored && end - begin <= SHORT && is_stored(layout, Some(end))?);
        at = end;
    }
    // A file that is written for the first time has only one change, or a few.
    Ok(if inside >= MANY && inside > seen / 2 { Blocks::Fixed } else { Blocks::Image })
}

/// Returns the end of the change that begins at `begin`; if the change is not short, some offset beyond a short one.
fn change_end<L: Layout>(layout: &mut L, begin: u64) -> Result<u64, L::Error> {
    let mut end = begin;
    for _ in 0..SPANS {
        if end >= layout.size() || end - begin > SHORT {
            break;
        }
        let span = layout.span(end)?;
        if !matches!(span.source, SpanSource::Thawed { .. }) {
            break;
        }
        end = span.end();
    }
    Ok(end)
}

/// Returns whether the byte is stored in a subchunk.
fn is_stored<L: Layout>(layout: &mut L, offset: Option<u64>) -> Result<bool, L::Error> {
    match offset.filter(|&offset| offset < layout.size()) {
        Some(offset) => Ok(matches!(layout.span(offset)?.source, SpanSource::Stored { .. })),
        None => Ok(false),
    }
}
