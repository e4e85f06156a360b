//! What clients see when one of three nodes is killed while 32 streams run and each expert is on two nodes.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters, cut to four layers; every process may
//! use every core, so the two nodes that are left have as many cores as the three had.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::{Duration, Instant};

use guildhall_proto::v1::generation_client::GenerationClient;
use guildhall_testkit::cluster::Cluster;

use support::{model, request};

#[path = "../support/mod.rs"]
mod support;

const SHAPE: model::Shape = model::q3(4);
const STREAMS: u32 = 32;
const TOKENS: u32 = 1000;
/// Before and after the node is killed.
const WINDOW: Duration = Duration::from_secs(10);

/// When each token of a stream came.
async fn stream(
    mut client: GenerationClient<tonic::transport::Channel>,
    number: u32,
    until: Instant,
) -> Vec<Instant> {
    let mut parts = client.generate_stream(request(number, 8, TOKENS)).await.unwrap().into_inner();
    let mut times = Vec::new();
    while Instant::now() < until {
        // A failure ends the benchmark.
        let part = parts.message().await.unwrap().expect("the stream outlasts the benchmark");
        let tokens: usize = part.choices.iter().map(|choice| choice.token_ids.len()).sum();
        times.extend(std::iter::repeat_n(Instant::now(), tokens));
    }
    times
}

fn longest_gap(times: &[Instant], from: Instant, to: Instant) -> Duration {
    let pairs = times.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

async fn run() {
    let cluster = Cluster::start(&support::model_dir(SHAPE), "bf16", 3, &["--min-replicas", "2"]);
    let client = GenerationClient::connect(cluster.address.clone()).await.unwrap();
    // All prompts are in, and what is usual is known.
    let begin = Instant::now() + Duration::from_secs(5);
    let kill = begin + WINDOW;
    let end = kill + WINDOW;
    let streams: Vec<_> =
        (0..STREAMS).map(|number| tokio::spawn(stream(client.clone(), number, end))).collect();
    tokio::time::sleep_until(kill.into()).await;
    cluster.nodes[1].signal("KILL");
    let mut times = Vec::new();
    for stream in streams {
        times.push(stream.await.unwrap());
    }
    let rate = |from: Instant, to: Instant| {
        let tokens = times.iter().flatten().filter(|&&time| time >= from && time < to).count();
        tokens as f64 / (to - from).as_secs_f64()
    };
    let gap = |from: Instant, to: Instant| {
        let gaps = times.iter().map(|times| longest_gap(times, from, to));
        gaps.max().unwrap_or_default().as_secs_f64() * 1e3
    };
    let (before, after) = (rate(begin, kill), rate(kill, end));
    println!("bf16, {}, 3 nodes with 2 replicas of each expert, {STREAMS} streams\n", SHAPE);
    println!("| | 10 s before | 10 s after a node was killed | ratio |");
    println!("|---|---|---|---|");
    println!("| tokens per second | {before:.0} | {after:.0} | {:.2} |", after / before);
    println!(
        "| longest gap between two tokens of a stream, ms | {:.0} | {:.0} | |",
        gap(begin, kill),
        gap(kill, end)
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
