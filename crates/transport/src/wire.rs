//! Between wire messages and domain types.

use std::time::Duration;

use bytes::Bytes;
use guildhall_ids::{Epoch, ExpertIdx, LayerIdx};
use guildhall_proto::v1;
use guildhall_telemetry::TraceContext;

use crate::{Call, CallFailure, CallOutputs, FailureReason, Handshake, NodeEvent};
use crate::{NodeTimings, Pair};

pub(crate) fn call_to_wire(call: Call) -> v1::Call {
    v1::Call {
        id: call.id,
        crc32: crc32fast::hash(&call.activations),
        layer: call.layer.0,
        epoch: call.epoch.0,
        // A budget that rounds to 0 must not turn into "no limit".
        budget_microseconds: call.budget.map_or(0, |budget| microseconds(budget).max(1)),
        trace_context: call
            .trace
            .map_or_else(Bytes::new, |trace| Bytes::copy_from_slice(&trace.to_bytes())),
        tokens: call.tokens,
        activations: call.activations,
        pair_tokens: call.pairs.iter().map(|pair| pair.token).collect(),
        pair_experts: call.pairs.iter().map(|pair| pair.expert.0).collect(),
    }
}

/// The failure says whether the call contradicts itself or changed on its way.
pub(crate) fn call_from_wire(call: v1::Call) -> Result<Call, CallFailure> {
    let id = call.id;
    let failure = |reason| move |message| CallFailure { id, reason, message };
    check_crc32("activations", &call.activations, call.crc32)
        .map_err(failure(FailureReason::Corrupt))?;
    intact_call_from_wire(call).map_err(failure(FailureReason::Malformed))
}

/// Whether these bytes are the ones that were sent.
fn check_crc32(what: &str, bytes: &[u8], expected: u32) -> Result<(), String> {
    match crc32fast::hash(bytes) {
        crc32 if crc32 == expected => Ok(()),
        crc32 => Err(format!("the checksum of the {what} is {crc32:08x}, not {expected:08x}")),
    }
}

fn intact_call_from_wire(call: v1::Call) -> Result<Call, String> {
    if call.pair_tokens.len() != call.pair_experts.len() {
        return Err(format!(
            "{} pair_tokens, but {} pair_experts",
            call.pair_tokens.len(),
            call.pair_experts.len()
        ));
    }
    let trace = match &call.trace_context[..] {
        [] => None,
        bytes => Some(TraceContext::from_bytes(bytes).map_err(|e| e.to_string())?),
    };
    let pairs = call.pair_tokens.iter().zip(&call.pair_experts);
    Ok(Call {
        id: call.id,
        layer: LayerIdx(call.layer),
        epoch: Epoch(call.epoch),
        budget: (call.budget_microseconds > 0)
            .then(|| Duration::from_micros(call.budget_microseconds)),
        trace,
        tokens: call.tokens,
        activations: call.activations,
        pairs: pairs.map(|(&token, &e)| Pair { token, expert: ExpertIdx(e) }).collect(),
    })
}

pub(crate) fn event_to_wire(event: NodeEvent) -> v1::ComputeResponse {
    use v1::compute_response::Message;
    let message = match event {
        NodeEvent::Outputs(outputs) => Message::Outputs(v1::CallOutputs {
            id: outputs.id,
            crc32: crc32fast::hash(&outputs.values),
            values: outputs.values,
            queue_microseconds: microseconds(outputs.timings.queue),
            compute_microseconds: microseconds(outputs.timings.compute),
            batch_pairs: outputs.timings.batch_pairs,
        }),
        NodeEvent::Failure(failure) => Message::Failure(v1::CallFailure {
            id: failure.id,
            reason: reason_to_wire(failure.reason).into(),
            message: failure.message,
        }),
        NodeEvent::Draining => Message::Draining(v1::Draining {}),
    };
    v1::ComputeResponse { message: Some(message) }
}

pub(crate) fn event_from_wire(response: v1::ComputeResponse) -> Result<NodeEvent, String> {
    use v1::compute_response::Message;
    match response.message {
        Some(Message::Outputs(outputs)) => {
            check_crc32("outputs", &outputs.values, outputs.crc32)?;
            Ok(NodeEvent::Outputs(CallOutputs {
                id: outputs.id,
                values: outputs.values,
                timings: NodeTimings {
                    queue: Duration::from_micros(outputs.queue_microseconds),
                    compute: Duration::from_micros(outputs.compute_microseconds),
                    batch_pairs: outputs.batch_pairs,
                },
            }))
        }
        Some(Message::Failure(failure)) => Ok(NodeEvent::Failure(CallFailure {
            id: failure.id,
            reason: reason_from_wire(failure.reason()),
            message: failure.message,
        })),
        Some(Message::Draining(_)) => Ok(NodeEvent::Draining),
        Some(Message::Welcome(_)) => Err("a second welcome".into()),
        None => Err("a message of an unknown kind".into()),
    }
}

fn reason_to_wire(reason: FailureReason) -> v1::call_failure::Reason {
    use v1::call_failure::Reason;
    match reason {
        FailureReason::NotResident => Reason::NotResident,
        FailureReason::Expired => Reason::Expired,
        FailureReason::Malformed => Reason::Malformed,
        FailureReason::Compute => Reason::Compute,
        FailureReason::Overloaded => Reason::Overloaded,
        FailureReason::Corrupt => Reason::Corrupt,
    }
}

// A reason that this build does not know is treated as a failed computation: ask elsewhere.
fn reason_from_wire(reason: v1::call_failure::Reason) -> FailureReason {
    use v1::call_failure::Reason;
    match reason {
        Reason::NotResident => FailureReason::NotResident,
        Reason::Expired => FailureReason::Expired,
        Reason::Malformed => FailureReason::Malformed,
        Reason::Overloaded => FailureReason::Overloaded,
        Reason::Corrupt => FailureReason::Corrupt,
        Reason::Compute | Reason::Unspecified => FailureReason::Compute,
    }
}

pub(crate) fn hello_to_wire(handshake: &Handshake, router_id: &str) -> v1::Hello {
    v1::Hello {
        protocol_version: handshake.protocol_version,
        model_fingerprint: Bytes::copy_from_slice(&handshake.model_fingerprint),
        dtype: handshake.dtype.clone(),
        hidden_size: handshake.hidden_size,
        expert_weights: handshake.expert_weights.clone(),
        router_id: router_id.into(),
    }
}

pub(crate) fn hello_from_wire(hello: v1::Hello) -> Handshake {
    Handshake {
        protocol_version: hello.protocol_version,
        model_fingerprint: hello.model_fingerprint.to_vec(),
        dtype: hello.dtype,
        hidden_size: hello.hidden_size,
        expert_weights: hello.expert_weights,
    }
}

pub(crate) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn calls() -> impl Strategy<Value = Call> {
        let numbers = (any::<u64>(), any::<u32>(), any::<u64>(), any::<u32>());
        let budget = proptest::option::of((1..=u64::MAX).prop_map(Duration::from_micros));
        // The first bytes of either id are not 0, so that neither is all zero.
        let trace = proptest::option::of((1..=u8::MAX, any::<u8>()).prop_map(|(byte, flags)| {
            TraceContext { trace_id: [byte; 16], span_id: [byte; 8], flags }
        }));
        let pairs = vec((any::<u32>(), any::<u32>()), 0..20);
        (numbers, budget, trace, vec(any::<u8>(), 0..50), pairs).prop_map(
            |((id, layer, epoch, tokens), budget, trace, activations, pairs)| Call {
                id,
                layer: LayerIdx(layer),
                epoch: Epoch(epoch),
                budget,
                trace,
                tokens,
                activations: activations.into(),
                pairs: pairs
                    .into_iter()
                    .map(|(token, expert)| Pair { token, expert: ExpertIdx(expert) })
                    .collect(),
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn calls_survive_the_wire(call in calls()) {
            let bytes = call_to_wire(call.clone()).encode_to_vec();
            let decoded = v1::Call::decode(&bytes[..]).unwrap();
            prop_assert_eq!(call_from_wire(decoded), Ok(call));
        }

        #[test]
        fn a_flipped_bit_is_found(call in calls(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
            let mut on_wire = call_to_wire(call);
            let mut bytes = on_wire.activations.to_vec();
            prop_assume!(!bytes.is_empty());
            bytes[at.index(on_wire.activations.len())] ^= 1 << bit;
            on_wire.activations = bytes.into();
            let (id, failure) = (on_wire.id, call_from_wire(on_wire).unwrap_err());
            prop_assert_eq!((failure.id, failure.reason), (id, FailureReason::Corrupt));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(request) = v1::Call::decode(&bytes[..]) {
                let counts = (request.pair_tokens.len(), request.pair_experts.len());
                if let Ok(call) = call_from_wire(request) {
                    prop_assert_eq!(counts, (call.pairs.len(), call.pairs.len()));
                }
            }
            if let Ok(response) = v1::ComputeResponse::decode(&bytes[..]) {
                let _ = event_from_wire(response);
            }
        }
    }

    #[test]
    fn a_budget_is_never_rounded_to_no_limit() {
        let check = |budget: Option<Duration>, expected: u64| {
            let call = Call {
                id: 0,
                layer: LayerIdx(0),
                epoch: Epoch(0),
                budget,
                trace: None,
                tokens: 0,
                activations: Bytes::new(),
                pairs: Vec::new(),
            };
            assert_eq!(call_to_wire(call).budget_microseconds, expected, "{budget:?}");
        };
        check(None, 0);
        check(Some(Duration::ZERO), 1);
        check(Some(Duration::from_nanos(1999)), 1);
        check(Some(Duration::from_secs(1)), 1_000_000);
        check(Some(Duration::MAX), u64::MAX);
    }
}
