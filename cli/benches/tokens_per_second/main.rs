//! Tokens per second of `--experts local` beside one and three expert nodes, in one run.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters, cut to four layers; every process may
//! use every core. A round measures each set-up once, warmed up; the table has the medians over the rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use guildhall_testkit::cluster::Up;
use support::model;

#[path = "../support/row.rs"]
mod row;
#[path = "../support/speed.rs"]
mod speed;
#[path = "../support/mod.rs"]
mod support;

const SHAPE: model::Shape = model::q3(4);
const ROUNDS: usize = 3;
/// Name, and the arguments of `guildhall up`.
const SET_UPS: [(&str, &[&str]); 3] = [
    ("local", &["--experts", "local"]),
    ("1 node", &["--expert-nodes", "1"]),
    ("3 nodes", &["--expert-nodes", "3"]),
];

fn main() {
    let model = support::model_dir(SHAPE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut results = [const { Vec::new() }; SET_UPS.len()];
    for _ in 0..ROUNDS {
        for ((_, args), results) in SET_UPS.iter().zip(&mut results) {
            let cluster = Up::start(&model, args, &[]);
            results.push(runtime.block_on(row::measure(&cluster.address)));
        }
    }
    println!("tokens per second, bf16, {} (median of {ROUNDS} rounds; × of local)\n", SHAPE);
    println!("| experts | {} |", row::HEAD);
    println!("|---|---|---|---|---|");
    let medians = results.map(|rounds| row::medians(&rounds));
    for ((name, _), row) in SET_UPS.iter().zip(&medians) {
        let cell = |n: usize| format!("{:.1} ({:.2}×)", row[n], row[n] / medians[0][n]);
        println!("| {name} | {} | {} | {} | {} |", cell(0), cell(1), cell(2), cell(3));
    }
}
