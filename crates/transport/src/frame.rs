//! What one expert call carries. Every length is checked against the shape before anything is read.

use std::time::Duration;

use bytes::Bytes;
use guildhall_ids::{Epoch, ExpertIdx, LayerIdx};
use guildhall_telemetry::TraceContext;

/// The largest message either side accepts.
pub const MAX_FRAME_BYTES: usize = 256 << 20;

/// The size of one row of activations or outputs; agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameShape {
    /// Values in a row.
    pub hidden_size: usize,
    /// Bytes of a value: 4 for f32, 2 for bf16.
    pub value_bytes: usize,
}

impl FrameShape {
    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(self) -> usize {
        self.hidden_size * self.value_bytes
    }
}

/// One expert wanted for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The row of the token in the call's activations.
    pub token: u32,
    /// The expert that shall see it.
    pub expert: ExpertIdx,
}

/// Activations for some experts of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Unique in its link; comes back in the answer.
    pub id: u64,
    /// The layer of all its experts.
    pub layer: LayerIdx,
    /// The placement that the router looked at.
    pub epoch: Epoch,
    /// Time left; a node does not begin a call that is over its time. `None` is no limit.
    pub budget: Option<Duration>,
    /// The trace to which the call belongs.
    pub trace: Option<TraceContext>,
    /// Rows of `activations`.
    pub tokens: u32,
    /// [tokens, hidden], little-endian: each token that this node needs, once.
    pub activations: Bytes,
    /// The experts wanted; the answer has one row for each.
    pub pairs: Vec<Pair>,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOutputs {
    /// The call's id.
    pub id: u64,
    /// [pairs, hidden], little-endian, in the order of the call's pairs.
    pub values: Bytes,
    /// Where the time went on the node.
    pub timings: NodeTimings,
}

/// Times of a call by the node's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeTimings {
    /// From arrival to the beginning of the computation.
    pub queue: Duration,
    /// The computation of the batch.
    pub compute: Duration,
    /// Pairs of all calls that were computed together.
    pub batch_pairs: u32,
}

/// Why a call has no outputs. The link stays usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct CallFailure {
    /// The call's id.
    pub id: u64,
    /// What kind of failure.
    pub reason: FailureReason,
    /// In words, with the names of things.
    pub message: String,
}

/// Kinds of failure; each is answered differently by the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// The node does not hold one of the experts: look at a newer routing table.
    NotResident,
    /// The time was over before the node began.
    Expired,
    /// The call contradicts itself: a bug of the router.
    Malformed,
    /// The computation failed on this node: try another.
    Compute,
    /// The node's queue is full: try another.
    Overloaded,
    /// The activations changed on their way: send the call again.
    Corrupt,
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotResident => "not resident",
            Self::Expired => "expired",
            Self::Malformed => "malformed call",
            Self::Compute => "computation failed",
            Self::Overloaded => "overloaded",
            Self::Corrupt => "corrupt call",
        })
    }
}

impl Call {
    /// Checks every count of the call against `shape`.
    ///
    /// # Errors
    /// A sentence that names the field, what it is and what it should be.
    pub fn check(&self, shape: FrameShape) -> Result<(), String> {
        let tokens = self.tokens as usize;
        let expected = tokens.checked_mul(shape.row_bytes());
        if expected != Some(self.activations.len()) {
            return Err(format!(
                "activations are {} bytes, but {tokens} tokens of {} bytes were announced",
                self.activations.len(),
                shape.row_bytes(),
            ));
        }
        if self.pairs.is_empty() {
            return Err("the call has no pairs".into());
        }
        let output = self.pairs.len().checked_mul(shape.row_bytes());
        if output.is_none_or(|bytes| bytes > MAX_FRAME_BYTES - FRAME_OVERHEAD) {
            return Err(format!("outputs of {} pairs do not fit into a frame", self.pairs.len()));
        }
        match self.pairs.iter().position(|pair| pair.token >= self.tokens) {
            Some(at) => Err(format!(
                "pair {at} names token {}, but the call has {tokens}",
                self.pairs[at].token
            )),
            None => Ok(()),
        }
    }
}

/// Room for everything in a frame that is not a row.
const FRAME_OVERHEAD: usize = 1 << 10;

/// How many pairs fit into one call, so that neither it nor its answer is over [`MAX_FRAME_BYTES`].
#[must_use]
pub fn max_pairs(shape: FrameShape) -> usize {
    // A pair costs at most 10 bytes of indices on the way out and a row on the way back.
    (MAX_FRAME_BYTES - FRAME_OVERHEAD) / (shape.row_bytes() + 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: FrameShape = FrameShape { hidden_size: 4, value_bytes: 2 };

    fn call() -> Call {
        Call {
            id: 1,
            layer: LayerIdx(0),
            epoch: Epoch(0),
            budget: None,
            trace: None,
            tokens: 2,
            activations: Bytes::from(vec![0; 16]),
            pairs: vec![Pair { token: 1, expert: ExpertIdx(3) }],
        }
    }

    fn check(change: impl FnOnce(&mut Call), expected: &str) {
        let mut call = call();
        change(&mut call);
        let error = call.check(SHAPE).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn counts_that_contradict_are_named() {
        assert_eq!(call().check(SHAPE), Ok(()));
        check(|c| c.activations = Bytes::from(vec![0; 15]), "15 bytes");
        check(|c| c.tokens = u32::MAX, "4294967295 tokens");
        check(|c| c.pairs.clear(), "no pairs");
        check(|c| c.pairs[0].token = 2, "pair 0 names token 2");
        let many = vec![Pair { token: 0, expert: ExpertIdx(0) }; MAX_FRAME_BYTES / 8];
        check(|c| c.pairs = many, "do not fit");
    }
}
