//! A client of the generate API, with requests that tests need.

use guildhall_proto::v1;
use guildhall_proto::v1::generation_client::GenerationClient;
use tonic::transport::Channel;

pub(crate) type Client = GenerationClient<Channel>;

pub(crate) async fn connect(address: &str) -> Client {
    let client = GenerationClient::connect(address.to_owned()).await.unwrap();
    client.max_decoding_message_size(64 << 20)
}

/// A greedy request that goes on after the end-of-sequence token.
pub(crate) fn greedy(token_ids: &[u32], max_tokens: u32) -> v1::GenerateRequest {
    let ids = v1::TokenIds { ids: token_ids.to_vec() };
    v1::GenerateRequest {
        prompt: Some(v1::generate_request::Prompt::TokenIds(ids)),
        stopping: Some(v1::Stopping {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..Default::default()
        }),
        outputs: Some(v1::Outputs { top_logprobs: 8, routed_experts: true }),
        ..Default::default()
    }
}

/// A greedy request with a text.
pub(crate) fn text(prompt: &str, max_tokens: u32) -> v1::GenerateRequest {
    let prompt = Some(v1::generate_request::Prompt::Text(prompt.into()));
    v1::GenerateRequest { prompt, ..greedy(&[], max_tokens) }
}

/// Everything of an answer that must not depend on how it was computed, with floats as bits.
#[derive(Debug, PartialEq)]
pub(crate) struct Essence {
    text: String,
    token_ids: Vec<u32>,
    finish_reason: i32,
    /// For each token its log-probability, and the best tokens with theirs.
    logprobs: Vec<(u32, Vec<(u32, u32)>)>,
    experts: Option<Vec<u32>>,
}

pub(crate) fn essence(response: &v1::GenerateResponse) -> Essence {
    let logprobs = response.logprobs.iter().map(|token| {
        let top = token.top.iter().map(|top| (top.token_id, top.logprob.to_bits()));
        (token.logprob.to_bits(), top.collect())
    });
    Essence {
        text: response.text.clone(),
        token_ids: response.token_ids.clone(),
        finish_reason: response.finish_reason,
        logprobs: logprobs.collect(),
        experts: response.routed_experts.as_ref().map(|routes| routes.experts.clone()),
    }
}

/// A streamed answer put together.
pub(crate) async fn collect(
    mut stream: tonic::Streaming<v1::GenerateResponse>,
) -> Result<v1::GenerateResponse, tonic::Status> {
    let mut whole = v1::GenerateResponse::default();
    while let Some(chunk) = stream.message().await? {
        whole.text.push_str(&chunk.text);
        whole.token_ids.extend(chunk.token_ids);
        whole.logprobs.extend(chunk.logprobs);
        whole.finish_reason = chunk.finish_reason;
        whole.usage = chunk.usage;
        whole.request_id = chunk.request_id;
        whole.model = chunk.model;
        match (&mut whole.routed_experts, chunk.routed_experts) {
            (Some(rows), Some(more)) => {
                assert_eq!(rows.first_position + rows.tokens, more.first_position);
                rows.tokens += more.tokens;
                rows.experts.extend(more.experts);
            }
            (rows, more) => *rows = more,
        }
    }
    Ok(whole)
}
