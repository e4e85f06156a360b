//! Nodes that fail, come and go under load while every expert can be computed: no request fails and no bit changes.

use std::time::Duration;

use guildhall_proto::v1::GetClusterResponse;
use guildhall_testkit::client::{cluster_when, greedy};
use guildhall_testkit::cluster::{Cluster, demo};
use guildhall_testkit::process::Process;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::load::{ADMIN, KEY, Load, restart, whole};
use super::metrics::{scrape, value};

/// Failures of one run, each from its own seed.
const SEEDS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_costs_no_request_and_no_bit() {
    let model = demo();
    let mut cluster = Cluster::start(&model, "bf16", 3, ADMIN);
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
        restart(&mut cluster, &model, victim).await;
    }
}

/// Half a step has enough rows that the lane leaves them to its caretaker while it computes the other half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_costs_nothing_while_the_halves_of_steps_take_turns() {
    let model = demo();
    let prompt = |n: u32| (0..900).map(|i| 3 + (n * 131 + i * 17) % 2000).collect::<Vec<_>>();
    let local = Cluster::start(&model, "bf16", 0, &[]);
    let load = Load::of(&local, (0..12).map(|n| greedy(&prompt(n), 4))).await;
    let mut cluster = Cluster::start(&model, "bf16", 3, &[&["--ping-pong", "on"], ADMIN].concat());
    load.run(&cluster, "nobody is killed", async || {}).await;
    for seed in 0..5 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (victim, after) = (rng.random_range(0..3), rng.random_range(0..500));
        let context = format!("seed {seed}: node-{victim} killed after {after} ms");
        load.run(&cluster, &context, async || {
            tokio::time::sleep(Duration::from_millis(after)).await;
            cluster.nodes[victim].signal("KILL");
        })
        .await;
        cluster.nodes[victim].wait();
        restart(&mut cluster, &model, victim).await;
    }
    let page = scrape(cluster.admin.as_ref().unwrap(), KEY);
    assert!(value(&page, "guildhall_engine_ping_pong_steps_total") > 10.0, "{page}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn experts_whose_last_replica_is_lost_are_placed_elsewhere_and_the_streams_go_on() {
    let model = demo();
    let more = [&["--min-replicas", "1", "--spare-replicas", "0"], ADMIN].concat();
    let cluster = Cluster::start(&model, "bf16", 3, &more);
    let load = Load::quiet(&cluster, 300).await;
    load.run(&cluster, "the only node with a third of the experts is killed", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.nodes[1].signal("KILL");
    })
    .await;
    let admin = cluster.admin.as_ref().unwrap();
    let seen = cluster_when(admin, KEY, "served by two", |seen| seen.missing_experts == 0).await;
    let held: u32 = seen.nodes.iter().map(|node| node.resident_experts).sum();
    assert_eq!(held, 64, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_under_load_takes_its_share_and_changes_no_bit() {
    let model = demo();
    let mut cluster = Cluster::start(&model, "bf16", 2, ADMIN);
    let load = Load::quiet(&cluster, 300).await;
    let mut third = None;
    load.run(&cluster, "a third node joins", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        third = Some(cluster.start_node(&model, "bf16", 2));
    })
    .await;
    cluster.nodes.extend(third);
    whole(&cluster, 3).await;
    let admin = cluster.admin.as_ref().unwrap();
    let even = |seen: &GetClusterResponse| seen.nodes.iter().all(|node| node.assigned_experts > 20);
    cluster_when(admin, KEY, "shared by three", even).await;
    load.run(&cluster, "afterwards", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_drained_under_load_is_emptied_and_changes_no_bit() {
    let model = demo();
    let mut cluster = Cluster::start(&model, "bf16", 3, ADMIN);
    let load = Load::quiet(&cluster, 300).await;
    let admin = cluster.admin.clone().unwrap();
    load.run(&cluster, "node-1 is drained", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let command = ["drain", "node-1", "--admin", &admin, "--admin-api-key", KEY];
        let mut drain = Process::start(command);
        assert!(drain.wait().success(), "{}", drain.log());
        cluster.nodes[1].signal("TERM");
    })
    .await;
    assert!(cluster.nodes[1].wait().success());
    load.run(&cluster, "afterwards", async || {}).await;
    // It comes back and may hold experts again.
    let undo = ["drain", "node-1", "--undo", "--admin", &admin, "--admin-api-key", KEY];
    assert!(Process::start(undo).wait().success());
    restart(&mut cluster, &model, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_all_nodes_costs_no_request_and_no_bit() {
    let model = demo();
    let mut cluster = Cluster::start(&model, "bf16", 3, ADMIN);
    let load = Load::quiet(&cluster, 300).await;
    for node in 0..3 {
        let context = format!("node-{node} is restarted");
        let stopping = &cluster.nodes[node];
        load.run(&cluster, &context, async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            stopping.signal("TERM");
        })
        .await;
        assert!(cluster.nodes[node].wait().success());
        restart(&mut cluster, &model, node).await;
    }
    load.run(&cluster, "afterwards", async || {}).await;
}
