//! A request as the router sees it, and what comes back; wire types stop before this.

use std::num::NonZeroU32;

use guildhall_telemetry::TraceContext;

/// One sequence to generate, already checked against the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: String,
    /// At least one token.
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stopping: Stopping,
    pub(crate) outputs: Outputs,
    /// The trace that the client's header named.
    pub(crate) trace: Option<TraceContext>,
}

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
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
}

/// When the sequence ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    pub(crate) max_tokens: NonZeroU32,
    /// Texts that are not part of the answer.
    pub(crate) stop: Vec<String>,
    /// The request's stop tokens and, unless it ignores them, the model's.
    pub(crate) stop_token_ids: Vec<u32>,
}

/// What to return beside the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    pub(crate) top_logprobs: usize,
    pub(crate) routed_experts: bool,
}

/// What the engine says of a sequence, in order; the last event has `end`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) text: String,
    pub(crate) tokens: Vec<GeneratedToken>,
    pub(crate) routes: Option<RoutedRows>,
    pub(crate) end: Option<End>,
}

/// A token with its log-probability and the best ones.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GeneratedToken {
    pub(crate) id: u32,
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
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// A stop text, a stop token or an end-of-sequence token.
    Stop,
    /// max_tokens, or the end of the context.
    Length,
}

/// Why a sequence has no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may be tried again later.
    Unavailable(String),
    /// The client did not read what was generated.
    SlowReader,
    /// The computation failed.
    Internal(String),
}
