//! What is recorded of requests and steps when a process traces.
//!
//! Every traced request has a span with its queue, prefill and decode. Steps, layers and calls are too many for that:
//! they are recorded for a few requests that are traced deeply, and for steps that were slow.

pub(crate) use request_span::RequestSpan;
pub(crate) use settings::{RequestTrace, TraceSettings};
pub(crate) use step_trace::{StepContext, StepTrace, Traced};

pub(crate) mod spans;
mod settings;
mod request_span;
mod step_trace;
