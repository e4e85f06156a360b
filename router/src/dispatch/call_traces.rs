//! When the calls of a traced step were where, as spans.

use std::collections::{BTreeMap, VecDeque};
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
    step_began: Option<Instant>,
    /// When the layers ended after which none has begun, the earliest first: one for each micro-batch, at most.
    ended: VecDeque<Instant>,
    /// Those whose experts are being computed, the earliest first.
    layers: VecDeque<LayerTrace>,
    spans: Vec<Span>,
}

/// A layer of a micro-batch whose experts are being computed.
struct LayerTrace {
    of: LayerRows,
    context: TraceContext,
    /// Before its attention.
    began: Instant,
    calls: BTreeMap<u64, CallTrace>,
}

/// The rows of a step that went into a layer together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerRows {
    pub(crate) layer: LayerIdx,
    /// Which row of the step the first one is.
    pub(crate) first_row: usize,
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
        *self = Self { step, step_began: Some(Instant::now()), ..Self::default() };
    }

    /// The trace that the step is in, for logs.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.step.map(|step| step.context)
    }

    /// Whether there is a layer that is noted.
    pub(super) fn is_noting(&self) -> bool {
        !self.layers.is_empty()
    }

    pub(crate) fn begin_layer(&mut self, of: LayerRows) {
        let Some(step) = self.step.filter(|step| step.noted) else { return };
        let (context, calls) = (step.context.child(), BTreeMap::new());
        let began = self.ended.pop_front().or(self.step_began).unwrap_or_else(Instant::now);
        self.layers.push_back(LayerTrace { of, context, began, calls });
    }

    /// A call is about to be sent; says what it carries.
    pub(super) fn send(
        &mut self,
        id: u64,
        (of, node): (LayerRows, &NodeId),
        tokens: usize,
        pairs: usize,
    ) -> Option<TraceContext> {
        let layer = self.layers.iter_mut().find(|layer| layer.of == of);
        let Some(layer) = layer else { return self.step.map(|step| step.context) };
        let context = layer.context.child();
        let call = CallTrace { node: node.clone(), context, sent: Instant::now(), tokens, pairs };
        layer.calls.insert(id, call);
        Some(context)
    }

    /// Takes out a call that has not been answered, with the layer that it is part of.
    fn take(&mut self, id: u64) -> Option<(CallTrace, TraceContext)> {
        let mut layers = self.layers.iter_mut();
        layers.find_map(|layer| Some((layer.calls.remove(&id)?, layer.context)))
    }

    /// A call was answered with these times of the node's own clock.
    pub(super) fn answered(&mut self, id: u64, timings: NodeTimings) {
        let Some((call, layer)) = self.take(id) else { return };
        let back = Instant::now();
        let network =
            back.duration_since(call.sent).saturating_sub(timings.queue + timings.compute);
        let way = network / 2;
        let out = Span::part(&NETWORK_OUT, call.context, call.sent..call.sent + way);
        let home = Span::part(&NETWORK_BACK, call.context, back - way..back);
        self.spans.extend([out, home]);
        self.spans.push(
            dispatch(&call, layer, back)
                .with("guildhall.batch_pairs", i64::from(timings.batch_pairs))
                .with("guildhall.queue_seconds", timings.queue.as_secs_f64())
                .with("guildhall.device_seconds", timings.compute.as_secs_f64())
                .with("guildhall.network_seconds", network.as_secs_f64()),
        );
    }

    /// A call was refused or could not be sent.
    pub(super) fn failed(&mut self, id: u64, why: &str) {
        if let Some((call, layer)) = self.take(id) {
            self.spans.push(dispatch(&call, layer, Instant::now()).failed(why.to_owned()));
        }
    }

    /// No call to this node will be answered.
    pub(super) fn lost(&mut self, node: &NodeId, why: &str) {
        let calls = self.layers.iter().flat_map(|layer| &layer.calls);
        let of_node = calls.filter(|(_, call)| call.node == *node);
        let lost: Vec<u64> = of_node.map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.failed(id, why));
    }

    /// So many pairs of the latest layer were computed in this process.
    pub(crate) fn computed(&mut self, pairs: usize, when: Range<Instant>) {
        if let Some(layer) = self.layers.back() {
            let experts = Span::part(&EXPERTS, layer.context, when);
            self.spans.push(experts.with("guildhall.pairs", pairs as i64));
        }
    }

    /// All outputs of the earliest layer are there, and were added up then. Who has not answered was not waited for.
    pub(crate) fn end_layer(&mut self, combine: Range<Instant>) {
        if let Some(layer) = self.layers.front() {
            self.spans.push(Span::part(&COMBINE, layer.context, combine));
            self.close_layer("others had answered before");
        }
    }

    /// What was noted. A layer that has not ended has failed.
    pub(crate) fn end_step(&mut self) -> Vec<Span> {
        while !self.layers.is_empty() {
            self.close_layer("the step was given up");
        }
        self.step = None;
        std::mem::take(&mut self.spans)
    }

    /// Ends the earliest layer.
    fn close_layer(&mut self, why: &str) {
        let calls = self.layers.front().into_iter().flat_map(|layer| layer.calls.keys().copied());
        let left: Vec<u64> = calls.collect();
        left.into_iter().for_each(|id| self.failed(id, why));
        let (Some(layer), Some(step)) = (self.layers.pop_front(), self.step) else { return };
        let now = Instant::now();
        let span = Span::new(&LAYER, layer.context, layer.began..now)
            .under(step.context)
            .with("guildhall.layer", i64::from(layer.of.layer.0))
            .with("guildhall.first_row", layer.of.first_row as i64);
        self.spans.push(span);
        self.ended.push_back(now);
    }
}

/// The span of a call of a layer.
fn dispatch(call: &CallTrace, layer: TraceContext, end: Instant) -> Span {
    Span::new(&DISPATCH, call.context, call.sent..end)
        .under(layer)
        .with("rpc.system.name", "grpc")
        .with("rpc.method", "guildhall.v1.Experts/Compute")
        .with("guildhall.node", call.node.to_string())
        .with("guildhall.tokens", call.tokens as i64)
        .with("guildhall.pairs", call.pairs as i64)
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
        let of = LayerRows { layer: LayerIdx(3), first_row: 0 };
        traces.begin_layer(of);
        let [a, b] = ["a", "b"].map(|name| name.parse::<NodeId>().unwrap());
        let first = traces.send(1, (of, &a), 2, 4).unwrap();
        let second = traces.send(2, (of, &b), 2, 4).unwrap();
        assert_eq!((first.trace_id, first.is_sampled()), (STEP.trace_id, true));
        assert_ne!(first.span_id, second.span_id);
        traces.send(3, (of, &a), 1, 1).unwrap();
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
    fn calls_of_two_micro_batches_go_to_their_layers() {
        let mut traces = CallTraces::default();
        traces.begin_step(Some(StepContext { context: STEP, noted: true }));
        let [first, second] = [0, 7].map(|first_row| LayerRows { layer: LayerIdx(1), first_row });
        traces.begin_layer(first);
        traces.begin_layer(second);
        let node = "a".parse().unwrap();
        traces.send(1, (second, &node), 2, 4).unwrap();
        traces.send(2, (first, &node), 2, 4).unwrap();
        let now = Instant::now();
        traces.answered(2, NodeTimings::default());
        traces.end_layer(now..now);
        traces.answered(1, NodeTimings::default());
        traces.end_layer(now..now);
        let spans = traces.end_step();
        assert_eq!(names(&spans)[2..5], names(&spans)[7..]);
        assert_eq!(names(&spans)[2..5], ["dispatch", "combine", "layer"].map(|name| (name, false)));
    }

    #[test]
    fn a_step_that_is_not_noted_still_names_its_trace() {
        let mut traces = CallTraces::default();
        let context = STEP.with_sampled(false);
        traces.begin_step(Some(StepContext { context, noted: false }));
        let of = LayerRows { layer: LayerIdx(0), first_row: 0 };
        traces.begin_layer(of);
        let node = "a".parse().unwrap();
        assert_eq!(traces.send(1, (of, &node), 1, 1), Some(context));
        assert!(traces.end_step().is_empty());
        traces.begin_step(None);
        assert_eq!(traces.send(2, (of, &node), 1, 1), None);
    }
}
