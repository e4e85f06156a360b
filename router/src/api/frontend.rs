//! What every API goes through: admission, checks, the engine.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use guildhall_telemetry::trace_ids;
use tokio::time::Instant;

use super::admission::Admission;
use super::ask::Ask;
use super::health::Health;
use super::refusal::{Refusal, RefusalKind};
use super::responses::Responses;
use super::running::{Aborts, Running};
use super::served_model::ServedModel;
use super::validate;
use crate::balancer::{Balancer, LoadCounter};
use crate::engine::{EngineHandle, Refused};
use crate::traces::{RequestSpan, TraceSettings};

/// The router as its clients see it, from the moment it listens.
#[derive(Clone)]
pub(crate) struct Frontend {
    health: Health,
    traces: TraceSettings,
    aborts: Aborts,
    started: Instant,
    /// Milliseconds after 1970 of the last request.
    last_request: Arc<std::sync::atomic::AtomicU64>,
    serving: Arc<OnceLock<Serving>>,
    /// Where experts are on other processes.
    cluster: Arc<OnceLock<Balancer>>,
    load: Arc<OnceLock<Arc<LoadCounter>>>,
}

/// What there is once the model is loaded.
pub(crate) struct Serving {
    pub(crate) model: ServedModel,
    pub(crate) admission: Admission,
    pub(crate) engine: EngineHandle,
}

/// An answer leaves so long before the client would give up, so that it gets there.
const ANSWER_BEFORE: Duration = Duration::from_millis(10);

impl Frontend {
    pub(crate) fn new(health: Health, traces: TraceSettings) -> Self {
        Self {
            health,
            traces,
            aborts: Aborts::default(),
            started: Instant::now(),
            last_request: Arc::default(),
            serving: Arc::default(),
            cluster: Arc::default(),
            load: Arc::default(),
        }
    }

    /// Shows the cluster to admins from now on.
    pub(crate) fn set_cluster(&self, cluster: Balancer) {
        // It is joined once.
        let _ = self.cluster.set(cluster);
    }

    /// The cluster, if this router is in one.
    pub(crate) fn cluster(&self) -> Option<&Balancer> {
        self.cluster.get()
    }

    /// Shows the load of the experts to admins from now on.
    pub(crate) fn set_load(&self, load: Arc<LoadCounter>) {
        // There is one.
        let _ = self.load.set(load);
    }

    /// How often each expert was used; nothing before the model's configuration is read.
    pub(crate) fn load(&self) -> Option<&LoadCounter> {
        self.load.get().map(Arc::as_ref)
    }

    /// Takes requests from now on.
    pub(crate) fn serve(&self, serving: Serving) {
        // It is loaded once.
        let _ = self.serving.set(serving);
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    pub(crate) fn aborts(&self) -> &Aborts {
        &self.aborts
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the last request came, after 1970; zero: none yet.
    pub(crate) fn last_request(&self) -> Duration {
        Duration::from_millis(self.last_request.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// What is served, once it is loaded.
    pub(crate) fn serving(&self) -> Result<&Serving, Refusal> {
        let loading = || {
            Refusal::new(RefusalKind::Unavailable, "the model is being loaded")
                .retry_after(Duration::from_secs(1))
        };
        self.serving.get().ok_or_else(loading)
    }

    /// Checks a request and hands it to the engine.
    pub(crate) async fn begin(&self, mut ask: Ask) -> Result<Running, Refusal> {
        ask.trace = self.traces.request(ask.caller, ask.asks_deep);
        let model = self.serving.get().map_or("", |serving| &serving.model.name);
        let mut span = RequestSpan::begin(ask.trace, ask.caller, (ask.operation(), model));
        let begun = self.admit(ask, &mut span).await;
        if let (Err(refusal), Some(span)) = (&begun, &mut span) {
            span.failed(refusal.kind.name(), refusal.sentence());
        }
        begun.map(|running| running.traced(span))
    }

    async fn admit(&self, ask: Ask, span: &mut Option<RequestSpan>) -> Result<Running, Refusal> {
        let received = Instant::now();
        self.note_request();
        let Serving { model, admission, engine } = self.serving()?;
        let permit = admission.enter(validate::n(&ask.wire)?)?;
        // Tokenising a long text takes milliseconds, which other requests should not wait for.
        let (checked_against, trace) = (model.clone(), ask.trace.context);
        let checked = tokio::task::spawn_blocking(move || validate::request(&checked_against, ask));
        let panicked = |error| {
            tracing::error!(%error, trace_id = trace_ids(trace), "reading a request panicked");
            Refusal::new(RefusalKind::Internal, format!("reading the request: {error}"))
        };
        let mut checked = checked.await.map_err(panicked)??;
        let deadline = checked
            .timeout
            .map(|time| received + time.saturating_sub(ANSWER_BEFORE.min(time / 10)));
        if let Some(span) = span {
            span.asked(&checked.request);
        }
        let entry = self.aborts.enter(&checked.request.id);
        // The engine ends the work even if the client does not read, and nobody polls what follows.
        checked.request.deadline = deadline.map(Instant::into_std);
        checked.request.cancel = entry.cancel().clone();
        let responses = Responses::new(model, &checked);
        let waiting = admission.queue(checked.request.prompt.len() * checked.request.n)?;
        let events = engine.submit(checked.request, waiting).map_err(|refused| match refused {
            Refused::Full => Refusal::new(RefusalKind::Full, "too many requests at once")
                .retry_after(Duration::from_secs(1)),
            Refused::Stopped => Refusal::new(RefusalKind::Unavailable, "the engine has stopped"),
        })?;
        Ok(Running::new(events, responses, deadline, entry, permit))
    }

    fn note_request(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.last_request.store(millis, std::sync::atomic::Ordering::Relaxed);
    }
}
