//! Things that go wrong: nodes that die, hang, differ or are corrupt; clients that leave.

use std::path::Path;
use std::time::{Duration, Instant};

use guildhall_proto::v1::GenerateResponse;
use tonic::{Code, Streaming};

use guildhall_testkit::client::{Client, Essence, collect, connect, essence, greedy, only};
use guildhall_testkit::cluster::{Cluster, demo, golden, start_node};
use guildhall_testkit::process::{PATIENCE, Process};

/// Each expert on one node only.
const ALONE: &[&str] = &["--min-replicas", "1", "--spare-replicas", "0"];
/// Room for 26 of the demonstration model's 64 experts: two nodes do not have room for what three hold.
const TIGHT: &[&str] = &["--capacity", "3833856"];

const PROMPT: [u32; 4] = [10, 20, 30, 40];

/// An answer of some seconds, and the same from a quiet cluster.
async fn quiet(cluster: &Cluster, tokens: u32) -> Essence {
    let mut client = connect(&cluster.address).await;
    essence(&client.generate(greedy(&PROMPT, tokens)).await.unwrap().into_inner())
}

/// Begins a stream and waits for its first chunk.
async fn begin(client: &mut Client, tokens: u32) -> Streaming<GenerateResponse> {
    client.generate_stream(greedy(&PROMPT, tokens)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_node_that_is_killed_and_comes_back_changes_no_bit() {
    let model = demo();
    let mut cluster = Cluster::start_with(&model, "bf16", 3, TIGHT, ALONE);
    let expected = quiet(&cluster, 900).await;
    let mut client = connect(&cluster.address).await;
    let stream = begin(&mut client, 900).await;
    cluster.nodes[1].signal("KILL");
    cluster.nodes[1].wait();
    cluster.router.wait_for_log("lost");
    cluster.restart_node(&model, "bf16", 1);
    assert_eq!(essence(&collect(stream).await.unwrap()), expected);
}

#[tokio::test]
async fn a_node_that_hangs_for_a_while_changes_no_bit() {
    let more = [ALONE, &["--expert-call-timeout", "0.5"]].concat();
    let cluster = Cluster::start_with(&demo(), "bf16", 3, TIGHT, &more);
    let expected = quiet(&cluster, 600).await;
    let mut client = connect(&cluster.address).await;
    let stream = begin(&mut client, 600).await;
    cluster.nodes[2].signal("STOP");
    cluster.router.wait_for_log("expert node does not answer");
    cluster.nodes[2].signal("CONT");
    assert_eq!(essence(&collect(stream).await.unwrap()), expected);
}

#[tokio::test]
async fn without_its_node_a_request_fails_in_time_and_says_why() {
    let model = demo();
    let more = [ALONE, &["--expert-wait-timeout", "1"]].concat();
    let mut cluster = Cluster::start_with(&model, "bf16", 3, TIGHT, &more);
    let mut client = connect(&cluster.address).await;
    let stream = begin(&mut client, 900).await;
    cluster.nodes[0].signal("KILL");
    let status = collect(stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("no expert node answered for expert"), "{status:?}");
    assert!(status.message().contains("node-0"), "{status:?}");

    // New requests are refused at once while experts are missing.
    cluster.router.wait_for_log("some experts are on no live node");
    let status = client.generate(greedy(&PROMPT, 5)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);

    cluster.nodes[0].wait();
    cluster.restart_node(&model, "bf16", 0);
    let deadline = Instant::now() + PATIENCE;
    while client.generate(greedy(&PROMPT, 5)).await.is_err() {
        assert!(Instant::now() < deadline, "the node that came back is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_with_another_model_dtype_or_name_is_refused() {
    let (mixtral, olmoe) = (golden("mixtral"), golden("olmoe"));
    let cluster = Cluster::start(&mixtral, "f32", 1, &[]);
    let more = ["--listen", "127.0.0.1:0", "--store", &cluster.store];
    let _others = [start_node(&olmoe, "f32", 1, &more), start_node(&mixtral, "bf16", 2, &more)];
    for reason in ["a model with fingerprint", "the router has dtype f32, this node bf16"] {
        cluster.router.wait_for_log(reason);
    }
    // A process that takes a name from a living one ends.
    let mut second = start_node(&mixtral, "f32", 0, &more);
    assert!(!second.wait().success());
    assert!(second.log().contains("another process writes"), "{}", second.log());
    let mut client = connect(&cluster.address).await;
    client.generate(greedy(&PROMPT, 5)).await.unwrap();
}

#[tokio::test]
async fn a_corrupt_expert_is_refused_by_name() {
    let copy = copy_of(&golden("mixtral"));
    let up = |dir: &Path| {
        let args =
            ["--grpc-port", "0", "--port", "0", "--dtype", "f32", "--model", dir.to_str().unwrap()];
        Process::start([&["up"], &args[..]].concat())
    };
    // The first start records what the experts hash to.
    up(copy.path()).line_after("Ready");
    flip_a_bit(copy.path(), "model.layers.1.block_sparse_moe.experts.5.w2.weight");
    let corrupt = up(copy.path());
    corrupt.wait_for_log("expert 1/5");
    corrupt.wait_for_log("is corrupt");
}

#[tokio::test]
async fn a_node_that_comes_back_with_other_experts_is_not_used() {
    let model = golden("mixtral");
    let mut cluster =
        Cluster::start(&model, "f32", 2, &["--min-replicas", "1", "--expert-wait-timeout", "1"]);
    let mut client = connect(&cluster.address).await;
    client.generate(greedy(&PROMPT, 5)).await.unwrap();

    // The same configuration and gates, so the same fingerprint; one bit of one expert of node-1 differs.
    let other = copy_of(&model);
    flip_a_bit(other.path(), "model.layers.1.block_sparse_moe.experts.5.w2.weight");
    cluster.nodes[1].signal("KILL");
    cluster.nodes[1].wait();
    cluster.restart_node(other.path(), "f32", 1);
    cluster.router.wait_for_log("its expert 1/5 differs from an earlier copy");
    let status = client.generate(greedy(&PROMPT, 5)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    cluster.nodes[1].signal("KILL");
    cluster.nodes[1].wait();
    cluster.restart_node(&model, "f32", 1);
    let deadline = Instant::now() + PATIENCE;
    while client.generate(greedy(&PROMPT, 5)).await.is_err() {
        assert!(Instant::now() < deadline, "the right node is not used again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A copy of a model, without the record of its hashes.
fn copy_of(model: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(model.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

/// Changes the first value of a tensor.
fn flip_a_bit(model: &Path, tensor: &str) {
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let offset = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header_len + offset] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_makes_room_at_once() {
    let one = ["--max-num-seqs", "1", "--max-waiting", "0"];
    let cluster = Cluster::start(&demo(), "bf16", 1, &one);
    let mut client = connect(&cluster.address).await;
    let began = Instant::now();
    client.generate(greedy(&PROMPT, 1000)).await.unwrap();
    let whole = began.elapsed();
    let mut stream = begin(&mut client, 1000).await;
    stream.message().await.unwrap();
    let status = client.generate(greedy(&PROMPT, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    drop(stream);
    let left = Instant::now();
    while client.generate(greedy(&PROMPT, 1)).await.is_err() {
        assert!(left.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It did not wait for the other 999 tokens.
    assert!(left.elapsed() < whole / 2, "{:?} of {whole:?}", left.elapsed());
}

#[tokio::test]
async fn a_crowd_that_leaves_at_any_moment_leaves_nothing_behind() {
    let cluster = Cluster::start(&demo(), "bf16", 1, &["--max-num-seqs", "4"]);
    let client = connect(&cluster.address).await;
    let crowd = (0..120).map(|n| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut stream = begin(&mut client, 1000).await;
            for _ in 0..n % 7 {
                stream.message().await.unwrap();
            }
        })
    });
    for visitor in crowd.collect::<Vec<_>>() {
        visitor.await.unwrap();
    }
    // All four places are free again, with their blocks.
    let rest = (0..4).map(|_| {
        let mut client = client.clone();
        tokio::spawn(async move { client.generate(greedy(&PROMPT, 1000)).await.unwrap() })
    });
    for answer in rest.collect::<Vec<_>>() {
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(only(answer.into_inner()).token_ids.len(), 1000);
    }
}
