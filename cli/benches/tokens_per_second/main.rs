//! Tokens per second of `--experts local` beside one and three expert nodes, in one run.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters, cut to four layers; every process may
//! use every core. A round measures each set-up once, warmed up; the table has the medians over the rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::Instant;

use guildhall_proto::v1::generation_client::GenerationClient;

use guildhall_testkit::cluster::Up;
use support::{model, request};

#[path = "../support/mod.rs"]
mod support;

const ROUNDS: usize = 3;
const DECODE_TOKENS: u32 = 64;
const PROMPT_TOKENS: u32 = 512;
/// Name, and the arguments of `guildhall up`.
const SET_UPS: [(&str, &[&str]); 3] = [
    ("local", &["--experts", "local"]),
    ("1 node", &["--expert-nodes", "1"]),
    ("3 nodes", &["--expert-nodes", "3"]),
];

/// Tokens per second of some streams that generate at the same time, without their prompts.
async fn decode(address: &str, streams: u32) -> f64 {
    let client = GenerationClient::connect(address.to_owned()).await.unwrap();
    let mut open = Vec::new();
    for stream in 0..streams {
        let request = request(stream, 8, DECODE_TOKENS);
        let mut chunks = client.clone().generate_stream(request).await.unwrap().into_inner();
        chunks.message().await.unwrap().unwrap();
        open.push(chunks);
    }
    let started = Instant::now();
    let mut tokens = 0;
    for mut chunks in open {
        while let Some(chunk) = chunks.message().await.unwrap() {
            tokens += chunk.choices.iter().map(|choice| choice.token_ids.len()).sum::<usize>();
        }
    }
    tokens as f64 / started.elapsed().as_secs_f64()
}

/// Prompt tokens per second.
async fn prefill(address: &str) -> f64 {
    let mut client = GenerationClient::connect(address.to_owned()).await.unwrap();
    let started = Instant::now();
    client.generate(request(1, PROMPT_TOKENS, 1)).await.unwrap();
    f64::from(PROMPT_TOKENS) / started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let model = support::model_dir();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut results = vec![[const { Vec::new() }; 4]; SET_UPS.len()];
    for _ in 0..ROUNDS {
        for ((_, args), results) in SET_UPS.iter().zip(&mut results) {
            let cluster = Up::start(&model, args, &[]);
            runtime.block_on(async {
                decode(&cluster.address, 1).await;
                results[0].push(decode(&cluster.address, 1).await);
                results[1].push(decode(&cluster.address, 8).await);
                results[2].push(decode(&cluster.address, 32).await);
                prefill(&cluster.address).await;
                results[3].push(prefill(&cluster.address).await);
            });
        }
    }
    println!("tokens per second, bf16, {} (median of {ROUNDS} rounds; × of local)\n", model::SHAPE);
    println!("| experts | decode, 1 stream | 8 streams | 32 streams | prefill {PROMPT_TOKENS} |");
    println!("|---|---|---|---|---|");
    let medians: Vec<[f64; 4]> = results.into_iter().map(|of| of.map(median)).collect();
    for ((name, _), row) in SET_UPS.iter().zip(&medians) {
        let cell = |n: usize| format!("{:.1} ({:.2}×)", row[n], row[n] / medians[0][n]);
        println!("| {name} | {} | {} | {} | {} |", cell(0), cell(1), cell(2), cell(3));
    }
}
