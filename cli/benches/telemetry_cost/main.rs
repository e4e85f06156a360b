//! What it costs to watch: throughput of requests that are traced, and traced deeply, over the same that are not.
//!
//! The demonstration model, whose steps are the shortest there are, on a router and two nodes that share the cores with
//! clients and collector. One cluster with metrics and an exporter serves all kinds of requests in turns, so that a ratio
//! is of two runs of one round on the same processes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::Instant;

use guildhall_proto::v1;
use guildhall_proto::v1::generation_client::GenerationClient;
use guildhall_testkit::client::greedy;
use guildhall_testkit::cluster::{Cluster, demo};
use guildhall_testkit::collector::Collector;

const ROUNDS: usize = 60;
const STREAMS: u32 = 16;
/// Requests of one stream in a turn, one after another.
const REQUESTS: u32 = 8;
const TOKENS: u32 = 32;

/// What is recorded of the requests of a turn.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Untraced,
    Traced,
    /// One of so many deeply.
    Deep(u32),
}

const KINDS: [(&str, Kind); 5] = [
    ("not traced", Kind::Untraced),
    ("not traced, again", Kind::Untraced),
    ("traced", Kind::Traced),
    ("traced, 1 % deeply", Kind::Deep(100)),
    ("all traced deeply", Kind::Deep(1)),
];

/// A request whose tokens differ from those of others.
fn request(kind: Kind, number: u32) -> tonic::Request<v1::GenerateRequest> {
    let ids: Vec<u32> = (0..8).map(|i| 1 + (number * 631 + i * 97) % 2000).collect();
    let message = v1::GenerateRequest { outputs: None, ..greedy(&ids, TOKENS) };
    let mut request = tonic::Request::new(message);
    let flag = if kind == Kind::Untraced { "00" } else { "01" };
    let caller = format!("00-{:032x}-00f067aa0ba902b7-{flag}", number + 1);
    request.metadata_mut().insert("traceparent", caller.parse().unwrap());
    if matches!(kind, Kind::Deep(of) if number.is_multiple_of(of)) {
        request.metadata_mut().insert("x-guildhall-deep-trace", "1".parse().unwrap());
    }
    request
}

/// Tokens per second of all streams together, whose requests have numbers from `first` on.
async fn speed(address: &str, kind: Kind, first: u32) -> f64 {
    let client = GenerationClient::connect(address.to_owned()).await.unwrap();
    let started = Instant::now();
    let ask = |stream| {
        let mut client = client.clone();
        async move {
            for number in 0..REQUESTS {
                let request = request(kind, first + stream * REQUESTS + number);
                let mut parts = client.generate_stream(request).await.unwrap().into_inner();
                while parts.message().await.unwrap().is_some() {}
            }
        }
    };
    let streams: Vec<_> = (0..STREAMS).map(|stream| tokio::spawn(ask(stream))).collect();
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
    let export = ["--otlp-endpoint", collector.address.as_str(), "--busy-poll", "0"];
    let admin = ["--admin-port", "0", "--admin-api-key", "secret", "--deep-trace-ratio", "0"];
    let router = [&export[..], &admin].concat();
    let cluster = Cluster::start_with(&demo(), "bf16", 2, &export, &router);
    let mut speeds = KINDS.map(|_| Vec::new());
    for round in 0..=ROUNDS {
        // The first round warms up; the others begin with another kind each.
        for turn in 0..KINDS.len() {
            let at = (turn + round) % KINDS.len();
            let first = (round * KINDS.len() + turn) as u32 * STREAMS * REQUESTS;
            let speed = runtime.block_on(speed(&cluster.address, KINDS[at].1, first));
            if round > 0 {
                speeds[at].push(speed);
            }
        }
    }
    println!("{STREAMS} streams, {ROUNDS} rounds; spans received: {}\n", collector.spans().len());
    println!("| requests | tokens/s | over not traced (quartiles) |\n|---|---|---|");
    for ((name, _), of) in KINDS.iter().zip(&speeds) {
        let ratios = of.iter().zip(&speeds[0]).map(|(speed, plain)| speed / plain).collect();
        let [low, middle, high] = quartiles(ratios);
        let speed = quartiles(of.clone())[1];
        println!("| {name} | {speed:.0} | {middle:.3} ({low:.3} to {high:.3}) |");
    }
}
