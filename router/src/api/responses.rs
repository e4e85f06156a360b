//! From what the engine gives to wire responses.

use guildhall_proto::v1;
use tonic::Status;

use super::ServedModel;
use crate::request::{Chunk, EndReason, Failure, GeneratedToken, RoutedRows};

/// One chunk as a response of a stream.
pub(super) fn chunk(model: &ServedModel, request_id: &str, chunk: Chunk) -> v1::GenerateResponse {
    let end = chunk.end.as_ref();
    v1::GenerateResponse {
        request_id: request_id.to_owned(),
        model: model.name.clone(),
        text: chunk.text,
        token_ids: chunk.tokens.iter().map(|token| token.id).collect(),
        finish_reason: end.map_or(0, |end| match end.reason {
            EndReason::Stop => v1::FinishReason::Stop.into(),
            EndReason::Length => v1::FinishReason::Length.into(),
        }),
        usage: end.map(|end| v1::Usage {
            prompt_tokens: end.prompt_tokens as u32,
            completion_tokens: end.completion_tokens as u32,
            cached_tokens: 0,
        }),
        logprobs: chunk.tokens.into_iter().map(logprobs).collect(),
        routed_experts: chunk.routes.map(|rows| routed_experts(model, rows)),
    }
}

fn logprobs(token: GeneratedToken) -> v1::TokenLogprobs {
    let top = token.top.into_iter();
    v1::TokenLogprobs {
        logprob: token.logprob,
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

/// Adds a chunk to what a unary call will answer.
pub(super) fn append(whole: &mut Chunk, part: Chunk) {
    whole.text.push_str(&part.text);
    whole.tokens.extend(part.tokens);
    match (&mut whole.routes, part.routes) {
        (Some(rows), Some(more)) => {
            rows.positions += more.positions;
            rows.experts.extend(more.experts);
        }
        (rows, more) => *rows = more.or(rows.take()),
    }
    whole.end = part.end;
}

/// The only place where failures become status codes.
pub(super) fn status(failure: Failure) -> Status {
    match failure {
        Failure::Unavailable(why) => Status::unavailable(why),
        Failure::Internal(why) => Status::internal(why),
        Failure::SlowReader => {
            Status::resource_exhausted("the client did not read what was generated")
        }
    }
}
