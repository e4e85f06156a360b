//! How long the calls to each node take, and how many go wrong, as metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use guildhall_ids::{LayerIdx, NodeId};
use guildhall_telemetry::{Counter, Histogram};
use guildhall_transport::{Call, NodeTimings};

use crate::metrics;

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallWork {
    pub(super) tokens: usize,
    pub(super) pairs: usize,
    /// Distinct experts.
    pub(super) distinct: usize,
    /// Of activations.
    pub(super) bytes: usize,
}

impl CallWork {
    pub(super) fn of(call: &Call) -> Self {
        let mut experts: Vec<_> = call.pairs.iter().map(|pair| pair.expert).collect();
        experts.sort_unstable();
        experts.dedup();
        Self {
            tokens: call.tokens as usize,
            pairs: call.pairs.len(),
            distinct: experts.len(),
            bytes: call.activations.len(),
        }
    }
}

/// The meters of every node that was ever asked.
#[derive(Default)]
pub(super) struct Meters(BTreeMap<NodeId, NodeMeters>);

/// The meters of a node, kept because looking them up takes longer than counting.
pub(super) struct NodeMeters {
    queue: Histogram,
    compute: Histogram,
    network: Histogram,
    name: String,
    layers: BTreeMap<LayerIdx, LayerMeters>,
    bytes_out: Counter,
    bytes_back: Counter,
    pub(super) failures: Counter,
    pub(super) hedges: Counter,
}

/// What a node was asked for in a layer.
struct LayerMeters {
    pairs: Counter,
    tokens: Counter,
    distinct: Counter,
}

impl Meters {
    pub(super) fn of(&mut self, node: &NodeId) -> &mut NodeMeters {
        self.0.entry(node.clone()).or_insert_with(|| NodeMeters::new(node.as_str()))
    }
}

impl NodeMeters {
    fn new(node: &str) -> Self {
        let part = |part| metrics::EXPERT_CALL.histogram_of(&[node, part]);
        Self {
            queue: part("queue"),
            compute: part("compute"),
            network: part("network"),
            name: node.to_owned(),
            layers: BTreeMap::new(),
            bytes_out: metrics::EXPERT_BYTES.counter_of(&[node, "out"]),
            bytes_back: metrics::EXPERT_BYTES.counter_of(&[node, "back"]),
            failures: metrics::EXPERT_FAILURES.counter_of(&[node]),
            hedges: metrics::EXPERT_HEDGES.counter_of(&[node]),
        }
    }

    /// A call was sent.
    pub(super) fn sent(&mut self, layer: LayerIdx, work: &CallWork) {
        let of_layer = self.layers.entry(layer).or_insert_with(|| {
            let labels = [self.name.as_str(), &layer.0.to_string()];
            LayerMeters {
                pairs: metrics::EXPERT_PAIRS.counter_of(&labels),
                tokens: metrics::EXPERT_TOKENS.counter_of(&labels),
                distinct: metrics::EXPERT_DISTINCT.counter_of(&labels),
            }
        });
        of_layer.pairs.increment(work.pairs as u64);
        of_layer.tokens.increment(work.tokens as u64);
        of_layer.distinct.increment(work.distinct as u64);
        self.bytes_out.increment(work.bytes as u64);
    }

    /// A call was answered with so many bytes after so long, of which the node says what it was doing.
    pub(super) fn answered(&self, bytes: usize, whole: Duration, timings: NodeTimings) {
        self.bytes_back.increment(bytes as u64);
        let network = whole.saturating_sub(timings.queue + timings.compute);
        self.queue.record(timings.queue.as_secs_f64());
        self.compute.record(timings.compute.as_secs_f64());
        self.network.record(network.as_secs_f64());
    }
}
