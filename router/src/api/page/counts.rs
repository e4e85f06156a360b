//! Requests, tokens and latencies, read from the page of metrics: the one place where they are counted. No IO.

use std::collections::BTreeMap;

use guildhall_telemetry::{Metric, MetricKind, Sample};
use serde::Serialize;

use crate::metrics;

/// What had been counted at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) prompt_tokens: u64,
    pub(super) generated_tokens: u64,
    /// Sequences that have ended, by how.
    pub(super) ended: BTreeMap<String, u64>,
    pub(super) first_token: Buckets,
    pub(super) between_tokens: Buckets,
    pub(super) whole_request: Buckets,
    /// By node.
    pub(super) nodes: BTreeMap<String, NodeCounts>,
}

/// The calls to one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeCounts {
    pub(super) calls: u64,
    /// Seconds of all calls together: in the node's queue, computing, and all else.
    pub(super) queue: f64,
    pub(super) compute: f64,
    pub(super) network: f64,
    pub(super) failures: u64,
    pub(super) hedges: u64,
    pub(super) pairs: u64,
}

/// How many values were at most so large, for each limit of a histogram; the last one counts all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Buckets(Vec<u64>);

/// Seconds that half of what happened took at most, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) count: u64,
}

/// Reads a page of metrics. What is not on it has not happened yet.
pub(super) fn read(page: &str) -> Counts {
    let mut counts = Counts::default();
    page.lines().filter_map(Sample::read).for_each(|sample| counts.add(&sample));
    counts
}

impl Counts {
    fn add(&mut self, sample: &Sample<'_>) {
        let (name, count) = (sample.name, sample.value as u64);
        let histograms = [
            (&metrics::TIME_TO_FIRST_TOKEN, &mut self.first_token),
            (&metrics::INTER_TOKEN_LATENCY, &mut self.between_tokens),
            (&metrics::E2E_LATENCY, &mut self.whole_request),
        ];
        for (metric, buckets) in histograms {
            if name.strip_prefix(metric.name) == Some("_bucket") {
                // They come in ascending order.
                buckets.0.push(count);
            }
        }
        if name == metrics::PROMPT_TOKENS.name {
            self.prompt_tokens = count;
        } else if name == metrics::GENERATION_TOKENS.name {
            self.generated_tokens = count;
        } else if name == metrics::REQUEST_SUCCESS.name {
            if let Some(reason) = sample.label("finished_reason") {
                self.ended.insert(reason.to_owned(), count);
            }
        } else if let Some(node) = sample.label("node") {
            let part = sample.label("part").unwrap_or_default();
            self.add_of_node(name, (node, part), sample.value);
        }
    }

    fn add_of_node(&mut self, name: &str, (node, part): (&str, &str), value: f64) {
        let of = self.nodes.entry(node.to_owned()).or_default();
        let whole = value as u64;
        if let Some(what) = name.strip_prefix(metrics::EXPERT_CALL.name) {
            match (what, part) {
                ("_count", "compute") => of.calls = whole,
                ("_sum", "queue") => of.queue = value,
                ("_sum", "compute") => of.compute = value,
                ("_sum", "network") => of.network = value,
                _ => {}
            }
        } else if name == metrics::EXPERT_FAILURES.name {
            of.failures = whole;
        } else if name == metrics::EXPERT_HEDGES.name {
            of.hedges = whole;
        }
    }

    /// Sequences that have ended, however.
    pub(super) fn all_ended(&self) -> u64 {
        self.ended.values().sum()
    }
}

impl NodeCounts {
    /// What came after an earlier moment.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            queue: (self.queue - before.queue).max(0.0),
            compute: (self.compute - before.compute).max(0.0),
            network: (self.network - before.network).max(0.0),
            failures: self.failures.saturating_sub(before.failures),
            hedges: self.hedges.saturating_sub(before.hedges),
            pairs: self.pairs.saturating_sub(before.pairs),
        }
    }
}

impl Buckets {
    /// Percentiles of what was counted after an earlier moment; nothing if that is nothing. Within a bucket values count
    /// as spread evenly, so each is as exact as its bucket is narrow.
    pub(super) fn percentiles(&self, before: &Self, metric: &Metric) -> Option<Percentiles> {
        let MetricKind::Histogram(limits) = metric.kind else { return None };
        let earlier = before.0.iter().copied().chain(std::iter::repeat(0));
        let counts: Vec<u64> =
            self.0.iter().zip(earlier).map(|(now, then)| now.saturating_sub(then)).collect();
        let count = *counts.last().filter(|count| **count > 0)?;
        let at = |share: f64| quantile(limits, &counts, share);
        Some(Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), count })
    }
}

/// The value below which a share of them lies, of `counts` at most so large as each limit and a last one of all.
fn quantile(limits: &[f64], counts: &[u64], share: f64) -> f64 {
    let all = counts.last().copied().unwrap_or_default();
    let rank = share * all as f64;
    let (mut lower, mut below) = (0.0, 0);
    for (&limit, &count) in limits.iter().zip(counts) {
        if count as f64 >= rank && count > below {
            return lower + (limit - lower) * (rank - below as f64) / (count - below) as f64;
        }
        (lower, below) = (limit, count);
    }
    // Above the last limit nothing more is known.
    lower
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP guildhall_prompt_tokens_total Tokens\n\
        guildhall_prompt_tokens_total 80\n\
        guildhall_generation_tokens_total 20\n\
        guildhall_request_success_total{finished_reason=\"length\"} 2\n\
        guildhall_request_success_total{finished_reason=\"stop\"} 3\n\
        guildhall_time_to_first_token_seconds_bucket{le=\"0.001\"} 1\n\
        guildhall_time_to_first_token_seconds_bucket{le=\"+Inf\"} 5\n\
        guildhall_time_to_first_token_seconds_sum 9\n\
        guildhall_expert_call_seconds_sum{node=\"n-1\",part=\"queue\"} 0.5\n\
        guildhall_expert_call_seconds_count{node=\"n-1\",part=\"queue\"} 4\n\
        guildhall_expert_call_seconds_sum{node=\"n-1\",part=\"compute\"} 0.25\n\
        guildhall_expert_call_seconds_count{node=\"n-1\",part=\"compute\"} 4\n\
        guildhall_expert_call_failures_total{node=\"n-1\"} 7\n\
        nonsense\n";

    #[test]
    fn a_page_of_metrics_is_read() {
        let counts = read(PAGE);
        assert_eq!((counts.prompt_tokens, counts.generated_tokens), (80, 20));
        assert_eq!(counts.all_ended(), 5);
        assert_eq!(counts.first_token, Buckets(vec![1, 5]));
        let node =
            NodeCounts { calls: 4, queue: 0.5, compute: 0.25, failures: 7, ..<_>::default() };
        assert_eq!(counts.nodes["n-1"], node);
        assert_eq!(read(""), Counts::default());
    }

    #[test]
    fn percentiles_are_of_what_came_after() {
        const SECONDS: Metric = Metric::histogram("t_seconds", &[], &[1.0, 2.0, 4.0], "");
        let check = |before: &[u64], now: &[u64], expected: Option<[f64; 3]>| {
            let (before, now) = (Buckets(before.into()), Buckets(now.into()));
            let found = now.percentiles(&before, &SECONDS).map(|p| [p.p50, p.p95, p.p99]);
            assert_eq!(found, expected, "{before:?} {now:?}");
        };
        check(&[], &[0, 0, 0, 0], None);
        check(&[5, 5, 5, 5], &[5, 5, 5, 5], None);
        check(&[], &[100, 100, 100, 100], Some([0.5, 0.95, 0.99]));
        check(&[10, 10, 10, 10], &[10, 110, 110, 110], Some([1.5, 1.95, 1.99]));
        // Most lie above the last limit.
        check(&[], &[0, 0, 1, 100], Some([4.0, 4.0, 4.0]));
        check(&[], &[50, 50, 100, 100], Some([1.0, 2.0 + 2.0 * 0.9, 2.0 + 2.0 * 0.98]));
    }
}
