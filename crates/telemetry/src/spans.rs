//! Spans: what a process did for a request and when, recorded once it is over.
//!
//! A span is built with the times it had, not opened and closed: whoever knows what happened knows when, and where
//! nothing is traced it costs one look at a static.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};

use crate::{Metric, TraceContext, TracesSampler};

/// What a process got rid of.
pub const SPANS_EXPORTED: Metric =
    Metric::counter("guildhall_spans_exported_total", &[], "Spans that a collector has taken.");
/// What it did not.
pub const SPANS_DROPPED: Metric = Metric::counter(
    "guildhall_spans_dropped_total",
    &["reason"],
    "Spans that were lost: too many waited (queue), or the collector did not take them (export).",
);

/// A kind of span, known to everybody by its name.
#[derive(Debug)]
pub struct SpanType {
    /// What is done, in a word.
    pub name: &'static str,
    /// On which side of a call.
    pub side: Side,
    /// Names of the attributes.
    pub attributes: &'static [&'static str],
    /// One sentence.
    pub description: &'static str,
}

/// On which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It answers one.
    Server,
    /// It waits for one.
    Client,
    /// Neither.
    Inside,
}

impl SpanType {
    /// A table of some of them.
    #[must_use]
    pub fn table(types: &[&Self]) -> String {
        let line = |of: &&Self| {
            let attributes: Vec<String> = of.attributes.iter().map(|a| format!("`{a}`")).collect();
            format!("| {} | {} | {} |\n", of.name, attributes.join(", "), of.description)
        };
        let lines: String = types.iter().map(line).collect();
        format!("| span | attributes | |\n|---|---|---|\n{lines}")
    }
}

/// Something that was done.
#[derive(Debug)]
pub struct Span {
    of: &'static SpanType,
    name: Cow<'static, str>,
    context: TraceContext,
    /// The caller and whether it is another process.
    parent: Option<(TraceContext, bool)>,
    when: Range<Instant>,
    attributes: Vec<KeyValue>,
    links: Vec<TraceContext>,
    status: Status,
}

impl Span {
    /// A span with an identity of its own, which others may have named as their parent already.
    #[must_use]
    pub fn new(of: &'static SpanType, context: TraceContext, when: Range<Instant>) -> Self {
        Self {
            of,
            name: of.name.into(),
            context,
            parent: None,
            when,
            attributes: Vec::new(),
            links: Vec::new(),
            status: Status::Unset,
        }
    }

    /// A part of another span that nothing else is a part of.
    #[must_use]
    pub fn part(of: &'static SpanType, parent: TraceContext, when: Range<Instant>) -> Self {
        Self::new(of, parent.child(), when).under(parent)
    }

    /// It is a part of a span of this process.
    #[must_use]
    pub fn under(self, parent: TraceContext) -> Self {
        Self { parent: Some((parent, false)), ..self }
    }

    /// It is a part of a span of another process.
    #[must_use]
    pub fn called_by(self, parent: TraceContext) -> Self {
        Self { parent: Some((parent, true)), ..self }
    }

    /// Calls it by more than the name of its type.
    #[must_use]
    pub fn named(self, name: String) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Says something about it.
    #[must_use]
    pub fn with(mut self, attribute: &'static str, value: impl Into<Value>) -> Self {
        debug_assert!(self.of.attributes.contains(&attribute), "{}: {attribute}", self.of.name);
        self.attributes.push(KeyValue::new(attribute, value));
        self
    }

    /// Says something about it that has several parts.
    #[must_use]
    pub fn with_list(self, attribute: &'static str, values: Vec<StringValue>) -> Self {
        self.with(attribute, Value::Array(Array::String(values)))
    }

    /// It ended then.
    #[must_use]
    pub fn until(mut self, end: Instant) -> Self {
        self.when.end = end;
        self
    }

    /// It has to do with other spans too.
    #[must_use]
    pub fn linked(self, links: Vec<TraceContext>) -> Self {
        Self { links, ..self }
    }

    /// It did not go well.
    #[must_use]
    pub fn failed(self, why: String) -> Self {
        Self { status: Status::error(why), ..self }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it did not go well.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.status != Status::Unset
    }

    /// Hands it to the exporter; if too many wait, it is dropped and counted.
    pub fn record(self) {
        if let Some(recorder) = RECORDER.get() {
            recorder.record(self);
        }
    }

    fn data(self, scope: InstrumentationScope) -> SpanData {
        let parent = self.parent.map(|(parent, _)| SpanId::from_bytes(parent.span_id));
        let mut links = SpanLinks::default();
        links.links = self.links.into_iter().map(|to| Link::with_context(to.into())).collect();
        // By the clock of now: the clock of the machine may have been set since the process began.
        let (now, clock) = (Instant::now(), SystemTime::now());
        let at = |moment| clock - now.saturating_duration_since(moment);
        SpanData {
            span_context: self.context.with_sampled(true).into(),
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.parent.is_some_and(|(_, remote)| remote),
            span_kind: match self.of.side {
                Side::Server => SpanKind::Server,
                Side::Client => SpanKind::Client,
                Side::Inside => SpanKind::Internal,
            },
            name: self.name,
            start_time: at(self.when.start),
            end_time: at(self.when.end),
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: self.status,
            instrumentation_scope: scope,
        }
    }
}

impl From<TraceContext> for SpanContext {
    fn from(context: TraceContext) -> Self {
        Self::new(
            TraceId::from_bytes(context.trace_id),
            SpanId::from_bytes(context.span_id),
            TraceFlags::new(context.flags),
            false,
            TraceState::NONE,
        )
    }
}

/// Whether spans go anywhere.
#[must_use]
pub fn is_tracing() -> bool {
    RECORDER.get().is_some()
}

/// The identity of a request's own span, in its caller's trace if there is one; nothing where nothing is traced. Its
/// flag says whether its spans shall be recorded.
#[must_use]
pub fn request_context(caller: Option<TraceContext>) -> Option<TraceContext> {
    let recorder = RECORDER.get()?;
    let own = caller.map_or_else(TraceContext::root, TraceContext::child);
    let (sampler, ratio) = recorder.sampler;
    Some(own.with_sampled(sampler.decide(caller.map(TraceContext::is_sampled), own.lot(), ratio)))
}

/// Takes the spans of this process.
static RECORDER: OnceLock<Recorder> = OnceLock::new();

pub(crate) struct Recorder {
    pub(crate) processor: BatchSpanProcessor,
    /// Spans that the exporter has not taken yet.
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) most_waiting: usize,
    /// Which requests are traced, and what share where that is the question.
    pub(crate) sampler: (TracesSampler, f64),
    pub(crate) scope: InstrumentationScope,
}

impl Recorder {
    /// Makes it the one of this process, which has only one.
    pub(crate) fn install(self) -> Result<&'static Self, String> {
        RECORDER.set(self).map_err(|_| "spans go somewhere else already".to_owned())?;
        RECORDER.get().ok_or_else(|| "spans go nowhere".to_owned())
    }

    fn record(&self, span: Span) {
        // The processor would drop it too, but in silence.
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.most_waiting {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            SPANS_DROPPED.add(&["queue"], 1);
            return;
        }
        self.processor.on_end(span.data(self.scope.clone()));
    }
}
