//! What a step costs a node: a fixed part, the weights of the experts that it touches, and the work of its tokens.

/// The parts of a node's time, for a node of speed 1. Decoding is bound by `seconds_per_expert`, a prompt by
/// `seconds_per_pair`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    /// Seconds of a call with nothing in it: network, queue, launch.
    pub fixed_seconds: f64,
    /// Seconds to read the weights of one expert once: its bytes over the memory bandwidth.
    pub seconds_per_expert: f64,
    /// Seconds to compute one (token, expert) pair: its operations over the arithmetic rate.
    pub seconds_per_pair: f64,
}

impl CostModel {
    /// Expected seconds of one layer on a node of this `speed`, if each of its replicas gets these pairs on average.
    /// Whether an expert is touched at all is taken as a Poisson event.
    #[must_use]
    pub fn layer_seconds(&self, pairs: impl Iterator<Item = f64>, speed: f64) -> f64 {
        let mut touched = 0.0;
        let mut all = 0.0;
        for pairs in pairs {
            touched += 1.0 - (-pairs).exp();
            all += pairs;
        }
        if all == 0.0 {
            return 0.0;
        }
        self.fixed_seconds
            + (touched * self.seconds_per_expert + all * self.seconds_per_pair) / speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_tokens_pay_for_experts_and_many_for_tokens() {
        let model =
            CostModel { fixed_seconds: 1.0, seconds_per_expert: 10.0, seconds_per_pair: 0.1 };
        let seconds = |pairs: &[f64]| model.layer_seconds(pairs.iter().copied(), 1.0);
        assert_eq!(seconds(&[]), 0.0);
        assert!((seconds(&[100.0, 100.0]) - 41.0).abs() < 1e-6);
        // A third expert costs as much as a hundred tokens, in the one way or the other.
        assert!(seconds(&[67.0, 67.0, 66.0]) - seconds(&[100.0, 100.0]) > 9.9);
        assert!((seconds(&[0.5]) - (1.0 + 10.0 * (1.0 - (-0.5f64).exp()) + 0.05)).abs() < 1e-9);
        assert!((model.layer_seconds([100.0].into_iter(), 2.0) - 11.0).abs() < 1e-6);
    }
}
