//! The gate that chooses the experts of each token.

use crate::cpu::exp::exp;
use crate::device::Device;
use crate::error::Error;
use crate::tensor::Tensor;

/// How a gate chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GateOptions {
    /// The number of experts of each token.
    pub top_k: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub renormalise: bool,
}

/// The experts of each token, by descending weight.
#[derive(Clone, PartialEq, Debug)]
pub struct Routes {
    /// The number of experts of each token.
    pub top_k: usize,
    /// The chosen experts, `[tokens * top_k]`.
    pub experts: Vec<u32>,
    /// Their weights, `[tokens * top_k]`.
    pub weights: Vec<f32>,
}

impl Device {
    /// Chooses the experts of each token: the softmax of all its `logits` `[tokens, experts]`,
    /// of which the `top_k` largest; among equal ones the expert of the lowest index comes
    /// first.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are fewer than `top_k` experts, [`Error::NonFinite`] for a
    /// row with a NaN or an infinity.
    pub fn top_k_gate(&self, logits: &Tensor, options: &GateOptions) -> Result<Routes, Error> {
        let top_k = options.top_k;
        if top_k == 0 || top_k > logits.cols() {
            return Err(Error::Shape {
                operation: "top_k_gate",
                what: "top_k",
                expected: format!("1..={} experts", logits.cols()),
                got: top_k.to_string(),
            });
        }
        let mut routes = Routes {
            top_k,
            experts: Vec::with_capacity(logits.rows() * top_k),
            weights: Vec::with_capacity(logits.rows() * top_k),
        };
        let mut shares = Vec::with_capacity(logits.cols());
        for row in 0..logits.rows() {
            let logits = logits.row(row);
            if !logits.iter().all(|logit| logit.is_finite()) {
                return Err(Error::NonFinite { operation: "top_k_gate", row });
            }
            softmax(logits, &mut shares);
            routes.choose(&mut shares, options.renormalise);
        }
        Ok(routes)
    }
}

impl Routes {
    /// Appends the experts of one token, whose `shares` are used up.
    fn choose(&mut self, shares: &mut [f32], renormalise: bool) {
        let first = self.weights.len();
        for _ in 0..self.top_k {
            let mut best = 0;
            for (expert, &share) in shares.iter().enumerate() {
                if share > shares[best] {
                    best = expert;
                }
            }
            self.experts.push(best as u32);
            self.weights.push(shares[best]);
            // Below every share, so that it is not chosen again.
            shares[best] = -1.0;
        }
        if renormalise {
            let weights = &mut self.weights[first..];
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
    }
}

/// Replaces `shares` by the softmax of finite `logits`.
fn softmax(logits: &[f32], shares: &mut Vec<f32>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    shares.clear();
    shares.extend(logits.iter().map(|logit| exp(logit - max)));
    let sum: f32 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
}
