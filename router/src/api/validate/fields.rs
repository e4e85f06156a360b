//! The fields of a request that say how to sample, when to stop, what to return, and what form to keep.

use guildhall_proto::v1;

use crate::api::refusal::Refusal;
use crate::api::served_model::ServedModel;
use crate::constraint::{Constraint, Form};
use crate::request::{Outputs, Sampling, Stopping};

/// Most of the most probable tokens that can be asked for.
const MAX_TOP_LOGPROBS: u32 = 1024;
/// Most stop texts of a request, and the longest one in bytes.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 1024;
/// Most stop tokens of a request.
const MAX_STOP_TOKENS: usize = 1024;
/// Most tokens with a bias.
const MAX_BIASES: usize = 4096;
/// Largest schema, grammar or regular expression, and all choices together, in bytes.
const MAX_FORM_BYTES: usize = 128 << 10;

fn within(field: &str, value: f32, low: f32, high: f32) -> Result<f32, Refusal> {
    if value.is_finite() && (low..=high).contains(&value) {
        return Ok(value);
    }
    let what = format!("{value} is not within {low} and {high}");
    Err(Refusal::invalid(format!("sampling.{field}"), what))
}

pub(super) fn sampling(wire: v1::Sampling, vocab_size: usize) -> Result<Sampling, Refusal> {
    let top_p = within("top_p", wire.top_p.unwrap_or(1.0), 0.0, 1.0)?;
    if top_p == 0.0 {
        return Err(Refusal::invalid("sampling.top_p", "0 would leave no token"));
    }
    let repetition_penalty = wire.repetition_penalty.unwrap_or(1.0);
    Ok(Sampling {
        temperature: within("temperature", wire.temperature, 0.0, 100.0)?,
        top_k: (wire.top_k > 0).then_some(wire.top_k as usize),
        top_p,
        min_p: within("min_p", wire.min_p, 0.0, 1.0)?,
        seed: wire.seed.unwrap_or_else(rand::random),
        repetition_penalty: within("repetition_penalty", repetition_penalty, 0.01, 100.0)?,
        presence_penalty: within("presence_penalty", wire.presence_penalty, -2.0, 2.0)?,
        frequency_penalty: within("frequency_penalty", wire.frequency_penalty, -2.0, 2.0)?,
        logit_bias: logit_bias(wire.logit_bias, vocab_size)?,
    })
}

fn logit_bias(
    wire: std::collections::HashMap<u32, f32>,
    vocab_size: usize,
) -> Result<Vec<(u32, f32)>, Refusal> {
    if wire.len() > MAX_BIASES {
        return Err(Refusal::invalid("sampling.logit_bias", format!("over {MAX_BIASES} tokens")));
    }
    let mut biases: Vec<(u32, f32)> = wire.into_iter().collect();
    biases.sort_unstable_by_key(|(token, _)| *token);
    for &(token, bias) in &biases {
        if token as usize >= vocab_size {
            let what = format!("token {token} is not below {vocab_size}");
            return Err(Refusal::invalid("sampling.logit_bias", what));
        }
        within("logit_bias", bias, -100.0, 100.0)?;
    }
    Ok(biases)
}

/// `room` is how many tokens the context holds after the prompt.
pub(super) fn stopping(
    model: &ServedModel,
    wire: v1::Stopping,
    room: usize,
) -> Result<Stopping, Refusal> {
    let invalid = |field: &str, what: String| Refusal::invalid(format!("stopping.{field}"), what);
    if wire.stop.len() > MAX_STOPS {
        return Err(invalid("stop", format!("over {MAX_STOPS} texts")));
    }
    if wire.stop.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        return Err(invalid("stop", format!("a text is empty or over {MAX_STOP_BYTES} bytes")));
    }
    if !wire.stop.is_empty() && model.tokenizer.is_none() {
        return Err(invalid("stop", "this model has no tokenizer".into()));
    }
    if wire.stop_token_ids.len() > MAX_STOP_TOKENS {
        return Err(invalid("stop_token_ids", format!("over {MAX_STOP_TOKENS}")));
    }
    let max_tokens = wire.max_tokens.map_or(room, |n| room.min(n as usize));
    let min_tokens = wire.min_tokens as usize;
    if min_tokens > max_tokens {
        return Err(invalid(
            "min_tokens",
            format!("{min_tokens} is over max_tokens, {max_tokens}"),
        ));
    }
    Ok(Stopping {
        max_tokens,
        min_tokens,
        stop: wire.stop,
        include_stop: wire.include_stop,
        stop_token_ids: wire.stop_token_ids,
        eos_token_ids: if wire.ignore_eos { Vec::new() } else { model.eos_token_ids.clone() },
    })
}

pub(super) fn outputs(wire: v1::Outputs) -> Result<Outputs, Refusal> {
    for (field, n) in
        [("top_logprobs", wire.top_logprobs), ("prompt_logprobs", wire.prompt_logprobs)]
    {
        if n.is_some_and(|n| n > MAX_TOP_LOGPROBS) {
            let field = format!("outputs.{field}");
            return Err(Refusal::invalid(field, format!("over {MAX_TOP_LOGPROBS}")));
        }
    }
    Ok(Outputs {
        top_logprobs: wire.top_logprobs.map(|n| n as usize),
        prompt_logprobs: wire.prompt_logprobs.map(|n| n as usize),
        routed_experts: wire.routed_experts,
        prompt_token_ids: wire.prompt_token_ids,
        special_tokens: wire.special_tokens,
    })
}

/// The form that a request asks for, read but not compiled.
pub(super) fn form(wire: v1::Constraint) -> Result<Option<Form>, Refusal> {
    use v1::constraint::Form as Wire;
    let (field, bytes) = match &wire.form {
        None => return Ok(None),
        Some(Wire::JsonSchema(text)) => ("constraint.json_schema", text.len()),
        Some(Wire::Regex(text)) => ("constraint.regex", text.len()),
        Some(Wire::Lark(text)) => ("constraint.lark", text.len()),
        Some(Wire::Choice(choice)) => {
            if choice.texts.iter().any(String::is_empty) || choice.texts.is_empty() {
                return Err(Refusal::invalid("constraint.choice", "no texts, or an empty one"));
            }
            ("constraint.choice", choice.texts.iter().map(String::len).sum())
        }
    };
    if bytes > MAX_FORM_BYTES {
        return Err(Refusal::invalid(field, format!("{bytes} bytes are over {MAX_FORM_BYTES}")));
    }
    let form = wire.form.map(|form| match form {
        Wire::JsonSchema(text) => serde_json::from_str(&text).map(Form::JsonSchema),
        Wire::Regex(text) => Ok(Form::Regex(text)),
        Wire::Lark(text) => Ok(Form::Lark(text)),
        Wire::Choice(choice) => Ok(Form::Choice(choice.texts)),
    });
    form.transpose().map_err(|e| Refusal::invalid(field, e))
}

pub(super) fn compile(model: &ServedModel, form: &Form) -> Result<Constraint, Refusal> {
    let field = match form {
        Form::JsonSchema(_) => "constraint.json_schema",
        Form::Regex(_) => "constraint.regex",
        Form::Lark(_) => "constraint.lark",
        Form::Choice(_) => "constraint.choice",
    };
    let missing = || Refusal::invalid(field, "this model has no tokenizer");
    let grammars = model.grammars.as_ref().ok_or_else(missing)?;
    grammars.compile(form).map_err(|e| Refusal::invalid(field, e))
}
