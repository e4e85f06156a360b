//! Where spans go on their way to a collector, and what becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::{
    Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter as Export, SpanProcessor as _,
};
use reqwest::blocking::Client;
use rustls::RootCertStore;
use tokio::runtime::Runtime;

use super::tls;
use crate::spans::{Recorder, SPANS_DROPPED, SPANS_EXPORTED};
use crate::{OtlpConfig, OtlpProtocol};

/// What takes the spans of this process; connections are served by the runtime.
pub(super) fn recorder(
    config: &OtlpConfig,
    endpoint: &str,
    runtime: &Runtime,
    resource: &Resource,
) -> Result<Recorder, String> {
    let failed = |e: String| format!("exporting traces to {endpoint:?} over OTLP: {e}");
    let authorities = tls::authorities(config, endpoint).map_err(failed)?;
    let exporter = match config.otlp_protocol {
        OtlpProtocol::Grpc => {
            let _on = runtime.enter();
            let builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
            builder.with_tls_config(tls::grpc(authorities)).build()
        }
        OtlpProtocol::HttpProtobuf => SpanExporter::builder()
            .with_http()
            .with_http_client(http_client(config, authorities).map_err(failed)?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build(),
    };
    let exporter = exporter.map_err(|e| failed(e.to_string()))?;
    let waiting = Arc::<AtomicUsize>::default();
    let counted =
        Counted { exporter, waiting: Arc::clone(&waiting), failing: AtomicBool::new(false) };
    let batches = BatchConfigBuilder::default().with_max_queue_size(config.otlp_max_queued_spans);
    let mut processor =
        BatchSpanProcessor::builder(counted).with_batch_config(batches.build()).build();
    processor.set_resource(resource);
    tracing::info!(endpoint, protocol = %config.otlp_protocol, "traces are exported");
    Ok(Recorder {
        processor,
        waiting,
        most_waiting: config.otlp_max_queued_spans,
        sampler: (config.otlp_traces_sampler, config.otlp_traces_ratio),
        scope: InstrumentationScope::builder("guildhall")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    })
}

/// It has a runtime of its own and must not be made on one.
fn http_client(config: &OtlpConfig, authorities: RootCertStore) -> Result<Client, String> {
    let client = Client::builder().tls_backend_preconfigured(tls::http(authorities)?);
    client.timeout(config.otlp_timeout).build().map_err(|e| crate::error_chain(&e))
}

/// An exporter that says what becomes of its spans.
#[derive(Debug)]
struct Counted {
    exporter: SpanExporter,
    waiting: Arc<AtomicUsize>,
    /// Whether the last batch was not taken; what follows is not worth a line in the log each.
    failing: AtomicBool,
}

impl Export for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        let exported = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Ok(()) => SPANS_EXPORTED.add(&[], spans as u64),
            Err(error) => {
                SPANS_DROPPED.add(&["export"], spans as u64);
                if !failed_before {
                    tracing::warn!(%error, spans, "the collector does not take traces; they are dropped");
                }
            }
        }
        if failed_before && exported.is_ok() {
            tracing::info!("the collector takes traces again");
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
