//! The model against the reference implementation (transformers, float32), and against itself in other batches.

use std::path::{Path, PathBuf};

use guildhall_checkpoint::Checkpoint;
use guildhall_kernels::{CpuOptions, Device, Dtype, InstructionSet, KvCache, SequenceSpan};
use serde::Deserialize;

use super::{ForwardBatch, Model};
use crate::loading::{BLOCK_TOKENS, shape_of_blocks};
use crate::local_experts::LocalExperts;

const CASES: [&str; 14] = [
    "mixtral",
    "mixtral_f16",
    "mixtral_window",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_moe_llama3",
    "qwen3_moe_fp8",
    "qwen3_moe_gptq",
    "qwen3_moe_awq",
    "qwen3_moe_packed",
    "qwen3_moe_int8",
    "qwen3_moe_tied",
    "qwen3_moe_yarn",
];
/// Blocks of the test's cache; sequences take every other one of them, from the end.
const BLOCKS: usize = 32;

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<GoldenPrompt>,
}

#[derive(Deserialize)]
struct GoldenPrompt {
    token_ids: Vec<u32>,
    last_logits: Vec<f32>,
    /// [tokens, layers, top_k]
    experts: Vec<Vec<Vec<u32>>>,
    moe_layers: Vec<u32>,
    continuation: Vec<u32>,
    continuation_logprobs: Vec<f32>,
}

fn dir(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn golden(case: &str) -> Golden {
    serde_json::from_slice(&std::fs::read(dir(case).join("golden.json")).unwrap()).unwrap()
}

/// A model, its experts and a cache: a whole engine without a scheduler.
struct Bench {
    model: Model,
    experts: LocalExperts,
    cache: KvCache,
    /// Where steps are split into two micro-batches.
    split_at: Option<usize>,
}

/// Some rows of one sequence: which tokens, from which position on, in which blocks.
struct Part<'a> {
    tokens: &'a [u32],
    first_position: usize,
    blocks: &'a [u32],
}

impl Bench {
    fn open(case: &str, dtype: Dtype, instruction_set: InstructionSet) -> Self {
        let checkpoint = Checkpoint::open(&dir(case)).unwrap();
        let options = CpuOptions {
            instruction_set: Some(instruction_set),
            ..CpuOptions::of_threads(2.try_into().unwrap())
        };
        let device = Device::cpu(options).unwrap();
        let shape = shape_of_blocks(checkpoint.config(), BLOCKS);
        Self {
            model: Model::load(&checkpoint, &device, (dtype, dtype.into()), 128).unwrap(),
            experts: LocalExperts::load(&checkpoint, &device, dtype.into()).unwrap(),
            cache: device.kv_cache(shape, dtype).unwrap(),
            split_at: None,
        }
    }

    /// One step; the logits of the last row of each part, and the experts of every row.
    fn step(&mut self, parts: &[Part<'_>]) -> (Vec<Vec<f32>>, Vec<Vec<u32>>) {
        let mut batch = ForwardBatch { wants_routes: true, ..ForwardBatch::default() };
        let mut last_rows = Vec::new();
        for part in parts {
            batch.sequences.push(SequenceSpan {
                first_row: batch.token_ids.len(),
                rows: part.tokens.len(),
                first_position: part.first_position,
                blocks: part.blocks,
            });
            for (position, token) in (part.first_position..).zip(part.tokens) {
                let block = part.blocks[position / BLOCK_TOKENS] as usize;
                batch.token_ids.push(*token);
                batch.positions.push(position as u32);
                batch.slots.push((block * BLOCK_TOKENS + position % BLOCK_TOKENS) as u32);
            }
            last_rows.push(batch.token_ids.len() as u32 - 1);
        }
        let rows = 0..batch.token_ids.len();
        let micro_batches = match self.split_at {
            Some(row) => batch.split(row.min(rows.len())).into(),
            None => vec![batch],
        };
        let out = self.model.forward(&micro_batches, &mut self.cache, &mut self.experts);
        let (hidden, routes) = out.unwrap();
        let logits = self.model.logits(&hidden, &last_rows).unwrap();
        let values = self.model.device().host(&logits);
        let logits = values.chunks_exact(logits.cols()).map(<[f32]>::to_vec).collect();
        (logits, rows.map(|row| routes.of_row(row).collect()).collect())
    }
}

/// Eight blocks for sequence `n`, not adjacent and not ascending.
fn blocks(n: u32) -> Vec<u32> {
    (0..8).rev().map(|block| block * 4 + n).collect()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.unwrap() as u32
}

fn logprob(logits: &[f32], token: u32) -> f32 {
    let best = f64::from(logits[argmax(logits) as usize]);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - best).exp()).sum();
    (f64::from(logits[token as usize]) - best - sum.ln()) as f32
}

fn assert_close(case: &str, what: &str, expected: &[f32], got: &[f32]) {
    let scale = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        let error = (expected - got).abs() / scale;
        assert!(error < 1e-4, "{case}: {what} {index}: {got}, the reference has {expected}");
    }
}

fn check_prompt(case: &str, bench: &mut Bench, prompt: &GoldenPrompt) {
    let blocks = blocks(0);
    let part = Part { tokens: &prompt.token_ids, first_position: 0, blocks: &blocks };
    let (logits, experts) = bench.step(&[part]);
    assert_close(case, "logit", &prompt.last_logits, &logits[0]);
    let expected: Vec<Vec<u32>> = prompt.experts.iter().map(|token| token.concat()).collect();
    assert_eq!(experts, expected, "{case}: chosen experts");
    let moe_layers: Vec<u32> = bench.model.config.moe_layers().map(|layer| layer.0).collect();
    assert_eq!(moe_layers, prompt.moe_layers, "{case}");

    let mut last = logits.into_iter().next().unwrap();
    let mut logprobs = Vec::new();
    for (position, expected) in (prompt.token_ids.len()..).zip(&prompt.continuation) {
        let token = argmax(&last);
        assert_eq!(token, *expected, "{case}: the token at position {position}");
        logprobs.push(logprob(&last, token));
        let part = Part { tokens: &[token], first_position: position, blocks: &blocks };
        last = bench.step(&[part]).0.remove(0);
    }
    assert_close(case, "log-probability", &prompt.continuation_logprobs, &logprobs);
}

#[test]
fn every_family_gives_the_logits_experts_and_tokens_of_the_reference() {
    for case in CASES {
        for instruction_set in InstructionSet::available() {
            let mut bench = Bench::open(case, Dtype::F32, instruction_set);
            for prompt in &golden(case).prompts {
                check_prompt(case, &mut bench, prompt);
            }
        }
    }
}

/// The logits after each of a prompt's last tokens, as bits.
fn bits(logits: &[Vec<f32>]) -> Vec<Vec<u32>> {
    logits.iter().map(|row| row.iter().map(|logit| logit.to_bits()).collect()).collect()
}

#[test]
fn batch_chunks_and_blocks_change_no_bit() {
    for case in CASES {
        let prompts = golden(case).prompts;
        let whole: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt.token_ids[..]).collect();
        let sets = InstructionSet::available();
        let both = |set| [(set, Dtype::F32), (set, Dtype::Bf16)];
        for (instruction_set, dtype) in sets.into_iter().flat_map(both) {
            let mut bench = Bench::open(case, dtype, instruction_set);
            let blocks: Vec<Vec<u32>> = (0..3).map(blocks).collect();
            let mut alone = Vec::new();
            for (tokens, blocks) in whole.iter().zip(&blocks) {
                alone.extend(bench.step(&[Part { tokens, first_position: 0, blocks }]).0);
            }
            let part =
                |n: usize| Part { tokens: whole[n], first_position: 0, blocks: &blocks[2 - n] };
            let (together, together_routes) = bench.step(&[part(2), part(0), part(1)]);
            let expected = [&alone[2], &alone[0], &alone[1]].map(Clone::clone);
            assert_eq!(bits(&together), bits(&expected), "{case} {dtype}: in a batch");

            for row in [1, 2, whole[2].len() + 3] {
                bench.split_at = Some(row);
                let (split, routes) = bench.step(&[part(2), part(0), part(1)]);
                assert_eq!(bits(&split), bits(&expected), "{case} {dtype}: in two, at row {row}");
                assert_eq!(routes, together_routes, "{case} {dtype}: in two, at row {row}");
            }
            bench.split_at = None;

            let longest = whole[2];
            for chunk in [1, 3, 16, 17] {
                let mut last = Vec::new();
                for (index, tokens) in longest.chunks(chunk).enumerate() {
                    let first_position = index * chunk;
                    let part = Part { tokens, first_position, blocks: &blocks[1] };
                    let beside = Part { tokens: whole[1], first_position: 0, blocks: &blocks[0] };
                    last = bench.step(&[beside, part]).0;
                }
                let chunked = &bits(&last)[1];
                assert_eq!(*chunked, bits(&alone)[2], "{case} {dtype}: in chunks of {chunk}");
            }
        }
    }
}
