//! Exports spans over OTLP, on a thread and connections of its own, so that nothing that serves waits for a collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter as Export, SpanProcessor as _,
};
use tokio::sync::oneshot;

use crate::spans::{Recorder, SPANS_DROPPED, SPANS_EXPORTED};
use crate::{OtlpConfig, OtlpProtocol};

/// What waits at the end of a process gets this long to be sent.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// The export of a process, until it is dropped; then what waits is sent.
pub struct Otlp {
    recorder: &'static Recorder,
    /// Ends the thread on which connections are served.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Otlp {
    /// Begins to export what this process records from now on, in the name of a service and, if it has one, an instance;
    /// nothing if no collector is named.
    ///
    /// # Errors
    /// A collector's address that cannot be read, or a second call in one process.
    pub fn open(
        config: &OtlpConfig,
        service: &'static str,
        instance: Option<&str>,
    ) -> Result<Option<Self>, String> {
        let Some(endpoint) = config.traces_endpoint() else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("starting the export of traces: {e}"))?;
        let exporter = match config.otlp_protocol {
            OtlpProtocol::Grpc => {
                let _on = runtime.enter();
                SpanExporter::builder().with_tonic().with_endpoint(&endpoint).build()
            }
            // Its client has a runtime of its own and must not be made on one.
            OtlpProtocol::HttpProtobuf => SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(&endpoint)
                .build(),
        };
        let exporter =
            exporter.map_err(|e| format!("exporting traces to {endpoint:?} over OTLP: {e}"))?;
        let waiting = Arc::<AtomicUsize>::default();
        let counted =
            Counted { exporter, waiting: Arc::clone(&waiting), failing: AtomicBool::new(false) };
        let batches =
            BatchConfigBuilder::default().with_max_queue_size(config.otlp_max_queued_spans);
        let mut processor =
            BatchSpanProcessor::builder(counted).with_batch_config(batches.build()).build();
        processor.set_resource(&resource(service, instance));
        let recorder = Recorder {
            processor,
            waiting,
            most_waiting: config.otlp_max_queued_spans,
            sampler: (config.otlp_traces_sampler, config.otlp_traces_ratio),
            scope: InstrumentationScope::builder("guildhall")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
        .install()?;
        let (stop, stopped) = oneshot::channel();
        // It ends when it is told to or when nobody can tell it any more.
        let serve = move || drop(runtime.block_on(stopped));
        let thread = std::thread::Builder::new()
            .name("otlp".into())
            .spawn(serve)
            .map_err(|e| format!("starting the thread that exports traces: {e}"))?;
        tracing::info!(endpoint, protocol = %config.otlp_protocol, "traces are exported");
        Ok(Some(Self { recorder, stop: Some(stop), thread: Some(thread) }))
    }
}

/// Sends what waits.
impl Drop for Otlp {
    fn drop(&mut self) {
        if let Err(error) = self.recorder.processor.shutdown_with_timeout(LAST_EXPORT) {
            tracing::warn!(%error, "not all traces were exported before the end");
        }
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that exports traces panicked");
        }
    }
}

/// What the standard variables say of this process; the name of the service is theirs if they have one.
fn resource(service: &'static str, instance: Option<&str>) -> Resource {
    let named = Resource::builder().build();
    let unnamed = "unknown_service";
    let name = named.get(&"service.name".into()).map(|name| name.to_string());
    let builder = match name {
        Some(name) if !name.starts_with(unnamed) => Resource::builder().with_service_name(name),
        _ => Resource::builder().with_service_name(service),
    };
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let instance = instance.map(|name| KeyValue::new("service.instance.id", name.to_owned()));
    builder.with_attribute(version).with_attributes(instance).build()
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
