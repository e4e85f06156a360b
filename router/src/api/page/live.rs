//! What the live page is told, as JSON: everything of now, and of the last minutes what it has not got yet.

use std::time::Duration;

use guildhall_cluster::BalanceReport;
use serde::Serialize;

use super::changes::Change;
use super::counts::Percentiles;
use super::history::{History, Sample};
use super::roster::NodeState;
use crate::metrics;

/// Percentiles are of what ended in this time.
pub(super) const LATENCY_WINDOW: Duration = Duration::from_secs(60);
/// The time that load is shown for unless the page asks for another.
const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

/// What a page asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// The number of the first sample that it has not got.
    pub(super) since: u64,
    /// The time that the load of experts shall be of.
    pub(super) window: Duration,
    /// The version of the table of holders that it has.
    pub(super) holders: u64,
    /// A layer of the model and an expert in it, whose load over time it wants.
    pub(super) expert: Option<(u32, u32)>,
}

impl Query {
    /// Reads the part of an address after the question mark. What is unknown or no number counts as not said.
    pub(super) fn read(text: &str) -> Self {
        let said = |name: &str| {
            let value =
                |pair: &str| pair.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok();
            text.split('&').find_map(value)
        };
        let small = |name| said(name).and_then(|value| u32::try_from(value).ok());
        Self {
            since: said("since").unwrap_or(0),
            window: said("window").map_or(DEFAULT_WINDOW, Duration::from_secs),
            holders: said("holders").unwrap_or(0),
            expert: small("layer").zip(small("expert")),
        }
    }
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Live {
    pub(super) router: RouterNow,
    /// Nothing while the model is being loaded.
    pub(super) engine: Option<EngineNow>,
    pub(super) latencies: Latencies,
    /// Sequences that have ended since the start, by how.
    pub(super) ended: std::collections::BTreeMap<String, u64>,
    /// The number of the sample that comes next.
    pub(super) next: u64,
    pub(super) samples: Vec<SampleLine>,
    pub(super) nodes: Vec<NodeLine>,
    /// Nothing before the model's configuration is read.
    pub(super) experts: Option<ExpertsNow>,
    /// What the leader says; nothing without a cluster, or while it cannot be asked.
    pub(super) balance: Option<BalanceNow>,
    /// The youngest first.
    pub(super) changes: Vec<Change>,
}

/// Who answers.
#[derive(Debug, Serialize)]
pub(super) struct RouterNow {
    /// Differs after a restart.
    pub(super) started_unix_ms: u64,
    pub(super) unix_ms: u64,
    pub(super) uptime_seconds: u64,
    pub(super) version: &'static str,
    /// Of this router in its cluster; nothing if it computes the experts itself.
    pub(super) name: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) routers: usize,
    /// Whether changes of the store arrive as they happen.
    pub(super) connected: bool,
    pub(super) epoch: u64,
    pub(super) missing_experts: usize,
    pub(super) takes_traffic: bool,
    /// Why not.
    pub(super) reason: String,
}

/// What the engine is doing.
#[derive(Debug, Serialize)]
pub(super) struct EngineNow {
    pub(super) model: String,
    pub(super) family: String,
    pub(super) requests: usize,
    pub(super) running: usize,
    pub(super) waiting: usize,
    pub(super) kv_blocks: usize,
    pub(super) kv_blocks_used: usize,
    pub(super) preemptions: u64,
    pub(super) prefix_queried_tokens: u64,
    pub(super) prefix_hit_tokens: u64,
}

/// Seconds, over [`LATENCY_WINDOW`]; nothing where nothing happened.
#[derive(Debug, Serialize)]
pub(super) struct Latencies {
    pub(super) first_token: Option<Percentiles>,
    pub(super) between_tokens: Option<Percentiles>,
    pub(super) whole_request: Option<Percentiles>,
}

/// A second of the router's past.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct SampleLine {
    pub(super) unix_ms: u64,
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// Since the sample before.
    pub(super) generated_per_second: f32,
    pub(super) prompt_per_second: f32,
    pub(super) ended_per_second: f32,
    /// Seconds, of the last moments.
    pub(super) first_token_p95: Option<f32>,
    pub(super) between_tokens_p95: Option<f32>,
    /// Of the nodes, [layer].
    pub(super) balancedness: Vec<Option<f32>>,
    /// Pairs of a token and an expert that each node was asked for.
    pub(super) pairs_per_second: std::collections::BTreeMap<String, f32>,
}

/// A node.
#[derive(Debug, Serialize)]
pub(super) struct NodeLine {
    pub(super) node: String,
    pub(super) state: NodeState,
    pub(super) reason: String,
    pub(super) since_unix_ms: u64,
    pub(super) address: String,
    pub(super) device: String,
    pub(super) zone: String,
    pub(super) instruction_set: String,
    pub(super) version: String,
    pub(super) assigned_experts: usize,
    pub(super) resident_experts: usize,
    pub(super) resident_bytes: u64,
    pub(super) capacity_bytes: u64,
    /// As its operator gave it, relative to the others.
    pub(super) speed: f64,
    /// Time for a call over that of the node in the middle, as this router sees it.
    pub(super) slowness: Option<f64>,
    pub(super) pairs_per_second: f64,
    pub(super) calls_per_second: f64,
    /// Mean milliseconds of a call: in the node's queue, computing, and all else; nothing without a call.
    pub(super) call_ms: Option<[f64; 3]>,
    /// Since this router started.
    pub(super) failures: u64,
    pub(super) hedges: u64,
}

/// How often each expert was used, and who holds it.
#[derive(Debug, Serialize)]
pub(super) struct ExpertsNow {
    pub(super) layers: Vec<u32>,
    pub(super) n_experts: u32,
    /// The time that the pairs are of.
    pub(super) seconds: f64,
    /// Pairs of a token and an expert, [layer][expert].
    pub(super) pairs: Vec<Vec<u32>>,
    /// Nothing if the page has it, or if there are no nodes.
    pub(super) holders: Option<Holders>,
    /// Of the expert that the page asks for, pairs per second, the oldest first.
    pub(super) over_time: Option<Vec<f32>>,
}

/// Which nodes can be asked for each expert.
#[derive(Debug, Serialize)]
pub(super) struct Holders {
    pub(super) version: u64,
    pub(super) nodes: Vec<String>,
    /// Places in `nodes`, [layer][expert].
    pub(super) of: Vec<Vec<Vec<usize>>>,
}

/// How evenly the cluster is used, by the load of all routers.
#[derive(Debug, Serialize)]
pub(super) struct BalanceNow {
    pub(super) state: String,
    pub(super) last_failure: String,
    pub(super) layers: Vec<LayerLine>,
}

/// A layer of the model.
#[derive(Debug, Serialize)]
pub(super) struct LayerLine {
    pub(super) layer: u32,
    /// Balancedness.
    pub(super) nodes: f64,
    pub(super) experts: f64,
    pub(super) hot: Vec<u32>,
    pub(super) dead: Vec<u32>,
}

impl BalanceNow {
    pub(super) fn of(report: &BalanceReport) -> Self {
        let layers = report.layers.iter().map(|layer| LayerLine {
            layer: layer.layer.0,
            nodes: layer.nodes.balancedness,
            experts: layer.experts.balancedness,
            hot: layer.hot.clone(),
            dead: layer.dead.clone(),
        });
        let (state, last_failure) = (report.state.clone(), report.last_failure.clone());
        Self { state, last_failure, layers: layers.collect() }
    }
}

/// The samples from a number on, each with what happened since the one before.
pub(super) fn sample_lines(history: &History, since: u64) -> Vec<SampleLine> {
    let samples = history.since(since);
    let line = |(number, sample)| {
        let (last, moment) = history.compared(number, sample);
        sample_line(sample, last, moment)
    };
    samples.map(line).collect()
}

fn sample_line(sample: &Sample, last: &Sample, moment: &Sample) -> SampleLine {
    let seconds = sample.at.saturating_sub(last.at).as_secs_f32();
    let rate = |now: u64, then: u64| {
        if seconds > 0.0 { now.saturating_sub(then) as f32 / seconds } else { 0.0 }
    };
    let (now, then) = (&sample.counts, &last.counts);
    let nodes = now.nodes.iter().map(|(node, of)| {
        let before = then.nodes.get(node).map_or(0, |of| of.pairs);
        (node.clone(), rate(of.pairs, before))
    });
    let first =
        now.first_token.percentiles(&moment.counts.first_token, &metrics::TIME_TO_FIRST_TOKEN);
    let between = now
        .between_tokens
        .percentiles(&moment.counts.between_tokens, &metrics::INTER_TOKEN_LATENCY);
    SampleLine {
        unix_ms: sample.unix_ms,
        running: sample.running,
        waiting: sample.waiting,
        generated_per_second: rate(now.generated_tokens, then.generated_tokens),
        prompt_per_second: rate(now.prompt_tokens, then.prompt_tokens),
        ended_per_second: rate(now.all_ended(), then.all_ended()),
        first_token_p95: first.map(|of| of.p95 as f32),
        between_tokens_p95: between.map(|of| of.p95 as f32),
        balancedness: sample.balancedness.clone(),
        pairs_per_second: nodes.collect(),
    }
}

/// Latencies between two moments.
pub(super) fn latencies(now: &Sample, before: &Sample) -> Latencies {
    let (now, then) = (&now.counts, &before.counts);
    Latencies {
        first_token: now.first_token.percentiles(&then.first_token, &metrics::TIME_TO_FIRST_TOKEN),
        between_tokens: now
            .between_tokens
            .percentiles(&then.between_tokens, &metrics::INTER_TOKEN_LATENCY),
        whole_request: now.whole_request.percentiles(&then.whole_request, &metrics::E2E_LATENCY),
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts;
    use super::*;

    #[test]
    fn queries_are_read_and_nonsense_is_not_said() {
        let check = |text, since, window, holders, expert| {
            let window = Duration::from_secs(window);
            assert_eq!(Query::read(text), Query { since, window, holders, expert }, "{text}");
        };
        check("", 0, 10, 0, None);
        check("since=7&window=60&holders=3&layer=2&expert=15", 7, 60, 3, Some((2, 15)));
        check("since=-1&window=x&layer=2", 0, 10, 0, None);
        check("layer=99999999999&expert=1&&=&since", 0, 10, 0, None);
    }

    #[test]
    fn rates_are_differences_over_time() {
        let page = |generated: u64| format!("guildhall_generation_tokens_total {generated}\n");
        let sample = |seconds, generated| Sample {
            at: Duration::from_millis(seconds),
            counts: counts::read(&page(generated)),
            ..Sample::default()
        };
        let mut history = History::default();
        for (at, generated) in [(0, 100), (1000, 150), (3000, 250)] {
            history.add(sample(at, generated));
        }
        let rates = |since| -> Vec<f32> {
            sample_lines(&history, since).iter().map(|line| line.generated_per_second).collect()
        };
        assert_eq!(rates(0), [0.0, 50.0, 50.0]);
        assert_eq!(rates(2), [50.0]);
        assert_eq!(rates(3), [0.0; 0]);
    }
}
