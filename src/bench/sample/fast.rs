//! Reads a part of the bytes and predicts the rest: how much of it is new, and how well it compresses.
//!
//! It reads stretches of the line of all files, spread over it at random. The bytes read are cut, deduplicated and
//! compressed as in packing. Names and attributes of all files are included. The range has three causes: `growth`
//! bounds the new bytes among those not read; the sample's superchunks show how much the ratio varies; and repetitions
//! that the sample was unlikely to see count as far as the sizes of files allow.

use super::estimate::{Estimate, missed, student};
use super::growth::{Growth, grow};
use super::{Prediction, SampleOptions, Shares, whole};
use crate::bench::report::{Parts, Range, Size};
use crate::format::frame::FRAME_HEADER;
use crate::format::limits::SYNC_BLOCK;
use crate::pack::portions::Portions;
use crate::pack::rehearsal::{self, Count, Rehearse, Rehearsed, Unit};
use crate::pack::{PackError, PackObserver, PackOptions};
use std::path::PathBuf;

/// Least number of stretches, as long as none is shorter than [`SHORTEST`]: more stretches miss less.
const STRETCHES: u64 = 256;
/// Least bytes of a stretch: less gives a codec no context, and costs a disk seek.
const SHORTEST: u64 = 512 << 10;
/// If the sample has fewer superchunks than this, parts of them are compressed separately, too.
const FEW: usize = 16;
/// Length in bytes of the parts of superchunks that are compressed separately: as long as the shortest stretch.
const PIECE: usize = SHORTEST as usize;
/// Estimated bytes by which an inode's row is longer if the file's content was read: then the row names it.
const INODE_CONTENT: f64 = 8.0;

/// Predicts the size from a part of the files, as [`super::predict`] says.
pub(super) fn predict(
    sources: &[PathBuf],
    options: &PackOptions,
    how: &SampleOptions<'_>,
    observer: &dyn PackObserver,
    watch: &Shares<'_>,
) -> Result<Prediction, PackError> {
    let count = rehearsal::count(sources, options, observer)?;
    observer.total(count.files, count.bytes);
    if how.bytes >= count.data_bytes {
        // `whole` decides how much it compresses.
        return whole::predict(sources, options, how, observer, watch);
    }
    let (portions, stretches) = portions(&count, options, how);
    let rehearse =
        Rehearse { hold: u64::MAX, hold_at_least: 1, seed: how.seed, portions: Some(&portions), dir: how.work };
    let mut rehearsal = rehearsal::rehearse(sources, options, &rehearse, observer)?;
    let held = rehearsal.held();
    rehearsal.compress(&held, observer, &|done| watch(done as f64 / held.len() as f64))?;
    // Few superchunks do not show how much they vary; their parts show more.
    let few = (1..FEW).contains(&held.len());
    let pieces = if few { rehearsal.compress_pieces(&held, PIECE, observer)? } else { Vec::new() };
    let units = rehearsal.units();
    let growth = grow(rehearsal.uses(), &count, stretches);
    let rehearsed = rehearsal.finish(&|_| 0)?;
    let compressed = units.iter().map(|unit| u64::from(unit.raw_len)).sum();
    let size = size(&rehearsed, &ratio(&units, &pieces, growth.stretches), &growth, &count, units.len());
    Ok(Prediction { size, summary: rehearsed.summary, compressed })
}

/// Chooses what to read, and returns it with the number of stretches. The concatenation of all files is divided into
/// that many equal parts, and each has one stretch at a random position.
fn portions(count: &Count, options: &PackOptions, how: &SampleOptions<'_>) -> (Portions, u64) {
    let len = (how.bytes / STRETCHES).clamp(SHORTEST, u64::from(options.params.superchunk_size).max(SHORTEST));
    let stretches = (how.bytes / len).max(2);
    // Holes are on the line, too: a stretch contains holes in proportion.
    let share = how.bytes as f64 / count.data_bytes.max(1) as f64;
    let part = count.bytes as f64 / stretches as f64;
    let len = part * share;
    let line = count.bytes;
    let mut ranges = Vec::new();
    for stretch in 0..stretches {
        let random = rehearsal::mixed(how.seed, stretch) as f64 / 2f64.powi(64);
        let start = ((stretch as f64 + random) * part) as u64;
        let end = start.saturating_add(len.ceil() as u64);
        ranges.push(start..end.min(line));
        // A stretch that passes the end continues at the beginning, so that each byte is equally likely.
        ranges.push(0..end.saturating_sub(line));
    }
    (Portions::new(ranges), stretches)
}

/// Estimates the stored bytes for each new byte, by the superchunks of the sample. The bounds assume that what the
/// stretches may have missed takes no bytes, or is incompressible.
fn ratio(units: &[Unit], pieces: &[(u32, u32)], stretches: usize) -> Estimate {
    let superchunks: Vec<_> = units.iter().map(|unit| (unit.raw_len, unit.stored.unwrap_or(unit.raw_len))).collect();
    let Some((ratio, off)) = spread(&superchunks, stretches) else {
        return Estimate { low: 0.0, value: 1.0, high: 1.0 };
    };
    let off = spread(pieces, stretches).map_or(off, |(_, of_pieces)| of_pieces);
    let missed = missed(stretches as u64);
    let low = (ratio * (-off).exp()).min(ratio * (1.0 - missed));
    let high = (ratio * off.exp()).max(ratio + missed * (1.0 - ratio));
    Estimate { low, value: ratio, high: high.min(1.0).max(ratio) }
}

/// Returns the stored bytes for each raw byte, from the raw and stored bytes in `parts`, and the relative error, from
/// the variation of the parts. Parts in the same stretch count as one.
fn spread(parts: &[(u32, u32)], stretches: usize) -> Option<(f64, f64)> {
    let raw: f64 = parts.iter().map(|part| f64::from(part.0)).sum();
    let count = parts.len() as f64;
    if raw <= 0.0 {
        return None;
    }
    let ratio = parts.iter().map(|part| f64::from(part.1)).sum::<f64>() / raw;
    let squares: f64 = parts.iter().map(|part| (f64::from(part.1) - ratio * f64::from(part.0)).powi(2)).sum();
    let apart = parts.len().min(stretches);
    let error = (squares / (count - 1.0).max(1.0) / apart.max(1) as f64).sqrt() / (raw / count);
    let off = student(apart.saturating_sub(1)) * error / ratio.max(f64::MIN_POSITIVE);
    Some((ratio, if apart < 2 { f64::INFINITY } else { off }))
}

/// Returns the image's size, if the unread part is like the part that was read.
fn size(rehearsed: &Rehearsed, ratio: &Estimate, growth: &Growth, count: &Count, superchunks: usize) -> Size {
    let (usage, leaves) = (&rehearsed.usage, &rehearsed.leaves);
    let headers = superchunks as f64 * FRAME_HEADER as f64;
    let sampled = rehearsed.summary.unique_bytes.max(1) as f64;
    // Both may be off, but they are seldom both at their limit in the same direction.
    let together = |a: f64, b: f64| a.ln().hypot(b.ln()).exp();
    let new = &growth.new_bytes;
    let spread_low =
        together(growth.low_factor.max(f64::MIN_POSITIVE), (ratio.low / ratio.value).max(f64::MIN_POSITIVE));
    let spread_high = together(growth.high_factor, ratio.high / ratio.value);
    let data = [
        new.low * ratio.value / spread_low,
        new.value * ratio.value,
        (new.high * ratio.value * spread_high).min(growth.all_bytes),
    ];
    let of_files = (leaves.inodes + leaves.dirents + leaves.xattrs) as f64;
    let of_contents = (leaves.shares + leaves.tiny + leaves.contents) as f64;
    let of_map = (usage.tables + usage.identities + usage.roots).saturating_sub(leaves.sum()) as f64;
    let unread = count.files as f64 * (1.0 - growth.share);
    let figures = |new: f64, per_inode: f64| {
        let times = (new / sampled).max(1.0);
        let metadata = of_files + unread * per_inode + of_contents / growth.share + of_map * times;
        [metadata, usage.identities as f64 * times, usage.clear_lists as f64 * times, headers * times]
    };
    let other = (usage.heads + usage.other + usage.parity) as f64;
    let low = data[0] + figures(new.low / growth.low_factor, 0.0).iter().sum::<f64>() + other - SYNC_BLOCK as f64;
    let high =
        data[2] + figures(new.high * growth.high_factor, INODE_CONTENT).iter().sum::<f64>() + other + SYNC_BLOCK as f64;
    let [metadata, identities, clear_lists, headers] = figures(new.value, INODE_CONTENT / 2.0);
    let parts = Parts {
        data: (data[1] + headers) as u64,
        metadata: metadata as u64,
        identities: identities as u64,
        clear_lists: clear_lists as u64,
        other: other as u64,
    };
    let total = parts.data + parts.metadata + parts.identities + parts.clear_lists + parts.other;
    let range = Range { low: (low.max(0.0) as u64).min(total), high: (high.ceil() as u64).max(total) };
    let bytes = rehearsed.summary.bytes as f64;
    Size { total, ratio: bytes / total.max(1) as f64, range: Some(range), parts: Some(parts), saved: None }
}
