//! Sends the page of metrics to a collector from time to time.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_sdk::Resource;
use prost::Message as _;
use reqwest::header::HeaderMap;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Extensions, Request};

use super::metrics_data::{Period, attribute, request};
use super::{headers, tls};
use crate::metrics::{MetricsPage, TIDY_EVERY};
use crate::{OtlpConfig, OtlpProtocol};

/// Sends what the page shows.
pub(super) struct Sender {
    collector: Collector,
    headers: HeaderMap,
    resource: Vec<KeyValue>,
    every: Duration,
    started: SystemTime,
    /// Whether the last page was not taken; what follows is not worth a line in the log each.
    failing: bool,
}

enum Collector {
    Grpc(MetricsServiceClient<Channel>),
    Http { client: reqwest::Client, url: String },
}

impl Sender {
    pub(super) fn new(
        config: &OtlpConfig,
        endpoint: &str,
        runtime: &Runtime,
        resource: &Resource,
    ) -> Result<Self, String> {
        let failed = |e: String| format!("exporting metrics to {endpoint:?} over OTLP: {e}");
        let headers = headers::read(&OtlpConfig::metrics_headers()).map_err(failed)?;
        let authorities = tls::authorities(config, endpoint).map_err(failed)?;
        let _on = runtime.enter();
        let collector = match config.otlp_protocol {
            OtlpProtocol::Grpc => {
                let channel = Endpoint::from_shared(endpoint.to_owned());
                let channel = channel.and_then(|of| of.tls_config(tls::grpc(authorities)));
                let channel = channel.map_err(|e| failed(crate::error_chain(&e)))?;
                let channel = channel.timeout(config.otlp_timeout);
                Collector::Grpc(MetricsServiceClient::new(channel.connect_lazy()))
            }
            OtlpProtocol::HttpProtobuf => {
                let tls = tls::http(authorities).map_err(failed)?;
                let client = reqwest::Client::builder().tls_backend_preconfigured(tls);
                let client = client.timeout(config.otlp_timeout).build();
                let client = client.map_err(|e| failed(e.to_string()))?;
                Collector::Http { client, url: endpoint.to_owned() }
            }
        };
        let pairs = resource.iter().map(|(name, value)| attribute(name.as_str(), &value.as_str()));
        tracing::info!(endpoint, protocol = %config.otlp_protocol, "metrics are exported");
        Ok(Self {
            collector,
            headers,
            resource: pairs.collect(),
            every: config.otlp_metrics_interval,
            started: SystemTime::now(),
            failing: false,
        })
    }

    /// Sends the page again and again, for ever.
    pub(super) async fn run(&mut self) {
        let mut sends = tokio::time::interval_at(Instant::now() + self.every, self.every);
        let mut tidies = tokio::time::interval(TIDY_EVERY);
        loop {
            tokio::select! {
                // The collector's turn.
                _ = sends.tick() => self.send().await,
                // What is recorded takes memory until then.
                _ = tidies.tick() => MetricsPage::tidy(),
            }
        }
    }

    /// Sends the page, once this process has one.
    pub(super) async fn send(&mut self) {
        let Some(page) = MetricsPage::opened() else { return };
        let period = Period::since(self.started);
        let request = request(&page.render(), self.resource.clone(), period);
        let sent = self.collector.send(request, self.headers.clone()).await;
        match &sent {
            Err(error) if !self.failing => {
                tracing::warn!(error, "the collector does not take metrics");
            }
            Ok(()) if self.failing => tracing::info!("the collector takes metrics again"),
            _ => {}
        }
        self.failing = sent.is_err();
    }
}

impl Collector {
    async fn send(
        &mut self,
        request: ExportMetricsServiceRequest,
        headers: HeaderMap,
    ) -> Result<(), String> {
        match self {
            Self::Grpc(client) => {
                let metadata = MetadataMap::from_headers(headers);
                let request = Request::from_parts(metadata, Extensions::default(), request);
                client.export(request).await.map(drop).map_err(|status| status.to_string())
            }
            Self::Http { client, url } => {
                let post = client
                    .post(url.as_str())
                    .headers(headers)
                    .header("content-type", "application/x-protobuf")
                    .body(request.encode_to_vec());
                let answer = post.send().await.and_then(reqwest::Response::error_for_status);
                answer.map(drop).map_err(|e| crate::error_chain(&e))
            }
        }
    }
}
