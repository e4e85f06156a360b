//! One sequence in the engine: its tokens, its text, and when it ends.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use guildhall_telemetry::{TraceContext, trace_ids};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::stop_matcher::{Matched, StopMatcher};
use super::timing::Timing;
use crate::constraint::Constraint;
use crate::request::{
    Chunk, End, EndReason, Failure, GeneratedToken, Logprobs, Request, RoutedRows, Sampling,
};
use crate::sampler::{Forbidden, Logits, NoToken, Sampler, logprobs};
use crate::scheduler::{Arrival, PrefixHashes};
use crate::tokenizer::{Detokenizer, Tokenizer};
use crate::traces::Traced;

pub(super) struct Sequence {
    request: Arc<Request>,
    /// Which of the request's sequences.
    index: usize,
    events: mpsc::Sender<Result<Chunk, Failure>>,
    /// Kept until the sequence runs.
    waiting: Option<Arc<dyn Any + Send + Sync>>,
    timing: Timing,
    cached_tokens: usize,
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    constraint: Option<Constraint>,
    /// Routes of positions that no chunk has carried yet.
    routes: RoutedRows,
    /// Log-probabilities of the prompt, until a chunk carries them.
    prompt_logprobs: Option<Vec<Logprobs>>,
}

/// Whether a sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// By this token.
    Token(u32),
    Ended,
}

impl Sequence {
    pub(super) fn new(
        (request, index): (Arc<Request>, usize),
        events: mpsc::Sender<Result<Chunk, Failure>>,
        (waiting, arrived): (Arc<dyn Any + Send + Sync>, Instant),
        tokenizer: Option<Tokenizer>,
    ) -> Self {
        let seed = request.sampling.seed.wrapping_add(index as u64);
        let sampling = Sampling { seed, ..request.sampling.clone() };
        let (outputs, stopping) = (request.outputs, &request.stopping);
        Self {
            index,
            events,
            waiting: Some(waiting),
            timing: Timing::new(arrived, (request.trace.recorded(), index)),
            cached_tokens: 0,
            tokens: request.prompt.to_vec(),
            sampler: Sampler::new(sampling, outputs.top_logprobs, &request.prompt),
            detokenizer: Detokenizer::new(tokenizer, outputs.special_tokens, &request.prompt),
            stops: StopMatcher::new(stopping.stop.clone(), stopping.include_stop),
            constraint: request.constraint.clone(),
            routes: RoutedRows::default(),
            // The same for all of the request's sequences.
            prompt_logprobs: outputs.prompt_logprobs.filter(|_| index == 0).map(|_| Vec::new()),
            request,
        }
    }

    /// What the scheduler has to know.
    pub(super) fn arrival(&self, block_tokens: usize) -> Arrival {
        Arrival {
            hashes: PrefixHashes::new(&self.request.cache_salt, block_tokens, &self.tokens),
            // Positions that are found are not computed, so nothing would be known of them.
            reads_cache: !self.wants_routes() && self.prompt_logprobs.is_none(),
        }
    }

    /// The sequence is part of a step; `cached_tokens` of its prompt did not have to be computed.
    pub(super) fn begin(&mut self, cached_tokens: usize) {
        self.timing.begin(Instant::now());
        if self.waiting.take().is_some() {
            self.cached_tokens = cached_tokens;
        }
    }

    /// Whether nobody wants its answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed() || self.request.cancel.is_cancelled()
    }

    /// Whether its time is over.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.request.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn wants_routes(&self) -> bool {
        self.request.outputs.routed_experts
    }

    /// The trace of its request, for logs.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.request.trace.context
    }

    /// The trace that its steps may be recorded in.
    pub(super) fn traced(&self) -> Option<Traced> {
        let phase = self.timing.phase().or(self.request.trace.context)?;
        Some(Traced { phase, deep: self.request.trace.deep })
    }

    pub(super) fn token(&self, position: usize) -> u32 {
        self.tokens[position]
    }

    /// Keeps the experts of a position that went through the model: [layers, top_k]. A position that is computed
    /// again after the sequence gave its blocks up is known already.
    pub(super) fn keep_routes(&mut self, position: usize, experts: impl Iterator<Item = u32>) {
        if position == self.routes.first_position + self.routes.positions {
            self.routes.positions += 1;
            self.routes.experts.extend(experts);
        }
    }

    /// The positions among these whose logits say how probable the prompt is, and which are not known yet.
    pub(super) fn scored_positions(&self, first: usize, positions: usize) -> Range<usize> {
        let Some(scored) = &self.prompt_logprobs else { return 0..0 };
        first.max(scored.len())..(first + positions).min(self.request.prompt.len() - 1)
    }

    /// Keeps how probable the prompt's token after this position is.
    pub(super) fn score(&mut self, position: usize, logits: &[f32]) {
        let token = self.tokens[position + 1];
        let top = self.request.outputs.prompt_logprobs.unwrap_or(0);
        if let Some(scored) = &mut self.prompt_logprobs {
            scored.push(logprobs(logits, token, top));
        }
    }

    /// Samples the next token and sends what it completes.
    pub(super) fn advance(&mut self, logits: Logits<'_>) -> Next {
        if self.request.stopping.max_tokens == 0 {
            let end = Some(self.end(EndReason::Length));
            self.send(Chunk { end, ..Chunk::default() });
            return Next::Ended;
        }
        let token = match self.sample(logits) {
            Ok(token) => token,
            Err(failure) => {
                self.fail(failure);
                return Next::Ended;
            }
        };
        let id = token.id;
        self.tokens.push(id);
        self.timing.token(Instant::now(), self.request.prompt.len());
        let (text, reason) = self.text_after(id);
        let end = reason.map(|reason| self.end(reason));
        let ended = end.is_some();
        let sent = self.send(Chunk { text, tokens: vec![token], end, ..Chunk::default() });
        if sent && !ended { Next::Token(id) } else { Next::Ended }
    }

    /// Draws a token that the request allows.
    fn sample(&mut self, logits: Logits<'_>) -> Result<GeneratedToken, Failure> {
        let stopping = &self.request.stopping;
        let early = self.tokens.len() - self.request.prompt.len() < stopping.min_tokens;
        let ends = if early {
            [stopping.eos_token_ids.as_slice(), &stopping.stop_token_ids].concat()
        } else {
            Vec::new()
        };
        let allowed = self.constraint.as_mut().map(Constraint::allowed).transpose();
        let allowed = allowed.map_err(Failure::Constraint)?;
        let all_but = allowed.as_ref().map(|allowed| allowed.words());
        let drawn = self.sampler.sample(logits, Forbidden { tokens: &ends, all_but });
        let token = drawn.map_err(|why| match why {
            NoToken::BrokenLogits => {
                let position = self.tokens.len();
                let what = format!("the model gave broken logits at position {position}");
                let trace_id = trace_ids(self.trace());
                tracing::error!(request = %self.request.id, trace_id, "{what}");
                Failure::Internal(what)
            }
            NoToken::AllForbidden => Failure::Constraint("no token can follow".into()),
        })?;
        let is_end = self.request.stopping.eos_token_ids.contains(&token.id);
        if let Some(constraint) = self.constraint.as_mut().filter(|_| !is_end) {
            constraint.accept(token.id).map_err(Failure::Constraint)?;
        }
        Ok(token)
    }

    /// The text that can be shown after a token, and why it was the last if it was.
    fn text_after(&mut self, token: u32) -> (String, Option<EndReason>) {
        let generated = self.tokens.len() - self.request.prompt.len();
        let request = Arc::clone(&self.request);
        let stopping = &request.stopping;
        if stopping.stop_token_ids.contains(&token) {
            return self.last_text(String::new(), EndReason::StopToken(token));
        }
        if stopping.eos_token_ids.contains(&token) {
            return self.last_text(String::new(), EndReason::EndOfSequence);
        }
        let text = self.detokenizer.push(token);
        let matched = if generated < stopping.min_tokens {
            Matched { text, stop: None }
        } else {
            self.stops.push(&text)
        };
        if let Some(stop) = matched.stop {
            return (matched.text, Some(EndReason::StopText(stop)));
        }
        if self.constraint.as_ref().is_some_and(Constraint::is_complete) {
            return self.last_text(matched.text, EndReason::EndOfSequence);
        }
        if generated >= stopping.max_tokens {
            return self.last_text(matched.text, EndReason::Length);
        }
        (matched.text, None)
    }

    /// What was held back follows `text` at the end, unless a stop text shows up in it.
    fn last_text(&mut self, text: String, reason: EndReason) -> (String, Option<EndReason>) {
        let last = self.stops.push(&self.detokenizer.finish());
        match last.stop {
            Some(stop) => (text + &last.text, Some(EndReason::StopText(stop))),
            None => (text + &last.text + &self.stops.finish(), Some(reason)),
        }
    }

    fn end(&self, reason: EndReason) -> End {
        let prompt_tokens = self.request.prompt.len();
        self.timing.end(Instant::now(), &reason);
        End {
            reason,
            prompt_tokens,
            completion_tokens: self.tokens.len() - prompt_tokens,
            cached_tokens: self.cached_tokens,
        }
    }

    fn take_routes(&mut self) -> Option<RoutedRows> {
        if !self.wants_routes() {
            return None;
        }
        let next_position = self.routes.first_position + self.routes.positions;
        let rest = RoutedRows { first_position: next_position, ..RoutedRows::default() };
        Some(std::mem::replace(&mut self.routes, rest))
    }

    /// Sends a chunk with whatever else is ready; says whether the client still listens.
    fn send(&mut self, chunk: Chunk) -> bool {
        let routes = self.take_routes();
        let prompt_logprobs = self.prompt_logprobs.take();
        match self.events.try_send(Ok(Chunk {
            index: self.index,
            routes,
            prompt_logprobs,
            ..chunk
        })) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                let trace_id = trace_ids(self.trace());
                tracing::warn!(request = %self.request.id, trace_id, "the client reads too slowly; given up");
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
        self.timing.fail(Instant::now(), self.is_abandoned(), &failure);
        // A client that has gone or does not read needs no reason.
        let _ = self.events.try_send(Err(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Outputs, Stopping};
    use crate::traces::RequestTrace;
    use tokio_util::sync::CancellationToken;

    fn sequence(stopping: Stopping, outputs: Outputs) -> (Sequence, super::super::Events) {
        let request = Request {
            id: "r".into(),
            prompt: [1, 2].into(),
            n: 1,
            sampling: Sampling::GREEDY,
            stopping,
            outputs,
            constraint: None,
            cache_salt: String::new(),
            deadline: None,
            cancel: CancellationToken::new(),
            trace: RequestTrace::default(),
        };
        let (sender, events) = mpsc::channel(8);
        (
            Sequence::new((Arc::new(request), 0), sender, (Arc::new(()), Instant::now()), None),
            events,
        )
    }

    fn stopping(max_tokens: usize) -> Stopping {
        Stopping { max_tokens, stop_token_ids: vec![4], ..Stopping::default() }
    }

    fn logits(best: usize) -> Vec<f32> {
        (0..5).map(|id| if id == best { 1.0 } else { 0.0 }).collect()
    }

    fn ended(events: &mut super::super::Events) -> (EndReason, usize) {
        while let Ok(event) = events.try_recv() {
            if let Some(end) = event.unwrap().end {
                return (end.reason, end.completion_tokens);
            }
        }
        panic!("no end");
    }

    #[test]
    fn a_sequence_ends_at_its_length_or_at_a_stop_token() {
        let (mut long, mut events) = sequence(stopping(2), Outputs::default());
        assert_eq!(long.advance(logits(3).as_slice().into()), Next::Token(3));
        assert_eq!(long.advance(logits(0).as_slice().into()), Next::Ended);
        assert_eq!(ended(&mut events), (EndReason::Length, 2));

        let (mut stopped, mut events) = sequence(stopping(9), Outputs::default());
        assert_eq!(stopped.advance(logits(4).as_slice().into()), Next::Ended);
        assert_eq!(ended(&mut events), (EndReason::StopToken(4), 1));

        let eos = Stopping { eos_token_ids: vec![3], ..stopping(9) };
        let (mut sequence, mut events) = sequence(eos, Outputs::default());
        assert_eq!(sequence.advance(logits(3).as_slice().into()), Next::Ended);
        assert_eq!(ended(&mut events), (EndReason::EndOfSequence, 1));
    }

    #[test]
    fn nothing_ends_a_sequence_before_min_tokens() {
        let late = Stopping { min_tokens: 2, eos_token_ids: vec![3], ..stopping(9) };
        let (mut sequence, mut events) = sequence(late, Outputs::default());
        assert_eq!(
            sequence.advance(logits(4).as_slice().into()),
            Next::Token(0),
            "the best of the others"
        );
        assert_eq!(sequence.advance(logits(3).as_slice().into()), Next::Token(0));
        assert_eq!(sequence.advance(logits(3).as_slice().into()), Next::Ended);
        assert_eq!(ended(&mut events), (EndReason::EndOfSequence, 3));
    }

    #[test]
    fn each_chunk_carries_the_routes_since_the_last_and_each_position_once() {
        let outputs = Outputs { routed_experts: true, ..Outputs::default() };
        let (mut sequence, mut events) = sequence(stopping(5), outputs);
        sequence.keep_routes(0, [7, 8].into_iter());
        sequence.keep_routes(1, [9, 10].into_iter());
        sequence.advance(logits(0).as_slice().into());
        // Computed again after its blocks were given up.
        sequence.keep_routes(0, [7, 8].into_iter());
        sequence.keep_routes(2, [11, 12].into_iter());
        sequence.advance(logits(0).as_slice().into());
        let mut routes = || events.try_recv().unwrap().unwrap().routes.unwrap();
        let first = routes();
        assert_eq!((first.first_position, first.positions), (0, 2));
        assert_eq!(first.experts, [7, 8, 9, 10]);
        let second = routes();
        assert_eq!((second.first_position, second.positions), (2, 1));
    }

    #[test]
    fn a_prompt_is_scored_once_and_with_no_tokens_to_generate_that_is_all() {
        let outputs = Outputs { prompt_logprobs: Some(1), ..Outputs::default() };
        let (mut sequence, mut events) = sequence(stopping(0), outputs);
        assert_eq!(sequence.scored_positions(0, 2), 0..1);
        sequence.score(0, &logits(2));
        assert!(sequence.scored_positions(0, 2).is_empty());
        assert_eq!(sequence.advance(logits(0).as_slice().into()), Next::Ended);
        let chunk = events.try_recv().unwrap().unwrap();
        let scored = chunk.prompt_logprobs.unwrap();
        assert_eq!(scored[0].top, [(2, scored[0].logprob)]);
        assert_eq!(chunk.end.unwrap().completion_tokens, 0);
    }

    #[test]
    fn a_reader_that_falls_behind_is_given_up() {
        let (mut sequence, mut events) = sequence(stopping(100), Outputs::default());
        let steps =
            (0..100).take_while(|_| sequence.advance(logits(0).as_slice().into()) != Next::Ended);
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
        let (mut sequence, mut events) = sequence(stopping(5), Outputs::default());
        assert_eq!(sequence.advance([f32::NAN; 5].as_slice().into()), Next::Ended);
        assert!(matches!(events.try_recv(), Ok(Err(Failure::Internal(_)))));
    }
}
