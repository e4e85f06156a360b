//! Nodes without the model's files, which hold what others hand out.

use std::time::Duration;

use guildhall_proto::v1::GetClusterResponse;
use guildhall_testkit::client::cluster_when;
use guildhall_testkit::cluster::{Cluster, demo};
use guildhall_testkit::process::Process;

use super::load::{ADMIN, KEY, Load, whole};

/// The configuration of the demonstration model, and nothing else.
fn only_config() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(demo().join("config.json"), dir.path().join("config.json")).unwrap();
    dir
}

/// How many experts a node holds.
fn held(seen: &GetClusterResponse, node: &str) -> u32 {
    seen.nodes.iter().find(|of| of.node_id == node).map_or(0, |of| of.resident_experts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_files_joins_under_load_and_in_the_end_serves_alone() {
    let (model, bare) = (demo(), only_config());
    let mut cluster = Cluster::start(&model, "bf16", 1, ADMIN);
    let load = Load::quiet(&cluster, 200).await;
    let admin = cluster.admin.clone().unwrap();
    let mut second = None;
    load.run(&cluster, "a node without files joins", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        second = Some(cluster.start_node(bare.path(), "bf16", 1));
    })
    .await;
    cluster.nodes.extend(second);
    whole(&cluster, 2).await;
    load.run(&cluster, "the node with the files is drained", async || {
        let command = ["drain", "node-0", "--admin", &admin, "--admin-api-key", KEY];
        let mut drain = Process::start(command);
        assert!(drain.wait().success(), "{}", drain.log());
    })
    .await;
    let alone = |seen: &GetClusterResponse| held(seen, "node-1") == 64;
    cluster_when(&admin, KEY, "served by the node without files", alone).await;
    cluster.nodes[0].signal("KILL");
    load.run(&cluster, "afterwards", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_node_that_hands_out_is_killed_another_one_does() {
    let (model, bare) = (demo(), only_config());
    let mut cluster = Cluster::start(&model, "bf16", 2, ADMIN);
    let load = Load::quiet(&cluster, 300).await;
    let admin = cluster.admin.clone().unwrap();
    let third = cluster.start_node(bare.path(), "bf16", 2);
    cluster.nodes.push(third);
    load.run(&cluster, "a node is killed while it hands experts out", async || {
        cluster_when(&admin, KEY, "begun", |seen| held(seen, "node-2") > 0).await;
        cluster.nodes[0].signal("KILL");
    })
    .await;
    let all = |seen: &GetClusterResponse| {
        seen.missing_experts == 0 && held(seen, "node-1") == 64 && held(seen, "node-2") == 64
    };
    cluster_when(&admin, KEY, "served twice by two", all).await;
    load.run(&cluster, "afterwards", async || {}).await;
}
