//! One sequence in the engine: its tokens, its text, and when it ends.

use guildhall_telemetry::TraceContext;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::stop_matcher::StopMatcher;
use crate::request::{Chunk, End, EndReason, Failure, Request, RoutedRows};
use crate::sampler::{BrokenLogits, Sampler};
use crate::tokenizer::{Detokenizer, Tokenizer};

pub(super) struct Sequence {
    request: Request,
    events: mpsc::Sender<Result<Chunk, Failure>>,
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    /// Routes of positions that no chunk has carried yet.
    routes: RoutedRows,
}

/// Whether a sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Ended,
}

impl Sequence {
    pub(super) fn new(
        request: Request,
        events: mpsc::Sender<Result<Chunk, Failure>>,
        tokenizer: Option<Tokenizer>,
    ) -> Self {
        Self {
            tokens: request.prompt.clone(),
            sampler: Sampler::new(request.sampling, request.outputs.top_logprobs),
            detokenizer: Detokenizer::new(tokenizer, &request.prompt),
            stops: StopMatcher::new(request.stopping.stop.clone()),
            routes: RoutedRows::default(),
            request,
            events,
        }
    }

    /// Whether the client has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn wants_routes(&self) -> bool {
        self.request.outputs.routed_experts
    }

    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.request.trace
    }

    pub(super) fn token(&self, position: usize) -> u32 {
        self.tokens[position]
    }

    /// Keeps the experts of a position that went through the model: [layers, top_k].
    pub(super) fn keep_routes(&mut self, experts: impl Iterator<Item = u32>) {
        self.routes.positions += 1;
        self.routes.experts.extend(experts);
    }

    /// Samples the next token and sends what it completes.
    pub(super) fn advance(&mut self, logits: &[f32]) -> Next {
        let token = match self.sampler.sample(logits) {
            Ok(token) => token,
            Err(BrokenLogits) => {
                let position = self.tokens.len();
                self.fail(Failure::Internal(format!(
                    "the model gave logits that are not finite at position {position}"
                )));
                return Next::Ended;
            }
        };
        self.tokens.push(token.id);
        let (text, reason) = self.text_after(token.id);
        let end = reason.map(|reason| self.end(reason));
        let chunk = Chunk { text, tokens: vec![token], routes: self.take_routes(), end };
        let ended = chunk.end.is_some();
        if self.send(chunk) && !ended { Next::Continue } else { Next::Ended }
    }

    /// The text that can be shown after a token, and whether it was the last.
    fn text_after(&mut self, token: u32) -> (String, Option<EndReason>) {
        let stopping = &self.request.stopping;
        if stopping.stop_token_ids.contains(&token) {
            let rest = self.detokenizer.finish();
            let matched = self.stops.push(&rest);
            let held = if matched.stopped { String::new() } else { self.stops.finish() };
            return (matched.text + &held, Some(EndReason::Stop));
        }
        let matched = self.stops.push(&self.detokenizer.push(token));
        if matched.stopped {
            return (matched.text, Some(EndReason::Stop));
        }
        let generated = self.tokens.len() - self.request.prompt.len();
        if generated < stopping.max_tokens.get() as usize {
            return (matched.text, None);
        }
        let last = self.stops.push(&self.detokenizer.finish());
        let reason = if last.stopped { EndReason::Stop } else { EndReason::Length };
        let held = if last.stopped { String::new() } else { self.stops.finish() };
        (matched.text + &last.text + &held, Some(reason))
    }

    fn end(&self, reason: EndReason) -> End {
        let prompt_tokens = self.request.prompt.len();
        End { reason, prompt_tokens, completion_tokens: self.tokens.len() - prompt_tokens }
    }

    fn take_routes(&mut self) -> Option<RoutedRows> {
        if !self.wants_routes() {
            return None;
        }
        let next_position = self.routes.first_position + self.routes.positions;
        let rest = RoutedRows { first_position: next_position, ..RoutedRows::default() };
        Some(std::mem::replace(&mut self.routes, rest))
    }

    /// Whether the client still listens.
    fn send(&mut self, chunk: Chunk) -> bool {
        match self.events.try_send(Ok(chunk)) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                tracing::warn!(request = %self.request.id, "the client reads too slowly; given up");
                self.give_up_slow_reader();
                false
            }
        }
    }

    /// There is no room for the failure itself: the channel closes, and a reader who catches up sees that.
    fn give_up_slow_reader(&mut self) {
        let (events, _) = mpsc::channel(1);
        self.events = events;
    }

    /// Tells the client that the sequence has no end.
    pub(super) fn fail(&mut self, failure: Failure) {
        // A client that has gone or does not read needs no reason.
        let _ = self.events.try_send(Err(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Outputs, Sampling, Stopping};

    fn sequence(max_tokens: u32, stop_token_ids: Vec<u32>) -> (Sequence, super::super::Events) {
        let request = Request {
            id: "r".into(),
            prompt: vec![1, 2],
            sampling: Sampling { temperature: 0.0, top_k: None, top_p: 1.0, min_p: 0.0, seed: 0 },
            stopping: Stopping {
                max_tokens: max_tokens.try_into().unwrap(),
                stop: Vec::new(),
                stop_token_ids,
            },
            outputs: Outputs { top_logprobs: 0, routed_experts: true },
            trace: None,
        };
        let (sender, events) = mpsc::channel(8);
        (Sequence::new(request, sender, None), events)
    }

    fn logits(best: usize) -> Vec<f32> {
        (0..5).map(|id| if id == best { 1.0 } else { 0.0 }).collect()
    }

    #[test]
    fn a_sequence_ends_at_its_length_or_at_a_stop_token() {
        let (mut long, mut events) = sequence(2, vec![4]);
        assert_eq!(long.advance(&logits(3)), Next::Continue);
        assert_eq!(long.advance(&logits(0)), Next::Ended);
        assert!(events.try_recv().unwrap().unwrap().end.is_none());
        let end = events.try_recv().unwrap().unwrap().end.unwrap();
        assert_eq!((end.reason, end.completion_tokens), (EndReason::Length, 2));

        let (mut stopped, mut events) = sequence(9, vec![4]);
        assert_eq!(stopped.advance(&logits(4)), Next::Ended);
        let end = events.try_recv().unwrap().unwrap().end.unwrap();
        assert_eq!((end.reason, end.completion_tokens), (EndReason::Stop, 1));
    }

    #[test]
    fn each_chunk_carries_the_routes_since_the_last() {
        let (mut sequence, mut events) = sequence(5, Vec::new());
        sequence.keep_routes([7, 8].into_iter());
        sequence.keep_routes([9, 10].into_iter());
        sequence.advance(&logits(0));
        sequence.keep_routes([11, 12].into_iter());
        sequence.advance(&logits(0));
        let mut routes = || events.try_recv().unwrap().unwrap().routes.unwrap();
        let first = routes();
        assert_eq!((first.first_position, first.positions), (0, 2));
        assert_eq!(first.experts, [7, 8, 9, 10]);
        let second = routes();
        assert_eq!((second.first_position, second.positions), (2, 1));
    }

    #[test]
    fn a_reader_that_falls_behind_is_given_up() {
        let (mut sequence, mut events) = sequence(100, Vec::new());
        let steps = (0..100).take_while(|_| sequence.advance(&logits(0)) == Next::Continue);
        assert_eq!(steps.count(), 8);
        let mut read = 0;
        while events.try_recv().is_ok() {
            read += 1;
        }
        assert_eq!(read, 8);
        assert!(events.is_closed());
    }

    #[test]
    fn broken_logits_fail_the_sequence() {
        let (mut sequence, mut events) = sequence(5, Vec::new());
        assert_eq!(sequence.advance(&[f32::NAN; 5]), Next::Ended);
        assert!(matches!(events.try_recv(), Ok(Err(Failure::Internal(_)))));
    }
}
