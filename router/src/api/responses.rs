//! From what the engine gives to wire responses.

use std::sync::Arc;

use guildhall_chat::{Part, ToolCallParser};
use guildhall_proto::v1;

use super::served_model::ServedModel;
use super::validate::Checked;
use crate::request::{Chunk, End, EndReason, GeneratedToken, Logprobs, Outputs, RoutedRows};

/// Makes the responses to one request.
pub(super) struct Responses {
    model: ServedModel,
    request_id: String,
    prompt: Arc<[u32]>,
    /// Whether what was asked for of the prompt has been told.
    prompt_told: bool,
    outputs: Outputs,
    choices: Vec<Choice>,
    /// Of the sequences that have ended.
    usage: v1::Usage,
}

/// What is known of one choice so far.
struct Choice {
    /// Reads tool calls out of the text, if there may be any.
    parser: Option<ToolCallParser>,
    calls: usize,
}

impl Responses {
    pub(super) fn new(model: &ServedModel, checked: &Checked) -> Self {
        let request = &checked.request;
        let choice = |_| Choice { parser: checked.tools.map(ToolCallParser::new), calls: 0 };
        Self {
            model: model.clone(),
            request_id: request.id.clone(),
            prompt: Arc::clone(&request.prompt),
            prompt_told: false,
            outputs: request.outputs,
            choices: (0..request.n).map(choice).collect(),
            usage: v1::Usage { cached_tokens: u32::MAX, ..v1::Usage::default() },
        }
    }

    /// How many sequences the request has.
    pub(super) fn n(&self) -> usize {
        self.choices.len()
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// One chunk as a response of a stream; `is_last` adds the usage.
    pub(super) fn part(&mut self, chunk: Chunk, is_last: bool) -> v1::GenerateResponse {
        if let Some(end) = &chunk.end {
            self.count(end);
        }
        let wants_prompt = self.outputs.prompt_token_ids || self.outputs.prompt_logprobs.is_some();
        let begins = chunk.index == 0 && wants_prompt && !self.prompt_told;
        self.prompt_told |= begins;
        let prompt = begins.then(|| prompt(&self.prompt, chunk.prompt_logprobs));
        let (text, tool_calls) = self.choices[chunk.index].read(chunk.text, chunk.end.is_some());
        let called = self.choices[chunk.index].calls > 0;
        let reason = chunk.end.map(|end| end.reason);
        let logprobs = chunk.tokens.iter().filter_map(|token| token.logprobs.clone());
        let choice = v1::Choice {
            index: chunk.index as u32,
            text,
            token_ids: chunk.tokens.iter().map(|GeneratedToken { id, .. }| *id).collect(),
            logprobs: logprobs.map(to_wire).collect(),
            finish_reason: finish_reason(reason.as_ref(), called).into(),
            matched_stop: reason.and_then(matched_stop),
            routed_experts: chunk.routes.map(|rows| routed_experts(&self.model, rows)),
            tool_calls,
        };
        v1::GenerateResponse {
            request_id: self.request_id.clone(),
            model: self.model.name.clone(),
            choices: vec![choice],
            usage: is_last.then_some(self.usage),
            prompt,
        }
    }

    fn count(&mut self, end: &End) {
        self.usage.prompt_tokens = end.prompt_tokens as u32;
        self.usage.completion_tokens += end.completion_tokens as u32;
        // The others find what the first one has computed; the request as a whole did not.
        self.usage.cached_tokens = self.usage.cached_tokens.min(end.cached_tokens as u32);
    }
}

/// What was asked for of the prompt.
fn prompt(ids: &[u32], scored: Option<Vec<Logprobs>>) -> v1::Prompt {
    // Nothing precedes the first token.
    let first = v1::TokenLogprobs::default();
    v1::Prompt {
        token_ids: ids.to_vec(),
        logprobs: scored.map_or_else(Vec::new, |scored| {
            std::iter::once(first).chain(scored.into_iter().map(to_wire)).collect()
        }),
    }
}

impl Choice {
    /// Tells text from tool calls.
    fn read(&mut self, text: String, ends: bool) -> (String, Vec<v1::ToolCallPart>) {
        let Some(parser) = &mut self.parser else { return (text, Vec::new()) };
        let mut parts = parser.push(&text);
        if ends {
            parts.extend(parser.finish());
        }
        let mut content = String::new();
        let mut calls = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => content.push_str(&text),
                Part::Call { index, name } => {
                    self.calls += 1;
                    let id = format!("call_{:016x}", rand::random::<u64>());
                    let index = index as u32;
                    calls.push(v1::ToolCallPart { index, id, name, ..Default::default() });
                }
                Part::Arguments { index, json } => {
                    let index = index as u32;
                    calls.push(v1::ToolCallPart {
                        index,
                        arguments_json: json,
                        ..Default::default()
                    });
                }
            }
        }
        (content, joined(calls))
    }
}

/// Puts parts of one call together.
fn joined(parts: Vec<v1::ToolCallPart>) -> Vec<v1::ToolCallPart> {
    let mut joined: Vec<v1::ToolCallPart> = Vec::new();
    for part in parts {
        match joined.last_mut().filter(|last| last.index == part.index) {
            Some(last) => last.arguments_json.push_str(&part.arguments_json),
            None => joined.push(part),
        }
    }
    joined
}

fn finish_reason(reason: Option<&EndReason>, called: bool) -> v1::FinishReason {
    match reason {
        None => v1::FinishReason::Unspecified,
        Some(EndReason::Length) => v1::FinishReason::Length,
        Some(EndReason::Abort) => v1::FinishReason::Abort,
        Some(_) if called => v1::FinishReason::ToolCalls,
        Some(_) => v1::FinishReason::Stop,
    }
}

fn matched_stop(reason: EndReason) -> Option<v1::choice::MatchedStop> {
    match reason {
        EndReason::StopText(text) => Some(v1::choice::MatchedStop::StopText(text)),
        EndReason::StopToken(id) => Some(v1::choice::MatchedStop::StopTokenId(id)),
        EndReason::EndOfSequence | EndReason::Length | EndReason::Abort => None,
    }
}

fn to_wire(of: Logprobs) -> v1::TokenLogprobs {
    let top = of.top.into_iter();
    v1::TokenLogprobs {
        logprob: of.logprob,
        top: top.map(|(token_id, logprob)| v1::TopLogprob { token_id, logprob }).collect(),
    }
}

fn routed_experts(model: &ServedModel, rows: RoutedRows) -> v1::RoutedExperts {
    v1::RoutedExperts {
        first_position: rows.first_position as u32,
        tokens: rows.positions as u32,
        layers: model.moe_layers.clone(),
        top_k: model.top_k,
        experts: rows.experts,
    }
}

/// Adds a part of a stream to what a unary call will answer.
pub(super) fn append(whole: &mut v1::GenerateResponse, part: v1::GenerateResponse) {
    whole.request_id = part.request_id;
    whole.model = part.model;
    whole.usage = part.usage.or(whole.usage);
    whole.prompt = part.prompt.or(whole.prompt.take());
    for choice in part.choices {
        match whole.choices.binary_search_by_key(&choice.index, |known| known.index) {
            Ok(at) => append_choice(&mut whole.choices[at], choice),
            Err(at) => whole.choices.insert(at, choice),
        }
    }
}

fn append_choice(whole: &mut v1::Choice, part: v1::Choice) {
    whole.text.push_str(&part.text);
    whole.token_ids.extend(part.token_ids);
    whole.logprobs.extend(part.logprobs);
    whole.finish_reason = part.finish_reason;
    whole.matched_stop = part.matched_stop;
    match (&mut whole.routed_experts, part.routed_experts) {
        (Some(rows), Some(more)) => {
            rows.tokens += more.tokens;
            rows.experts.extend(more.experts);
        }
        (rows, more) => *rows = more.or(rows.take()),
    }
    let calls = std::mem::take(&mut whole.tool_calls).into_iter().chain(part.tool_calls);
    whole.tool_calls = joined(calls.collect());
}
