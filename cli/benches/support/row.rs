//! The four columns of a table of speeds.

use crate::speed::{decode, median, prefill};

pub(crate) const PROMPT_TOKENS: u32 = 512;
pub(crate) const HEAD: &str = "decode, 1 stream | 8 streams | 32 streams | prefill 512";

/// Tokens per second: of 1, 8 and 32 streams, and of a prompt.
pub(crate) async fn measure(address: &str) -> [f64; 4] {
    decode(address, 1).await;
    let decoded = [decode(address, 1).await, decode(address, 8).await, decode(address, 32).await];
    prefill(address, 1, PROMPT_TOKENS).await;
    // Another prompt: the first one's keys are known now.
    [decoded[0], decoded[1], decoded[2], prefill(address, 2, PROMPT_TOKENS).await]
}

/// The median of each over the rounds.
pub(crate) fn medians(rounds: &[[f64; 4]]) -> [f64; 4] {
    std::array::from_fn(|of| median(rounds.iter().map(|round| round[of]).collect()))
}
