//! A request as the router sees it, and what comes back; wire types stop before this.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::constraint::Constraint;
use crate::traces::RequestTrace;

/// One or more sequences to generate from one prompt, already checked against the model.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: String,
    /// At least one token.
    pub(crate) prompt: Arc<[u32]>,
    /// Sequences to generate, at least 1.
    pub(crate) n: usize,
    pub(crate) sampling: Sampling,
    pub(crate) stopping: Stopping,
    pub(crate) outputs: Outputs,
    /// What every answer must look like.
    pub(crate) constraint: Option<Constraint>,
    /// Prefixes are shared between requests of one salt only.
    pub(crate) cache_salt: String,
    /// When its sequences end unfinished.
    pub(crate) deadline: Option<Instant>,
    /// Ends its sequences before the next step.
    pub(crate) cancel: CancellationToken,
    /// The trace that it belongs to.
    pub(crate) trace: RequestTrace,
}

/// How the next token is drawn. Penalties and biases change the logits before anything else.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// 0 is greedy.
    pub(crate) temperature: f32,
    /// Only the k most probable tokens.
    pub(crate) top_k: Option<usize>,
    /// Only the smallest set with this much probability; 1 is off.
    pub(crate) top_p: f32,
    /// Only tokens at least this much as probable as the best; 0 is off.
    pub(crate) min_p: f32,
    pub(crate) seed: u64,
    /// Divides positive logits of tokens seen anywhere, and multiplies negative ones; 1 is off.
    pub(crate) repetition_penalty: f32,
    /// Taken off the logits of generated tokens; 0 is off.
    pub(crate) presence_penalty: f32,
    /// Taken off the logits of generated tokens for each time; 0 is off.
    pub(crate) frequency_penalty: f32,
    /// Added to the logits of these tokens, each below the size of the vocabulary.
    pub(crate) logit_bias: Vec<(u32, f32)>,
}

impl Sampling {
    /// The most probable token each time.
    #[cfg(test)]
    pub(crate) const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: None,
        top_p: 1.0,
        min_p: 0.0,
        seed: 0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
    };
}

/// When a sequence ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stopping {
    /// 0 computes the prompt and nothing else.
    pub(crate) max_tokens: usize,
    /// Nothing but `max_tokens` ends it before.
    pub(crate) min_tokens: usize,
    /// Texts that end the answer.
    pub(crate) stop: Vec<String>,
    /// Whether the answer includes the text that ended it.
    pub(crate) include_stop: bool,
    /// The request's stop tokens.
    pub(crate) stop_token_ids: Vec<u32>,
    /// The model's end-of-sequence tokens, unless the request ignores them.
    pub(crate) eos_token_ids: Vec<u32>,
}

/// What to return beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    /// How many of the most probable tokens, with the log-probability of the chosen one.
    pub(crate) top_logprobs: Option<usize>,
    /// The same for each token of the prompt.
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) routed_experts: bool,
    pub(crate) prompt_token_ids: bool,
    /// Whether special tokens show in the text.
    pub(crate) special_tokens: bool,
}

/// What the engine says of one of the sequences, in order; the last one of a sequence has `end`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chunk {
    /// Which of the sequences.
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) tokens: Vec<GeneratedToken>,
    pub(crate) routes: Option<RoutedRows>,
    /// With the first chunk of the first sequence, if asked for: of every token of the prompt but the first.
    pub(crate) prompt_logprobs: Option<Vec<Logprobs>>,
    pub(crate) end: Option<End>,
}

/// A token, with its log-probability if asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GeneratedToken {
    pub(crate) id: u32,
    pub(crate) logprobs: Option<Logprobs>,
}

/// The log-probability of a token and of the best ones.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Logprobs {
    pub(crate) logprob: f32,
    /// The most probable tokens, best first.
    pub(crate) top: Vec<(u32, f32)>,
}

/// The chosen experts of some positions: [positions, layers, top_k].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoutedRows {
    pub(crate) first_position: usize,
    pub(crate) positions: usize,
    pub(crate) experts: Vec<u32>,
}

/// How a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: EndReason,
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    /// Tokens of the prompt that were in the cache.
    pub(crate) cached_tokens: usize,
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// One of the request's stop texts.
    StopText(String),
    /// One of the request's stop tokens.
    StopToken(u32),
    /// One of the model's end-of-sequence tokens, or the end of what the constraint allows.
    EndOfSequence,
    /// max_tokens, or the end of the context.
    Length,
    /// Somebody aborted it.
    Abort,
}

/// Why a sequence has no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may be tried again later.
    Unavailable(String),
    /// The client did not read what was generated.
    SlowReader,
    /// Its time was over.
    DeadlineExceeded,
    /// The constraint is too much for the machine, or leaves no token.
    Constraint(String),
    /// The computation failed.
    Internal(String),
}
