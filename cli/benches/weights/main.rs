//! Tokens per second by what weights are kept in, with all experts in the router.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters. A round measures each format once, warmed
//! up; the table has the medians over the rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use guildhall_testkit::cluster::Up;
use support::model;

#[path = "../support/row.rs"]
mod row;
#[path = "../support/speed.rs"]
mod speed;
#[path = "../support/mod.rs"]
mod support;

const SHAPE: model::Shape = model::q3(12);
const ROUNDS: usize = 3;
/// Of experts and of all else.
const FORMATS: [(&str, &str); 3] = [("bf16", "bf16"), ("int8", "int8"), ("int4", "int8")];

fn main() {
    let model = support::model_dir(SHAPE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut results = [const { Vec::new() }; FORMATS.len()];
    for _ in 0..ROUNDS {
        for ((experts, dense), results) in FORMATS.iter().zip(&mut results) {
            let args =
                ["--experts", "local", "--expert-weights", experts, "--dense-weights", dense];
            let cluster = Up::start(&model, &args, &[]);
            results.push(runtime.block_on(row::measure(&cluster.address)));
        }
    }
    println!("tokens per second, {} (median of {ROUNDS} rounds; × of bf16)\n", SHAPE);
    println!("| experts | all else | {} |", row::HEAD);
    println!("|---|---|---|---|---|---|");
    let medians = results.map(|rounds| row::medians(&rounds));
    for ((experts, dense), row) in FORMATS.iter().zip(&medians) {
        let cell = |n: usize| format!("{:.1} ({:.2}×)", row[n], row[n] / medians[0][n]);
        println!("| {experts} | {dense} | {} | {} | {} | {} |", cell(0), cell(1), cell(2), cell(3));
    }
}
