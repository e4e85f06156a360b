//! 32 streams whose answers are known, and a cluster that is watched meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use guildhall_proto::v1::GenerateRequest;
use guildhall_testkit::client::{
    Essence, cluster_when, collect, connect, essence, greedy, is_whole,
};
use guildhall_testkit::cluster::Cluster;
use guildhall_testkit::process::PATIENCE;
use tokio::task::JoinSet;

pub(crate) const STREAMS: u32 = 32;
/// Requests that choose different experts, with their answers when nothing fails.
pub(crate) struct Load(Vec<(GenerateRequest, Essence)>);

impl Load {
    pub(crate) async fn quiet(cluster: &Cluster, tokens: u32) -> Self {
        let prompt =
            |number: u32| (0..8).map(|i| 3 + (number * 131 + i * 17) % 2000).collect::<Vec<_>>();
        Self::of(cluster, (0..STREAMS).map(|number| greedy(&prompt(number), tokens))).await
    }

    /// Asks for all of these now, while nothing fails.
    pub(crate) async fn of(cluster: &Cluster, all: impl Iterator<Item = GenerateRequest>) -> Self {
        let client = connect(&cluster.address).await;
        let mut requests = JoinSet::new();
        for request in all {
            let mut client = client.clone();
            requests.spawn(async move {
                let answer = client.generate(request.clone()).await.unwrap().into_inner();
                (request, essence(&answer))
            });
        }
        Self(requests.join_all().await)
    }

    /// Streams everything at once through a router while `fail` happens.
    pub(crate) async fn run(&self, cluster: &Cluster, context: &str, fail: impl AsyncFnOnce()) {
        self.run_at(&cluster.address, context, fail).await;
    }

    /// The same through the router at this address.
    pub(crate) async fn run_at(&self, address: &str, context: &str, fail: impl AsyncFnOnce()) {
        let client = connect(address).await;
        let mut streams = JoinSet::new();
        for (number, (request, _)) in self.0.iter().enumerate() {
            let (mut client, request) = (client.clone(), request.clone());
            streams.spawn(async move {
                let stream = client.generate_stream(request).await?.into_inner();
                Ok::<_, tonic::Status>((number, collect(stream).await?))
            });
        }
        fail().await;
        while let Some(ended) = streams.join_next().await {
            let (number, answer) = ended.unwrap().unwrap_or_else(|e| panic!("{context}: {e:?}"));
            assert_eq!(essence(&answer), self.0[number].1, "{context}, stream {number}");
        }
    }
}

pub(crate) const KEY: &str = "secret";
pub(crate) const ADMIN: &[&str] = &["--admin-port", "0", "--admin-api-key", KEY];

/// Waits until so many nodes hold all that they should.
pub(crate) async fn whole(cluster: &Cluster, nodes: usize) {
    let admin = cluster.admin.as_ref().unwrap();
    cluster_when(admin, KEY, "whole", |seen| is_whole(seen, nodes)).await;
}

/// How often a node has joined.
fn joined(cluster: &Cluster, node: usize) -> usize {
    cluster.router.log().matches(&format!("expert node joined node=node-{node}")).count()
}

/// Starts a node that has ended, and waits until the cluster is whole again.
pub(crate) async fn restart(cluster: &mut Cluster, model: &Path, node: usize) {
    let before = joined(cluster, node);
    cluster.restart_node(model, "bf16", node);
    let deadline = Instant::now() + PATIENCE;
    while joined(cluster, node) == before {
        assert!(Instant::now() < deadline, "node-{node} does not join:\n{}", cluster.router.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    whole(cluster, cluster.nodes.len()).await;
}
