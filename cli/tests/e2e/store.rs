//! Clusters that agree through a real etcd: what happens to it, and to whoever leads, is not noticed by anybody.

use std::time::{Duration, Instant};

use guildhall_proto::v1::GetClusterResponse;
use guildhall_testkit::client::{cluster, cluster_when, is_whole};
use guildhall_testkit::cluster::{Cluster, demo, start_router};
use guildhall_testkit::etcd::EtcdProcess;
use guildhall_testkit::process::Process;

use super::load::{ADMIN, KEY, Load};

/// After its return the state is whole within this time.
const WHOLE: Duration = Duration::from_secs(5);

fn start(etcd: &EtcdProcess, more: &[&str]) -> Cluster {
    let store = etcd.address();
    Cluster::start(&demo(), "bf16", 3, &[ADMIN, &["--store", &store], more].concat())
}

/// Streams again and again until `time` is over.
async fn run_for(load: &Load, cluster: &Cluster, context: &str, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        load.run(cluster, context, async || {}).await;
    }
}

/// Waits until everybody has said again who it is, and the placement is there.
async fn whole_again(cluster: &Cluster, etcd: &EtcdProcess) {
    let began = Instant::now();
    let admin = cluster.admin.as_ref().unwrap();
    cluster_when(admin, KEY, "whole again", |seen| is_whole(seen, 3)).await;
    let keys = ["leader", "placement", "nodes/node-0", "nodes/node-2", "resident/node-1"];
    while !keys.iter().all(|key| etcd.has_key(&format!("guildhall/{key}"))) {
        assert!(began.elapsed() < WHOLE, "not whole after {:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_away_for_a_minute_is_not_noticed() {
    let mut etcd = EtcdProcess::start();
    let cluster = start(&etcd, &[]);
    let load = Load::quiet(&cluster, 100).await;
    etcd.kill();
    run_for(&load, &cluster, "etcd is away", Duration::from_secs(60)).await;
    etcd.restart();
    whole_again(&cluster, &etcd).await;
    load.run(&cluster, "etcd is back", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_forgets_its_past_or_everything_is_not_noticed() {
    let mut etcd = EtcdProcess::start();
    let cluster = start(&etcd, &[]);
    let load = Load::quiet(&cluster, 200).await;
    let revision = etcd.revision();
    load.run(&cluster, "etcd compacts", async || etcd.compact(revision)).await;
    load.run(&cluster, "etcd loses everything", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        etcd.kill();
        etcd.wipe();
        etcd.restart();
    })
    .await;
    whole_again(&cluster, &etcd).await;
    // Past the time for which the routers believe what the store has lost.
    run_for(&load, &cluster, "afterwards", Duration::from_secs(12)).await;
    whole_again(&cluster, &etcd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_share_nodes_and_when_the_leader_dies_another_goes_on() {
    let etcd = EtcdProcess::start();
    let mut first = start(&etcd, &[]);
    let load = Load::quiet(&first, 300).await;
    let more = [ADMIN, &["--store", &first.store]].concat();
    let second = start_router(&demo(), "bf16", 3, &more);
    let admin = second.line_after("admin API on ");
    let address = second.line_after("router listening on ");
    tokio::join!(
        load.run(&first, "through the first router", async || {}),
        load.run_at(&address, "through the second router", async || {}),
    );

    let seen = cluster_when(&admin, KEY, "of two routers", |seen| seen.routers.len() == 2).await;
    assert_ne!(seen.leader, seen.router, "the first router leads");
    assert!(seen.balance.is_some(), "the leader can be asked through the other");
    let epoch = seen.epoch;
    load.run_at(&address, "the leader is killed while a node is drained", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let args = ["drain", "node-1", "--no-wait", "--admin", &admin, "--admin-api-key", KEY];
        assert!(Process::start(args).wait().success());
        // It has begun.
        cluster_when(&admin, KEY, "rolling out", |seen| seen.epoch > epoch).await;
        first.router.signal("KILL");
    })
    .await;
    first.router.wait();
    let leads = |seen: &GetClusterResponse| seen.leader == seen.router;
    cluster_when(&admin, KEY, "led by the second router", leads).await;
    let empty = |seen: &GetClusterResponse| {
        seen.nodes.iter().any(|node| node.node_id == "node-1" && node.assigned_experts == 0)
    };
    cluster_when(&admin, KEY, "drained", empty).await;
    assert_eq!(cluster(&admin, KEY).await.missing_experts, 0);
    load.run_at(&address, "afterwards", async || {}).await;
}
