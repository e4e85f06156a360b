//! Counts since a router's start, sample by sample, and what lies between two of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::evenness::{NodePairs, Period};

/// When there are more, neighbours become one: a long run is kept coarser, not longer.
const MAX_INTERVALS: usize = 240;

/// What a router has counted by some moment, all since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Seconds from the start of the run.
    pub(crate) at: f64,
    pub(crate) epoch: u64,
    /// Numbers of the layers with experts.
    pub(crate) layers: Vec<u32>,
    /// [layer][expert]
    pub(crate) experts: Vec<Vec<u64>>,
    /// Of each node, [layer].
    pub(crate) nodes: NodePairs,
}

/// What happened from one sample to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its beginning, in seconds from the start of the run.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// The placement at its end.
    pub epoch: u64,
    /// Whether the placement was another at its beginning.
    pub changed: bool,
    /// Pairs of each node, by layer; nodes that were there at its end.
    pub nodes: BTreeMap<String, Vec<u64>>,
    /// [layer][expert] pairs; not in files, which have them in slices.
    #[serde(skip)]
    pub(crate) experts: Vec<Vec<u64>>,
}

/// The use of experts in a part of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Its beginning, in seconds from the start of the run.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// [layer][expert]
    pub pairs: Vec<Vec<u64>>,
}

impl Interval {
    /// The shares of nodes, over all layers.
    #[must_use]
    pub fn of_nodes(&self) -> Vec<(&str, u64)> {
        self.nodes.iter().map(|(node, pairs)| (node.as_str(), pairs.iter().sum())).collect()
    }

    /// Takes in the interval that follows.
    fn extend(&mut self, next: &Self) {
        self.to = next.to;
        self.epoch = next.epoch;
        self.changed |= next.changed;
        add_experts(&mut self.experts, &next.experts);
        let mut nodes = next.nodes.clone();
        for (node, pairs) in &mut nodes {
            if let Some(before) = self.nodes.get(node) {
                add(pairs, before);
            }
        }
        self.nodes = nodes;
    }
}

fn add(sum: &mut [u64], more: &[u64]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

fn add_experts(sum: &mut [Vec<u64>], more: &[Vec<u64>]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| add(sum, more));
}

/// All that was sampled.
#[derive(Debug, Default)]
pub(crate) struct Series {
    last: Option<Sample>,
    intervals: Vec<Interval>,
}

impl Series {
    /// Takes in the next sample.
    pub(crate) fn push(&mut self, sample: Sample) {
        if let Some(last) = &self.last {
            self.intervals.push(between(last, &sample));
        }
        self.last = Some(sample);
        if self.intervals.len() > MAX_INTERVALS {
            self.halve();
        }
    }

    /// Makes one interval of two where the placement is the same.
    fn halve(&mut self) {
        let mut fewer: Vec<Interval> = Vec::with_capacity(self.intervals.len());
        let mut single = false;
        for interval in self.intervals.drain(..) {
            match fewer.last_mut() {
                Some(last) if single && !last.changed && !interval.changed => {
                    last.extend(&interval);
                    single = false;
                }
                _ => {
                    fewer.push(interval);
                    single = true;
                }
            }
        }
        self.intervals = fewer;
    }

    pub(super) fn layers(&self) -> &[u32] {
        self.last.as_ref().map_or(&[], |last| &last.layers)
    }

    pub(super) fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    pub(super) fn into_intervals(self) -> Vec<Interval> {
        self.intervals
    }

    /// The sum of the intervals within a span of time, without those in which the placement changed unless `all`.
    pub(super) fn sum(&self, from: f64, to: f64, all: bool) -> Option<Interval> {
        let inside = |of: &&Interval| of.from >= from && of.to <= to && (all || !of.changed);
        let mut inside = self.intervals.iter().filter(inside);
        let mut sum = inside.next()?.clone();
        for interval in inside {
            sum.extend(interval);
        }
        Some(sum)
    }

    /// How evenly a span of time used experts and nodes; absent if nothing was used.
    pub(super) fn period(&self, from: f64, to: f64, all: bool) -> Option<Period> {
        let sum = self.sum(from, to, all)?;
        let span = (sum.from, sum.to);
        let period = Period::of(span, self.layers(), &sum.experts, &sum.nodes);
        period.is_used().then_some(period)
    }
}

/// The differences. Counts that became less, or of another shape, began anew: the router was started again.
fn between(last: &Sample, sample: &Sample) -> Interval {
    let is_less = |(now, before): (&u64, &u64)| now < before;
    let of_experts = sample.experts.iter().flatten().zip(last.experts.iter().flatten());
    let anew = sample.layers != last.layers || of_experts.into_iter().any(is_less);
    let mut experts = sample.experts.clone();
    let mut nodes = sample.nodes.clone();
    if !anew {
        experts.iter_mut().zip(&last.experts).for_each(|(now, before)| subtract(now, before));
        for (node, pairs) in &mut nodes {
            if let Some(before) = last.nodes.get(node) {
                subtract(pairs, before);
            }
        }
    }
    let changed = sample.epoch != last.epoch;
    Interval { from: last.at, to: sample.at, epoch: sample.epoch, changed, nodes, experts }
}

fn subtract(now: &mut [u64], before: &[u64]) {
    now.iter_mut().zip(before).for_each(|(now, before)| *now = now.saturating_sub(*before));
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::experts) fn sample(
        at: f64,
        epoch: u64,
        experts: &[u64],
        nodes: &[(&str, u64)],
    ) -> Sample {
        let nodes = nodes.iter().map(|&(node, pairs)| (node.to_owned(), vec![pairs]));
        Sample {
            at,
            epoch,
            layers: vec![0],
            experts: vec![experts.to_vec()],
            nodes: nodes.collect(),
        }
    }

    #[test]
    fn intervals_are_differences() {
        let mut series = Series::default();
        series.push(sample(0.0, 1, &[5, 5], &[("a", 10)]));
        series.push(sample(0.5, 1, &[6, 9], &[("a", 15)]));
        series.push(sample(1.0, 2, &[6, 10], &[("a", 15), ("b", 1)]));
        let [first, second] = series.intervals() else { panic!("two intervals") };
        assert_eq!((first.from, first.to, first.epoch, first.changed), (0.0, 0.5, 1, false));
        assert_eq!((&first.experts, &first.nodes["a"]), (&vec![vec![1, 4]], &vec![5]));
        assert_eq!((second.epoch, second.changed), (2, true));
        assert_eq!(second.of_nodes(), [("a", 0), ("b", 1)]);
        let all = series.sum(0.0, 1.0, true).unwrap();
        assert_eq!((&all.experts, all.of_nodes()), (&vec![vec![1, 5]], vec![("a", 5), ("b", 1)]));
        let calm = series.sum(0.0, 1.0, false).unwrap();
        assert_eq!((calm.to, calm.of_nodes()), (0.5, vec![("a", 5)]));
    }

    #[test]
    fn a_router_that_was_started_again_counts_anew() {
        let mut series = Series::default();
        series.push(sample(0.0, 1, &[50, 50], &[("a", 100)]));
        series.push(sample(0.5, 1, &[3, 4], &[("a", 7)]));
        assert_eq!(series.intervals()[0].experts, [[3, 4]]);
        assert_eq!(series.intervals()[0].nodes["a"], [7]);
    }

    #[test]
    fn a_long_run_loses_no_pair_and_no_change() {
        let mut series = Series::default();
        for number in 0..5000u64 {
            let epoch = 1 + number / 2000;
            series.push(sample(number as f64, epoch, &[number, 2 * number], &[("a", 3 * number)]));
        }
        assert!(series.intervals().len() <= MAX_INTERVALS);
        let all = series.sum(0.0, 1e9, true).unwrap();
        assert_eq!((all.experts, &all.nodes["a"]), (vec![vec![4999, 9998]], &vec![14_997]));
        let changed = series.intervals().iter().filter(|interval| interval.changed);
        assert_eq!(changed.map(|of| of.to).collect::<Vec<_>>(), [2000.0, 4000.0]);
        let joined = series.intervals().windows(2).all(|pair| pair[0].to == pair[1].from);
        assert!(joined, "intervals follow each other");
    }
}
