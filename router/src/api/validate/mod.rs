//! From a wire request to a domain request: every field is checked and named.

use std::num::NonZeroU32;

use guildhall_proto::v1;
use tonic::Status;

use super::ServedModel;
use crate::request::{Outputs, Request, Sampling, Stopping};

/// Most of the most probable tokens that can be asked for.
const MAX_TOP_LOGPROBS: u32 = 1024;
/// Most stop texts of a request, and the longest one in bytes.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 1024;
/// Most stop tokens of a request.
const MAX_STOP_TOKENS: usize = 1024;
/// Longest request id in bytes.
const MAX_REQUEST_ID: usize = 256;

fn invalid(field: &str, what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {what}"))
}

/// Checks a request against the model.
pub(super) fn request(model: &ServedModel, wire: v1::GenerateRequest) -> Result<Request, Status> {
    if !wire.model.is_empty() && wire.model != model.name {
        let known = &model.name;
        return Err(Status::not_found(format!("model: {:?} is not {known:?}", wire.model)));
    }
    if wire.request_id.len() > MAX_REQUEST_ID {
        return Err(invalid("request_id", format!("over {MAX_REQUEST_ID} bytes")));
    }
    let prompt = prompt(model, wire.prompt)?;
    let room = model.max_model_len.saturating_sub(prompt.len());
    let Some(room) = u32::try_from(room).ok().and_then(NonZeroU32::new) else {
        let (given, limit) = (prompt.len(), model.max_model_len);
        return Err(invalid("prompt", format!("{given} tokens leave no room within {limit}")));
    };
    let id = match wire.request_id.as_str() {
        "" => format!("gen-{:016x}", rand::random::<u64>()),
        id => id.to_owned(),
    };
    Ok(Request {
        id,
        prompt,
        sampling: sampling(wire.sampling.unwrap_or_default())?,
        stopping: stopping(model, wire.stopping.unwrap_or_default(), room)?,
        outputs: outputs(wire.outputs.unwrap_or_default())?,
        trace: None,
    })
}

fn prompt(
    model: &ServedModel,
    prompt: Option<v1::generate_request::Prompt>,
) -> Result<Vec<u32>, Status> {
    use v1::generate_request::Prompt;
    let (field, ids) = match prompt {
        None => return Err(invalid("prompt", "neither text nor token_ids is given")),
        Some(Prompt::TokenIds(ids)) => ("token_ids", ids.ids),
        Some(Prompt::Text(text)) => {
            let missing = || invalid("text", "this model has no tokenizer; send token_ids");
            let tokenizer = model.tokenizer.as_ref().ok_or_else(missing)?;
            ("text", tokenizer.encode(&text).map_err(|e| invalid("text", e))?)
        }
    };
    if ids.is_empty() {
        return Err(invalid(field, "no tokens"));
    }
    match ids.iter().position(|&id| id as usize >= model.vocab_size) {
        Some(at) => {
            let what = format!("token {} at {at} is not below {}", ids[at], model.vocab_size);
            Err(invalid(field, what))
        }
        None => Ok(ids),
    }
}

fn sampling(wire: v1::Sampling) -> Result<Sampling, Status> {
    let within = |field: &str, value: f32, low: f32, high: f32| {
        if value.is_finite() && (low..=high).contains(&value) {
            return Ok(value);
        }
        Err(invalid(
            &format!("sampling.{field}"),
            format!("{value} is not within {low} and {high}"),
        ))
    };
    let top_p = within("top_p", wire.top_p.unwrap_or(1.0), 0.0, 1.0)?;
    if top_p == 0.0 {
        return Err(invalid("sampling.top_p", "0 would leave no token"));
    }
    Ok(Sampling {
        temperature: within("temperature", wire.temperature, 0.0, 100.0)?,
        top_k: (wire.top_k > 0).then_some(wire.top_k as usize),
        top_p,
        min_p: within("min_p", wire.min_p, 0.0, 1.0)?,
        seed: wire.seed.unwrap_or_else(rand::random),
    })
}

fn stopping(model: &ServedModel, wire: v1::Stopping, room: NonZeroU32) -> Result<Stopping, Status> {
    if wire.stop.len() > MAX_STOPS {
        return Err(invalid("stopping.stop", format!("over {MAX_STOPS} texts")));
    }
    if wire.stop.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        let what = format!("a text is empty or over {MAX_STOP_BYTES} bytes");
        return Err(invalid("stopping.stop", what));
    }
    if !wire.stop.is_empty() && model.tokenizer.is_none() {
        return Err(invalid("stopping.stop", "this model has no tokenizer"));
    }
    if wire.stop_token_ids.len() > MAX_STOP_TOKENS {
        return Err(invalid("stopping.stop_token_ids", format!("over {MAX_STOP_TOKENS}")));
    }
    let max_tokens = match wire.max_tokens {
        None => room,
        Some(n) => {
            let n = NonZeroU32::new(n).ok_or_else(|| invalid("stopping.max_tokens", "is 0"))?;
            n.min(room)
        }
    };
    let mut stop_token_ids = wire.stop_token_ids;
    if !wire.ignore_eos {
        stop_token_ids.extend(&model.eos_token_ids);
    }
    Ok(Stopping { max_tokens, stop: wire.stop, stop_token_ids })
}

fn outputs(wire: v1::Outputs) -> Result<Outputs, Status> {
    if wire.top_logprobs > MAX_TOP_LOGPROBS {
        return Err(invalid("outputs.top_logprobs", format!("over {MAX_TOP_LOGPROBS}")));
    }
    Ok(Outputs { top_logprobs: wire.top_logprobs as usize, routed_experts: wire.routed_experts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn model() -> ServedModel {
        ServedModel {
            name: "demo".into(),
            tokenizer: None,
            vocab_size: 10,
            eos_token_ids: vec![9],
            max_model_len: 8,
            moe_layers: vec![0],
            top_k: 2,
        }
    }

    fn wire() -> v1::GenerateRequest {
        let ids = v1::TokenIds { ids: vec![1, 2, 3] };
        v1::GenerateRequest {
            prompt: Some(v1::generate_request::Prompt::TokenIds(ids)),
            sampling: Some(v1::Sampling::default()),
            stopping: Some(v1::Stopping::default()),
            outputs: Some(v1::Outputs::default()),
            ..Default::default()
        }
    }

    fn check(change: impl FnOnce(&mut v1::GenerateRequest), code: Code, named: &str) {
        let mut wire = wire();
        change(&mut wire);
        let status = request(&model(), wire).unwrap_err();
        assert!(status.code() == code && status.message().contains(named), "{status:?}");
    }

    fn sampling_of(wire: &mut v1::GenerateRequest) -> &mut v1::Sampling {
        wire.sampling.as_mut().unwrap()
    }

    fn stopping_of(wire: &mut v1::GenerateRequest) -> &mut v1::Stopping {
        wire.stopping.as_mut().unwrap()
    }

    #[test]
    fn absent_fields_have_their_defaults() {
        let request = request(&model(), wire()).unwrap();
        assert!(request.id.starts_with("gen-"));
        assert_eq!(request.sampling.temperature, 0.0);
        assert_eq!(request.stopping.max_tokens.get(), 5);
        assert_eq!(request.stopping.stop_token_ids, [9]);
    }

    #[test]
    fn eos_can_be_ignored_and_the_context_bounds_max_tokens() {
        let mut wire = wire();
        *stopping_of(&mut wire) =
            v1::Stopping { ignore_eos: true, max_tokens: Some(100), ..Default::default() };
        let stopping = request(&model(), wire).unwrap().stopping;
        assert_eq!((stopping.max_tokens.get(), stopping.stop_token_ids), (5, vec![]));
    }

    #[test]
    fn every_bad_field_is_named() {
        use v1::generate_request::Prompt;
        let ids = |ids: &[u32]| Some(Prompt::TokenIds(v1::TokenIds { ids: ids.to_vec() }));
        let invalid = Code::InvalidArgument;
        check(|w| w.model = "other".into(), Code::NotFound, "\"other\" is not \"demo\"");
        check(|w| w.prompt = None, invalid, "prompt");
        check(|w| w.prompt = ids(&[]), invalid, "token_ids: no tokens");
        check(|w| w.prompt = ids(&[1, 10]), invalid, "token 10 at 1");
        check(|w| w.prompt = ids(&[1; 8]), invalid, "8 tokens leave no room within 8");
        check(|w| w.prompt = Some(Prompt::Text("a".into())), invalid, "no tokenizer");
        check(|w| sampling_of(w).temperature = -1.0, invalid, "sampling.temperature");
        check(|w| sampling_of(w).temperature = f32::NAN, invalid, "sampling.temperature");
        check(|w| sampling_of(w).top_p = Some(0.0), invalid, "sampling.top_p");
        check(|w| sampling_of(w).top_p = Some(1.5), invalid, "sampling.top_p");
        check(|w| sampling_of(w).min_p = 2.0, invalid, "sampling.min_p");
        check(|w| stopping_of(w).max_tokens = Some(0), invalid, "stopping.max_tokens");
        check(|w| stopping_of(w).stop = vec![String::new()], invalid, "stopping.stop");
        check(|w| w.outputs.as_mut().unwrap().top_logprobs = 5000, invalid, "outputs.top_logprobs");
        check(|w| w.request_id = "x".repeat(300), invalid, "request_id");
    }
}
