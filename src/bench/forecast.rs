//! Estimates the remaining time of a run. Each step has a weight; the steps done so far tell how long a unit of weight
//! takes.
//!
//! Packing and reading have separate units. Until something was packed, there is no estimate. Called by `run`.

use std::time::Duration;

/// The kind of work that a step of a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// The step packs.
    Pack,
    /// The step reads, or makes a measurement that is not timed.
    Read,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    work: Work,
    weight: f64,
    /// Time after which the step is stopped.
    limit: Option<Duration>,
    took: Option<f64>,
}

/// All steps of a run, in order.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    steps: Vec<Step>,
    done: usize,
}

impl Forecast {
    /// Adds a step at the end, which is stopped after `limit`.
    pub(super) fn add(&mut self, work: Work, weight: f64, limit: Option<Duration>) {
        self.steps.push(Step { work, weight, limit, took: None });
    }

    /// Records that the current step has ended.
    pub(super) fn done(&mut self, took: Duration) {
        if let Some(step) = self.steps.get_mut(self.done) {
            step.took = Some(took.as_secs_f64());
            self.done += 1;
        }
    }

    /// Skips earlier steps that were not done, because their entry failed.
    pub(super) fn skip_to(&mut self, step: usize) {
        self.done = step.max(self.done).min(self.steps.len());
    }

    /// Returns the estimated seconds left, if possible. The current step has run for `elapsed`, and `share` of it is
    /// done.
    pub(super) fn left(&self, elapsed: Duration, share: Option<f64>) -> Option<f64> {
        let elapsed = elapsed.as_secs_f64();
        let under_way = self.steps.get(self.done)?;
        // The first moments of a step do not tell its length.
        let whole = share.filter(|share| *share > 0.02).map(|share| elapsed / share.min(1.0));
        let rate = |work: Work| {
            let done = self.steps.iter().filter(|step| step.work == work);
            let (weight, took) = done
                .filter_map(|step| Some((step.weight, step.took?)))
                .fold((0.0, 0.0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
            let more = whole.filter(|_| under_way.work == work).map_or((0.0, 0.0), |whole| (under_way.weight, whole));
            let weight: f64 = weight + more.0;
            (weight > 0.0).then(|| (took + more.1) / weight)
        };
        let (packing, reading) = (rate(Work::Pack)?, rate(Work::Read));
        let time = |step: &Step| {
            let most = step.limit.map_or(f64::INFINITY, |limit| limit.as_secs_f64());
            let unit = match step.work {
                Work::Pack => packing,
                // Until something was read, assume that reading takes as long as the fastest packing for the same
                // weight.
                Work::Read => reading.unwrap_or(packing),
            };
            (unit * step.weight).min(most)
        };
        let now = (whole.unwrap_or_else(|| time(under_way)) - elapsed).max(0.0);
        Some(now + self.steps.iter().skip(self.done + 1).map(time).sum::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_measured_says_how_long_the_rest_takes() {
        let mut forecast = Forecast::default();
        for (work, weight) in
            [(Work::Pack, 1.0), (Work::Read, 1.0), (Work::Pack, 3.0), (Work::Read, 1.0), (Work::Pack, 100.0)]
        {
            forecast.add(work, weight, Some(20 * SECOND));
        }
        assert_eq!(forecast.left(SECOND, None), None, "nothing is known");
        // A quarter is done after one second: 3 seconds are left of this step, and a unit takes 4.
        assert_eq!(forecast.left(SECOND, Some(0.25)), Some(3.0 + 4.0 + 12.0 + 4.0 + 20.0));
        forecast.done(4 * SECOND);
        forecast.done(2 * SECOND);
        assert_eq!(forecast.left(2 * SECOND, None), Some(10.0 + 2.0 + 20.0));
        assert_eq!(forecast.left(60 * SECOND, None), Some(2.0 + 20.0), "never less than nothing");
        forecast.skip_to(4);
        assert_eq!(forecast.left(Duration::ZERO, None), Some(20.0));
        forecast.done(SECOND);
        assert_eq!(forecast.left(SECOND, None), None);
    }
}
