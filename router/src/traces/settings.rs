//! Which requests are traced, and how deeply.

use std::time::Duration;

use guildhall_telemetry::{TraceContext, is_tracing, request_context};

/// How deeply is traced, where anything is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TraceSettings {
    /// The share of traced requests whose steps are recorded.
    pub(crate) deep_ratio: f64,
    /// A step that takes longer is recorded, whosever it is.
    pub(crate) slow_step: Option<Duration>,
}

/// The trace of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestTrace {
    /// Its own span if that is recorded, which the flag says; else what the caller named, for logs.
    pub(crate) context: Option<TraceContext>,
    /// Whether its steps are recorded.
    pub(crate) deep: bool,
}

impl TraceSettings {
    /// Decides about a request whose caller named a trace, or asked for a deep one.
    pub(crate) fn request(&self, caller: Option<TraceContext>, asks_deep: bool) -> RequestTrace {
        let context = request_context(caller);
        let named = || caller.map(|caller| caller.with_sampled(false));
        let deep = context.is_some_and(|own| self.is_deep(own, asks_deep));
        RequestTrace { context: context.or_else(named), deep }
    }

    fn is_deep(&self, own: TraceContext, asks_deep: bool) -> bool {
        own.is_sampled() && (asks_deep || own.lot() < self.deep_ratio)
    }

    /// How long a step of this process must take to be recorded for that alone.
    pub(crate) fn slow_step_if_tracing(&self) -> Option<Duration> {
        self.slow_step.filter(|_| is_tracing())
    }
}

impl RequestTrace {
    /// The request's span, if it is recorded.
    pub(crate) fn recorded(&self) -> Option<TraceContext> {
        self.context.filter(|context| context.is_sampled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_needs_a_recorded_request_and_then_a_wish_or_luck() {
        let check = |deep_ratio, sampled, asks_deep, expected| {
            let settings = TraceSettings { deep_ratio, slow_step: None };
            let own = TraceContext { trace_id: [0x40; 16], span_id: [1; 8], flags: 0 };
            assert_eq!(settings.is_deep(own.with_sampled(sampled), asks_deep), expected);
        };
        check(0.0, true, false, false);
        check(0.0, true, true, true);
        check(0.2, true, false, false);
        check(0.3, true, false, true);
        check(1.0, false, true, false);
    }

    #[test]
    fn without_an_exporter_a_caller_is_only_remembered() {
        let caller = TraceContext::root().with_sampled(true);
        let settings = TraceSettings { deep_ratio: 1.0, slow_step: None };
        let trace = settings.request(Some(caller), true);
        let remembered = Some(caller.with_sampled(false));
        assert_eq!(trace, RequestTrace { context: remembered, deep: false });
        assert_eq!(trace.recorded(), None);
    }
}
