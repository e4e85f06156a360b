//! What becomes of the paths of Unix sockets and of the ports of TCP.

use std::path::Path;

use guildhall_transport::{Endpoint, Error, Listener};

use crate::support::{TestNode, open, serve_tcp, soon};

async fn bind(path: &Path) -> Result<Listener, Error> {
    Listener::bind(&Endpoint::Unix(path.into())).await
}

fn expect_taken(bound: Result<Listener, Error>) {
    assert!(matches!(bound, Err(Error::Listen { .. })), "{bound:?}");
}

#[tokio::test]
async fn the_socket_of_a_killed_process_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = bind(&path).await.unwrap();
    assert_eq!(listener.endpoint().unwrap(), Endpoint::Unix(path.clone()));
    let node = TestNode::new();
    let server = node.serve(listener);
    open(&Endpoint::Unix(path)).await.unwrap();
    node.lifecycle.stopping().cancel();
    soon(server).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_socket_of_a_living_process_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let _living = bind(&path).await.unwrap();
    expect_taken(bind(&path).await);
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, "precious").unwrap();
    expect_taken(bind(&path).await);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    expect_taken(bind(folder.path()).await);
    expect_taken(bind(&folder.path().join("absent/node.sock")).await);
}

#[tokio::test]
async fn the_path_is_gone_when_the_server_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let node = TestNode::new();
    let server = node.serve(bind(&path).await.unwrap());
    let link = open(&Endpoint::Unix(path.clone())).await.unwrap();
    node.lifecycle.stopping().cancel();
    soon(server).await.unwrap().unwrap();
    drop(link);
    assert!(!path.exists());
}

#[tokio::test]
async fn port_zero_becomes_a_real_one_and_a_taken_one_is_an_error() {
    let served = serve_tcp().await;
    let Endpoint::Tcp(address) = &served.endpoint else { panic!("it is {}", served.endpoint) };
    assert!(!address.ends_with(":0"), "{address}");
    expect_taken(Listener::bind(&served.endpoint).await);
    expect_taken(Listener::bind(&"name.invalid:1".parse().unwrap()).await);
}
