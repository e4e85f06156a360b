//! Every span of an expert node.

use std::time::Instant;

use guildhall_telemetry::{Side, Span, SpanType, TraceContext};
use guildhall_transport::{Call, NodeTimings};

pub(crate) const EXPERTS: SpanType = SpanType {
    name: "experts",
    side: Side::Server,
    attributes: &["guildhall.layer", "guildhall.pairs", "guildhall.batch_pairs"],
    description: "A call of a deep trace, from its arrival to its answer; a part of the router's dispatch.",
};
pub(crate) const QUEUE: SpanType = SpanType {
    name: "queue",
    side: Side::Inside,
    attributes: &[],
    description: "The call waits for the device.",
};
pub(crate) const DEVICE: SpanType = SpanType {
    name: "device",
    side: Side::Inside,
    attributes: &[],
    description: "The batch that it is part of is computed.",
};

/// Records a call that was answered, if its router traces it.
pub(crate) fn record(call: &Call, caller: TraceContext, arrived: Instant, timings: NodeTimings) {
    if !caller.is_sampled() {
        return;
    }
    let begun = arrived + timings.queue;
    let done = begun + timings.compute;
    let own = caller.child();
    Span::part(&QUEUE, own, arrived..begun).record();
    Span::part(&DEVICE, own, begun..done).record();
    Span::new(&EXPERTS, own, arrived..done)
        .called_by(caller)
        .with("guildhall.layer", i64::from(call.layer.0))
        .with("guildhall.pairs", call.pairs.len() as i64)
        .with("guildhall.batch_pairs", i64::from(timings.batch_pairs))
        .record();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_metrics_has_each_of_them() {
        let page = include_str!("../../METRICS.md");
        let table = SpanType::table(&[&EXPERTS, &QUEUE, &DEVICE]);
        assert!(page.contains(&table), "METRICS.md has no such table:\n{table}");
    }
}
