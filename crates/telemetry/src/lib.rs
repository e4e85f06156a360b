//! Logs and metrics of a process, and the trace context that travels with each call.

pub use ::metrics::{Counter, Histogram};
pub use errors::error_chain;
pub use logs::{LogFormat, init_logs};
pub use metrics::{Metric, MetricKind, MetricsPage};
pub use trace_context::{InvalidTraceContext, TraceContext};

mod errors;
mod logs;
mod metrics;
mod trace_context;
