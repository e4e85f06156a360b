//! How a router serves many: a batch against a stream, a prompt that is known, and three times too much load.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters, cut to four layers; experts are
//! computed in the router, which shares the cores with this client.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::Instant;

use guildhall_proto::v1;
use guildhall_proto::v1::generation_client::GenerationClient;
use tonic::transport::Channel;

use guildhall_testkit::cluster::Up;
use support::{model, request};

mod overload;
#[path = "../support/mod.rs"]
mod support;

const SHAPE: model::Shape = model::q3(4);
const STREAMS: u32 = 32;
const TOKENS: u32 = 128;
const PREFIX_TOKENS: u32 = 1000;
const ROUNDS: usize = 5;

type Client = GenerationClient<Channel>;

/// The tokens of one answer, read from its stream, and the seconds until the first and the last.
async fn stream(mut client: Client, request: v1::GenerateRequest) -> (Vec<u32>, f64, f64) {
    let started = Instant::now();
    let mut parts = client.generate_stream(request).await.unwrap().into_inner();
    let (mut tokens, mut first) = (Vec::new(), None);
    while let Some(part) = parts.message().await.unwrap() {
        tokens.extend(part.choices.into_iter().flat_map(|choice| choice.token_ids));
        first.get_or_insert_with(|| started.elapsed().as_secs_f64());
    }
    (tokens, first.unwrap(), started.elapsed().as_secs_f64())
}

/// Each stream's tokens when it is alone.
async fn alone(client: &Client) -> Vec<Vec<u32>> {
    let mut alone = Vec::new();
    for number in 0..STREAMS {
        alone.push(stream(client.clone(), request(number, 8, TOKENS)).await.0);
    }
    alone
}

/// Tokens per second of some streams, one after the other.
async fn one_by_one(client: &Client) -> f64 {
    let (streams, started) = (4, Instant::now());
    for number in 0..streams {
        stream(client.clone(), request(number, 8, TOKENS)).await;
    }
    f64::from(streams * TOKENS) / started.elapsed().as_secs_f64()
}

/// Tokens per second of all streams at once, whose tokens must be those of each alone.
async fn at_once(client: &Client, alone: &[Vec<u32>]) -> f64 {
    let started = Instant::now();
    let tasks: Vec<_> = (0..STREAMS)
        .map(|number| tokio::spawn(stream(client.clone(), request(number, 8, TOKENS))))
        .collect();
    for (task, alone) in tasks.into_iter().zip(alone) {
        assert_eq!(task.await.unwrap().0, *alone, "a batch changes no token");
    }
    f64::from(STREAMS * TOKENS) / started.elapsed().as_secs_f64()
}

/// A prompt whose first tokens are those of every prompt of this `prefix`.
fn with_prefix(prefix: u32, number: u32) -> v1::GenerateRequest {
    let mut request = request(prefix, PREFIX_TOKENS, 1);
    if let Some(v1::generate_request::Prompt::TokenIds(ids)) = &mut request.prompt {
        ids.ids.extend((0..8).map(|i| (i * 31 + number * 977) % model::TOKEN_IDS));
    }
    request
}

/// Seconds to the first token of a prompt with an unknown and with a known prefix.
async fn prefix(client: &Client) -> (f64, f64) {
    let (mut unknown, mut known) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u32 {
        unknown.push(stream(client.clone(), with_prefix(1000 + round, 1)).await.1);
        known.push(stream(client.clone(), with_prefix(1000 + round, 2)).await.1);
    }
    (median(unknown), median(known))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn run() {
    let model = support::model_dir(SHAPE);
    let local = ["--experts", "local"];
    let cluster = Up::start(&model, &local, &[]);
    let client = GenerationClient::connect(cluster.address.clone()).await.unwrap();
    let expected = alone(&client).await;
    let (mut many, mut one) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one.push(one_by_one(&client).await);
        many.push(at_once(&client, &expected).await);
    }
    let (many, one) = (median(many), median(one));
    println!("bf16, {}, experts in the router\n", SHAPE);
    println!("| what | | | ratio |");
    println!("|---|---|---|---|");
    println!(
        "| tokens per second, prompts included: {STREAMS} streams, one stream | {many:.0} | {one:.0} | {:.1} |",
        many / one
    );
    let (unknown, known) = prefix(&client).await;
    println!(
        "| ms to the first token after {PREFIX_TOKENS} tokens: unknown, known | {:.0} | {:.0} | {:.1} |",
        unknown * 1e3,
        known * 1e3,
        unknown / known
    );
    drop(cluster);
    overload::run(&model).await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
