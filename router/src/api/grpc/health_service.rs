//! `grpc.health.v1`, answered from the state of the moment.

use std::pin::Pin;
use std::time::Duration;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthRpc;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::SERVICES;
use crate::api::health::Health;

/// Besides the services and the server as a whole, which say whether new requests are taken, it knows the names of
/// two questions: `readiness` and `liveness`.
pub(super) struct Service(pub(super) Health);

/// How often a watched status is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

fn status_of(health: &Health, service: &str) -> ServingStatus {
    let good = match service {
        "liveness" => true,
        "readiness" => health.ready().is_ok(),
        "" => health.takes_traffic().is_ok(),
        known if SERVICES.contains(&known) => health.takes_traffic().is_ok(),
        _ => return ServingStatus::ServiceUnknown,
    };
    if good { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl HealthRpc for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match status_of(&self.0, &request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service")),
            status => Ok(Response::new(response(status))),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (health, service) = (self.0.clone(), request.into_inner().service);
        let statuses = stream::unfold(None, move |told| {
            let (health, service) = (health.clone(), service.clone());
            async move {
                loop {
                    let status = status_of(&health, &service);
                    if told != Some(status) {
                        return Some((Ok(response(status)), Some(status)));
                    }
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(Box::pin(statuses)))
    }
}
