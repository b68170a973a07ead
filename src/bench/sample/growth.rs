//! Estimates the number of distinct bytes of the whole tree, from how often the sample saw each of its subchunks.
//!
//! `q` is the share that was read; `f1` and `f2` are the bytes of subchunks that were seen once and twice:
//! - Upper bound: the more is read, the fewer further bytes are new. The last bytes read were new at a rate of
//!   `f1 / read` (Good and Turing), so the unread bytes are new at most at that rate.
//! - Lower bound: for any numbers of repetitions, by Cauchy and Schwarz, the unseen part has at least `a² / (a + b)`
//!   distinct bytes, `a = f1 (1 - q) / q`, `b = 2 f2 ((1 - q) / q)²` (A. Chao's bound, for a sample without
//!   replacement).
//! - Between them, distinct bytes grow at most as a power of the bytes read, because its exponent falls as more is
//!   read. The prediction is the geometric mean of that and of the lower bound.
//!
//! Subchunks at the edges of what was read are left out: their cuts may be different, and they would look new. The
//! error of each bound is found by leaving out each stretch in turn (jackknife). Pure.

use super::estimate::{Estimate, student};
use crate::pack::portions::Use;
use crate::pack::rehearsal::Count;
use std::collections::HashMap;

/// Mean number of repetitions of which the sample misses every one with a probability of one in a hundred: ln 100.
const UNSEEN: f64 = 4.605;
/// Least share of the bytes read whose cuts are certain. If it is less, subchunks next to bytes that were not read
/// count, too.
const LEAST_INNER: f64 = 0.25;
/// Factor that allows for the rounding of a division and a multiplication.
const ROUNDING: f64 = 1.000_001;
/// Share of its bytes that a stretch has in common, on average, with a stretch that repeats a part of it.
const OVERLAP: f64 = 0.5;

/// Estimate of the distinct bytes of a tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Growth {
    /// Number of distinct bytes of the tree; the bounds hold on average.
    pub(super) new_bytes: Estimate,
    /// Divisor of the lower bound of `new_bytes`, at least 1: the bound may be off by so much. `high_factor` is a
    /// factor of the upper bound for the same reason.
    pub(super) low_factor: f64,
    pub(super) high_factor: f64,
    /// Share of the bytes that was read.
    pub(super) share: f64,
    /// Bytes of the tree's files outside holes.
    pub(super) all_bytes: f64,
    /// Number of stretches in which something was read.
    pub(super) stretches: usize,
}

/// Bytes of the sample, by how often their subchunk was seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    read: f64,
    different: f64,
    once: f64,
    twice: f64,
}

impl Seen {
    fn add(&mut self, len: f64, times: u32, sign: f64) {
        match times {
            0 => return,
            1 => self.once += sign * len,
            2 => self.twice += sign * len,
            _ => {}
        }
        self.different += sign * len;
    }

    /// Estimates the distinct bytes in a total of `all` bytes: lower bound, prediction, upper bound.
    fn all(&self, all: f64) -> [f64; 3] {
        let share = (self.read / all).clamp(f64::MIN_POSITIVE, 1.0);
        let (a, b) = (self.once * (1.0 - share) / share, 2.0 * self.twice * ((1.0 - share) / share).powi(2));
        let low = self.different + if a > 0.0 { a * a / (a + b) } else { 0.0 };
        let high = self.different + (all - self.read).max(0.0) * self.once / self.read.max(1.0);
        let (low, high) = (low.min(all).max(1.0), high.min(all).max(1.0));
        let power = self.different * (all / self.read.max(1.0)).powf(self.once / self.different.max(1.0));
        let (low, high) = (low.min(high), high.max(low));
        [low, (low * power.clamp(low, high)).sqrt(), high]
    }
}

/// Estimates the distinct bytes of the whole tree. `uses` are the uses of subchunks in the sample, and `count` has the
/// totals of the tree. To take the sample, the concatenation of all files was divided into `stretches` equal parts, and
/// one stretch of each was read.
pub(super) fn grow(uses: &[Use], count: &Count, stretches: u64) -> Growth {
    let read: f64 = uses.iter().map(|used| f64::from(used.len)).sum();
    let inner: Vec<Use> = uses.iter().filter(|used| !used.edge).copied().collect();
    let inner_bytes: f64 = inner.iter().map(|used| f64::from(used.len)).sum();
    let uses = if inner_bytes >= read * LEAST_INNER { &inner } else { uses };
    let part = (count.bytes as f64 / stretches as f64).max(1.0);
    let stretch_of = |used: &Use| ((used.at as f64 / part) as u64).min(stretches - 1);
    let mut times: HashMap<u64, u32> = HashMap::new();
    let mut by_stretch: Vec<Vec<&Use>> = vec![Vec::new(); stretches as usize];
    for used in uses {
        *times.entry(used.subchunk.0).or_default() += 1;
        if let Some(stretch) = by_stretch.get_mut(stretch_of(used) as usize) {
            stretch.push(used);
        }
    }
    let mut seen = Seen::default();
    let mut counted: HashMap<u64, ()> = HashMap::new();
    for used in uses {
        seen.read += f64::from(used.len);
        if counted.insert(used.subchunk.0, ()).is_none() {
            seen.add(used.len.into(), times.get(&used.subchunk.0).copied().unwrap_or(0), 1.0);
        }
    }
    let all_bytes = (count.data_bytes as f64).max(read);
    let [mut low, value, high] = seen.all(all_bytes);

    let mut without = Vec::with_capacity(by_stretch.len());
    for stretch in by_stretch.iter().filter(|stretch| !stretch.is_empty()) {
        let mut here: HashMap<u64, (u32, f64)> = HashMap::new();
        let mut rest = seen;
        for used in stretch {
            rest.read -= f64::from(used.len);
            let entry = here.entry(used.subchunk.0).or_insert((0, used.len.into()));
            entry.0 += 1;
        }
        for (id, (gone, len)) in here {
            let before = times.get(&id).copied().unwrap_or(0);
            rest.add(len, before, -1.0);
            rest.add(len, before - gone, 1.0);
        }
        without.push(rest.all(all_bytes));
    }
    let off = |which: usize| factor(&without.iter().filter_map(|all| all.get(which).copied()).collect::<Vec<_>>());
    let share = (seen.read / all_bytes).clamp(f64::MIN_POSITIVE, 1.0);
    // Repetitions that were not seen: no more than the sizes of files allow.
    let unseen = UNSEEN * OVERLAP * all_bytes / (stretches as f64 * share);
    low = (low - unseen.min(count.alike_bytes as f64)).max(seen.different);
    let new_bytes = Estimate { low: low.min(value), value, high };
    let share = (read / all_bytes).clamp(f64::MIN_POSITIVE, 1.0);
    // There are at least the distinct bytes that were seen, and at most all bytes.
    let low_factor = off(0).min(new_bytes.low / seen.different.max(1.0)).max(1.0);
    let high_factor = off(2).min(all_bytes / high * ROUNDING).max(1.0);
    Growth { new_bytes, low_factor, high_factor, share, all_bytes, stretches: without.len() }
}

/// Returns the factor by which a figure may be off, from its values without each part of the sample in turn.
fn factor(without: &[f64]) -> f64 {
    let count = without.len() as f64;
    if without.len() < 2 {
        return f64::INFINITY;
    }
    let logs: Vec<f64> = without.iter().map(|value| value.max(1.0).ln()).collect();
    let mean = logs.iter().sum::<f64>() / count;
    let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
    (student(without.len() - 1) * ((count - 1.0) / count * squares).sqrt()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::SubchunkId;

    const LEN: u32 = 10_000;

    /// The subchunks of a line of `repeats` copies of `distinct` subchunks, of which stretches of `len` are read.
    fn sampled(distinct: u64, repeats: u64, stretches: u64, len: u64, seed: u64) -> (Vec<Use>, Count) {
        let all = distinct * repeats;
        let part = all / stretches;
        let mut uses = Vec::new();
        for stretch in 0..stretches {
            let start = stretch * part + crate::pack::rehearsal::mixed(seed, stretch) % part;
            uses.extend((start..start + len).map(|at| at % all).map(|at| Use {
                subchunk: SubchunkId(at % distinct + 1),
                len: LEN,
                at: at * u64::from(LEN),
                edge: false,
            }));
        }
        let bytes = all * u64::from(LEN);
        (uses, Count { files: 1, bytes, data_bytes: bytes, alike_bytes: bytes })
    }

    #[test]
    fn different_bytes_lie_within_the_bounds_however_often_they_repeat() {
        for repeats in [1, 2, 3, 10, 40] {
            let mut within = 0;
            for seed in 0..200 {
                let (uses, count) = sampled(20_000 / repeats, repeats, 64, 40, seed);
                let truth = (20_000 / repeats * u64::from(LEN)) as f64;
                let growth = grow(&uses, &count, 64);
                assert!((growth.share - 0.128).abs() < 1e-3);
                let (low, high) =
                    (growth.new_bytes.low / growth.low_factor, growth.new_bytes.high * growth.high_factor);
                within += u32::from((low..=high).contains(&truth));
            }
            assert!(within >= 190, "{repeats} times: {within} of 200");
        }
    }

    #[test]
    fn where_nothing_repeats_and_sizes_differ_everything_is_new() {
        let (uses, mut count) = sampled(20_000, 1, 64, 40, 3);
        count.alike_bytes = 0;
        let growth = grow(&uses, &count, 64);
        assert_eq!((growth.new_bytes.low, growth.new_bytes.high), (count.bytes as f64, count.bytes as f64));
    }
}
