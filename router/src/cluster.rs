//! A router in its cluster: the store, the port for the others, who is there, and the balancer.

use std::sync::Arc;
use std::time::Duration;

use guildhall_checkpoint::Checkpoint;
use guildhall_cluster::store::{Memory, Store, serve};
use guildhall_cluster::{RouterRecord, serve_peers};
use guildhall_ids::LayerIdx;
use guildhall_placement::ExpertGrid;
use guildhall_proto::EXPERT_PROTOCOL_VERSION;
use guildhall_transport::{Handshake, ServerOptions, server_builder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::balancer::{Balancer, LoadCounter, Policy};
use crate::membership::{Identity, Membership};
use crate::servers::{bind, print_line};
use crate::{Error, RouterConfig};

/// Streams of one connection: a node has a watch and keeps a lease alive.
const MAX_STREAMS: u32 = 64;
/// Leaving the cluster takes no longer than this.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a router with remote experts has of its cluster.
pub(crate) struct Cluster {
    /// Unique, and another one after a restart.
    pub(crate) name: String,
    pub(crate) handshake: Handshake,
    pub(crate) membership: Membership,
    pub(crate) balancer: Balancer,
    pub(crate) load: Arc<LoadCounter>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Cluster {
    /// Opens the cluster port and joins the cluster: that of `--store`, or one whose state this router keeps itself.
    pub(crate) async fn join(
        config: &RouterConfig,
        checkpoint: &Checkpoint,
    ) -> Result<Self, Error> {
        let (listener, address) = bind(&config.cluster_host, config.cluster_port).await?;
        print_line(&format!("cluster port on http://{address}"))?;
        let door = (listener, format!("http://{}", config.store.address_for_others(address)));
        if config.store.store.is_empty() {
            let store = Memory::new();
            let routes = serve(&store);
            return Ok(Self::with_store(config, checkpoint, store, routes, door));
        }
        let store = config.store.open().map_err(Error::Config)?;
        Ok(Self::with_store(config, checkpoint, store, Routes::default(), door))
    }

    fn with_store<S: Store>(
        config: &RouterConfig,
        checkpoint: &Checkpoint,
        store: S,
        routes: Routes,
        (listener, address): (TcpListener, String),
    ) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let name = format!("router-{:08x}", rand::random::<u32>());
        let (grid, handshake) = (grid(checkpoint), handshake(config, checkpoint));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let identity = Identity {
            name: name.clone(),
            record: RouterRecord { address, version },
            handshake: handshake.clone(),
            grid: grid.clone(),
            prefix: config.store.store_prefix.clone(),
        };
        let membership = Membership::start(store.clone(), identity, &tasks, &stop);
        let load = Arc::new(LoadCounter::new(grid.clone()));
        let (balancer, requests) = Balancer::new(
            name.clone(),
            (config.store.store_prefix.clone(), handshake.model_fingerprint.clone()),
            policy(config, checkpoint, grid),
            Arc::clone(&load),
            membership.members.clone(),
        );
        tasks.spawn(balancer.clone().run(store, requests));
        let routes = serve_peers(routes, balancer.clone());
        tasks.spawn(serve_cluster(listener, routes, stop.clone()));
        Self { name, handshake, membership, balancer, load, tasks, stop }
    }

    /// Gives up the lease and ends.
    pub(crate) async fn leave(self) {
        self.stop.cancel();
        self.tasks.close();
        // What has not ended by then ends with the process.
        let _ = tokio::time::timeout(FAREWELL, self.tasks.wait()).await;
    }
}

/// Serves until `stop`; watches never end by themselves, so nobody waits for them.
async fn serve_cluster(listener: TcpListener, routes: Routes, stop: CancellationToken) {
    let keepalive = Some(Duration::from_secs(10));
    let options = ServerOptions { max_streams_per_connection: MAX_STREAMS, keepalive };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = server_builder(&options).add_routes(routes).serve_with_incoming(incoming);
    if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
        tracing::error!(%error, "the cluster port is not served any more");
    }
}

/// The experts of a model.
pub(crate) fn grid(checkpoint: &Checkpoint) -> ExpertGrid {
    let model = checkpoint.config();
    let layers: Vec<LayerIdx> = model.moe_layers().collect();
    ExpertGrid { layers, n_experts: model.moe.n_experts as u32 }
}

fn handshake(config: &RouterConfig, checkpoint: &Checkpoint) -> Handshake {
    Handshake {
        protocol_version: EXPERT_PROTOCOL_VERSION,
        model_fingerprint: checkpoint.fingerprint().0.to_vec(),
        dtype: config.dtype.to_string(),
        hidden_size: u32::try_from(checkpoint.config().hidden_size).unwrap_or(u32::MAX),
        expert_weights: config.expert_format().to_string(),
    }
}

fn policy(config: &RouterConfig, checkpoint: &Checkpoint, grid: ExpertGrid) -> Policy {
    let model = checkpoint.config();
    let values = 3 * model.hidden_size * model.moe.expert_width;
    Policy {
        grid,
        expert_bytes: config.expert_format().bytes(values) as u64,
        min_nodes: config.min_nodes.map(std::num::NonZeroUsize::get),
        min_replicas: config.min_replicas.get(),
        spare_replicas: config.spare_replicas,
        replace_after: config.replace_after,
        interval: config.balance_interval,
    }
}
