//! Clients of a router, with requests that tests need and what they look at in the answers.

use std::time::{Duration, Instant};

use guildhall_proto::v1;
use guildhall_proto::v1::admin_client::AdminClient;
use guildhall_proto::v1::generation_client::GenerationClient;
use tonic::transport::Channel;

use crate::process::PATIENCE;

/// Nothing may be left of a request this long after its client has the answer.
const IDLE_WITHIN: Duration = Duration::from_secs(5);

/// A client of the generate API.
pub type Client = GenerationClient<Channel>;

/// Connects to a router's address.
pub async fn connect(address: &str) -> Client {
    let client = GenerationClient::connect(address.to_owned()).await.unwrap();
    client.max_decoding_message_size(64 << 20)
}

/// A client of the admin API, and how to ask it something with a key.
async fn admin(address: &str) -> AdminClient<Channel> {
    AdminClient::connect(address.to_owned()).await.unwrap()
}

fn with_key<T>(message: T, key: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

/// What a router says of itself to an admin with this key.
pub async fn status(admin_address: &str, key: &str) -> v1::GetStatusResponse {
    let request = with_key(v1::GetStatusRequest {}, key);
    admin(admin_address).await.get_status(request).await.unwrap().into_inner()
}

/// What a router says of its cluster to an admin with this key.
pub async fn cluster(admin_address: &str, key: &str) -> v1::GetClusterResponse {
    let request = with_key(v1::GetClusterRequest {}, key);
    admin(admin_address).await.get_cluster(request).await.unwrap().into_inner()
}

/// Waits until the cluster is as it should be, and returns it.
pub async fn cluster_when(
    admin_address: &str,
    key: &str,
    what: &str,
    fits: impl Fn(&v1::GetClusterResponse) -> bool,
) -> v1::GetClusterResponse {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = cluster(admin_address, key).await;
        if fits(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "not {what}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether so many nodes serve, and each holds all that it should.
pub fn is_whole(cluster: &v1::GetClusterResponse, nodes: usize) -> bool {
    let serving = |node: &&v1::ClusterNode| {
        node.state() == v1::cluster_node::State::Serving
            && node.assigned_experts > 0
            && node.resident_experts == node.assigned_experts
    };
    cluster.connected
        && cluster.missing_experts == 0
        && cluster.nodes.len() == nodes
        && cluster.nodes.iter().filter(serving).count() == nodes
}

/// The same once nothing runs. A lane gives back what a request held just after the client has its answer.
pub async fn idle_status(admin_address: &str, key: &str) -> v1::GetStatusResponse {
    let deadline = Instant::now() + IDLE_WITHIN;
    loop {
        let status = status(admin_address, key).await;
        let sequences = status.running_sequences + status.waiting_sequences;
        if sequences + status.requests + status.kv_blocks_used == 0 {
            return status;
        }
        assert!(Instant::now() < deadline, "something is left behind: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A greedy request that goes on after the end-of-sequence token.
pub fn greedy(token_ids: &[u32], max_tokens: u32) -> v1::GenerateRequest {
    let ids = v1::TokenIds { ids: token_ids.to_vec() };
    v1::GenerateRequest {
        prompt: Some(v1::generate_request::Prompt::TokenIds(ids)),
        stopping: Some(v1::Stopping {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            ..Default::default()
        }),
        outputs: Some(v1::Outputs {
            top_logprobs: Some(8),
            routed_experts: true,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A greedy request with a text.
pub fn text(prompt: &str, max_tokens: u32) -> v1::GenerateRequest {
    let prompt = Some(v1::generate_request::Prompt::Text(prompt.into()));
    v1::GenerateRequest { prompt, ..greedy(&[], max_tokens) }
}

/// The one choice of an answer.
pub fn only(response: v1::GenerateResponse) -> v1::Choice {
    let mut choices = response.choices;
    assert_eq!(choices.len(), 1);
    choices.remove(0)
}

/// Everything of an answer that must not depend on how it was computed, with floats as bits.
#[derive(Debug, PartialEq)]
pub struct Essence(Vec<EssenceOfChoice>);

#[derive(Debug, PartialEq)]
struct EssenceOfChoice {
    text: String,
    token_ids: Vec<u32>,
    finish_reason: i32,
    /// For each token its log-probability, and the best tokens with theirs.
    logprobs: Vec<(u32, Vec<(u32, u32)>)>,
    experts: Option<Vec<u32>>,
}

/// What must be the same in every answer to the same request.
pub fn essence(response: &v1::GenerateResponse) -> Essence {
    Essence(response.choices.iter().map(essence_of_choice).collect())
}

fn essence_of_choice(choice: &v1::Choice) -> EssenceOfChoice {
    let logprobs = choice.logprobs.iter().map(|token| {
        let top = token.top.iter().map(|top| (top.token_id, top.logprob.to_bits()));
        (token.logprob.to_bits(), top.collect())
    });
    EssenceOfChoice {
        text: choice.text.clone(),
        token_ids: choice.token_ids.clone(),
        finish_reason: choice.finish_reason,
        logprobs: logprobs.collect(),
        experts: choice.routed_experts.as_ref().map(|routes| routes.experts.clone()),
    }
}

/// A streamed answer put together.
pub async fn collect(
    stream: tonic::Streaming<v1::GenerateResponse>,
) -> Result<v1::GenerateResponse, tonic::Status> {
    collect_after(v1::GenerateResponse::default(), stream).await
}

/// The same when the beginning has been read already.
pub async fn collect_after(
    mut whole: v1::GenerateResponse,
    mut stream: tonic::Streaming<v1::GenerateResponse>,
) -> Result<v1::GenerateResponse, tonic::Status> {
    while let Some(part) = stream.message().await? {
        append_part(&mut whole, part);
    }
    Ok(whole)
}

/// Adds a part of a stream to what has been read.
pub fn append_part(whole: &mut v1::GenerateResponse, part: v1::GenerateResponse) {
    whole.request_id = part.request_id;
    whole.model = part.model;
    whole.usage = part.usage.or(whole.usage);
    whole.prompt = part.prompt.or(whole.prompt.take());
    for choice in part.choices {
        let index = choice.index as usize;
        whole.choices.resize_with(whole.choices.len().max(index + 1), v1::Choice::default);
        append(&mut whole.choices[index], choice);
    }
}

fn append(whole: &mut v1::Choice, part: v1::Choice) {
    whole.index = part.index;
    whole.text.push_str(&part.text);
    whole.token_ids.extend(part.token_ids);
    whole.logprobs.extend(part.logprobs);
    whole.finish_reason = part.finish_reason;
    whole.matched_stop = part.matched_stop;
    whole.tool_calls.extend(part.tool_calls);
    match (&mut whole.routed_experts, part.routed_experts) {
        (Some(rows), Some(more)) => {
            assert_eq!(rows.first_position + rows.tokens, more.first_position);
            rows.tokens += more.tokens;
            rows.experts.extend(more.experts);
        }
        (rows, more) => *rows = more,
    }
}
