//! How cost grows with the batch, the prompt, the experts of a layer and the nodes: a table of each, and all of them as one picture.
//!
//! The models have random weights in the shape of a Qwen3-MoE of 1 B parameters, cut to four layers; all processes
//! share the cores. Every point is the median of some rounds, in which all points take turns.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::path::{Path, PathBuf};

use clap::Parser;
use guildhall_testkit::cluster::Up;
use support::model::{self, Shape};
use tokio::runtime::Runtime;

mod picture;
#[path = "../support/speed.rs"]
mod speed;
#[path = "../support/mod.rs"]
mod support;

const SHAPE: Shape = model::q3(4);
const STREAMS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
const PROMPTS: [u32; 7] = [32, 64, 128, 256, 512, 1024, 2048];
const EXPERTS: [usize; 5] = [8, 16, 32, 64, 128];
const NODES: [usize; 4] = [1, 2, 3, 4];
/// The streams of those points that differ in something else.
const ONE_AND_MANY: [u32; 2] = [1, 32];
const LOCAL: &str = "experts local";
const TWO_NODES: &str = "2 nodes";

#[derive(Parser)]
struct Options {
    /// Where the picture goes.
    #[arg(long, env = "PICTURE", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/growth.svg"))]
    picture: PathBuf,
    /// How often everything is measured.
    #[arg(long, env = "ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One quantity that grows, and what it costs.
struct Chart {
    title: &'static str,
    /// What the horizontal axis counts.
    counted: &'static str,
    cost: &'static str,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    /// Where it is measured, and milliseconds of every round.
    points: Vec<(u32, Vec<f64>)>,
}

impl Chart {
    fn new(title: &'static str, counted: &'static str, cost: &'static str) -> Self {
        Self { title, counted, cost, lines: Vec::new() }
    }

    fn add(&mut self, line: &str, at: u32, milliseconds: f64) {
        let found = self.lines.iter().position(|known| known.name == line);
        let index = found.unwrap_or_else(|| {
            self.lines.push(Line { name: line.to_owned(), points: Vec::new() });
            self.lines.len() - 1
        });
        let points = &mut self.lines[index].points;
        match points.iter_mut().find(|point| point.0 == at) {
            Some(point) => point.1.push(milliseconds),
            None => points.push((at, vec![milliseconds])),
        }
    }

    fn print(&self) {
        let points = &self.lines[0].points;
        let head: Vec<String> = points.iter().map(|(at, _)| at.to_string()).collect();
        println!("\n{}: {}\n", self.title, self.cost);
        println!("| {} | {} |", self.counted, head.join(" | "));
        println!("|---|{}", "---|".repeat(head.len()));
        for line in &self.lines {
            let cells = line.points().map(|(_, milliseconds)| format!("{milliseconds:.1}"));
            println!("| {} | {} |", line.name, cells.collect::<Vec<_>>().join(" | "));
        }
    }
}

impl Line {
    /// With the median of the rounds.
    fn points(&self) -> impl Iterator<Item = (u32, f64)> {
        self.points.iter().map(|(at, rounds)| (*at, speed::median(rounds.clone())))
    }
}

/// Milliseconds of a step with so many streams.
fn step(runtime: &Runtime, cluster: &Up, streams: u32) -> f64 {
    f64::from(streams) / runtime.block_on(speed::decode(&cluster.address, streams)) * 1e3
}

fn named(streams: u32) -> String {
    format!("{streams} stream{}", if streams == 1 { "" } else { "s" })
}

fn start(runtime: &Runtime, model: &Path, nodes: usize) -> Up {
    let count = nodes.to_string();
    let args = match nodes {
        0 => ["--experts", "local"],
        _ => ["--expert-nodes", &count],
    };
    let cluster = Up::start(model, &args, &[]);
    // The first request opens what is opened once.
    step(runtime, &cluster, 1);
    cluster
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let runtime = &runtime;
    let step_ms = "milliseconds of a step";
    let mut batch = Chart::new("Batch", "streams", step_ms);
    let mut prompt = Chart::new("Prompt", "tokens", "milliseconds to the first token");
    let mut experts = Chart::new("Experts", "experts of a layer (8 for a token), local", step_ms);
    let mut nodes = Chart::new("Nodes", "nodes that share the cores", step_ms);
    for round in 0..options.rounds as u32 {
        let model = support::model_dir(SHAPE);
        for (name, count) in [(LOCAL, 0), (TWO_NODES, 2)] {
            let cluster = start(runtime, &model, count);
            for streams in STREAMS {
                batch.add(name, streams, step(runtime, &cluster, streams));
            }
            for tokens in PROMPTS {
                // Nobody has asked this before.
                let stream = 1000 * (round + 1) + tokens;
                let speed = runtime.block_on(speed::prefill(&cluster.address, stream, tokens));
                prompt.add(name, tokens, f64::from(tokens) / speed * 1e3);
            }
        }
        for count in NODES {
            let cluster = start(runtime, &model, count);
            for streams in ONE_AND_MANY {
                nodes.add(&named(streams), count as u32, step(runtime, &cluster, streams));
            }
        }
        for count in EXPERTS {
            let model = support::model_dir(Shape { experts: count, ..SHAPE });
            let cluster = start(runtime, &model, 0);
            for streams in ONE_AND_MANY {
                experts.add(&named(streams), count as u32, step(runtime, &cluster, streams));
            }
        }
    }
    println!("bf16, {SHAPE}; median of {} rounds", options.rounds);
    let charts = [batch, prompt, experts, nodes];
    charts.iter().for_each(Chart::print);
    picture::draw(&options.picture, &charts).unwrap();
    println!("\n{}", options.picture.display());
}
