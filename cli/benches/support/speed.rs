//! How fast a router generates, and reads prompts.

use std::time::Instant;

use guildhall_proto::v1::generation_client::GenerationClient;
use tonic::transport::Channel;

use crate::support::request;

const DECODE_TOKENS: u32 = 64;

/// Tokens per second of some streams while all of them generate: from when the last one has its first token until the
/// first one has its last.
pub(crate) async fn decode(address: &str, streams: u32) -> f64 {
    let client = GenerationClient::connect(address.to_owned()).await.unwrap();
    let streams: Vec<_> =
        (0..streams).map(|stream| tokio::spawn(arrivals(client.clone(), stream))).collect();
    let mut all = Vec::new();
    for stream in streams {
        all.push(stream.await.unwrap());
    }
    let started = all.iter().map(|times| times[0]).max().unwrap();
    let ended = all.iter().map(|times| times[times.len() - 1]).min().unwrap();
    let within = all.iter().flatten().filter(|time| (started..ended).contains(*time)).count();
    within as f64 / (ended - started).as_secs_f64()
}

/// When each token of a stream arrived.
async fn arrivals(mut client: GenerationClient<Channel>, stream: u32) -> Vec<Instant> {
    let request = request(stream, 8, DECODE_TOKENS);
    let mut chunks = client.generate_stream(request).await.unwrap().into_inner();
    let mut times = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        let tokens: usize = chunk.choices.iter().map(|choice| choice.token_ids.len()).sum();
        times.extend(std::iter::repeat_n(Instant::now(), tokens));
    }
    times
}

/// Prompt tokens per second.
pub(crate) async fn prefill(address: &str, stream: u32, prompt_tokens: u32) -> f64 {
    let mut client = GenerationClient::connect(address.to_owned()).await.unwrap();
    let started = Instant::now();
    client.generate(request(stream, prompt_tokens, 1)).await.unwrap();
    f64::from(prompt_tokens) / started.elapsed().as_secs_f64()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
