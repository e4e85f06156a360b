//! What it costs to watch: throughput with metrics, with traces, and with deep traces, over a cluster that is not watched.
//!
//! The demonstration model, whose steps are the shortest there are, on a router and two nodes that share the cores with
//! clients and collector. All clusters live at once and take turns; a ratio is of two runs of one round.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::Instant;

use guildhall_proto::v1::generation_client::GenerationClient;
use guildhall_testkit::cluster::{Cluster, demo};
use guildhall_testkit::collector::Collector;
use support::request;

#[allow(dead_code, reason = "other benchmarks use its models")]
#[path = "../support/mod.rs"]
mod support;

const ROUNDS: usize = 21;
const STREAMS: u32 = 16;
/// Requests of one stream in a round, one after another.
const REQUESTS: u32 = 8;
const TOKENS: u32 = 32;
const ADMIN: [&str; 4] = ["--admin-port", "0", "--admin-api-key", "secret"];

/// Tokens per second of all streams together.
async fn speed(address: &str) -> f64 {
    let client = GenerationClient::connect(address.to_owned()).await.unwrap();
    let started = Instant::now();
    let streams: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let mut client = client.clone();
            tokio::spawn(async move {
                for number in 0..REQUESTS {
                    let request = request(stream * REQUESTS + number, 8, TOKENS);
                    let mut parts = client.generate_stream(request).await.unwrap().into_inner();
                    while parts.message().await.unwrap().is_some() {}
                }
            })
        })
        .collect();
    for stream in streams {
        stream.await.unwrap();
    }
    f64::from(STREAMS * REQUESTS * TOKENS) / started.elapsed().as_secs_f64()
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let collector = runtime.block_on(Collector::start());
    let export = ["--otlp-endpoint", collector.address.as_str()];
    let traced = |ratio| [&ADMIN[..], &export, &["--deep-trace-ratio", ratio]].concat();
    let set_ups: [(&str, &[&str], Vec<&str>); 6] = [
        ("not watched", &[], vec![]),
        ("not watched, again", &[], vec![]),
        ("metrics", &[], ADMIN.to_vec()),
        ("metrics and traces", &export, traced("0")),
        ("1 % of requests traced deeply", &export, traced("0.01")),
        ("all requests traced deeply", &export, traced("1")),
    ];
    let clusters = set_ups.each_ref().map(|(_, node, router)| {
        let busy = ["--busy-poll", "0"];
        let (node, router) = ([node, &busy[..]].concat(), [&router[..], &busy].concat());
        Cluster::start_with(&demo(), "bf16", 2, &node, &router)
    });
    let mut speeds = set_ups.each_ref().map(|_| Vec::new());
    for round in 0..=ROUNDS {
        // The first round warms up; the others begin with another cluster each.
        for turn in 0..clusters.len() {
            let at = (turn + round) % clusters.len();
            let speed = runtime.block_on(speed(&clusters[at].address));
            if round > 0 {
                speeds[at].push(speed);
            }
        }
    }
    println!("{STREAMS} streams, {ROUNDS} rounds; spans received: {}\n", collector.spans().len());
    println!("| | tokens/s | over not watched (quartiles) |\n|---|---|---|");
    for ((name, ..), of) in set_ups.iter().zip(&speeds) {
        let ratios = of.iter().zip(&speeds[0]).map(|(speed, plain)| speed / plain).collect();
        let [low, middle, high] = quartiles(ratios);
        let speed = quartiles(of.clone())[1];
        println!("| {name} | {speed:.0} | {middle:.3} ({low:.3} to {high:.3}) |");
    }
}
