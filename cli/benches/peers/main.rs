//! Tokens per second of Guildhall beside llama.cpp, ik_llama.cpp and transformers, in one run on this machine.
//!
//! Peers are those whose paths are given; each of them reads the same random weights. A round measures every contender
//! once, one after the other; the table has the medians over the rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::path::{Path, PathBuf};

use clap::Parser;
use contender::Contender;
use support::model::{self, Shape};

mod contender;
mod gguf;
mod llama_cpp;
#[path = "../support/row.rs"]
mod row;
#[path = "../support/speed.rs"]
mod speed;
#[path = "../support/mod.rs"]
mod support;

/// A layer of OLMoE-1B-7B four times: 1.88 B parameters.
const OLMOE4: Shape = Shape {
    model_type: "olmoe",
    hidden: 2048,
    layers: 4,
    experts: 64,
    width: 1024,
    heads: 16,
    kv_heads: 16,
    head_dim: 128,
    vocab: 50_304,
};

const SHAPES: [(&str, Shape); 2] = [("q3", model::q3(12)), ("olmoe4", OLMOE4)];

/// Where the peers are.
#[derive(Parser)]
struct Options {
    /// A folder with llama-bench, llama-batched-bench, llama-quantize and an RPC server of llama.cpp.
    #[arg(long, env = "LLAMA_CPP")]
    llama_cpp: Option<PathBuf>,
    /// A folder with llama-bench and llama-quantize of ik_llama.cpp.
    #[arg(long, env = "IK_LLAMA_CPP")]
    ik_llama_cpp: Option<PathBuf>,
    /// A Python that has transformers and torch.
    #[arg(long, env = "TRANSFORMERS_PYTHON")]
    transformers: Option<PathBuf>,
    /// How often everything is measured.
    #[arg(long, env = "ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// The models to measure.
    #[arg(long, env = "MODELS", value_delimiter = ',', default_value = "q3,olmoe4")]
    models: Vec<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    for (name, shape) in SHAPES.iter().filter(|(name, _)| options.models.iter().any(|n| n == name))
    {
        let model = support::model_dir(*shape);
        let contenders = contender::all(&options, &model, shape);
        let mut rounds = vec![Vec::new(); contenders.len()];
        for _ in 0..options.rounds {
            for (contender, rounds) in contenders.iter().zip(&mut rounds) {
                rounds.push(contender.measure());
            }
        }
        let speeds: Vec<_> = rounds.iter().map(|rounds| row::medians(rounds)).collect();
        println!(
            "\n{name}: {shape}; tokens per second, median of {} rounds; × of the best peer with weights of that size\n",
            options.rounds
        );
        print_table(&contenders, &speeds);
    }
}

fn print_table(contenders: &[Contender], speeds: &[[f64; 4]]) {
    println!("| | weights | {} |", row::HEAD);
    println!("|---|---|---|---|---|---|");
    for (contender, speed) in contenders.iter().zip(speeds) {
        let cells = (0..4).map(|column| {
            let rivals = contenders.iter().zip(speeds).filter(|(peer, _)| peer.rivals(contender));
            let best = rivals.map(|(_, speed)| speed[column]).fold(f64::NAN, f64::max);
            match speed[column] {
                speed if speed.is_nan() => "–".into(),
                speed if best.is_nan() => format!("{speed:.1}"),
                speed => format!("{speed:.1} ({:.2}×)", speed / best),
            }
        });
        let cells: Vec<String> = cells.collect();
        println!("| {} | {} | {} |", contender.name, contender.weights, cells.join(" | "));
    }
}

/// What a command writes to standard output.
fn output(command: &mut std::process::Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Logical processors, as many threads as each contender gets in all.
fn threads() -> String {
    std::thread::available_parallelism().unwrap().to_string()
}

/// The file beside this one.
fn own_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name)
}
