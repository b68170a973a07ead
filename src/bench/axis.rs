//! Logarithmic axes: they map values to positions and choose the values to mark.
//!
//! Invariants: every value lies inside its axis, not at its ends. Marks are round numbers that people use for the unit,
//! and are at least the requested distance apart. Called by `plot`.

use super::show::rounded;

/// The quantity that an axis of a plot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// The axis shows bytes, with marks in KiB, MiB, GiB and so on.
    Bytes,
    /// The axis shows times in seconds, with marks from microseconds to hours.
    Seconds,
}

/// One axis of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    /// Marked values and the text of each.
    pub marks: Vec<(f64, String)>,
}

/// Free space at each end, as a fraction of the axis's length.
const MARGIN: f64 = 0.07;
/// Least factor between both ends of an axis, so that noise does not look like a difference.
const LEAST_SPAN: f64 = 1.5;

impl Axis {
    /// Makes the axis for `values`, which must be finite and above 0. Its marks are at least `apart` (a fraction of its
    /// length) apart. Returns `None` without values.
    pub fn new(quantity: Quantity, values: impl Iterator<Item = f64>, apart: f64) -> Option<Self> {
        let (mut low, mut high) = values.fold((f64::MAX, f64::MIN), |(low, high), value: f64| {
            let value = value.ln();
            (low.min(value), high.max(value))
        });
        if low > high {
            return None;
        }
        let lacks = (LEAST_SPAN.ln() - (high - low)).max(0.0) / 2.0;
        (low, high) = (low - lacks, high + lacks);
        let margin = (high - low) * MARGIN;
        let mut axis = Axis { low: low - margin, high: high + margin, marks: Vec::new() };
        axis.marks = axis.choose(quantity, apart);
        Some(axis)
    }

    /// Returns the position of `value`: 0 is the start of the axis, 1 its end.
    pub fn place(&self, value: f64) -> f64 {
        (value.ln() - self.low) / (self.high - self.low)
    }

    /// Returns the finest set of marks that fits.
    fn choose(&self, quantity: Quantity, apart: f64) -> Vec<(f64, String)> {
        let sets = match quantity {
            Quantity::Bytes => [&[1, 2, 5][..], &[1, 3], &[1, 10]].map(|steps| self.steps(steps, BYTES)),
            Quantity::Seconds => {
                let times = |steps, long| self.times(steps, long);
                [times(&[1, 2, 5], TIMES), times(&[1, 3], FEWER_TIMES), times(&[1], FEWEST_TIMES)]
            }
        };
        let spaced = |set: &Vec<f64>| set.windows(2).all(|pair| self.place(pair[1]) - self.place(pair[0]) >= apart);
        let (low, high) = (unit(quantity, self.low.exp()), unit(quantity, self.high.exp()));
        let even = self.even(low.0);
        // Decades say little on a short axis. However, 2000 MiB should read 2 GiB.
        let short = sets[0].len() < 2 || (sets[0].len() < 3 && low == high && spaced(&even));
        let fits = sets.iter().find(|set| set.len() > 1 && spaced(set)).or(sets.last().filter(|set| set.len() > 1));
        let (mut chosen, fixed) = match fits {
            Some(set) if !short => (set.clone(), None),
            _ => (even, Some(low)),
        };
        while !spaced(&chosen) {
            chosen = chosen.into_iter().step_by(2).collect();
        }
        chosen.into_iter().map(|value| (value, text(value, fixed.unwrap_or_else(|| unit(quantity, value))))).collect()
    }

    fn contains(&self, value: &f64) -> bool {
        (0.0..=1.0).contains(&self.place(*value))
    }

    /// Returns the products of each of `steps`, each power of ten and each unit that are on the axis.
    fn steps(&self, steps: &[u32], units: &[(f64, &str)]) -> Vec<f64> {
        let mut out = Vec::new();
        for (i, (unit, _)) in units.iter().enumerate() {
            let next = units.get(i + 1).map_or(f64::INFINITY, |next| next.0);
            for decade in 0..6 {
                let values = steps.iter().map(|step| f64::from(*step) * 10f64.powi(decade) * unit);
                // 1000 MiB is too close to 1 GiB.
                out.extend(values.filter(|value| *value * 1.5 < next && self.contains(value)));
            }
        }
        out.sort_by(f64::total_cmp);
        out.dedup();
        out
    }

    /// Returns the values that [`Axis::steps`] gives for seconds, up to 10 seconds, and those of `long` that are on the
    /// axis.
    fn times(&self, steps: &[u32], long: &[f64]) -> Vec<f64> {
        let mut out = self.steps(steps, SECONDS);
        out.retain(|value| *value <= 10.0);
        out.extend(long.iter().filter(|value| self.contains(value)));
        out
    }

    /// Returns the multiples of a round number of `unit` that are on the axis, for an axis too short for powers of ten.
    fn even(&self, unit: f64) -> Vec<f64> {
        let (low, high) = (self.low.exp(), self.high.exp());
        let aim = (high - low) / unit / 5.0;
        let decade = 10f64.powf(aim.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * decade).find(|step| *step >= aim);
        let step = step.unwrap_or(decade) * unit;
        let first = (low / step).ceil();
        (0..8).map(|i| (first + f64::from(i)) * step).filter(|value| self.contains(value)).collect()
    }
}

const BYTES: &[(f64, &str)] = &[
    (1.0, "B"),
    (1024.0, "KiB"),
    (1048576.0, "MiB"),
    (1073741824.0, "GiB"),
    (1099511627776.0, "TiB"),
    (1125899906842624.0, "PiB"),
];
const SECONDS: &[(f64, &str)] = &[(1e-6, "µs"), (1e-3, "ms"), (1.0, "s")];
const LONG_TIMES: &[(f64, &str)] =
    &[(1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86_400.0, "d")];
/// Times of more than 10 seconds to mark: people do not count these in tens.
const TIMES: &[f64] = &[
    30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 18_000.0, 36_000.0, 86_400.0, 172_800.0, 432_000.0,
    864_000.0,
];

const FEWER_TIMES: &[f64] = &[30.0, 120.0, 600.0, 1800.0, 7200.0, 21_600.0, 86_400.0, 259_200.0, 864_000.0];
const FEWEST_TIMES: &[f64] = &[60.0, 600.0, 3600.0, 36_000.0, 86_400.0, 864_000.0];

fn unit(quantity: Quantity, value: f64) -> (f64, &'static str) {
    let units = match quantity {
        Quantity::Bytes => BYTES,
        Quantity::Seconds => LONG_TIMES,
    };
    // Rounding may leave a mark of exactly one unit slightly below it.
    *units.iter().rfind(|unit| value >= unit.0 * (1.0 - 1e-9)).unwrap_or(&units[0])
}

fn text(value: f64, (unit, name): (f64, &str)) -> String {
    let digits = rounded(value / unit, 3);
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { &digits };
    format!("{digits} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(quantity: Quantity, values: &[f64]) -> Vec<String> {
        let axis = Axis::new(quantity, values.iter().copied(), 0.1).unwrap();
        assert!(values.iter().all(|&value| (0.01..0.99).contains(&axis.place(value))), "{values:?}");
        axis.marks.into_iter().map(|mark| mark.1).collect()
    }

    #[test]
    fn times_are_marked_as_people_count_them() {
        assert_eq!(
            marks(Quantity::Seconds, &[4.0, 700.0]),
            ["5 s", "10 s", "30 s", "1 min", "2 min", "5 min", "10 min"]
        );
        assert_eq!(
            marks(Quantity::Seconds, &[2e-4, 0.03]),
            ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms", "10 ms", "20 ms"]
        );
        assert_eq!(marks(Quantity::Seconds, &[1e-5, 1000.0]).first().map(String::as_str), Some("10 µs"));
    }

    #[test]
    fn sizes_are_marked_in_round_units() {
        let mib = 1048576.0;
        assert_eq!(marks(Quantity::Bytes, &[30.0 * mib, 260.0 * mib]), ["50 MiB", "100 MiB", "200 MiB"]);
        assert_eq!(marks(Quantity::Bytes, &[700.0 * mib, 3000.0 * mib]), ["1 GiB", "2 GiB"]);
        assert_eq!(
            marks(Quantity::Bytes, &[1010.0 * mib, 1040.0 * mib]),
            ["900 MiB", "1000 MiB", "1100 MiB", "1200 MiB"]
        );
    }

    #[test]
    fn equal_and_near_values_get_an_axis_with_marks() {
        for quantity in [Quantity::Bytes, Quantity::Seconds] {
            for value in [1e-6, 0.7, 1.0, 59.9, 3600.0, 123_456_789.0, 1e15] {
                let marks = marks(quantity, &[value, value * 1.02]);
                assert!(marks.len() >= 2, "{quantity:?} {value}: {marks:?}");
            }
        }
        assert_eq!(Axis::new(Quantity::Bytes, std::iter::empty(), 0.1), None);
    }

    #[test]
    fn equal_ratios_are_equally_far_apart() {
        let axis = Axis::new(Quantity::Seconds, [1.0, 100.0].into_iter(), 0.1).unwrap();
        assert!((axis.place(10.0) - 0.5).abs() < 1e-9 && axis.place(1.0) + axis.place(100.0) - 1.0 < 1e-9);
        assert!(axis.place(1.0) < axis.place(1.01));
    }

    #[test]
    fn on_a_short_axis_fewer_times_are_marked() {
        let axis = |apart| Axis::new(Quantity::Seconds, [4.0, 500.0].into_iter(), apart).unwrap().marks;
        assert_eq!(
            axis(0.15).into_iter().map(|mark| mark.1).collect::<Vec<_>>(),
            ["3 s", "10 s", "30 s", "2 min", "10 min"]
        );
        assert_eq!(axis(0.3).into_iter().map(|mark| mark.1).collect::<Vec<_>>(), ["10 s", "1 min", "10 min"]);
    }

    #[test]
    fn marks_are_as_far_apart_as_asked_for() {
        for apart in [0.05, 0.1, 0.2, 0.4] {
            for span in [1.1, 3.0, 40.0, 1e4, 1e9] {
                for quantity in [Quantity::Bytes, Quantity::Seconds] {
                    let axis = Axis::new(quantity, [3.0, 3.0 * span].into_iter(), apart).unwrap();
                    let places: Vec<f64> = axis.marks.iter().map(|mark| axis.place(mark.0)).collect();
                    assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= apart), "{apart} {span}: {places:?}");
                    assert!(!places.is_empty(), "{apart} {span} {quantity:?}");
                }
            }
        }
    }
}
