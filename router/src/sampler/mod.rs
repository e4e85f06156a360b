//! Draws the next token from logits.

use guildhall_kernels::{Largest, largest};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::request::{GeneratedToken, Sampling};

pub(crate) use logprobs::{log_softmax, logprobs};

mod adjustments;
mod filters;
mod logprobs;
#[cfg(test)]
mod golden_tests;

use adjustments::Adjustments;

/// The sampler of one sequence. What it draws depends on the request, the tokens so far and the logits, and on nothing
/// else.
pub(crate) struct Sampler {
    sampling: Sampling,
    top_logprobs: Option<usize>,
    adjustments: Adjustments,
    random: ChaCha8Rng,
    /// Logits after adjustments; kept so that it need not be allocated again.
    adjusted: Vec<f32>,
}

/// The logits of one row, [vocab].
#[derive(Clone, Copy)]
pub(crate) struct Logits<'a> {
    pub(crate) values: &'a [f32],
    /// The largest, which has the lowest id among equals; nothing if one is a NaN or none is finite.
    pub(crate) best: Option<Largest>,
}

impl<'a> From<&'a [f32]> for Logits<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self { values, best: largest(values) }
    }
}

/// Tokens that may not be drawn now.
#[derive(Clone, Copy, Default)]
pub(crate) struct Forbidden<'a> {
    /// These.
    pub(crate) tokens: &'a [u32],
    /// All but the ones whose bit is set: bit `id % 32` of word `id / 32`.
    pub(crate) all_but: Option<&'a [u32]>,
}

/// Why no token can be drawn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoToken {
    /// The logits hold a NaN, or none of them is finite.
    BrokenLogits,
    /// Every token is forbidden.
    AllForbidden,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling, top_logprobs: Option<usize>, prompt: &[u32]) -> Self {
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        let adjustments = Adjustments::new(&sampling, prompt);
        Self { sampling, top_logprobs, adjustments, random, adjusted: Vec::new() }
    }

    /// Draws from `logits`. Log-probabilities are those of softmax(logits), before any change.
    pub(crate) fn sample<'a>(
        &mut self,
        logits: impl Into<Logits<'a>>,
        forbidden: Forbidden<'_>,
    ) -> Result<GeneratedToken, NoToken> {
        let logits = logits.into();
        let mut space = std::mem::take(&mut self.adjusted);
        let drawn = self.adjust(logits, forbidden, &mut space);
        let drawn = drawn.map(|(adjusted, best)| self.draw(adjusted, best));
        self.adjusted = space;
        let id = drawn?;
        self.adjustments.count(id);
        let logprobs = self.top_logprobs.map(|n| logprobs(logits.values, id, n));
        Ok(GeneratedToken { id, logprobs })
    }

    /// The logits to draw from, written to `space` if they differ from `logits`, and the best of them with its id.
    fn adjust<'a>(
        &self,
        logits: Logits<'a>,
        forbidden: Forbidden<'_>,
        space: &'a mut Vec<f32>,
    ) -> Result<(&'a [f32], Largest), NoToken> {
        let best = logits.best.ok_or(NoToken::BrokenLogits)?;
        if self.adjustments.are_none() && forbidden.is_none() {
            return Ok((logits.values, best));
        }
        space.clear();
        space.extend_from_slice(logits.values);
        self.adjustments.apply(space);
        forbidden.apply(space);
        let best = largest(space).ok_or(NoToken::AllForbidden)?;
        Ok((space, best))
    }

    fn draw(&mut self, logits: &[f32], best: Largest) -> u32 {
        if self.sampling.temperature == 0.0 {
            return best.0;
        }
        let kept = filters::kept(&self.sampling, logits, best.1);
        let total: f64 = kept.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let mut left = self.random.random::<f64>() * total;
        for &(id, weight) in &kept {
            left -= f64::from(weight);
            if left < 0.0 {
                return id;
            }
        }
        // Rounding can leave a last crumb of probability.
        kept.last().map_or(best.0, |(id, _)| *id)
    }
}

impl Forbidden<'_> {
    fn is_none(&self) -> bool {
        self.tokens.is_empty() && self.all_but.is_none()
    }

    fn apply(&self, logits: &mut [f32]) {
        for &token in self.tokens {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let Some(allowed) = self.all_but else { return };
        for (chunk, logits) in logits.chunks_mut(32).enumerate() {
            let bits = allowed.get(chunk).copied().unwrap_or(0);
            for (bit, logit) in logits.iter_mut().enumerate() {
                if bits >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw_with(sampling: &Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling.clone(), None, &[]);
        (0..n).map(|_| sampler.sample(logits, Forbidden::default()).unwrap().id).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_the_best() {
        assert_eq!(draw_with(&Sampling::GREEDY, &[0.5, 2.0, -1.0, 2.0], 3), [1, 1, 1]);
    }

    #[test]
    fn drawing_follows_the_probabilities() {
        let logits = [0.1f32.ln(), 0.6f32.ln(), 0.3f32.ln()];
        let ids = draw_with(&Sampling { temperature: 1.0, ..Sampling::GREEDY }, &logits, 20_000);
        for (id, expected) in [(0, 0.1), (1, 0.6), (2, 0.3)] {
            let share = ids.iter().filter(|&&drawn| drawn == id).count() as f64 / 20_000.0;
            assert!((share - expected).abs() < 0.015, "{id}: {share}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32).sin()).collect();
        let with =
            |seed| draw_with(&Sampling { temperature: 1.5, seed, ..Sampling::GREEDY }, &logits, 40);
        assert_eq!(with(7), with(7));
        assert_ne!(with(7), with(8));
    }

    #[test]
    fn forbidden_tokens_are_not_drawn() {
        let logits = [3.0, 2.0, 1.0, 0.0];
        let with = |forbidden: Forbidden<'_>| {
            Sampler::new(Sampling::GREEDY, None, &[]).sample(&logits[..], forbidden).map(|t| t.id)
        };
        assert_eq!(with(Forbidden { tokens: &[0, 9], all_but: None }), Ok(1));
        assert_eq!(with(Forbidden { tokens: &[], all_but: Some(&[0b1100]) }), Ok(2));
        assert_eq!(with(Forbidden { tokens: &[2], all_but: Some(&[0b1100]) }), Ok(3));
        let all = Forbidden { tokens: &[], all_but: Some(&[]) };
        assert_eq!(with(all), Err(NoToken::AllForbidden));
    }

    #[test]
    fn broken_logits_are_refused() {
        for logits in [&[1.0, f32::NAN][..], &[f32::NEG_INFINITY; 2], &[f32::INFINITY, 0.0], &[]] {
            let mut sampler = Sampler::new(Sampling::GREEDY, None, &[]);
            let drawn = sampler.sample(logits, Forbidden::default());
            assert_eq!(drawn, Err(NoToken::BrokenLogits));
        }
    }
}
