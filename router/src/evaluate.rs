//! What quantising costs: the same text through a model with plain and with quantised weights.

use std::num::NonZeroUsize;
use std::path::Path;

use guildhall_checkpoint::Checkpoint;
use guildhall_kernels::{CpuOptions, Device, Dtype, KvCache, SequenceSpan, Tensor, WeightFormat};

use crate::Error;
use crate::loading::{BLOCK_TOKENS, shape_of_blocks};
use crate::local_experts::LocalExperts;
use crate::model::{ForwardBatch, Model};
use crate::sampler::log_softmax;
use crate::tokenizer::{AddSpecial, Tokenizer};

const DTYPE: Dtype = Dtype::Bf16;
/// Rows whose logits are held at a time, of both models.
const LOGITS_AT_A_TIME: usize = 64;

/// What the matrices of a model are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// Experts.
    pub experts: WeightFormat,
    /// All others.
    pub dense: WeightFormat,
}

impl Formats {
    /// All bf16, which others are compared with.
    pub const REFERENCE: Self =
        Self { experts: WeightFormat::Plain(DTYPE), dense: WeightFormat::Plain(DTYPE) };
}

/// How well a model predicts a text, and how far its predictions are from those of its bf16 self.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// exp of the mean negative log-likelihood of the text's tokens.
    pub perplexity: f64,
    /// Mean over tokens of the Kullback-Leibler divergence KL(bf16 ‖ this), in nats.
    pub mean_divergence: f64,
    /// What 99 of 100 tokens are below.
    pub p99_divergence: f64,
    /// The share of tokens for which both think the same token the most probable.
    pub same_best: f64,
}

/// A text in windows, and the model that others are compared with.
pub struct Evaluation {
    checkpoint: Checkpoint,
    device: Device,
    windows: Vec<Vec<u32>>,
    reference: Runner,
}

impl Evaluation {
    /// Opens a model and cuts `text` into windows of `window` tokens, each predicted from its own beginning; the last one
    /// may be shorter.
    ///
    /// # Errors
    /// A model that cannot be read, a text or window of less than two tokens, or a window beyond the model's positions.
    pub fn open(model: &Path, text: &str, window: usize) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(model)?;
        let longest = checkpoint.config().max_position_embeddings;
        if !(2..=longest).contains(&window) {
            return Err(Error::Config(format!(
                "a window of {window} is not within 2 and {longest}"
            )));
        }
        let no_tokenizer = || Error::Config("the model has no tokenizer".into());
        let tokenizer = Tokenizer::open(model)?.ok_or_else(no_tokenizer)?;
        let tokens = tokenizer.encode(text, AddSpecial::No).map_err(Error::Config)?;
        let windows: Vec<Vec<u32>> =
            tokens.chunks(window).filter(|window| window.len() > 1).map(<[u32]>::to_vec).collect();
        if windows.is_empty() {
            return Err(Error::Config("a text of less than two tokens predicts nothing".into()));
        }
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let device = Device::cpu(CpuOptions::of_threads(threads))?;
        let reference = Runner::load(&checkpoint, &device, Formats::REFERENCE, window)?;
        Ok(Self { checkpoint, device, windows, reference })
    }

    /// Compares the model in these formats with its bf16 self.
    ///
    /// # Errors
    /// Formats that do not go with bf16; whatever the device refuses.
    pub fn quality(&mut self, formats: Formats) -> Result<Quality, Error> {
        for format in [formats.experts, formats.dense] {
            WeightFormat::choose(Some(format), DTYPE)?;
        }
        let window = self.windows.iter().map(Vec::len).max().unwrap_or(0);
        let mut candidate = Runner::load(&self.checkpoint, &self.device, formats, window)?;
        let mut tally = Tally::default();
        for tokens in &self.windows {
            let hidden = [self.reference.hidden(tokens)?, candidate.hidden(tokens)?];
            // The last token predicts what is not there.
            let rows: Vec<u32> = (0..tokens.len() as u32 - 1).collect();
            for rows in rows.chunks(LOGITS_AT_A_TIME) {
                let expected = self.reference.log_probabilities(&hidden[0], rows)?;
                let got = candidate.log_probabilities(&hidden[1], rows)?;
                for ((row, expected), got) in rows.iter().zip(&expected).zip(&got) {
                    tally.add(expected, got, tokens[*row as usize + 1]);
                }
            }
        }
        Ok(tally.quality())
    }
}

/// Model, experts and a cache for one window.
struct Runner {
    model: Model,
    experts: LocalExperts,
    cache: KvCache,
    blocks: Vec<u32>,
}

impl Runner {
    fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        formats: Formats,
        window: usize,
    ) -> Result<Self, Error> {
        let blocks = window.div_ceil(BLOCK_TOKENS);
        let shape = shape_of_blocks(checkpoint.config(), blocks);
        Ok(Self {
            model: Model::load(checkpoint, device, (DTYPE, formats.dense), window)?,
            experts: LocalExperts::load(checkpoint, device, formats.experts)?,
            cache: device.kv_cache(shape, DTYPE)?,
            blocks: (0..blocks as u32).collect(),
        })
    }

    /// The hidden states of all tokens of a window, [tokens, hidden].
    fn hidden(&mut self, tokens: &[u32]) -> Result<Tensor, Error> {
        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let span = SequenceSpan {
            first_row: 0,
            rows: tokens.len(),
            first_position: 0,
            blocks: &self.blocks,
        };
        let batch = ForwardBatch {
            token_ids: tokens.to_vec(),
            slots: positions.clone(),
            positions,
            sequences: vec![span],
            wants_routes: false,
        };
        Ok(self.model.forward(&[batch], &mut self.cache, &mut self.experts)?.0)
    }

    fn log_probabilities(&self, hidden: &Tensor, rows: &[u32]) -> Result<Vec<Vec<f64>>, Error> {
        let logits = self.model.logits(hidden, rows)?;
        let values = self.model.device().host(&logits);
        Ok(values.chunks_exact(logits.cols()).map(log_softmax).collect())
    }
}

/// What the tokens so far have given.
#[derive(Default)]
struct Tally {
    likelihood: f64,
    divergences: Vec<f64>,
    same_best: usize,
}

impl Tally {
    /// Adds the predictions of one token, as log-probabilities, when `token` is what came.
    fn add(&mut self, expected: &[f64], got: &[f64], token: u32) {
        self.likelihood += got[token as usize];
        let term =
            |(p, q): (&f64, &f64)| if *p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) };
        self.divergences.push(expected.iter().zip(got).map(term).sum());
        let best = |all: &[f64]| (0..all.len()).max_by(|a, b| all[*a].total_cmp(&all[*b]));
        self.same_best += usize::from(best(expected) == best(got));
    }

    fn quality(mut self) -> Quality {
        let tokens = self.divergences.len();
        let mean = |sum: f64| sum / tokens as f64;
        self.divergences.sort_by(f64::total_cmp);
        Quality {
            tokens,
            perplexity: (-mean(self.likelihood)).exp(),
            mean_divergence: mean(self.divergences.iter().sum()),
            p99_divergence: self.divergences[(tokens * 99).div_ceil(100) - 1],
            same_best: mean(self.same_best as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_agrees_with_what_is_worked_out_by_hand() {
        let ln = |p: [f64; 2]| p.map(f64::ln);
        let mut tally = Tally::default();
        tally.add(&ln([0.5, 0.5]), &ln([0.25, 0.75]), 1);
        tally.add(&ln([0.9, 0.1]), &ln([0.9, 0.1]), 0);
        let quality = tally.quality();
        assert_eq!((quality.tokens, quality.same_best), (2, 1.0));
        // 0.5 ln 2 + 0.5 ln (2/3) for the first, nothing for the second.
        let first = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((quality.mean_divergence - first / 2.0).abs() < 1e-12);
        assert!((quality.p99_divergence - first).abs() < 1e-12);
        assert!((quality.perplexity - 1.0 / (0.75f64 * 0.9).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_model_is_its_own_equal_and_quantised_it_is_near() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
        let text = "Long ago, a brave squirrel named Ned lived at the foot of a mountain. One morning, a great \
                    storm came over the hills. Ned was far from home and hid under a pile of leaves.";
        let mut evaluation = Evaluation::open(&model, text, 16).unwrap();
        let same = evaluation.quality(Formats::REFERENCE).unwrap();
        assert_eq!((same.mean_divergence, same.same_best), (0.0, 1.0));
        let all = |format| Formats { experts: format, dense: format };
        let int8 = evaluation.quality(all(WeightFormat::Int8)).unwrap();
        let int4 = evaluation.quality(all(WeightFormat::Int4)).unwrap();
        assert!(int8.mean_divergence > 0.0 && int8.mean_divergence < 0.02, "{int8:?}");
        assert!(int4.mean_divergence > int8.mean_divergence, "{int4:?}");
        let f32s = WeightFormat::Plain(Dtype::F32);
        assert!(evaluation.quality(all(f32s)).is_err());
        assert!(Evaluation::open(&model, "", 16).is_err());
        assert!(Evaluation::open(&model, text, 1).is_err());
    }
}
