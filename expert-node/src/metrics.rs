//! Every metric of an expert node.

use guildhall_telemetry::{Metric, SPANS_DROPPED, SPANS_EXPORTED};

/// Seconds of a call or a batch.
const SECONDS: &[f64] = &[
    0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0, 10.0,
];
/// Pairs of a batch.
const PAIRS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

pub(crate) const QUEUE_TIME: Metric = Metric::histogram(
    "guildhall_node_queue_seconds",
    &[],
    SECONDS,
    "From the arrival of a call to the beginning of its batch.",
);
pub(crate) const COMPUTE_TIME: Metric = Metric::histogram(
    "guildhall_node_compute_seconds",
    &[],
    SECONDS,
    "The computation of a batch.",
);
pub(crate) const BATCH_PAIRS: Metric = Metric::histogram(
    "guildhall_node_batch_pairs",
    &[],
    PAIRS,
    "Pairs of a token and an expert that were computed together.",
);
pub(crate) const PAIRS_TOTAL: Metric = Metric::counter(
    "guildhall_node_pairs_total",
    &["layer"],
    "Pairs of a token and an expert that were computed.",
);
pub(crate) const LAYER_SECONDS: Metric = Metric::seconds(
    "guildhall_node_layer_seconds_total",
    &["layer", "part"],
    "Time of a layer: of its calls before their batch (queue), and of its batches (compute).",
);
pub(crate) const EXPERTS_READ: Metric = Metric::counter(
    "guildhall_node_experts_read_total",
    &["layer"],
    "Distinct experts of each batch, whose weights were read for it.",
);
pub(crate) const QUEUED_CALLS: Metric = Metric::gauge(
    "guildhall_node_queued_calls",
    &[],
    "Calls that wait for the device or are on it; those that are computed where they arrive are not counted.",
);
pub(crate) const REFUSED: Metric = Metric::counter(
    "guildhall_node_refused_calls_total",
    &["reason"],
    "Calls that were not computed: overloaded, expired, not resident, or computation failed.",
);
pub(crate) const RESIDENT_EXPERTS: Metric =
    Metric::gauge("guildhall_node_resident_experts", &[], "Experts that are loaded and verified.");
pub(crate) const RESIDENT_BYTES: Metric =
    Metric::gauge("guildhall_node_resident_bytes", &[], "Bytes of their weights.");

/// All of them.
pub(crate) const ALL: &[Metric] = &[
    QUEUE_TIME,
    COMPUTE_TIME,
    BATCH_PAIRS,
    PAIRS_TOTAL,
    LAYER_SECONDS,
    EXPERTS_READ,
    QUEUED_CALLS,
    REFUSED,
    RESIDENT_EXPERTS,
    RESIDENT_BYTES,
    SPANS_EXPORTED,
    SPANS_DROPPED,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_metrics_has_each_of_them() {
        let page = include_str!("../../METRICS.md");
        let table = Metric::table(ALL);
        assert!(page.contains(&table), "METRICS.md has no such table:\n{table}");
    }
}
