//! What a series of samples comes to.

use super::rebalances::{changes, rebalances};
use super::series::{Interval, Series, Slice};
use super::{Experts, Said};

/// Parts of a run that have a picture of their own.
const SLICES: usize = 6;

/// What was said while the series was sampled.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) reasons: Vec<Said>,
    pub(super) states: Vec<Said>,
    pub(super) missed: u64,
}

pub(super) fn summary(series: Series, talk: Talk) -> Experts {
    let all = series.sum(0.0, f64::INFINITY, true).unwrap_or_default();
    Experts {
        whole: series.period(0.0, f64::INFINITY, true).unwrap_or_default(),
        pairs: all.experts,
        slices: slices(&series, all.from, all.to),
        changes: changes(series.intervals()),
        rebalances: rebalances(&series),
        intervals: series.into_intervals(),
        reasons: talk.reasons,
        states: talk.states,
        missed: talk.missed,
    }
}

/// Parts of about the same length, each of whole intervals.
fn slices(series: &Series, from: f64, to: f64) -> Vec<Slice> {
    let part = |of: &Interval| {
        let middle = (of.from + of.to) / 2.0;
        ((middle - from) / (to - from) * SLICES as f64) as usize
    };
    let parts = series.intervals().chunk_by(|first, second| part(first) == part(second));
    let slice = |part: &[Interval]| {
        let (first, last) = (part.first()?, part.last()?);
        let sum = series.sum(first.from, last.to, true)?;
        Some(Slice { from: sum.from, to: sum.to, pairs: sum.experts })
    };
    parts.filter_map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::super::series::Sample;
    use super::*;

    #[test]
    fn slices_cover_the_run_and_lose_no_pair() {
        let mut series = Series::default();
        for number in 0..=50u64 {
            series.push(Sample {
                at: 1.0 + number as f64 * 0.5,
                epoch: 1,
                layers: vec![2],
                experts: vec![vec![number, 3 * number]],
                nodes: [("a".to_owned(), vec![4 * number])].into(),
            });
        }
        let found = summary(series, Talk::default());
        assert_eq!(found.pairs, [[50, 150]]);
        assert_eq!(found.slices.len(), SLICES);
        assert_eq!((found.slices[0].from, found.slices[SLICES - 1].to), (1.0, 26.0));
        assert!(found.slices.windows(2).all(|pair| pair[0].to == pair[1].from));
        let sum: u64 = found.slices.iter().map(|slice| slice.pairs[0][1]).sum();
        assert_eq!(sum, 150);
        assert_eq!(found.whole.layers[0].layer, 2);
        assert_eq!(found.balancedness(), 1.0);
        assert_eq!(found.balancedness_before(), None);
    }

    #[test]
    fn no_samples_are_no_use() {
        assert_eq!(summary(Series::default(), Talk::default()), Experts::default());
    }
}
