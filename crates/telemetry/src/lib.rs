//! Logs of a process, and the trace context that travels with each call.

pub use errors::error_chain;
pub use logs::{LogFormat, init_logs};
pub use trace_context::{InvalidTraceContext, TraceContext};

mod errors;
mod logs;
mod trace_context;
