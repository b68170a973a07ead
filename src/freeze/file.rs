//! Cuts those parts of a file that are to be frozen, and adds them to a batch. Called by `fs`, once for each file and
//! batch.

use super::batch::{Batch, BatchError, Known};
use super::layout::Layout;
use super::packed::Piece;
use super::recut::{Blocks, Cut, RegionCutter, Scope, tiny};
use super::region::{FileCut, Region, RegionPiece};
use crate::format::limits;
use thiserror::Error;

/// How the parts of a file are chosen and cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutting {
    /// Which parts of the file are cut.
    pub scope: Scope,
    /// Into which blocks the parts are cut. For [`Scope::Everything`] the image's chunker is always used.
    pub blocks: Blocks,
}

/// Why a file was not cut.
#[derive(Debug, Error)]
pub enum CutError<E> {
    /// The file cannot be read. What was cut before is in the batch, but this file cannot use it.
    #[error(transparent)]
    Layout(E),
    /// The batch does not accept the file's subchunks.
    #[error(transparent)]
    Batch(BatchError<E>),
}

/// Most pieces that are cut beyond the batch's limit, to reach a border that no old subchunk extends across.
const OVERRUN: usize = 16;

/// Cuts the parts of a file that are to be frozen, from `from` on: 0, or the offset where an earlier call said to
/// continue. Stops at a border if the batch is full or `stop` returns true. `stop` is called after each subchunk.
///
/// # Errors
/// Fails with `Layout` if the file cannot be read: the batch may still be used for others. Fails with `Batch` as
/// [`Batch::add`] does.
pub fn cut_file<L, K>(
    layout: &mut L,
    how: Cutting,
    from: u64,
    batch: &mut Batch<'_, K>,
    stop: &dyn Fn() -> bool,
) -> Result<FileCut, CutError<K::Error>>
where
    L: Layout<Error = K::Error>,
    K: Known + ?Sized,
{
    batch.begin_file(layout.size());
    let cutter = batch.cutter();
    // Cutting everything again is meant to give an even content.
    let blocks = if how.scope == Scope::Everything { Blocks::Image } else { how.blocks };
    let cut = Cut { cutter: &cutter, blocks, scope: how.scope };
    let mut out = FileCut::default();
    let mut buffer = Vec::new();
    let mut floor = from;
    while let Some(changed) = cut.first(layout, floor).map_err(CutError::Layout)? {
        if changed < limits::TINY_LEN {
            out.tiny = tiny(layout).map_err(CutError::Layout)?.map_or(0, |tiny| tiny.end);
        }
        // A tiny content is replaced as a whole; a part of it would be cut in vain.
        if batch.is_full() && floor >= out.tiny || stop() {
            out.next = Some(floor);
            break;
        }
        let begin = cut.begin(layout, floor, changed).map_err(CutError::Layout)?;
        let mut region = Region { begin, changed, pieces: Vec::new(), uneven: false };
        let mut cutter = RegionCutter::new(cut, layout, &mut buffer, begin, changed);
        let (mut complete, mut overrun) = (true, 0);
        while let Some(subchunk) = cutter.next().map_err(CutError::Layout)? {
            let (len, clean) = (subchunk.bytes.len() as u32, subchunk.clean);
            match subchunk.unchanged {
                // It was only cut to check that it ends where the chunker ends it.
                Some(_) if region.pieces.is_empty() => region.begin = region.begin.saturating_add(len.into()),
                Some(id) => {
                    region.pieces.push(RegionPiece { len, piece: Piece::Known(id), clean, saved: false });
                }
                None => {
                    let before = batch.shared_bytes();
                    let piece = batch.add(subchunk.bytes).map_err(CutError::Batch)?;
                    let saved = batch.shared_bytes() > before;
                    region.pieces.push(RegionPiece { len, piece, clean, saved });
                }
            }
            overrun += usize::from(batch.is_full());
            let is_enough =
                cutter.at() > changed && cutter.at() >= out.tiny && (overrun > 0 && clean || overrun > OVERRUN);
            if is_enough || stop() {
                complete = false;
                break;
            }
        }
        region.uneven = cutter.is_uneven();
        floor = cutter.at();
        if !complete {
            region.pieces.truncate(region.prefix(region.pieces.len()));
            region.uneven |= region.pieces.last().is_some_and(|last| !last.clean);
            floor = region.end();
            out.next = Some(floor);
        }
        if !region.is_empty() {
            out.regions.push(region);
        }
        if !complete {
            break;
        }
    }
    Ok(out)
}
