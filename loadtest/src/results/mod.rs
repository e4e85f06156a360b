//! What a run has shown, in the form of its JSON file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chaos::Chaos;
use crate::experts::Experts;
use crate::sweep::Levels;

pub use percentiles::{Latencies, Percentiles};
pub(crate) use recent::Recent;
pub use slo::Slo;
pub(crate) use tally::{Record, Tally, Window};

mod percentiles;
mod slo;
mod tally;
mod recent;
pub mod console;
pub mod csv;
pub mod files;

/// The version of this form.
pub const FORMAT: u32 = 1;

/// What a run has shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Of this form.
    pub format: u32,
    /// What was asked for, by the names of the flags.
    pub settings: BTreeMap<String, String>,
    /// Requests that were to be sent while it was measured; the others warmed up.
    pub requests: Requests,
    /// What passed while it was measured, whichever request it was of.
    pub throughput: Throughput,
    /// Of measured requests that succeeded.
    pub latency: Latencies,
    /// If there was an objective.
    pub goodput: Option<Goodput>,
    /// Second by second, from the start.
    pub timeline: Vec<Second>,
    /// If there was an admin API to ask.
    pub experts: Option<Experts>,
    /// If several rates were tried; all else is of the highest that was borne, or of the first.
    #[serde(default)]
    pub sweep: Option<Levels>,
    /// If there were faults; all else is of the run that had them.
    #[serde(default)]
    pub chaos: Option<Chaos>,
    /// What makes the numbers doubtful, a sentence each.
    pub warnings: Vec<String>,
}

/// Measured requests, and what they were made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// All.
    pub sent: u64,
    /// Those with a whole answer.
    pub succeeded: u64,
    /// The others, by code.
    pub failed: BTreeMap<String, Failed>,
    /// Tokens of the prompts of those that succeeded.
    pub prompt_tokens: u64,
    /// Of these, found in a cache.
    pub cached_tokens: u64,
    /// Tokens of their answers.
    pub output_tokens: u64,
    /// How many were of each kind of prompt; beyond 64 kinds, of all others together.
    pub kinds: BTreeMap<String, u64>,
    /// Requests of the warm-up, not counted above.
    pub warm_up: u64,
}

/// Requests that failed in one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// How many.
    pub count: u64,
    /// What the first one was told.
    pub example: String,
}

/// What passed in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// From the start of the run to the beginning of the span: the warm-up.
    pub from_seconds: f64,
    /// How long it was.
    pub seconds: f64,
    /// Whole answers that ended in it.
    pub requests_per_second: f64,
    /// Tokens of answers that came in it.
    pub tokens_per_second: f64,
}

/// Requests that met an objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// The objective.
    pub slo: String,
    /// How many met it.
    pub requests: u64,
    /// Of all measured requests, failed ones included.
    pub share: f64,
    /// In a second.
    pub requests_per_second: f64,
}

/// One second of a run, or the last part of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// From the start of the run to its beginning.
    pub at: f64,
    /// How long it was; 1, but for the last.
    pub seconds: f64,
    /// Tokens of answers that came.
    pub tokens: u64,
    /// Answers that ended whole.
    pub succeeded: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Mean time to the first token, of the answers that ended; 0: none did.
    pub mean_ttft_ms: f64,
}

impl Outcome {
    /// Measured requests that failed.
    #[must_use]
    pub fn n_failed(&self) -> u64 {
        self.requests.failed.values().map(|failed| failed.count).sum()
    }
}
