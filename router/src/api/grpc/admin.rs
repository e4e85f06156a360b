//! The gRPC service `guildhall.v1.Admin`, on a port of its own.

use std::sync::Arc;

use guildhall_proto::v1;
use guildhall_proto::v1::admin_server::{Admin, AdminServer};
use guildhall_telemetry::MetricsPage;
use guildhall_transport::{reflection, server_builder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;

use super::{cluster, health_service, options};
use crate::Error;
use crate::api::frontend::{Frontend, Serving};
use crate::api::keys::{ApiKeys, RequireKey};
use crate::api::page::Recorder;
use crate::api::{metrics_page, page};
use crate::balancer::Balancer;
use crate::metrics;

struct Service(Frontend);

/// Open without a key: health, and the live page, which asks for the key and has nothing without it.
const OPEN_PATHS: &[&str] = &["/grpc.health.v1.Health/", "/", "/page/"];

/// Serves until `shutdown`.
pub(crate) async fn serve_admin(
    listener: TcpListener,
    frontend: Frontend,
    keys: ApiKeys,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let counted = MetricsPage::open(metrics::ALL).map_err(Error::Engine)?;
    let recorder = Arc::new(Recorder::new(frontend.clone(), counted.clone()));
    let pages = metrics_page::routes(counted.clone());
    let pages = Routes::from(pages.merge(page::routes(Arc::clone(&recorder))));
    let health = HealthServer::new(health_service::Service(frontend.health().clone()));
    // Scrapers and browsers speak HTTP/1.1.
    let router = server_builder(&options())
        .accept_http1(true)
        .layer(RequireKey::new(keys, OPEN_PATHS))
        .add_routes(pages)
        .add_service(AdminServer::new(Service(frontend)))
        .add_service(health);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = reflection(router)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::select! {
        served = serving => Ok(served?),
        // It does not end.
        () = counted.keep_tidy() => Ok(()),
        // Nor does this.
        () = recorder.run() => Ok(()),
    }
}

#[tonic::async_trait]
impl Admin for Service {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let health = self.0.health();
        let (ready, takes_traffic) = (health.ready(), health.takes_traffic());
        let state = v1::GetStatusResponse {
            ready: ready.is_ok(),
            takes_traffic: takes_traffic.is_ok(),
            reason: takes_traffic.err().unwrap_or_default(),
            ..Default::default()
        };
        let Ok(serving) = self.0.serving() else { return Ok(Response::new(state)) };
        Ok(Response::new(v1::GetStatusResponse {
            ready: state.ready,
            takes_traffic: state.takes_traffic,
            reason: state.reason,
            ..status(serving)
        }))
    }

    async fn drain(
        &self,
        _: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        tracing::info!("draining, because an admin said so");
        self.0.health().drain();
        Ok(Response::new(v1::DrainResponse {}))
    }

    async fn reset_prefix_cache(
        &self,
        _: Request<v1::ResetPrefixCacheRequest>,
    ) -> Result<Response<v1::ResetPrefixCacheResponse>, Status> {
        let forgotten = self.0.serving()?.engine.reset_prefix_cache().await;
        let blocks = forgotten.map_err(|_| Status::unavailable("the engine has stopped"))?;
        Ok(Response::new(v1::ResetPrefixCacheResponse { blocks: blocks as u32 }))
    }

    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        Ok(Response::new(cluster::describe(self.cluster()?).await))
    }

    async fn get_experts(
        &self,
        _: Request<v1::GetExpertsRequest>,
    ) -> Result<Response<v1::GetExpertsResponse>, Status> {
        Ok(Response::new(cluster::experts(self.cluster()?)))
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let v1::DrainNodeRequest { node_id, undo } = request.into_inner();
        cluster::drain(self.cluster()?, &node_id, undo).await?;
        Ok(Response::new(v1::DrainNodeResponse {}))
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        let dry_run = request.into_inner().dry_run;
        Ok(Response::new(cluster::rebalance(self.cluster()?, dry_run).await?))
    }
}

impl Service {
    fn cluster(&self) -> Result<&Balancer, Status> {
        let alone = || Status::failed_precondition("this router computes the experts itself");
        self.0.cluster().ok_or_else(alone)
    }
}

fn status(serving: &Serving) -> v1::GetStatusResponse {
    let engine = serving.engine.status();
    let occupancy = engine.occupancy();
    v1::GetStatusResponse {
        model: serving.model.name.clone(),
        requests: serving.admission.taken() as u32,
        running_sequences: occupancy.running as u32,
        waiting_sequences: occupancy.waiting as u32,
        waiting_tokens: occupancy.waiting_tokens as u64,
        kv_blocks: occupancy.blocks as u32,
        kv_blocks_used: occupancy.blocks_held as u32,
        kv_blocks_cached: occupancy.blocks_idle as u32,
        block_tokens: occupancy.block_tokens as u32,
        preemptions: occupancy.preemptions,
        prefix_queried_tokens: occupancy.queried_tokens,
        prefix_hit_tokens: occupancy.hit_tokens,
        steps: engine.steps(),
        ..Default::default()
    }
}
