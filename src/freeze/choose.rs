//! Whether a file is cut by the image's chunker or into blocks of one length.
//!
//! A change inside frozen data costs the chunker the subchunks around it: one before, and those up to the first border that is
//! an old one, about three average ones together. A block of fixed length costs itself. For a disk image or a database with
//! changes of 4 KiB all over, this is most of what is stored. On the other hand, blocks make the content uneven, and what was
//! inserted or moved is not found again. So blocks are for large files, where the changes seen are many, short and mostly
//! inside frozen data; a large file that is uneven already has little to lose and stays with them.

use super::layout::{Layout, SpanSource};
use super::recut::{Blocks, FIXED_LEN};
use crate::format::params::{Chunker, Params};

/// Files that are longer than this may be cut into blocks, bytes.
const LARGE: u64 = 64 << 20;
/// Changes that are looked at: the first ones.
const SAMPLE: u64 = 256;
/// So many changes inside frozen data are many. With fewer, what blocks save is less than 2 MiB.
const MANY: u64 = 16;
/// Longer changes are no random writes, in blocks.
const SHORT: u64 = 2 * FIXED_LEN as u64;
/// Spans of one change that are looked at: with more it is no short one.
const SPANS: usize = 32;

/// How to cut a file whose content `is_uneven`, or is not. Looks at the first changes only.
///
/// # Errors
/// If the layout cannot be read.
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
    // A file that is written for the first time has one change, or few.
    Ok(if inside >= MANY && inside > seen / 2 { Blocks::Fixed } else { Blocks::Image })
}

/// Where the change ends that begins at `begin`, or beyond a short one.
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

/// Whether the byte is in a subchunk.
fn is_stored<L: Layout>(layout: &mut L, offset: Option<u64>) -> Result<bool, L::Error> {
    match offset.filter(|&offset| offset < layout.size()) {
        Some(offset) => Ok(matches!(layout.span(offset)?.source, SpanSource::Stored { .. })),
        None => Ok(false),
    }
}
