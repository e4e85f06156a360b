//! What changes logits before a token is drawn: penalties on tokens that were seen, and biases.

use std::collections::{BTreeMap, BTreeSet};

use crate::request::Sampling;

/// Penalties and biases of one sequence, and the tokens they depend on.
pub(super) struct Adjustments {
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    /// Tokens of the prompt; empty unless repetition is penalised.
    prompt: BTreeSet<u32>,
    /// How often each token was generated; empty unless something is penalised.
    generated: BTreeMap<u32, u32>,
}

impl Adjustments {
    pub(super) fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let repeats = sampling.repetition_penalty != 1.0;
        Self {
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.clone(),
            prompt: prompt.iter().copied().filter(|_| repeats).collect(),
            generated: BTreeMap::new(),
        }
    }

    pub(super) fn are_none(&self) -> bool {
        !self.penalise() && self.logit_bias.is_empty()
    }

    fn penalise(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }

    /// A token was generated.
    pub(super) fn count(&mut self, token: u32) {
        if self.penalise() {
            *self.generated.entry(token).or_default() += 1;
        }
    }

    /// Adds the biases, then applies the repetition penalty (Keskar et al., CTRL, 2019), then the presence and
    /// frequency penalties as OpenAI's API defines them.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        for &(token, bias) in &self.logit_bias {
            logits[token as usize] += bias;
        }
        let only_in_prompt = self.prompt.iter().filter(|token| !self.generated.contains_key(token));
        for &token in only_in_prompt.chain(self.generated.keys()) {
            let logit = &mut logits[token as usize];
            let penalty = self.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        for (&token, &times) in &self.generated {
            let penalty = self.frequency_penalty * times as f32 + self.presence_penalty;
            logits[token as usize] -= penalty;
        }
    }
}
