//! Random load on a small cluster for a while: right bits, honest refusals, flat memory, and nothing left behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that reports what it did"
)]

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use arguments::Arguments;
use fixed::Pool;
use guildhall_testkit::client::idle_status;
use guildhall_testkit::cluster::{Cluster, demo};
use memory::Memory;
use tally::{Outcome, Tally};

mod arguments;
mod requests;
mod bad;
mod plan;
mod fixed;
mod proper;
mod worker;
mod tally;
mod memory;

/// Clients that ask one thing after the other; together they ask for more than the cluster takes.
const WORKERS: u64 = 24;

const ADMIN_KEY: &str = "soak";

/// 64 blocks of 16 tokens, of which the longest request needs 45: sequences that run together outgrow them.
const LITTLE_ROOM: &[&str] = &[
    "--kv-cache-memory",
    "1MiB",
    "--max-model-len",
    "768",
    "--max-num-seqs",
    "16",
    "--max-num-batched-tokens",
    "128",
    "--max-waiting",
    "16",
    "--max-waiting-tokens",
    "3000",
    "--admin-port",
    "0",
    "--admin-api-key",
    ADMIN_KEY,
];

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse(std::env::args().skip(1));
    println!("soak: {arguments}");
    let mut cluster = Cluster::start(&demo(), "bf16", 2, LITTLE_ROOM);
    let pool = Arc::new(Pool::ask(&cluster.address, arguments.seed).await);

    let began = Instant::now();
    let until = began + arguments.time;
    let watching = tokio::spawn(Memory::watch(processes(&cluster), until));
    let tally = load(&cluster.address, &pool, arguments.seed, until).await;
    let took = began.elapsed();
    let memory = watching.await.unwrap();
    let status = idle_status(cluster.admin.as_deref().unwrap(), ADMIN_KEY).await;

    assert!(status.ready && status.takes_traffic, "{status:?}");
    println!("{tally}");
    println!("{:.0} tokens/s in {took:.1?}", tally.tokens() as f64 / took.as_secs_f64());
    let (hit, queried) = (status.prefix_hit_tokens, status.prefix_queried_tokens);
    println!("{} preemptions, {} steps", status.preemptions, status.steps);
    println!("{hit} of {queried} prompt tokens were cached");
    memory.iter().for_each(|memory| println!("{memory}"));
    memory.iter().for_each(Memory::assert_flat);
    assert!(status.preemptions > 0, "nobody had to give way; there is too much room");
    assert!(hit > 0, "no prefix was found");
    assert!(tally.of(Outcome::Refused) > 0, "nobody was refused");

    cluster.router.signal("TERM");
    assert!(cluster.router.wait().success());
}

/// Names and ids of what runs.
fn processes(cluster: &Cluster) -> Vec<(String, u32)> {
    let nodes = cluster.nodes.iter().enumerate();
    let nodes = nodes.map(|(index, node)| (format!("node-{index}"), node.id()));
    std::iter::once(("router".to_owned(), cluster.router.id())).chain(nodes).collect()
}

/// What all workers have seen. The first one that finds something wrong ends the test.
async fn load(address: &str, pool: &Arc<Pool>, seed: u64, until: Instant) -> Tally {
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        let (address, pool) = (address.to_owned(), Arc::clone(pool));
        workers.spawn(async move { worker::run((seed, number), &address, &pool, until).await });
    }
    let mut all = Tally::default();
    while let Some(ended) = workers.join_next().await {
        match ended {
            Ok(tally) => all.add(&tally),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    all
}
