//! The sampler against the reference implementation (transformers' logits processors).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::{Forbidden, Sampler, filters, logprobs};
use crate::request::Sampling;

/// Draws of each case, each from a seed of its own.
const DRAWS: u64 = 4000;
/// Tokens that are expected less often are counted together, so that the statistic has the distribution it should.
const MIN_EXPECTED: f64 = 5.0;

#[derive(Deserialize)]
struct Golden {
    logits: BTreeMap<String, Logits>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Logits {
    values: Vec<f32>,
    log_softmax: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    logits: String,
    prompt: Vec<u32>,
    generated: Vec<u32>,
    options: Options,
    #[serde(default)]
    forbidden: Vec<u32>,
    allowed: Option<Vec<u32>>,
    #[serde(default)]
    ids: Vec<u32>,
    #[serde(default)]
    probabilities: Vec<f64>,
    greedy: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    temperature: f32,
    top_k: Option<usize>,
    top_p: Option<f32>,
    #[serde(default)]
    min_p: f32,
    repetition_penalty: Option<f32>,
    #[serde(default)]
    presence_penalty: f32,
    #[serde(default)]
    frequency_penalty: f32,
    #[serde(default)]
    logit_bias: Vec<(u32, f32)>,
}

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sampling.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Every case by a name that tells it from the others, with its logits.
    fn cases(&self) -> impl Iterator<Item = (String, &Case, &[f32])> {
        self.cases.iter().enumerate().map(|(index, case)| {
            let name = format!("case {index}, {} {:?}", case.logits, case.options);
            (name, case, &self.logits[&case.logits].values[..])
        })
    }
}

impl Case {
    fn sampler(&self, seed: u64) -> Sampler {
        let options = self.options.clone();
        let sampling = Sampling {
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p.unwrap_or(1.0),
            min_p: options.min_p,
            seed,
            repetition_penalty: options.repetition_penalty.unwrap_or(1.0),
            presence_penalty: options.presence_penalty,
            frequency_penalty: options.frequency_penalty,
            logit_bias: options.logit_bias,
        };
        let mut sampler = Sampler::new(sampling, None, &self.prompt);
        for &token in &self.generated {
            sampler.adjustments.count(token);
        }
        sampler
    }

    /// The bits of the tokens that are allowed, if not all are.
    fn mask(&self, vocab: usize) -> Option<Vec<u32>> {
        let allowed = self.allowed.as_ref()?;
        let mut words = vec![0; vocab.div_ceil(32)];
        for token in allowed {
            words[*token as usize / 32] |= 1 << (token % 32);
        }
        Some(words)
    }

    /// What may be drawn, by id.
    fn candidates(&self, logits: &[f32]) -> BTreeMap<u32, f64> {
        let sampler = self.sampler(0);
        let mask = self.mask(logits.len());
        let forbidden = Forbidden { tokens: &self.forbidden, all_but: mask.as_deref() };
        let mut space = Vec::new();
        let (adjusted, best) = sampler.adjust(logits.into(), forbidden, &mut space).unwrap();
        let kept = filters::kept(&sampler.sampling, adjusted, best.1);
        let total: f64 = kept.iter().map(|(_, weight)| f64::from(*weight)).sum();
        kept.into_iter().map(|(id, weight)| (id, f64::from(weight) / total)).collect()
    }

    /// The first token that a seed draws.
    fn draw(&self, seed: u64, logits: &[f32], mask: Option<&[u32]>) -> u32 {
        let forbidden = Forbidden { tokens: &self.forbidden, all_but: mask };
        self.sampler(seed).sample(logits, forbidden).unwrap().id
    }
}

#[test]
fn the_sampler_keeps_the_tokens_of_the_reference_with_their_probabilities() {
    let golden = Golden::read();
    assert!(golden.cases.len() >= 60);
    for (name, case, logits) in golden.cases().filter(|(_, case, _)| case.greedy.is_none()) {
        let kept = case.candidates(logits);
        assert_eq!(kept.keys().copied().collect::<Vec<_>>(), case.ids, "{name}");
        for ((id, got), expected) in kept.iter().zip(&case.probabilities) {
            let error = (got - expected).abs() / expected;
            assert!(error < 1e-5, "{name}: token {id} has {got}, the reference {expected}");
        }
    }
}

#[test]
fn greedy_takes_the_token_of_the_reference() {
    let golden = Golden::read();
    for (name, case, logits) in golden.cases() {
        let Some(expected) = case.greedy else { continue };
        let mask = case.mask(logits.len());
        for seed in 0..3 {
            assert_eq!(case.draw(seed, logits, mask.as_deref()), expected, "{name}");
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_reference() {
    for (name, logits) in Golden::read().logits {
        let of = logprobs(&logits.values, 0, logits.values.len());
        for (id, got) in of.top.into_iter().chain([(0, of.logprob)]) {
            let expected = logits.log_softmax[id as usize];
            let error = (got - expected).abs() / expected.abs().max(1.0);
            assert!(error < 1e-5, "{name}: token {id} has {got}, the reference {expected}");
        }
    }
}

/// Pearson's statistic of counts beside their probabilities, and its degrees of freedom.
fn chi_squared(counts: &BTreeMap<u32, f64>, case: &Case) -> (f64, f64) {
    let term = |count: f64, expected: f64| (count - expected).powi(2) / expected;
    let (mut statistic, mut groups) = (0.0, 0.0);
    let (mut rare, mut rare_expected) = (0.0, 0.0);
    for (id, probability) in case.ids.iter().zip(&case.probabilities) {
        let (count, expected) = (counts.get(id).unwrap_or(&0.0), probability * DRAWS as f64);
        if expected < MIN_EXPECTED {
            rare += count;
            rare_expected += expected;
        } else {
            statistic += term(*count, expected);
            groups += 1.0;
        }
    }
    if rare_expected >= MIN_EXPECTED {
        return (statistic + term(rare, rare_expected), groups);
    }
    (statistic, groups - 1.0)
}

/// A statistic with k degrees of freedom is over k + 2 √(k x) + 2 x with a probability of at most e^-x (Laurent and
/// Massart, 2000, lemma 1). With x = 12, one in three thousand right samplers would fail in one of 50 cases; the seeds
/// are fixed, so it would fail always.
#[test]
fn seeds_draw_tokens_as_often_as_the_reference_says() {
    let golden = Golden::read();
    for (name, case, logits) in golden.cases().filter(|(_, case, _)| case.greedy.is_none()) {
        let mask = case.mask(logits.len());
        let mut counts = BTreeMap::new();
        for seed in 0..DRAWS {
            *counts.entry(case.draw(seed, logits, mask.as_deref())).or_default() += 1.0;
        }
        assert!(counts.keys().all(|id| case.ids.contains(id)), "{name}: {counts:?}");
        let (statistic, freedom) = chi_squared(&counts, case);
        let x = 12.0;
        let bound = freedom + 2.0 * (freedom * x).sqrt() + 2.0 * x;
        assert!(statistic <= bound, "{name}: {statistic} is over {bound}: {counts:?}");
    }
}
