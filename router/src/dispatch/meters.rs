//! How long the calls to each node take, and how many go wrong, as metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use guildhall_ids::{LayerIdx, NodeId};
use guildhall_telemetry::{Counter, Histogram, Metric, Seconds};
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

/// What the time of a call is spent on.
const PARTS: [&str; 3] = ["queue", "compute", "network"];

/// The meters of a node, kept because looking them up takes longer than counting.
pub(super) struct NodeMeters {
    parts: [Histogram; PARTS.len()],
    name: String,
    layers: BTreeMap<LayerIdx, LayerMeters>,
    pub(super) failures: Counter,
    pub(super) hedges: Counter,
}

/// What a node was asked for in a layer.
struct LayerMeters {
    pairs: Counter,
    tokens: Counter,
    distinct: Counter,
    bytes_out: Counter,
    bytes_back: Counter,
    parts: [Seconds; PARTS.len()],
}

impl Meters {
    pub(super) fn of(&mut self, node: &NodeId) -> &mut NodeMeters {
        self.0.entry(node.clone()).or_insert_with(|| NodeMeters::new(node.as_str()))
    }
}

impl NodeMeters {
    fn new(node: &str) -> Self {
        Self {
            parts: PARTS.map(|part| metrics::EXPERT_CALL.histogram_of(&[node, part])),
            name: node.to_owned(),
            layers: BTreeMap::new(),
            failures: metrics::EXPERT_FAILURES.counter_of(&[node]),
            hedges: metrics::EXPERT_HEDGES.counter_of(&[node]),
        }
    }

    fn of_layer(&mut self, layer: LayerIdx) -> &LayerMeters {
        let new = || LayerMeters::new(&self.name, layer);
        self.layers.entry(layer).or_insert_with(new)
    }

    /// A call was sent.
    pub(super) fn sent(&mut self, layer: LayerIdx, work: &CallWork) {
        let of_layer = self.of_layer(layer);
        of_layer.pairs.increment(work.pairs as u64);
        of_layer.tokens.increment(work.tokens as u64);
        of_layer.distinct.increment(work.distinct as u64);
        of_layer.bytes_out.increment(work.bytes as u64);
    }

    /// A call was answered with so many bytes after so long, of which the node says what it was doing.
    pub(super) fn answered(
        &mut self,
        layer: LayerIdx,
        bytes: usize,
        (whole, timings): (Duration, NodeTimings),
    ) {
        let network = whole.saturating_sub(timings.queue + timings.compute);
        let times = [timings.queue, timings.compute, network];
        for (part, time) in self.parts.iter().zip(times) {
            part.record(time.as_secs_f64());
        }
        let of_layer = self.of_layer(layer);
        of_layer.bytes_back.increment(bytes as u64);
        for (part, time) in of_layer.parts.iter().zip(times) {
            part.add(time);
        }
    }
}

impl LayerMeters {
    fn new(node: &str, layer: LayerIdx) -> Self {
        let layer = layer.0.to_string();
        let of = |metric: Metric| metric.counter_of(&[node, &layer]);
        let bytes = |way| metrics::EXPERT_BYTES.counter_of(&[node, &layer, way]);
        let part = |part| metrics::EXPERT_CALL_PARTS.seconds_of(&[node, &layer, part]);
        Self {
            pairs: of(metrics::EXPERT_PAIRS),
            tokens: of(metrics::EXPERT_TOKENS),
            distinct: of(metrics::EXPERT_DISTINCT),
            bytes_out: bytes("out"),
            bytes_back: bytes("back"),
            parts: PARTS.map(part),
        }
    }
}
