//! The span of a request, recorded when nobody holds it any more.

use std::time::Instant;

use guildhall_telemetry::{Span, TraceContext};

use super::RequestTrace;
use super::spans::REQUEST;
use crate::request::{End, EndReason};

/// What is known of a request; dropping it records it.
pub(crate) struct RequestSpan {
    span: Option<Span>,
    context: TraceContext,
    caller: Option<TraceContext>,
    began: Instant,
    tokens: [usize; 3],
    finish_reasons: Vec<&'static str>,
    failure: Option<(&'static str, String)>,
}

impl RequestSpan {
    /// Begins now, if the request is recorded.
    pub(crate) fn begin(
        trace: RequestTrace,
        caller: Option<TraceContext>,
        (operation, model): (&'static str, &str),
    ) -> Option<Self> {
        let context = trace.recorded()?;
        let began = Instant::now();
        let span = Span::new(&REQUEST, context, began..began)
            .named(format!("{operation} {model}"))
            .with("gen_ai.operation.name", operation)
            .with("gen_ai.request.model", model.to_owned())
            .with("guildhall.deep", trace.deep);
        Some(Self {
            span: Some(span),
            context,
            caller,
            began,
            tokens: [0; 3],
            finish_reasons: Vec::new(),
            failure: None,
        })
    }

    /// What was asked for, once it is checked.
    pub(crate) fn asked(&mut self, request: &crate::request::Request) {
        let (sampling, stopping) = (&request.sampling, &request.stopping);
        self.span = self.span.take().map(|span| {
            span.with("gen_ai.response.id", request.id.clone())
                .with("gen_ai.request.max_tokens", stopping.max_tokens as i64)
                .with("gen_ai.request.temperature", f64::from(sampling.temperature))
                .with("gen_ai.request.top_p", f64::from(sampling.top_p))
        });
    }

    /// One of its sequences has ended.
    pub(crate) fn ended(&mut self, end: &End) {
        let [prompt, completion, cached] = &mut self.tokens;
        *prompt = end.prompt_tokens;
        *completion += end.completion_tokens;
        *cached = (*cached).max(end.cached_tokens);
        self.finish_reasons.push(match end.reason {
            EndReason::Length => "length",
            EndReason::Abort => "abort",
            EndReason::EndOfSequence | EndReason::StopToken(_) | EndReason::StopText(_) => "stop",
        });
    }

    /// It was refused, or has no end.
    pub(crate) fn failed(&mut self, kind: &'static str, why: String) {
        self.failure = Some((kind, why));
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        let Some(span) = self.span.take() else { return };
        let [prompt, completion, cached] = self.tokens.map(|tokens| tokens as i64);
        let reasons = self.finish_reasons.iter().map(|&reason| reason.into()).collect();
        let span = span
            .until(Instant::now().max(self.began))
            .with("gen_ai.usage.input_tokens", prompt)
            .with("gen_ai.usage.output_tokens", completion)
            .with("guildhall.cached_tokens", cached)
            .with_list("gen_ai.response.finish_reasons", reasons);
        let span = match self.caller {
            Some(caller) => span.called_by(caller),
            None => span,
        };
        match self.failure.take() {
            Some((kind, why)) => span.with("error.type", kind).failed(why).record(),
            None => span.record(),
        }
    }
}

impl std::fmt::Debug for RequestSpan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "request in trace {}", self.context)
    }
}
