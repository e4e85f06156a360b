//! Steps as a whole beside steps in two halves, one computed while the experts of the other are away: a router and a
//! node that have a core each.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters, cut to four layers. A round measures each
//! mode once, warmed up, with prompts that nobody has asked before; the table has the medians over the rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use guildhall_testkit::cluster::Up;
use support::model;

#[path = "../support/speed.rs"]
mod speed;
#[path = "../support/mod.rs"]
mod support;

const SHAPE: model::Shape = model::q3(4);
const ROUNDS: usize = 3;
const MODES: [&str; 3] = ["off", "on", "auto"];
const HEAD: &str = "decode, 32 streams | prefill 512 | prefill 2048";
/// Prompts of each length. The first ones warm up, and show `auto` what both ways take.
const PROMPTS: u32 = 10;

/// Tokens per second: of 32 streams, and of prompts of two lengths.
async fn measure(address: &str) -> [f64; 3] {
    speed::decode(address, 32).await;
    let decoded = speed::decode(address, 32).await;
    let mut row = [decoded, 0.0, 0.0];
    for (cell, tokens) in row[1..].iter_mut().zip([512, 2048]) {
        let mut speeds = Vec::new();
        for prompt in 0..PROMPTS {
            speeds.push(speed::prefill(address, tokens + prompt, tokens).await);
        }
        *cell = speed::median(speeds.split_off(PROMPTS as usize / 2));
    }
    row
}

fn main() {
    let model = support::model_dir(SHAPE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut results = [const { Vec::<[f64; 3]>::new() }; MODES.len()];
    for _ in 0..ROUNDS {
        for (mode, results) in MODES.iter().zip(&mut results) {
            let settings = [("GUILDHALL_PING_PONG", *mode), ("GUILDHALL_THREADS", "1")];
            let cluster = Up::start(&model, &["--expert-nodes", "1"], &settings);
            results.push(runtime.block_on(measure(&cluster.address)));
        }
    }
    println!("tokens per second, bf16, {SHAPE}; one node, a thread each");
    println!("(median of {ROUNDS} rounds; × of off)\n");
    println!("| --ping-pong | {HEAD} |");
    println!("|---|---|---|---|");
    let median = |rounds: &Vec<[f64; 3]>| -> [f64; 3] {
        std::array::from_fn(|of| speed::median(rounds.iter().map(|round| round[of]).collect()))
    };
    let medians = results.each_ref().map(median);
    for (mode, row) in MODES.iter().zip(&medians) {
        let cell = |n: usize| format!("{:.1} ({:.2}×)", row[n], row[n] / medians[0][n]);
        println!("| {mode} | {} | {} | {} |", cell(0), cell(1), cell(2));
    }
}
