//! Every metric of a router. Requests have the names and buckets that dashboards of the field know.

use guildhall_telemetry::{Metric, SPANS_DROPPED, SPANS_EXPORTED};

/// Seconds until something is there for a person.
const LATENCY: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Seconds between tokens.
const BETWEEN_TOKENS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Seconds that a whole request takes.
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// Seconds of a call to an expert node.
const CALL: &[f64] = &[
    0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0, 10.0,
];

pub(crate) const REQUESTS_RUNNING: Metric =
    Metric::gauge("guildhall_num_requests_running", &[], "Sequences in the batch.");
pub(crate) const REQUESTS_WAITING: Metric =
    Metric::gauge("guildhall_num_requests_waiting", &[], "Sequences in the queue.");
pub(crate) const KV_CACHE_USAGE: Metric = Metric::gauge(
    "guildhall_kv_cache_usage_perc",
    &[],
    "Blocks of the KV cache that sequences hold, of all; 1 is full.",
);
pub(crate) const PREFIX_QUERIES: Metric = Metric::counter(
    "guildhall_prefix_cache_queries_total",
    &[],
    "Prompt tokens that were looked up in the prefix cache.",
);
pub(crate) const PREFIX_HITS: Metric = Metric::counter(
    "guildhall_prefix_cache_hits_total",
    &[],
    "Prompt tokens that were found in the prefix cache.",
);
pub(crate) const PREEMPTIONS: Metric = Metric::counter(
    "guildhall_num_preemptions_total",
    &[],
    "Sequences that gave their blocks up, to be computed again later.",
);
pub(crate) const STEPS: Metric =
    Metric::counter("guildhall_engine_steps_total", &[], "Steps of the engine.");
pub(crate) const STEPS_IN_TWO: Metric = Metric::counter(
    "guildhall_engine_ping_pong_steps_total",
    &[],
    "Steps that went in two micro-batches, one computed while the experts of the other were away.",
);
pub(crate) const PROMPT_TOKENS: Metric = Metric::counter(
    "guildhall_prompt_tokens_total",
    &[],
    "Tokens of prompts, found ones too, of sequences that have given a token.",
);
pub(crate) const GENERATION_TOKENS: Metric =
    Metric::counter("guildhall_generation_tokens_total", &[], "Tokens that were generated.");
pub(crate) const REQUEST_SUCCESS: Metric = Metric::counter(
    "guildhall_request_success_total",
    &["finished_reason"],
    "Sequences that have ended: stop, length, abort (the client left), deadline, or error.",
);
pub(crate) const TIME_TO_FIRST_TOKEN: Metric = Metric::histogram(
    "guildhall_time_to_first_token_seconds",
    &[],
    LATENCY,
    "From a checked request to its first token.",
);
pub(crate) const INTER_TOKEN_LATENCY: Metric = Metric::histogram(
    "guildhall_inter_token_latency_seconds",
    &[],
    BETWEEN_TOKENS,
    "From one token of a sequence to the next.",
);
pub(crate) const E2E_LATENCY: Metric = Metric::histogram(
    "guildhall_e2e_request_latency_seconds",
    &[],
    REQUEST,
    "From a checked request to the end of a sequence.",
);
pub(crate) const QUEUE_TIME: Metric = Metric::histogram(
    "guildhall_request_queue_time_seconds",
    &[],
    REQUEST,
    "From a checked request to the first step that it is part of.",
);
pub(crate) const PREFILL_TIME: Metric = Metric::histogram(
    "guildhall_request_prefill_time_seconds",
    &[],
    REQUEST,
    "From the first step of a sequence to its first token.",
);
pub(crate) const DECODE_TIME: Metric = Metric::histogram(
    "guildhall_request_decode_time_seconds",
    &[],
    REQUEST,
    "From the first token of a sequence to its end.",
);
pub(crate) const EXPERT_CALL: Metric = Metric::histogram(
    "guildhall_expert_call_seconds",
    &["node", "part"],
    CALL,
    "Time of a call to an expert node: in its queue, computing, and all else (network).",
);
pub(crate) const EXPERT_CALL_PARTS: Metric = Metric::seconds(
    "guildhall_expert_call_part_seconds_total",
    &["node", "layer", "part"],
    "The same times, added up for each layer.",
);
pub(crate) const EXPERT_PAIRS: Metric = Metric::counter(
    "guildhall_expert_pairs_total",
    &["node", "layer"],
    "Pairs of a token and an expert that a node was asked for.",
);
pub(crate) const EXPERT_TOKENS: Metric = Metric::counter(
    "guildhall_expert_tokens_total",
    &["node", "layer"],
    "Tokens whose activations a node was sent.",
);
pub(crate) const EXPERT_DISTINCT: Metric = Metric::counter(
    "guildhall_expert_distinct_total",
    &["node", "layer"],
    "Distinct experts of each call to a node.",
);
pub(crate) const EXPERT_BYTES: Metric = Metric::counter(
    "guildhall_expert_call_bytes_total",
    &["node", "layer", "direction"],
    "Bytes of activations (out) and outputs (back).",
);
pub(crate) const EXPERT_FAILURES: Metric = Metric::counter(
    "guildhall_expert_call_failures_total",
    &["node"],
    "Calls that a node refused or did not answer; others were asked.",
);
pub(crate) const EXPERT_HEDGES: Metric = Metric::counter(
    "guildhall_expert_call_hedges_total",
    &["node"],
    "Calls that a node was so late with that others were asked too.",
);
pub(crate) const EXPERT_LOAD: Metric = Metric::counter(
    "guildhall_expert_load_total",
    &["layer", "expert"],
    "Tokens that this router has routed to each expert; only with --metrics-per-expert.",
);
pub(crate) const LINKS: Metric = Metric::gauge(
    "guildhall_expert_link",
    &["node", "state"],
    "1 for the state of this router's link to a node: open, lost, or in quarantine; 0 for the others.",
);
pub(crate) const NODES: Metric =
    Metric::gauge("guildhall_expert_nodes", &["state"], "Expert nodes, as this router sees them.");
pub(crate) const MISSING_EXPERTS: Metric =
    Metric::gauge("guildhall_missing_experts", &[], "Experts that can be computed nowhere.");
pub(crate) const EPOCH: Metric =
    Metric::gauge("guildhall_placement_epoch", &[], "Number of the placement in use.");
pub(crate) const IS_LEADER: Metric =
    Metric::gauge("guildhall_is_leader", &[], "1 if this router places the experts.");
pub(crate) const LAST_PLACEMENT: Metric = Metric::gauge(
    "guildhall_last_placement_timestamp_seconds",
    &[],
    "When this router last published a placement, since 1970; 0: never.",
);
pub(crate) const PLACEMENTS: Metric = Metric::counter(
    "guildhall_placements_total",
    &[],
    "Placements that this router has published; a rebalance is rolled out in several.",
);
pub(crate) const MOVES: Metric = Metric::counter(
    "guildhall_expert_moves_total",
    &["kind"],
    "Experts that these placements had loaded or dropped.",
);
pub(crate) const BALANCEDNESS: Metric = Metric::gauge(
    "guildhall_balancedness",
    &["layer", "of"],
    "Mean over maximum of the load of a layer's nodes or experts; the leader's view.",
);
pub(crate) const VARIATION: Metric = Metric::gauge(
    "guildhall_load_coefficient_of_variation",
    &["layer", "of"],
    "Standard deviation over mean of the load of a layer's nodes or experts; the leader's view.",
);
pub(crate) const ENTROPY: Metric = Metric::gauge(
    "guildhall_load_normalised_entropy",
    &["layer", "of"],
    "Entropy of the load of a layer's nodes or experts, 1 is even; the leader's view.",
);
pub(crate) const EFFECTIVE_SHARE: Metric = Metric::gauge(
    "guildhall_effective_share",
    &["layer", "of"],
    "By what share of a layer's nodes or experts the load could be carried; the leader's view.",
);
pub(crate) const DEAD_EXPERTS: Metric = Metric::gauge(
    "guildhall_dead_experts",
    &["layer"],
    "Experts with less than a hundredth of the mean load; the leader's view.",
);
pub(crate) const HOT_EXPERTS: Metric = Metric::gauge(
    "guildhall_hot_experts",
    &["layer"],
    "Experts with more than four times the mean load; the leader's view.",
);

/// All of them.
pub(crate) const ALL: &[Metric] = &[
    REQUESTS_RUNNING,
    REQUESTS_WAITING,
    KV_CACHE_USAGE,
    PREFIX_QUERIES,
    PREFIX_HITS,
    PREEMPTIONS,
    STEPS,
    STEPS_IN_TWO,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    REQUEST_SUCCESS,
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_LATENCY,
    E2E_LATENCY,
    QUEUE_TIME,
    PREFILL_TIME,
    DECODE_TIME,
    EXPERT_CALL,
    EXPERT_CALL_PARTS,
    EXPERT_PAIRS,
    EXPERT_TOKENS,
    EXPERT_DISTINCT,
    EXPERT_BYTES,
    EXPERT_FAILURES,
    EXPERT_HEDGES,
    EXPERT_LOAD,
    LINKS,
    NODES,
    MISSING_EXPERTS,
    EPOCH,
    IS_LEADER,
    LAST_PLACEMENT,
    PLACEMENTS,
    MOVES,
    BALANCEDNESS,
    VARIATION,
    ENTROPY,
    EFFECTIVE_SHARE,
    DEAD_EXPERTS,
    HOT_EXPERTS,
    SPANS_EXPORTED,
    SPANS_DROPPED,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use guildhall_telemetry::MetricKind;

    use super::*;

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let ending = match metric.kind {
                MetricKind::Counter => "_total",
                MetricKind::Seconds => "_seconds_total",
                MetricKind::Histogram(_) => "_seconds",
                MetricKind::Gauge => "",
            };
            assert!(metric.name.starts_with("guildhall_"), "{}", metric.name);
            assert!(metric.name.ends_with(ending), "{}", metric.name);
        }
    }

    #[test]
    fn the_page_about_metrics_has_each_of_them() {
        let page = include_str!("../../METRICS.md");
        let table = Metric::table(ALL);
        assert!(page.contains(&table), "METRICS.md has no such table:\n{table}");
    }
}
