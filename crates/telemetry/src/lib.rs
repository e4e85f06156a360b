//! Logs, metrics and traces of a process, and the trace context that travels with each call.

pub use ::metrics::{Counter, Histogram};
pub use config::{OtlpConfig, OtlpProtocol, TracesSampler};
pub use errors::error_chain;
pub use logs::{LogFormat, init_logs};
pub use metrics::{Metric, MetricKind, MetricsPage, Seconds};
pub use otlp::Otlp;
pub use sample::Sample;
pub use spans::{SPANS_DROPPED, SPANS_EXPORTED, Side, Span, SpanType, is_tracing, request_context};
pub use trace_context::{InvalidTraceContext, TraceContext, trace_ids};

mod config;
mod errors;
mod logs;
mod metrics;
mod otlp;
mod sample;
mod spans;
mod trace_context;
