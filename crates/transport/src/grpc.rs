//! How every gRPC server of the cluster is set up: windows, health, reflection.

use std::time::Duration;

use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Windows that hold a whole frame of activations; with the 64 KiB of HTTP/2 a frame would wait for the peer's
/// acknowledgement several times.
pub(crate) const WINDOW_BYTES: u32 = 8 << 20;
/// Largest HTTP/2 DATA frame.
pub(crate) const HTTP2_FRAME_BYTES: u32 = 1 << 20;

/// Limits of a gRPC server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Streams that one connection may have open.
    pub max_streams_per_connection: u32,
    /// Pings to find clients that vanished without closing; `None` for peers that are not always polled.
    pub keepalive: Option<Duration>,
}

/// A server with the project's windows and limits.
#[must_use]
pub fn server_builder(options: &ServerOptions) -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_concurrent_streams(options.max_streams_per_connection)
        .http2_keepalive_interval(options.keepalive)
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .tcp_nodelay(true)
}

/// Says through `grpc.health.v1` whether this process takes traffic.
#[derive(Clone)]
pub struct HealthSwitch {
    reporter: HealthReporter,
    services: &'static [&'static str],
}

impl HealthSwitch {
    /// Sets the status of the server as a whole and of its services.
    pub async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status("", status).await;
        for service in self.services {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}

/// Adds `grpc.health.v1` (not serving until the switch is set) and server reflection, v1 and v1alpha.
pub async fn standard_services<L>(
    router: Router<L>,
    services: &'static [&'static str],
) -> (Router<L>, HealthSwitch) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let switch = HealthSwitch { reporter, services };
    switch.set(false).await;
    (reflection(router.add_service(health)), switch)
}

/// Adds server reflection, v1 and v1alpha, of every service of the cluster.
#[must_use]
pub fn reflection<L>(router: Router<L>) -> Router<L> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(guildhall_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptors were made by this build");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors were made by this build");
    router.add_service(v1).add_service(v1alpha)
}
