//! Connections that break, stall or corrupt what they carry, and a node that answers nonsense: no request fails and no bit
//! changes.

use std::time::Duration;

use guildhall_testkit::cluster::{Cluster, demo};

use super::load::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_costs_no_request_and_no_bit() {
    let (cluster, proxies) = Cluster::start_behind_proxies(&demo(), "bf16", 3, &[]);
    let load = Load::quiet(&cluster, 300).await;
    load.run(&cluster, "node-1 is cut off and comes back", async || {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            proxies[1].cut();
            tokio::time::sleep(Duration::from_millis(300)).await;
            proxies[1].restore();
        }
    })
    .await;
    assert!(cluster.router.log().contains("expert node cannot be used"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_passes_nothing_on_costs_no_request_and_no_bit() {
    let (cluster, proxies) = Cluster::start_behind_proxies(&demo(), "bf16", 3, &[]);
    let load = Load::quiet(&cluster, 300).await;
    load.run(&cluster, "the way to node-2 is stalled", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxies[2].stall();
        tokio::time::sleep(Duration::from_secs(4)).await;
        proxies[2].resume();
    })
    .await;
    load.run(&cluster, "afterwards", async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupted_answer_is_found_asked_for_again_and_its_node_left_alone() {
    let (cluster, proxies) = Cluster::start_behind_proxies(&demo(), "bf16", 3, &[]);
    let load = Load::quiet(&cluster, 300).await;
    load.run(&cluster, "answers of node-0 are corrupted", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxies[0].corrupt(3);
    })
    .await;
    assert!(proxies[0].corrupted() > 0, "nothing was corrupted");
    let log = cluster.router.log();
    assert!(log.contains("quarantine"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_answers_with_no_numbers_is_left_alone() {
    let (cluster, impostors) = Cluster::start_behind_impostors(&demo(), "bf16", 3, &[]);
    let load = Load::quiet(&cluster, 300).await;
    load.run(&cluster, "node-1 answers with values that are no numbers", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        impostors[1].spoil();
    })
    .await;
    assert!(impostors[1].spoiled() > 0, "nothing was spoiled");
    let log = cluster.router.log();
    assert!(log.contains("node-1 returned a value that is not finite"), "{log}");
    assert!(log.contains("quarantine"), "{log}");
    load.run(&cluster, "afterwards", async || {}).await;
}
