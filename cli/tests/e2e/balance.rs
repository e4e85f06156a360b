//! The balancer by itself: load that is uneven, and a node that is slow, while streams run.

use std::time::{Duration, Instant};

use guildhall_proto::v1::{GetBalanceResponse, GetClusterResponse};
use guildhall_testkit::client::{cluster_when, text};
use guildhall_testkit::cluster::{Cluster, demo};

use guildhall_testkit::process::PATIENCE;

use super::load::{ADMIN, KEY, Load, STREAMS};

/// The lowest mean over maximum of the nodes' load, over all layers.
fn balancedness(seen: &GetClusterResponse) -> f64 {
    let layers = seen.balance.iter().flat_map(|balance| &balance.layers);
    let nodes = layers.map(|layer| layer.nodes.unwrap_or_default().balancedness);
    nodes.fold(1.0, f64::min)
}

/// Repeats `run` until the placement is another. Returns how even it was when it was last seen before, and its epoch.
async fn before_a_change(admin: &str, run: impl AsyncFn()) -> (f64, u64) {
    let address = admin.to_owned();
    let watch = tokio::spawn(async move {
        let placed = guildhall_testkit::client::cluster(&address, KEY).await.epoch;
        let deadline = Instant::now() + PATIENCE;
        let mut even = 1.0;
        loop {
            let seen = guildhall_testkit::client::cluster(&address, KEY).await;
            if seen.epoch > placed {
                return (even, placed);
            }
            assert!(Instant::now() < deadline, "nothing is balanced: {seen:?}");
            even = balancedness(&seen);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    while !watch.is_finished() {
        run().await;
    }
    watch.await.unwrap()
}

fn balance(seen: &GetClusterResponse) -> &GetBalanceResponse {
    seen.balance.as_ref().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uneven_load_is_evened_out_while_streams_run_and_changes_no_bit() {
    // One copy of each expert and some spare ones, so that it matters where they are.
    let policy = ["--min-replicas", "1", "--spare-replicas", "4", "--balance-interval", "12"];
    let cluster = Cluster::start(&demo(), "bf16", 3, &[&policy, ADMIN].concat());
    let admin = cluster.admin.clone().unwrap();
    // All of one kind, which wears the same experts.
    let sum = |n: u32| text(&format!("Work out {} + {}.", 20 + n, 31 + 2 * n), 200);
    // The first look at the load comes when an interval is over: what follows is watched from before it on.
    let load = Load::of(&cluster, (0..STREAMS).map(sum)).await;
    let (first, placed) = before_a_change(&admin, async || {
        load.run(&cluster, "experts are moved", async || {}).await;
    })
    .await;
    let moved = |seen: &GetClusterResponse| {
        seen.epoch > placed && balance(seen).state == "steady" && balancedness(seen) > first
    };
    let seen = cluster_when(&admin, KEY, "evener than before", moved).await;
    assert!(!balance(&seen).reasons.is_empty(), "each move has its reason");
    load.run(&cluster, "afterwards", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stays_slow_loses_its_load() {
    let more = [&["--balance-interval", "2"], ADMIN].concat();
    let cluster = Cluster::start(&demo(), "bf16", 3, &more);
    let admin = cluster.admin.clone().unwrap();
    let load = Load::quiet(&cluster, 200).await;
    let assigned = |seen: &GetClusterResponse| {
        seen.nodes.iter().find(|node| node.node_id == "node-2").unwrap().assigned_experts
    };
    let at_first = assigned(&guildhall_testkit::client::cluster(&admin, KEY).await);
    let node = &cluster.nodes[2];
    let slow = async {
        // It runs a tenth of the time.
        loop {
            node.signal("STOP");
            tokio::time::sleep(Duration::from_millis(90)).await;
            node.signal("CONT");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let sheds = async {
        let deadline = Instant::now() + PATIENCE;
        loop {
            load.run(&cluster, "node-2 is slow", async || {}).await;
            let seen = guildhall_testkit::client::cluster(&admin, KEY).await;
            if 2 * assigned(&seen) <= at_first {
                return seen;
            }
            assert!(Instant::now() < deadline, "node-2 keeps its load: {seen:?}");
        }
    };
    let seen = tokio::select! {
        seen = sheds => seen,
        () = slow => unreachable!(),
    };
    node.signal("CONT");
    assert_eq!(balance(&seen).slow_nodes[0].node_id, "node-2");
    load.run(&cluster, "afterwards", async || {}).await;
}
