//! Draws the next token from logits.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::request::{GeneratedToken, Sampling};

/// The sampler of one sequence. Its random state depends on the request's seed and the number of tokens drawn, and on
/// nothing else.
pub(crate) struct Sampler {
    sampling: Sampling,
    top_logprobs: usize,
    random: ChaCha8Rng,
}

/// A token with its logit.
type Candidate = (u32, f32);

/// Says that logits hold a NaN or that none of them is finite.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BrokenLogits;

impl Sampler {
    pub(crate) fn new(sampling: Sampling, top_logprobs: usize) -> Self {
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Self { sampling, top_logprobs, random }
    }

    /// Draws from `logits`, [vocab]. Log-probabilities are those of softmax(logits), before any filter.
    pub(crate) fn sample(&mut self, logits: &[f32]) -> Result<GeneratedToken, BrokenLogits> {
        let best = argmax(logits).ok_or(BrokenLogits)?;
        let id = match self.sampling.temperature {
            0.0 => best.0,
            _ => self.draw(logits, best.1),
        };
        let log_sum = log_sum_exp(logits, best.1);
        let top = largest(logits, self.top_logprobs);
        Ok(GeneratedToken {
            id,
            logprob: logits[id as usize] - log_sum,
            top: top.into_iter().map(|(id, logit)| (id, logit - log_sum)).collect(),
        })
    }

    fn draw(&mut self, logits: &[f32], best: f32) -> u32 {
        let kept = self.filter(logits, best);
        let total: f64 = kept.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mut left = self.random.random::<f64>() * total;
        for &(id, weight) in &kept {
            left -= f64::from(weight);
            if left < 0.0 {
                return id;
            }
        }
        // Rounding can leave a last crumb of probability.
        kept.last().map_or(0, |(id, _)| *id)
    }

    /// The tokens that may be drawn, most probable first, with weights relative to the best one's 1.
    fn filter(&self, logits: &[f32], best: f32) -> Vec<(u32, f32)> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let mut kept = largest(logits, top_k.unwrap_or(logits.len()));
        for (_, weight) in &mut kept {
            *weight = ((*weight - best) / temperature).exp();
        }
        if top_p < 1.0 {
            let total: f64 = kept.iter().map(|(_, weight)| f64::from(*weight)).sum();
            let mut sum = 0.0;
            let enough = kept.iter().position(|(_, weight)| {
                sum += f64::from(*weight);
                sum >= f64::from(top_p) * total
            });
            kept.truncate(enough.map_or(kept.len(), |last| last + 1));
        }
        kept.retain(|(_, weight)| *weight >= min_p);
        kept
    }
}

/// The largest logit and the lowest id that has it; `None` for a NaN or when all are infinite.
fn argmax(logits: &[f32]) -> Option<Candidate> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return None;
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.1.is_finite().then_some(best)
}

/// The `n` largest logits, best first; the lower id first among equals.
fn largest(logits: &[f32], n: usize) -> Vec<Candidate> {
    let order = |a: &Candidate, b: &Candidate| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if n == 0 {
        return Vec::new();
    }
    let mut all: Vec<Candidate> = (0..).zip(logits.iter().copied()).collect();
    if n < all.len() {
        all.select_nth_unstable_by(n - 1, order);
        all.truncate(n);
    }
    all.sort_unstable_by(order);
    all
}

fn log_sum_exp(logits: &[f32], best: f32) -> f32 {
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - best).exp()).sum();
    best + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: None, top_p: 1.0, min_p: 0.0, seed: 1 };

    fn drawn(sampling: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, 0);
        (0..n).map(|_| sampler.sample(logits).unwrap().id).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        assert_eq!(drawn(GREEDY, &[0.0, 3.0, 3.0, 1.0], 1), [1]);
    }

    #[test]
    fn log_probabilities_sum_to_one_and_come_best_first() {
        let token = Sampler::new(GREEDY, 3).sample(&[1.0, 2.0, 3.0]).unwrap();
        let ids: Vec<u32> = token.top.iter().map(|(id, _)| *id).collect();
        assert_eq!((token.id, ids), (2, vec![2, 1, 0]));
        let sum: f32 = token.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && token.logprob == token.top[0].1);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.1f32.ln(), 0.6f32.ln(), 0.3f32.ln()];
        let ids = drawn(Sampling { temperature: 1.0, ..GREEDY }, &logits, 20_000);
        for (id, expected) in [(0, 0.1), (1, 0.6), (2, 0.3)] {
            let share = ids.iter().filter(|&&drawn| drawn == id).count() as f64 / 20_000.0;
            assert!((share - expected).abs() < 0.015, "{id}: {share}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32).sin()).collect();
        let with = |seed| drawn(Sampling { temperature: 1.5, seed, ..GREEDY }, &logits, 40);
        assert_eq!(with(7), with(7));
        assert_ne!(with(7), with(8));
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.15f32.ln(), 0.1f32.ln()];
        let kept = |change: &dyn Fn(&mut Sampling)| {
            let mut sampling = Sampling { temperature: 1.0, ..GREEDY };
            change(&mut sampling);
            let filtered = Sampler::new(sampling, 0).filter(&logits, logits[0]);
            filtered.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(kept(&|_| {}), [0, 1, 2, 3]);
        assert_eq!(kept(&|s| s.top_k = Some(2)), [0, 1]);
        assert_eq!(kept(&|s| s.top_p = 0.7), [0, 1]);
        assert_eq!(kept(&|s| s.top_p = 0.01), [0]);
        assert_eq!(kept(&|s| s.min_p = 0.25), [0, 1, 2]);
    }

    #[test]
    fn broken_logits_are_refused() {
        for logits in [&[1.0, f32::NAN][..], &[f32::NEG_INFINITY; 2], &[f32::INFINITY, 0.0], &[]] {
            assert_eq!(Sampler::new(GREEDY, 0).sample(logits), Err(BrokenLogits));
        }
    }
}
