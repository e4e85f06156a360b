//! The admin service: its key, what it says, what it does; and how a router is while it loads.

use std::io::{Read as _, Write as _};

use guildhall_proto::v1;
use guildhall_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use guildhall_testkit::client::{collect, connect, greedy, idle_status, status};
use guildhall_testkit::cluster::{Cluster, demo};
use guildhall_testkit::process::Process;

/// Of the demonstration model.
const LAYERS: u32 = 4;
const EXPERTS: usize = 16;
const TOP_K: u64 = 2;

const ADMIN: [&str; 4] = ["--admin-port", "0", "--admin-api-key", "secret"];

async fn admin(cluster: &Cluster) -> AdminClient<Channel> {
    AdminClient::connect(cluster.admin.clone().unwrap()).await.unwrap()
}

fn with_key<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    request
}

#[tokio::test]
async fn the_admin_service_has_a_port_and_a_key_of_its_own() {
    let more = [&ADMIN[..], &["--api-key", "client"]].concat();
    let cluster = Cluster::start(&demo(), "bf16", 0, &more);
    let mut admin = admin(&cluster).await;
    let refused = admin.get_status(v1::GetStatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut wrong = Request::new(v1::DrainRequest {});
    wrong.metadata_mut().insert("authorization", "Bearer client".parse().unwrap());
    assert_eq!(admin.drain(wrong).await.unwrap_err().code(), Code::Unauthenticated);
    // It is not on the port of the clients.
    let mut elsewhere = AdminClient::connect(cluster.address.clone()).await.unwrap();
    let mut request = Request::new(v1::GetStatusRequest {});
    request.metadata_mut().insert("x-api-key", "client".parse().unwrap());
    let refused = elsewhere.get_status(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn status_counts_and_the_cache_can_be_forgotten() {
    let cluster = Cluster::start(&demo(), "bf16", 0, &ADMIN);
    let mut client = connect(&cluster.address).await;
    let mut request = greedy(&[7; 40], 10);
    request.outputs = None;
    for _ in 0..2 {
        client.generate(request.clone()).await.unwrap();
    }
    let address = cluster.admin.as_ref().unwrap();
    let before = idle_status(address, "secret").await;
    assert!(before.ready && before.takes_traffic && before.reason.is_empty(), "{before:?}");
    assert_eq!((before.prefix_queried_tokens, before.prefix_hit_tokens), (80, 32));
    assert_eq!((before.kv_blocks_used, before.requests), (0, 0));
    assert_eq!(before.kv_blocks_cached, 3, "49 positions went through the model");
    let mut admin = admin(&cluster).await;
    let reset = admin.reset_prefix_cache(with_key(v1::ResetPrefixCacheRequest {})).await;
    assert_eq!(reset.unwrap().into_inner().blocks, 3);
    client.generate(request).await.unwrap();
    assert_eq!(status(address, "secret").await.prefix_hit_tokens, 32);
}

#[tokio::test]
async fn the_use_of_each_expert_and_node_is_counted() {
    let cluster = Cluster::start(&demo(), "bf16", 2, &ADMIN);
    let mut client = connect(&cluster.address).await;
    client.generate(greedy(&[7; 40], 10)).await.unwrap();
    let mut admin = admin(&cluster).await;
    let seen = admin.get_experts(with_key(v1::GetExpertsRequest {})).await.unwrap().into_inner();
    assert!(seen.epoch > 0);
    let numbers: Vec<u32> = seen.layers.iter().map(|layer| layer.layer).collect();
    assert_eq!(numbers, (0..LAYERS).collect::<Vec<_>>());
    for layer in &seen.layers {
        assert_eq!(layer.pairs.len(), EXPERTS);
        // The last token was not computed.
        assert_eq!(layer.pairs.iter().sum::<u64>(), (40 + 9) * TOP_K, "{layer:?}");
        let names: Vec<&str> = layer.nodes.iter().map(|node| node.node_id.as_str()).collect();
        assert_eq!(names, ["node-0", "node-1"]);
        // A call that was late may have been asked for twice.
        assert!(layer.nodes.iter().map(|node| node.pairs).sum::<u64>() >= (40 + 9) * TOP_K);
        for node in &layer.nodes {
            let all: Vec<u32> = (0..EXPERTS as u32).collect();
            assert_eq!(node.experts, all, "each is on two nodes");
        }
    }
}

#[tokio::test]
async fn a_drained_router_ends_what_runs_and_takes_nothing_new() {
    let cluster = Cluster::start(&demo(), "bf16", 0, &ADMIN);
    let mut client = connect(&cluster.address).await;
    let stream = client.generate_stream(greedy(&[1, 2], 600)).await.unwrap().into_inner();
    admin(&cluster).await.drain(with_key(v1::DrainRequest {})).await.unwrap();
    let refused = client.generate(greedy(&[1, 2], 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
    let status = status(cluster.admin.as_ref().unwrap(), "secret").await;
    assert!(status.ready && !status.takes_traffic, "{status:?}");
    assert_eq!(collect(stream).await.unwrap().choices[0].token_ids.len(), 600);
}

/// The first line of the answer to a GET request.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn a_router_that_is_not_ready_yet_says_so() {
    let model = demo();
    let args = ["--grpc-port", "0", "--port", "0", "--model", model.to_str().unwrap()];
    // No node ever comes.
    let router = Process::start([&["router"], &args[..], &["--cluster-port", "0"]].concat());
    let address = router.line_after("HTTP API on ");
    assert_eq!(get(&address, "/health").0, "HTTP/1.1 200 OK");
    let (line, body) = get(&address, "/ready");
    assert_eq!(line, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains("\"ready\":false") && body.contains("loaded"), "{body}");
    let (line, body) = get(&address, "/v1/models");
    assert!(line.contains("503") && body.contains("the model is being loaded"), "{line} {body}");
}
