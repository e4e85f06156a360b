//! One suite for every store: in memory, embedded, and a real etcd, open or guarded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod access;
mod sessions;
mod suite;

use guildhall_cluster::store::{Etcd, EtcdOptions, Memory, serve};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use guildhall_testkit::etcd::EtcdProcess;

/// A store that is served on a free port of this process.
async fn embedded(store: &Memory) -> Etcd {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_routes(serve(store));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Etcd::new(EtcdOptions { endpoints: vec![address], ..EtcdOptions::default() })
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    suite::run(Memory::new(), async |store: &Memory, revision| store.compact(revision)).await;
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    let memory = Memory::new();
    let store = embedded(&memory).await;
    suite::run(store, async |_: &Etcd, revision| memory.compact(revision)).await;
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let etcd = EtcdProcess::start();
    let store = Etcd::new(etcd.options());
    suite::run(store, async |_: &Etcd, revision| etcd.compact(revision)).await;
}
