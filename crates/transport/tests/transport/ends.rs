//! How nodes end: in peace, with routers that stay, and suddenly.

use std::time::Duration;

use guildhall_transport::{Error, ExpertLink, GrpcLink, Listener, NodeEvent};
use tokio::net::{TcpStream, UnixStream};

use crate::support::{
    ECHO, HOLD, Served, TestNode, call, expect_outputs, next, open, serve_everywhere, soon,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn expect_draining(link: &mut GrpcLink) {
    let event = next(link).await;
    assert!(matches!(event, Ok(NodeEvent::Draining)), "{event:?}");
}

/// Takes events until the link breaks.
async fn expect_unreachable(link: &mut GrpcLink) -> String {
    loop {
        match next(link).await {
            Ok(NodeEvent::Draining) => {}
            Err(error @ Error::Unreachable { .. }) => return format!("{error:?}"),
            other => panic!("{other:?} instead of an end"),
        }
    }
}

#[tokio::test]
async fn a_draining_node_tells_its_routers_refuses_others_and_finishes_its_calls() {
    for Served { node, endpoint, server, .. } in serve_everywhere().await {
        let (mut link, mut idle) = (open(&endpoint).await.unwrap(), open(&endpoint).await.unwrap());
        let held = call(1, HOLD, 2);
        link.send(held.clone()).unwrap();
        node.holds(1).await;
        let lifecycle = node.lifecycle.clone();
        let drain = tokio::spawn(async move { lifecycle.drain(PATIENCE).await });
        expect_draining(&mut link).await;
        expect_draining(&mut idle).await;
        let refused = format!("{:?}", open(&endpoint).await.err());
        assert!(refused.contains("Unreachable") && refused.contains("draining"), "{refused}");
        // Calls that were on their way are still computed.
        let late = call(2, ECHO, 1);
        link.send(late.clone()).unwrap();
        expect_outputs(&mut link, &late).await;
        node.answer_newest();
        expect_outputs(&mut link, &held).await;
        assert!(!drain.is_finished());
        drop((link, idle));
        assert!(soon(drain).await.unwrap(), "every router had left");
        soon(server).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_router_that_stays_is_cut_off_when_the_time_is_over() {
    for Served { node, endpoint, server, .. } in serve_everywhere().await {
        let mut link = open(&endpoint).await.unwrap();
        link.send(call(1, HOLD, 1)).unwrap();
        node.holds(1).await;
        assert!(!node.lifecycle.drain(Duration::ZERO).await);
        let error = expect_unreachable(&mut link).await;
        assert!(error.contains("the node stops"), "{error}");
        soon(server).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_node_without_routers_drains_at_once() {
    for Served { node, server, .. } in serve_everywhere().await {
        assert!(node.lifecycle.drain(PATIENCE).await);
        soon(server).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_node_that_stops_is_unreachable_also_for_new_links() {
    for Served { node, endpoint, server, .. } in serve_everywhere().await {
        let mut link = open(&endpoint).await.unwrap();
        node.lifecycle.stopping().cancel();
        expect_unreachable(&mut link).await;
        soon(server).await.unwrap().unwrap();
        let error = open(&endpoint).await.err();
        assert!(matches!(error, Some(Error::Unreachable { .. })), "{error:?}");
    }
}

/// A port scanner, or a router that was stopped before it said anything.
#[tokio::test]
async fn a_connection_that_says_nothing_does_not_keep_a_node() {
    let [tcp, unix] = serve_everywhere().await;
    let guildhall_transport::Endpoint::Tcp(address) = &tcp.endpoint else { unreachable!() };
    let guildhall_transport::Endpoint::Unix(path) = &unix.endpoint else { unreachable!() };
    let _silent = TcpStream::connect(address).await.unwrap();
    let _quiet = UnixStream::connect(path).await.unwrap();
    for Served { node, endpoint, server, .. } in [tcp, unix] {
        // The connection before this one has been accepted by now.
        drop(open(&endpoint).await.unwrap());
        node.lifecycle.drain(PATIENCE).await;
        soon(server).await.unwrap().unwrap();
    }
}

/// A router whose process is stopped by a signal answers nothing, not even on the level of HTTP/2.
#[test]
fn a_frozen_router_does_not_keep_a_node() {
    let router = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let node = node.unwrap();
    let Served { node: backend, endpoint, server, .. } =
        node.block_on(serve_everywhere()).into_iter().next().unwrap();
    // From here on nobody polls the router's side.
    let _frozen = router.block_on(open(&endpoint)).unwrap();
    assert!(!node.block_on(backend.lifecycle.drain(Duration::ZERO)));
    node.block_on(soon(server)).unwrap().unwrap();
}

/// Serves on a runtime of its own, so that it can be ended without any farewell.
#[test]
fn a_killed_node_is_unreachable() {
    let router = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("node.sock").display());
    for address in ["127.0.0.1:0", &path] {
        let node =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let node = node.unwrap();
        let (backend, endpoint) = node.block_on(async {
            let listener = Listener::bind(&address.parse().unwrap()).await.unwrap();
            let (backend, endpoint) = (TestNode::new(), listener.endpoint().unwrap());
            backend.serve(listener);
            (backend, endpoint)
        });
        router.block_on(async {
            let mut link = open(&endpoint).await.unwrap();
            link.send(call(1, HOLD, 1)).unwrap();
            backend.holds(1).await;
            node.shutdown_background();
            expect_unreachable(&mut link).await;
            // Sending on a dead link says so, sooner or later; it never panics.
            let _ = link.send(call(2, HOLD, 1));
            let error = open(&endpoint).await.err();
            assert!(matches!(error, Some(Error::Unreachable { .. })), "{error:?}");
        });
    }
}
