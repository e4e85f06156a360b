//! Changes of the placement, and what they were worth.

use serde::{Deserialize, Serialize};

use super::evenness::Period;
use super::series::{Interval, Series};

/// Changes that follow each other within so many seconds are steps of one.
const TOGETHER_SECONDS: f64 = 3.0;

/// A moment at which the placement was another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Seconds from the start of the run; it came at most one sample before.
    pub at: f64,
    /// The new placement.
    pub epoch: u64,
}

/// Changes that belong together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rebalance {
    /// The first change, in seconds from the start of the run.
    pub from: f64,
    /// The last one.
    pub to: f64,
    /// The last placement.
    pub epoch: u64,
    /// From the rebalance before (or the start) to this one, if anything was used.
    pub before: Option<Period>,
    /// From this one to the next (or the end), if anything was used.
    pub after: Option<Period>,
}

impl Rebalance {
    /// A line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let value = |period: &Option<Period>| {
            period.as_ref().map_or("?".to_owned(), |of| format!("{:.3}", of.balancedness))
        };
        let (before, after) = (value(&self.before), value(&self.after));
        let Self { from, to, epoch, .. } = self;
        format!(
            "rebalanced from {from:.1} s to {to:.1} s (placement {epoch}): balancedness of nodes {before} before, {after} after"
        )
    }
}

pub(super) fn changes(intervals: &[Interval]) -> Vec<Change> {
    let changed = intervals.iter().filter(|interval| interval.changed);
    changed.map(|interval| Change { at: interval.to, epoch: interval.epoch }).collect()
}

pub(super) fn rebalances(series: &Series) -> Vec<Rebalance> {
    let mut found: Vec<Rebalance> = Vec::new();
    for Change { at, epoch } in changes(series.intervals()) {
        match found.last_mut() {
            Some(last) if at - last.to <= TOGETHER_SECONDS => (last.to, last.epoch) = (at, epoch),
            _ => found.push(Rebalance { from: at, to: at, epoch, before: None, after: None }),
        }
    }
    let begins: Vec<f64> = found.iter().map(|of| of.from).collect();
    let mut previous = 0.0;
    for (index, rebalance) in found.iter_mut().enumerate() {
        let next = begins.get(index + 1).copied().unwrap_or(f64::INFINITY);
        rebalance.before = series.period(previous, rebalance.from, false);
        rebalance.after = series.period(rebalance.to, next, false);
        previous = rebalance.to;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::series::Sample;
    use super::*;

    /// Two nodes of one layer; each step adds these pairs and may be in another placement.
    fn series(steps: &[(f64, u64, [u64; 2])]) -> Series {
        let mut series = Series::default();
        let mut sum = [0, 0];
        for &(at, epoch, [a, b]) in steps {
            sum = [sum[0] + a, sum[1] + b];
            series.push(Sample {
                at,
                epoch,
                layers: vec![0],
                experts: vec![sum.to_vec()],
                nodes: [("a".into(), vec![sum[0]]), ("b".into(), vec![sum[1]])].into(),
            });
        }
        series
    }

    #[test]
    fn steps_of_a_roll_out_are_one_rebalance_with_what_was_before_and_after() {
        let series = series(&[
            (0.0, 1, [0, 0]),
            (1.0, 1, [30, 10]),
            (2.0, 1, [30, 10]),
            (3.0, 2, [999, 0]),
            (5.0, 3, [999, 0]),
            (6.0, 3, [20, 20]),
            (20.0, 4, [0, 999]),
            (21.0, 4, [10, 40]),
        ]);
        let found = rebalances(&series);
        let [first, second] = &found[..] else { panic!("{found:?}") };
        assert_eq!((first.from, first.to, first.epoch), (3.0, 5.0, 3));
        let even = |period: &Option<Period>| period.as_ref().unwrap().balancedness;
        assert_eq!(even(&first.before), 20.0 / 30.0);
        assert_eq!(even(&first.after), 1.0);
        assert_eq!(even(&second.before), 1.0);
        assert_eq!(even(&second.after), 25.0 / 40.0);
        assert!(first.describe().contains("0.667 before, 1.000 after"), "{}", first.describe());
    }

    #[test]
    fn a_run_that_ends_in_a_roll_out_has_no_after() {
        let series = series(&[(0.0, 1, [0, 0]), (1.0, 1, [3, 1]), (2.0, 2, [3, 1])]);
        let found = rebalances(&series);
        assert!(found[0].before.is_some() && found[0].after.is_none());
    }
}
