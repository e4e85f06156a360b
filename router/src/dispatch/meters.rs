//! How long the calls to each node take, and how many go wrong, as metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use guildhall_ids::NodeId;
use guildhall_telemetry::{Counter, Histogram};
use guildhall_transport::NodeTimings;

use crate::metrics;

/// The meters of every node that was ever asked.
#[derive(Default)]
pub(super) struct Meters(BTreeMap<NodeId, NodeMeters>);

/// The meters of a node, kept because looking them up takes longer than counting.
pub(super) struct NodeMeters {
    queue: Histogram,
    compute: Histogram,
    network: Histogram,
    pub(super) failures: Counter,
    pub(super) hedges: Counter,
}

impl Meters {
    pub(super) fn of(&mut self, node: &NodeId) -> &NodeMeters {
        if !self.0.contains_key(node) {
            self.0.insert(node.clone(), NodeMeters::new(node.as_str()));
        }
        &self.0[node]
    }
}

impl NodeMeters {
    fn new(node: &str) -> Self {
        let part = |part| metrics::EXPERT_CALL.histogram_of(&[node, part]);
        Self {
            queue: part("queue"),
            compute: part("compute"),
            network: part("network"),
            failures: metrics::EXPERT_FAILURES.counter_of(&[node]),
            hedges: metrics::EXPERT_HEDGES.counter_of(&[node]),
        }
    }

    /// A call was answered after so long, of which the node says what it was doing.
    pub(super) fn answered(&self, whole: Duration, timings: NodeTimings) {
        let network = whole.saturating_sub(timings.queue + timings.compute);
        self.queue.record(timings.queue.as_secs_f64());
        self.compute.record(timings.compute.as_secs_f64());
        self.network.record(network.as_secs_f64());
    }
}
