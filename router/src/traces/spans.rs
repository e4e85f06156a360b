//! Every span of a router.

use guildhall_telemetry::{Side, SpanType};

pub(crate) const REQUEST: SpanType = SpanType {
    name: "request",
    side: Side::Server,
    attributes: &[
        "gen_ai.operation.name",
        "gen_ai.request.model",
        "gen_ai.request.max_tokens",
        "gen_ai.request.temperature",
        "gen_ai.request.top_p",
        "gen_ai.response.id",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "guildhall.cached_tokens",
        "guildhall.deep",
        "error.type",
    ],
    description: "A request from its arrival to the end of its answer; named by operation and model.",
};
pub(crate) const QUEUE: SpanType = SpanType {
    name: "queue",
    side: Side::Inside,
    attributes: &["guildhall.sequence", "guildhall.finish_reason"],
    description: "A sequence waits for its first step.",
};
pub(crate) const PREFILL: SpanType = SpanType {
    name: "prefill",
    side: Side::Inside,
    attributes: &["guildhall.sequence", "guildhall.finish_reason", "guildhall.prompt_tokens"],
    description: "From the first step of a sequence to its first token.",
};
pub(crate) const DECODE: SpanType = SpanType {
    name: "decode",
    side: Side::Inside,
    attributes: &["guildhall.sequence", "guildhall.finish_reason", "guildhall.tokens"],
    description: "From the first token of a sequence to its end.",
};
pub(crate) const STEP: SpanType = SpanType {
    name: "step",
    side: Side::Inside,
    attributes: &["guildhall.sequences", "guildhall.tokens"],
    description: "A step of the engine, in the trace of one of its sequences and linked to the others. Deep traces and slow steps only, as all that follow.",
};
pub(crate) const LAYER: SpanType = SpanType {
    name: "layer",
    side: Side::Inside,
    attributes: &["guildhall.layer", "guildhall.first_row"],
    description: "From the end of the previous layer's experts to the end of this layer's: attention, gate, experts. Twice where a step goes in two micro-batches, with the first row of each.",
};
pub(crate) const DISPATCH: SpanType = SpanType {
    name: "dispatch",
    side: Side::Client,
    attributes: &[
        "rpc.system.name",
        "rpc.method",
        "guildhall.node",
        "guildhall.tokens",
        "guildhall.pairs",
        "guildhall.batch_pairs",
        "guildhall.queue_seconds",
        "guildhall.device_seconds",
        "guildhall.network_seconds",
    ],
    description: "A call to an expert node, from its sending to its answer. The times of queue and device are the node's own; the network has the rest. A call that was lost, refused or not waited for has an error.",
};
pub(crate) const NETWORK_OUT: SpanType = SpanType {
    name: "network out",
    side: Side::Inside,
    attributes: &[],
    description: "Half of a call's time on the network: no clock tells the ways apart.",
};
pub(crate) const NETWORK_BACK: SpanType = SpanType {
    name: "network back",
    side: Side::Inside,
    attributes: &[],
    description: "The other half.",
};
pub(crate) const EXPERTS: SpanType = SpanType {
    name: "experts",
    side: Side::Inside,
    attributes: &["guildhall.pairs"],
    description: "The experts of a layer are computed in the router: with `--experts local`, in the place of calls.",
};
pub(crate) const COMBINE: SpanType = SpanType {
    name: "combine",
    side: Side::Inside,
    attributes: &[],
    description: "The outputs of a layer's experts are added up.",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_metrics_has_each_of_them() {
        let all = [
            &REQUEST,
            &QUEUE,
            &PREFILL,
            &DECODE,
            &STEP,
            &LAYER,
            &DISPATCH,
            &NETWORK_OUT,
            &NETWORK_BACK,
            &EXPERTS,
            &COMBINE,
        ];
        let page = include_str!("../../../METRICS.md");
        let table = SpanType::table(&all);
        assert!(page.contains(&table), "METRICS.md has no such table:\n{table}");
    }
}
