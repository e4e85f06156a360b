//! What 32 streams feel of the control plane: etcd goes away for a minute, and experts move between nodes.
//!
//! The model has random weights in the shape of a Qwen3-MoE of 1 B parameters, cut to four layers, on three nodes with
//! two replicas of each expert; all processes share the cores.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::{Duration, Instant};

use guildhall_proto::v1::GetClusterResponse;
use guildhall_proto::v1::generation_client::GenerationClient;
use guildhall_testkit::client::{cluster_when, is_whole};
use guildhall_testkit::cluster::Cluster;
use guildhall_testkit::etcd::EtcdProcess;
use guildhall_testkit::process::Process;
use tonic::transport::Channel;

use support::{model, request};

#[path = "../support/mod.rs"]
mod support;

const SHAPE: model::Shape = model::q3(4);
const STREAMS: u32 = 32;
const TOKENS: u32 = 3500;
const KEY: &str = "secret";

/// When each token of a stream came.
async fn stream(mut client: GenerationClient<Channel>, number: u32) -> Vec<Instant> {
    let mut parts = client.generate_stream(request(number, 8, TOKENS)).await.unwrap().into_inner();
    let mut times = Vec::new();
    // A failure ends the benchmark.
    while let Some(part) = parts.message().await.unwrap() {
        let tokens: usize = part.choices.iter().map(|choice| choice.token_ids.len()).sum();
        times.extend(std::iter::repeat_n(Instant::now(), tokens));
    }
    times
}

/// Milliseconds between the tokens of each stream within a time, ascending.
fn gaps(times: &[Vec<Instant>], (from, to): (Instant, Instant)) -> Vec<f64> {
    let pairs = times.iter().flat_map(|times| times.windows(2));
    let within = pairs.filter(|pair| pair[1] >= from && pair[1] < to);
    let mut gaps: Vec<f64> = within.map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
    gaps.sort_by(f64::total_cmp);
    gaps
}

fn print_phase(name: &str, times: &[Vec<Instant>], phase: (Instant, Instant)) {
    let gaps = gaps(times, phase);
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize];
    let (median, longest) = (at(0.5), at(1.0));
    let seconds = (phase.1 - phase.0).as_secs_f64();
    println!(
        "| {name} | {seconds:.0} | {:.0} | {median:.0} | {:.0} | {longest:.0} | {:.2} |",
        gaps.len() as f64 / seconds,
        at(0.99),
        longest / median
    );
}

/// Runs a command of an admin; the streams are read meanwhile.
async fn admin(cluster: &Cluster, command: &[&str]) {
    let address = cluster.admin.clone().unwrap();
    let command: Vec<String> = command.iter().map(ToString::to_string).collect();
    let run = move || {
        let key = ["--admin".into(), address, "--admin-api-key".into(), KEY.to_owned()];
        Process::start(command.into_iter().chain(key)).wait()
    };
    assert!(tokio::task::spawn_blocking(run).await.unwrap().success());
}

async fn phase(work: impl AsyncFnOnce()) -> (Instant, Instant) {
    let from = Instant::now();
    work().await;
    (from, Instant::now())
}

async fn run() {
    let mut etcd = EtcdProcess::start();
    let store = etcd.address();
    let args = ["--admin-port", "0", "--admin-api-key", KEY, "--store", &store];
    let cluster = Cluster::start(&support::model_dir(SHAPE), "bf16", 3, &args);
    let address = cluster.admin.clone().unwrap();
    let client = GenerationClient::connect(cluster.address.clone()).await.unwrap();
    let streams: Vec<_> =
        (0..STREAMS).map(|number| tokio::spawn(stream(client.clone(), number))).collect();
    // All prompts are in, and what is usual is known.
    tokio::time::sleep(Duration::from_secs(5)).await;

    let quiet = phase(async || tokio::time::sleep(Duration::from_secs(10)).await).await;
    let even = |seen: &GetClusterResponse| {
        is_whole(seen, 3) && seen.balance.as_ref().is_some_and(|of| of.state == "steady")
    };
    let moving = phase(async || {
        admin(&cluster, &["drain", "node-1"]).await;
        admin(&cluster, &["drain", "node-1", "--undo"]).await;
        cluster_when(&address, KEY, "shared by three again", even).await;
    })
    .await;
    let away = phase(async || {
        etcd.kill();
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    etcd.restart();
    let back = phase(async || {
        let keys = ["leader", "placement", "nodes/node-0", "nodes/node-1", "nodes/node-2"];
        while !keys.iter().all(|key| etcd.has_key(&format!("guildhall/{key}"))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster_when(&address, KEY, "whole", |seen| is_whole(seen, 3)).await;
    })
    .await;
    let quiet_again = phase(async || tokio::time::sleep(Duration::from_secs(10)).await).await;

    let mut times = Vec::new();
    for stream in streams {
        times.push(stream.await.unwrap());
    }
    println!("bf16, {}, 3 nodes with 2 replicas of each expert, {STREAMS} streams\n", SHAPE);
    println!(
        "| | s | tokens per second | ms between tokens: median | p99 | longest | longest ÷ median |"
    );
    println!("|---|---|---|---|---|---|---|");
    print_phase("nothing happens", &times, quiet);
    print_phase("node-1 is emptied and filled again", &times, moving);
    print_phase("etcd is away", &times, away);
    print_phase("nothing happens again", &times, quiet_again);
    let whole = (back.1 - back.0).as_secs_f64();
    println!("\nEtcd was whole {whole:.1} s after it answered again.");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
