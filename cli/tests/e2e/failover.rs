//! Nodes that fail under load while every expert has a replica elsewhere: no request fails and no bit changes.

use std::time::{Duration, Instant};

use guildhall_proto::v1::GenerateRequest;
use guildhall_testkit::client::{Essence, collect, connect, essence, greedy};
use guildhall_testkit::cluster::{Cluster, demo};
use guildhall_testkit::process::PATIENCE;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;

const STREAMS: u32 = 32;
/// Failures of one run, each from its own seed.
const SEEDS: u64 = 20;

/// Requests that choose different experts, with their answers when nothing fails.
struct Load(Vec<(GenerateRequest, Essence)>);

impl Load {
    async fn quiet(cluster: &Cluster, tokens: u32) -> Self {
        let client = connect(&cluster.address).await;
        let mut requests = JoinSet::new();
        for number in 0..STREAMS {
            let prompt: Vec<u32> = (0..8).map(|i| 3 + (number * 131 + i * 17) % 2000).collect();
            let (mut client, request) = (client.clone(), greedy(&prompt, tokens));
            requests.spawn(async move {
                let answer = client.generate(request.clone()).await.unwrap().into_inner();
                (request, essence(&answer))
            });
        }
        Self(requests.join_all().await)
    }

    /// Streams everything at once while `fail` happens.
    async fn run(&self, cluster: &Cluster, context: &str, fail: impl AsyncFnOnce()) {
        let client = connect(&cluster.address).await;
        let mut streams = JoinSet::new();
        for (number, (request, _)) in self.0.iter().enumerate() {
            let (mut client, request) = (client.clone(), request.clone());
            streams.spawn(async move {
                let stream = client.generate_stream(request).await?.into_inner();
                Ok::<_, tonic::Status>((number, collect(stream).await?))
            });
        }
        fail().await;
        while let Some(ended) = streams.join_next().await {
            let (number, answer) = ended.unwrap().unwrap_or_else(|e| panic!("{context}: {e:?}"));
            assert_eq!(essence(&answer), self.0[number].1, "{context}, stream {number}");
        }
    }
}

/// Waits until all nodes are in the routing table and used again.
async fn whole(cluster: &Cluster, before: usize, node: usize) {
    let line = format!("in the routing table node=node-{node}");
    let deadline = Instant::now() + PATIENCE;
    while cluster.router.log().matches(&line).count() <= before {
        assert!(Instant::now() < deadline, "{line} did not come:\n{}", cluster.router.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn joined(cluster: &Cluster, node: usize) -> usize {
    cluster.router.log().matches(&format!("in the routing table node=node-{node}")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_costs_no_request_and_no_bit() {
    let model = demo();
    let mut cluster = Cluster::start(&model, "bf16", 3, &[]);
    let load = Load::quiet(&cluster, 40).await;
    for seed in 0..SEEDS {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (victim, after) = (rng.random_range(0..3), rng.random_range(0..600));
        let context = format!("seed {seed}: node-{victim} killed after {after} ms");
        let node = &cluster.nodes[victim];
        load.run(&cluster, &context, async || {
            tokio::time::sleep(Duration::from_millis(after)).await;
            node.signal("KILL");
        })
        .await;
        cluster.nodes[victim].wait();
        let before = joined(&cluster, victim);
        cluster.restart_node(&model, "bf16", victim);
        whole(&cluster, before, victim).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hangs_for_ten_seconds_costs_no_request_and_no_bit() {
    let cluster = Cluster::start(&demo(), "bf16", 3, &[]);
    let load = Load::quiet(&cluster, 400).await;
    load.run(&cluster, "node-1 hangs", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.nodes[1].signal("STOP");
        tokio::time::sleep(Duration::from_secs(10)).await;
        cluster.nodes[1].signal("CONT");
    })
    .await;
    load.run(&cluster, "afterwards", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_node_costs_no_request_and_no_bit() {
    let cluster = Cluster::start(&demo(), "bf16", 3, &[]);
    let load = Load::quiet(&cluster, 200).await;
    load.run(&cluster, "node-2 is slow", async || {
        // It runs a tenth of the time.
        for _ in 0..40 {
            cluster.nodes[2].signal("STOP");
            tokio::time::sleep(Duration::from_millis(90)).await;
            cluster.nodes[2].signal("CONT");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
