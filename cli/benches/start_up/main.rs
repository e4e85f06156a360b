//! How soon a cluster gives its first token, and how much memory its nodes take at most.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters; its file is in the page cache.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::path::Path;
use std::time::Instant;

use guildhall_proto::v1::generation_client::GenerationClient;
use guildhall_testkit::cluster::{Cluster, Up};
use support::{model, request};

#[path = "../support/mod.rs"]
mod support;

const SHAPE: model::Shape = model::q3(12);
const NODES: usize = 2;
const ROUNDS: usize = 5;
/// Name, and the arguments of `guildhall up`.
const SET_UPS: [(&str, &[&str]); 2] = [
    ("experts local", &["--experts", "local"]),
    ("2 nodes", &["--expert-nodes", "2", "--min-replicas", "1"]),
];

fn main() {
    let model = support::model_dir(SHAPE);
    // The first start records hashes; reading the file brings it into the page cache.
    first_token(&model, SET_UPS[0].1);
    println!("bf16, {SHAPE}\n");
    println!("| start to first token, s | median of {ROUNDS} | worst |");
    println!("|---|---|---|");
    for (name, args) in SET_UPS {
        let mut seconds: Vec<f64> = (0..ROUNDS).map(|_| first_token(&model, args)).collect();
        seconds.sort_by(f64::total_cmp);
        println!("| {name} | {:.2} | {:.2} |", seconds[ROUNDS / 2], seconds[ROUNDS - 1]);
    }
    println!("\n| memory of a node at most, MB | its experts | ratio beyond 100 MB |");
    println!("|---|---|---|");
    let shard = expert_bytes() as f64 / NODES as f64 / 1e6;
    let cluster = Cluster::start(&model, "bf16", NODES, &["--min-replicas", "1"]);
    for node in &cluster.nodes {
        let peak = peak_bytes(node.id()) as f64 / 1e6;
        println!("| {peak:.0} | {shard:.0} | {:.2} |", (peak - 100.0) / shard);
    }
}

/// Seconds from the start of the process to a token.
fn first_token(model: &Path, args: &[&str]) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = Instant::now();
    let cluster = Up::start(model, args, &[]);
    runtime.block_on(async {
        let mut client = GenerationClient::connect(cluster.address.clone()).await.unwrap();
        client.generate(request(1, 8, 1)).await.unwrap();
    });
    started.elapsed().as_secs_f64()
}

/// Bytes of all experts.
fn expert_bytes() -> usize {
    SHAPE.layers * SHAPE.experts * 3 * SHAPE.hidden * SHAPE.width * 2
}

/// The most memory that the process has had.
fn peak_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kilobytes = |key: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    kilobytes("VmHWM:") * 1024
}
