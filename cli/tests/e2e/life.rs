//! How processes run and end: on their cores, drained, together, and with the right exit code.

use std::io::Write as _;
use std::time::Duration;

use tonic::Code;

use guildhall_testkit::client::{collect, collect_after, connect, essence, greedy};
use guildhall_testkit::cluster::{Cluster, demo};
use guildhall_testkit::process::{PATIENCE, Process};

#[tokio::test]
async fn a_router_that_gets_sigterm_ends_its_streams_properly() {
    let mut cluster = Cluster::start(&demo(), "bf16", 2, &[]);
    let mut client = connect(&cluster.address).await;
    let mut stream = client.generate_stream(greedy(&[1, 2], 400)).await.unwrap().into_inner();
    stream.message().await.unwrap();
    cluster.router.signal("TERM");
    let rest = collect(stream).await.unwrap();
    assert_eq!(rest.usage.unwrap().completion_tokens, 400);
    assert!(cluster.router.wait().success());
    assert!(client.generate(greedy(&[1], 1)).await.is_err());
}

#[tokio::test]
async fn a_router_out_of_time_fails_its_streams_and_stops() {
    let mut cluster = Cluster::start(&demo(), "bf16", 2, &["--drain-timeout", "0"]);
    let mut client = connect(&cluster.address).await;
    let mut stream = client.generate_stream(greedy(&[1, 2], 1000)).await.unwrap().into_inner();
    stream.message().await.unwrap();
    cluster.router.signal("TERM");
    let status = collect(stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(cluster.router.wait().success());
}

#[tokio::test]
async fn a_client_that_keeps_its_connection_does_not_hold_a_router_up() {
    let mut cluster = Cluster::start(&demo(), "bf16", 0, &[]);
    let address = cluster.address.trim_start_matches("http://").to_owned();
    // It opens HTTP/2 and then neither reads nor writes.
    let mut silent = std::net::TcpStream::connect(address).unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    connect(&cluster.address).await.generate(greedy(&[1, 2], 3)).await.unwrap();
    cluster.router.signal("TERM");
    let asked = std::time::Instant::now();
    assert!(cluster.router.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_node_that_gets_sigterm_answers_what_runs_and_leaves() {
    let mut cluster = Cluster::start(&demo(), "bf16", 2, &[]);
    let mut client = connect(&cluster.address).await;
    let request = || greedy(&[1, 2], 600);
    let expected = essence(&client.generate(request()).await.unwrap().into_inner());
    let mut stream = client.generate_stream(request()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    cluster.nodes[0].signal("TERM");
    let whole = collect_after(first, stream).await.unwrap();
    assert_eq!(essence(&whole), expected);
    assert!(cluster.nodes[0].wait().success());
    assert!(!cluster.nodes[0].log().contains("still connected"));
}

#[tokio::test]
async fn threads_that_compute_stay_on_cores_of_their_own() {
    let more = ["--threads", "2", "--pin-threads"];
    let cluster = Cluster::start_with(&demo(), "bf16", 1, &more, &more);
    connect(&cluster.address).await.generate(greedy(&[1, 2], 3)).await.unwrap();
    for (process, names) in
        [(&cluster.router, ["lane-0", "kernel-1"]), (&cluster.nodes[0], ["compute", "kernel-1"])]
    {
        let cores = names.map(|name| cores_of_thread(process.id(), name));
        let one_each = cores.iter().all(|cores| cores.parse::<usize>().is_ok());
        assert!(one_each, "{names:?} may be on {cores:?}");
        let alone = std::thread::available_parallelism().unwrap().get() == 1;
        assert!(alone || cores[0] != cores[1], "{names:?} are on {cores:?}");
    }
}

/// The list of cores that a thread of a process may be on.
fn cores_of_thread(process: u32, name: &str) -> String {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut states = threads
        .map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    let state = states.find(|state| state.starts_with(&format!("Name:\t{name}\n"))).unwrap();
    let cores = state.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cores.unwrap().trim().to_owned()
}

#[tokio::test]
async fn ctrl_c_stops_the_whole_cluster() {
    let (mut up, children) = start_up(&["--log-format", "json", "--log", "info"]);
    // All processes log as they were told.
    up.wait_for_log("expert-node-3 | {\"timestamp\"");
    up.wait_for_log("router | {\"timestamp\"");
    assert_eq!(children.len(), 5);
    up.signal("INT");
    assert!(up.wait().success());
    assert!(children.iter().all(|id| !is_running(*id)), "a process was left behind");
}

#[tokio::test]
async fn when_one_process_fails_the_cluster_stops_and_says_which() {
    let (mut up, children) = start_up(&[]);
    // The router is the first.
    let node = children[2].to_string();
    let killed = std::process::Command::new("kill").args(["-KILL", &node]).status();
    assert!(killed.unwrap().success());
    assert!(!up.wait().success());
    up.wait_for_log("expert-node-1 ended");
    assert!(children.iter().all(|id| !is_running(*id)), "a process was left behind");
}

#[tokio::test]
async fn children_do_not_outlive_an_up_that_is_killed() {
    let (mut up, children) = start_up(&[]);
    up.signal("KILL");
    up.wait();
    let deadline = std::time::Instant::now() + PATIENCE;
    while children.iter().any(|id| is_running(*id)) {
        assert!(std::time::Instant::now() < deadline, "a process was left behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A whole cluster that is ready, and the ids of its processes.
fn start_up(more: &[&str]) -> (Process, Vec<u32>) {
    let model = demo();
    let args = ["up", "--grpc-port", "0", "--port", "0", "--model", model.to_str().unwrap()];
    let up = Process::start([&args[..], more].concat());
    up.line_after("Ready");
    let children = children(up.id());
    (up, children)
}

/// The ids of a process's children, in the order in which they were started.
fn children(id: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    text.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

/// Whether a process exists and is not just waiting to be reaped.
fn is_running(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status.contains("State:") && !status.contains("State:\tZ")
}
