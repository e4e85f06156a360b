//! When what happened to a sequence, as metrics.

use std::time::Instant;

use crate::metrics;
use crate::request::{EndReason, Failure};

/// The moments of a sequence so far.
#[derive(Debug)]
pub(super) struct Timing {
    arrived: Instant,
    begun: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Timing {
    pub(super) fn new(arrived: Instant) -> Self {
        Self { arrived, begun: None, first_token: None, last_token: None }
    }

    /// The sequence is part of a step; only the first one counts.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.begun.is_none() {
            self.begun = Some(now);
            metrics::QUEUE_TIME.record(now.duration_since(self.arrived));
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
            }
        }
        self.last_token = Some(now);
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
    }
}
