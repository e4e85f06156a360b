//! Exports spans and metrics over OTLP, on a thread and connections of its own, so that nothing that serves waits for a
//! collector.

use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanProcessor as _;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::OtlpConfig;
use crate::metrics::MetricsPage;
use crate::spans::Recorder;

mod headers;
mod metrics;
mod metrics_data;
mod tls;
mod traces;

/// What waits at the end of a process gets this long to be sent.
const LAST_EXPORT: Duration = Duration::from_secs(3);

/// The export of a process, until it is dropped; then what waits is sent.
pub struct Otlp {
    recorder: Option<&'static Recorder>,
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
        let (traces, metrics) = (config.traces_endpoint(), config.metrics_endpoint());
        if traces.is_none() && metrics.is_none() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("starting the export over OTLP: {e}"))?;
        let resource = resource(service, instance);
        let recorder = traces.map(|endpoint| {
            let recorder = traces::recorder(config, &endpoint, &runtime, &resource);
            recorder.and_then(Recorder::install)
        });
        let recorder = recorder.transpose()?;
        let sender = metrics.map(|endpoint| {
            MetricsPage::will_be_exported();
            metrics::Sender::new(config, &endpoint, &runtime, &resource)
        });
        let (stop, thread) = serve(runtime, sender.transpose()?)?;
        Ok(Some(Self { recorder, stop: Some(stop), thread: Some(thread) }))
    }
}

/// Serves connections on a thread of their own, and sends metrics from time to time and at the end.
fn serve(
    runtime: Runtime,
    sender: Option<metrics::Sender>,
) -> Result<(oneshot::Sender<()>, JoinHandle<()>), String> {
    let (stop, stopped) = oneshot::channel::<()>();
    let run = async move {
        let Some(mut sender) = sender else {
            // It is told to end by a message or by the end of whoever could send one.
            let _ = stopped.await;
            return;
        };
        tokio::select! {
            _ = stopped => {}
            // It does not end.
            () = sender.run() => {}
        }
        let _ = tokio::time::timeout(LAST_EXPORT, sender.send()).await;
    };
    let thread = std::thread::Builder::new()
        .name("otlp".into())
        .spawn(move || runtime.block_on(run))
        .map_err(|e| format!("starting the thread that exports over OTLP: {e}"))?;
    Ok((stop, thread))
}

/// Sends what waits.
impl Drop for Otlp {
    fn drop(&mut self) {
        let last = self.recorder.map(|of| of.processor.shutdown_with_timeout(LAST_EXPORT));
        if let Some(Err(error)) = last {
            tracing::warn!(%error, "not all traces were exported before the end");
        }
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that exports over OTLP panicked");
        }
    }
}

/// What the standard variables say of this process; the name of the service is theirs if they have one.
fn resource(service: &'static str, instance: Option<&str>) -> Resource {
    let named = Resource::builder().build();
    let name = named.get(&"service.name".into()).map(|name| name.to_string());
    let builder = match name {
        Some(name) if !name.starts_with("unknown_service") => {
            Resource::builder().with_service_name(name)
        }
        _ => Resource::builder().with_service_name(service),
    };
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let instance = instance.map(|name| KeyValue::new("service.instance.id", name.to_owned()));
    builder.with_attribute(version).with_attributes(instance).build()
}
