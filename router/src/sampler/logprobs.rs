//! Log-probabilities of tokens.

use super::filters::{Weighted, keep_largest};
use crate::request::Logprobs;

/// The log-probability of token `id` under softmax(logits), and those of the `n` most probable tokens. The logits are
/// finite or −∞, one of them finite.
pub(crate) fn logprobs(logits: &[f32], id: u32, n: usize) -> Logprobs {
    let log_sum = log_sum_exp(logits);
    // In f64, because logits far from zero would lose the digits that they differ in.
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
    let mut top: Vec<Weighted> = (0..).zip(logits.iter().copied()).collect();
    keep_largest(&mut top, n);
    top.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    Logprobs {
        logprob: logprob(logits[id as usize]),
        top: top.into_iter().map(|(id, logit)| (id, logprob(logit))).collect(),
    }
}

/// ln softmax(logits).
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let log_sum = log_sum_exp(logits);
    logits.iter().map(|logit| f64::from(*logit) - log_sum).collect()
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - best).exp()).sum();
    f64::from(best) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let logits = [0.2f32.ln() + 3.0, 0.5f32.ln() + 3.0, 0.3f32.ln() + 3.0];
        let of = logprobs(&logits, 2, 2);
        assert!((of.logprob - 0.3f32.ln()).abs() < 1e-6);
        assert_eq!(of.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
        assert!((of.top[0].1 - 0.5f32.ln()).abs() < 1e-6);
        assert!(logprobs(&logits, 0, 0).top.is_empty());
    }
}
