//! When the calls of a traced step were where, as spans.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use guildhall_ids::{LayerIdx, NodeId};
use guildhall_telemetry::{Span, TraceContext};
use guildhall_transport::NodeTimings;

use crate::traces::StepContext;
use crate::traces::spans::{COMBINE, DISPATCH, EXPERTS, LAYER, NETWORK_BACK, NETWORK_OUT};

/// Notes what happens in a step, if it is traced.
#[derive(Default)]
pub(crate) struct CallTraces {
    step: Option<StepContext>,
    /// When the last layer ended.
    since: Option<Instant>,
    layer: Option<LayerTrace>,
    spans: Vec<Span>,
}

/// The layer whose experts are being computed.
struct LayerTrace {
    layer: LayerIdx,
    context: TraceContext,
    calls: BTreeMap<u64, CallTrace>,
}

/// A call that has not been answered.
struct CallTrace {
    node: NodeId,
    context: TraceContext,
    sent: Instant,
    tokens: usize,
    pairs: usize,
}

impl CallTraces {
    /// The step of what follows.
    pub(crate) fn begin_step(&mut self, step: Option<StepContext>) {
        *self = Self { step, since: Some(Instant::now()), ..Self::default() };
    }

    /// The trace that the step is in, for logs.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.step.map(|step| step.context)
    }

    pub(crate) fn begin_layer(&mut self, layer: LayerIdx) {
        let noted = self.step.filter(|step| step.noted);
        self.layer = noted.map(|step| LayerTrace {
            layer,
            context: step.context.child(),
            calls: BTreeMap::new(),
        });
    }

    /// A call is about to be sent; says what it carries.
    pub(super) fn send(
        &mut self,
        id: u64,
        node: &NodeId,
        tokens: usize,
        pairs: usize,
    ) -> Option<TraceContext> {
        let Some(layer) = &mut self.layer else { return self.step.map(|step| step.context) };
        let context = layer.context.child();
        let call = CallTrace { node: node.clone(), context, sent: Instant::now(), tokens, pairs };
        layer.calls.insert(id, call);
        Some(context)
    }

    /// A call was answered with these times of the node's own clock.
    pub(super) fn answered(&mut self, id: u64, timings: NodeTimings) {
        let Some(call) = self.layer.as_mut().and_then(|layer| layer.calls.remove(&id)) else {
            return;
        };
        let back = Instant::now();
        let network =
            back.duration_since(call.sent).saturating_sub(timings.queue + timings.compute);
        let way = network / 2;
        let out = Span::part(&NETWORK_OUT, call.context, call.sent..call.sent + way);
        let home = Span::part(&NETWORK_BACK, call.context, back - way..back);
        let dispatch = self.dispatch(&call, back);
        self.spans.extend([out, home]);
        self.spans.push(
            dispatch
                .with("guildhall.batch_pairs", i64::from(timings.batch_pairs))
                .with("guildhall.queue_seconds", timings.queue.as_secs_f64())
                .with("guildhall.device_seconds", timings.compute.as_secs_f64())
                .with("guildhall.network_seconds", network.as_secs_f64()),
        );
    }

    /// A call was refused or could not be sent.
    pub(super) fn failed(&mut self, id: u64, why: &str) {
        if let Some(call) = self.layer.as_mut().and_then(|layer| layer.calls.remove(&id)) {
            let dispatch = self.dispatch(&call, Instant::now());
            self.spans.push(dispatch.failed(why.to_owned()));
        }
    }

    /// No call to this node will be answered.
    pub(super) fn lost(&mut self, node: &NodeId, why: &str) {
        let Some(layer) = &self.layer else { return };
        let of_node = layer.calls.iter().filter(|(_, call)| call.node == *node);
        let lost: Vec<u64> = of_node.map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.failed(id, why));
    }

    /// So many pairs of the layer were computed in this process.
    pub(crate) fn computed(&mut self, pairs: usize, when: Range<Instant>) {
        if let Some(layer) = &self.layer {
            let experts = Span::part(&EXPERTS, layer.context, when);
            self.spans.push(experts.with("guildhall.pairs", pairs as i64));
        }
    }

    /// All outputs are there, and were added up then. Who has not answered was not waited for.
    pub(crate) fn end_layer(&mut self, combine: Range<Instant>) {
        if let Some(layer) = &self.layer {
            self.spans.push(Span::part(&COMBINE, layer.context, combine));
        }
        self.close_layer("others had answered before");
    }

    /// What was noted. A layer that has not ended has failed.
    pub(crate) fn end_step(&mut self) -> Vec<Span> {
        self.close_layer("the step was given up");
        self.step = None;
        std::mem::take(&mut self.spans)
    }

    fn close_layer(&mut self, why: &str) {
        let Some(layer) = &self.layer else { return };
        let left: Vec<u64> = layer.calls.keys().copied().collect();
        left.into_iter().for_each(|id| self.failed(id, why));
        let (Some(layer), Some(step)) = (self.layer.take(), self.step) else { return };
        let now = Instant::now();
        let span = Span::new(&LAYER, layer.context, self.since.unwrap_or(now)..now)
            .under(step.context)
            .with("guildhall.layer", i64::from(layer.layer.0));
        self.spans.push(span);
        self.since = Some(now);
    }

    fn dispatch(&self, call: &CallTrace, end: Instant) -> Span {
        let span = Span::new(&DISPATCH, call.context, call.sent..end)
            .with("rpc.system.name", "grpc")
            .with("rpc.method", "guildhall.v1.Experts/Compute")
            .with("guildhall.node", call.node.to_string())
            .with("guildhall.tokens", call.tokens as i64)
            .with("guildhall.pairs", call.pairs as i64);
        match &self.layer {
            Some(layer) => span.under(layer.context),
            None => span,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STEP: TraceContext = TraceContext { trace_id: [7; 16], span_id: [7; 8], flags: 1 };

    fn names(spans: &[Span]) -> Vec<(&str, bool)> {
        spans.iter().map(|span| (span.name(), span.has_failed())).collect()
    }

    #[test]
    fn each_call_of_a_layer_ends_answered_lost_or_not_waited_for() {
        let mut traces = CallTraces::default();
        traces.begin_step(Some(StepContext { context: STEP, noted: true }));
        traces.begin_layer(LayerIdx(3));
        let [a, b] = ["a", "b"].map(|name| name.parse::<NodeId>().unwrap());
        let first = traces.send(1, &a, 2, 4).unwrap();
        let second = traces.send(2, &b, 2, 4).unwrap();
        assert_eq!((first.trace_id, first.is_sampled()), (STEP.trace_id, true));
        assert_ne!(first.span_id, second.span_id);
        traces.send(3, &a, 1, 1).unwrap();
        traces.lost(&b, "gone");
        traces.answered(1, NodeTimings { compute: Duration::ZERO, ..NodeTimings::default() });
        traces.answered(1, NodeTimings::default());
        let now = Instant::now();
        traces.end_layer(now..now);
        let spans = traces.end_step();
        assert_eq!(
            names(&spans),
            [
                ("dispatch", true),
                ("network out", false),
                ("network back", false),
                ("dispatch", false),
                ("combine", false),
                ("dispatch", true),
                ("layer", false),
            ]
        );
        assert!(traces.end_step().is_empty());
    }

    #[test]
    fn a_step_that_is_not_noted_still_names_its_trace() {
        let mut traces = CallTraces::default();
        let context = STEP.with_sampled(false);
        traces.begin_step(Some(StepContext { context, noted: false }));
        traces.begin_layer(LayerIdx(0));
        let node = "a".parse().unwrap();
        assert_eq!(traces.send(1, &node, 1, 1), Some(context));
        assert!(traces.end_step().is_empty());
        traces.begin_step(None);
        assert_eq!(traces.send(2, &node, 1, 1), None);
    }
}
