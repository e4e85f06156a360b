//! When what happened to a sequence, as metrics and as spans.

use std::time::Instant;

use guildhall_telemetry::{Span, SpanType, TraceContext};

use crate::metrics;
use crate::request::{EndReason, Failure};
use crate::traces::spans::{DECODE, PREFILL, QUEUE};

/// The moments of a sequence so far.
#[derive(Debug)]
pub(super) struct Timing {
    trace: Option<Phases>,
    arrived: Instant,
    begun: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    tokens: usize,
}

/// The spans of a sequence whose request is recorded.
#[derive(Clone, Copy, Debug)]
struct Phases {
    request: TraceContext,
    index: usize,
    /// Known before they end, because steps are parts of them.
    prefill: TraceContext,
    decode: TraceContext,
}

impl Phases {
    fn span(&self, of: &'static SpanType, own: TraceContext, [from, to]: [Instant; 2]) -> Span {
        let span = Span::new(of, own, from..to).under(self.request);
        span.with("guildhall.sequence", self.index as i64)
    }
}

impl Timing {
    /// `recorded`: the span of its request, and which of the request's sequences it is.
    pub(super) fn new(arrived: Instant, (recorded, index): (Option<TraceContext>, usize)) -> Self {
        let phases = |request: TraceContext| Phases {
            request,
            index,
            prefill: request.child(),
            decode: request.child(),
        };
        Self {
            trace: recorded.map(phases),
            arrived,
            begun: None,
            first_token: None,
            last_token: None,
            tokens: 0,
        }
    }

    /// The span of what it is in the middle of, if that is recorded.
    pub(super) fn phase(&self) -> Option<TraceContext> {
        let phases = self.trace.as_ref()?;
        Some(if self.first_token.is_none() { phases.prefill } else { phases.decode })
    }

    /// The sequence is part of a step; only the first one counts.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.begun.is_none() {
            self.begun = Some(now);
            metrics::QUEUE_TIME.record(now.duration_since(self.arrived));
            if let Some(phases) = &self.trace {
                phases.span(&QUEUE, phases.request.child(), [self.arrived, now]).record();
            }
        }
    }

    /// It has given a token.
    pub(super) fn token(&mut self, now: Instant, prompt_tokens: usize) {
        match self.last_token {
            Some(last) => metrics::INTER_TOKEN_LATENCY.record(now.duration_since(last)),
            None => {
                self.first_token = Some(now);
                metrics::TIME_TO_FIRST_TOKEN.record(now.duration_since(self.arrived));
                let begun = self.begun.unwrap_or(self.arrived);
                metrics::PREFILL_TIME.record(now.duration_since(begun));
                metrics::PROMPT_TOKENS.add(&[], prompt_tokens as u64);
                if let Some(phases) = &self.trace {
                    let span = phases.span(&PREFILL, phases.prefill, [begun, now]);
                    span.with("guildhall.prompt_tokens", prompt_tokens as i64).record();
                }
            }
        }
        self.last_token = Some(now);
        self.tokens += 1;
        metrics::GENERATION_TOKENS.add(&[], 1);
    }

    /// It has ended well.
    pub(super) fn end(&self, now: Instant, reason: &EndReason) {
        let reason = match reason {
            EndReason::Length => "length",
            EndReason::Abort => "abort",
            EndReason::EndOfSequence | EndReason::StopToken(_) | EndReason::StopText(_) => "stop",
        };
        self.ended(now, reason);
        if let Some(first) = self.first_token {
            metrics::DECODE_TIME.record(now.duration_since(first));
        }
    }

    /// It has not.
    pub(super) fn fail(&self, now: Instant, is_abandoned: bool, failure: &Failure) {
        let reason = match failure {
            _ if is_abandoned => "abort",
            Failure::DeadlineExceeded => "deadline",
            _ => "error",
        };
        self.ended(now, reason);
    }

    fn ended(&self, now: Instant, reason: &str) {
        metrics::REQUEST_SUCCESS.add(&[reason], 1);
        metrics::E2E_LATENCY.record(now.duration_since(self.arrived));
        let Some(phases) = &self.trace else { return };
        // What it was in the middle of.
        let span = match (self.begun, self.first_token) {
            (_, Some(first)) => phases
                .span(&DECODE, phases.decode, [first, now])
                .with("guildhall.tokens", self.tokens as i64),
            (Some(begun), None) => phases.span(&PREFILL, phases.prefill, [begun, now]),
            (None, None) => phases.span(&QUEUE, phases.request.child(), [self.arrived, now]),
        };
        let span = span.with("guildhall.finish_reason", reason.to_owned());
        let went_well = matches!(reason, "stop" | "length");
        if went_well { span.record() } else { span.failed(reason.to_owned()).record() }
    }
}
