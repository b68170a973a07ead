//! Reads and cuts everything, and compresses a part of the superchunks: deduplication and metadata are exact.

use super::estimate::{self, Estimate, Stored};
use super::{Prediction, SampleOptions, Shares};
use crate::bench::report::{Parts, Range, Size};
use crate::format::codec::Compression;
use crate::format::frame::FRAME_HEADER;
use crate::format::limits::SYNC_BLOCK;
use crate::meta::Usage;
use crate::pack::rehearsal::{self, Rehearse, Unit};
use crate::pack::{PackError, PackObserver, PackOptions};
use std::path::PathBuf;

/// Least number of superchunks to compress, if there are so many: fewer do not show how much they vary.
pub(super) const AT_LEAST: usize = 4;
/// Factor of the requested bytes: if the total is at most this factor times these, everything is compressed, and the
/// figures are exact.
const ALL_WITHIN: f64 = 1.3;

/// Number of bytes by which the rows for one superchunk may be longer or shorter than predicted.
const PLACE_ERROR: f64 = 8.0;

/// Predicts the size from all files, of which a sample is compressed, as [`super::predict`] says.
pub(super) fn predict(
    sources: &[PathBuf],
    options: &PackOptions,
    how: &SampleOptions<'_>,
    observer: &dyn PackObserver,
    watch: &Shares<'_>,
) -> Result<Prediction, PackError> {
    let hold = how.bytes.saturating_mul(2);
    let rehearse = Rehearse { hold, hold_at_least: AT_LEAST, seed: how.seed, portions: None, dir: how.work };
    let mut rehearsal = rehearsal::rehearse(sources, options, &rehearse, observer)?;
    let held = rehearsal.held();
    let chosen = match options.compression {
        // Data stored uncompressed needs no sample.
        Compression::None => Vec::new(),
        _ => choose(&held, &rehearsal.units(), how),
    };
    rehearsal.compress(&chosen, observer, &|done| watch(done as f64 / chosen.len() as f64))?;
    let units = rehearsal.units();
    let stored = match options.compression {
        Compression::None => raw(&units),
        _ => estimate::stored(&units),
    };
    let rehearsed = rehearsal.finish(&|index| stored.each.get(index).copied().unwrap_or(0))?;
    let compressed = chosen.iter().filter_map(|&index| units.get(index)).map(|unit| u64::from(unit.raw_len)).sum();
    let size = size(&rehearsed.usage, &units, &stored, rehearsed.summary.bytes);
    Ok(Prediction { size, summary: rehearsed.summary, compressed })
}

/// Returns the stored sizes of superchunks that are stored uncompressed: their raw lengths.
fn raw(units: &[Unit]) -> Stored {
    let each: Vec<u64> = units.iter().map(|unit| unit.raw_len.into()).collect();
    let all = Estimate::exact(each.iter().sum::<u64>() as f64);
    Stored { each, all }
}

/// Chooses as many of the kept superchunks as reach the requested bytes. The kept superchunks are divided, in their
/// order, into as many equal groups, and one of each group is chosen at random.
fn choose(held: &[usize], units: &[Unit], how: &SampleOptions<'_>) -> Vec<usize> {
    let len = |index: &usize| units.get(*index).map_or(0, |unit| u64::from(unit.raw_len));
    let bytes: u64 = held.iter().map(len).sum();
    let is_all = held.len() == units.len();
    if held.len() <= AT_LEAST || is_all && bytes as f64 <= how.bytes as f64 * ALL_WITHIN {
        return held.to_vec();
    }
    let mean = bytes as f64 / held.len() as f64;
    let count = ((how.bytes as f64 / mean).round() as usize).clamp(AT_LEAST, held.len());
    let random = |stratum: usize| rehearsal::mixed(!how.seed, stratum as u64) as f64 / 2f64.powi(64);
    let at = |stratum: usize| ((stratum as f64 + random(stratum)) * held.len() as f64 / count as f64) as usize;
    let mut chosen: Vec<usize> = (0..count).filter_map(|stratum| held.get(at(stratum)).copied()).collect();
    chosen.dedup();
    chosen
}

/// Returns how much the size of the tables may differ because superchunks do not take exactly the predicted bytes: the
/// padding at the end, and for each superchunk the digits of its offset.
fn metadata_error(units: &[Unit]) -> f64 {
    let predicted = units.iter().filter(|unit| unit.stored.is_none()).count() as f64;
    if predicted == 0.0 { 0.0 } else { 2.0 * SYNC_BLOCK as f64 + predicted * PLACE_ERROR }
}

/// Returns the image's size, if its superchunks take the estimated bytes.
fn size(usage: &Usage, units: &[Unit], stored: &Stored, bytes: u64) -> Size {
    // The rehearsal rounds each estimate down to whole bytes; the loss is added here.
    let headers = units.len() as u64 * FRAME_HEADER as u64;
    let data = stored.all.value.round() as u64 + headers;
    let parts = Parts {
        data,
        metadata: usage.tables + usage.roots,
        identities: usage.identities,
        clear_lists: usage.clear_lists,
        other: usage.heads + usage.other + usage.parity,
    };
    let rest = parts.metadata + parts.identities + parts.clear_lists + parts.other + headers;
    let total = rest + stored.all.value.round() as u64;
    // Exact figures stay exact.
    let off = if stored.all.low == stored.all.high { 0.0 } else { metadata_error(units) };
    let low = rest as f64 + (stored.all.low - off).max(0.0);
    let range = Range { low: low.floor() as u64, high: rest + (stored.all.high + off).ceil() as u64 };
    Size { total, ratio: bytes as f64 / total.max(1) as f64, range: Some(range), parts: Some(parts), saved: None }
}
