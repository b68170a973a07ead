//! Estimates the size of all superchunks from those that were compressed, and how far off the estimate may be.
//!
//! Every superchunk was probed: the fastest codec compressed a part of it, and the bytes that repeat in it, over any
//! distance, were counted. Together they give a cheap first guess. Only the saving of the real codec over that guess is
//! estimated. It saves nothing if nothing can be saved, and about the same share of the rest. So the saving is taken to
//! be proportional to `x · (1 − x / raw)`, where `x` is the guess (a ratio estimator with an auxiliary variable; W. G.
//! Cochran, Sampling Techniques, chapter 6). The error follows from the variation of the sample's superchunks around
//! that, from Student's t for their number, and from how much the probes of the others differ from the sample's. Pure.

use crate::pack::rehearsal::Unit;

/// Fraction that the codec is assumed to be able to save even in data that a fast codec did not compress at all.
/// Without it, savings in a tree of only such data could not be predicted at all.
const HOPELESS: f64 = 0.02;
/// The quantile of the normal distribution that leaves 1 % outside, on both sides together.
const NORMAL: f64 = 2.576;
/// Probability that the sample missed more superchunks of another kind than the bounds allow for.
const MISSED: f64 = 0.01;
/// Student's t for 1 to 8 degrees of freedom; beyond that a series is precise to three digits.
const STUDENT: [f64; 8] = [63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355];

/// An estimated sum. If the sample was random, the bounds miss the true value once in a hundred times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Estimate {
    pub(super) low: f64,
    pub(super) value: f64,
    pub(super) high: f64,
}

impl Estimate {
    pub(super) fn exact(value: f64) -> Self {
        Estimate { low: value, value, high: value }
    }
}

/// Returns the number of standard errors by which an estimate with `freedom` degrees of freedom may be off.
pub(super) fn student(freedom: usize) -> f64 {
    match freedom.checked_sub(1).map(|at| STUDENT.get(at)) {
        None => f64::INFINITY,
        Some(Some(quantile)) => *quantile,
        Some(None) => {
            let (n, z) = (freedom as f64, NORMAL);
            z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
        }
    }
}

/// Returns the share of a whole that a sample of `count` may have missed. It misses a larger share only once in a
/// hundred times.
pub(super) fn missed(count: u64) -> f64 {
    1.0 - MISSED.powf(1.0 / count.max(1) as f64)
}

/// Stored sizes of the superchunks, singly and together.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Stored bytes of each superchunk: exact if compressed, otherwise predicted.
    pub(super) each: Vec<u64>,
    /// Stored bytes of all superchunks.
    pub(super) all: Estimate,
}

/// What is known of a superchunk before it is compressed.
struct Probed {
    raw: f64,
    /// First guess of the stored bytes, from a fast codec and from repetitions; at most `raw`.
    x: f64,
    /// Scale to which the difference between `x` and the stored bytes is proportional.
    z: f64,
}

impl Probed {
    fn of(unit: &Unit) -> Self {
        let raw = f64::from(unit.raw_len).max(1.0);
        let x = f64::from(unit.probe).min(raw) * f64::from(unit.fresh).min(raw) / raw;
        Probed { raw, x, z: x * (1.0 + HOPELESS - x / raw) }
    }

    fn ratio(&self) -> f64 {
        self.x / self.raw
    }
}

/// Estimates the stored sizes of all superchunks, from those that were compressed. The sample must be random, each
/// superchunk equally likely.
pub(super) fn stored(units: &[Unit]) -> Stored {
    let sampled: Vec<(Probed, f64)> =
        units.iter().filter_map(|unit| unit.stored.map(|stored| (Probed::of(unit), f64::from(stored)))).collect();
    let known: f64 = sampled.iter().map(|(_, stored)| stored).sum();
    let (all, count) = (units.len() as f64, sampled.len() as f64);
    let saved = |(unit, stored): &(Probed, f64)| unit.x - stored;
    let scale: f64 = sampled.iter().map(|(unit, _)| unit.z).sum();
    // The codec's saving for each byte that might be saved.
    let gain = if scale > 0.0 { sampled.iter().map(saved).sum::<f64>() / scale } else { 0.0 };
    let predict = |unit: &Probed| (unit.x - gain * unit.z).clamp(0.0, unit.raw);
    let each: Vec<u64> =
        units.iter().map(|unit| unit.stored.map_or_else(|| predict(&Probed::of(unit)) as u64, u64::from)).collect();
    if sampled.len() == units.len() {
        return Stored { each, all: Estimate::exact(known) };
    }
    let others = || units.iter().filter(|unit| unit.stored.is_none()).map(Probed::of);
    let value = known + others().map(|unit| predict(&unit)).sum::<f64>();
    // They cannot take more than their raw bytes, nor less than nothing.
    let (least, most) = (known, known + others().map(|unit| unit.raw).sum::<f64>());

    // Leave out each member of the sample in turn: how far that moves the estimate tells how far the sample may be off.
    let savings: f64 = sampled.iter().map(saved).sum();
    let rest: f64 = others().map(|unit| unit.z).sum();
    let gains: Vec<f64> = sampled.iter().map(|at| (savings - saved(at)) / (scale - at.0.z).max(1.0)).collect();
    let mean = gains.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = gains.iter().map(|gain| (gain - mean).powi(2)).sum();
    let variance = squares * (count - 1.0) / count.max(1.0);
    let whole = rest + scale;
    let error = whole * ((1.0 - count / all) * variance).sqrt();
    let spread = if sampled.len() < 2 { most - least } else { student(sampled.len() - 1) * error };

    // How much of the rest is unlike everything in the sample.
    let mut ratios: Vec<f64> = sampled.iter().map(|(unit, _)| unit.ratio()).collect();
    ratios.sort_by(f64::total_cmp);
    let unlike: f64 = others().map(|unit| unit.raw * distance(&ratios, unit.ratio())).sum();
    // The sample may also have missed kinds of superchunks: they save nothing, or twice as much.
    let missed = missed(sampled.len() as u64) * others().map(|unit| gain.abs() * unit.z).sum::<f64>();
    let off = spread.max(missed).hypot(unlike);
    let all = Estimate { low: (value - off).max(least), value, high: (value + off).min(most) };
    Stored { each, all }
}

/// Returns the distance from `from` to the nearest value in `sorted`.
fn distance(sorted: &[f64], from: f64) -> f64 {
    let at = sorted.partition_point(|&other| other < from);
    let below = at.checked_sub(1).and_then(|at| sorted.get(at));
    let near = below.into_iter().chain(sorted.get(at)).map(|other| (other - from).abs());
    near.fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudorandom numbers from 0 to 1.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    const RAW: f64 = 4_000_000.0;

    /// Superchunks with the shares of their bytes that the probe and the codec give.
    fn population(shares: &[(f64, f64)]) -> Vec<(Unit, u32)> {
        let unit = |probe: f64| Unit {
            raw_len: RAW as u32,
            probe: (RAW * probe) as u32,
            fresh: RAW as u32,
            stored: None,
            subchunks: 100,
        };
        shares.iter().map(|&(probe, stored)| (unit(probe), (RAW * stored) as u32)).collect()
    }

    /// One of each of `count` strata, at random.
    fn sampled(population: &[(Unit, u32)], count: usize, random: &mut Random) -> Vec<Unit> {
        let mut units: Vec<Unit> = population.iter().map(|(unit, _)| *unit).collect();
        for stratum in 0..count {
            let at = ((stratum as f64 + random.next()) * units.len() as f64 / count as f64) as usize;
            units[at].stored = Some(population[at].1);
        }
        units
    }

    fn text(random: &mut Random) -> (f64, f64) {
        let probe = 0.15 + 0.3 * random.next();
        (probe, probe * (0.5 + 0.3 * random.next()))
    }

    /// Kinds of trees, each with its superchunks.
    fn kinds(random: &mut Random) -> Vec<(&'static str, Vec<(f64, f64)>)> {
        let photo = |random: &mut Random| (1.0, 0.99 + 0.01 * random.next());
        let texts = (0..200).map(|_| text(random)).collect();
        let mixed = (0..300).map(|n| if n < 200 { photo(random) } else { text(random) }).collect();
        let turns = (0..300).map(|n| if n % 3 == 0 { photo(random) } else { text(random) }).collect();
        let equal = (0..200).map(|n| if n % 20 == 7 { text(random) } else { (0.001, 0.000_1) }).collect();
        let small = (0..30).map(|_| text(random)).collect();
        // In one of three, the codec finds something that the probe does not see.
        let hidden = (0..150).map(|n| (0.9, if n % 3 == 0 { 0.4 } else { 0.85 })).collect();
        vec![
            ("texts", texts),
            ("mixed", mixed),
            ("turns", turns),
            ("equal", equal),
            ("small", small),
            ("hidden", hidden),
        ]
    }

    #[test]
    fn the_truth_lies_in_the_range_of_95_in_100_samples_of_every_kind_of_tree() {
        let mut random = Random(5);
        for (kind, shares) in kinds(&mut random) {
            let population = population(&shares);
            let truth: f64 = population.iter().map(|(_, stored)| f64::from(*stored)).sum();
            // Four superchunks may not show what the probe does not see.
            for count in if kind == "hidden" { [20, 30, 40] } else { [4, 8, 20] } {
                let (mut within, mut near) = (0, 0);
                for _ in 0..200 {
                    let stored = stored(&sampled(&population, count, &mut random));
                    within += u32::from((stored.all.low..=stored.all.high).contains(&truth));
                    near += u32::from((stored.all.value - truth).abs() <= 0.15 * truth);
                }
                assert!(within >= 190, "{kind}, {count} superchunks: {within} of 200");
                // Few superchunks tell little if only one of 20 counts, or if the probe does not see what the codec
                // finds.
                assert!(
                    near >= 190 || count == 4 || ["equal", "hidden"].contains(&kind),
                    "{kind}, {count}: {near} of 200"
                );
            }
        }
    }

    #[test]
    fn the_range_gets_narrower_with_the_sample_and_is_nothing_when_all_is_compressed() {
        let mut random = Random(9);
        let population = population(&(0..100).map(|_| text(&mut random)).collect::<Vec<_>>());
        let truth: u32 = population.iter().map(|(_, stored)| *stored).sum();
        let mut widths = Vec::new();
        for count in [2, 8, 30, 90] {
            let all = stored(&sampled(&population, count, &mut random)).all;
            widths.push((all.high - all.low) / f64::from(truth));
        }
        assert!(widths.windows(2).all(|two| two[1] < two[0]) && widths[3] < 0.05, "{widths:?}");
        let all = stored(&sampled(&population, 100, &mut random));
        assert_eq!(all.all, Estimate::exact(truth.into()));
        assert_eq!(all.each.iter().sum::<u64>(), u64::from(truth));
    }

    #[test]
    fn one_superchunk_alone_tells_nothing_of_the_others_but_their_raw_bytes() {
        let mut random = Random(2);
        let all = stored(&sampled(&population(&[(0.3, 0.2), (0.3, 0.2)]), 1, &mut random)).all;
        assert_eq!((all.low, all.high), (0.2 * RAW, 1.2 * RAW));
    }

    #[test]
    fn student_is_wide_for_few_and_normal_for_many() {
        let near = |freedom, expected: f64| (student(freedom) - expected).abs() < 0.02;
        assert!(near(3, 5.841) && near(8, 3.355) && near(10, 3.169) && near(30, 2.750) && near(100_000, 2.576));
        assert_eq!(student(0), f64::INFINITY);
    }
}
