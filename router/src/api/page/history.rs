//! The last minutes, bounded: what a page that is opened now would otherwise have missed. No IO; time is a parameter.
//!
//! It takes 600 bytes for each expert of the model (9 MiB for 60 layers of 256), and for each second about 1 KiB, 100
//! bytes for each node, and 4 for each layer (half a MiB in all).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::counts::{Counts, NodeCounts};

/// Samples of the numbers of the router; one comes each second.
const SAMPLES: usize = 300;
/// Snapshots of what was counted for each expert.
const SNAPSHOTS: usize = 150;
/// Time between two of them.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(2);
/// A look that is so much early still counts as the one for a snapshot.
const SLACK: Duration = Duration::from_millis(500);
/// Time over which percentiles of a moment are taken.
const MOMENT: Duration = Duration::from_secs(10);

/// What the router was doing at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Since the recording began.
    pub(super) at: Duration,
    pub(super) unix_ms: u64,
    pub(super) running: usize,
    pub(super) waiting: usize,
    pub(super) counts: Counts,
    /// Balancedness of the nodes, [layer of the grid]; `None` while nobody knows, or where nothing was asked for.
    pub(super) balancedness: Vec<Option<f32>>,
}

/// The rings.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    /// The number of the sample that comes next.
    next: u64,
    snapshots: VecDeque<Snapshot>,
}

/// What had been counted for each expert at one moment, modulo 2³²: only differences are asked for.
#[derive(Debug)]
struct Snapshot {
    at: Duration,
    /// [layer of the grid × expert]
    pairs: Vec<u32>,
}

/// What was counted in some time before now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recent {
    /// The time that it covers.
    pub(super) time: Duration,
    /// [layer of the grid × expert]
    pub(super) pairs: Vec<u32>,
}

impl History {
    /// Takes a sample in; the oldest one goes.
    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push_back(sample);
        self.next += 1;
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Takes in what has been counted for each expert, if it is time for another snapshot.
    pub(super) fn add_pairs(&mut self, at: Duration, pairs: &[u64]) {
        let is_early = |last: &Snapshot| at + SLACK < last.at + SNAPSHOT_EVERY;
        if self.snapshots.back().is_some_and(is_early) {
            return;
        }
        self.snapshots.push_back(Snapshot { at, pairs: wrapped(pairs) });
        if self.snapshots.len() > SNAPSHOTS {
            self.snapshots.pop_front();
        }
    }

    /// What was counted for each expert in the last `window`, or as far back as is known.
    pub(super) fn recent(&self, now: Duration, pairs: &[u64], window: Duration) -> Recent {
        let from = now.saturating_sub(window);
        let old = self.snapshots.iter().rev().find(|snapshot| snapshot.at <= from);
        let Some(since) = old.or(self.snapshots.front()) else {
            return Recent { time: Duration::ZERO, pairs: vec![0; pairs.len()] };
        };
        Recent { time: now.saturating_sub(since.at), pairs: grown(&since.pairs, &wrapped(pairs)) }
    }

    /// What was counted for one expert from each snapshot to the next, per second, the oldest first.
    pub(super) fn of_expert(&self, index: usize) -> Vec<f32> {
        let mut rates = Vec::with_capacity(SNAPSHOTS);
        for (before, after) in self.snapshots.iter().zip(self.snapshots.iter().skip(1)) {
            let (Some(then), Some(now)) = (before.pairs.get(index), after.pairs.get(index)) else {
                continue;
            };
            let seconds = (after.at - before.at).as_secs_f32();
            rates.push(now.wrapping_sub(*then) as f32 / seconds);
        }
        rates
    }

    /// The samples from `number` on with their numbers, as far as they are kept.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = (u64, &Sample)> {
        let first = self.next - self.samples.len() as u64;
        let skip = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        (first..).zip(&self.samples).skip(skip)
    }

    /// The number of the sample that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The youngest sample that is at least `age` older than a moment, or the oldest one.
    pub(super) fn before(&self, moment: Duration, age: Duration) -> Option<&Sample> {
        let from = moment.saturating_sub(age);
        let known = self.samples.partition_point(|sample| sample.at <= from);
        self.samples.get(known.saturating_sub(1))
    }

    /// What a sample is compared with: the one before it, and the one a moment before it.
    pub(super) fn compared(&self, number: u64, sample: &Sample) -> (&Sample, &Sample) {
        let first = self.next - self.samples.len() as u64;
        let place = usize::try_from(number.saturating_sub(first)).unwrap_or(0);
        let last = self.samples.get(place.saturating_sub(1)).unwrap_or(&self.samples[place]);
        (last, self.before(sample.at, MOMENT).unwrap_or(last))
    }

    /// What each node did in the last moments, and the seconds that they are.
    pub(super) fn of_nodes(&self, now: &Sample) -> (f64, BTreeMap<String, NodeCounts>) {
        let none = Sample::default();
        let before = self.before(now.at, MOMENT).unwrap_or(&none);
        let nodes = now.counts.nodes.iter().map(|(name, counts)| {
            let then = before.counts.nodes.get(name).cloned().unwrap_or_default();
            (name.clone(), counts.since(&then))
        });
        (now.at.saturating_sub(before.at).as_secs_f64(), nodes.collect())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "modulo 2³² is what is wanted")]
fn wrapped(pairs: &[u64]) -> Vec<u32> {
    pairs.iter().map(|pairs| *pairs as u32).collect()
}

fn grown(before: &[u32], now: &[u32]) -> Vec<u32> {
    now.iter().zip(before).map(|(now, then)| now.wrapping_sub(*then)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn sample(at: u64) -> Sample {
        Sample { at: seconds(at), ..Sample::default() }
    }

    #[test]
    fn old_samples_go_and_the_numbers_go_on() {
        let mut history = History::default();
        for at in 0..1000 {
            history.add(sample(at));
        }
        let kept: Vec<u64> = history.since(0).map(|(number, _)| number).collect();
        assert_eq!((kept.len(), kept[0], kept[299]), (300, 700, 999));
        assert!(history.since(0).all(|(number, sample)| sample.at == seconds(number)));
        assert_eq!(history.since(998).count(), 2);
        assert_eq!(history.since(u64::MAX).count(), 0);
        assert_eq!(history.next(), 1000);
    }

    #[test]
    fn a_sample_is_compared_with_the_ones_before_it() {
        let mut history = History::default();
        for at in 0..400 {
            history.add(sample(at));
        }
        let at = |number| {
            let (_, sample) = history.since(number).next().unwrap();
            let (last, moment) = history.compared(number, sample);
            (last.at.as_secs(), moment.at.as_secs())
        };
        assert_eq!(at(399), (398, 389));
        // Before the first one there is none.
        assert_eq!(at(100), (100, 100));
        assert_eq!(at(103), (102, 100));
    }

    #[test]
    fn recent_load_is_a_difference_even_where_counters_turn_over() {
        let mut history = History::default();
        let start = u64::from(u32::MAX) - 5;
        assert_eq!(history.recent(seconds(1), &[7], seconds(10)).pairs, [0]);
        for at in 0..1000 {
            history.add_pairs(seconds(at), &[start + at, 0]);
        }
        let recent = |window| history.recent(seconds(1000), &[start + 1000, 3], seconds(window));
        assert_eq!(recent(10), Recent { time: seconds(10), pairs: vec![10, 3] });
        assert_eq!(recent(11), Recent { time: seconds(12), pairs: vec![12, 3] });
        // No more is kept than so much.
        assert_eq!(recent(9999), Recent { time: seconds(300), pairs: vec![300, 3] });
        assert_eq!(history.of_expert(0), vec![1.0; 149]);
        assert_eq!(history.of_expert(2), vec![0.0; 0]);
    }

    #[test]
    fn nodes_are_seen_over_the_last_moments() {
        let mut history = History::default();
        let with = |at: u64| {
            let of = NodeCounts { calls: 3 * at, ..NodeCounts::default() };
            let nodes = [("a".to_owned(), of)].into();
            let counts = Counts { nodes, ..Counts::default() };
            Sample { counts, ..sample(at) }
        };
        for at in 0..60 {
            history.add(with(at));
        }
        let (time, nodes) = history.of_nodes(&with(60));
        assert!((time - 10.0).abs() < 1e-9);
        assert_eq!(nodes["a"].calls, 30);
    }
}
