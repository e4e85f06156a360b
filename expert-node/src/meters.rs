//! What a node counts of its batches, kept because looking it up takes longer than counting.

use std::collections::BTreeMap;
use std::time::Duration;

use guildhall_ids::LayerIdx;
use guildhall_telemetry::{Counter, Histogram, Seconds};

use crate::metrics;

/// The meters of a node.
pub(crate) struct Meters {
    queue: Histogram,
    compute: Histogram,
    batch_pairs: Histogram,
    layers: BTreeMap<LayerIdx, LayerMeters>,
}

struct LayerMeters {
    pairs: Counter,
    experts_read: Counter,
    queue: Seconds,
    compute: Seconds,
}

impl Meters {
    /// Those of a model's layers. What is counted is shown if the page of metrics is open by now.
    pub(crate) fn new(layers: impl Iterator<Item = LayerIdx>) -> Self {
        Self {
            queue: metrics::QUEUE_TIME.histogram_of(&[]),
            compute: metrics::COMPUTE_TIME.histogram_of(&[]),
            batch_pairs: metrics::BATCH_PAIRS.histogram_of(&[]),
            layers: layers.map(|layer| (layer, LayerMeters::new(layer))).collect(),
        }
    }

    /// The weights of so many experts are about to be read.
    pub(crate) fn read(&self, layer: LayerIdx, experts: usize) {
        if let Some(of_layer) = self.layers.get(&layer) {
            of_layer.experts_read.increment(experts as u64);
        }
    }

    /// A batch was computed.
    pub(crate) fn computed(&self, layer: LayerIdx, pairs: usize, time: Duration) {
        self.compute.record(time.as_secs_f64());
        self.batch_pairs.record(pairs as f64);
        if let Some(of_layer) = self.layers.get(&layer) {
            of_layer.pairs.increment(pairs as u64);
            of_layer.compute.add(time);
        }
    }

    /// A call of a batch had waited so long.
    pub(crate) fn waited(&self, layer: LayerIdx, time: Duration) {
        self.queue.record(time.as_secs_f64());
        if let Some(of_layer) = self.layers.get(&layer) {
            of_layer.queue.add(time);
        }
    }
}

impl LayerMeters {
    fn new(layer: LayerIdx) -> Self {
        let layer = layer.0.to_string();
        Self {
            pairs: metrics::PAIRS_TOTAL.counter_of(&[&layer]),
            experts_read: metrics::EXPERTS_READ.counter_of(&[&layer]),
            queue: metrics::LAYER_SECONDS.seconds_of(&[&layer, "queue"]),
            compute: metrics::LAYER_SECONDS.seconds_of(&[&layer, "compute"]),
        }
    }
}
