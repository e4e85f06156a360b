//! A first check of a linear map, a feed-forward network and attention on every instruction set.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::num::NonZeroUsize;

use guildhall_kernels::{
    AttentionOptions, CpuOptions, Device, Dtype, InstructionSet, KvShape, SequenceSpan,
};

fn device(set: InstructionSet) -> Device {
    let threads = NonZeroUsize::new(2).unwrap();
    Device::cpu(CpuOptions { threads, instruction_set: Some(set) }).unwrap()
}

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn linear_is_near_a_naive_product() {
    for set in InstructionSet::available() {
        for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 0.05)] {
            let (m, n, k) = (5, 37, 71);
            let device = device(set);
            let (x, w) = (values(m * k, 1), values(n * k, 2));
            let weight =
                candle_core::Tensor::from_slice(&w, (n, k), &candle_core::Device::Cpu).unwrap();
            let linear = device.linear_weights(&weight, None, dtype).unwrap();
            let y = device.linear(&device.upload(&x, k).unwrap(), &linear).unwrap();
            for (i, &got) in device.host(&y).iter().enumerate() {
                let (row, column) = (i / n, i % n);
                let expected: f32 = (0..k).map(|j| x[row * k + j] * w[column * k + j]).sum();
                assert!((got - expected).abs() < tolerance, "{set} {dtype} {i} {got} {expected}");
            }
        }
    }
}

#[test]
fn attention_is_near_a_naive_softmax() {
    let (heads, kv_heads, head_dim, tokens) = (4, 2, 6, 19);
    for set in InstructionSet::available() {
        for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 0.02)] {
            for window in [None, Some(5)] {
                let device = device(set);
                let shape = KvShape { layers: 2, blocks: 9, block_tokens: 5, kv_heads, head_dim };
                let mut cache = device.kv_cache(shape, dtype).unwrap();
                let (k, v) = (
                    values(tokens * kv_heads * head_dim, 3),
                    values(tokens * kv_heads * head_dim, 4),
                );
                let q = values(tokens * heads * head_dim, 5);
                let blocks = [7u32, 2, 0, 5];
                let slots: Vec<u32> =
                    (0..tokens).map(|p| blocks[p / 5] * 5 + (p % 5) as u32).collect();
                let up = |x: &[f32], cols| device.upload(x, cols).unwrap();
                device
                    .store_kv(
                        &mut cache,
                        1,
                        &up(&k, kv_heads * head_dim),
                        &up(&v, kv_heads * head_dim),
                        &slots,
                    )
                    .unwrap();
                let span =
                    SequenceSpan { first_row: 0, rows: tokens, first_position: 0, blocks: &blocks };
                let options = AttentionOptions { heads, scale: 0.4, window };
                let y = device
                    .attention(&up(&q, heads * head_dim), &cache, 1, &[span], &options)
                    .unwrap();
                let y = device.host(&y);
                for row in 0..tokens {
                    for head in 0..heads {
                        let kv = head / 2;
                        let start = (row + 1).saturating_sub(window.unwrap_or(tokens));
                        let scores: Vec<f32> = (start..=row)
                            .map(|p| {
                                let dot: f32 = (0..head_dim)
                                    .map(|d| {
                                        q[(row * heads + head) * head_dim + d]
                                            * k[(p * kv_heads + kv) * head_dim + d]
                                    })
                                    .sum();
                                (dot * 0.4).exp()
                            })
                            .collect();
                        let sum: f32 = scores.iter().sum();
                        for d in 0..head_dim {
                            let expected: f32 = scores
                                .iter()
                                .enumerate()
                                .map(|(i, s)| {
                                    s / sum * v[((start + i) * kv_heads + kv) * head_dim + d]
                                })
                                .sum();
                            let got = y[(row * heads + head) * head_dim + d];
                            assert!(
                                (got - expected).abs() < tolerance,
                                "{set} {dtype} {window:?} row {row} head {head} {d}: {got} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}
