//! The gRPC port: the generate services, health and reflection.

use std::time::Duration;

use guildhall_proto::v1::generation_server::GenerationServer;
use guildhall_proto::vllm::vllm_engine_server::VllmEngineServer;
use guildhall_transport::{ServerOptions, reflection, server_builder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::health_server::HealthServer;

use super::ask::Ask;
use super::frontend::Frontend;
use super::keys::{ApiKeys, RequireKey};
use crate::Error;

pub(crate) use admin::serve_admin;

mod admin;
mod cluster;
mod generation;
mod vllm;
mod health_service;

/// Largest request: a long prompt as token ids.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// Requests that one connection may have open.
const MAX_STREAMS: u32 = 4096;
const SERVICES: &[&str] = &["guildhall.v1.Generation", "vllm.grpc.engine.VllmEngine"];
/// Answers without a key: whoever asks for health is a machine that has none.
const OPEN_PATHS: &[&str] = &["/grpc.health.v1.Health/"];

/// Serves until `shutdown`, then until every open request has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    frontend: Frontend,
    keys: ApiKeys,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let generation = GenerationServer::new(generation::Service(frontend.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let vllm = VllmEngineServer::new(vllm::Service(frontend.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let health = HealthServer::new(health_service::Service(frontend.health().clone()));
    let router = server_builder(&options())
        .layer(RequireKey::new(keys, OPEN_PATHS))
        .add_service(generation)
        .add_service(vllm)
        .add_service(health);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let shutdown = shutdown.cancelled_owned();
    Ok(reflection(router).serve_with_incoming_shutdown(incoming, shutdown).await?)
}

fn options() -> ServerOptions {
    let keepalive = Some(Duration::from_secs(30));
    ServerOptions { max_streams_per_connection: MAX_STREAMS, keepalive }
}

/// What the headers of a call say.
fn ask_of(metadata: &MetadataMap) -> Ask {
    let header = |name| metadata.get(name).and_then(|value| value.to_str().ok());
    let timeout = header("grpc-timeout").and_then(grpc_timeout);
    Ask { timeout, ..Ask::default() }.traced(header)
}

/// The time in a `grpc-timeout` header: at most eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        'H' => Some(Duration::from_secs(count * 3600)),
        'M' => Some(Duration::from_secs(count * 60)),
        'S' => Some(Duration::from_secs(count)),
        'm' => Some(Duration::from_millis(count)),
        'u' => Some(Duration::from_micros(count)),
        'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_units() {
        let check = |text, expected| assert_eq!(grpc_timeout(text), expected, "{text:?}");
        check("2H", Some(Duration::from_secs(7200)));
        check("1S", Some(Duration::from_secs(1)));
        check("99999999m", Some(Duration::from_millis(99_999_999)));
        check("10u", Some(Duration::from_micros(10)));
        for bad in ["", "S", "1", "-1S", "123456789S", "1é", "1.5S"] {
            check(bad, None);
        }
    }
}
