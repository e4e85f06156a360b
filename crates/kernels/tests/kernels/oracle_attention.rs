//! Attention against a plain f64 computation.

use guildhall_kernels::{AttentionOptions, Device, Dtype, KvShape, SequenceSpan};
use proptest::prelude::*;

use crate::support::{DTYPES, assert_near, devices, tensor, values};

/// Sizes of one sequence and its attention.
#[derive(Clone, Copy, Debug)]
struct Case {
    tokens: usize,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    block_tokens: usize,
    window: Option<usize>,
    scale: f32,
    seed: u64,
}

impl Case {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn options(&self) -> AttentionOptions {
        AttentionOptions { heads: self.heads(), scale: self.scale, window: self.window }
    }
}

fn expected(case: &Case, dtype: Dtype) -> Vec<f64> {
    let round = |x: &f32| match dtype {
        Dtype::F32 => f64::from(*x),
        Dtype::Bf16 => half::bf16::from_f32(*x).to_f64(),
    };
    let d = case.head_dim;
    let size = case.tokens * case.kv_heads * d;
    let k: Vec<f64> = values(size, case.seed ^ 1).iter().map(round).collect();
    let v: Vec<f64> = values(size, case.seed ^ 2).iter().map(round).collect();
    let q = values(case.tokens * case.heads() * d, case.seed);
    let mut out = Vec::new();
    for (index, q) in q.chunks(d).enumerate() {
        let (row, head) = (index / case.heads(), index % case.heads() / case.group);
        let start = (row + 1).saturating_sub(case.window.unwrap_or(usize::MAX));
        let at = |position: usize| (position * case.kv_heads + head) * d;
        let score = |position: usize| {
            let k = &k[at(position)..][..d];
            f64::from(case.scale) * q.iter().zip(k).map(|(&q, k)| f64::from(q) * k).sum::<f64>()
        };
        let weights: Vec<f64> = (start..=row).map(|position| score(position).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for column in 0..d {
            let values = (start..=row).map(|position| v[at(position) + column]);
            out.push(weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / sum);
        }
    }
    out
}

fn computed(device: &Device, case: &Case, dtype: Dtype) -> Vec<f32> {
    let shape = KvShape {
        layers: 2,
        blocks: case.tokens.div_ceil(case.block_tokens),
        block_tokens: case.block_tokens,
        kv_heads: case.kv_heads,
        head_dim: case.head_dim,
    };
    let mut cache = device.kv_cache(shape, dtype).unwrap();
    assert_eq!(cache.bytes(), shape.bytes(dtype));
    let cols = case.kv_heads * case.head_dim;
    let k = tensor(device, case.tokens, cols, case.seed ^ 1);
    let v = tensor(device, case.tokens, cols, case.seed ^ 2);
    let q = tensor(device, case.tokens, case.heads() * case.head_dim, case.seed);
    // The sequence fills the blocks backwards.
    let blocks: Vec<u32> = (0..shape.blocks as u32).rev().collect();
    let slot = |p: usize| {
        blocks[p / case.block_tokens] as usize * case.block_tokens + p % case.block_tokens
    };
    let slots: Vec<u32> = (0..case.tokens).map(|position| slot(position) as u32).collect();
    device.store_kv(&mut cache, 1, &k, &v, &slots).unwrap();
    let span = SequenceSpan { first_row: 0, rows: case.tokens, first_position: 0, blocks: &blocks };
    let y = device.attention(&q, &cache, 1, &[span], &case.options()).unwrap();
    device.host(&y).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn attention_is_near_f64(
        tokens in 1usize..60,
        kv_heads in 1usize..4,
        group in 1usize..4,
        head_dim in prop_oneof![(1usize..40).prop_map(|half| 2 * half), (1usize..5).prop_map(|n| 32 * n)],
        block_tokens in prop_oneof![1usize..40, (1usize..3).prop_map(|n| 16 * n)],
        window in proptest::option::of(1usize..40),
        scale in prop::sample::select(vec![1.5f32, 0.0, -0.5]),
        seed: u64,
    ) {
        let case = Case { tokens, kv_heads, group, head_dim, block_tokens, window, scale, seed };
        for dtype in DTYPES {
            let expected = expected(&case, dtype);
            for device in devices() {
                let got = computed(&device, &case, dtype);
                let what = format!("{} {dtype} {case:?}", device.instruction_set());
                assert_near(&what, &got, &expected, 1e-5);
            }
        }
    }
}

#[test]
fn heads_wider_than_a_tile_are_right() {
    let case = Case {
        tokens: 21,
        kv_heads: 1,
        group: 2,
        head_dim: 256,
        block_tokens: 16,
        window: None,
        scale: 1.5,
        seed: 9,
    };
    for dtype in DTYPES {
        let expected = expected(&case, dtype);
        for device in devices() {
            assert_near("head_dim 256", &computed(&device, &case, dtype), &expected, 1e-5);
        }
    }
}
